# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A static grouped convolution on the package's fast path."""

from typing import Literal

import torch
from torch import Tensor, nn

from .functional import grouped_conv3d
from .geometry import Geometry, geometry_of
from .rule import asked_strategy, faster_order, leaf_call, plain_only, symbolic

__all__ = ['GroupedConv3d']


class GroupedConv3d(nn.Conv3d):
    """:class:`torch.nn.Conv3d` computed by :func:`grouped_conv3d`.

    Same arguments, parameters, state dict and result; only the time differs, where
    groups are thin (the 3x3x3 convolutions of the dense layers). String paddings,
    padding modes other than zeros, unbatched input and TorchScript take the plain form.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Extent of the kernels along D, H, W.
        stride: Step of the kernels.
        padding: Positions added on both sides, 'same' or 'valid'.
        dilation: Spacing of the kernel elements.
        groups: Groups of channels that do not see each other.
        bias: Whether there are biases.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: Where the parameters live.
        dtype: Type of the parameters.
        rows_first: Maps come and go as (B, C, H, D, W), the kernels stay as they are. A
            caller that keeps rows before bands in memory spares the unrolled strategy
            its copies.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: str | int | tuple[int, int, int] = 0,
        dilation: int | tuple[int, int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal['zeros', 'reflect', 'replicate', 'circular'] = 'zeros',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        rows_first: bool = False,
    ) -> None:
        """Make the kernels."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.rows_first = rows_first

    def forward(self, input: Tensor, bands_last: bool = False) -> Tensor:
        """Convolve; ``bands_last`` as for :meth:`convolve`."""
        if torch.jit.is_scripting():
            if self.rows_first:
                input = input.transpose(-3, -2)
            y: Tensor = self._conv_forward(input, self.weight, self.bias)
            if self.rows_first:
                y = y.transpose(-3, -2)
            return y
        if symbolic(input):
            asked = None if bands_last is False else bands_last  # may be traced, too
            return leaf_call(self, input, asked)  # type: ignore[no-any-return]
        return self.convolve(input, self.weight, self.bias, bands_last=bands_last)

    @torch.jit.unused
    def convolve(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        out: Tensor | None = None,
        bands_last: bool = False,
    ) -> Tensor:
        """Convolve as this layer does, with other weights than its own.

        Args:
            input: Maps, (B, C, D, H, W).
            weight: Kernels, shaped as those of the layer.
            bias: Biases.
            out: Where to write the output; not for autograd.
            bands_last: Maps come and go as (B, C, H, W, D), whatever the layer says.

        Returns:
            Maps, (B, C', D', H', W').
        """
        plain = input.dim() != 5 or self.padding_mode != 'zeros'
        if plain or isinstance(self.padding, str):
            if bands_last:
                input = input.movedim(-1, -3)
            elif self.rows_first:
                input = input.transpose(-3, -2)
            y: Tensor = self._conv_forward(input, weight, bias)
            if bands_last:
                y = y.movedim(-3, -1)
            elif self.rows_first:
                y = y.transpose(-3, -2)
            return y if out is None else out.copy_(y)
        geometry = geometry_of(
            weight, self.stride, self.padding, self.dilation, self.groups
        )
        # Maps that have to be copied anyway may be copied into the faster order.
        free = self.rows_first and not bands_last and out is None
        turn = free and _faster_bands_last(input, weight, geometry)
        if turn:
            input = input.transpose(3, 4)
        if bands_last or turn:
            weight, geometry = weight.movedim(2, 4), geometry.ordered((1, 2, 0))
        elif self.rows_first:
            weight, geometry = weight.transpose(2, 3), geometry.ordered((1, 0, 2))
        y = grouped_conv3d(
            input,
            weight,
            bias,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            self.groups,
            out=out,
        )
        return y.transpose(3, 4) if turn else y


def _faster_bands_last(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether maps (B, C, H, D, W) in no order of ours are convolved faster bands last."""
    if x.device.type != 'cpu' or x.dtype != torch.float32 or x.is_contiguous():
        return False
    if plain_only(x) or asked_strategy() is not None:
        return False
    size = (x.shape[3], x.shape[2], x.shape[4])
    return faster_order(size, weight.shape, geometry) == 'HWD'
