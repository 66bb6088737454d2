# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The kernels of ``_direct.c`` as operators of PyTorch, ``torch.ops.torchgeo_ekgnet``.

So profilers, counters and tensors without values know them. Only :mod:`.direct` calls
them, with what they need: float32 on the CPU, each sample contiguous.
"""

import functools
import importlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

__all__ = ['kernels', 'operators']


@functools.cache
def kernels() -> ModuleType | None:
    """Import the kernels; None where there are none for this processor."""
    if os.environ.get('TORCHGEO_EKGNET_DIRECT') == '0':
        return None
    if not torch.backends.cpu.get_cpu_capability().startswith('AVX'):
        return None
    try:
        importlib.import_module('._mapping', __package__)  # see mapped_cpu.py
        return importlib.import_module('._direct', __package__)
    except ImportError:
        return None


def _call(name: str, *arguments: Tensor | float | None) -> None:
    """Call a kernel on PyTorch's threads: it takes addresses, 0 for None, and numbers."""
    plain = [a.data_ptr() if isinstance(a, Tensor) else a or 0 for a in arguments]
    getattr(kernels(), name)(*plain, torch.get_num_threads())


def _taps(shape: Sequence[int]) -> int:
    """Count the taps of a 3x3x3 kernel that lie inside maps (B, C, D, H, W)."""
    return (3 * shape[2] - 2) * (3 * shape[3] - 2) * (3 * shape[4] - 2)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, out: Tensor
) -> None:
    """Convolve (B, Cin, D, H, W), padded by 1, with (Cout, Cin/groups, 3, 3, 3)."""
    sizes = x.shape[0], groups, weight.shape[1], weight.shape[0] // groups, *x.shape[2:]
    _call('conv', x, x.stride(0), weight, bias, out, out.stride(0), *sizes)


def _convolve_grad(x: Tensor, grad: Tensor, groups: int, out: Tensor) -> None:
    """Sum the gradient of the kernels, (Cout, Cin/groups, 3, 3, 3)."""
    sizes = x.shape[0], groups, out.shape[1], out.shape[0] // groups, *x.shape[2:]
    _call('conv_grad', x, x.stride(0), grad, grad.stride(0), out, *sizes)


def _experts(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    out: Tensor,
) -> None:
    """Mix experts (K, Cout, Cin) for each sample and apply them to (B, Cin, D, H, W)."""
    sizes = x.shape[0], *weight.shape, x[0, 0].numel()
    _call('experts', x, x.stride(0), attention, weight, bias, out, *sizes, relu)


def _dense(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shift: Tensor,
    taps: Tensor,
    groups: int,
    out: Tensor,
) -> None:
    """Apply experts and ReLU, then convolve with (Cout', Cout/groups, 3, 3, 3)."""
    given = attention, weight, bias, shift, taps
    sizes = x.shape[0], *weight.shape, groups, taps.shape[0] // groups, *x.shape[2:]
    _call('dense', x, x.stride(0), *given, out, out.stride(0), *sizes)


def _experts_grad(
    x: Tensor,
    grad: Tensor,
    attention: Tensor,
    weight: Tensor,
    out_attention: Tensor,
    out_weight: Tensor,
) -> None:
    """Sum the gradients of mixing weights and experts."""
    maps = x, x.stride(0), grad, grad.stride(0)
    sizes = x.shape[0], *weight.shape, x[0, 0].numel()
    _call('experts_grad', *maps, attention, weight, out_attention, out_weight, *sizes)


def _experts_norm(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    out: Tensor,
    out_normed: Tensor,
    out_mean: Tensor,
    out_variance: Tensor,
) -> None:
    """Apply experts, normalize by the batch's statistics, set negatives to zero."""
    given = attention, weight, bias, scale, shift, eps
    found = out, out_normed, out_mean, out_variance
    sizes = x.shape[0], *weight.shape, x[0, 0].numel()
    _call('experts_norm', x, x.stride(0), *given, *found, *sizes)


def _experts_norm_grad(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    attention: Tensor,
    weight: Tensor,
    turned: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    out: Tensor,
    out_attention: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    out_scale: Tensor,
    out_shift: Tensor,
) -> None:
    """Compute the gradients of all that was given to the operator before."""
    maps = grad, grad.stride(0), x, x.stride(0), y
    given = attention, weight, turned, bias, scale, shift, mean, variance, eps
    found = out, out_attention, out_weight, out_bias, out_scale, out_shift
    sizes = x.shape[0], *weight.shape, x[0, 0].numel()
    _call('experts_norm_grad', *maps, *given, *found, *sizes)


_library = torch.library.Library('torchgeo_ekgnet', 'FRAGMENT')
_SCHEMAS = {
    _convolve: 'Tensor x, Tensor weight, Tensor? bias, int groups, Tensor(a!) out',
    _convolve_grad: 'Tensor x, Tensor grad, int groups, Tensor(a!) out',
    _experts: """Tensor x, Tensor attention, Tensor weight, Tensor? bias, bool relu,
        Tensor(a!) out""",
    _dense: """Tensor x, Tensor attention, Tensor weight, Tensor? bias, Tensor shift,
        Tensor taps, int groups, Tensor(a!) out""",
    _experts_grad: """Tensor x, Tensor grad, Tensor attention, Tensor weight,
        Tensor(a!) out_attention, Tensor(b!) out_weight""",
    _experts_norm: """Tensor x, Tensor attention, Tensor weight, Tensor? bias,
        Tensor scale, Tensor shift, float eps, Tensor(a!) out, Tensor(b!) out_normed,
        Tensor(c!) out_mean, Tensor(d!) out_variance""",
    _experts_norm_grad: """Tensor grad, Tensor x, Tensor y, Tensor attention,
        Tensor weight, Tensor turned, Tensor? bias, Tensor scale, Tensor shift,
        Tensor mean, Tensor variance, float eps, Tensor(a!) out,
        Tensor(b!) out_attention, Tensor(c!) out_weight, Tensor(d!)? out_bias,
        Tensor(e!) out_scale, Tensor(f!) out_shift""",
}
for _kernel, _schema in _SCHEMAS.items():
    _name = f'direct{_kernel.__name__}'
    _library.define(f'{_name}({_schema}) -> ()')
    _library.impl(_name, _kernel, 'CPU')
    _library.impl(_name, lambda *_: None, 'Meta')

operators: Any = torch.ops.torchgeo_ekgnet


@register_flop_formula(operators.direct_convolve)
def _convolve_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Count what the kernel multiplies and adds: taps inside alone."""
    return 2 * x[0] * weight[0] * weight[1] * _taps(x)


@register_flop_formula(operators.direct_convolve_grad)
def _convolve_grad_flops(
    x: Sequence[int], grad: Sequence[int], groups: int, *_: Any, **__: Any
) -> int:
    """Count what the kernel multiplies and adds."""
    return 2 * x[0] * x[1] * (grad[1] // groups) * _taps(x)


@register_flop_formula(operators.direct_experts)
def _experts_flops(
    x: Sequence[int],
    attention: Sequence[int],
    weight: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Count products with mixed kernels, as for PyTorch's, and mixing them."""
    positions = x[2] * x[3] * x[4]
    return 2 * x[0] * weight[1] * weight[2] * (positions + weight[0])


@register_flop_formula(operators.direct_dense)
def _dense_flops(
    x: Sequence[int],
    attention: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    shift: Sequence[int],
    taps: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Count both convolutions."""
    return _experts_flops(x, attention, weight) + _convolve_flops(x, taps)


@register_flop_formula(operators.direct_experts_grad)
def _experts_grad_flops(
    x: Sequence[int],
    grad: Sequence[int],
    attention: Sequence[int],
    weight: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Count the gradients of kernels, and what becomes of them for each expert."""
    positions = x[2] * x[3] * x[4]
    return 2 * x[0] * weight[1] * weight[2] * (positions + 2 * weight[0])


register_flop_formula(operators.direct_experts_norm)(_experts_flops)


@register_flop_formula(operators.direct_experts_norm_grad)
def _experts_norm_grad_flops(
    grad: Sequence[int],
    x: Sequence[int],
    y: Sequence[int],
    attention: Sequence[int],
    weight: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Count the gradients of maps, as for the product itself, and of experts."""
    own = _experts_flops(x, attention, weight)
    return own + _experts_grad_flops(x, grad, attention, weight)
