# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Kernels of our own for the convolutions of a dense layer on processors with AVX2.

They are C (``_direct.c``, ``_mapping.c``), compiled when the package is installed where there is a
compiler that knows GCC's vectors and OpenMP (GCC or Clang on Linux), and left out
elsewhere: everything runs without them, slower. ``TORCHGEO_EKGNET_DIRECT=0`` in the
environment leaves them out as well.

oneDNN has matrix kernels for wide groups only. Unrolled (:mod:`.unrolled`), thin groups
become wide at the price of zeros: 2.7 times the arithmetic in the first block of EKGNet.
A direct kernel multiplies no zeros at all, and knows that a map of 2x2 pixels has 4 taps
inside, not 9.

The kernels are operators of PyTorch (``torch.ops.torchgeo_ekgnet``), so that profilers,
counters and tensors without values know them. Only this module calls them, with what
they need: float32 on the CPU, each sample contiguous.
"""

import functools
import importlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .derivatives import Gradients, composed_gradients, differentiated_again
from .geometry import Geometry, sizes_of

__all__ = [
    'DirectConv',
    'can_convolve',
    'can_mix',
    'direct_conv3d',
    'direct_dense',
    'direct_gradients',
    'direct_product_gradients',
    'direct_products',
    'kernels',
    'seconds',
]

_THREE, _ONE = (3, 3, 3), (1, 1, 1)
# Arithmetic per second on the scale of unrolled.py, whose _FAST stands for 67 GFLOP/s of a
# Zen 3 core, where this was 55 to 75 of them. With vectors of 512 bits oneDNN reaches 121.
_SPEED = {'AVX2': 90e9}
_SPEED_BESIDE_AVX512 = 55e9
_VECTOR = 8
# Values of one group of a sample, beyond which copies of rows no longer stay in a cache.
_LARGEST = 1 << 20


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


def _call(name: str, *arguments: int) -> None:
    """Call a kernel with addresses and sizes, on PyTorch's threads."""
    getattr(kernels(), name)(*arguments, torch.get_num_threads())


def _taps(shape: Sequence[int]) -> int:
    """Count the taps of a 3x3x3 kernel that lie inside maps (B, C, D, H, W)."""
    return (3 * shape[2] - 2) * (3 * shape[3] - 2) * (3 * shape[4] - 2)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, out: Tensor
) -> None:
    """Convolve (B, Cin, D, H, W), padded by 1, with (Cout, Cin/groups, 3, 3, 3)."""
    _call(
        'conv',
        x.data_ptr(),
        x.stride(0),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        out.stride(0),
        x.shape[0],
        groups,
        weight.shape[1],
        weight.shape[0] // groups,
        *x.shape[2:],
    )


def _convolve_grad(x: Tensor, grad: Tensor, groups: int, out: Tensor) -> None:
    """Sum the gradient of the kernels, (Cout, Cin/groups, 3, 3, 3)."""
    _call(
        'conv_grad',
        x.data_ptr(),
        x.stride(0),
        grad.data_ptr(),
        grad.stride(0),
        out.data_ptr(),
        x.shape[0],
        groups,
        out.shape[1],
        out.shape[0] // groups,
        *x.shape[2:],
    )


def _experts(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    out: Tensor,
) -> None:
    """Mix experts (K, Cout, Cin) for each sample and apply them to (B, Cin, D, H, W)."""
    _call(
        'experts',
        x.data_ptr(),
        x.stride(0),
        attention.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        x.shape[0],
        *weight.shape,
        x[0, 0].numel(),
        relu,
    )


def _dense(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    taps: Tensor,
    groups: int,
    out: Tensor,
) -> None:
    """Apply experts and ReLU, then convolve with (Cout', Cout/groups, 3, 3, 3)."""
    _call(
        'dense',
        x.data_ptr(),
        x.stride(0),
        attention.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        taps.data_ptr(),
        out.data_ptr(),
        out.stride(0),
        x.shape[0],
        *weight.shape,
        groups,
        taps.shape[0] // groups,
        *x.shape[2:],
    )


def _experts_grad(
    x: Tensor,
    grad: Tensor,
    attention: Tensor,
    weight: Tensor,
    out_attention: Tensor,
    out_weight: Tensor,
) -> None:
    """Sum the gradients of mixing weights and experts."""
    _call(
        'experts_grad',
        x.data_ptr(),
        x.stride(0),
        grad.data_ptr(),
        grad.stride(0),
        attention.data_ptr(),
        weight.data_ptr(),
        out_attention.data_ptr(),
        out_weight.data_ptr(),
        x.shape[0],
        *weight.shape,
        x[0, 0].numel(),
    )


_library = torch.library.Library('torchgeo_ekgnet', 'FRAGMENT')
_SCHEMAS = {
    _convolve: 'Tensor x, Tensor weight, Tensor? bias, int groups, Tensor(a!) out',
    _convolve_grad: 'Tensor x, Tensor grad, int groups, Tensor(a!) out',
    _experts: """Tensor x, Tensor attention, Tensor weight, Tensor? bias, bool relu,
        Tensor(a!) out""",
    _dense: """Tensor x, Tensor attention, Tensor weight, Tensor? bias, Tensor taps,
        int groups, Tensor(a!) out""",
    _experts_grad: """Tensor x, Tensor grad, Tensor attention, Tensor weight,
        Tensor(a!) out_attention, Tensor(b!) out_weight""",
}
for _kernel, _schema in _SCHEMAS.items():
    _name = f'direct{_kernel.__name__}'
    _library.define(f'{_name}({_schema}) -> ()')
    _library.impl(_name, _kernel, 'CPU')
    _library.impl(_name, lambda *_: None, 'Meta')

_operators: Any = torch.ops.torchgeo_ekgnet


@register_flop_formula(_operators.direct_convolve)
def _convolve_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Count what the kernel multiplies and adds: taps inside alone."""
    return 2 * x[0] * weight[0] * weight[1] * _taps(x)


@register_flop_formula(_operators.direct_convolve_grad)
def _convolve_grad_flops(
    x: Sequence[int], grad: Sequence[int], groups: int, *_: Any, **__: Any
) -> int:
    """Count what the kernel multiplies and adds."""
    return 2 * x[0] * x[1] * (grad[1] // groups) * _taps(x)


@register_flop_formula(_operators.direct_experts)
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


@register_flop_formula(_operators.direct_dense)
def _dense_flops(
    x: Sequence[int],
    attention: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    taps: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Count both convolutions."""
    return _experts_flops(x, attention, weight) + _convolve_flops(x, taps)


@register_flop_formula(_operators.direct_experts_grad)
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


def can_convolve(
    x_shape: Sequence[int], w_shape: Sequence[int], geometry: Geometry
) -> bool:
    """Whether there is a kernel for a convolution of float32 maps on the CPU.

    Args:
        x_shape: Shape of the maps, (B, C, D, H, W).
        w_shape: Shape of the kernels, (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.
    """
    return (
        geometry.kernel == _THREE
        and geometry.stride == geometry.padding == geometry.dilation == _ONE
        and w_shape[1] * x_shape[2] * x_shape[3] * x_shape[4] <= _LARGEST
        and 0 not in x_shape
        and kernels() is not None
    )


def seconds(
    x_shape: Sequence[int], w_shape: Sequence[int], geometry: Geometry
) -> float:
    """Estimate the time of :func:`direct_conv3d`, on the scale of :mod:`.unrolled`."""
    rows = (3 * x_shape[2] - 2) * (3 * x_shape[3] - 2)  # that some tap sees
    row = -(-x_shape[4] // _VECTOR) * _VECTOR * 3
    capability = torch.backends.cpu.get_cpu_capability()
    speed = _SPEED.get(capability, _SPEED_BESIDE_AVX512)
    return 2.0 * x_shape[0] * w_shape[0] * w_shape[1] * rows * row / speed


def _samples(x: Tensor) -> Tensor:
    """Return maps each sample of which is contiguous; they may be part of larger ones."""
    return x if x[:1].is_contiguous() else x.contiguous()


def _place(x: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    """Return where a kernel can write its output."""
    if out is not None and out[:1].is_contiguous():
        return out
    return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])


def direct_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve with 3x3x3 kernels, stride 1 and padding 1; not for autograd.

    Args:
        x: Maps of float32 on the CPU, (B, Cin, D, H, W); long rows (W) are fastest.
        weight: Kernels (Cout, Cin/groups, 3, 3, 3).
        bias: Biases (Cout).
        groups: Groups of channels that do not see each other.
        out: Where to write the output.

    Returns:
        Maps, (B, Cout, D, H, W).
    """
    bias = None if bias is None else bias.contiguous()
    y = _place(x, weight, out)
    _operators.direct_convolve(_samples(x), weight.contiguous(), bias, groups, y)
    return y if out is None or y is out else out.copy_(y)


def direct_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, groups: int, wanted: Sequence[bool]
) -> Gradients:
    """Differentiate :func:`direct_conv3d`.

    Args:
        grad: Gradient of the output (B, Cout, D, H, W).
        x: Maps (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, 3, 3, 3).
        groups: Groups of channels.
        wanted: Whether the gradients of maps, kernels and biases are asked for.

    Returns:
        These gradients; None for what is not asked for.
    """
    grad, gx, gw = _samples(grad), None, None
    if wanted[0]:
        # The same convolution, from outputs to inputs, with kernels turned around.
        turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flip(3, 4, 5)
        gx = direct_conv3d(grad, turned.flatten(0, 1), None, groups)
    if wanted[1]:
        gw = weight.new_empty(weight.shape)
        _operators.direct_convolve_grad(_samples(x), grad, groups, gw)
    return gx, gw, grad.sum((0, 2, 3, 4)) if wanted[2] else None


class DirectConv(torch.autograd.Function):
    """:func:`direct_conv3d` with its gradients."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
    ) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight, bias)  # type: ignore[arg-type]
        ctx.geometry = geometry  # type: ignore[attr-defined]
        return direct_conv3d(x, weight, bias, geometry.groups)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, weight, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        geometry: Geometry = ctx.geometry  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        # The forward pass ran without autocast, whatever surrounds this one.
        with torch.autocast(grad.device.type, enabled=False):
            if differentiated_again(grad):
                gradients = composed_gradients(
                    lambda x, weight, bias: F.conv3d(
                        x, weight, bias, *sizes_of(geometry)
                    ),
                    (x, weight, bias),
                    grad,
                    wanted,
                )
            else:
                gradients = direct_gradients(grad, x, weight, geometry.groups, wanted)
        return *gradients, None  # type: ignore[return-value]


def can_mix(x: Tensor, groups: int) -> bool:
    """Whether there is a kernel for 1x1x1 experts that is faster than MKL's products.

    With vectors of 512 bits, which the kernel does not use, MKL's are faster.
    """
    return (
        x.dtype == torch.float32
        and x.device.type == 'cpu'
        and groups == 1
        and x.numel() > 0
        and torch.backends.cpu.get_cpu_capability() == 'AVX2'
        and x[:1].is_contiguous()
        and kernels() is not None
    )


def direct_products(
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Mix 1x1x1 experts for each sample and apply them; not for autograd.

    Args:
        x: Maps of float32 on the CPU, (B, Cin, D, H, W), each sample contiguous.
        attention: Mixing weights (B, K).
        stacked: Experts (K, Cout, Cin).
        bias: Biases (B, Cout), mixed already.
        relu: Set what is negative to zero.

    Returns:
        Maps, (B, Cout, D, H, W).
    """
    bias = None if bias is None else bias.contiguous()
    y = x.new_empty(x.shape[0], stacked.shape[1], *x.shape[2:])
    _operators.direct_experts(
        x, attention.contiguous(), stacked.contiguous(), bias, relu, y
    )
    return y


def direct_dense(
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    groups: int,
    out: Tensor | None = None,
) -> Tensor:
    """Compute a dense layer without gradients: experts, ReLU, 3x3x3 convolution.

    What is between the convolutions, four times as much as comes out, stays in a core's
    cache.

    Args:
        x: Maps of float32 on the CPU, (B, Cin, D, H, W), each sample contiguous.
        attention: Mixing weights (B, K).
        stacked: Experts (K, C, Cin).
        bias: Biases of the experts (B, C), mixed already.
        weight: Kernels (Cout, C/groups, 3, 3, 3).
        groups: Groups of the second convolution.
        out: Where to write the output.

    Returns:
        Maps, (B, Cout, D, H, W).
    """
    bias = None if bias is None else bias.contiguous()
    y = _place(x, weight, out)
    experts, kernels = stacked.contiguous(), weight.contiguous()
    _operators.direct_dense(
        x, attention.contiguous(), experts, bias, kernels, groups, y
    )
    return y if out is None or y is out else out.copy_(y)


def direct_product_gradients(
    grad: Tensor, x: Tensor, attention: Tensor, stacked: Tensor, wanted: Sequence[bool]
) -> Gradients:
    """Differentiate :func:`direct_products` without ReLU.

    Args:
        grad: Gradient of the output (B, Cout, D, H, W).
        x: Maps (B, Cin, D, H, W), each sample contiguous.
        attention: Mixing weights (B, K).
        stacked: Experts (K, Cout, Cin).
        wanted: Whether the gradients of maps, weights, experts and biases are asked for.

    Returns:
        These gradients; None for what is not asked for.
    """
    grad, gx, ga, gs = _samples(grad), None, None, None
    if wanted[0]:
        gx = direct_products(grad, attention, stacked.transpose(1, 2))
    if wanted[1] or wanted[2]:
        attention, stacked = attention.contiguous(), stacked.contiguous()
        ga, gs = torch.empty_like(attention), torch.empty_like(stacked)
        _operators.direct_experts_grad(x, grad, attention, stacked, ga, gs)
    gb = grad.flatten(2).sum(2) if wanted[3] else None
    return gx, ga if wanted[1] else None, gs if wanted[2] else None, gb
