# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Shapes and steps of a convolution, without its tensors."""

import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

__all__ = [
    'Geometry',
    'Size',
    'Triple',
    'check_input',
    'geometry_of',
    'in_order',
    'sizes_of',
    'triple',
]

Size = int | Sequence[int]
Triple = tuple[int, int, int]


def triple(value: Size, name: str) -> Triple:
    """Expand an int and check the length of a sequence.

    Args:
        value: One value for D, H and W, or three; NumPy's integers as well.
        name: Name of the argument.

    Returns:
        The values along D, H, W.

    Raises:
        ValueError: If it is anything else.
    """
    values = tuple(value) if isinstance(value, Iterable) else (value,) * 3
    if len(values) != 3 or not all(isinstance(v, numbers.Integral) for v in values):
        raise ValueError(f'{name} must be an int or 3 ints, found {value!r}')
    return (int(values[0]), int(values[1]), int(values[2]))


class Geometry(NamedTuple):
    """A convolution without its tensors.

    Behind the extent of the kernels, which their tensor has as well, stand the arguments
    of ``F.conv3d`` in its order (:func:`sizes_of`).
    """

    kernel: Triple
    stride: Triple
    padding: Triple
    dilation: Triple
    groups: int

    def is_pointwise(self) -> bool:
        """Whether each output position depends on one input position alone."""
        return (
            self.kernel == (1, 1, 1)
            and self.stride == (1, 1, 1)
            and self.padding == (0, 0, 0)
        )

    def has_one_ring(self) -> bool:
        """Whether kernels are 3x3x3, stride 1, with one zero around the maps."""
        ones = (1, 1, 1)
        same = self.stride == self.padding == self.dilation == ones
        return self.kernel == (3, 3, 3) and same

    def ordered(self, axes: Triple) -> 'Geometry':
        """Take the axes in another order: (1, 0, 2) for (H, D, W)."""
        return Geometry(
            in_order(self.kernel, axes),
            in_order(self.stride, axes),
            in_order(self.padding, axes),
            in_order(self.dilation, axes),
            self.groups,
        )

    def output_size(self, size: Sequence[int]) -> Triple:
        """Positions of the output along each axis."""
        out = [
            (
                size[a]
                + 2 * self.padding[a]
                - self.dilation[a] * (self.kernel[a] - 1)
                - 1
            )
            // self.stride[a]
            + 1
            for a in range(3)
        ]
        return (out[0], out[1], out[2])


def sizes_of(geometry: Geometry) -> Any:
    """Give stride, padding, dilation and groups, as ``F.conv3d`` takes them."""
    _, *sizes = geometry  # PyTorch 2.8 traces no slice of a named tuple
    return sizes


def in_order(values: Sequence[int], axes: Triple) -> Triple:
    """Take values of three axes in another order: (1, 0, 2) for H, D, W."""
    # No loop: PyTorch 2.8 cannot compile one here.
    return (values[axes[0]], values[axes[1]], values[axes[2]])


def geometry_of(
    weight: Tensor, stride: Size, padding: Size, dilation: Size, groups: int
) -> Geometry:
    """Collect the geometry of a convolution with kernels (..., kD, kH, kW)."""
    return Geometry(
        (weight.shape[-3], weight.shape[-2], weight.shape[-1]),
        triple(stride, 'stride'),
        triple(padding, 'padding'),
        triple(dilation, 'dilation'),
        groups,
    )


def check_input(x: Tensor, channels: int, where: str) -> None:
    """Refuse inputs that no strategy can convolve."""
    if x.dim() != 5:
        raise ValueError(
            f'{where}: the input has {x.dim()} dimensions {tuple(x.shape)}, '
            'expected 5: (B, C, D, H, W)'
        )
    if x.shape[1] != channels:
        raise ValueError(
            f'{where}: the input has {x.shape[1]} channels, '
            f'expected {channels} (Cin/groups of the kernels times groups)'
        )
    if not x.is_floating_point():
        raise TypeError(
            f'{where}: the input is {x.dtype}, expected floating point values; '
            'convert it with .float()'
        )
