# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of images, labels and missing data in combinations of torchgeo's datasets."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import torch
from torchgeo.datasets import RasterDataset, VectorDataset

from tests.data.geotiff.data import write
from torchgeo_ekgnet.datasets import LabelRaster
from torchgeo_ekgnet.samplers.combined import (
    declared_nodata,
    image_dataset,
    image_nodata,
    label_dataset,
    leaves,
    missing,
)


def rasters(folder: Path, *nodata: float | None) -> Path:
    """Write files of one place, each of which declares a value for missing data."""
    folder.mkdir()
    for number, value in enumerate(nodata):
        bands = np.ones((2, 4, 4), np.float32)
        write(folder / f'{number}.tif', bands, nodata=value)
    return folder


def images(folder: Path, *nodata: float | None) -> Any:
    return RasterDataset(str(rasters(folder, *(nodata or (None,)))))


def labels(folder: Path) -> Any:
    return LabelRaster(str(rasters(folder, None)))


def polygons(folder: Path) -> Any:
    """Fields that a vector file draws in the same place."""
    folder.mkdir()
    field = shapely.box(600_000, 5_199_960, 600_040, 5_200_000)
    frame = geopandas.GeoDataFrame(geometry=[field], crs='EPSG:32632')
    frame.to_file(folder / 'fields.geojson')

    class Fields(VectorDataset):
        filename_glob = '*.geojson'

    return Fields(str(folder))


class TestParts:
    def test_image_and_labels(self, tmp_path: Path) -> None:
        image, mask = images(tmp_path / 'image'), labels(tmp_path / 'labels')
        for both in (image & mask, mask & image):
            assert image_dataset(both) is image
            assert label_dataset(both) is mask
            assert set(leaves(both)) == {image, mask}

    def test_one_dataset(self, tmp_path: Path) -> None:
        image, mask = images(tmp_path / 'image'), labels(tmp_path / 'labels')
        assert list(leaves(image)) == [image]
        # The sampler then says that the dataset gives no mask.
        assert image_dataset(image) is label_dataset(image) is image
        assert image_dataset(mask) is label_dataset(mask) is mask

    def test_several_labels(self, tmp_path: Path) -> None:
        image = images(tmp_path / 'image')
        west, east = labels(tmp_path / 'west'), labels(tmp_path / 'east')
        union = west | east
        assert label_dataset(image & union) is union
        assert image_dataset(image & union) is image
        either = (image & west) | (image & east)
        assert list(leaves(label_dataset(either))) == [west, east]
        assert image_dataset(either) is image

    def test_several_images(self, tmp_path: Path) -> None:
        spring, autumn = images(tmp_path / 'spring'), images(tmp_path / 'autumn')
        union = spring | autumn
        assert image_dataset(union) is union
        assert image_dataset(union & labels(tmp_path / 'labels')) is union
        # A mask that a class of its user's own gives comes after the images.
        assert image_dataset(spring & autumn) is spring

    def test_polygons_are_no_image(self, tmp_path: Path) -> None:
        image, fields = images(tmp_path / 'image'), polygons(tmp_path / 'fields')
        both = image & fields
        assert image_dataset(both) is image
        assert label_dataset(both) is both
        assert declared_nodata(fields) == []


class TestNodata:
    def test_files(self, tmp_path: Path) -> None:
        image = images(tmp_path / 'a', None, -1, np.nan, -1, np.nan, 0)
        found = declared_nodata(image)
        assert sorted(map(str, found)) == ['-1.0', '0.0', 'nan']
        assert declared_nodata(images(tmp_path / 'b')) == []
        both = images(tmp_path / 'c', 5) & images(tmp_path / 'd', 7)
        assert declared_nodata(both) == [5, 7]

    def test_dataset_overrules_its_files(self, tmp_path: Path) -> None:
        image = images(tmp_path / 'a', -1)
        image.nodata = 3
        after = images(tmp_path / 'b', 4)
        assert declared_nodata(image & after) == [3, 4]

    def test_choice(self, tmp_path: Path) -> None:
        image = images(tmp_path / 'a', -1, None)
        assert image_nodata(image, 'file') == -1
        assert image_nodata(image, 8) == 8
        assert image_nodata(image, None) is None
        assert image_nodata(images(tmp_path / 'b'), 'file') is None
        several = images(tmp_path / 'c', -1, 0)
        with pytest.raises(
            ValueError,
            match=r'the images of RasterDataset declare different nodata values '
            r"\(\['-1\.0', '0\.0'\]\); name one with nodata=$",
        ):
            image_nodata(several, 'file')
        assert image_nodata(several, 0) == 0


def test_missing_in_one_band_or_zero_in_all() -> None:
    values = [[5, 5, 0, 0, torch.nan, torch.inf], [5, 7, 0, 1, 5, 5]]
    image = torch.tensor(values)[None, :, None]
    absent = [False, True, True, False, True, True]
    assert missing(image, 7).shape == (1, 1, 1, 6)
    assert missing(image, 7).flatten().tolist() == absent
    absent[1] = False
    assert missing(image, None).flatten().tolist() == absent
