# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A small GeoTIFF scene, one file or one a band, with label rasters on two grids.

Run as a script to look at the files: ``python data.py FOLDER``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine, from_origin

ROWS, COLS, BANDS = 30, 40, 11
CRS = 'EPSG:32632'
TRANSFORM = from_origin(600_000, 5_200_000, 10, 10)
NODATA = -9999
#: Pixels without data: the lower right corner.
EMPTY = (slice(26, 30), slice(34, 40))
WAVELENGTHS = np.linspace(450, 950, BANDS)


def labels_of() -> np.ndarray:
    """Return the labels on the grid of the scene: three blocks, values 3, 20 and 21."""
    labels = np.zeros((ROWS, COLS), dtype=np.uint8)
    labels[2:28, 2:12] = 3
    labels[2:28, 14:26] = 20
    labels[2:28, 28:40] = 21
    return labels


def cube_of() -> np.ndarray:
    """Return the cube (rows, cols, bands): each class has its own spectrum."""
    random = np.random.RandomState(3)
    cube = random.normal(500, 40, (ROWS, COLS, BANDS))
    labels = labels_of()
    for number, value in enumerate((3, 20, 21)):
        cube[labels == value] += 200 * np.cos(np.arange(BANDS) * (number + 1) / 2)
    cube = cube.round().astype(np.int16)
    cube[EMPTY] = NODATA
    return cube


def write(
    path: Path,
    bands: np.ndarray,
    transform: Affine | None = TRANSFORM,
    crs: str | None = CRS,
    nodata: float | None = None,
    **options: Any,
) -> Path:
    """Write bands (count, rows, cols) as a GeoTIFF, with options of its driver."""
    count, rows, cols = bands.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        width=cols,
        height=rows,
        count=count,
        dtype=bands.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
        **options,
    ) as file:
        file.write(bands)
    return path


def make(root: Path) -> Path:
    """Write the scene as one file, with wavelengths in its band tags."""
    root.mkdir(parents=True, exist_ok=True)
    path = write(root / 'scene.tif', np.moveaxis(cube_of(), 2, 0), nodata=NODATA)
    with rasterio.open(path, 'r+') as file:
        for band, centre in enumerate(WAVELENGTHS, start=1):
            file.update_tags(band, wavelength=f'{centre:g}')
            file.update_tags(band, wavelength_units='Nanometers')
    return path


def make_stack(root: Path) -> list[Path]:
    """Write the scene as one file a band: B1.tif ... B11.tif."""
    root.mkdir(parents=True, exist_ok=True)
    cube = cube_of()
    return [
        write(root / f'B{band + 1}.tif', cube[None, :, :, band], nodata=NODATA)
        for band in range(BANDS)
    ]


def labels_same_grid(path: Path) -> Path:
    """Write the labels on the grid of the scene."""
    return write(path, labels_of()[None])


def labels_other_grid(path: Path) -> Path:
    """Write the labels with pixels of a third of the size, shifted by some of them.

    Every pixel of the scene whose surroundings have one label has the same label after
    nearest-neighbour reprojection.
    """
    fine = np.kron(labels_of(), np.ones((3, 3), dtype=np.uint8))
    shifted = fine[3:, 6:]
    transform = from_origin(600_020, 5_199_990, 10 / 3, 10 / 3)
    return write(path, shifted[None], transform=transform)


if __name__ == '__main__':
    folder = Path(sys.argv[1])
    make(folder)
    make_stack(folder)
    labels_other_grid(folder / 'labels.tif')
