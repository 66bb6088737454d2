# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of labels that files hold beside the grid of the image, or declare as none."""

from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import from_origin
from torchgeo.datasets import EnMAP

from tests.data.enmap import data
from tests.data.geotiff.data import write
from torchgeo_ekgnet.samplers import LabelledPixelSampler

from .test_labelled_pixels import BANDS, Labels


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.make(tmp_path_factory.mktemp('enmap'))


def test_fine_labels_that_end_inside_a_pixel_are_those_of_its_centre(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / 'labels').mkdir()
    labels = np.random.RandomState(4).randint(1, 9, (40, 70)).astype(np.uint8)
    left, top = data.TRANSFORM.c + 99, data.TRANSFORM.f - 102
    path = tmp_path / 'labels' / data.LABELS_NAME
    write(path, labels[None], from_origin(left, top, 6, 6), data.CRS)
    both = EnMAP(root / 'image', bands=BANDS[:2]) & Labels(tmp_path / 'labels')
    sampler = LabelledPixelSampler(both, 3, shuffle=False)
    x, y = sampler.positions.T
    row = np.floor((top - y) / 6).astype(int)
    col = np.floor((x - left) / 6).astype(int)
    assert len(set(row)) > 5
    assert len(set(col)) > 10
    assert sampler.labels.tolist() == labels[row, col].tolist()


@pytest.mark.parametrize('nodata', [255, 0, None])
def test_label_0_beside_another_nodata_value_is_questioned(
    root: Path, tmp_path: Path, nodata: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / 'labels').mkdir()
    labels = data.labels_of()
    labels[0] = 255 if nodata == 255 else 0
    path = tmp_path / 'labels' / data.LABELS_NAME
    write(path, labels[None], data.TRANSFORM, data.CRS, nodata=nodata)
    both = EnMAP(root / 'image', bands=BANDS) & Labels(tmp_path / 'labels')
    caplog.clear()
    assert set(LabelledPixelSampler(both, 5).labels.tolist()) == {1, 2}
    told = [text for text in caplog.messages if 'have the label 0' in text]
    pixels = int((labels == 0).sum())
    assert [text.split()[1] for text in told] == [str(pixels)] * (nodata == 255)
    assert all('declare 255' in text for text in told)
    caplog.clear()
    found = LabelledPixelSampler(both, 5, unlabelled=[])
    assert not [text for text in caplog.messages if 'have the label' in text]
    assert (0 in found.labels) == (nodata != 0)
