# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Time, memory, and what the machine can do."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .._environment import machine, versions
from ..layers import direct, keep_freed_memory

__all__ = (
    'WARM_UPS',
    'forbid_tf32',
    'machine_description',
    'machine_floor',
    'measure',
    'peak_memory',
    'synchronize',
)

#: Calls before the first that counts: the allocator asks for memory until then, and
#: CUDA graphs are captured.
WARM_UPS = 3


def synchronize(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def measure(
    arms: dict[str, Callable[[], Any]],
    repeats: int,
    device: torch.device,
    clock: str = 'wall',
) -> dict[str, dict[str, float]]:
    """Time several functions in turn.

    Args:
        arms: Functions by name.
        repeats: Measurements of each, after three calls that are not counted.
        device: Where they run.
        clock: 'wall', or 'cpu' for the processor time of all threads.

    Returns:
        Median, quartiles and smallest time in seconds, by name.
    """
    now = time.process_time if clock == 'cpu' else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for function in arms.values():
        for _ in range(WARM_UPS):
            function()
    for _ in range(repeats):
        for name, function in arms.items():
            synchronize(device)
            start = now()
            function()
            synchronize(device)
            seconds[name].append(now() - start)
    result = {}
    for name, values in seconds.items():
        ordered = sorted(values)
        count = len(ordered)
        result[name] = {
            'median': statistics.median(ordered),
            'lower': ordered[count // 4],
            'upper': ordered[(3 * count) // 4 if count > 1 else 0],
            'best': ordered[0],
        }
    return result


def _resident(field: str) -> int:
    """Read a figure of this process from Linux, in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def peak_memory(function: Callable[[], Any], device: torch.device) -> int | None:
    """Measure how far a call raises the memory in use.

    On a CPU it is the growth of resident memory, after the C library has given back
    what was free; known on Linux only.

    Args:
        function: What to call.
        device: Where it runs.

    Returns:
        Bytes above the level before the call; None where it cannot be known.
    """
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if sys.platform != 'linux':
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)
        # 5 sets the high-water mark back to the present size.
        Path('/proc/self/clear_refs').write_text('5')
        before = _resident('VmRSS')
    except (AttributeError, OSError):
        return None
    function()
    return _resident('VmHWM') - before


def machine_floor(
    device: torch.device, dtype: torch.dtype, clock: str = 'wall'
) -> dict[str, float]:
    """Measure the matrix peak and the copy bandwidth.

    Args:
        device: Where to measure.
        dtype: Type of the matrices.
        clock: As for :func:`measure`.

    Returns:
        ``flops`` and ``bytes`` per second.
    """
    size = 8192 if device.type == 'cuda' else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    source = torch.randn(64 << 20, device=device)
    target = torch.empty_like(source)
    times = measure(
        {'matrix': lambda: a @ b, 'copy': lambda: target.copy_(source)},
        7,
        device,
        clock,
    )
    return {
        'flops': 2 * size**3 / times['matrix']['best'],
        # A copy reads and writes.
        'bytes': 2 * source.numel() * 4 / times['copy']['best'],
    }


def machine_description(device: torch.device) -> dict[str, Any]:
    """Describe the machine on which the times of a device are measured."""
    described = machine()
    facts: dict[str, Any] = {
        'processor': described['processor'],
        'cores': int(described['cores']),
        'threads': int(described['threads']),
        'capability': torch.backends.cpu.get_cpu_capability(),
        'torch': str(torch.__version__),
        'python': versions()['python'],
        'freed memory kept': keep_freed_memory(),
        'kernels of our own': direct.kernels() is not None,
    }
    if device.type == 'cuda':
        facts['device'] = torch.cuda.get_device_name(device)
        facts['TF32 of matrix products'] = torch.backends.cuda.matmul.allow_tf32
        facts['TF32 of convolutions'] = torch.backends.cudnn.allow_tf32
    return facts


def forbid_tf32() -> None:
    """Make precision 32 mean the same in convolutions as in the measured peak."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
