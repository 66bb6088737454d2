# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A small scene, and the labels that files of many kinds hold of it."""

import numpy as np

from tests.data.geotiff import data as geotiff

ROWS = 12
COLS = 14
CUBE = np.random.default_rng(2).integers(1, 3000, (ROWS, COLS, 5)).astype('uint16')
TRUTH = np.random.default_rng(3).integers(0, 4, (ROWS, COLS)).astype('uint8')
COLOURS = np.array([[0, 0, 0], [230, 0, 0], [0, 230, 0], [0, 100, 255]], 'uint8')
NAMES = ('bare soil', 'low vegetation', 'water')
LEFT = geotiff.TRANSFORM.c
TOP = geotiff.TRANSFORM.f
PIXEL = 10.0
