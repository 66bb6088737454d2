# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A small product with the file name of EnMAP or PRISMA, and a label raster for it.

Run as a script to look at the files: ``python data.py FOLDER``.
"""

import sys
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from tests.data.geotiff.data import write

ROWS, COLS, BANDS = 40, 48, 224
CRS = 'EPSG:32632'
TRANSFORM = from_origin(400_000, 5_600_000, 30, 30)
NAME = (
    'ENMAP01-____L2A-DT0000001053_20220612T105735Z_028_V010303_20230922T131734Z-'
    'SPECTRAL_IMAGE.TIF'
)
PRISMA_NAME = 'PRS_L2D_STD_20220612105735_20220612105739_0001.tif'
#: What EnMAP's products declare.
NODATA = -32768
LABELS_NAME = 'LABELS_20220612.tif'


def labels_of() -> np.ndarray:
    """Return the labels: two blocks of classes 1 and 2, and the outermost pixels."""
    labels = np.zeros((ROWS, COLS), dtype=np.uint8)
    labels[10:18, 8:18] = 1
    labels[15:25, 26:38] = 2
    labels[0, 0] = 1
    labels[ROWS - 1, COLS - 1] = 2
    return labels


def cube_of() -> np.ndarray:
    """Return the bands (bands, rows, cols)."""
    random = np.random.RandomState(5)
    cube = random.normal(1500, 50, (BANDS, ROWS, COLS))
    labels = labels_of()
    curve = 300 * np.sin(np.arange(BANDS) / 30)
    cube[:, labels == 1] += curve[:, None]
    cube[:, labels == 2] -= curve[:, None]
    return cube.round().astype(np.int16)


def make(root: Path, name: str = NAME, bands: int = BANDS) -> Path:
    """Write image and labels into ``image`` and ``labels``."""
    for folder in ('image', 'labels'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    write(root / 'image' / name, cube_of()[:bands], TRANSFORM, CRS, nodata=NODATA)
    write(root / 'labels' / LABELS_NAME, labels_of()[None], TRANSFORM, CRS)
    return root


if __name__ == '__main__':
    make(Path(sys.argv[1]))
