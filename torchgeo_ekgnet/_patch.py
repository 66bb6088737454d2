# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a patch may be, once for whoever cuts or plans patches."""

from typing import Literal, get_args

from ._options import known_word

#: What lies beyond the edge of a scene: zeros, or the mirrored scene.
PaddingMode = Literal['zeros', 'reflect']


def check_patch_size(
    patch_size: int, rows: int | None = None, cols: int | None = None, name: str = ''
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
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(
            f'patch_size is {patch_size}, expected a positive odd number: a patch is '
            'centred on its labelled pixel'
        )
    if rows is not None and cols is not None and patch_size > min(rows, cols):
        largest = min(rows, cols) - 1 + min(rows, cols) % 2
        scene = f'the scene {name}' if name else 'the scene'
        raise ValueError(
            f'patch_size is {patch_size}, expected at most {largest}: {scene} has '
            f'{rows} x {cols} pixels'
        )
    return patch_size


def check_padding_mode(padding_mode: str) -> None:
    """Check a padding mode.

    Args:
        padding_mode: 'zeros' or 'reflect'.

    Raises:
        ValueError: If it is neither.
    """
    known_word('padding_mode', padding_mode, get_args(PaddingMode))
