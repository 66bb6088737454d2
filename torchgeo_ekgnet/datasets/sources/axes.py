# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Orders of the axes of arrays."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError
from .base import Request, Source

#: What files call their axes, without case and separators.
_NAMES = {
    'y': 'y lat latitude row rows line lines nline nlines northing downtrack alongtrack',
    'x': 'x lon long longitude col cols column columns sample samples nsample easting '
    'crosstrack acrosstrack',
    'b': 'b band bands nband nbands wavelength wavelengths wvl wl lambda channel '
    'channels spectral spectralbands z',
}
_LETTERS = {name: letter for letter, names in _NAMES.items() for name in names.split()}

#: Orders of bands x pixels, and the order of the same values on three axes.
_FLAT = {'b(yx)': 'byx', 'b(xy)': 'bxy', '(yx)b': 'yxb', '(xy)b': 'xyb'}


def told_axes(names: Sequence[str]) -> str | None:
    """Return the order of axes from their names, None where these do not tell."""
    letters = []
    for name in names:
        word = ''.join(c for c in name.split('/')[-1].lower() if c.isalnum())
        letters.append(_LETTERS.get(word, '?'))
    axes = ''.join(letters)
    if len(axes) == 3 and {'x', 'y'} < set(axes):
        axes = axes.replace('?', 'b')
    axes = axes.replace('?', '')
    return axes if sorted(axes) in (['b', 'x', 'y'], ['x', 'y']) else None


def axes_of(request: Request, told: str | None = None) -> str:
    """Return the order of the axes: the argument's, the file's, or the usual one.

    Args:
        request: What is wanted.
        told: What the file tells.

    Raises:
        FileError: If the argument is no order of axes.
    """
    if request.labels:
        # A third axis has length 1, and is dropped.
        return (told or 'yx').replace('b', '')
    axes = request.axes
    if axes is None:
        axes = told if told is not None and len(told) == 3 else 'yxb'
    if axes in _FLAT:
        if request.size is None or len(request.size) != 2 or min(request.size) < 1:
            raise FileError(
                f'axes={axes!r} needs size=[rows, columns] of the scene, found size='
                f'{request.size}'
            )
        return axes
    if sorted(axes) != ['b', 'x', 'y']:
        raise FileError(
            f'axes must order the letters y (rows), x (columns) and b (bands), such as '
            f"'yxb' or 'byx', or put all pixels on one axis, such as 'b(xy)', got "
            f'{axes!r}'
        )
    return axes


def bands_in(shape: Sequence[int], axes: str) -> int:
    """Return the number of bands of an array, 0 if it has no axis of bands."""
    if 'b' not in axes:
        return 0
    position = (0 if axes[0] == 'b' else 1) if axes in _FLAT else axes.index('b')
    return int(shape[position]) if position < len(shape) else 0


def kept_axes(shape: Sequence[int], ndim: int) -> list[int]:
    """Return the axes that are left when those of length 1 are dropped, first to last.

    Args:
        shape: Shape of an array.
        ndim: Axes that are wanted; there may be more left.
    """
    kept = list(range(len(shape)))
    for axis, length in enumerate(shape):
        if len(kept) > ndim and length == 1:
            kept.remove(axis)
    return kept


def trimmed(array: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Return an array without the axes of length 1 that are too many."""
    return array.reshape([array.shape[axis] for axis in kept_axes(array.shape, ndim)])


def reorder(array: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return a view (rows, cols, bands) of an array whose axes are ``axes``.

    Two axes, ``yx`` or ``xy``, are a map of one band.
    """
    if len(axes) == 2:
        array, axes = array[..., None], f'{axes}b'
    return array.transpose([axes.index(axis) for axis in 'yxb'])


def in_order(
    array: NDArray[Any], axes: str, request: Request, where: str
) -> NDArray[Any]:
    """Bring an array in memory into the order rows, columns, bands.

    Args:
        array: The array.
        axes: Order of its axes, brackets too.
        request: What is wanted, with the size of pixels on one axis.
        where: File and variable, for the error.

    Raises:
        FileError: If the size does not fit.
    """
    if request.size is None or (request.labels and array.shape == request.size):
        return reorder(array, axes)
    rows, cols = request.size
    if request.labels:
        if squeezed(array.shape) != rows * cols:
            raise FileError(
                f'{where}: found labels of shape {array.shape}, expected {rows} x '
                f'{cols} pixels (size={list(request.size)})'
            )
        by_row = '(xy)' not in (request.axes or '')
        flat_map = array.reshape((rows, cols), order='C' if by_row else 'F')
        return flat_map[..., None]
    if axes not in _FLAT:
        raise FileError(
            f"size is for pixels on one axis, such as axes='b(xy)', found axes={axes!r}"
        )
    flat = _FLAT[axes]
    bands = array.shape[0 if axes.startswith('b') else 1]
    if array.size != rows * cols * bands:
        raise FileError(
            f'{where}: found shape {array.shape}, expected {rows} x {cols} pixels on '
            f'one axis (axes={axes!r}, size={list(request.size)})'
        )
    sizes = {'y': rows, 'x': cols, 'b': bands}
    return reorder(array.reshape([sizes[axis] for axis in flat]), flat)


def axes_hint(
    source: Source, pixels: tuple[int, int] | None = None, bands: int | None = None
) -> str:
    """Suggest an order of axes in which a cube fits its labels or wavelengths.

    Args:
        source: The cube.
        pixels: Rows and columns of the labels.
        bands: Number of wavelengths.

    Returns:
        A half-sentence for a message, empty if no order fits or the cube fits.
    """
    if source.axes is None or len(source.axes) != 3:
        return ''
    own = dict(zip('yxb', source.shape, strict=True))
    stored = [own[axis] for axis in source.axes]
    for order in itertools.permutations('byx'):
        axes = ''.join(order)
        sizes = dict(zip(axes, stored, strict=True))
        if pixels is not None and (sizes['y'], sizes['x']) != pixels:
            continue
        if bands is not None and sizes['b'] != bands:
            continue
        if axes == source.axes:
            return ''
        return (
            f'; the cube of shape {tuple(stored)} in the file fits with axes={axes!r} '
            f'(found axes={source.axes!r})'
        )
    return ''


def squeezed(shape: Sequence[int]) -> int | None:
    """Return the length of an array with one long axis, None for any other."""
    size = int(np.prod([int(value) for value in shape])) if len(shape) else 0
    return size if size and size == max(shape) else None
