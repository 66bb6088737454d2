# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.crs
from affine import Affine
from torch import nn

from torchgeo_ekgnet import __version__
from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.maps import write_map
from torchgeo_ekgnet.transforms.patches import PatchSource

from .conftest import make_scene

Patches = Callable[[HyperspectralScene], PatchSource]

CRS = rasterio.crs.CRS.from_epsg(32633)
TRANSFORM = Affine(30, 0, 5e5, 0, -30, 5e6)


@pytest.mark.parametrize('synthetic', [False, True])
def test_files_say_what_they_hold(
    network: nn.Module, patches_of: Patches, tmp_path: Path, synthetic: bool
) -> None:
    scene = make_scene(synthetic=synthetic, crs=CRS, transform=TRANSFORM)
    options: dict[str, Any] = {'entropy': not synthetic, 'probabilities': True}
    write_map(network, scene, tmp_path, patches=patches_of(scene), smooth=3, **options)
    about = {
        'TIFFTAG_SOFTWARE': f'torchgeo_ekgnet {__version__}',
        'SCENE': 'tiny',
        'SYNTHETIC': 'yes' if synthetic else 'no',
    }
    names = {'CLASS_2': 'Grass', 'CLASS_5': 'Wood', 'CLASS_9': 'Water'}
    measures = ('top probability', *(() if synthetic else ('entropy (nats)',)))
    for name, bands, tags, nodata, dtype in (
        ('map', ('class',), about | names, 0, 'uint8'),
        ('smoothed', ('class',), about | names, 0, 'uint8'),
        ('confidence', measures, about, np.nan, 'float32'),
        ('probabilities', ('Grass', 'Wood', 'Water'), about, np.nan, 'float32'),
    ):
        with rasterio.open(tmp_path / f'{name}.tif') as file:
            assert file.descriptions == bands
            assert file.crs == CRS and file.transform == TRANSFORM
            assert tags.items() <= file.tags().items()
            assert names.items() <= tags.items() or not names.keys() & file.tags()
            np.testing.assert_equal(file.nodata, nodata)
            assert set(file.dtypes) == {dtype}


def test_tables_count_the_pixels_of_each_raster(
    network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    scene = make_scene(crs=CRS, transform=TRANSFORM)
    files = write_map(network, scene, tmp_path, patches=patches_of(scene), smooth=3)
    found = {}
    for name in ('map.tif', 'smoothed.tif'):
        with rasterio.open(tmp_path / name) as file:
            counts = np.bincount(file.read(1).ravel(), minlength=10)
        found[name] = counts[[2, 5, 9]].tolist()
        root = ElementTree.parse(tmp_path / f'{name}.aux.xml').getroot()
        cells = [[cell.text for cell in row] for row in root.iter('Row')]
        for row, value, count in zip(cells, (2, 5, 9), found[name], strict=True):
            assert row[:2] == [str(value), str(count)]
    assert list(files.counts) == found['map.tif'] != found['smoothed.tif']
