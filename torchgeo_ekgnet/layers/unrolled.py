# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The engine of grouped float32 convolutions on CPUs: unrolled axes.

An axis (or two) of the image becomes part of the channels and the kernel a banded
matrix over it, so that thin groups become wide enough for fast matrix kernels.
"""

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import Gradients, changeable, own_gradients
from .geometry import Geometry, Triple

__all__ = [
    'UnrolledConv',
    'Unrolling',
    'any_unrolling',
    'best_unrolling',
    'unrolled_conv3d',
    'unrolled_gradients',
    'unrolled_in_pieces',
]

# Constants of the estimate, measured on two AVX-512 cores; only their ratios matter.
_FAST = 100e9  # multiply-adds * 2 per second of oneDNN's kernels for wide groups
_SLOW = 5e9  # of its fallback for thin groups
_COPY = 6e9  # bytes per second of a permuting copy
# What the end of a row costs oneDNN's kernels, in positions of the last axis, by
# PyTorch's name of the processor's vectors. Those of AVX2 (two Zen 3 cores) reach 31, 37
# and 41 GFLOP/s with rows of 2, 4 and 8 positions, and 82, 58 and 66 with 25, 50 and 100.
_ROW_END = {'AVX2': 4.0}
_WIDTH = 16  # channels of a group must be a multiple of this
_PIECE = 16 << 20  # bytes of unrolled copies at a time, measured like them

_AXES = 'ijk'  # names of a kernel's axes in sums


class AxisPlan(NamedTuple):
    """How one axis is treated.

    An axis that is kept has ``block == 0``. An unrolled axis is cut into ``blocks`` of
    ``block`` output positions, each of which sees ``window`` input positions, starting
    ``-left`` positions into the image and ``step`` further for each block. Positions
    outside the image, and those behind the last output, are zeros.
    """

    block: int = 0
    blocks: int = 1
    window: int = 1
    left: int = 0
    step: int = 1


class Unrolling(NamedTuple):
    """Which axes become channels."""

    axes: tuple[AxisPlan, AxisPlan, AxisPlan]
    out_size: Triple
    geometry: Geometry

    def unrolled_axes(self) -> list[int]:
        """The axes (0 to 2) that become channels."""
        return [a for a in range(3) if self.axes[a].block]

    def kept(self, values: Triple, instead: int) -> Triple:
        """Replace a value on unrolled axes."""
        kept = [instead if self.axes[a].block else values[a] for a in range(3)]
        return (kept[0], kept[1], kept[2])

    def sizes(self, x_shape: Sequence[int], w_shape: Sequence[int]) -> tuple[int, int]:
        """Elements of the unrolled input and of the output before it is folded."""
        inputs, outputs = x_shape[0] * x_shape[1], x_shape[0] * w_shape[0]
        for a, plan in enumerate(self.axes):
            inputs *= plan.window * plan.blocks if plan.block else x_shape[2 + a]
            outputs *= plan.block * plan.blocks if plan.block else self.out_size[a]
        return inputs, outputs


def _full_axis(size: int, out: int, pad_in: int, pad_out: int) -> AxisPlan:
    """Unroll an axis as one block that covers it, rounded up to multiples."""
    window = math.ceil(size / pad_in) * pad_in
    block = math.ceil(out / pad_out) * pad_out
    return AxisPlan(block, 1, window, 0, 1)


def _block_axis(
    block: int, out: int, geometry: Geometry, axis: int, pad_in: int
) -> AxisPlan:
    """Cut an axis into blocks with their halo."""
    stride = geometry.stride[axis]
    reach = (block - 1) * stride + geometry.dilation[axis] * (geometry.kernel[axis] - 1)
    window = math.ceil((reach + 1) / pad_in) * pad_in
    return AxisPlan(
        block, math.ceil(out / block), window, geometry.padding[axis], block * stride
    )


def candidates(
    size: Sequence[int], geometry: Geometry, cin: int, cout: int
) -> list[Unrolling]:
    """List unrollings whose groups are wide multiples of the vector length."""
    out = geometry.output_size(size)
    keep = AxisPlan()
    need_in = _WIDTH // math.gcd(cin, _WIDTH)
    need_out = _WIDTH // math.gcd(cout, _WIDTH)
    found = []
    for a in (0, 1, 2):
        plans = []
        if size[a] <= 32:
            plans.append(_full_axis(size[a], out[a], need_in, need_out))
        if need_out < out[a]:
            plans.append(_block_axis(need_out, out[a], geometry, a, need_in))
        for plan in plans:
            axes = [keep, keep, keep]
            axes[a] = plan
            found.append(Unrolling((axes[0], axes[1], axes[2]), out, geometry))
    for a, b in ((1, 2), (0, 1)):
        if size[a] * size[b] > 32:
            continue
        axes = [keep, keep, keep]
        axes[a] = AxisPlan(out[a], 1, size[a], 0, 1)
        pad_in = need_in // math.gcd(need_in, size[a])
        pad_out = need_out // math.gcd(need_out, out[a])
        axes[b] = _full_axis(size[b], out[b], pad_in, pad_out)
        found.append(Unrolling((axes[0], axes[1], axes[2]), out, geometry))
    return found


def _cost(
    unrolling: Unrolling | None,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    geometry: Geometry,
    row_end: float,
) -> float:
    """Estimate the seconds of a forward pass."""
    out = geometry.output_size(x_shape[2:])
    cin, cout = w_shape[1], w_shape[0] // geometry.groups
    work = 2.0 * x_shape[0] * w_shape[0] * cin * math.prod(geometry.kernel)
    row = out[2]
    if unrolling is not None and unrolling.axes[2].block:
        row = unrolling.axes[2].blocks
    work *= 1 + row_end / row
    if unrolling is None:
        wide = cin % _WIDTH == 0 and cout % _WIDTH == 0
        return work * math.prod(out) / (_FAST if wide else _SLOW)
    inputs, outputs = unrolling.sizes(x_shape, w_shape)
    # Axes behind the channels join them without a copy.
    axes = unrolling.unrolled_axes()
    plans = [unrolling.axes[a] for a in axes]
    alone = axes in ([0], [0, 1]) and all(plan.blocks == 1 for plan in plans)
    whole_in = all(p.window == x_shape[2 + a] for a, p in zip(axes, plans, strict=True))
    whole_out = all(p.block == out[a] for a, p in zip(axes, plans, strict=True))
    moves_in = 0 if alone and whole_in else 4
    moves_out = 0 if alone and whole_out else 4
    for a, plan in enumerate(unrolling.axes):
        if plan.block:
            work *= plan.window * plan.block * plan.blocks / geometry.kernel[a]
        else:
            work *= out[a]
    return work / _FAST + (moves_in * inputs + moves_out * outputs) / _COPY


def _row_end() -> float:
    """Say what the end of a row costs on this processor, in positions."""
    return _ROW_END.get(torch.backends.cpu.get_cpu_capability(), 0.0)


def best_unrolling(
    x_shape: Sequence[int], w_shape: Sequence[int], geometry: Geometry
) -> tuple[Unrolling | None, float]:
    """Choose the unrolling that is estimated to be fastest; None for the plain form.

    Args:
        x_shape: Shape of the maps, (B, Cin, D, H, W).
        w_shape: Shape of the kernels, (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.

    Returns:
        The unrolling, and the estimate of its seconds.
    """
    return _best(tuple(x_shape), tuple(w_shape), geometry, _row_end())


@functools.lru_cache(maxsize=512)
def _best(
    x_shape: Sequence[int], w_shape: Sequence[int], geometry: Geometry, row_end: float
) -> tuple[Unrolling | None, float]:
    """Choose an unrolling and tell its estimate."""
    if min(geometry.output_size(x_shape[2:])) < 1:
        return None, 0.0
    best, least = None, _cost(None, x_shape, w_shape, geometry, row_end)
    cin, cout = w_shape[1], w_shape[0] // geometry.groups
    for candidate in candidates(x_shape[2:], geometry, cin, cout):
        cost = _cost(candidate, x_shape, w_shape, geometry, row_end)
        if cost < least:
            best, least = candidate, cost
    return best, least


def any_unrolling(
    x_shape: Sequence[int], w_shape: Sequence[int], geometry: Geometry
) -> Unrolling | None:
    """Choose an unrolling even where the plain form is estimated to be faster."""
    if min(geometry.output_size(x_shape[2:])) < 1:
        return None
    cin, cout = w_shape[1], w_shape[0] // geometry.groups
    found = candidates(x_shape[2:], geometry, cin, cout)
    end = _row_end()
    costs = [_cost(candidate, x_shape, w_shape, geometry, end) for candidate in found]
    return found[costs.index(min(costs))] if found else None


def _unroll_input(x: Tensor, unrolling: Unrolling) -> Tensor:
    """Move the unrolled axes of (B, C, D, H, W) into the channels.

    Returns:
        (B, C * windows, D', H', W'), an unrolled axis having one position per block.
    """
    pads = [0, 0, 0, 0, 0, 0]
    for a, plan in enumerate(unrolling.axes):
        if plan.block:
            needed = (plan.blocks - 1) * plan.step + plan.window
            pads[4 - 2 * a] = plan.left
            pads[5 - 2 * a] = needed - plan.left - x.shape[2 + a]
    if any(pads):
        # Negative padding crops what no output sees.
        x = F.pad(x, pads)
    axes = unrolling.unrolled_axes()
    for a in axes:
        plan = unrolling.axes[a]
        x = x.unfold(2 + a, plan.window, plan.step)
    order = [0, 1, *range(5, 5 + len(axes)), 2, 3, 4]
    return x.permute(order).flatten(1, 1 + len(axes))


def _fold_output(y: Tensor, unrolling: Unrolling) -> Tensor:
    """Move the unrolled positions of an output from the channels back to their axes."""
    axes = unrolling.unrolled_axes()
    plans = unrolling.axes
    y = y.unflatten(1, (-1, *(plans[a].block for a in axes)))
    # (B, Cout, blocks of axes..., D', H', W'): each block goes behind its axis.
    order = [0, 1]
    for a in range(3):
        order.append(2 + len(axes) + a)
        if a in axes:
            order.append(2 + axes.index(a))
    y = y.permute(order)
    for a in axes:
        y = y.flatten(2 + a, 3 + a)
    for a in axes:
        y = y.narrow(2 + a, 0, unrolling.out_size[a])
    return y


def _unfold_grad(grad: Tensor, unrolling: Unrolling) -> Tensor:
    """Bring the gradient of an output into the layout of the unrolled convolution."""
    pads = [0, 0, 0, 0, 0, 0]
    axes = unrolling.unrolled_axes()
    for a in axes:
        plan = unrolling.axes[a]
        pads[5 - 2 * a] = plan.block * plan.blocks - grad.shape[2 + a]
    if any(pads):
        grad = F.pad(grad, pads)
    for a in reversed(axes):
        plan = unrolling.axes[a]
        grad = grad.unflatten(2 + a, (plan.blocks, plan.block))
    # Positions of the blocks in the unflattened tensor.
    order_kept, order_blocks, position = [], [], 2
    for a in range(3):
        order_kept.append(position)
        position += 1
        if a in axes:
            order_blocks.append(position)
            position += 1
    return grad.permute(0, 1, *order_blocks, *order_kept).flatten(1, 1 + len(axes))


def _refold_input(grad: Tensor, unrolling: Unrolling, size: Sequence[int]) -> Tensor:
    """Transpose :func:`_unroll_input`: add up the gradients of overlapping windows."""
    axes = unrolling.unrolled_axes()
    plans = unrolling.axes
    grad = grad.unflatten(1, (-1, *(plans[a].window for a in axes)))
    grad = grad.permute(
        0, 1, *range(2 + len(axes), 5 + len(axes)), *range(2, 2 + len(axes))
    )
    # The windows are the last dimensions now, that of the last axis at the end.
    for a in reversed(axes):
        plan = plans[a]
        needed = (plan.blocks - 1) * plan.step + plan.window
        if plan.blocks == 1:
            grad = grad.select(2 + a, 0).movedim(-1, 2 + a)
        else:
            shape = [*grad.shape[:-1]]
            shape[2 + a] = needed
            total = grad.new_zeros(shape)
            for block in range(plan.blocks):
                window = total.narrow(2 + a, block * plan.step, plan.window)
                window += grad.select(2 + a, block).movedim(-1, 2 + a)
            grad = total
        length = min(size[a], needed - plan.left)
        grad = grad.narrow(2 + a, plan.left, length)
        if length < size[a]:
            pads = [0] * (2 * (grad.dim() - 3 - a))
            pads += [0, size[a] - length]
            grad = F.pad(grad, pads)
    return grad


def _bands(unrolling: Unrolling, axis: int, like: Tensor) -> Tensor:
    """Say which kernel element joins which input and output position of a block.

    Returns:
        Zeros and ones, (kernel, block, window).
    """
    plan, geometry = unrolling.axes[axis], unrolling.geometry
    offset = plan.left - geometry.padding[axis]
    device = like.device
    element = torch.arange(geometry.kernel[axis], device=device)[:, None, None]
    output = torch.arange(plan.block, device=device)[None, :, None]
    window = torch.arange(plan.window, device=device)[None, None, :]
    seen = output * geometry.stride[axis] + element * geometry.dilation[axis] + offset
    return (seen == window).to(like.dtype)


def _unroll_kernel(weight: Tensor, unrolling: Unrolling) -> Tensor:
    """Turn kernels into banded matrices over the unrolled axes.

    Returns:
        (Cout * blocks, Cin/groups * windows, kD', kH', kW'), 1 along unrolled axes.
    """
    axes = unrolling.unrolled_axes()
    if len(axes) == 1:
        bands = _bands(unrolling, axes[0], weight)
        moved = weight.movedim(2 + axes[0], -1)
        unrolled = torch.einsum('ocijk,kbw->obcwij', moved, bands)
        unrolled = unrolled.flatten(2, 3).flatten(0, 1).unsqueeze(-1)
        return unrolled.movedim(-1, 2 + axes[0])
    a, b = axes
    unrolled = torch.einsum(
        f'ocijk,{_AXES[a]}pq,{_AXES[b]}yz->opycqz{_AXES[3 - a - b]}',
        weight,
        _bands(unrolling, a, weight),
        _bands(unrolling, b, weight),
    )
    unrolled = unrolled.flatten(3, 5).flatten(0, 2)
    for axis in axes:
        unrolled = unrolled.unsqueeze(2 + axis)
    return unrolled


@functools.lru_cache(maxsize=128)
def _places(shape: Sequence[int], unrolling: Unrolling) -> Tensor:
    """Say which kernel element stands where in the unrolled kernel: from 1, 0 for zero."""
    with torch.inference_mode(False), torch.no_grad():
        count = math.prod(shape)
        numbers = torch.arange(1, count + 1, dtype=torch.float64, device='cpu')
        return _unroll_kernel(numbers.view(*shape), unrolling).long()


def _place_kernel(weight: Tensor, unrolling: Unrolling) -> Tensor:
    """Compute :func:`_unroll_kernel` as one gather; not for autograd."""
    if weight.device.type != 'cpu' or weight.dtype not in (
        torch.float32,
        torch.float64,
    ):
        return _unroll_kernel(weight, unrolling)
    elements = torch.cat([weight.new_zeros(1), weight.flatten()])
    if type(elements) is not Tensor:  # without values, which the cache must not keep
        return _unroll_kernel(weight, unrolling)
    places = _places(tuple(weight.shape), unrolling)
    # index_select takes half of the time of take.
    return elements.index_select(0, places.flatten()).view(places.shape)


def _roll_kernel(
    grad: Tensor, weight_shape: Sequence[int], unrolling: Unrolling
) -> Tensor:
    """Transpose :func:`_unroll_kernel`."""
    axes = unrolling.unrolled_axes()
    plans = unrolling.axes
    out, cin = weight_shape[0], weight_shape[1]
    if len(axes) == 1:
        plan = plans[axes[0]]
        grad = grad.movedim(2 + axes[0], -1).squeeze(-1)
        grad = grad.unflatten(1, (cin, plan.window)).unflatten(0, (out, plan.block))
        bands = _bands(unrolling, axes[0], grad)
        rolled = torch.einsum('obcwij,kbw->ocijk', grad, bands)
        return rolled.movedim(-1, 2 + axes[0])
    a, b = axes
    grad = grad.flatten(2)
    grad = grad.unflatten(1, (cin, plans[a].window, plans[b].window))
    grad = grad.unflatten(0, (out, plans[a].block, plans[b].block))
    return torch.einsum(
        f'opycqz{_AXES[3 - a - b]},{_AXES[a]}pq,{_AXES[b]}yz->ocijk',
        grad,
        _bands(unrolling, a, grad),
        _bands(unrolling, b, grad),
    )


def _unrolled_bias(bias: Tensor | None, unrolling: Unrolling) -> Tensor | None:
    """Repeat a bias for the output positions that became channels."""
    if bias is None:
        return None
    times = math.prod(plan.block for plan in unrolling.axes if plan.block)
    return bias[:, None].expand(-1, times).flatten()


def unrolled_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    unrolling: Unrolling,
    kernel: Tensor | None = None,
) -> Tensor:
    """Convolve the unrolled image with banded kernels; not always contiguous."""
    geometry = unrolling.geometry
    y = F.conv3d(
        _unroll_input(x, unrolling),
        _unroll_kernel(weight, unrolling) if kernel is None else kernel,
        _unrolled_bias(bias, unrolling),
        unrolling.kept(geometry.stride, 1),
        unrolling.kept(geometry.padding, 0),
        unrolling.kept(geometry.dilation, 1),
        geometry.groups,
    )
    return _fold_output(y, unrolling)


class _Piece(NamedTuple):
    """Some samples, or some groups of all samples, and how they are unrolled."""

    samples: slice
    inputs: slice
    outputs: slice
    unrolling: Unrolling


def pieces_of(x: Tensor, weight: Tensor, unrolling: Unrolling) -> list[_Piece]:
    """Cut a convolution into parts with small unrolled copies.

    The copies of a whole batch leave the processor's caches, raise the peak and, above
    32 MiB, are mapped anew by glibc's allocator for every layer.
    """
    needed = sum(unrolling.sizes(x.shape, weight.shape)) * x.element_size()
    geometry = unrolling.geometry
    samples, groups = x.shape[0], geometry.groups
    parts = samples if samples > 1 else groups
    count = min(parts, math.ceil(needed / _PIECE))
    edges = [parts * i // count for i in range(count + 1)]
    found = []
    for start, stop in pairwise(edges):
        if samples > 1:
            found.append(
                _Piece(slice(start, stop), slice(None), slice(None), unrolling)
            )
            continue
        cin, cout = weight.shape[1], weight.shape[0] // groups
        part = geometry._replace(groups=stop - start)
        found.append(
            _Piece(
                slice(None),
                slice(start * cin, stop * cin),
                slice(start * cout, stop * cout),
                unrolling._replace(geometry=part),
            )
        )
    return found


def unrolled_in_pieces(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    unrolling: Unrolling,
    out: Tensor | None = None,
) -> Tensor:
    """Compute :func:`unrolled_conv3d` piece by piece; not for autograd."""
    pieces = pieces_of(x, weight, unrolling)
    if len(pieces) == 1 and out is None:
        kernel = _place_kernel(weight, unrolling)
        return unrolled_conv3d(x, weight, bias, unrolling, kernel).contiguous()
    y = out
    if y is None:
        y = x.new_empty(x.shape[0], weight.shape[0], *unrolling.out_size)
    # Pieces of samples have one kernel, pieces of groups have one each.
    shared = _place_kernel(weight, unrolling) if x.shape[0] > 1 else None
    for samples, inputs, outputs, part in pieces:
        kernels = weight[outputs]
        y[samples, outputs] = unrolled_conv3d(
            x[samples, inputs],
            kernels,
            None if bias is None else bias[outputs],
            part,
            _place_kernel(kernels, part) if shared is None else shared,
        )
    return y


def unrolled_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    unrolling: Unrolling,
    wanted: Sequence[bool],
) -> Gradients:
    """Compute the gradients piece by piece, unrolling the image anew."""
    # Not empty_like: the image may lie in another order.
    gx = x.new_empty(x.shape) if wanted[0] else None
    # Sums over the pieces keep the digits of float32.
    sums = torch.float32 if weight.dtype == torch.bfloat16 else weight.dtype
    gw = torch.zeros_like(weight, dtype=sums) if wanted[1] else None
    pieces = pieces_of(x, weight, unrolling)
    # Pieces of samples have one kernel, pieces of groups have one each.
    shared = _place_kernel(weight, unrolling) if x.shape[0] > 1 else None
    total: Tensor | None = None
    for samples, inputs, outputs, part in pieces:
        geometry, kernels = part.geometry, weight[outputs]
        gx_part, gw_part, _ = torch.ops.aten.convolution_backward(
            _unfold_grad(grad[samples, outputs], part),
            _unroll_input(x[samples, inputs], part),
            _place_kernel(kernels, part) if shared is None else shared,
            None,
            part.kept(geometry.stride, 1),
            part.kept(geometry.padding, 0),
            part.kept(geometry.dilation, 1),
            False,
            (0, 0, 0),
            geometry.groups,
            (wanted[0], wanted[1], False),
        )
        if gx is not None:
            gx[samples, inputs] = _refold_input(gx_part, part, x.shape[2:])
        if gw is None:
            continue
        if shared is None:
            gw[outputs] = _roll_kernel(gw_part, kernels.shape, part)
        else:
            gw_part = gw_part.to(sums)
            total = gw_part if total is None else total.add_(gw_part)
    if gw is not None and total is not None:
        gw = _roll_kernel(total, weight.shape, unrolling)
    gb = grad.sum((0, 2, 3, 4)) if wanted[2] else None
    return gx, None if gw is None else gw.to(weight.dtype), gb


class UnrolledConv(torch.autograd.Function):
    """:func:`unrolled_conv3d` that keeps the image, not its unrolled copy, for backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, unrolling: Unrolling
    ) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight, bias)
        ctx.unrolling = unrolling
        return changeable(unrolled_in_pieces(x, weight, bias, unrolling))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        """Compute the gradients; differentiable when a graph is asked for."""
        x, weight, bias = ctx.saved_tensors
        unrolling: Unrolling = ctx.unrolling
        wanted = ctx.needs_input_grad[:3]
        gradients = own_gradients(
            grad,
            (x, weight, bias),
            wanted,
            lambda x, weight, bias: unrolled_conv3d(x, weight, bias, unrolling),
            lambda: unrolled_gradients(grad, x, weight, bias, unrolling, wanted),
        )
        return *gradients, None
