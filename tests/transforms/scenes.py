# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A small scene for the tests of transforms and patches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchgeo_ekgnet.datasets.scene import HyperspectralScene


class ArrayWindows:
    """A cube that is read by window and counts its reads."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.reads = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        rows, cols, bands = self.array.shape
        return rows, cols, bands

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(
        self, rows: slice, cols: slice, bands: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        self.reads += 1
        window = self.array[rows, cols]
        return window if bands is None else window[:, :, bands]


def make_cube(rows: int = 9, cols: int = 11, bands: int = 6) -> NDArray[np.float32]:
    generator = np.random.RandomState(0)
    scale = np.linspace(1, 1000, bands)
    cube = generator.rand(rows, cols, bands) * scale + 10 * scale
    return cube.astype(np.float32)


def make_scene(
    rows: int = 9,
    cols: int = 11,
    bands: int = 6,
    lazy: bool = False,
    valid: NDArray[np.bool_] | None = None,
) -> HyperspectralScene:
    cube = make_cube(rows, cols, bands)
    labels = np.arange(rows * cols).reshape(rows, cols) % 4
    return HyperspectralScene(
        ArrayWindows(cube) if lazy else cube, labels, name='small', valid=valid
    )
