# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The section of the profile: what stands between inference and the matrix peak."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from .arms import Setting, random_batch
from .count import count_work, create_model
from .measure import WARM_UPS, synchronize

__all__ = ('bench_profile',)

#: Kinds of operators in a profile, by parts of their names; the first that fits counts.
_KINDS = {
    # One kind: a kernel of ours computes both for a dense layer.
    'convolutions and products': (
        *('conv', 'mm', 'matmul', 'linear', 'einsum', 'experts', 'dense'),
    ),
    'batch normalization': ('batch_norm',),
    'pooling and means': ('pool', 'mean', 'sum'),
    'concatenation': ('aten::cat',),
    'activations': ('relu', 'clamp', 'gelu', 'softmax', 'softplus'),
    'copies': ('copy', 'clone', 'contiguous', 'fill', 'zero', 'pad'),
    'element-wise arithmetic': ('aten::add', 'aten::mul', 'aten::div', 'aten::sub'),
}


def _kind(operator: str) -> str:
    """Name the kind of an operator of the profiler."""
    for kind, parts in _KINDS.items():
        if any(part in operator.lower() for part in parts):
            return kind
    return 'other operators'


def _spent(
    call: Callable[[], Any], repeats: int, device: torch.device
) -> tuple[float, dict[str, float]]:
    """Measure the seconds of a call, in all and by kind of operator."""
    for _ in range(WARM_UPS):
        call()
    synchronize(device)
    # PyTorch's profiler writes its own progress to stderr below level 6.
    os.environ.setdefault('KINETO_LOG_LEVEL', '6')
    activities = [ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronize(device)
        total = (time.perf_counter() - start) / repeats
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
        spent[kind] = spent.get(kind, 0.0) + seconds / repeats
    return total, spent


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
    x, _ = random_batch(setting, patch, bands, batch)
    useful = 2.0 * count_work(options.model, patch, bands, batch).multiply_adds

    with torch.no_grad(), setting.autocast():
        with FlopCounterMode(display=False) as counter:
            model(x)
        total, spent = _spent(lambda: model(x), options.repeats, device)
    executed: dict[str, float] = {}
    for operator, count in counter.get_flop_counts()['Global'].items():
        kind = _kind(str(operator))
        executed[kind] = executed.get(kind, 0.0) + count
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
