# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The 3D-DenseNet skeleton that EKGNet and its relatives share.

A strided stem, three dense blocks whose growth rate doubles from block to block, mean
pooling between them without any compression, so that every layer sees all features
before it (arXiv 2504.13045, section 2.3). The networks differ by the 1x1x1 bottleneck
of a dense layer alone.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from timm.layers import register_notrace_function
from timm.models import checkpoint
from torch import Tensor, nn

from ..layers import AveragePool3d, DynamicExpertConv3d, GroupedConv3d, pool_context
from ..layers.geometry import Geometry
from ..layers.norm import conv_norm, dense_layer, norm_act
from ..layers.rule import faster_order, reads_slices, watched
from ._blocks import SpectralCollapse
from ._contract import SpectralSpatialNet, feature_levels, leaf_module

__all__ = ['Bottleneck', 'DenseLayer', 'DenseSkeleton', 'DenseStage', 'init_conv3d']

#: Makes the 1x1x1 layer of a dense layer from its input and output channels.
Bottleneck = Callable[[int, int], nn.Module]

register_notrace_function(pool_context)


def init_conv3d(conv: nn.Module) -> None:
    """Draw a convolution's kernel as the released network does.

    A normal distribution of variance 2 / (rows * columns * Cout): the extent along
    the spectral axis does not enter.

    Args:
        conv: A convolution with a ``weight`` of (Cout, Cin/groups, kD, kH, kW).
    """
    weight = cast(Tensor, conv.weight)
    fan = weight.shape[0] * weight.shape[-2] * weight.shape[-1]
    nn.init.normal_(weight, 0.0, math.sqrt(2.0 / fan))


class DenseLayer(nn.Module):
    """Bottleneck, BN, ReLU, grouped 3x3x3 convolution: the new channels of a block.

    Inside a block rows lie before bands, (B, C, H, D, W), or bands last, (B, C, H, W, D),
    where the grouped convolution is faster. Nothing else in a layer minds.

    Args:
        in_channels: Channels of the input.
        growth_rate: Channels that the layer adds.
        bottleneck_layer: Makes the 1x1x1 layer, which must not depend on the order of
            the axes.
        expansion: Width of the bottleneck in growth rates.
        groups: Groups of the 3x3x3 convolution.
        drop_rate: Dropout of the added channels.
        pixelwise: Make it a 1x1x1 convolution.
    """

    # A constant for TorchScript, which compiles only the branch that is taken.
    __constants__ = ('takes_context',)
    __jit_unused_properties__ = ('takes_context',)

    def __init__(
        self,
        in_channels: int,
        growth_rate: int,
        bottleneck_layer: Bottleneck,
        expansion: int = 4,
        groups: int = 4,
        drop_rate: float = 0.0,
        pixelwise: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layer."""
        super().__init__()
        width = expansion * growth_rate
        self.bottleneck = bottleneck_layer(in_channels, width)
        self.norm = nn.BatchNorm3d(width, device=device, dtype=dtype)
        self.act = nn.ReLU()
        self.conv = GroupedConv3d(
            width,
            growth_rate,
            1 if pixelwise else 3,
            padding=0 if pixelwise else 1,
            groups=groups,
            bias=False,
            device=device,
            dtype=dtype,
            rows_first=True,
        )
        self.drop = nn.Dropout(drop_rate)

    @property
    def takes_context(self) -> bool:
        """Whether the bottleneck, which anybody may replace, asks for the mean alone."""
        conv = self.bottleneck
        return isinstance(conv, DynamicExpertConv3d) and bool(
            getattr(conv.mapping, 'needs_only_context', False)
        )

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        place: Tensor | None = None,
        bands_last: bool = False,
    ) -> Tensor:
        """Compute the new channels: (B, C, H, D, W) to (B, growth_rate, H, D, W).

        Without gradients they may be written to a place of their own. With
        ``bands_last`` maps are (B, C, H, W, D).
        """
        if torch.jit.is_scripting():
            if self.takes_context:
                inner = self.act(self.norm(self.bottleneck(x, context)))
            else:
                inner = self.act(self.norm(self.bottleneck(x)))
        else:
            known = context if self.takes_context else None
            # A symbolic trace has a stand-in there.
            plain = type(self.conv) is GroupedConv3d and not watched(self.conv)
            if plain:
                whole = dense_layer(
                    self.bottleneck,
                    self.norm,
                    self.act,
                    self.conv,
                    x,
                    known,
                    place if isinstance(place, Tensor) else None,
                    bands_last,
                )
                if whole is not None:
                    return cast(Tensor, self.drop(whole))
            inner = conv_norm(self.bottleneck, self.norm, x, known, self.act)
            if isinstance(place, Tensor) and plain:
                written = self.conv.convolve(
                    inner, self.conv.weight, self.conv.bias, place, bands_last
                )
                return cast(Tensor, self.drop(written))
            if type(self.conv) is GroupedConv3d:
                return cast(Tensor, self.drop(self.conv(inner, bands_last)))
        added: Tensor = self.drop(self.conv(inner))
        return added


class _Append(torch.autograd.Function):
    """Concatenation whose first part lies at the front of a buffer already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor | None, new: Tensor, buffer: Tensor) -> Tensor:
        """Write the new channels behind those that are there."""
        start = 0 if x is None else x.shape[1]
        ctx.start = start
        # The alias has a version of its own: autograd must not take this for a change
        # of the channels in front, which the layers before have kept for backward.
        place = buffer.data.narrow(1, start, new.shape[1])
        if place.data_ptr() != new.data_ptr():
            place.copy_(new)
        return buffer.narrow(1, 0, start + new.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Part the gradient."""
        start: int = ctx.start
        rest = grad.narrow(1, start, grad.shape[1] - start)
        return grad.narrow(1, 0, start) if start else None, rest, None


def make_buffer(x: Tensor, channels: int) -> Tensor | None:
    """Make a buffer for maps of a block, where its layers can read parts of it."""
    if torch.jit.is_scripting():
        return None
    if not reads_slices(x):
        return None
    return x.new_empty([x.shape[0], channels, x.shape[2], x.shape[3], x.shape[4]])


def find_place(x: Tensor, channels: int, buffer: Tensor | None) -> Tensor | None:
    """Find where channels behind those of ``x`` may be written without gradients."""
    if not torch.jit.is_scripting():
        start = x.shape[1]
        roomy = buffer is not None and start + channels <= buffer.shape[1]
        if buffer is not None and roomy and not torch.is_grad_enabled():
            return buffer.narrow(1, start, channels)
    return None


def append_maps(x: Tensor | None, new: Tensor, buffer: Tensor | None) -> Tensor:
    """Concatenate channels, in the buffer while there is room.

    Every layer of a block reads all channels before it. Copies of them take memory that
    grows with the square of the depth; slices of one buffer do not.

    Args:
        x: Maps, (B, C, H, D, W), the buffer's first channels; None for none.
        new: Maps to follow, (B, C', H, D, W).
        buffer: What :func:`make_buffer` made.

    Returns:
        Maps, (B, C + C', H, D, W).
    """
    if not torch.jit.is_scripting():
        channels = new.shape[1] + (0 if x is None else x.shape[1])
        if buffer is not None and channels <= buffer.shape[1]:
            return cast(Tensor, _Append.apply(x, new, buffer))
    return new.contiguous() if x is None else torch.cat([x, new], 1)


def puts_bands_last(x: Tensor, channels: int, out: int, groups: int) -> bool:
    """Whether the 3x3x3 convolutions of a block are faster with bands as the last axis.

    Args:
        x: Maps of the block, (B, C, H, D, W).
        channels: Input channels of its convolutions.
        out: Their output channels.
        groups: Their groups.
    """
    if torch.jit.is_scripting():
        return False
    if x.device.type != 'cpu' or x.dtype != torch.float32 or not reads_slices(x):
        return False
    size = (x.shape[3], x.shape[2], x.shape[4])
    geometry = Geometry((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), groups)
    w_shape = (out, channels // groups, 3, 3, 3)
    return faster_order(size, w_shape, geometry) == 'HWD'


def lie_bands_last(x: Tensor) -> bool:
    """Whether bands are the last axis of maps (B, C, D, H, W) in memory."""
    if torch.jit.is_scripting():
        return False
    if x.device.type != 'cpu' or x.transpose(2, 3).is_contiguous():
        return False
    return x.movedim(2, 4).is_contiguous()


def to_order(x: Tensor, bands_last: bool) -> Tensor:
    """Turn maps (B, C, D, H, W) into (B, C, H, D, W) or (B, C, H, W, D)."""
    return x.movedim(2, 4) if bands_last else x.transpose(2, 3)


def from_order(x: Tensor, bands_last: bool) -> Tensor:
    """Undo :func:`to_order`."""
    return x.movedim(4, 2) if bands_last else x.transpose(2, 3)


def maps_to_pixels(x: Tensor) -> Tensor:
    """Make a sample of every pixel: (B, C, D, H, W) to (B * H * W, C, D, 1, 1)."""
    pixels = x.permute(0, 3, 4, 1, 2)
    return pixels.reshape(-1, x.shape[1], x.shape[2], 1, 1)


def pixels_to_maps(x: Tensor, like: Tensor) -> Tensor:
    """Put the pixels of maps together again, in rows and columns of other maps."""
    maps = x.reshape(
        like.shape[0], like.shape[3], like.shape[4], x.shape[1], x.shape[2]
    )
    return maps.permute(0, 3, 4, 1, 2)


# fx wraps functions only whose names have no underscore in front.
register_notrace_function(make_buffer)
register_notrace_function(append_maps)
register_notrace_function(find_place)
register_notrace_function(puts_bands_last)
register_notrace_function(lie_bands_last)
register_notrace_function(to_order)
register_notrace_function(from_order)


class DenseStage(nn.Module):
    """A dense block behind its pooling.

    Args:
        in_channels: Channels of the input.
        num_layers: Number of dense layers.
        growth_rate: Channels that each adds.
        bottleneck_layer: Makes the 1x1x1 layer of a dense layer.
        pool: Halve the axes first.
        expansion: Width of the bottlenecks in growth rates.
        groups: Groups of the 3x3x3 convolutions.
        drop_rate: Dropout of the added channels.
        pixelwise: Make these 1x1x1 convolutions, and take every pixel for a sample.
    """

    # Constants for TorchScript, which compiles only the branch that is taken.
    reads_slices: Final[bool]
    pixelwise: Final[bool]

    def __init__(
        self,
        in_channels: int,
        num_layers: int,
        growth_rate: int,
        bottleneck_layer: Bottleneck,
        pool: bool,
        expansion: int = 4,
        groups: int = 4,
        drop_rate: float = 0.0,
        pixelwise: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the block."""
        super().__init__()
        self.pixelwise = pixelwise
        self.pool = AveragePool3d() if pool else nn.Identity()
        self.layers = nn.ModuleList(
            DenseLayer(
                in_channels + index * growth_rate,
                growth_rate,
                bottleneck_layer,
                expansion,
                groups,
                drop_rate,
                pixelwise,
                device,
                dtype,
            )
            for index in range(num_layers)
        )
        self.growth_rate = growth_rate
        self.width = expansion * growth_rate
        self.groups = groups
        self.out_channels = in_channels + num_layers * growth_rate
        #: Channels of which the layers read the first few; the output is apart.
        self.read_channels = self.out_channels - growth_rate
        self.reads_slices = all(
            isinstance(cast(Any, layer).bottleneck, DynamicExpertConv3d)
            for layer in self.layers
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool, then append the channels of every layer.

        (B, C, D, H, W) to (B, out_channels, D', H', W').
        """
        if self.pixelwise:
            return pixels_to_maps(self.whole(maps_to_pixels(x)), x)
        return self.whole(x)

    def whole(self, x: Tensor) -> Tensor:
        """Pool, then append the channels of every layer, all pixels together."""
        # Rows before bands: the order in which the block before has left its maps.
        x = self.pool(x.transpose(2, 3))
        last = self.bands_last(x)
        x = to_order(x.transpose(2, 3), last)
        # Without gradients nothing keeps the buffer: it may hold the output as well.
        room = self.read_channels if torch.is_grad_enabled() else self.out_channels
        buffer = make_buffer(x, room) if self.reads_slices else None
        x = append_maps(None, x, buffer)
        # The mean of a concatenation is the concatenation of the means.
        context = pool_context(x)
        for layer in self.layers:
            new = layer(x, context, find_place(x, self.growth_rate, buffer), last)
            context = torch.cat([context, pool_context(new)], 1)
            x = append_maps(x, new, buffer)
        return from_order(x, last)

    def bands_last(self, x: Tensor) -> bool:
        """Whether the block puts bands last; x: (B, C, H, D, W)."""
        if torch.jit.is_scripting():
            return False
        if self.pixelwise or not self._can_turn():
            return False
        return puts_bands_last(x, self.width, self.growth_rate, self.groups)

    @torch.jit.unused
    def _can_turn(self) -> bool:
        """Whether all convolutions take maps in both orders."""
        return all(
            type(getattr(layer, 'conv', None)) is GroupedConv3d for layer in self.layers
        )

    @torch.jit.unused
    def recompute(self, x: Tensor) -> Tensor:
        """Compute :meth:`forward`, each layer anew in the backward pass.

        What is kept are the added channels, once; the maps that a layer reads are put
        together again as well. So memory grows with the depth, not with its square.
        """
        like = x
        if self.pixelwise:
            x = maps_to_pixels(x)
        x = self.pool(x.transpose(2, 3))
        last = self.bands_last(x)
        x = to_order(x.transpose(2, 3), last).contiguous()
        context, maps = pool_context(x), [x]
        for layer in self.layers:
            new = checkpoint(partial(_joined, layer, last), context, *maps)
            context = torch.cat([context, pool_context(new)], 1)
            maps.append(new)
        x = from_order(torch.cat(maps, 1), last)
        return pixels_to_maps(x, like) if self.pixelwise else x


def _joined(layer: nn.Module, last: bool, context: Tensor, *maps: Tensor) -> Tensor:
    """Run a dense layer on maps that lie apart."""
    new: Tensor = layer(torch.cat(maps, 1), context, None, last)
    return new


def _check_sizes(
    block_config: Sequence[int],
    growth_rate: int,
    groups: int,
    stem_channels: int,
    stem_kernel: Sequence[int],
    stem_stride: Sequence[int],
) -> None:
    """Refuse sizes that no network can have."""
    for name, sizes, count in (
        ('block_config', block_config, None),
        ('stem_kernel', stem_kernel, 3),
        ('stem_stride', stem_stride, 3),
    ):
        listed = isinstance(sizes, Sequence) and not isinstance(sizes, str)
        if not listed or count not in (None, len(sizes)):
            raise ValueError(
                f'{name} must be a list of {count or "whole"} numbers, found {sizes!r}'
            )
    if min(*stem_kernel, *stem_stride) < 1:
        raise ValueError(
            f'stem_kernel and stem_stride must be at least 1, found '
            f'{tuple(stem_kernel)} and {tuple(stem_stride)}'
        )
    if groups < 1:
        raise ValueError(f'groups must be at least 1, found {groups}')
    if not block_config or min(block_config) < 1:
        raise ValueError(
            'block_config must hold at least one layer a block, '
            f'found {tuple(block_config)}'
        )
    if growth_rate < 1 or growth_rate % groups:
        raise ValueError(
            f'growth_rate must be a multiple of groups={groups}, found {growth_rate}'
        )
    if stem_channels < 1:
        raise ValueError(f'stem_channels must be at least 1, found {stem_channels}')
    _, rows, cols = stem_stride
    if rows != cols:
        raise ValueError(
            'stem_stride must be equal for rows and columns, which have one '
            f'reduction, found {rows} and {cols}'
        )


def _plain_stem(
    channels: int, kernel: Sequence[int], stride: Sequence[int], dd: dict[str, Any]
) -> nn.Conv3d:
    """Make a stem that slides along bands, rows and columns."""
    depth, rows, cols = kernel
    return GroupedConv3d(
        1,
        channels,
        (depth, rows, cols),
        stride=(stride[0], stride[1], stride[2]),
        padding=(depth // 2, rows // 2, cols // 2),
        bias=False,
        rows_first=True,
        **dd,
    )


class CentreWeights(nn.Module):
    """Weights a map before its mean: most in the middle, least at the border.

    Along rows and columns weights fall linearly from the middle to one step beyond the
    border. Their mean is 1; a map of one pixel stays as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Weigh a map, (B, C, H, W)."""
        rows = _falling(x.shape[2], x)
        cols = _falling(x.shape[3], x)
        return x * (rows[:, None] * cols)


def _falling(length: int, like: Tensor) -> Tensor:
    """Weights of an axis, shape (length,), of mean 1."""
    place = torch.arange(length, device=like.device)
    weights = torch.minimum(place + 1, length - place).to(like.dtype)
    return weights / weights.mean()


leaf_module(CentreWeights)


class DenseSkeleton(SpectralSpatialNet):
    """3D-DenseNet with doubling growth and connections across blocks.

    The stem halves the rows, columns and bands; each pooling between blocks halves
    them again and leaves an axis of length 1 alone, so patches of 1x1 pixels and
    scenes of one band pass as well.

    Args:
        bottleneck_layer: Makes the 1x1x1 layer of a dense layer from its input and
            output channels.
        block_config: Number of dense layers of each block.
        growth_rate: Channels a layer of the first block adds (k0); block m adds
            2^(m-1) k0.
        expansion: Width of the bottlenecks in growth rates.
        groups: Groups of the 3x3x3 convolutions.
        stem_kernel: Kernel of the stem along bands, rows and columns.
        stem_stride: Stride of the stem along bands, rows and columns, the last two
            equal.
        stem_channels: Channels of the stem; 2 k0 by default.
        whole_spectrum: Give the stem a kernel as long as the spectrum in place of
            ``stem_kernel`` and ``stem_stride``, and a BN-ReLU behind it. One place is
            left on the spectral axis then: where a shape lies on it is known to the
            kernel, while the mean over places forgets it. Parameters depend on the
            number of bands.
        pixelwise: Make the 3x3x3 convolutions 1x1x1 and leave out the pooling between
            blocks. Each pixel is classified on its own, with experts of its own, and
            the patch by their mean. With ``whole_spectrum`` only.
        pooling: Halve the axes between blocks. Without it every block sees all pixels
            of a patch, which costs time and keeps borders apart.
        centred: Let the pixels in the middle of a patch count most in its mean
            (``global_pool='avg'``): those at the border may be of another class.
        proj_drop_rate: Dropout of the channels that a dense layer adds.

    Raises:
        ValueError: If a size is not positive, ``groups`` does not divide a growth
            rate, the stem's strides along rows and columns differ, or ``pixelwise`` is
            asked for without ``whole_spectrum``.
    """

    def __init__(
        self,
        bottleneck_layer: Bottleneck,
        num_classes: int = 16,
        in_chans: int = 200,
        global_pool: str = 'avg',
        block_config: Sequence[int] = (4, 6, 8),
        growth_rate: int = 8,
        expansion: int = 4,
        groups: int = 4,
        stem_kernel: Sequence[int] = (3, 3, 3),
        stem_stride: Sequence[int] = (2, 2, 2),
        stem_channels: int | None = None,
        whole_spectrum: bool = False,
        pixelwise: bool = False,
        pooling: bool = True,
        centred: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the network."""
        super().__init__(num_classes, in_chans)
        channels = 2 * growth_rate if stem_channels is None else stem_channels
        _check_sizes(
            block_config, growth_rate, groups, channels, stem_kernel, stem_stride
        )
        if pixelwise and not whole_spectrum:
            raise ValueError('pixelwise: found True, expected whole_spectrum=True too')
        self.pixelwise = pixelwise
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        # In this order: loaders look at the first layer.
        self.stem: nn.Conv3d
        self.stem_act: nn.Module
        if whole_spectrum:
            self.stem = SpectralCollapse(1, channels, in_chans, bias=False, **dd)
            self.stem_act = nn.Sequential(nn.BatchNorm3d(channels, **dd), nn.ReLU())
        else:
            self.stem = _plain_stem(channels, stem_kernel, stem_stride, dd)
            self.stem_act = nn.Identity()
        self.rows_first = not whole_spectrum
        self.stages = nn.ModuleList()
        reduction = 1 if whole_spectrum else stem_stride[1]
        widths, reductions = [], []
        halves = pooling and not pixelwise
        for index, num_layers in enumerate(block_config):
            stage = DenseStage(
                channels,
                num_layers,
                growth_rate * 2**index,
                bottleneck_layer,
                index > 0 and halves,
                expansion,
                groups,
                proj_drop_rate,
                pixelwise,
                **dd,
            )
            channels = stage.out_channels
            reduction *= 2 if index and halves else 1
            self.stages.append(stage)
            widths.append(channels)
            reductions.append(reduction)
        self.feature_info = feature_levels(widths, reductions)
        self.norm = nn.BatchNorm3d(channels, **dd)
        self.act = nn.ReLU()
        if centred:
            self.weigh = CentreWeights()
        self.make_head(channels, global_pool, drop_rate, **dd)
        init_conv3d(self.stem)
        for module in self.modules():
            if isinstance(module, DenseLayer):
                init_conv3d(module.conv)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Give the patches a channel axis and take the stem."""
        if self.rows_first:
            # The order in which the first block wants them.
            rows: Tensor = self.stem(x.unsqueeze(1).transpose(2, 3))
            rows = self.stem_act(rows)
            return rows.transpose(2, 3)
        maps: Tensor = self.stem_act(self.stem(x.unsqueeze(1)))
        return maps

    def forward_norm(self, x: Tensor) -> Tensor:
        """Apply the final normalisation and activation in the order of memory."""
        last = lie_bands_last(x)
        rows = to_order(x, last)
        if torch.jit.is_scripting():
            normed: Tensor = self.act(self.norm(rows))
        else:
            normed = norm_act(self.norm, rows, self.act)
        return from_order(normed, last)
