# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Band centres of the sensors of the public scenes, in nm.

Each detector of a sensor disperses its light almost linearly, so its published centres
are stored as a quadratic in the detector's channel number.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def detector(
    channels: int, start: float, step: float, curve: float = 0.0
) -> NDArray[np.float64]:
    """Return the centres of one detector.

    Args:
        channels: Number of channels.
        start: Centre of the first channel in nm.
        step: Distance of the first two channels in nm.
        curve: Quadratic term in nm.

    Returns:
        Centres in nm, shape (channels,).
    """
    number = np.arange(channels, dtype=np.float64)
    return np.round(start + step * number + curve * number**2, 2)


def without(
    centres: NDArray[np.float64], removed: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """Drop channels.

    Args:
        centres: Centres of all channels.
        removed: First and last removed channel of each run, counted from 1 as in the
            literature.

    Returns:
        Centres of the kept channels.
    """
    keep = np.ones(len(centres), dtype=bool)
    for first, last in removed:
        keep[first - 1 : last] = False
    return centres[keep]


def aviris() -> NDArray[np.float64]:
    """Return the 224 centres of AVIRIS.

    A later laboratory calibration; flights of the 1990s differ by a few nm.

    Returns:
        Centres in nm, shape (224,); not monotonic where detectors overlap.
    """
    return np.concatenate(
        [
            detector(32, 365.9298, 9.661989, 0.002195142),
            detector(64, 655.7923, 9.809692, -0.002604833),
            detector(64, 1253.373, 9.9722, -0.00009),
            detector(64, 1866.864, 10.0616, -0.00113),
        ]
    )


def aviris_indian_pines() -> NDArray[np.float64]:
    """Return the 220 centres of the Indian Pines flight (12 June 1992).

    Channels 1, 33, 97 and 161 of 224 carry no data in this product.

    Returns:
        Centres in nm, shape (220,); not monotonic where detectors overlap.
    """
    return np.concatenate(
        [
            detector(31, 400.0204, 9.795128, 0.002916309),
            detector(63, 686.9126, 9.641873, -0.0005606051),
            detector(63, 1272.997, 9.966234, -0.0006814778),
            detector(63, 1883.237, 10.01278, -0.001319137),
        ]
    )


def hyperion() -> NDArray[np.float64]:
    """Return the 242 centres of EO-1 Hyperion (70 VNIR, 172 SWIR channels).

    Returns:
        Centres in nm, shape (242,).
    """
    return np.concatenate(
        [detector(70, 355.59, 10.17525), detector(172, 851.92, 10.08866)]
    )


def rosis(bands: int) -> NDArray[np.float64]:
    """Return nominal centres of the kept ROSIS-03 channels.

    Args:
        bands: Kept channels, 103 or 102 of 115.

    Returns:
        430 to 850 nm in equal steps, shape (bands,).
    """
    return np.round(np.linspace(430.0, 850.0, bands), 2)


def casi_houston() -> NDArray[np.float64]:
    """Return the 144 centres of the CASI-1500 in its Houston 2013 setting.

    Returns:
        364.0 to 1046.1 nm, shape (144,).
    """
    return np.round(np.linspace(364.0, 1046.1, 144), 1)
