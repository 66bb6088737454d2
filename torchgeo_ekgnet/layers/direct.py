# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Kernels of our own for the convolutions of a dense layer on processors with AVX2.

They are C (``_direct.c``, ``_mapping.c``), compiled when the package is installed on Linux
where there is GCC, whose vectors they are written in, and left out elsewhere: everything
runs without them, slower. ``TORCHGEO_EKGNET_DIRECT=0`` in the environment leaves them out
as well.

oneDNN has matrix kernels for wide groups only. Unrolled (:mod:`.unrolled`), thin groups
become wide at the price of zeros: 2.7 times the arithmetic in the first block of EKGNet.
A direct kernel multiplies no zeros at all, and knows that a map of 2x2 pixels has 4 taps
inside, not 9.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import Gradients, own_gradients
from .geometry import Geometry, sizes_of
from .operators import kernels, operators

__all__ = [
    'DirectConv',
    'can_convolve',
    'can_mix',
    'direct_conv3d',
    'direct_dense',
    'direct_gradients',
    'direct_norm',
    'direct_norm_gradients',
    'direct_product_gradients',
    'direct_products',
    'kernels',
    'seconds',
    'takes',
]

# Arithmetic per second on the scale of unrolled.py, whose _FAST stands for 67 GFLOP/s of a
# Zen 3 core, where this was 55 to 75 of them. With vectors of 512 bits oneDNN reaches 121.
_SPEED = {'AVX2': 90e9}
_SPEED_BESIDE_AVX512 = 55e9
_VECTOR = 8
# Values of one group of a sample, beyond which copies of rows no longer stay in a cache.
_LARGEST = 1 << 20


def takes(*tensors: Tensor | None) -> bool:
    """Whether kernels can read these: values of float32 in the memory of the CPU."""
    return all(
        t is None or (t.dtype == torch.float32 and t.device.type == 'cpu')
        for t in tensors
    )


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
        geometry.has_one_ring()
        and w_shape[0] % geometry.groups == 0
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


def _in_order(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return contiguous tensors."""
    return [None if t is None else t.contiguous() for t in tensors]


def _samples(x: Tensor) -> Tensor:
    """Return maps each sample of which is contiguous; they may be part of larger ones."""
    return x if x[:1].is_contiguous() else x.contiguous()


def _place(x: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    """Return where a kernel can write its output."""
    shape = x.shape[0], weight.shape[0], *x.shape[2:]
    if out is not None and out.shape == shape and out[:1].is_contiguous():
        return out
    return x.new_empty(shape)


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
    y = _place(x, weight, out)
    operators.direct_convolve(_samples(x), *_in_order(weight, bias), groups, y)
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
        operators.direct_convolve_grad(_samples(x), grad, groups, gw)
    return gx, gw, grad.sum((0, 2, 3, 4)) if wanted[2] else None


class DirectConv(torch.autograd.Function):
    """:func:`direct_conv3d` with its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight, bias)
        ctx.geometry = geometry
        return direct_conv3d(x, weight, bias, geometry.groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, weight, bias = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        wanted = ctx.needs_input_grad[:3]
        gradients = own_gradients(
            grad,
            (x, weight, bias),
            wanted,
            lambda x, weight, bias: F.conv3d(x, weight, bias, *sizes_of(geometry)),
            lambda: direct_gradients(grad, x, weight, geometry.groups, wanted),
        )
        return *gradients, None


def can_mix(x: Tensor, groups: int, *others: Tensor | None) -> bool:
    """Whether there is a kernel for 1x1x1 experts that is faster than MKL's products.

    With vectors of 512 bits, which the kernel does not use, MKL's are faster.

    Args:
        x: Maps, (B, Cin, D, H, W).
        groups: Groups of the experts.
        *others: What else the kernel would read.
    """
    return (
        takes(x, *others)
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
    y = x.new_empty(x.shape[0], stacked.shape[1], *x.shape[2:])
    operators.direct_experts(x, *_in_order(attention, stacked, bias), relu, y)
    return y


def direct_dense(
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    bias: Tensor | None,
    shift: Tensor,
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
        bias: Biases of the experts (K, C).
        shift: Biases that every sample gets, (C).
        weight: Kernels (Cout, C/groups, 3, 3, 3).
        groups: Groups of the second convolution.
        out: Where to write the output.

    Returns:
        Maps, (B, Cout, D, H, W).
    """
    y = _place(x, weight, out)
    given = _in_order(attention, stacked, bias, shift, weight)
    operators.direct_dense(x, *given, groups, y)
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
        operators.direct_experts_grad(x, grad, attention, stacked, ga, gs)
    gb = grad.flatten(2).sum(2) if wanted[3] else None
    return gx, ga if wanted[1] else None, gs if wanted[2] else None, gb


def direct_norm(
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply experts, a training batch's normalization and ReLU; not for autograd.

    Args:
        x: Maps of float32 on the CPU, (B, Cin, D, H, W), each sample contiguous.
        attention: Mixing weights (B, K).
        stacked: Experts (K, Cout, Cin).
        bias: Their biases (K, Cout).
        scale: Scales of the normalization (Cout).
        shift: Its shifts (Cout).
        eps: Added to variances.

    Returns:
        Maps (B, Cout, D, H, W); these before the normalization; mean and biased variance
        of their channels, (Cout).
    """
    y = x.new_empty(x.shape[0], stacked.shape[1], *x.shape[2:])
    z = torch.empty_like(y)
    mean, variance = (x.new_empty(len(scale)) for _ in range(2))
    known = _in_order(attention, stacked, bias, scale, shift)
    operators.direct_experts_norm(x, *known, eps, y, z, mean, variance)
    return z, y, mean, variance


def direct_norm_gradients(
    grad: Tensor,
    given: Sequence[Tensor | None],
    y: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> Gradients:
    """Differentiate :func:`direct_norm`.

    Args:
        grad: Gradient of the maps (B, Cout, D, H, W).
        given: The tensors that it was given.
        y: Maps before the normalization.
        mean: Means of their channels.
        variance: Their biased variances.
        eps: Added to variances.

    Returns:
        The gradients of what was given.
    """
    x, *others = given
    attention, stacked, *rest = known = _in_order(*others)
    assert x is not None and stacked is not None
    y, mean, variance = (t.contiguous() for t in (y, mean, variance))
    turned = stacked.transpose(1, 2).contiguous()
    gx = x.new_empty(x.shape)
    found = [None if t is None else torch.empty_like(t) for t in known]
    maps, experts = (
        (_samples(grad), _samples(x), y),
        (attention, stacked, turned, *rest),
    )
    operators.direct_experts_norm_grad(*maps, *experts, mean, variance, eps, gx, *found)
    return gx, *found
