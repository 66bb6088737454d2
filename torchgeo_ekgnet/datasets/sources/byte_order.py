# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Whether the order of bytes that a header declares can be right."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from .base import CubeSource

logger = logging.getLogger(__name__)

#: Rows, columns and bands that are looked at, and the fewest rows and columns that tell.
_WINDOW, _BANDS, _FEWEST = 64, 4, 16
#: Bytes in the wrong order made neighbours differ 1.6 to 4 times as much on scenes of
#: AVIRIS, in integers and floats; without structure both orders are alike.
_LESS = 0.75


def doubt_byte_order(header: Path, order: int, source: CubeSource) -> None:
    """Warn if neighbouring pixels are far more alike in the other order of bytes.

    Args:
        header: What declares the order, for the message.
        order: The order by which the values are read, 0 for little-endian.
        source: The values.
    """
    rows, cols, bands = source.shape
    if min(rows, cols) < _FEWEST or source.dtype.itemsize == 1:
        return
    top, left = max(0, (rows - _WINDOW) // 2), max(0, (cols - _WINDOW) // 2)
    chosen = np.unique(np.linspace(0, bands - 1, _BANDS + 2)[1:-1].astype(np.int64))
    window = source.read(
        slice(top, min(rows, top + _WINDOW)),
        slice(left, min(cols, left + _WINDOW)),
        chosen,
    )
    if _roughness(window.byteswap()) < _LESS * _roughness(window):
        logger.warning(
            '%s: read with byte order %d, as it says or leaves out, neighbouring pixels '
            'are far less alike than with byte order %d: correct the header if the '
            'scene looks like noise',
            header,
            order,
            1 - order,
        )


def _roughness(window: NDArray[np.generic]) -> float:
    """Give the mean difference of neighbours (rows, cols, bands): 0 to about 1 for noise.

    Of ranks, so that the scale does not matter, and of the median band, because some
    bands are noise.
    """
    # Bytes of floats in the wrong order make NaNs that signal.
    with np.errstate(invalid='ignore'):
        values = np.nan_to_num(window.astype(np.float64))
    rough = []
    for band in np.moveaxis(values, 2, 0):
        ranks = rankdata(band).reshape(band.shape) / band.size
        steps = (np.abs(np.diff(ranks, axis=axis)).mean() for axis in (0, 1))
        rough.append(3 * max(steps))
    return float(np.median(rough))
