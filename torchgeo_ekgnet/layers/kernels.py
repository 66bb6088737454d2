# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

# Triton's compiler gives arguments of kernels their types.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

"""Kernels for GPUs, written in Triton; import it only where Triton is.

Maps are (B, C, positions) in memory, one sample's channel after the other. Sums over a
batch go in two stages without atomics: results do not depend on which program ends
first. Offsets are of 64 bits, sums of float32. What depends on the size of a batch does
not make a kernel compile anew.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import trial

__all__ = [
    'context_norm',
    'context_norm_gradient',
    'conv_forward',
    'conv_weight_gradient',
    'norm_backward',
    'norm_forward',
    'products',
    'residual_gradient',
    'shares',
    'shares_gradient',
]

# Names of arguments for whose values Triton is not to compile a kernel anew.
_BATCH = ['batch', 'tiles']
_SIZES = ['batch', 'groups', 'tiles', 'rows', 'columns']
_PRODUCTS = ['blocks', 'channels', 'outputs']
# Triton would compile a faster kernel for channels that 16 divides; those of mapping
# networks are so small that it gains nothing.
_SMALL = ['batch', 'channels']

# --------------------------------------------------------------------------------------
# Batch normalization and ReLU


@triton.jit
def _tile(batch, channels, positions, tile, channel, BLOCK_B, BLOCK_P):
    """Offsets of a tile of one channel, and which of them are inside."""
    across = tl.cdiv(positions, BLOCK_P)
    rows = (tile // across) * BLOCK_B + tl.arange(0, BLOCK_B)
    columns = (tile % across) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (rows < batch)[:, None] & (columns < positions)[None, :]
    starts = (rows.to(tl.int64) * channels + channel) * positions
    return starts[:, None] + columns[None, :], inside


@triton.jit
def _values_in(tile, batch, positions, BLOCK_B, BLOCK_P):
    """Count the values of tiles, as floating point."""
    across = tl.cdiv(positions, BLOCK_P)
    rows = tl.minimum(batch - (tile // across) * BLOCK_B, BLOCK_B)
    columns = tl.minimum(positions - (tile % across) * BLOCK_P, BLOCK_P)
    return (rows * columns).to(tl.float32)


@triton.jit(do_not_specialize=_BATCH)
def _moments(
    x, means, squares, batch, channels, positions, tiles,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Mean of a tile of one channel, and squares of deviations from it."""
    tile, channel = tl.program_id(0), tl.program_id(1)
    places, inside = _tile(batch, channels, positions, tile, channel, BLOCK_B, BLOCK_P)
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(tl.sum(values, 1), 0) / _values_in(
        tile, batch, positions, BLOCK_B, BLOCK_P
    )
    deviations = tl.where(inside, values - mean, 0.0)
    tl.store(means + channel * tiles + tile, mean)
    tl.store(
        squares + channel * tiles + tile, tl.sum(tl.sum(deviations * deviations, 1), 0)
    )


@triton.jit
def _joined_moments(
    means, squares, channel, batch, positions, tiles, count,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Mean and variance of a channel from those of its tiles (Chan et al. 1979)."""
    total = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, tiles, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        there = tile < tiles
        number = _values_in(tile, batch, positions, BLOCK_B, BLOCK_P)
        mean = tl.load(means + channel * tiles + tile, mask=there, other=0.0)
        total += tl.where(there, number * mean, 0.0)
    whole = tl.sum(total, 0) / count
    total = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, tiles, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        there = tile < tiles
        number = _values_in(tile, batch, positions, BLOCK_B, BLOCK_P)
        mean = tl.load(means + channel * tiles + tile, mask=there, other=0.0)
        square = tl.load(squares + channel * tiles + tile, mask=there, other=0.0)
        apart = mean - whole
        total += tl.where(there, square + number * apart * apart, 0.0)
    return whole, tl.sum(total, 0) / count


@triton.jit(do_not_specialize=_BATCH)
def _normalize(
    x, y, means, squares, weight, bias, mean, inverse,
    running_mean, running_var, tracked,
    batch, channels, positions, tiles, count, eps, share, unbiased,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr,
    RELU: tl.constexpr,
):  # fmt: skip
    """Normalize a tile; the first of a channel keeps the statistics."""
    tile, channel = tl.program_id(0), tl.program_id(1)
    whole, variance = _joined_moments(
        means, squares, channel, batch, positions, tiles, count,
        BLOCK_B, BLOCK_P, BLOCK_T,
    )  # fmt: skip
    rest = 1.0 / tl.sqrt(variance + eps)
    if tile == 0:
        tl.store(mean + channel, whole)
        tl.store(inverse + channel, rest)
        old = tl.load(running_mean + channel)
        tl.store(running_mean + channel, old + share * (whole - old))
        old = tl.load(running_var + channel)
        tl.store(running_var + channel, old + share * (variance * unbiased - old))
        if channel == 0:
            tl.store(tracked, tl.load(tracked) + 1)
    scale, shift = tl.load(weight + channel) * rest, tl.load(bias + channel)
    places, inside = _tile(batch, channels, positions, tile, channel, BLOCK_B, BLOCK_P)
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    values = (values - whole) * scale + shift
    if RELU:
        values = tl.where(values < 0.0, 0.0, values)  # NaN stays NaN
    tl.store(y + places, values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_there(
    grad, x, weight, bias, mean, inverse, places, inside, channel, RELU: tl.constexpr
):
    """Normalized values and the gradient behind the ReLU."""
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    rest = tl.load(inverse + channel)
    apart = values - tl.load(mean + channel)
    scale = tl.load(weight + channel) * rest
    if RELU:
        kept = apart * scale + tl.load(bias + channel) > 0.0
        gradient = tl.where(kept, gradient, 0.0)
    return tl.where(inside, apart * rest, 0.0), gradient, scale


@triton.jit(do_not_specialize=_BATCH)
def _gradient_sums(
    grad, x, weight, bias, mean, inverse, sums, products,
    batch, channels, positions, tiles,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient, and of its products with normalized values, of a tile."""
    tile, channel = tl.program_id(0), tl.program_id(1)
    places, inside = _tile(batch, channels, positions, tile, channel, BLOCK_B, BLOCK_P)
    normed, gradient, _ = _gradient_there(
        grad, x, weight, bias, mean, inverse, places, inside, channel, RELU
    )
    tl.store(sums + channel * tiles + tile, tl.sum(tl.sum(gradient, 1), 0))
    tl.store(products + channel * tiles + tile, tl.sum(tl.sum(gradient * normed, 1), 0))


@triton.jit(do_not_specialize=_BATCH)
def _gradient_of_input(
    grad, x, weight, bias, mean, inverse, sums, products, gx, gw, gb,
    batch, channels, positions, tiles, count,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr,
    RELU: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile; the first of a channel writes those of its parameters."""
    tile, channel = tl.program_id(0), tl.program_id(1)
    total = tl.zeros([BLOCK_T], tl.float32)
    along = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, tiles, BLOCK_T):
        other = start + tl.arange(0, BLOCK_T)
        there = other < tiles
        total += tl.load(sums + channel * tiles + other, mask=there, other=0.0)
        along += tl.load(products + channel * tiles + other, mask=there, other=0.0)
    whole, product = tl.sum(total, 0), tl.sum(along, 0)
    if tile == 0:
        tl.store(gb + channel, whole)
        tl.store(gw + channel, product)
    places, inside = _tile(batch, channels, positions, tile, channel, BLOCK_B, BLOCK_P)
    normed, gradient, scale = _gradient_there(
        grad, x, weight, bias, mean, inverse, places, inside, channel, RELU
    )
    gradient = scale * (gradient - whole / count - normed * (product / count))
    tl.store(gx + places, gradient.to(gx.dtype.element_ty), mask=inside)


class _Tiling(NamedTuple):
    """How the values of a channel are cut."""

    batch: int
    channels: int
    positions: int
    block_b: int
    block_p: int

    @property
    def tiles(self) -> int:
        """Number of tiles of a channel."""
        down = triton.cdiv(self.batch, self.block_b)
        return int(down * triton.cdiv(self.positions, self.block_p))

    @property
    def values(self) -> float:
        """Number of values of a channel."""
        return float(self.batch * self.positions)

    @property
    def grid(self) -> tuple[int, int]:
        """Programs: a tile each."""
        return self.tiles, self.channels

    @property
    def warps(self) -> int:
        """Warps of a program: 16 or 32 values a thread."""
        return 8 if self.block_b * self.block_p > 2048 else 4


_LONGEST, _TILE, _TILES_AT_ONCE = 8192, 4096, 128


def _tiling(x: Tensor) -> _Tiling:
    """Cut maps so that a program has some thousand values, of several samples."""
    batch, channels = x.shape[:2]
    positions = x.numel() // (batch * channels)
    block_p = min(triton.next_power_of_2(positions), _LONGEST)
    return _Tiling(batch, channels, positions, max(1, _TILE // block_p), block_p)


def norm_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: tuple[Tensor, Tensor, Tensor],
    share: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a training batch, and update running statistics.

    Args:
        x: Contiguous maps (B, C, ...), not empty.
        weight: Scales (C).
        bias: Shifts (C).
        statistics: Running means, running variances and number of batches, changed in
            place.
        share: By how much the batch moves them.
        eps: What is added to the variance.
        relu: Whether a ReLU follows.

    Returns:
        Maps like ``x``, means (C) and inverse deviations (C) of the batch.
    """
    tiling = _tiling(x)
    size = tiling.batch, tiling.channels, tiling.positions, tiling.tiles
    blocks = {'BLOCK_B': tiling.block_b, 'BLOCK_P': tiling.block_p}
    means, squares = torch.empty(
        2, tiling.channels, tiling.tiles, dtype=torch.float32, device=x.device
    )
    mean, inverse = torch.empty(
        2, tiling.channels, dtype=torch.float32, device=x.device
    )
    y = torch.empty_like(x)
    _moments[tiling.grid](x, means, squares, *size, **blocks, num_warps=tiling.warps)
    unbiased = tiling.values / max(tiling.values - 1.0, 1.0)
    _normalize[tiling.grid](
        x, y, means, squares, weight, bias, mean, inverse, *statistics,
        *size, tiling.values, eps, share, unbiased,
        **blocks, BLOCK_T=_TILES_AT_ONCE, RELU=relu, num_warps=tiling.warps,
    )  # fmt: skip
    return y, mean, inverse


def norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate :func:`norm_forward`.

    Args:
        grad: Gradient of its output, contiguous.
        x: Its input.
        weight: Scales (C).
        bias: Shifts (C).
        mean: Means of the batch (C).
        inverse: Inverse deviations of the batch (C).
        relu: Whether a ReLU follows.

    Returns:
        Gradients of input, scales and shifts.
    """
    tiling = _tiling(x)
    size = tiling.batch, tiling.channels, tiling.positions, tiling.tiles
    blocks = {'BLOCK_B': tiling.block_b, 'BLOCK_P': tiling.block_p, 'RELU': relu}
    sums, products = torch.empty(
        2, tiling.channels, tiling.tiles, dtype=torch.float32, device=x.device
    )
    gx, gw, gb = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    known = grad, x, weight, bias, mean, inverse, sums, products
    _gradient_sums[tiling.grid](*known, *size, **blocks, num_warps=tiling.warps)
    _gradient_of_input[tiling.grid](
        *known, gx, gw, gb, *size, tiling.values,
        **blocks, BLOCK_T=_TILES_AT_ONCE, num_warps=tiling.warps,
    )  # fmt: skip
    return gx, gw, gb


# --------------------------------------------------------------------------------------
# Convolution with static kernels of 3x3x3 positions, stride 1, one zero around the maps
#
# A line of the last axis is read whole, 16 bytes at once where it is so long: its places
# are inputs of a matrix product, as the channels are. The three elements of a kernel
# along the line become a band in a matrix, whose rows are outputs and their places; the
# nine elements across lines are a loop. Most of what is multiplied is zero, which units
# for products do not feel; reading elements one by one, each three times, they would.


@triton.jit
def _lay_bands(
    weight, bands, groups,
    PER_IN: tl.constexpr, PER_OUT: tl.constexpr, ACROSS: tl.constexpr,
    ALL_K: tl.constexpr, ALL_M: tl.constexpr, TURNED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the kernels of a group and of one of nine elements across lines as a band."""
    tap, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column = place // ALL_K, place % ALL_K
    along = column % ACROSS - row % ACROSS + 1
    if TURNED:
        out, one, element = column // ACROSS, row // ACROSS, (8 - tap) * 3 + 2 - along
    else:
        out, one, element = row // ACROSS, column // ACROSS, tap * 3 + along
    there = (along >= 0) & (along < 3) & (out < PER_OUT) & (one < PER_IN)
    values = tl.load(
        weight + ((group * PER_OUT + out) * PER_IN + one) * 27 + element,
        mask=there,
        other=0.0,
    )
    start = tl.program_id(0) * ALL_M * ALL_K
    tl.store(bands + start + place, values, mask=place < ALL_M * ALL_K)


@triton.jit
def _inside(line, tap, rows, columns):
    """Say which lines have a neighbour inside the map, and how far it is."""
    first, second = tap // 3 - 1, tap % 3 - 1
    row, column = line // columns + first, line % columns + second
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return inside & (line < rows * columns), first * columns + second


@triton.jit
def _in_line(
    lines, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    ACROSS: tl.constexpr, BLOCK: tl.constexpr, start,
):  # fmt: skip
    """Offsets of some channels' places in a line, and which of them exist."""
    place = tl.arange(0, BLOCK)
    channel = start + place // ACROSS
    inside = channel < CHANNELS
    if WIDTH != ACROSS:
        inside &= place % ACROSS < WIDTH
    return channel * lines * WIDTH + place % ACROSS, inside


@triton.jit(do_not_specialize=_SIZES)
def _conv(
    x, bands, y, step, groups, tiles, rows, columns,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, WIDTH: tl.constexpr,
    ACROSS: tl.constexpr, ALL_K: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Convolve some lines of a sample, for some output channels of a group."""
    sample, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    group, part = tl.program_id(1), tl.program_id(2)
    lines = rows * columns
    line = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    sample = sample.to(tl.int64)
    start = (sample * groups + group) * lines * WIDTH * CHANNELS
    out = part * BLOCK_M + tl.arange(0, BLOCK_M)
    values = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for turn in range(9 * (ALL_K // BLOCK_K)):
        tap, piece = turn // (ALL_K // BLOCK_K), turn % (ALL_K // BLOCK_K)
        inside, shift = _inside(line, tap, rows, columns)
        places, there = _in_line(
            lines, CHANNELS, WIDTH, ACROSS, BLOCK_K, piece * (BLOCK_K // ACROSS)
        )
        maps = tl.load(
            x + start + ((line + shift) * WIDTH)[:, None] + places[None, :],
            mask=inside[:, None] & there[None, :],
            other=0.0,
        )
        column = piece * BLOCK_K + tl.arange(0, BLOCK_K)
        band = tl.load(
            bands
            + ((tap * groups + group) * ALL_M + out)[:, None] * ALL_K
            + column[None, :]
        )
        values = tl.dot(maps, tl.trans(band), values, input_precision=PRECISION)
    places, there = _in_line(
        lines, OUTPUTS, WIDTH, ACROSS, BLOCK_M, part * (BLOCK_M // ACROSS)
    )
    start = sample * step + group * OUTPUTS * lines * WIDTH
    tl.store(
        y + start + (line * WIDTH)[:, None] + places[None, :],
        values.to(y.dtype.element_ty),
        mask=(line < lines)[:, None] & there[None, :],
    )


@triton.jit(do_not_specialize=[*_SIZES, 'share'])
def _conv_weight(
    grad, x, partial, batch, share, groups, tiles, rows, columns,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, WIDTH: tl.constexpr,
    ACROSS: tl.constexpr, ALL_K: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of one of nine elements across lines, from some lines of some samples."""
    first, tile = tl.program_id(0) // tiles * share, tl.program_id(0) % tiles
    tap, group = tl.program_id(1) % 9, tl.program_id(1) // 9
    one = tl.program_id(2) % (ALL_K // BLOCK_K) * (BLOCK_K // ACROSS)
    other = tl.program_id(2) // (ALL_K // BLOCK_K) * (BLOCK_M // ACROSS)
    lines = rows * columns
    line = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    inside, shift = _inside(line, tap, rows, columns)
    places, there = _in_line(lines, CHANNELS, WIDTH, ACROSS, BLOCK_K, one)
    ours = x + ((line + shift) * WIDTH)[:, None] + places[None, :]
    seen = inside[:, None] & there[None, :]
    places, there = _in_line(lines, OUTPUTS, WIDTH, ACROSS, BLOCK_M, other)
    theirs = grad + (line * WIDTH)[:, None] + places[None, :]
    wanted = inside[:, None] & there[None, :]
    values = tl.zeros([BLOCK_K, BLOCK_M], tl.float32)
    start = (first.to(tl.int64) * groups + group) * lines * WIDTH
    for _ in range(first, tl.minimum(first + share, batch)):
        maps = tl.load(ours + start * CHANNELS, mask=seen, other=0.0)
        gradient = tl.load(theirs + start * OUTPUTS, mask=wanted, other=0.0)
        values = tl.dot(tl.trans(maps), gradient, values, input_precision=PRECISION)
        start += groups * lines * WIDTH
    place, out = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_M)
    apart = (place % ACROSS)[:, None] - (out % ACROSS)[None, :] + 1
    one += tl.arange(0, BLOCK_K // ACROSS)
    other += tl.arange(0, BLOCK_M // ACROSS)
    element = ((group * OUTPUTS + other)[None, :] * CHANNELS + one[:, None]) * 27
    whole = groups * OUTPUTS * CHANNELS * 27
    for along in tl.static_range(3):
        sums = tl.reshape(
            tl.where(apart == along, values, 0.0),
            [BLOCK_K // ACROSS, ACROSS, BLOCK_M // ACROSS, ACROSS],
        )
        tl.store(
            partial + tl.program_id(0).to(tl.int64) * whole + element + tap * 3 + along,
            tl.sum(tl.sum(sums, 3), 1),
            mask=(one < CHANNELS)[:, None] & (other < OUTPUTS)[None, :],
        )


# --------------------------------------------------------------------------------------
# 1x1x1 convolution, each sample with kernels of its own


@triton.jit(do_not_specialize=_PRODUCTS)
def _products(
    x, kernels, bias, y, step, blocks, channels, outputs, positions,
    BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_O: tl.constexpr,
    BIASED: tl.constexpr, RELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Multiply some positions of a sample by its kernels."""
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    place = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    out = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    inside, wanted = place < positions, out < outputs
    values = tl.zeros([BLOCK_O, BLOCK_P], tl.float32)
    for start in range(0, channels, BLOCK_I):
        channel = start + tl.arange(0, BLOCK_I)
        there = channel < channels
        maps = tl.load(
            x + sample * step + channel[:, None] * positions + place[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        kernel = tl.load(
            kernels + (sample * outputs + out[:, None]) * channels + channel[None, :],
            mask=wanted[:, None] & there[None, :],
            other=0.0,
        )
        values = tl.dot(kernel, maps, values, input_precision=PRECISION)
    if BIASED:
        shift = tl.load(bias + sample * outputs + out, mask=wanted, other=0.0)
        values += shift.to(tl.float32)[:, None]
    if RELU:
        values = tl.where(values < 0.0, 0.0, values)
    tl.store(
        y + (sample * outputs + out[:, None]) * positions + place[None, :],
        values.to(y.dtype.element_ty),
        mask=wanted[:, None] & inside[None, :],
    )


def products(x: Tensor, kernels: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Multiply each sample by kernels of its own.

    Args:
        x: Maps (B, Cin, ...), contiguous but for the step from sample to sample.
        kernels: Kernels (B, Cout, Cin), contiguous.
        bias: Biases (B, Cout), contiguous.
        relu: Whether a ReLU follows.

    Returns:
        Maps (B, Cout, ...).
    """
    batch, channels, *size = x.shape
    outputs = kernels.shape[1]
    y = x.new_empty(batch, outputs, *size)
    positions = y.numel() // (batch * outputs)
    block_o, block_p = _dot_block(outputs, 32), _dot_block(positions, 128)
    blocks = triton.cdiv(positions, block_p)
    _products[(batch * blocks, triton.cdiv(outputs, block_o))](
        x, kernels, kernels if bias is None else bias, y,
        x.stride(0), blocks, channels, outputs, positions,
        BLOCK_P=block_p, BLOCK_I=32, BLOCK_O=block_o,
        BIASED=bias is not None, RELU=relu, PRECISION=_precision(x, trial.rounds()[0]),
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return y


def _dot_block(channels: int, most: int) -> int:
    """Channels of a block of a product, which has at least 16 of them."""
    return int(min(max(triton.next_power_of_2(channels), 16), most))


def _precision(x: Tensor, rounded: bool) -> str:
    """How products round float32."""
    return 'ieee' if x.dtype == torch.float32 and not rounded else 'tf32'


class _Lines(NamedTuple):
    """How lines of some channels of a group are blocks of a product."""

    across: int
    all_in: int
    all_out: int
    block_lines: int
    tiles: int

    @property
    def parts(self) -> tuple[int, int]:
        """Blocks of inputs and of outputs."""
        return triton.cdiv(self.all_in, 64), triton.cdiv(self.all_out, 64)

    @property
    def bands(self) -> dict[str, int]:
        """Sizes that are constants of kernels for bands."""
        return {'ACROSS': self.across, 'ALL_K': self.all_in, 'ALL_M': self.all_out}

    @property
    def blocks(self) -> dict[str, int]:
        """Sizes that are constants of kernels for products."""
        return {
            **self.bands,
            'BLOCK_N': self.block_lines,
            'BLOCK_K': min(self.all_in, 64),
            'BLOCK_M': min(self.all_out, 64),
        }


def _lines_of(x: Tensor, channels: int, outputs: int, most: int) -> _Lines:
    """Cut the lines of maps, for channels and outputs of a group; most lines at once."""
    rows, columns, width = x.shape[2:]
    across = int(triton.next_power_of_2(width))
    whole_in, whole_out = (
        max(int(triton.next_power_of_2(number)) * across, 16)
        for number in (channels, outputs)
    )
    lines = _dot_block(rows * columns, most)
    tiles = int(triton.cdiv(rows * columns, lines))
    return _Lines(across, whole_in, whole_out, lines, tiles)


def conv_forward(
    x: Tensor,
    weight: Tensor,
    groups: int,
    turned: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve with 3x3x3 kernels, stride 1, zeros around the maps.

    Args:
        x: Contiguous maps (B, Cin, D, H, W), not empty, W at most 64.
        weight: Kernels (Cout, Cin/groups, 3, 3, 3), contiguous.
        groups: Groups of channels.
        turned: Compute the gradient of the maps instead: ``x`` is that of the output,
            (B, Cout, D, H, W).
        out: Where to write the result: each sample is contiguous.

    Returns:
        Maps (B, Cout, D, H, W), or their gradient (B, Cin, D, H, W).
    """
    per_out, per_in = weight.shape[0] // groups, weight.shape[1]
    channels, outputs = (per_out, per_in) if turned else (per_in, per_out)
    batch, _, rows, columns, width = x.shape
    # Values of two bytes that are not read in pairs take as many registers as four.
    paired = x.itemsize == 2 and width % 2 == 0
    cut = _lines_of(x, channels, outputs, 128 if paired else 64)
    bands = weight.new_empty(9, groups, cut.all_out, cut.all_in)
    _lay_bands[(9 * groups, triton.cdiv(cut.all_out * cut.all_in, 1024))](
        weight, bands, groups, PER_IN=per_in, PER_OUT=per_out, TURNED=turned,
        BLOCK=1024, **cut.bands,
    )  # fmt: skip
    size = batch, outputs * groups, rows, columns, width
    y = x.new_empty(size) if out is None else out
    _conv[(batch * cut.tiles, groups, cut.parts[1])](
        x, bands, y, y.stride(0), groups, cut.tiles, rows, columns,
        CHANNELS=channels, OUTPUTS=outputs, WIDTH=width, **cut.blocks,
        PRECISION=_precision(x, trial.rounds()[1]), num_warps=4, num_stages=3,
    )  # fmt: skip
    return y


def conv_weight_gradient(grad: Tensor, x: Tensor, groups: int) -> Tensor:
    """Differentiate :func:`conv_forward` with respect to its kernels.

    Args:
        grad: Gradient of its output, contiguous.
        x: Its input.
        groups: Groups of channels.

    Returns:
        Gradient in float32, (Cout, Cin/groups, 3, 3, 3).
    """
    batch, _, rows, columns, width = x.shape
    channels, outputs = x.shape[1] // groups, grad.shape[1] // groups
    cut = _lines_of(x, channels, outputs, 64)
    blocks = cut.parts[0] * cut.parts[1]
    # About eight programs a multiprocessor.
    pieces = max(1, min(1024 // (9 * groups * cut.tiles * blocks), batch))
    share = triton.cdiv(batch, pieces)
    programs = triton.cdiv(batch, share) * cut.tiles
    shape = groups * outputs, channels, 3, 3, 3
    partial = torch.empty(programs, *shape, dtype=torch.float32, device=x.device)
    _conv_weight[(programs, 9 * groups, blocks)](
        grad, x, partial, batch, share, groups, cut.tiles, rows, columns,
        CHANNELS=channels, OUTPUTS=outputs, WIDTH=width, **cut.blocks,
        PRECISION=_precision(x, trial.rounds()[1]), num_warps=4, num_stages=3,
    )  # fmt: skip
    return partial.sum(0)


# --------------------------------------------------------------------------------------
# Mapping networks, on pooled maps (B, C): a program has all samples of some channels

_CHANNELS = 16
# Parts of alpha's gradient that are added up at once: one of each 16 channels, of up to
# 512. For more channels a kernel with more parts is compiled.
_PIECES = 32


@triton.jit
def _columns(batch, channels, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr):
    """Channels of this program, offsets of all of their values, and which exist."""
    row = tl.arange(0, BLOCK_B)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (row < batch)[:, None] & (channel < channels)[None, :]
    return channel, row[:, None] * channels + channel[None, :], inside


@triton.jit
def _normal_distribution(x):
    """Share of values below x, and their density there."""
    below = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    return below, 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit(do_not_specialize=_SMALL)
def _context_norm(
    h, u, weight, bias, mean, inverse, running_mean, running_var, tracked,
    batch, channels, eps, share, unbiased,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Normalize channels by the batch, and apply GELU."""
    channel, places, inside = _columns(batch, channels, BLOCK_B, BLOCK_C)
    there = channel < channels
    values = tl.load(h + places, mask=inside, other=0.0)
    whole = tl.sum(values, 0) / batch
    apart = tl.where(inside, values - whole[None, :], 0.0)
    variance = tl.sum(apart * apart, 0) / batch
    rest = 1.0 / tl.sqrt(variance + eps)
    tl.store(mean + channel, whole, mask=there)
    tl.store(inverse + channel, rest, mask=there)
    old = tl.load(running_mean + channel, mask=there)
    tl.store(running_mean + channel, old + share * (whole - old), mask=there)
    old = tl.load(running_var + channel, mask=there)
    new = old + share * (variance * unbiased - old)
    tl.store(running_var + channel, new, mask=there)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + 1)
    scale = tl.load(weight + channel, mask=there, other=0.0) * rest
    shift = tl.load(bias + channel, mask=there, other=0.0)
    values = apart * scale[None, :] + shift[None, :]
    if GELU:
        below, _ = _normal_distribution(values)
        values = values * below
    tl.store(u + places, values, mask=inside)


@triton.jit(do_not_specialize=[*_SMALL, 'pieces'])
def _context_norm_gradient(
    grad, h, weight, bias, mean, inverse, skipped, parts, gh, gw, gb, ga,
    batch, channels, pieces,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of a normalization; of a residual block, GELU and the sum as well."""
    channel, places, inside = _columns(batch, channels, BLOCK_B, BLOCK_C)
    there = channel < channels
    rest = tl.load(inverse + channel, mask=there, other=0.0)
    values = tl.load(h + places, mask=inside, other=0.0)
    apart = values - tl.load(mean + channel, mask=there, other=0.0)[None, :]
    normed = tl.where(inside, apart * rest[None, :], 0.0)
    scale = tl.load(weight + channel, mask=there, other=0.0)
    gradient = tl.load(grad + places, mask=inside, other=0.0)
    if BLOCK:
        shift = tl.load(bias + channel, mask=there, other=0.0)
        value = normed * scale[None, :] + shift[None, :]
        below, density = _normal_distribution(value)
        gradient *= below + value * density
    total, along = tl.sum(gradient, 0), tl.sum(gradient * normed, 0)
    tl.store(gb + channel, total, mask=there)
    tl.store(gw + channel, along, mask=there)
    gradient -= (total / batch)[None, :] + normed * (along / batch)[None, :]
    gradient *= (scale * rest)[None, :]
    if BLOCK:
        gradient += tl.load(skipped + places, mask=inside, other=0.0)
        if tl.program_id(0) == 0:
            part = tl.arange(0, BLOCK_T)
            tl.store(
                ga, tl.sum(tl.load(parts + part, mask=part < pieces, other=0.0), 0)
            )
    tl.store(gh + places, gradient, mask=inside)


@triton.jit(do_not_specialize=_SMALL)
def _residual_gradient(
    grad, mapped, alpha, gm, gb, parts, batch, channels,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of what a residual block adds, of its biases, and parts of alpha's."""
    channel, places, inside = _columns(batch, channels, BLOCK_B, BLOCK_C)
    gradient = tl.load(grad + places, mask=inside, other=0.0)
    product = gradient * tl.load(mapped + places, mask=inside, other=0.0)
    tl.store(parts + tl.program_id(0), tl.sum(tl.sum(product, 1), 0))
    gradient *= tl.load(alpha)
    tl.store(gm + places, gradient, mask=inside)
    tl.store(gb + channel, tl.sum(gradient, 0), mask=channel < channels)


@triton.jit
def _temperature(raw, floor):
    """Temperature and its slope: ``floor + softplus(raw)``."""
    value = tl.load(raw)
    power = tl.exp(tl.minimum(value, 20.0))
    softplus = tl.where(value > 20.0, value, tl.log(1.0 + power))
    return floor + softplus, tl.where(value > 20.0, 1.0, power / (1.0 + power))


@triton.jit(do_not_specialize=['batch'])
def _shares(
    logits, raw, shares, batch, experts, floor,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Softmax of logits over a temperature."""
    expert, places, inside = _columns(batch, experts, BLOCK_B, BLOCK_C)
    tau, _ = _temperature(raw, floor)
    values = tl.load(logits + places, mask=inside, other=0.0) / tau
    known = (expert < experts)[None, :]
    values = tl.where(known, values, -float('inf'))
    values = tl.exp(values - tl.max(values, 1)[:, None])
    tl.store(shares + places, values / tl.sum(values, 1)[:, None], mask=inside)


@triton.jit(do_not_specialize=['batch'])
def _shares_gradient(
    grad, shares, logits, raw, gl, gb, gt, batch, experts, floor,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of logits, of the biases behind them and of the raw temperature."""
    expert, places, inside = _columns(batch, experts, BLOCK_B, BLOCK_C)
    tau, slope = _temperature(raw, floor)
    share = tl.load(shares + places, mask=inside, other=0.0)
    gradient = share * tl.load(grad + places, mask=inside, other=0.0)
    gradient = (gradient - share * tl.sum(gradient, 1)[:, None]) / tau
    tl.store(gl + places, gradient, mask=inside)
    tl.store(gb + expert, tl.sum(gradient, 0), mask=expert < experts)
    values = tl.load(logits + places, mask=inside, other=0.0)
    tl.store(gt, -slope * tl.sum(tl.sum(gradient * values, 1), 0) / tau)


def _blocks_of(h: Tensor) -> dict[str, int]:
    """Blocks of a program: all samples."""
    rows = int(triton.next_power_of_2(h.shape[0]))
    return {'BLOCK_B': rows, 'BLOCK_C': _CHANNELS, 'num_warps': 4}


def context_norm(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: tuple[Tensor, Tensor, Tensor],
    share: float,
    eps: float,
    gelu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize contexts by their batch, and update running statistics.

    Args:
        h: Contexts (B, C), float32, contiguous.
        weight: Scales (C).
        bias: Shifts (C).
        statistics: Running means, running variances and number of batches, changed in
            place.
        share: By how much the batch moves them.
        eps: What is added to the variance.
        gelu: Whether GELU follows.

    Returns:
        Contexts (B, C), means (C) and inverse deviations (C).
    """
    batch, channels = h.shape
    u, mean, inverse = torch.empty_like(h), *torch.empty_like(h[:2])
    _context_norm[(triton.cdiv(channels, _CHANNELS),)](
        h, u, weight, bias, mean, inverse, *statistics, batch, channels, eps, share,
        batch / (batch - 1), GELU=gelu, **_blocks_of(h),
    )  # fmt: skip
    return u, mean, inverse


def context_norm_gradient(
    grad: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    skipped: Tensor | None = None,
    parts: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Differentiate :func:`context_norm`, within a residual block if it is in one.

    Args:
        grad: Gradient of its output.
        h: Its input.
        weight: Scales (C).
        bias: Shifts (C).
        mean: Means of the batch (C).
        inverse: Inverse deviations of the batch (C).
        skipped: Gradient of the block's output, if GELU followed.
        parts: What :func:`residual_gradient` has left of alpha's gradient.

    Returns:
        Gradients of input, scales, shifts and, in a block, alpha (1).
    """
    batch, channels = h.shape
    gh, gw, gb = (torch.empty_like(t) for t in (h, weight, bias))
    ga = torch.empty_like(weight[:1])
    pieces = triton.cdiv(channels, _CHANNELS)
    block = skipped is not None and parts is not None
    _context_norm_gradient[(pieces,)](
        grad, h, weight, bias, mean, inverse, skipped if block else h,
        parts if block else h, gh, gw, gb, ga, batch, channels, pieces,
        BLOCK_T=max(triton.next_power_of_2(pieces), _PIECES), BLOCK=block, **_blocks_of(h),
    )  # fmt: skip
    return (gh, gw, gb, ga) if block else (gh, gw, gb)


def residual_gradient(
    grad: Tensor, mapped: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate ``h + alpha * (u @ kernel.T + bias)``, its product apart.

    Args:
        grad: Gradient of the sum (B, C).
        mapped: What alpha multiplies (B, C).
        alpha: The weight (1).

    Returns:
        Gradients of ``mapped`` and of the biases, and parts of that of alpha.
    """
    batch, channels = grad.shape
    pieces = triton.cdiv(channels, _CHANNELS)
    gm, gb = torch.empty_like(grad), torch.empty_like(grad[0])
    parts = grad.new_empty(pieces)
    _residual_gradient[(pieces,)](
        grad, mapped, alpha, gm, gb, parts, batch, channels, **_blocks_of(grad)
    )
    return gm, gb, parts


def shares(logits: Tensor, raw: Tensor, floor: float) -> Tensor:
    """Turn logits (B, K) into weights of experts, at most 16 of them.

    Args:
        logits: Logits, float32, contiguous.
        raw: Raw temperature, one value; the temperature is ``floor + softplus(raw)``.
        floor: Lowest temperature.

    Returns:
        Weights (B, K).
    """
    found = torch.empty_like(logits)
    _shares[(1,)](logits, raw, found, *logits.shape, floor, **_blocks_of(logits))
    return found


def shares_gradient(
    grad: Tensor, found: Tensor, logits: Tensor, raw: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate :func:`shares`.

    Args:
        grad: Gradient of the weights, contiguous.
        found: The weights.
        logits: Logits.
        raw: Raw temperature.
        floor: Lowest temperature.

    Returns:
        Gradients of logits, of biases that were added to them (K), and of ``raw``.
    """
    gl, gb, gt = (torch.empty_like(t) for t in (logits, logits[0], raw))
    _shares_gradient[(1,)](
        grad, found, logits, raw, gl, gb, gt, *logits.shape, floor, **_blocks_of(logits)
    )
    return gl, gb, gt
