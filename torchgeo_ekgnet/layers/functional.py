# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Convolution with kernels mixed per sample, and the one rule that says how.

:func:`expert_conv3d` (arXiv 2504.13045, section 2.2.2) and the static
:func:`grouped_conv3d` have several exact strategies. All of them are compositions of
differentiable PyTorch operations, so first and second derivatives, ``torch.func``,
compilation and export hold for each of them:

``'grouped'``
    The plain formulation. For experts it is the paper's: mix the kernels, fold the
    batch into the channels, one convolution with B times as many groups.
``'pointwise'``
    1x1x1 kernels as one matrix product per sample.
``'experts'``
    A static convolution with the kernels of all experts, then the weighted sum of
    their outputs. K times the work, but the graph is the same for every batch size.
``'unrolled'``
    An axis (or two) of the image becomes part of the channels and the kernel a banded
    matrix over it, so that thin groups become wide enough for fast matrix kernels.
``'dense'``
    One kernel without groups, zeros off its diagonal blocks, in the order channels-last.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from . import trial
from .compiled import compiled_conv3d
from .derivatives import Gradients, composed_gradients, differentiated_again
from .geometry import Geometry, Size, check_input, geometry_of, sizes_of
from .rule import (
    STRATEGIES,
    asked_strategy,
    casts_itself,
    check_strategy,
    choose_conv_strategy,
    choose_expert_strategy,
    chosen_at_run_time,
    conv_strategy,
    plain_only,
    traced,
    type_of,
    unrolls_under_autocast,
)
from .tuned import dense_conv3d, tuned_conv3d, tuned_products, tunes
from .unrolled import UnrolledConv, any_unrolling, unrolled_conv3d, unrolled_in_pieces

__all__ = ['STRATEGIES', 'conv_strategy', 'expert_conv3d', 'grouped_conv3d']

# Bytes of the kernels and outputs of a piece of a batch, per core: its second cache.
_PIECE = 1 << 20
# Samples of a piece for each of several threads: MKL divides fewer of them badly.
_SAMPLES = 8
# Positions of a map up to which a product with transposed matrices is faster.
_ROWS = 32


def expert_conv3d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    strategy: str | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    r"""Convolve every sample with its own mixture of expert kernels.

    Sample b is convolved with :math:`\sum_k a_{bk} W_k` and gets the bias
    :math:`\sum_k a_{bk} b_k` (arXiv 2504.13045, section 2.2.2).

    Args:
        x: Input (B, Cin, D, H, W).
        attention: Mixing weights (B, K).
        weight: Expert kernels (K, Cout, Cin/groups, kD, kH, kW).
        bias: Expert biases (K, Cout).
        stride: Step of the kernel along D, H, W.
        padding: Zeros added on both sides of D, H, W.
        dilation: Spacing of the kernel elements along D, H, W.
        groups: Groups of channels that do not see each other.
        strategy: One of :data:`STRATEGIES`; None leaves the choice to the rule
            (:func:`choose_expert_strategy`).
        shift: Biases (Cout) that every sample gets beside its mixture.
        relu: Set what is negative to zero, in the same pass where that is possible.

    Returns:
        Output (B, Cout, D', H', W').

    Raises:
        ValueError: If shapes do not fit each other or the strategy does not apply.
        TypeError: If ``x`` is not floating point.
    """
    check_strategy(strategy)
    if weight.dim() != 6:
        raise ValueError(
            f'expert_conv3d: weight has shape {tuple(weight.shape)}, '
            'expected (K, Cout, Cin/groups, kD, kH, kW)'
        )
    check_input(x, weight.shape[2] * groups, 'expert_conv3d')
    if attention.shape != (x.shape[0], weight.shape[0]):
        raise ValueError(
            f'expert_conv3d: attention has shape {tuple(attention.shape)}, '
            f'expected (B, K) = ({x.shape[0]}, {weight.shape[0]})'
        )
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(
            f'expert_conv3d: bias has shape {tuple(bias.shape)}, '
            f'expected (K, Cout) = {tuple(weight.shape[:2])}'
        )
    geometry = geometry_of(weight, stride, padding, dilation, groups)
    if strategy == 'pointwise' and not geometry.is_pointwise():
        raise ValueError(
            "expert_conv3d: strategy='pointwise' needs 1x1x1 kernels, stride 1 and no "
            f'padding, found {geometry}'
        )
    asked = strategy or asked_strategy()
    chosen = choose_expert_strategy(x, weight, geometry, asked)
    if chosen == 'experts':
        y = _experts(x, attention, weight, geometry)
        if bias is not None or shift is not None:
            biases = cast(Tensor, _mixed_bias(attention, bias, shift))
            y = y + biases[:, :, None, None, None].to(y.dtype)
        return F.relu(y) if relu else y
    if chosen == 'pointwise' and casts_itself(x, attention, weight, bias):
        dtype = type_of(x)
        with torch.autocast(x.device.type, enabled=False):
            # Biases stay in float32: casts are kernels of their own.
            exact = _mixed_bias(attention, bias, shift)
            low = x.to(dtype), attention.to(dtype), weight.to(dtype)
            return _pointwise(*low, exact, groups, relu)
    mixed_bias = _mixed_bias(attention, bias, shift)
    if chosen == 'pointwise':
        return _pointwise(x, attention, weight, mixed_bias, groups, relu)
    y = _batch_as_groups(x, attention, weight, mixed_bias, geometry, asked)
    return F.relu(y) if relu else y


def grouped_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    strategy: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Compute ``torch.nn.functional.conv3d`` on the path that is fast for thin groups.

    Args:
        x: Input (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        bias: Biases (Cout).
        stride: Step of the kernel along D, H, W.
        padding: Zeros added on both sides of D, H, W.
        dilation: Spacing of the kernel elements along D, H, W.
        groups: Groups of channels that do not see each other.
        strategy: ``'grouped'``, ``'unrolled'`` or ``'dense'``; None leaves the choice to the rule
            (:func:`choose_conv_strategy`).
        out: Where to write the output; not for autograd.

    Returns:
        Output (B, Cout, D', H', W').

    Raises:
        ValueError: If shapes do not fit each other or the strategy does not apply.
        TypeError: If ``x`` is not floating point.
    """
    check_strategy(strategy)
    if strategy not in (None, 'grouped', 'unrolled', 'dense'):
        raise ValueError(
            "grouped_conv3d: strategy must be 'grouped', 'unrolled', 'dense' or None, "
            f'found {strategy!r}'
        )
    if weight.dim() != 5:
        raise ValueError(
            f'grouped_conv3d: weight has shape {tuple(weight.shape)}, '
            'expected (Cout, Cin/groups, kD, kH, kW)'
        )
    check_input(x, weight.shape[1] * groups, 'grouped_conv3d')
    geometry = geometry_of(weight, stride, padding, dilation, groups)
    asked = strategy or asked_strategy()
    y = _static_conv(x, weight, bias, geometry, asked, out)
    return y if out is None or y is out else out.copy_(y)


def _static_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    forced: str | None,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve with static kernels, into ``out`` where that saves a copy."""
    if forced is None and unrolls_under_autocast(x):
        low = None if bias is None else bias.bfloat16()
        with torch.autocast('cpu', enabled=False):
            return _static_conv(x.bfloat16(), weight.bfloat16(), low, geometry, None)
    if forced is None and tunes(x, weight, bias, geometry):
        return tuned_conv3d(x, weight, bias, geometry)
    if forced is None and chosen_at_run_time(x, geometry):
        y = cast(Tensor, compiled_conv3d(x, weight, *sizes_of(geometry)))
        return y if bias is None else y + bias[:, None, None, None]
    plain, unrolling = plain_only(x, weight, bias), None
    chosen = forced
    if forced == 'unrolled' and x.numel() > 0:
        unrolling = any_unrolling(x.shape, weight.shape, geometry)
    elif forced is None and not (plain and x.device.type == 'cpu'):
        chosen, unrolling = choose_conv_strategy(x, weight, geometry)
    if chosen == 'dense':
        return dense_conv3d(x, weight, bias, geometry)
    if unrolling is None:
        return F.conv3d(x, weight, bias, *sizes_of(geometry))
    if plain:
        return unrolled_conv3d(x, weight, bias, unrolling).contiguous()
    if out is not None and out.dtype == x.dtype:
        return unrolled_in_pieces(x, weight, bias, unrolling, out)
    return cast(Tensor, UnrolledConv.apply(x, weight, bias, unrolling))


def _mix(attention: Tensor, stacked: Tensor) -> Tensor:
    """Mix stacked parameters (K, ...) into one set per sample, (B, ...)."""
    mixed = attention @ stacked.flatten(1)
    kernels: Tensor = mixed.unflatten(1, stacked.shape[1:])
    return kernels


def _mixed_bias(
    attention: Tensor, bias: Tensor | None, shift: Tensor | None
) -> Tensor | None:
    """Give every sample its bias, (B, Cout)."""
    if bias is None:
        return None if shift is None else shift.expand(attention.shape[0], -1)
    mixed = attention @ bias
    return mixed if shift is None else mixed + shift


def _batch_as_groups(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    mixed_bias: Tensor | None,
    geometry: Geometry,
    forced: str | None,
) -> Tensor:
    """Fold the batch into the channels: one convolution with B times the groups."""
    batch = x.shape[0]
    mixed = _mix(attention, weight).flatten(0, 1)
    flat_bias = None if mixed_bias is None else mixed_bias.flatten()
    folded = geometry._replace(groups=geometry.groups * batch)
    # reshape, not view: channels_last input cannot be viewed.
    x = x.reshape(1, batch * x.shape[1], x.shape[2], x.shape[3], x.shape[4])
    y = _static_conv(x, mixed, flat_bias, folded, forced)[0]
    unfolded: Tensor = y.unflatten(0, (batch, weight.shape[1]))
    return unfolded


def _pointwise(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    mixed_bias: Tensor | None,
    groups: int,
    relu: bool,
) -> Tensor:
    """Multiply each sample's (Cin, D*H*W) matrix by its mixed kernel."""
    stacked = weight.flatten(2)
    if plain_only(x, attention, weight, mixed_bias):
        y = _products(x, _mix(attention, stacked), mixed_bias, groups)
    elif torch.is_grad_enabled():
        y = cast(
            Tensor, _MixedProducts.apply(x, attention, stacked, mixed_bias, groups)
        )
    else:
        return _mixed_products(x, attention, stacked, mixed_bias, groups, relu)
    return F.relu(y) if relu else y


def _is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a position lie side by side."""
    # In this order: vmap answers the first question alone.
    return not x.is_contiguous() and x.is_contiguous(
        memory_format=torch.channels_last_3d
    )


def _products(
    x: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    groups: int,
    out: Tensor | None = None,
) -> Tensor:
    """Multiply each sample by its matrix (B, Cout, Cin/groups); biases (B, Cout).

    Few positions fill no vectors; they are the rows of the product then.
    """
    size, channels_last = x.shape[2:], _is_channels_last(x)
    x = x.flatten(2)
    into = None if out is None else out.flatten(2)
    if groups > 1:
        # (B, groups, Cout/groups, Cin/groups) @ (B, groups, Cin/groups, D*H*W)
        y = kernels.unflatten(1, (groups, -1)) @ x.unflatten(1, (groups, -1))
        y = y.flatten(1, 2)
        if bias is not None:
            y = y + bias.unsqueeze(2)
    elif channels_last or (into is not None and x.shape[2] <= _ROWS):
        rows, columns = x.transpose(1, 2), kernels.transpose(1, 2)
        if bias is None:
            y = torch.bmm(rows, columns).transpose(1, 2)
        else:
            y = torch.baddbmm(bias.unsqueeze(1), rows, columns).transpose(1, 2)
    elif bias is None:
        y = torch.bmm(kernels, x, out=into)
    else:
        y = torch.baddbmm(bias.unsqueeze(2), kernels, x, out=into)
    if into is not None and y is not into:
        into.copy_(y)
    shaped: Tensor = y.unflatten(2, size)
    return shaped


def _pieces(x: Tensor, stacked: Tensor) -> list[slice]:
    """Cut a batch so that kernels and maps of a piece stay in the cores' caches."""
    batch, threads = x.shape[0], torch.get_num_threads()
    if x.device.type != 'cpu':
        return [slice(0, batch)]
    positions = x.shape[2] * x.shape[3] * x.shape[4]
    sample = stacked[0].numel() + stacked.shape[1] * positions
    least = threads * _SAMPLES if threads > 1 else 1
    step = max(least, _PIECE * threads // (sample * x.element_size()))
    return [slice(i, min(i + step, batch)) for i in range(0, batch, step)]


def _mixed_products(
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    bias: Tensor | None,
    groups: int,
    relu: bool = False,
) -> Tensor:
    """Mix kernels and multiply piece by piece; not for autograd."""
    if trial.has_kernels(x) and groups == 1 and _is_contiguous_inside(x):
        return tuned_products(x, attention, stacked, bias, relu, _mix, _products)
    if x.device.type != 'cpu' or _is_channels_last(x):
        bias = None if bias is None else bias.to(x.dtype)
        y = _products(x, _mix(attention, stacked), bias, groups)
        return y.relu_() if relu else y
    y = x.new_empty(x.shape[0], stacked.shape[1], *x.shape[2:])
    for piece in _pieces(x, stacked):
        biases = None if bias is None else bias[piece]
        kernels = _mix(attention[piece], stacked)
        _products(x[piece], kernels, biases, groups, y[piece])
        if relu:
            y[piece].relu_()
    return y


def _product_gradients(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    groups: int,
    wanted: Sequence[bool],
) -> Gradients:
    """Differentiate :func:`_mixed_products`, mixing the kernels anew."""
    gx = x.new_empty(x.shape) if wanted[0] else None
    ga = torch.empty_like(attention) if wanted[1] else None
    gs = torch.zeros_like(stacked) if wanted[2] else None
    gb = grad.new_empty(grad.shape[:2]) if wanted[3] else None
    for piece in _pieces(x, stacked):
        part, shares = grad[piece], attention[piece]
        if gx is not None:
            kernels = _mix(shares, stacked).unflatten(1, (groups, -1))
            turned = kernels.transpose(2, 3).flatten(1, 2)
            _products(part, turned, None, groups, gx[piece])
        if ga is not None or gs is not None:
            rows = part.flatten(2).unflatten(1, (groups, -1))
            columns = x[piece].flatten(2).unflatten(1, (groups, -1))
            gk = (rows @ columns.transpose(2, 3)).flatten(1)
            if ga is not None:
                ga[piece] = gk @ stacked.flatten(1).t()
            if gs is not None:
                gs.view(len(gs), -1).addmm_(shares.t(), gk)
        if gb is not None:
            gb[piece] = part.sum((2, 3, 4))
    return gx, ga, gs, gb


def _is_contiguous_inside(x: Tensor) -> bool:
    """Whether each sample is contiguous; it may be part of larger maps."""
    return x.numel() > 0 and x[:1].is_contiguous()


class _MixedProducts(torch.autograd.Function):
    """Mixing and :func:`_products`; kernels of a whole batch are not kept for backward.

    Mixing them again costs next to nothing. There are B times as many of them as the
    layer has parameters per expert: a tenth of a training step's memory.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        attention: Tensor,
        stacked: Tensor,
        bias: Tensor | None,
        groups: int,
    ) -> Tensor:
        """Convolve with experts (K, Cout, Cin/groups) and mixed biases (B, Cout)."""
        ctx.save_for_backward(x, attention, stacked, bias)  # type: ignore[arg-type]
        ctx.groups = groups  # type: ignore[attr-defined]
        return _mixed_products(x, attention, stacked, bias, groups)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, None]:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, attention, stacked, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        groups: int = ctx.groups  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad[:4]  # type: ignore[attr-defined]
        with torch.autocast(grad.device.type, enabled=False):
            if differentiated_again(grad):
                gradients = composed_gradients(
                    lambda x, attention, stacked, bias: _products(
                        x,
                        _mix(attention, stacked),
                        None if bias is None else bias.to(x.dtype),
                        groups,
                    ),
                    (x, attention, stacked, bias),
                    grad,
                    wanted,
                )
            else:
                gradients = _product_gradients(
                    grad, x, attention, stacked, groups, wanted
                )
        return *gradients, None  # type: ignore[return-value]


def _experts_by_position(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """Apply all 1x1x1 experts with one matrix product of all positions."""
    experts, out, channels = weight.shape[:3]
    size = x.shape[2:]
    rows = x.flatten(2).transpose(1, 2).flatten(0, 1)
    columns = weight.flatten(2).permute(2, 0, 1).reshape(channels, experts * out)
    y = (rows @ columns).unflatten(1, (experts, out))
    shares = attention.repeat_interleave(size.numel(), 0).unsqueeze(1).to(y.dtype)
    mixed = (shares @ y).squeeze(1).unflatten(0, (x.shape[0], -1))
    return cast(Tensor, mixed.transpose(1, 2).contiguous().unflatten(2, size))


def _experts(
    x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry
) -> Tensor:
    """Convolve with every expert, then take the weighted sum of the outputs."""
    groups = geometry.groups
    if groups == 1 and geometry.is_pointwise() and not traced() and x.numel() > 0:
        return _experts_by_position(x, attention, weight)
    num_experts, out = weight.shape[0], weight.shape[1]
    # Group-major order, so that a static convolution has all experts of a group.
    kernels = weight.unflatten(1, (groups, out // groups)).transpose(0, 1)
    y = F.conv3d(x, kernels.flatten(0, 2), None, *sizes_of(geometry))
    y = cast(Tensor, y.unflatten(1, (groups, num_experts, out // groups)))
    shares = attention[:, None, :, None, None, None, None].to(y.dtype)
    return (y * shares).sum(2).flatten(1, 2)
