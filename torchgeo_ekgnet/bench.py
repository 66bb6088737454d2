# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``torchgeo-ekgnet bench``: speed and memory of layers and models.

Every comparison runs its arms in turn, A B A B, in one process, so that a machine that
slows down slows all of them; medians and the spread between the quartiles are given.
The floor is measured too: the peak of a large matrix product and the bandwidth of a
copy, in the same process with the same threads.
"""

import argparse
import ctypes
import functools
import gc
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from . import models  # noqa: F401  (registers the networks)
from ._environment import machine
from ._files import write_json
from .layers import (
    DynamicExpertConv3d,
    GroupedConv3d,
    conv_strategy,
    expert_conv3d,
    keep_freed_memory,
)

__all__ = ['build_parser', 'main', 'run']

_TYPES = {'32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

#: Modes of torch.compile and what their arms are called.
_COMPILED = {'default': 'compiled', 'reduce-overhead': 'captured'}

#: Calls before the first that counts: the allocator asks for memory until then, and
#: CUDA graphs are captured.
_WARM_UPS = 3

#: Batches of which the model table takes the slope of the memory.
_TABLE_BATCHES = (8, 40)

#: Kinds of operators in a profile, by parts of their names; the first that fits counts.
_KINDS = {
    'convolutions': ('conv',),
    'matrix products': ('mm', 'matmul', 'linear', 'einsum'),
    'batch normalization': ('batch_norm',),
    'pooling and means': ('pool', 'mean', 'sum'),
    'concatenation': ('aten::cat',),
    'activations': ('relu', 'clamp', 'gelu', 'softmax', 'softplus'),
    'copies': ('copy', 'clone', 'contiguous', 'fill', 'zero', 'pad'),
    'element-wise arithmetic': ('aten::add', 'aten::mul', 'aten::div', 'aten::sub'),
}

#: Blocks of ekgnet_base: layers, growth rate, channels at the block's entry.
_BLOCKS = ((4, 8, 16), (6, 16, 48), (8, 32, 144))


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(
        prog='torchgeo-ekgnet bench',
        description='Speed and memory of the layers and models of this package: '
        "this package's strategies, the paper's formulation and the static twin in "
        'turn, as ratios and as shares of what the machine can do.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--sections',
        nargs='+',
        choices=list(_SECTIONS),
        default=['layers', 'models', 'table'],
        help='layers: geometries of ekgnet_base; models: training and inference; '
        'growth: time against bands, patch and batch; profile: which operators '
        'inference spends its time in; data: loading a batch against a training '
        'step; table: parameters, multiply-adds and memory of every model',
    )
    add('--model', default='ekgnet_base_reference', help='model of this package')
    add('--patches', nargs='+', type=int, default=[15], help='patch sizes in pixels')
    add('--bands', nargs='+', type=int, default=[200], help='numbers of bands')
    add('--batch', type=int, default=80, help='patches in a batch')
    add('--repeats', type=int, default=5, help='measurements of each arm')
    add('--device', default='cpu', help="'cpu' or 'cuda'")
    add('--threads', type=int, default=None, help="CPU threads; PyTorch's own if unset")
    add(
        '--precision',
        choices=('32', 'bf16', 'fp16'),
        default='32',
        help='bf16 and fp16 run under autocast',
    )
    add(
        '--clock',
        choices=('wall', 'cpu'),
        default='wall',
        help='cpu: processor time instead of time; use it with --threads 1 on a '
        'machine that others load',
    )
    add(
        '--compile',
        nargs='*',
        choices=tuple(_COMPILED),
        help="add arms with torch.compile in these modes, 'default' if none is named; "
        "'reduce-overhead' captures CUDA graphs",
    )
    add('--table-bands', nargs='+', type=int, default=[103, 200], help='model table')
    add('--table-models', nargs='+', default=None, help='models of the table; all')
    add('--output', type=Path, default=None, help='JSON file to write')
    return parser


# --------------------------------------------------------------------------------------
# Measuring


def _synchronize(device: torch.device) -> None:
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
        for _ in range(_WARM_UPS):
            function()
    for _ in range(repeats):
        for name, function in arms.items():
            _synchronize(device)
            start = now()
            function()
            _synchronize(device)
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
    """Describe where the figures come from.

    Args:
        device: Where they are measured.

    Returns:
        Processor, threads, versions, allocator.
    """
    described = machine()
    facts: dict[str, Any] = {
        'processor': described['processor'],
        'cores': int(described['cores']),
        'threads': int(described['threads']),
        'capability': torch.backends.cpu.get_cpu_capability(),
        'torch': str(torch.__version__),
        'python': platform.python_version(),
        'freed memory kept': keep_freed_memory(),
    }
    if device.type == 'cuda':
        facts['device'] = torch.cuda.get_device_name(device)
        facts['TF32 of matrix products'] = torch.backends.cuda.matmul.allow_tf32
        facts['TF32 of convolutions'] = torch.backends.cudnn.allow_tf32
    return facts


def _forbid_tf32() -> None:
    """Make precision 32 mean the same in convolutions as in the measured peak."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


# --------------------------------------------------------------------------------------
# Counting


class Work(NamedTuple):
    """What a forward pass has to do.

    Attributes:
        multiply_adds: Multiply-adds of convolutions and matrix products.
        values: Values that these operations read and write.
    """

    multiply_adds: int
    values: int


class _ValueCounter(TorchDispatchMode):
    """Count the values that convolutions and matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            tensors = [t for t in (*args, out) if isinstance(t, Tensor)]
            self.total += sum(t.numel() for t in tensors)
        return out


@functools.cache
def count_work(
    name: str, patch: int, bands: int, batch: int, training: bool = False
) -> Work:
    """Count the work of a forward pass in the plain formulation, without doing it.

    Tensors without memory take the place of the real ones. No strategy pads, unrolls
    or fuses anything there, so the count is what the network needs.

    Args:
        name: Registered model of this package.
        patch: Rows and columns of a patch.
        bands: Number of bands.
        batch: Patches in the batch.
        training: Pass through the network in training mode.

    Returns:
        The work of the whole batch.

    Raises:
        ValueError: If the network cannot take such a batch.
    """
    try:
        with torch.device('meta'), torch.no_grad(), conv_strategy('grouped'):
            model = create_model(name, patch, bands).train(training)
            x = torch.empty(batch, bands, patch, patch)
            with FlopCounterMode(display=False) as counter, _ValueCounter() as values:
                model(x)
    except (RuntimeError, ValueError) as error:
        purpose = 'train on' if training else 'take'
        raise ValueError(
            f'model {name} cannot {purpose} a batch of {batch} with patches of {patch} '
            f'pixels and {bands} bands: {error}'
        ) from error
    # An operation is a multiplication or an addition.
    return Work(counter.get_total_flops() // 2, values.total)


# --------------------------------------------------------------------------------------
# Sections


class Setting(NamedTuple):
    """What all sections share.

    Attributes:
        options: Command-line options.
        device: Where to run.
        floor: What the machine can do.
    """

    options: argparse.Namespace
    device: torch.device
    floor: dict[str, float]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values that layers exchange."""
        return _TYPES[self.options.precision]

    def autocast(self) -> torch.autocast:
        """Make the autocast that was asked for.

        Returns:
            A context.
        """
        return torch.autocast(
            self.device.type, self.dtype, enabled=self.options.precision != '32'
        )

    def times(self, arms: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
        """Time functions in turn, see :func:`measure`.

        Args:
            arms: Functions by name.

        Returns:
            Times by name.
        """
        options = self.options
        return measure(arms, options.repeats, self.device, options.clock)

    def shares(self, flops: float, values: float, seconds: float) -> dict[str, float]:
        """Hold a time against the floor.

        Args:
            flops: Multiplications and additions.
            values: Values read and written.
            seconds: The time.

        Returns:
            Shares of the matrix peak, of the copy bandwidth and of the floor, which is
            the larger of the two.
        """
        peak = flops / self.floor['flops'] / seconds
        copy = values * self.dtype.itemsize / self.floor['bytes'] / seconds
        return {
            'share of peak': peak,
            'share of bandwidth': copy,
            'share of floor': max(peak, copy),
        }


def own_models() -> list[str]:
    """List the models of this package.

    Returns:
        Their registered names.
    """
    return sorted(
        name
        for name in timm.list_models()
        if timm.model_entrypoint(name).__module__.startswith(f'{__package__}.')
    )


def create_model(name: str, patch: int, bands: int, **kwargs: Any) -> nn.Module:
    """Make a network of 9 classes.

    Args:
        name: Registered model of this package.
        patch: Rows and columns of a patch.
        bands: Number of bands.
        **kwargs: Further arguments of the network.

    Returns:
        The network.
    """
    if timm.get_pretrained_cfg_value(name, 'fixed_input_size'):
        kwargs['img_size'] = patch
    return timm.create_model(name, in_chans=bands, num_classes=9, **kwargs)


def _random_batch(
    setting: Setting, patch: int, bands: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Draw patches and labels."""
    x = torch.randn(batch, bands, patch, patch, device=setting.device)
    return x, torch.randint(0, 9, (batch,), device=setting.device)


def _training_step(
    setting: Setting,
    network: nn.Module,
    batch: tuple[Tensor, Tensor],
    strategy: str | None = None,
) -> Callable[[], None]:
    """Make a training step: forward, backward and Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    x, labels = batch

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        with conv_strategy(strategy):
            with setting.autocast():
                loss = F.cross_entropy(network(x), labels)
            loss.backward()
        optimizer.step()

    return step


def _inference(
    setting: Setting,
    network: nn.Module,
    batch: tuple[Tensor, Tensor],
    strategy: str | None = None,
) -> Callable[[], None]:
    """Make a forward pass without gradients."""

    def forward() -> None:
        network.eval()
        with torch.inference_mode(), conv_strategy(strategy), setting.autocast():
            network(batch[0])

    return forward


def _sizes(patch: int, bands: int) -> list[tuple[int, int, int]]:
    """Sizes of the maps in the three blocks."""
    size = [(n + 1) // 2 for n in (bands, patch, patch)]
    sizes = []
    for _ in _BLOCKS:
        sizes.append((size[0], size[1], size[2]))
        size = [max(n // 2, 1) for n in size]
    return sizes


def _layer_pass(
    setting: Setting,
    function: Callable[[], Tensor],
    inputs: list[Tensor],
    backward: bool,
) -> Callable[[], None]:
    """Make a forward pass, or forward and backward."""
    if not backward:

        def forward() -> None:
            with torch.no_grad(), setting.autocast():
                function()

        return forward
    with torch.no_grad(), setting.autocast():
        seen = torch.randn_like(function())

    def both() -> None:
        with setting.autocast():
            out = function()
        torch.autograd.grad(out, inputs, seen)

    return both


def bench_layers(setting: Setting) -> list[dict[str, Any]]:
    """Time the layers of ekgnet_base, in the middle of each block.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a layer and pass.
    """
    rows: list[dict[str, Any]] = []
    options, device = setting.options, setting.device
    patch, bands, batch = options.patches[0], options.bands[0], options.batch
    # What a layer gets from its neighbours under autocast.
    kind: dict[str, Any] = {'device': device, 'dtype': setting.dtype}
    for block, ((layers, growth, entry), size) in enumerate(
        zip(_BLOCKS, _sizes(patch, bands), strict=True)
    ):
        cin, width = entry + (layers // 2) * growth, 4 * growth
        x = torch.randn(batch, cin, *size, **kind, requires_grad=True)
        layer = DynamicExpertConv3d(cin, width, 1).to(device).eval()
        static = nn.Conv3d(cin, width, 1).to(device)
        with torch.no_grad(), setting.autocast():
            attention = layer.attention_weights(x)
        attention.requires_grad_()
        bias = cast(Tensor, layer.bias)

        def mixed(
            strategy: str | None,
            x: Tensor = x,
            attention: Tensor = attention,
            weight: Tensor = layer.weight,
            bias: Tensor = bias,
        ) -> Tensor:
            return expert_conv3d(x, attention, weight, bias, strategy=strategy)

        experts = [x, attention, layer.weight, bias]
        twins = [x, static.weight, cast(Tensor, static.bias)]
        arms: dict[str, tuple[Callable[[], Tensor], list[Tensor]]] = {
            'ours': (lambda mixed=mixed: mixed(None), experts),  # type: ignore[misc]
            'paper': (lambda mixed=mixed: mixed('grouped'), experts),  # type: ignore[misc]
            'static': (lambda static=static, x=x: static(x), twins),  # type: ignore[misc]
            'with mapping': (
                lambda layer=layer, x=x: layer(x),  # type: ignore[misc]
                [x, *layer.parameters()],
            ),
        }
        work = 2.0 * batch * cin * width * size[0] * size[1] * size[2]
        values = batch * (cin + width) * size[0] * size[1] * size[2]
        rows += _layer_rows(
            f'block {block + 1}: expert 1x1x1, {cin} to {width}, {size}',
            arms,
            (work, values),
            setting,
        )

        thin = torch.randn(
            batch, width, size[1], size[0], size[2], **kind, requires_grad=True
        )
        fast = GroupedConv3d(
            width, growth, 3, padding=1, groups=4, bias=False, rows_first=True
        ).to(device)
        plain = nn.Conv3d(width, growth, 3, padding=1, groups=4, bias=False).to(device)
        dense = nn.Conv3d(width, growth, 3, padding=1, bias=False).to(device)
        grouped_arms: dict[str, tuple[Callable[[], Tensor], list[Tensor]]] = {
            'ours': (
                lambda fast=fast, thin=thin: fast(thin),  # type: ignore[misc]
                [thin, fast.weight],
            ),
            'paper': (
                lambda plain=plain, thin=thin: plain(thin),  # type: ignore[misc]
                [thin, plain.weight],
            ),
            'dense': (
                lambda dense=dense, thin=thin: dense(thin),  # type: ignore[misc]
                [thin, dense.weight],
            ),
        }
        work = 2.0 * batch * width // 4 * growth * 27 * size[0] * size[1] * size[2]
        values = batch * (width + growth) * size[0] * size[1] * size[2]
        rows += _layer_rows(
            f'block {block + 1}: 3x3x3 groups 4, {width} to {growth}, {size}',
            grouped_arms,
            (work, values),
            setting,
        )
    return rows


def _layer_rows(
    name: str,
    arms: dict[str, tuple[Callable[[], Tensor], list[Tensor]]],
    cost: tuple[float, float],
    setting: Setting,
) -> list[dict[str, Any]]:
    """Time the arms of one layer, forward and with backward."""
    rows = []
    for passes in ('forward', 'forward + backward'):
        times = setting.times(
            {
                arm: _layer_pass(setting, function, inputs, passes != 'forward')
                for arm, (function, inputs) in arms.items()
            }
        )
        factor = 1 if passes == 'forward' else 3
        ours = times['ours']['median']
        rows.append(
            {
                'layer': name,
                'pass': passes,
                'seconds': times,
                'paper / ours': times['paper']['median'] / ours,
                'ours / static': (
                    ours / times['static']['median'] if 'static' in times else None
                ),
                **setting.shares(factor * cost[0], factor * cost[1], ours),
            }
        )
    return rows


def _model_sizes(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Patch, bands and batch of every case of the sections 'models' and 'data'."""
    sizes = product(options.bands, options.patches)
    return [(patch, bands, options.batch) for bands, patch in sizes]


def bench_models(setting: Setting) -> list[dict[str, Any]]:
    """Time training and inference of the whole network.

    The arms are the network, the same network in the paper's formulation with plain
    grouped convolutions, its static twin, the network with gradient checkpointing (in
    training) and the compiled network.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a patch size, band count and pass.
    """
    rows = []
    for size in _model_sizes(setting.options):
        rows += _model_rows(setting, *size)
    return rows


def _growth_sizes(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Patch, bands and batch of every case of the section 'growth', each once."""
    patch, bands, batch = options.patches[0], options.bands[0], options.batch
    sizes = [(patch, max(b, 1), batch) for b in (bands // 4, bands // 2, bands)]
    sizes += [(p, bands, batch) for p in (7, 11, 15)]
    # Batch normalization needs more than one value a channel.
    sizes += [(patch, bands, max(n, min(batch, 2))) for n in (batch // 8, batch // 2)]
    return list(dict.fromkeys(sizes))


def bench_growth(setting: Setting) -> list[dict[str, Any]]:
    """Time how the network grows with bands, patch and batch, one at a time.

    Args:
        setting: Options, device and floor.

    Returns:
        Rows as those of :func:`bench_models`.
    """
    rows = []
    for size in _growth_sizes(setting.options):
        rows += _model_rows(setting, *size, ours_only=True)
    return rows


def _networks(
    setting: Setting, patch: int, bands: int, ours_only: bool
) -> dict[str, tuple[nn.Module, str | None]]:
    """Make the network of every arm, with the strategy that it is forced to take."""
    options, device = setting.options, setting.device
    ours = create_model(options.model, patch, bands).to(device)
    networks: dict[str, tuple[nn.Module, str | None]] = {'ours': (ours, None)}
    if ours_only:
        return networks
    networks['paper'] = (ours, 'grouped')
    if options.model.startswith('ekgnet'):
        twin = create_model(options.model, patch, bands, conv_layer='conv3d')
        networks['static'] = (twin.to(device), None)
    checkpointed = create_model(options.model, patch, bands).to(device)
    cast(Any, checkpointed).set_grad_checkpointing()
    networks['checkpointed'] = (checkpointed, None)
    if options.compile is not None:
        # What was compiled for other sizes counts against a limit of recompilations.
        torch.compiler.reset()
        for mode in options.compile or ['default']:
            compiled = cast(nn.Module, torch.compile(ours, mode=mode))
            networks[_COMPILED[mode]] = (compiled, None)
    return networks


def _model_calls(
    setting: Setting, patch: int, bands: int, batch: int, ours_only: bool = False
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Make the training step and the forward pass of every arm, by pass and arm."""
    torch.manual_seed(0)
    samples = _random_batch(setting, patch, bands, batch)
    networks = _networks(setting, patch, bands, ours_only)
    return {
        passes: {
            arm: make(setting, network, samples, strategy)
            for arm, (network, strategy) in networks.items()
            # Without gradients there is nothing to recompute.
            if arm != 'checkpointed' or passes == 'training'
        }
        for passes, make in (('training', _training_step), ('inference', _inference))
    }


def peak_alone(
    options: argparse.Namespace, size: tuple[int, int, int], passes: str, arm: str
) -> int | None:
    """Measure the peak of one arm on a CPU, in a process in which nothing else ran.

    Args:
        options: Command-line options.
        size: Patch, bands and batch.
        passes: 'training' or 'inference'.
        arm: The arm.

    Returns:
        The median of some calls, see :func:`peak_memory`.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device('cpu')
    call = _model_calls(Setting(options, device, {}), *size)[passes][arm]
    for _ in range(_WARM_UPS):
        call()
    peaks = [peak_memory(call, device) for _ in range(options.repeats)]
    known = [peak for peak in peaks if peak is not None]
    return int(statistics.median(known)) if known else None


def peaks_apart(
    setting: Setting,
    size: tuple[int, int, int],
    passes: str,
    arms: dict[str, Callable[[], Any]],
) -> dict[str, int | None]:
    """Measure the peak of every arm, on a CPU each in a new process.

    What one arm leaves in the heap of the C library moves the peak of the next by a
    tenth. The counters of CUDA are exact in any process.

    Args:
        setting: Options, device and floor.
        size: Patch, bands and batch.
        passes: 'training' or 'inference'.
        arms: What the arms call, by name.

    Returns:
        Bytes by arm, see :func:`peak_memory`.
    """
    if setting.device.type != 'cpu':
        return {arm: peak_memory(call, setting.device) for arm, call in arms.items()}
    with ProcessPoolExecutor(
        1,
        multiprocessing.get_context('spawn'),
        keep_freed_memory,
        max_tasks_per_child=1,
    ) as pool:
        return {
            arm: pool.submit(peak_alone, setting.options, size, passes, arm).result()
            for arm in arms
        }


def _model_rows(
    setting: Setting, patch: int, bands: int, batch: int, ours_only: bool = False
) -> list[dict[str, Any]]:
    """Time one network at one size."""
    options = setting.options
    work = count_work(options.model, patch, bands, batch, training=True)
    rows = []
    calls = _model_calls(setting, patch, bands, batch, ours_only)
    for passes, arms in calls.items():
        times = setting.times(arms)
        memory = peaks_apart(setting, (patch, bands, batch), passes, arms)
        median = times['ours']['median']
        factor = 3 if passes == 'training' else 1
        rows.append(
            {
                'model': options.model,
                'pass': passes,
                'patch': patch,
                'bands': bands,
                'batch': batch,
                'seconds': times,
                'peak bytes': memory,
                'patches per second': batch / median,
                'paper / ours': (
                    times['paper']['median'] / median if 'paper' in times else None
                ),
                'ours / static': (
                    median / times['static']['median'] if 'static' in times else None
                ),
                **setting.shares(
                    factor * 2 * work.multiply_adds, factor * work.values, median
                ),
            }
        )
    return rows


def bench_data(setting: Setting) -> list[dict[str, Any]]:
    """Time loading against training: positions, gathered patches, transfer.

    The batches are those of the built-in synthetic scene, 145 by 145 pixels.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a patch size and band count.
    """
    # torchgeo takes seconds to import; the other sections do without.
    from .datamodules import SyntheticSceneDataModule
    from .datasets import RandomSplit

    options, device = setting.options, setting.device
    rows = []
    for patch, bands, batch in _model_sizes(options):
        torch.manual_seed(0)
        data = SyntheticSceneDataModule(
            rows=145,
            cols=145,
            num_bands=bands,
            num_classes=9,
            patch_size=patch,
            batch_size=batch,
            split=RandomSplit(0.5, 0.05),
        )
        data.setup('fit')

        def batches(data: SyntheticSceneDataModule = data) -> Iterator[Any]:
            while True:
                for positions in data.train_dataloader():
                    yield data.transfer_batch_to_device(positions, device, 0)

        loaded = batches()
        network = create_model(options.model, patch, bands).to(device)
        first = next(loaded)
        step = _training_step(setting, network, (first['image'], first['label']))
        times = setting.times(
            {'data': functools.partial(next, loaded), 'training': step}
        )
        rows.append(
            {
                'model': options.model,
                'patch': patch,
                'bands': bands,
                'batch': batch,
                'seconds': times,
                'data / training': (
                    times['data']['median'] / times['training']['median']
                ),
            }
        )
    return rows


def _kind(operator: str) -> str:
    """Name the kind of an operator of the profiler."""
    for kind, parts in _KINDS.items():
        if any(part in operator.lower() for part in parts):
            return kind
    return 'other operators'


def bench_profile(setting: Setting) -> dict[str, Any]:
    """Profile inference: what stands between it and the matrix peak.

    Arithmetic is counted as it is executed, which is more than the network's own
    multiply-adds where a strategy pads or unrolls kernels. What the operators do not
    account for (Python, dispatch, the profiler itself) is a row of its own.

    Args:
        setting: Options, device and floor.

    Returns:
        Seconds of a pass, GFLOP needed and executed, and one row a kind of operator.
    """
    torch.manual_seed(0)
    options, device, floor = setting
    patch, bands, batch = options.patches[0], options.bands[0], options.batch
    model = create_model(options.model, patch, bands).to(device).eval()
    x, _ = _random_batch(setting, patch, bands, batch)
    useful = 2.0 * count_work(options.model, patch, bands, batch).multiply_adds

    with torch.no_grad(), setting.autocast():
        with FlopCounterMode(display=False) as counter:
            model(x)
        for _ in range(_WARM_UPS):
            model(x)
        _synchronize(device)
        # PyTorch's profiler writes its own progress to stderr below level 6.
        os.environ.setdefault('KINETO_LOG_LEVEL', '6')
        activities = [ProfilerActivity.CPU]
        if device.type == 'cuda':
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as profiler:
            start = time.perf_counter()
            for _ in range(options.repeats):
                model(x)
            _synchronize(device)
            total = (time.perf_counter() - start) / options.repeats

    executed: dict[str, float] = {}
    for operator, count in counter.get_flop_counts()['Global'].items():
        kind = _kind(str(operator))
        executed[kind] = executed.get(kind, 0.0) + count
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        if event.device_type.name != 'CPU':
            continue  # a kernel, whose time its operator has already
        seconds = (
            event.self_device_time_total
            if device.type == 'cuda'
            else event.self_cpu_time_total
        ) / 1e6
        kind = _kind(event.key)
        spent[kind] = spent.get(kind, 0.0) + seconds / options.repeats
    rows = [
        {
            'kind': kind,
            'seconds': seconds,
            'share': seconds / total,
            'executed flops': executed.get(kind, 0.0),
            'share of peak': executed.get(kind, 0.0) / seconds / floor['flops']
            if executed.get(kind) and seconds
            else None,
        }
        for kind, seconds in sorted(spent.items(), key=lambda item: -item[1])
    ]
    outside = total - sum(spent.values())
    rows.append(
        {
            'kind': 'outside operators',
            'seconds': outside,
            'share': outside / total,
            'executed flops': 0.0,
            'share of peak': None,
        }
    )
    return {
        'model': options.model,
        'patch': patch,
        'bands': bands,
        'batch': batch,
        'seconds': total,
        'useful flops': useful,
        'executed flops': sum(executed.values()),
        'rows': rows,
    }


def _usual_patch(name: str) -> int:
    """Look up the patch size of a model's configuration."""
    size = timm.get_pretrained_cfg_value(name, 'input_size')
    return cast(tuple[int, int, int], size)[-1]


def _training_peak(
    setting: Setting, network: nn.Module, batch: tuple[Tensor, Tensor]
) -> int | None:
    """Measure the peak of a training step, its gradients included.

    The state of the optimizer appears in the first call and stays; fragments of freed
    memory only add. So the smallest of some measurements is taken.
    """
    step = _training_step(setting, network, batch)
    peaks = []
    for _ in range(_WARM_UPS):
        network.zero_grad()
        peaks.append(peak_memory(step, setting.device))
    return min((peak for peak in peaks if peak is not None), default=None)


def model_table(setting: Setting) -> list[dict[str, Any]]:
    """Count parameters, multiply-adds and memory of every model.

    Two batches part the memory of a training step into what every patch adds and what
    is there for any batch: gradients and the workspaces of operators.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a model and band count.
    """
    options = setting.options
    small, large = _TABLE_BATCHES
    rows = []
    for name, bands in product(
        options.table_models or own_models(), options.table_bands
    ):
        patch = _usual_patch(name)
        network = create_model(name, patch, bands).to(setting.device)
        peaks = [
            _training_peak(
                setting, network, _random_batch(setting, patch, bands, batch)
            )
            for batch in _TABLE_BATCHES
        ]
        slope = rest = None
        if peaks[0] is not None and peaks[1] is not None:
            slope = (peaks[1] - peaks[0]) / (large - small)
            rest = peaks[0] - small * slope
        rows.append(
            {
                'model': name,
                'bands': bands,
                'patch': patch,
                'parameters': sum(p.numel() for p in network.parameters()),
                'multiply-adds': count_work(name, patch, bands, 1).multiply_adds,
                'training bytes per patch': slope,
                'training bytes besides': rest,
            }
        )
    return rows


# --------------------------------------------------------------------------------------
# Reporting


def _milliseconds(times: dict[str, float]) -> str:
    """Write a time with its spread."""
    low, high = 1e3 * times['lower'], 1e3 * times['upper']
    return f'{1e3 * times["median"]:.1f} ({low:.1f}-{high:.1f})'


def _number(value: float | None, form: str = '.2f') -> str:
    """Write a figure that may be missing."""
    return '' if value is None else format(value, form)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table whose columns are aligned."""
    widths = [
        max(len(str(row[column])) for row in [header, *rows])
        for column in range(len(header))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) for c, w in zip(cells, widths, strict=True)]
        return '| ' + ' | '.join(padded) + ' |'

    rule = '|' + '|'.join('-' * (width + 2) for width in widths) + '|'
    return '\n'.join([line(header), rule, *map(line, rows)])


def _mebibytes(value: float | None, form: str = '.0f') -> str:
    """Write an amount of memory that may be missing."""
    return _number(None if value is None else value / 2**20, form)


def _heading(results: dict[str, Any]) -> str:
    """Write where the figures come from."""
    facts = ', '.join(f'{key} {value}' for key, value in results['machine'].items())
    floor = results['floor']
    return (
        f'{facts}\n\n'
        f'matrix peak {floor["flops"] / 1e9:.0f} GFLOP/s, '
        f'copy {floor["bytes"] / 1e9:.1f} GB/s; '
        f'precision {results["precision"]}; '
        f'times in ms ({results["clock"]} clock): median (quartiles)'
    )


def _arms(rows: list[dict[str, Any]]) -> list[str]:
    """List the arms of all rows, each once."""
    return list(dict.fromkeys(arm for row in rows for arm in row['seconds']))


def _layers_text(rows: list[dict[str, Any]]) -> str:
    """Write the table of layers."""
    arms = ('ours', 'paper', 'static', 'dense', 'with mapping')
    cells = [
        [
            row['layer'],
            row['pass'],
            *(
                _milliseconds(row['seconds'][arm]) if arm in row['seconds'] else ''
                for arm in arms
            ),
            _number(row['paper / ours']),
            _number(row['ours / static']),
            _number(row['share of peak'], '.0%'),
            _number(row['share of bandwidth'], '.0%'),
            _number(row['share of floor'], '.0%'),
        ]
        for row in rows
    ]
    header = ['layer', 'pass', *arms, 'paper / ours', 'ours / static', 'of peak']
    return _markdown([*header, 'of copy', 'of floor'], cells)


def _size_text(row: dict[str, Any]) -> str:
    """Write patch size, bands and batch."""
    return f'{row["patch"]}, {row["bands"]}, {row["batch"]}'


def _models_text(rows: list[dict[str, Any]]) -> str:
    """Write the table of networks."""
    arms = _arms(rows)
    cells = [
        [
            f'{row["model"]} {row["pass"]}',
            _size_text(row),
            *(
                _milliseconds(row['seconds'][arm]) if arm in row['seconds'] else ''
                for arm in arms
            ),
            _number(row['patches per second'], '.0f'),
            _number(row['paper / ours']),
            _number(row['ours / static']),
            _number(row['share of peak'], '.0%'),
            _number(row['share of bandwidth'], '.0%'),
            _number(row['share of floor'], '.0%'),
            ' / '.join(_mebibytes(value) for value in row['peak bytes'].values()),
        ]
        for row in rows
    ]
    header = ['model', 'patch, bands, batch', *arms, 'patches/s', 'paper / ours']
    header += ['ours / static', 'of peak', 'of copy', 'of floor']
    return _markdown([*header, f'peak MiB: {" / ".join(arms)}'], cells)


def _profile_text(part: dict[str, Any]) -> str:
    """Write the profile."""
    cells = [
        [
            row['kind'],
            f'{1e3 * row["seconds"]:.1f}',
            f'{row["share"]:.0%}',
            _number(row['executed flops'] / 1e9 or None, '.1f'),
            _number(row['share of peak'], '.0%'),
        ]
        for row in part['rows']
    ]
    return (
        f'profile of {part["model"]}, inference, patch {part["patch"]}, '
        f'{part["bands"]} bands, batch {part["batch"]}: '
        f'{1e3 * part["seconds"]:.0f} ms a pass; the network needs '
        f'{part["useful flops"] / 1e9:.1f} GFLOP, '
        f'{part["executed flops"] / 1e9:.1f} GFLOP are executed\n\n'
    ) + _markdown(['operators', 'ms', 'of the time', 'GFLOP', 'of peak'], cells)


def _data_text(rows: list[dict[str, Any]]) -> str:
    """Write the table of the data path."""
    cells = [
        [
            row['model'],
            _size_text(row),
            *(_milliseconds(row['seconds'][arm]) for arm in ('data', 'training')),
            f'{row["data / training"]:.1%}',
        ]
        for row in rows
    ]
    header = ['model', 'patch, bands, batch', 'data', 'training', 'data / training']
    return _markdown(header, cells)


def _table_text(rows: list[dict[str, Any]]) -> str:
    """Write the model table."""
    cells = [
        [
            row['model'],
            str(row['bands']),
            str(row['patch']),
            f'{row["parameters"]:,}',
            f'{row["multiply-adds"] / 1e6:.1f} M',
            _mebibytes(row['training bytes per patch'], '.1f'),
            _mebibytes(row['training bytes besides']),
        ]
        for row in rows
    ]
    header = ['model', 'bands', 'patch', 'parameters', 'multiply-adds']
    return _markdown([*header, 'training MiB per patch', 'MiB besides'], cells)


#: Sections in the order in which they run: what measures and what writes the table.
_SECTIONS: dict[str, tuple[Callable[[Setting], Any], Callable[[Any], str]]] = {
    'layers': (bench_layers, _layers_text),
    'models': (bench_models, _models_text),
    'growth': (bench_growth, _models_text),
    'profile': (bench_profile, _profile_text),
    'data': (bench_data, _data_text),
    'table': (model_table, _table_text),
}


# --------------------------------------------------------------------------------------
# The command


def _check_device(options: argparse.Namespace) -> torch.device:
    """Find the device that was asked for."""
    try:
        device = torch.device(options.device)
    except RuntimeError:
        device = torch.device('meta')
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(f"--device must be 'cpu' or 'cuda', found {options.device!r}")
    if options.clock == 'cpu' and device.type != 'cpu':
        raise ValueError('--clock cpu measures --device cpu only')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'--device {device}: no such CUDA device was found')
    return device


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what a section would fail at, before anything is measured."""
    for name in ('batch', 'repeats', 'threads', 'patches', 'bands', 'table_bands'):
        value = getattr(options, name)
        numbers = value if isinstance(value, list) else [value]
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError(
                f'--{name.replace("_", "-")} must be at least 1, found {min(numbers)}'
            )
    known = own_models()
    for flag, names in (
        ('--model', [options.model]),
        ('--table-models', options.table_models or []),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f'{flag}: no model {unknown[0]!r} in this package, expected one of '
                f'{", ".join(known)}'
            )
    sections, batch = options.sections, options.batch
    if 'data' in sections and any(patch % 2 == 0 for patch in options.patches):
        raise ValueError(
            f'--patches must be odd for the section data, found {options.patches}'
        )
    sizes = []
    if 'models' in sections or 'data' in sections:
        sizes += _model_sizes(options)
    if 'growth' in sections:
        sizes += _growth_sizes(options)
    for size in sizes:
        count_work(options.model, *size, training=True)
    if 'profile' in sections:
        count_work(options.model, options.patches[0], options.bands[0], batch)
    if 'table' in sections:
        for name in options.table_models or known:
            for bands in options.table_bands:
                count_work(name, _usual_patch(name), bands, 1)
    if options.output is not None:
        try:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.open('a').close()
        except OSError as error:
            raise ValueError(f'--output: cannot write this file: {error}') from None


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the sections that were asked for.

    When a section is done, its table is printed and the JSON file holds its results.

    Args:
        options: Parsed options.

    Returns:
        Results that JSON can hold, by section.

    Raises:
        ValueError: If an option cannot be met; nothing has been measured then.
    """
    device = _check_device(options)
    _check_options(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == 'cuda':
        _forbid_tf32()
    floor = machine_floor(device, _TYPES[options.precision], options.clock)
    results: dict[str, Any] = {
        'machine': machine_description(device),
        'precision': options.precision,
        'clock': options.clock,
        'floor': floor,
    }
    setting = Setting(options, device, floor)
    sys.stdout.write(_heading(results) + '\n')
    sys.stdout.flush()
    for name, (bench, text) in _SECTIONS.items():
        if name not in options.sections:
            continue
        results[name] = bench(setting)
        sys.stdout.write(f'\n{text(results[name])}\n')
        sys.stdout.flush()
        if options.output is not None:
            write_json(options.output, results)
    return results


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Arguments after the command's name; None for those of the process.
    """
    run(build_parser().parse_args(args))
