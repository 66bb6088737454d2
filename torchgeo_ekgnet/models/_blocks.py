# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pieces that several of the baselines share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._contract import leaf_module

__all__ = [
    'ExpectSize',
    'FullExtentConv3d',
    'MaxPool3d',
    'SpectralCollapse',
    'rows_and_columns',
    'shifted_maximum',
]


def rows_and_columns(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Read timm's notation of a patch size.

    Args:
        img_size: One number for square patches, or rows and columns.

    Returns:
        Rows and columns.

    Raises:
        ValueError: If there are not one or two positive numbers.
    """
    sizes = [img_size] * 2 if isinstance(img_size, int) else [int(s) for s in img_size]
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(
            f'img_size must be one or two positive numbers, found {img_size!r}'
        )
    return sizes[0], sizes[1]


@leaf_module
class ExpectSize(nn.Module):
    """Refuse patches of another size than a network's parameters were made for.

    A module and not a function, so that a symbolic trace keeps the check.

    Args:
        rows: Expected rows.
        cols: Expected columns.
    """

    def __init__(self, rows: int, cols: int) -> None:
        """Remember the size."""
        super().__init__()
        self.rows = rows
        self.cols = cols

    def forward(self, x: Tensor) -> Tensor:
        """Check: (B, bands, H, W) to the same shape."""
        rows, cols = x.shape[2], x.shape[3]
        if rows != self.rows or cols != self.cols:
            raise ValueError(
                f'the patches have {rows}x{cols} pixels but the model was made with '
                f'img_size=({self.rows}, {self.cols}); create it with the patch size '
                'of the data'
            )
        return x


@leaf_module
class FullExtentConv3d(nn.Conv3d):
    """A convolution as large as its input: a fully connected layer that keeps axes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        size: Bands, rows and columns of the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the kernel."""
        super().__init__(in_channels, out_channels, size, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Connect everything with everything.

        (B, C, D, H, W) to (B, out_channels, 1, 1, 1).
        """
        out = F.linear(x.flatten(1), self.weight.flatten(1), self.bias)
        return out.reshape(x.shape[0], self.out_channels, 1, 1, 1)


@leaf_module
class SpectralCollapse(nn.Conv3d):
    """A convolution whose kernel spans the whole spectrum, as one matrix product.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        length: Length of the spectral axis.
        bias: Whether there are biases.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        length: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the kernel."""
        kernel = (length, 1, 1)
        super().__init__(
            in_channels, out_channels, kernel, bias=bias, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Collapse the spectral axis.

        (B, C, length, H, W) to (B, out_channels, 1, H, W).
        """
        batch, _, _, rows, cols = x.shape
        out = torch.matmul(self.weight.flatten(1), x.flatten(3).flatten(1, 2))
        bias = self.bias
        if bias is not None:
            out = out + bias.unsqueeze(1)
        return out.reshape(batch, self.out_channels, 1, rows, cols)


@leaf_module
class MaxPool3d(nn.Module):
    """3x3x3 maximum; an axis that is too short for its window is left alone.

    Where PyTorch is asked for deterministic algorithms on a GPU, which it does not
    offer for 3D maxima, the maximum is taken axis by axis from shifted views. Where
    neighbours are equal, they share the gradient then.

    Args:
        stride: 1 keeps the size (the border is padded), 2 halves each axis without
            padding; an axis shorter than 3 is left alone then.

    Raises:
        ValueError: If ``stride`` is neither 1 nor 2.
    """

    def __init__(self, stride: int = 1) -> None:
        """Remember the stride."""
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f'stride must be 1 or 2, found {stride}')
        self.stride = stride

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f'stride={self.stride}'

    def forward(self, x: Tensor) -> Tensor:
        """Take maxima; an axis of n keeps it, or has (n - 3) // 2 + 1 at stride 2."""
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript needs the nesting)
            if x.is_cuda and torch.are_deterministic_algorithms_enabled():
                return shifted_maximum(x, self.stride)
        if self.stride == 1:
            return F.max_pool3d(x, 3, 1, 1)
        depth, rows, cols = x.shape[2] >= 3, x.shape[3] >= 3, x.shape[4] >= 3
        kernel = [3 if depth else 1, 3 if rows else 1, 3 if cols else 1]
        stride = [2 if depth else 1, 2 if rows else 1, 2 if cols else 1]
        return F.max_pool3d(x, kernel, stride)


def shifted_maximum(x: Tensor, stride: int) -> Tensor:
    """Take 3x3x3 maxima as :class:`MaxPool3d` does, deterministically everywhere.

    Args:
        x: Maps, (B, C, D, H, W).
        stride: 1 or 2.

    Returns:
        Maps.
    """
    for axis in (4, 3, 2):
        length = x.shape[axis]
        if stride == 2 and length >= 3:
            out = (length - 3) // 2 + 1
            views = [
                x.narrow(axis, shift, 2 * out - 1).movedim(axis, 0)[::2]
                for shift in range(3)
            ]
            x = torch.maximum(torch.maximum(views[0], views[1]), views[2])
            x = x.movedim(0, axis)
        elif stride == 1 and length > 1:
            pairs = torch.maximum(
                x.narrow(axis, 0, length - 1), x.narrow(axis, 1, length - 1)
            )
            inner = torch.maximum(
                pairs.narrow(axis, 0, length - 2), pairs.narrow(axis, 1, length - 2)
            )
            ends = pairs.narrow(axis, 0, 1), pairs.narrow(axis, length - 2, 1)
            x = torch.cat([ends[0], inner, ends[1]], axis)
    return x
