# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""1x1x1 experts: mixed for each sample, and one matrix product a sample."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from . import trial
from .derivatives import Gradients, changeable, own_gradients
from .direct import can_mix, direct_product_gradients, direct_products
from .rule import plain_only

__all__ = ['mix', 'pointwise']

# Bytes of the kernels and outputs of a piece of a batch, per core: its second cache.
_PIECE = 1 << 20
# Samples of a piece for each of several threads: MKL divides fewer of them badly.
_SAMPLES = 8
# Positions of a map up to which a product with transposed matrices is faster.
_ROWS = 32


def mix(attention: Tensor, stacked: Tensor) -> Tensor:
    """Mix stacked parameters (K, ...) into one set per sample, (B, ...)."""
    mixed = attention @ stacked.flatten(1)
    kernels: Tensor = mixed.unflatten(1, stacked.shape[1:])
    return kernels


def pointwise(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    mixed_bias: Tensor | None,
    groups: int,
    relu: bool,
) -> Tensor:
    """Multiply each sample's (Cin, D*H*W) matrix by its mixed kernel."""
    stacked = weight.flatten(2)
    if plain_only(x):
        y = _products(x, mix(attention, stacked), mixed_bias, groups)
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
    ours = groups == 1 and x.dtype in trial.CLOSE and _is_contiguous_inside(x)
    if ours and trial.has_kernels(x):
        return _tried_products(x, attention, stacked, bias, relu)
    if can_mix(x, groups, attention, stacked, bias):
        return direct_products(x, attention, stacked, bias, relu)
    if x.device.type != 'cpu' or _is_channels_last(x):
        bias = None if bias is None else bias.to(x.dtype)
        y = _products(x, mix(attention, stacked), bias, groups)
        return y.relu_() if relu else y
    y = x.new_empty(x.shape[0], stacked.shape[1], *x.shape[2:])
    for piece in _pieces(x, stacked):
        biases = None if bias is None else bias[piece]
        kernels = mix(attention[piece], stacked)
        _products(x[piece], kernels, biases, groups, y[piece])
        if relu:
            y[piece].relu_()
    return y


def _tried_products(
    x: Tensor, attention: Tensor, stacked: Tensor, bias: Tensor | None, relu: bool
) -> Tensor:
    """Mix kernels and multiply on a GPU, in the way that is fastest there."""

    def composed() -> Tensor:
        biases = None if bias is None else bias.to(x.dtype)
        y = _products(x, mix(attention, stacked), biases, 1)
        return y.relu_() if relu else y

    def triton() -> Tensor:
        kernels = mix(attention, stacked).contiguous()
        biases = None if bias is None else bias.contiguous()
        y: Tensor = trial.kernels().products(x, kernels, biases, relu)
        return y

    key = (
        *stacked.shape,
        tuple(x.shape[2:]),
        x.dtype,
        bias is not None,
        relu,
        trial.rounds(),
        x.device.index,
    )
    ways = {'products': composed}
    if x[0].numel() < trial.MOST_VALUES:
        ways['triton'] = triton
    return trial.run('experts', key, ways, trial.CLOSE[x.dtype])


def _product_gradients(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    groups: int,
    wanted: Sequence[bool],
    of_biases: torch.dtype | None,
) -> Gradients:
    """Differentiate :func:`_mixed_products`, mixing the kernels anew."""
    if can_mix(x, groups, attention, stacked, grad):
        return direct_product_gradients(grad, x, attention, stacked, wanted)
    pieces = _pieces(x, stacked)
    if len(pieces) == 1:
        return _gradients_of_piece(
            grad, x, attention, stacked, groups, wanted, of_biases
        )
    gx = x.new_empty(x.shape) if wanted[0] else None
    ga = torch.empty_like(attention) if wanted[1] else None
    gs = torch.zeros_like(stacked) if wanted[2] else None
    gb = grad.new_empty(grad.shape[:2], dtype=of_biases) if wanted[3] else None
    for piece in pieces:
        _, shares, kernels, biases = _gradients_of_piece(
            grad[piece],
            x[piece],
            attention[piece],
            stacked,
            groups,
            wanted,
            of_biases,
            None if gx is None else gx[piece],
        )
        if ga is not None:
            ga[piece] = cast(Tensor, shares)
        if gs is not None:
            gs += cast(Tensor, kernels)
        if gb is not None:
            gb[piece] = cast(Tensor, biases)
    return gx, ga, gs, gb


def _gradients_of_piece(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    stacked: Tensor,
    groups: int,
    wanted: Sequence[bool],
    of_biases: torch.dtype | None,
    out: Tensor | None = None,
) -> Gradients:
    """Differentiate a piece; the gradient of its maps may have a place already."""
    gx = ga = gs = None
    if wanted[0]:
        kernels = mix(attention, stacked).unflatten(1, (groups, -1))
        turned = kernels.transpose(2, 3).flatten(1, 2)
        gx = _products(grad, turned, None, groups, out)
    if wanted[1] or wanted[2]:
        rows = grad.flatten(2).unflatten(1, (groups, -1))
        columns = x.flatten(2).unflatten(1, (groups, -1))
        gk = (rows @ columns.transpose(2, 3)).flatten(1)
        ga = gk @ stacked.flatten(1).t() if wanted[1] else None
        gs = (attention.t() @ gk).view_as(stacked) if wanted[2] else None
    gb = grad.sum((2, 3, 4), dtype=of_biases) if wanted[3] else None
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
        ctx: Any,
        x: Tensor,
        attention: Tensor,
        stacked: Tensor,
        bias: Tensor | None,
        groups: int,
    ) -> Tensor:
        """Convolve with experts (K, Cout, Cin/groups) and mixed biases (B, Cout)."""
        ctx.save_for_backward(x, attention, stacked, bias)
        ctx.groups = groups
        return changeable(_mixed_products(x, attention, stacked, bias, groups))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, attention, stacked, bias = ctx.saved_tensors
        groups: int = ctx.groups
        wanted = ctx.needs_input_grad[:4]
        gradients = own_gradients(
            grad,
            (x, attention, stacked, bias),
            wanted,
            lambda x, attention, stacked, bias: _products(
                x,
                mix(attention, stacked),
                None if bias is None else bias.to(x.dtype),
                groups,
            ),
            lambda: _product_gradients(
                grad,
                x,
                attention,
                stacked,
                groups,
                wanted,
                None if bias is None else bias.dtype,
            ),
        )
        return *gradients, None
