# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``torchgeo-ekgnet bench``: speed and memory of layers and models.

Every comparison runs its arms in turn, A B A B, in one process, so that a machine that
slows down slows all of them; medians and the spread between the quartiles are given.
The floor is measured too: the peak of a large matrix product and the bandwidth of a
copy, in the same process with the same threads.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from . import models  # noqa: F401  (registers the networks)
from .layers import (
    DynamicExpertConv3d,
    GroupedConv3d,
    conv_strategy,
    expert_conv3d,
    keep_freed_memory,
)

__all__ = ['build_parser', 'main', 'run']

SECTIONS = ('layers', 'models', 'growth', 'profile', 'table')

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
        choices=SECTIONS,
        default=['layers', 'models', 'table'],
        help='layers: geometries of ekgnet_base; models: training and inference; '
        'growth: time against bands, patch and batch; profile: which operators '
        'inference spends its time in; table: parameters, multiply-adds and memory '
        'of every model',
    )
    add('--model', default='ekgnet_base_reference', help='registered model')
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
    add('--compile', action='store_true', help='add an arm with torch.compile')
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
        repeats: Measurements of each, after one call that is not counted.
        device: Where they run.
        clock: 'wall', or 'cpu' for the processor time of all threads.

    Returns:
        Median, quartiles and smallest time in seconds, by name.
    """
    now = time.process_time if clock == 'cpu' else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for function in arms.values():
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
    name = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.split(':')[1] for line in lines if line.startswith('model name')]
        name = names[0].strip() if names else name
    facts: dict[str, Any] = {
        'processor': name,
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'capability': torch.backends.cpu.get_cpu_capability(),
        'torch': str(torch.__version__),
        'python': platform.python_version(),
        'freed memory kept': keep_freed_memory(),
    }
    if device.type == 'cuda':
        facts['device'] = torch.cuda.get_device_name(device)
    return facts


# --------------------------------------------------------------------------------------
# Counting


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """Count the multiply-adds of a forward pass, of convolutions and linear layers.

    Expert convolutions count the convolution with the mixed kernel and the mixing.

    Args:
        model: The network.
        x: Its input.

    Returns:
        Multiply-adds per sample.
    """
    total = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += module.weight.numel() * (output.numel() // output.shape[-1])
            return
        weight = module.weight
        if isinstance(module, DynamicExpertConv3d):
            total += x.shape[0] * weight.numel()
            weight = weight[0]
        positions = output[0, 0].numel() if output.dim() > 2 else 1
        total += output.shape[0] * weight.numel() * positions

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, DynamicExpertConv3d)
    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return total // x.shape[0]


# --------------------------------------------------------------------------------------
# Sections


@contextlib.contextmanager
def _precision(options: argparse.Namespace, device: torch.device) -> Iterator[None]:
    """Enter the autocast that was asked for."""
    types = {'bf16': torch.bfloat16, 'fp16': torch.float16}
    if options.precision == '32':
        yield
    else:
        with torch.autocast(device.type, dtype=types[options.precision]):
            yield


def _sizes(patch: int, bands: int) -> list[tuple[int, int, int]]:
    """Sizes of the maps in the three blocks."""
    size = [(n + 1) // 2 for n in (bands, patch, patch)]
    sizes = []
    for _ in _BLOCKS:
        sizes.append((size[0], size[1], size[2]))
        size = [max(n // 2, 1) for n in size]
    return sizes


def _step(
    function: Callable[[], Tensor], inputs: list[Tensor], backward: bool
) -> Callable[[], None]:
    """Make a forward pass, or forward and backward."""
    if not backward:

        def forward() -> None:
            with torch.no_grad():
                function()

        return forward
    seen = torch.randn_like(function().detach())

    def both() -> None:
        torch.autograd.grad(function(), inputs, seen)

    return both


def bench_layers(
    options: argparse.Namespace, device: torch.device, floor: dict[str, float]
) -> list[dict[str, Any]]:
    """Time the layers of ekgnet_base, in the middle of each block.

    Args:
        options: Command-line options.
        device: Where to run.
        floor: What the machine can do.

    Returns:
        One row a layer and pass.
    """
    rows: list[dict[str, Any]] = []
    patch, bands, batch = options.patches[0], options.bands[0], options.batch
    for block, ((layers, growth, entry), size) in enumerate(
        zip(_BLOCKS, _sizes(patch, bands), strict=True)
    ):
        cin, width = entry + (layers // 2) * growth, 4 * growth
        x = torch.randn(batch, cin, *size, device=device, requires_grad=True)
        layer = DynamicExpertConv3d(cin, width, 1).to(device).eval()
        static = nn.Conv3d(cin, width, 1).to(device)
        attention = layer.attention_weights(x).detach().requires_grad_()
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
        moved = 4.0 * batch * (cin + width) * size[0] * size[1] * size[2]
        rows += _layer_rows(
            f'block {block + 1}: expert 1x1x1, {cin} to {width}, {size}',
            arms,
            (work, moved),
            (options, device, floor),
        )

        thin = torch.randn(
            batch, width, size[1], size[0], size[2], device=device, requires_grad=True
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
        moved = 4.0 * batch * (width + growth) * size[0] * size[1] * size[2]
        rows += _layer_rows(
            f'block {block + 1}: 3x3x3 groups 4, {width} to {growth}, {size}',
            grouped_arms,
            (work, moved),
            (options, device, floor),
        )
    return rows


def _layer_rows(
    name: str,
    arms: dict[str, tuple[Callable[[], Tensor], list[Tensor]]],
    cost: tuple[float, float],
    context: tuple[argparse.Namespace, torch.device, dict[str, float]],
) -> list[dict[str, Any]]:
    """Time the arms of one layer, forward and with backward."""
    options, device, floor = context
    rows = []
    for passes in ('forward', 'forward + backward'):
        times = measure(
            {
                arm: _step(function, inputs, passes != 'forward')
                for arm, (function, inputs) in arms.items()
            },
            options.repeats,
            device,
            options.clock,
        )
        factor = 1 if passes == 'forward' else 3
        limit = max(cost[0] / floor['flops'], cost[1] / floor['bytes']) * factor
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
                'share of peak': factor * cost[0] / ours / floor['flops'],
                'share of floor': limit / ours,
            }
        )
    return rows


def bench_models(
    options: argparse.Namespace, device: torch.device, floor: dict[str, float]
) -> list[dict[str, Any]]:
    """Time training and inference of the whole network.

    The arms are the network, the same network in the paper's formulation with plain
    grouped convolutions, and its static twin.

    Args:
        options: Command-line options.
        device: Where to run.
        floor: What the machine can do.

    Returns:
        One row a patch size, band count and pass.
    """
    rows = []
    for bands in options.bands:
        for patch in options.patches:
            rows += _model_rows(options, device, floor, patch, bands, options.batch)
    return rows


def bench_growth(
    options: argparse.Namespace, device: torch.device, floor: dict[str, float]
) -> list[dict[str, Any]]:
    """Time how the network grows with bands, patch and batch, one at a time.

    Args:
        options: Command-line options.
        device: Where to run.
        floor: What the machine can do.

    Returns:
        Rows as those of :func:`bench_models`.
    """
    patch, bands, batch = options.patches[0], options.bands[0], options.batch
    cases = [(patch, b, batch) for b in (bands // 4, bands // 2, bands)]
    cases += [(p, bands, batch) for p in (7, 11, 15) if p != patch]
    cases += [(patch, bands, n) for n in (max(batch // 8, 1), max(batch // 2, 1))]
    rows = []
    for case in cases:
        rows += _model_rows(options, device, floor, *case, arms=('ours',))
    return rows


def _model_rows(
    options: argparse.Namespace,
    device: torch.device,
    floor: dict[str, float],
    patch: int,
    bands: int,
    batch: int,
    arms: Sequence[str] = ('ours', 'paper', 'static'),
) -> list[dict[str, Any]]:
    """Time one network at one size."""
    torch.manual_seed(0)
    x = torch.randn(batch, bands, patch, patch, device=device)
    labels = torch.randint(0, 9, (batch,), device=device)
    options_of: dict[str, Any] = {'in_chans': bands, 'num_classes': 9}
    ours = timm.create_model(options.model, **options_of).to(device)
    networks: dict[str, tuple[nn.Module, str | None]] = {'ours': (ours, None)}
    if 'paper' in arms:
        networks['paper'] = (ours, 'grouped')
    if 'static' in arms and options.model.startswith('ekgnet'):
        twin = timm.create_model(options.model, conv_layer='conv3d', **options_of)
        networks['static'] = (twin.to(device), None)
    if options.compile:
        networks['compiled'] = (cast(nn.Module, torch.compile(ours)), None)

    def training(model: nn.Module, strategy: str | None) -> Callable[[], None]:
        def call() -> None:
            model.train()
            model.zero_grad(set_to_none=True)
            with conv_strategy(strategy), _precision(options, device):
                F.cross_entropy(model(x), labels).backward()

        return call

    def inference(model: nn.Module, strategy: str | None) -> Callable[[], None]:
        def call() -> None:
            model.eval()
            with (
                torch.inference_mode(),
                conv_strategy(strategy),
                _precision(options, device),
            ):
                model(x)

        return call

    work = 2.0 * batch * multiply_adds(ours.eval(), x[:1])
    rows = []
    for passes, make in (('training', training), ('inference', inference)):
        calls = {arm: make(*network) for arm, network in networks.items()}
        times = measure(calls, options.repeats, device, options.clock)
        memory = {arm: peak_memory(calls[arm], device) for arm in calls}
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
                'share of peak': factor * work / median / floor['flops'],
            }
        )
    return rows


def _kind(operator: str) -> str:
    """Name the kind of an operator of the profiler."""
    for kind, parts in _KINDS.items():
        if any(part in operator.lower() for part in parts):
            return kind
    return 'other operators'


def bench_profile(
    options: argparse.Namespace, device: torch.device, floor: dict[str, float]
) -> dict[str, Any]:
    """Profile inference: what stands between it and the matrix peak.

    Arithmetic is counted as it is executed, which is more than the network's own
    multiply-adds where a strategy pads or unrolls kernels. What the operators do not
    account for (Python, dispatch, the profiler itself) is a row of its own.

    Args:
        options: Command-line options.
        device: Where to run.
        floor: What the machine can do.

    Returns:
        Seconds of a pass, GFLOP needed and executed, and one row a kind of operator.
    """
    torch.manual_seed(0)
    patch, bands, batch = options.patches[0], options.bands[0], options.batch
    model = timm.create_model(options.model, in_chans=bands, num_classes=9)
    model = model.to(device).eval()
    x = torch.randn(batch, bands, patch, patch, device=device)
    useful = 2.0 * batch * multiply_adds(model, x[:1])

    with torch.no_grad(), _precision(options, device):
        with FlopCounterMode(display=False) as counter:
            model(x)
        # The allocator needs some passes before it asks for no new memory.
        for _ in range(3):
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


def model_table(
    options: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """Count parameters, multiply-adds and memory of every model.

    Args:
        options: Command-line options.
        device: Where to run.

    Returns:
        One row a model and band count.
    """
    names = options.table_models or sorted(
        name
        for name in timm.list_models()
        if timm.model_entrypoint(name).__module__.startswith(f'{__package__}.')
    )
    rows = []
    for name in names:
        for bands in options.table_bands:
            model = timm.create_model(name, in_chans=bands, num_classes=9).to(device)
            config = cast(dict[str, Any], model.pretrained_cfg)
            size = int(config['input_size'][-1])
            x = torch.randn(8, bands, size, size, device=device)
            labels = torch.zeros(8, dtype=torch.long, device=device)

            def step(
                model: nn.Module = model, x: Tensor = x, labels: Tensor = labels
            ) -> None:
                F.cross_entropy(model(x), labels).backward()

            operations = multiply_adds(model.eval(), x[:1])
            model.train()
            step()
            model.zero_grad(set_to_none=True)
            memory = peak_memory(step, device)
            rows.append(
                {
                    'model': name,
                    'bands': bands,
                    'patch': size,
                    'parameters': sum(p.numel() for p in model.parameters()),
                    'multiply-adds': operations,
                    'training bytes per patch': None if memory is None else memory / 8,
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


def report(results: dict[str, Any]) -> str:
    """Write the results as text.

    Args:
        results: What :func:`run` returns.

    Returns:
        Markdown tables.
    """
    facts = ', '.join(f'{key} {value}' for key, value in results['machine'].items())
    floor = results['floor']
    parts = [
        facts,
        (
            f'matrix peak {floor["flops"] / 1e9:.0f} GFLOP/s, '
            f'copy {floor["bytes"] / 1e9:.1f} GB/s; '
            f'times in ms ({results["clock"]} clock): median (quartiles)'
        ),
    ]
    if 'layers' in results:
        rows = [
            [
                row['layer'],
                row['pass'],
                *(
                    _milliseconds(row['seconds'][arm]) if arm in row['seconds'] else ''
                    for arm in ('ours', 'paper', 'static', 'dense', 'with mapping')
                ),
                _number(row['paper / ours']),
                _number(row['ours / static']),
                _number(row['share of peak'], '.0%'),
                _number(row['share of floor'], '.0%'),
            ]
            for row in results['layers']
        ]
        header = ['layer', 'pass', 'ours', 'paper', 'static', 'dense', 'with mapping']
        header += ['paper / ours', 'ours / static', 'of peak', 'of floor']
        parts.append(_markdown(header, rows))
    for section in ('models', 'growth'):
        if section not in results:
            continue
        arms = list(results[section][0]['seconds'])
        rows = [
            [
                f'{row["model"]} {row["pass"]}',
                f'{row["patch"]}, {row["bands"]}, {row["batch"]}',
                *(_milliseconds(row['seconds'][arm]) for arm in arms),
                _number(row['patches per second'], '.0f'),
                _number(row['paper / ours']),
                _number(row['ours / static']),
                _number(row['share of peak'], '.0%'),
                ' / '.join(
                    _number(None if value is None else value / 2**20, '.0f')
                    for value in row['peak bytes'].values()
                ),
            ]
            for row in results[section]
        ]
        header = ['model', 'patch, bands, batch', *arms, 'patches/s', 'paper / ours']
        header += ['ours / static', 'of peak', f'peak MiB: {" / ".join(arms)}']
        parts.append(_markdown(header, rows))
    if 'profile' in results:
        part = results['profile']
        parts.append(
            f'profile of {part["model"]}, inference, patch {part["patch"]}, '
            f'{part["bands"]} bands, batch {part["batch"]}: '
            f'{1e3 * part["seconds"]:.0f} ms a pass; the network needs '
            f'{part["useful flops"] / 1e9:.1f} GFLOP, '
            f'{part["executed flops"] / 1e9:.1f} GFLOP are executed'
        )
        rows = [
            [
                row['kind'],
                f'{1e3 * row["seconds"]:.1f}',
                f'{row["share"]:.0%}',
                _number(row['executed flops'] / 1e9 or None, '.1f'),
                _number(row['share of peak'], '.0%'),
            ]
            for row in part['rows']
        ]
        header = ['operators', 'ms', 'of the time', 'GFLOP', 'of peak']
        parts.append(_markdown(header, rows))
    if 'table' in results:
        rows = [
            [
                row['model'],
                str(row['bands']),
                str(row['patch']),
                f'{row["parameters"]:,}',
                f'{row["multiply-adds"] / 1e6:.1f} M',
                _number(
                    None
                    if row['training bytes per patch'] is None
                    else row['training bytes per patch'] / 2**20,
                    '.1f',
                ),
            ]
            for row in results['table']
        ]
        header = ['model', 'bands', 'patch', 'parameters', 'multiply-adds']
        parts.append(_markdown([*header, 'training MiB per patch'], rows))
    return '\n\n'.join(parts) + '\n'


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the sections that were asked for.

    Args:
        options: Parsed options.

    Returns:
        Results that JSON can hold, by section.

    Raises:
        ValueError: If the device is not there or a number is not positive.
    """
    for name in ('batch', 'repeats'):
        if getattr(options, name) < 1:
            raise ValueError(f'--{name} must be at least 1')
    device = torch.device(options.device)
    if options.clock == 'cpu' and device.type != 'cpu':
        raise ValueError('--clock cpu measures --device cpu only')
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: no CUDA device was found')
    if options.threads:
        torch.set_num_threads(options.threads)
    types = {'32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
    floor = machine_floor(device, types[options.precision], options.clock)
    results: dict[str, Any] = {
        'machine': machine_description(device),
        'precision': options.precision,
        'clock': options.clock,
        'floor': floor,
    }
    if 'layers' in options.sections:
        results['layers'] = bench_layers(options, device, floor)
    if 'models' in options.sections:
        results['models'] = bench_models(options, device, floor)
    if 'growth' in options.sections:
        results['growth'] = bench_growth(options, device, floor)
    if 'profile' in options.sections:
        results['profile'] = bench_profile(options, device, floor)
    if 'table' in options.sections:
        results['table'] = model_table(options, device)
    return results


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Arguments after the command's name; None for those of the process.
    """
    options = build_parser().parse_args(args)
    results = run(options)
    sys.stdout.write(report(results))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + '\n')
