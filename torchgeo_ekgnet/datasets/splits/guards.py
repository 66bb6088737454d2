# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Distance between the pixels of different subsets."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..._patch import check_patch_size
from .protocol import classes_of
from .split import SUBSETS, Indices, Labels, Mask, dilate


def guard_distance(guard: str, patch_size: int) -> int:
    """Chebyshev distance that pixels of different subsets must exceed.

    Args:
        guard: 'none'; 'centre': no patch contains the centre of a patch of another
            subset; 'patch': patches of different subsets have no pixel in common.
        patch_size: Rows and columns P of a patch, odd.

    Returns:
        0, ``P // 2`` or ``2 * (P // 2)`` pixels.

    Raises:
        ValueError: If the guard is another word.
    """
    radius = check_patch_size(patch_size) // 2
    match guard:
        case 'none':
            return 0
        case 'centre':
            return radius
        case 'patch':
            return 2 * radius
        case _:
            raise ValueError(
                f"guard is {guard!r}, expected 'none', 'centre' or 'patch'"
            )


def guarded(subset_of: NDArray[np.int64], distance: int) -> list[Mask]:
    """Leave out validation and test pixels that are too near to other subsets.

    Args:
        subset_of: 0, 1, 2 for pixels that train, validate, test, -1 for others.
        distance: Chebyshev distance that subsets must exceed, in pixels.

    Returns:
        Masks of training, validation and test pixels.
    """
    train = subset_of == 0
    val = (subset_of == 1) & ~dilate(train, distance)
    test = (subset_of == 2) & ~dilate(train | val, distance)
    return [train, val, test]


def drawn(
    label_map: Labels, masks: Sequence[Mask], min_pixels: int = 1
) -> tuple[dict[str, Indices], dict[int, str]]:
    """Give the indices of subsets, and why classes have too few training or test pixels.

    Args:
        label_map: Labels, shape (rows, cols), 0 is unlabelled.
        masks: Masks of training, validation and test pixels.
        min_pixels: Training pixels and test pixels that a class needs.
    """
    subsets = {
        name: np.flatnonzero(mask).astype(np.int64)
        for name, mask in zip(SUBSETS, masks, strict=True)
    }
    reasons = {}
    for label in classes_of(label_map):
        members = label_map == label
        train, test = (int((members & masks[i]).sum()) for i in (0, 2))
        if min(train, test) < min_pixels:
            reasons[label] = (
                f'{int(members.sum())} pixels, of which {train} could train and {test} '
                f'test, expected at least {min_pixels} each'
            )
    return subsets, reasons
