# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Static convolutions on a GPU: each pass in the way that this card does fastest.

cuDNN's kernels for thin groups are slow, some of them a hundred times slower than the
memory; which ones depends on type, geometry, pass and card. So forward pass and both
gradients choose for themselves (:mod:`.trial`) among

``'grouped'``
    PyTorch's own.
``'dense'``
    One kernel without groups, zeros off its diagonal blocks, in the order channels-last.
``'triton'``
    Lines of the maps times bands made of the kernels, by kernels of this package.
``'columns'``
    For few inputs (the stem): neighbourhoods as columns, then one matrix product.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from . import trial
from .derivatives import Gradients, changeable, convolution_gradients, own_gradients
from .geometry import Geometry, sizes_of
from .rule import dense_passes, forward_mode, traced, type_of

__all__ = ['dense_conv3d', 'tuned_conv3d', 'tunes']

_NAME = 'convolution'

#: Values of a neighbourhood up to which columns are tried.
_FEW_VALUES = 32

#: Groups that one kernel without groups may join; a batch of them would be enormous.
_MOST_GROUPS = 8

#: Places of a line up to which kernels of ours convolve, almost all of a longer band is
#: zero; and elements of bands, or of the parts of a gradient of kernels.
_LONGEST_LINE, _MOST_ASIDE = 32, 1 << 24


def _uses_columns(weight: Tensor, geometry: Geometry) -> bool:
    """Whether neighbourhoods are small enough to be laid out as columns."""
    few = 1 < weight[0].numel() <= _FEW_VALUES
    return few and geometry.groups == 1 and geometry.dilation == (1, 1, 1)


def tunes(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether :func:`tuned_conv3d` computes a convolution.

    Args:
        x: Maps (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.

    Returns:
        True on a GPU for thin groups of 3x3x3 kernels and for stems of few inputs,
        where PyTorch need not see the operations.
    """
    if not trial.applies(x) or traced() or x.numel() == 0:
        return False
    if forward_mode() or type_of(x) not in trial.CLOSE:
        return False
    thin = 1 < geometry.groups <= _MOST_GROUPS and geometry.has_one_ring()
    return thin or _uses_columns(weight, geometry)


def _blocks(weight: Tensor, groups: int) -> Tensor:
    """Make kernels without groups; zeros stand between channels of different groups."""
    mask = torch.eye(groups, dtype=weight.dtype, device=weight.device)
    kernels = weight.unflatten(0, (groups, -1)).unsqueeze(2)
    kernels = kernels * mask[:, None, :, None, None, None, None]
    return cast(Tensor, kernels.flatten(2, 3).flatten(0, 1))


def _diagonal(kernels: Tensor, groups: int) -> Tensor:
    """Take what :func:`_blocks` has laid out apart again."""
    parted = kernels.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    return cast(Tensor, parted.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1))


def dense_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Convolve without groups, in the order channels-last.

    Args:
        x: Maps (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        bias: Biases.
        geometry: Strides and so on.

    Returns:
        Contiguous maps.
    """
    y = F.conv3d(
        x.contiguous(memory_format=torch.channels_last_3d),
        _blocks(weight, geometry.groups),
        bias,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
    )
    return y.contiguous()


def _in_order(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Give a contiguous tensor of a type: what casts brings into order as well."""
    return x.to(dtype, memory_format=torch.contiguous_format).contiguous()


def _plain(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Convolve as PyTorch does."""
    return F.conv3d(x, weight, None, *sizes_of(geometry))


def _dense_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, of_weight: bool
) -> Tensor:
    """Differentiate :func:`dense_conv3d` with respect to kernels or maps."""
    order = torch.channels_last_3d
    kernels = _blocks(weight, geometry.groups).contiguous(memory_format=order)
    if of_weight:  # the gradient of the maps asks for their shape alone
        x = x.contiguous(memory_format=order)
    found = convolution_gradients(
        grad.contiguous(memory_format=order),
        x,
        kernels,
        geometry._replace(groups=1),
        [not of_weight, of_weight],
    )
    if of_weight:
        return _diagonal(cast(Tensor, found[1]), geometry.groups).contiguous()
    return cast(Tensor, found[0]).contiguous()


def _columns(x: Tensor, geometry: Geometry) -> Tensor:
    """Lay neighbourhoods out: (B, Cin * kD * kH * kW, D' * H' * W')."""
    depth, rows, cols = geometry.padding
    x = F.pad(x, (cols, cols, rows, rows, depth, depth))
    for axis in range(3):
        x = x.unfold(2 + axis, geometry.kernel[axis], geometry.stride[axis])
    return x.permute(0, 1, 5, 6, 7, 2, 3, 4).flatten(5).flatten(1, 4)


def _columns_forward(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Convolve with a matrix product."""
    y = weight.flatten(1) @ _columns(x, geometry)
    return cast(Tensor, y.unflatten(2, geometry.output_size(x.shape[2:])))


def _columns_of_kernels(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry
) -> Tensor:
    """Differentiate :func:`_columns_forward` with respect to kernels."""
    columns = _columns(x, geometry).transpose(1, 2)
    found = (grad.flatten(2) @ columns).float().sum(0)
    return found.to(weight.dtype).view_as(weight)


def _convolved(
    x: Tensor, weight: Tensor, geometry: Geometry, out: Tensor | None = None
) -> Tensor:
    """Convolve; ``out`` is where kernels of ours write."""
    ways: dict[str, Callable[[], Tensor]] = {
        'grouped': lambda: _plain(x, weight, geometry).contiguous()
    }
    if geometry.groups > 1:
        ways['dense'] = lambda: dense_conv3d(x, weight, None, geometry)
    if _runs_triton(x, weight, geometry):
        ways['triton'] = lambda: cast(
            Tensor, trial.kernels().conv_forward(x, weight, geometry.groups, out=out)
        )
    if _uses_columns(weight, geometry):
        ways['columns'] = lambda: _columns_forward(x, weight, geometry)
    return _choose('forward', ways, x, weight, geometry)


class _TunedConv(torch.autograd.Function):
    """A static convolution without biases."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        """Convolve in the type of the maps."""
        low = _in_order(weight, x.dtype)
        ctx.save_for_backward(x, weight, low)
        ctx.geometry = geometry
        return changeable(_convolved(x, low, geometry))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, weight, low = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        wanted = ctx.needs_input_grad[:2]

        def written() -> tuple[Tensor | None, Tensor | None]:
            ordered = grad.contiguous()
            gx = _of_maps(ordered, x, low, geometry) if wanted[0] else None
            if not wanted[1]:
                return gx, None
            # Kernels of ours give float32, which is not rounded on the way.
            return gx, _of_kernels(ordered, x, low, geometry).to(weight.dtype)

        gradients = own_gradients(
            grad,
            (x, weight),
            wanted,
            lambda x, weight: _plain(x, weight.to(x.dtype), geometry),
            written,
        )
        return *gradients, None


def _of_maps(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Differentiate with respect to maps."""
    ways: dict[str, Callable[[], Tensor]] = {
        'grouped': lambda: convolution_gradients(
            grad, x, weight, geometry, [True, False]
        )[0]
    }
    if geometry.groups > 1:
        ways['dense'] = lambda: _dense_gradient(grad, x, weight, geometry, False)
    if _runs_triton(x, weight, geometry):
        ways['triton'] = lambda: cast(
            Tensor, trial.kernels().conv_forward(grad, weight, geometry.groups, True)
        )
    return _choose('maps', ways, x, weight, geometry)


def _of_kernels(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Differentiate with respect to kernels."""
    ways: dict[str, Callable[[], Tensor]] = {
        'grouped': lambda: convolution_gradients(
            grad, x, weight, geometry, [False, True]
        )[1]
    }
    if geometry.groups > 1:
        ways['dense'] = lambda: _dense_gradient(grad, x, weight, geometry, True)
    if _runs_triton(x, weight, geometry):
        ways['triton'] = lambda: cast(
            Tensor, trial.kernels().conv_weight_gradient(grad, x, geometry.groups)
        )
    if _uses_columns(weight, geometry):
        ways['columns'] = lambda: _columns_of_kernels(grad, x, weight, geometry)
    return _choose('kernels', ways, x, weight, geometry)


def _runs_triton(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether kernels of ours know the geometry and can count the values."""
    line, lines = x.shape[4], x.shape[2] * x.shape[3]
    aside = weight.numel() * max(line * line, lines // 64 + 1)
    return (
        geometry.has_one_ring()
        and max(x.shape[1], weight.shape[0]) * lines * line < trial.MOST_VALUES
        and line <= _LONGEST_LINE
        and aside <= _MOST_ASIDE
        and trial.has_kernels(x)
    )


def _choose(
    passed: str,
    ways: dict[str, Callable[[], Tensor]],
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
) -> Tensor:
    """Compute a pass in the way that is fastest."""
    measured = dense_passes(x.dtype, weight, geometry)
    half = measured == 'both' or (measured == 'forward' and passed == 'forward')
    key = (
        passed,
        tuple(weight.shape),
        tuple(x.shape[2:]),
        geometry,
        x.dtype,
        trial.rounds(),
        x.device.index,
    )
    preferred = 'dense' if half else None
    return trial.run(_NAME, key, ways, trial.CLOSE[x.dtype], preferred)


def _takes(out: Tensor | None, dtype: torch.dtype, bias: Tensor | None) -> bool:
    """Whether kernels of ours may write an output to a place of the caller's."""
    if out is None or bias is not None or torch.is_grad_enabled():
        return False
    return out.dtype == dtype and out[:1].is_contiguous()


def tuned_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve with static kernels in the way that is fastest on this device.

    Args:
        x: Maps (B, Cin, D, H, W), not empty.
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        bias: Biases (Cout).
        geometry: Strides and so on.
        out: Where the output may be written; not for autograd.

    Returns:
        Maps (B, Cout, D', H', W'), in the type of autocast where there is one.
    """
    dtype = type_of(x)
    with torch.autocast(x.device.type, enabled=False):
        maps = _in_order(x, dtype)
        if _takes(out, dtype, bias):
            return _convolved(maps, _in_order(weight, dtype), geometry, out)
        y = cast(Tensor, _TunedConv.apply(maps, weight, geometry))
    return y if bias is None else y + bias.to(dtype)[:, None, None, None]
