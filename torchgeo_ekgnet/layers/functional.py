# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Convolution with kernels mixed per sample, and with static ones.

:func:`expert_conv3d` (arXiv 2504.13045, section 2.2.2) and the static
:func:`grouped_conv3d` have several exact strategies, of which :mod:`.rule` chooses one.
Where PyTorch must see the operations (second derivatives, ``torch.func``, export) each of
them is a composition of PyTorch's own:

``'grouped'``
    The plain formulation. For experts it is the paper's: mix the kernels, fold the
    batch into the channels, one convolution with B times as many groups.
``'pointwise'``
    1x1x1 kernels as one matrix product per sample (:mod:`.products`).
``'experts'``
    A static convolution with the kernels of all experts, then the weighted sum of
    their outputs. K times the work, but the graph is the same for every batch size.
``'unrolled'``
    An axis (or two) of the image becomes part of the channels and the kernel a banded
    matrix over it, so that thin groups become wide enough for fast matrix kernels
    (:mod:`.unrolled`).
``'dense'``
    One kernel without groups, zeros off its diagonal blocks, in the order channels-last.
``'direct'``
    A kernel of our own for thin groups on processors with AVX2 (:mod:`.direct`).

On a GPU static convolutions are measured on the spot instead (:mod:`.static_gpu`).
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .compiled import compiled_conv3d
from .direct import DirectConv, can_convolve, direct_conv3d, takes
from .geometry import Geometry, Size, check_input, geometry_of, sizes_of
from .products import mix, pointwise
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
from .static_gpu import dense_conv3d, tuned_conv3d, tunes
from .unrolled import UnrolledConv, any_unrolling, unrolled_conv3d, unrolled_in_pieces

__all__ = ['STRATEGIES', 'conv_strategy', 'expert_conv3d', 'grouped_conv3d']


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
    if chosen == 'pointwise' and casts_itself(x):
        dtype = type_of(x)
        with torch.autocast(x.device.type, enabled=False):
            # Biases stay in float32: casts are kernels of their own. Weights that another
            # mapping has given may be of the half type.
            exact = _mixed_bias(attention.to(weight.dtype), bias, shift)
            low = x.to(dtype), attention.to(dtype), weight.to(dtype)
            return pointwise(*low, exact, groups, relu)
    mixed_bias = _mixed_bias(attention, bias, shift)
    if chosen == 'pointwise':
        return pointwise(x, attention, weight, mixed_bias, groups, relu)
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
        strategy: ``'grouped'``, ``'unrolled'``, ``'dense'`` or ``'direct'``; None leaves
            the choice to the rule (:func:`choose_conv_strategy`).
        out: Where to write the output; not for autograd.

    Returns:
        Output (B, Cout, D', H', W').

    Raises:
        ValueError: If shapes do not fit each other or the strategy does not apply.
        TypeError: If ``x`` is not floating point.
    """
    check_strategy(strategy)
    if strategy not in (None, 'grouped', 'unrolled', 'dense', 'direct'):
        raise ValueError(
            "grouped_conv3d: strategy must be 'grouped', 'unrolled', 'dense', 'direct' "
            f'or None, found {strategy!r}'
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
    if forced is None and tunes(x, weight, geometry):
        return tuned_conv3d(x, weight, bias, geometry, out)
    if forced is None and chosen_at_run_time(x, geometry):
        y = cast(Tensor, compiled_conv3d(x, weight, *sizes_of(geometry)))
        return y if bias is None else y + bias[:, None, None, None]
    plain, unrolling = plain_only(x), None
    chosen = forced
    if forced == 'unrolled' and x.numel() > 0:
        unrolling = any_unrolling(x.shape, weight.shape, geometry)
    elif forced == 'direct':
        fits = takes(x, weight) and can_convolve(x.shape, weight.shape, geometry)
        chosen = 'direct' if fits else 'grouped'
    elif forced is None and not (plain and x.device.type == 'cpu'):
        chosen, unrolling = choose_conv_strategy(x, weight, geometry)
    if chosen == 'dense':
        return dense_conv3d(x, weight, bias, geometry)
    known = bias is None or (takes(bias) and bias.shape == weight.shape[:1])
    if chosen == 'direct' and not plain and known:
        if out is not None and out.dtype == x.dtype:
            return direct_conv3d(x, weight, bias, geometry.groups, out)
        return cast(Tensor, DirectConv.apply(x, weight, bias, geometry))
    if unrolling is None:
        return F.conv3d(x, weight, bias, *sizes_of(geometry))
    if plain:
        return unrolled_conv3d(x, weight, bias, unrolling).contiguous()
    if out is not None and out.dtype == x.dtype:
        return unrolled_in_pieces(x, weight, bias, unrolling, out)
    return cast(Tensor, UnrolledConv.apply(x, weight, bias, unrolling))


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
    mixed = mix(attention, weight).flatten(0, 1)
    flat_bias = None if mixed_bias is None else mixed_bias.flatten()
    # PyTorch 2.8 does not trace into the methods of a named tuple.
    folded = Geometry(
        geometry.kernel,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups * batch,
    )
    # reshape, not view: channels_last input cannot be viewed.
    x = x.reshape(1, batch * x.shape[1], x.shape[2], x.shape[3], x.shape[4])
    y = _static_conv(x, mixed, flat_bias, folded, forced)
    # No view: changed in place, FSDP would not see its gradient come.
    size = batch, weight.shape[1], *y.shape[2:]
    return cast(Tensor, torch.ops.aten._unsafe_view(y, size))


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
