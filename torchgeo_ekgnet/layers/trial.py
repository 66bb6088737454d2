# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Of several ways to compute the same on a GPU, the one that is fastest on this one.

The first time that a geometry and type come, all ways compute them:

* a way that raises an error is given up for good;
* a way whose values differ from PyTorch's is left out for this geometry and type;
* the ways that are left are timed, and the fastest one is taken from then on.

The log tells of the first two. While a graph is captured, and where deterministic
algorithms are asked for, nothing is timed.
"""

import functools
import importlib
import logging
import math
import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

__all__ = [
    'CLOSE',
    'MOST_VALUES',
    'applies',
    'attempt',
    'choices',
    'drawn',
    'fastest',
    'has_kernels',
    'kernels',
    'rounds',
    'run',
]

#: Kinds of devices for which ways are tried.
DEVICES: tuple[str, ...] = ('cuda',)

#: What another way must spare to be taken in place of the preferred one.
GAIN = 0.1

#: Types for which ways are tried, and how far they may be from each other, as a share of
#: the largest value. Float32 may be rounded to TF32, which has the digits of float16.
CLOSE = {torch.float32: 5e-3, torch.bfloat16: 0.05, torch.float16: 0.01}

#: Values of a sample that kernels of ours count in 32 bits.
MOST_VALUES = 1 << 30

_REPEATS = 5

# How long the device is kept waiting before it is timed, in cycles of its clock: the
# least, the most (2 to 50 milliseconds), and the cycles of a second, rather too many
# than too few.
_WAIT, _LONGEST_WAIT, _CLOCK = 4_000_000, 100_000_000, 2e9

T = TypeVar('T')
Values = TypeVar('Values', Tensor, Sequence[Tensor])
Ways = Mapping[str, Callable[[], Values]]

_log = logging.getLogger(__name__)
_chosen: dict[tuple[str, Hashable], str] = {}
_broken: set[tuple[str, str]] = set()
# Ways that gave other values for some geometry, of which a line was written.
_doubted: set[tuple[str, str]] = set()


def choices() -> dict[str, str]:
    """Tell which ways were taken so far, by what is computed and its geometry."""
    return {f'{name} {key}': way for (name, key), way in _chosen.items()}


@functools.cache
def _load_kernels() -> ModuleType | None:
    """Import the kernels; None, and a line of the log, where that is not possible."""
    if os.environ.get('TORCHGEO_EKGNET_TRITON') == '0':
        return None
    try:
        return importlib.import_module('.kernels', __package__)
    except Exception as error:  # noqa: BLE001 (whatever a broken installation raises)
        _log.warning(
            "kernels: Triton is not usable here (%s); PyTorch's own run", _line(error)
        )
        return None


def applies(x: Tensor) -> bool:
    """Whether ways are tried for maps like these: real ones on the present GPU."""
    if x.device.type not in DEVICES or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    # Triton launches on the present device, wherever the maps are.
    return not x.is_cuda or x.device.index == torch.cuda.current_device()


def has_kernels(x: Tensor) -> bool:
    """Whether there are kernels for maps like these."""
    return applies(x) and _load_kernels() is not None


def kernels() -> ModuleType:
    """Return the module of kernels."""
    found = _load_kernels()
    assert found is not None
    return found


def rounds() -> tuple[bool, bool]:
    """Tell whether products, and convolutions, of float32 may round to TF32."""
    try:
        products = torch.get_float32_matmul_precision() != 'highest'
        return products, torch.backends.cudnn.allow_tf32
    except RuntimeError:  # a program that mixes PyTorch's two ways to say so
        return False, False


def give_up(name: str, way: str, reason: Exception) -> None:
    """Never take a way again.

    Args:
        name: What is computed.
        way: The way.
        reason: The error.
    """
    if (name, way) in _broken:
        return
    _broken.add((name, way))
    for key in [key for key, taken in list(_chosen.items()) if taken == way]:
        if key[0] == name:
            _chosen.pop(key, None)
    _log.warning(
        "%s: %s is not usable here (%s); PyTorch's own runs", name, way, _line(reason)
    )


def attempt(name: str, way: str, compute: Callable[[], T]) -> T | None:
    """Compute in a way; give it up, and return None, if it raises anything.

    Where the memory is too small, None is returned as well, and the way is kept.

    Args:
        name: What is computed.
        way: The way.
        compute: What computes.

    Returns:
        What it returns.
    """
    try:
        return compute()
    except torch.OutOfMemoryError:
        return None
    except Exception as error:  # noqa: BLE001 (whatever compilers and drivers raise)
        give_up(name, way, error)
        return None


def fastest(
    name: str,
    key: Hashable,
    ways: Ways[Values],
    tolerance: float,
    preferred: str | None = None,
) -> str:
    """Choose a way.

    Args:
        name: What is computed.
        key: What the choice holds for.
        ways: Ways by name, without side effects; the first is PyTorch's own.
        tolerance: By how much another may differ, as a share of the largest value.
        preferred: What is taken where nothing is timed, or nothing faster by
            :data:`GAIN`; the first by default.

    Returns:
        The name of a way that was seen to work, or of the first.
    """
    found = _chosen.get((name, key))
    if found is not None:
        return found
    if _captures():
        return next(iter(ways))
    # What checkpoints and the like do with tensors that are saved is not for a trial.
    with torch.autograd.graph.saved_tensors_hooks(Tensor.detach, Tensor.detach):
        return _tried(name, key, ways, tolerance, preferred)


def _tried(
    name: str,
    key: Hashable,
    ways: Ways[Values],
    tolerance: float,
    preferred: str | None,
) -> str:
    """Try ways and keep the choice, see :func:`fastest`."""
    first = next(iter(ways))
    # In their own type: copies in float32 would be most of what a trial needs.
    expected = [value.detach() for value in _each(ways[first]())]
    if not all(bool(value.isfinite().all()) for value in expected):
        return first
    others = [way for way in list(ways)[1:] if (name, way) not in _broken]
    good = [first]
    good += [w for w in others if _agrees(name, w, ways[w], expected, tolerance)]
    del expected
    taken = preferred if preferred in good else first
    if len(good) > 1 and not torch.are_deterministic_algorithms_enabled():
        times = _times(ways, good)
        best = min(times, key=lambda way: times[way])
        if times[best] < (1 - GAIN) * times[taken]:
            taken = best
        _log.info('%s %s: %s of %s', name, key, taken, times)
    _chosen[name, key] = taken
    return taken


def run(
    name: str,
    key: Hashable,
    ways: Ways[Values],
    tolerance: float,
    preferred: str | None = None,
) -> Values:
    """Compute in the fastest way; in PyTorch's own if that fails.

    Args:
        name: What is computed.
        key: What the choice holds for.
        ways: Ways by name, without side effects; the first is PyTorch's own.
        tolerance: See :func:`fastest`.
        preferred: See :func:`fastest`.

    Returns:
        What the ways give, a tensor or several.
    """
    way, first = fastest(name, key, ways, tolerance, preferred), next(iter(ways))
    found = None if way == first else attempt(name, way, ways[way])
    return ways[first]() if found is None else found


def drawn(like: Tensor) -> Tensor:
    """Draw values for a trial, the same ones each time.

    Of a batch whose samples are alike, normalizations leave rounding errors alone, which
    no two ways have in common.

    Args:
        like: A tensor whose shape, order in memory, type and device they have.

    Returns:
        Values of a normal distribution; no other random numbers change.
    """
    generator = torch.Generator(like.device).manual_seed(0)
    return torch.empty_like(like).normal_(generator=generator)


def _captures() -> bool:
    """Whether a graph is captured, in which nothing may be timed or compared."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _agrees(
    name: str,
    way: str,
    compute: Callable[[], Values],
    expected: Sequence[Tensor],
    tolerance: float,
) -> bool:
    """Whether a way runs and gives what is expected."""
    found = attempt(name, way, lambda: _gap(_each(compute()), expected))
    agrees = found is not None and found <= tolerance
    if found is not None and not agrees and (name, way) not in _doubted:
        _doubted.add((name, way))
        text = (
            "%s: %s is not usable here (its values differ by %.2g); PyTorch's own run"
        )
        _log.warning(text, name, way, found)
    return agrees


def _each(found: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """List what a way gives."""
    return (found,) if isinstance(found, Tensor) else found


def _gap(values: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference, as a share of the largest expected value."""
    gap = 0.0
    for value, right in zip(values, expected, strict=True):
        apart = torch.sub(value.detach(), right).abs_().max()
        share = float(apart) / max(float(right.abs().max()), 1e-20)
        if math.isnan(share):
            return share
        gap = max(gap, share)
    return gap


def _times(ways: Ways[Values], good: Sequence[str]) -> dict[str, float]:
    """Time ways; nothing is known where the memory is too small for it."""
    try:
        return {way: _seconds(ways[way]) for way in good}
    except torch.OutOfMemoryError:
        return dict.fromkeys(good, 0.0)


def _seconds(compute: Callable[[], Values]) -> float:
    """Time some calls."""
    start = time.perf_counter()
    device = _each(compute())[0].device
    queueing = _REPEATS * (time.perf_counter() - start)
    wait = min(max(_WAIT, int(_CLOCK * queueing)), _LONGEST_WAIT)
    best = float('inf')
    for _ in range(2):
        if device.type == 'cuda':
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            # Meanwhile the host queues all calls: graphs do not wait for it either.
            torch.cuda._sleep(wait)
            begin.record()
            for _ in range(_REPEATS):
                compute()
            end.record()
            end.synchronize()
            spent = begin.elapsed_time(end) / 1000
        else:
            start = time.perf_counter()
            compute()
            spent = time.perf_counter() - start
        best = min(best, spent)
    return best


def _line(error: Exception) -> str:
    """Put an error into a line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
