# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Operators that torch.compile does not look into.

The choice among unrollings depends on all sizes; made here it leaves one graph for
every batch and patch size, and a graph that is captured in a fraction of the time.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import convolution_gradients
from .direct import direct_conv3d, direct_gradients
from .geometry import geometry_of, sizes_of
from .rule import choose_conv_strategy
from .unrolled import unrolled_gradients, unrolled_in_pieces

__all__ = ['compiled_conv3d']


# Written out: sizes that a graph leaves open, and what ``*sizes`` stands for.
_SIZES = 'SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups'


@torch.library.custom_op(
    'torchgeo_ekgnet::conv3d',
    mutates_args=(),
    schema=f'(Tensor x, Tensor weight, {_SIZES}) -> Tensor',
)
def compiled_conv3d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve with static kernels in a compiled graph."""
    geometry = geometry_of(weight, stride, padding, dilation, groups)
    with torch.autocast(x.device.type, enabled=False):
        chosen, unrolling = choose_conv_strategy(x, weight, geometry)
        if chosen == 'direct':
            return direct_conv3d(x, weight, None, groups)
        if unrolling is None:
            return F.conv3d(x, weight, None, *sizes_of(geometry)).contiguous()
        return unrolled_in_pieces(x, weight, None, unrolling)


@compiled_conv3d.register_fake
def _(x: Tensor, weight: Tensor, *sizes: Any) -> Tensor:
    """Give the shape of the output."""
    geometry = geometry_of(weight, *sizes)
    size = geometry.output_size(x.shape[2:])
    return x.new_empty(x.shape[0], weight.shape[0], *size)


@torch.library.custom_op(
    'torchgeo_ekgnet::conv3d_backward',
    mutates_args=(),
    schema=f'(Tensor grad, Tensor x, Tensor weight, {_SIZES}) -> (Tensor, Tensor)',
)
def _compiled_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *sizes: Any
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of :func:`compiled_conv3d`."""
    geometry = geometry_of(weight, *sizes)
    chosen, unrolling = choose_conv_strategy(x, weight, geometry)
    with torch.autocast(x.device.type, enabled=False):
        if chosen == 'direct':
            gx, gw, _ = direct_gradients(
                grad, x, weight, geometry.groups, (True, True, False)
            )
        elif unrolling is None:
            gx, gw, _ = convolution_gradients(grad, x, weight, geometry, (True, True))
        else:
            gx, gw, _ = unrolled_gradients(
                grad, x, weight, None, unrolling, (True, True, False)
            )
    return cast(Tensor, gx).contiguous(), cast(Tensor, gw).contiguous()


@_compiled_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *sizes: Any) -> tuple[Tensor, Tensor]:
    """Give the shapes of the gradients."""
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save what :func:`_compiled_backward` needs."""
    ctx.save_for_backward(*inputs[:2])
    ctx.sizes = inputs[2:]


def _compiled_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiate :func:`compiled_conv3d`."""
    x, weight = ctx.saved_tensors
    gx, gw = _compiled_backward(grad, x, weight, *ctx.sizes)
    return gx, gw, None, None, None, None


compiled_conv3d.register_autograd(_compiled_gradients, setup_context=_keep_inputs)
