# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Batch normalization of training batches on a CPU, alone or in an expert layer's call.

PyTorch takes the statistics of a batch one value after the other; sums and norms, and
kernels of our own (``_norm.h``), take them with vectors.
"""

from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .derivatives import Gradients, own_gradients
from .direct import can_mix, direct_norm, direct_norm_gradients, takes
from .dynamic_expert_conv import DynamicExpertConv3d
from .geometry import geometry_of
from .products import pointwise
from .rule import asked_strategy, choose_expert_strategy, plain_only, watched

__all__ = ['experts_norm_act', 'normalize_on_cpu', 'trains_plainly']

# Elements of a piece whose deviations from the mean stay in a core's cache.
_PIECE = 1 << 17


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of contiguous maps, in float64."""
    maps = x.detach().flatten(2)
    count = maps.shape[0] * maps.shape[2]
    mean = maps.sum(2).double().sum(0) / count
    centre = mean.to(x.dtype)[:, None]
    step = max(1, _PIECE // max(1, maps[0].numel()))
    scratch = maps.new_empty(min(step, len(maps)), *maps.shape[1:])
    squares = torch.zeros_like(mean)
    for piece in maps.split(step):
        deviation = torch.sub(piece, centre, out=scratch[: len(piece)])
        norms = torch.linalg.vector_norm(deviation, dim=2)
        squares += norms.double().square().sum(0)
    return mean, squares / count


class _Normalized(torch.autograd.Function):
    """Batch normalization with statistics that are known already."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
    ) -> Tensor:
        """Normalize by the batch's own mean and biased variance."""
        ctx.save_for_backward(x, weight, bias, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, weight, bias, mean, inverse = ctx.saved_tensors
        eps: float = ctx.eps
        wanted = ctx.needs_input_grad[:3]
        gradients = own_gradients(
            grad,
            (x, weight, bias),
            wanted,
            lambda x, weight, bias: F.batch_norm(
                x, None, None, weight, bias, True, 0.0, eps
            ),
            lambda: torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, None, None, mean, inverse, True, eps, wanted
            ),
        )
        return *gradients, None, None, None


def _learns(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm3d]:
    """Whether a batch's own statistics are to be taken and kept, and nobody watches."""
    return (
        norm.training
        and type(norm) is nn.BatchNorm3d
        and norm.affine
        and norm.track_running_stats
        and all(kept is not None for kept in norm._buffers.values())
        and norm.weight.dtype == torch.float32
        and x.dim() == 5
        and x.numel() > x.shape[1]
        and asked_strategy() is None
        and not watched(norm)
    )


def trains_plainly(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm3d]:
    """Whether contiguous maps are to be normalized by their own statistics.

    Args:
        norm: The normalization, which nobody may watch.
        x: Maps, (B, C, D, H, W).
    """
    return x.is_contiguous() and _learns(norm, x)


def _takes_own_statistics(norm: nn.Module, x: Tensor) -> bool:
    """Whether :func:`normalize_on_cpu` computes the statistics of a batch itself."""
    return (
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and trains_plainly(norm, x)
        and not plain_only(x)
    )


def _track(norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update running statistics by those of a batch of ``count`` values a channel."""
    with torch.no_grad():
        tracked = cast(Tensor, norm.num_batches_tracked)
        tracked += 1
        share = norm.momentum
        if share is None:
            share = 1.0 / float(tracked)
        unbiased = variance * (count / (count - 1))
        for running, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            known = cast(Tensor, running)
            known.lerp_(new.to(known.dtype), share)


def normalize_on_cpu(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a batch normalization in PyTorch's way, or a CPU's.

    Args:
        norm: The normalization.
        x: Maps, (B, C, D, H, W).

    Returns:
        ``norm(x)``, running statistics updated as the normalization does.
    """
    if not _takes_own_statistics(norm, x):
        y: Tensor = norm(x)
        return y
    norm = cast(nn.BatchNorm3d, norm)
    mean, variance = _statistics(x)
    _track(norm, mean, variance, x.numel() // x.shape[1])
    return cast(
        Tensor,
        _Normalized.apply(
            x, norm.weight, norm.bias, mean.to(x.dtype), variance.to(x.dtype), norm.eps
        ),
    )


class _ExpertsNorm(torch.autograd.Function):
    """1x1x1 experts, batch normalization and ReLU, by kernels of our own."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        attention: Tensor,
        stacked: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        shift: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute maps, and mean and biased variance of each channel before."""
        given = x, attention, stacked, bias, scale, shift
        z, y, mean, variance = direct_norm(*given, eps)
        ctx.save_for_backward(*given, y, mean, variance)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, variance)
        return z, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> Gradients:
        """Compute the gradients; differentiable when a graph is asked for."""
        *given, y, mean, variance = ctx.saved_tensors
        eps: float = ctx.eps
        wanted = ctx.needs_input_grad[:6]
        if grad is None:
            return (None,) * 7

        def composed(
            x: Tensor,
            attention: Tensor,
            stacked: Tensor,
            bias: Tensor | None,
            scale: Tensor,
            shift: Tensor,
        ) -> Tensor:
            biases = None if bias is None else attention @ bias
            kernels = stacked[..., None, None, None]
            y = pointwise(x, attention, kernels, biases, 1, False)
            return F.relu(F.batch_norm(y, None, None, scale, shift, True, 0.0, eps))

        return *own_gradients(
            grad,
            given,
            wanted,
            composed,
            lambda: direct_norm_gradients(grad, given, y, mean, variance, eps),
        ), None


def _has_kernel(
    conv: nn.Module, norm: nn.Module, act: nn.Module | None, x: Tensor
) -> TypeGuard[DynamicExpertConv3d]:
    """Whether one kernel computes experts, normalization and activation in training."""
    # First: a compiler must not look further.
    if not torch.is_grad_enabled() or plain_only(x):
        return False
    if type(conv) is not DynamicExpertConv3d:
        return False
    if type(act) is not nn.ReLU or watched(act) or watched(conv):
        return False
    if not _learns(norm, x) or conv._pad_first:
        return False
    weight, bias, scale, shift = conv.weight, conv.bias, norm.weight, norm.bias
    geometry = geometry_of(
        weight, conv.stride, conv._conv_padding, conv.dilation, conv.groups
    )
    # Otherwise the parts say what is wrong.
    fits = (
        x.shape[1] == weight.shape[2]
        and (bias is None or bias.shape == weight.shape[:2])
        and scale.shape == shift.shape == weight.shape[1:2]
    )
    return (
        fits
        and geometry.is_pointwise()
        and can_mix(x, conv.groups, weight, bias, scale, shift)
        and choose_expert_strategy(x, weight, geometry) == 'pointwise'
    )


def experts_norm_act(
    conv: nn.Module,
    norm: nn.Module,
    act: nn.Module | None,
    x: Tensor,
    context: Tensor | None = None,
) -> Tensor | None:
    """Convolve, normalize and activate a training batch in one call.

    Args:
        conv: A convolution whose output only ``norm`` reads.
        norm: The batch normalization behind it.
        act: The activation behind both.
        x: Maps, (B, Cin, D, H, W).
        context: Their mean over space where it is known, see
            :meth:`DynamicExpertConv3d.forward`.

    Returns:
        Maps, (B, Cout, D, H, W); None where there is no kernel.
    """
    if not _has_kernel(conv, norm, act, x):
        return None
    norm = cast(nn.BatchNorm3d, norm)
    attention = conv.mapping(x if context is None else context)
    if attention.shape != (len(x), len(conv.weight)) or not takes(attention):
        y = conv.convolve(x, attention, conv.weight, conv.bias)
        return F.relu(normalize_on_cpu(norm, y))
    z, mean, variance = _ExpertsNorm.apply(
        x,
        attention,
        conv.weight.flatten(2),
        conv.bias,
        norm.weight,
        norm.bias,
        norm.eps,
    )
    _track(norm, mean, variance, x.numel() // x.shape[1])
    return cast(Tensor, z)
