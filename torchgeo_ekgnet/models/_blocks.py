# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pieces that several of the baselines share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._contract import leaf_module

__all__ = ['ExpectSize', 'FullExtentConv3d', 'MaxPool3d', 'rows_and_columns']


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
        """Check.

        Args:
            x: Patches, (B, bands, H, W).

        Returns:
            The same patches.

        Raises:
            ValueError: If the size is another.
        """
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
        device: Where the parameters live.
        dtype: Type of the parameters.
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

        Args:
            x: Maps, (B, C, D, H, W) of the size given to the constructor.

        Returns:
            Maps, (B, out_channels, 1, 1, 1).
        """
        out = F.linear(x.flatten(1), self.weight.flatten(1), self.bias)
        return out.reshape(x.shape[0], -1, 1, 1, 1)


@leaf_module
class MaxPool3d(nn.Module):
    """3x3x3 maximum, taken axis by axis from shifted views.

    Its backward pass is deterministic on every device, which that of
    ``nn.MaxPool3d`` is not on CUDA. Where neighbours are equal, they share the
    gradient.

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
        """Describe the layer.

        Returns:
            Its stride.
        """
        return f'stride={self.stride}'

    def forward(self, x: Tensor) -> Tensor:
        """Take maxima.

        Args:
            x: Maps, (B, C, D, H, W).

        Returns:
            Maps; every axis keeps its length n, or has (n - 3) // 2 + 1 at stride 2.
        """
        # Most strongly reduced axes first, to leave less to do for the others.
        for axis in (4, 3, 2):
            length = x.shape[axis]
            if self.stride == 2:
                if length >= 3:
                    out = (length - 3) // 2 + 1
                    first = _every_second(x, axis, 0, out)
                    second = _every_second(x, axis, 1, out)
                    third = _every_second(x, axis, 2, out)
                    x = torch.maximum(torch.maximum(first, second), third)
            elif length > 1:
                pairs = torch.maximum(
                    x.narrow(axis, 0, length - 1), x.narrow(axis, 1, length - 1)
                )
                head = pairs.narrow(axis, 0, 1)
                tail = pairs.narrow(axis, length - 2, 1)
                inner = torch.maximum(
                    pairs.narrow(axis, 0, length - 2), pairs.narrow(axis, 1, length - 2)
                )
                x = torch.cat([head, inner, tail], axis)
        return x


def _every_second(x: Tensor, axis: int, start: int, count: int) -> Tensor:
    """View every second slice.

    Args:
        x: Maps, (B, C, D, H, W).
        axis: One of the last three.
        start: The first slice.
        count: How many slices.

    Returns:
        A view with ``count`` slices along ``axis``.
    """
    stop = start + 2 * count - 1
    if axis == 2:
        return x[:, :, start:stop:2]
    if axis == 3:
        return x[:, :, :, start:stop:2]
    return x[:, :, :, :, start:stop:2]
