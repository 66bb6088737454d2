# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a patch may be, once for whoever cuts or plans patches."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ._options import known_word

#: What lies beyond the edge of a scene: zeros, or the mirrored scene.
PaddingMode = Literal['zeros', 'reflect']


def check_patch_size(
    patch_size: Any, rows: int | None = None, cols: int | None = None, name: str = ''
) -> int:
    """Check that a patch has a centre pixel and, if a scene is given, fits into it.

    Args:
        patch_size: Rows and columns of a patch, in pixels.
        rows: Rows of the scene.
        cols: Columns of the scene.
        name: Name of the scene for the message.

    Returns:
        The patch size.

    Raises:
        ValueError: If the patch size is not a positive odd number, or too large.
    """
    whole = isinstance(patch_size, int | np.integer) and patch_size is not True
    if not whole or patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(
            f'patch_size is {patch_size!r}, expected a positive odd whole number: a '
            'patch is centred on its labelled pixel'
        )
    if rows is not None and cols is not None and patch_size > min(rows, cols):
        largest = min(rows, cols) - 1 + min(rows, cols) % 2
        scene = f'the scene {name}' if name else 'the scene'
        raise ValueError(
            f'patch_size is {patch_size}, expected at most {largest}: {scene} has '
            f'{rows} x {cols} pixels'
        )
    return int(patch_size)


def check_padding_mode(padding_mode: str) -> None:
    """Check a padding mode.

    Args:
        padding_mode: 'zeros' or 'reflect'.

    Raises:
        ValueError: If it is neither.
    """
    known_word('padding_mode', padding_mode, get_args(PaddingMode))


def padded_index(
    start: int, stop: int, size: int, padding_mode: str
) -> NDArray[np.int64]:
    """Say which row (or column) of a scene stands in each of a padded window.

    Args:
        start: First row of the window, counted in the scene; it may lie before it.
        stop: Row after the last one, which may lie behind the scene.
        size: Rows of the scene.
        padding_mode: 'zeros', or 'reflect' without repeating the edge.

    Returns:
        Rows of the scene, -1 for zeros.
    """
    index = np.arange(start, stop, dtype=np.int64)
    if padding_mode == 'reflect':
        index = np.abs(index)
        return np.where(index >= size, 2 * (size - 1) - index, index)
    return np.where((index < 0) | (index >= size), -1, index)
