# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of which values of label files are classes, and which mean "no label"."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio

from tests.data.geotiff.data import write
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.datasets.label_files import read_label_file
from torchgeo_ekgnet.datasets.label_names import _question_values
from torchgeo_ekgnet.datasets.labels import NO_LABEL

ROWS = COLS = 8
CUBE = np.random.default_rng(1).integers(1, 900, (ROWS, COLS, 3)).astype('int16')
LABELS = np.zeros((ROWS, COLS), np.uint8)
LABELS[:3, 1:], LABELS[5:] = 1, 2


def cube_file(root: Path) -> Path:
    np.save(root / 'cube.npy', CUBE)
    return root / 'cube.npy'


def test_a_named_value_that_means_no_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / 'gt.npy', LABELS)
    names = {0: 'background', 1: 'a', 2: 'b'}
    scene = open_scene(
        cube_file(tmp_path), labels=str(tmp_path / 'gt.npy'), class_names=names
    )
    assert (scene.label_map == LABELS).all()
    assert scene.class_names == ('a', 'b')
    assert 'class_names names [0], which unlabelled=[0] lists' in caplog.text
    wanted = open_scene(
        cube_file(tmp_path),
        labels=str(tmp_path / 'gt.npy'),
        class_names=names,
        unlabelled=[],
    )
    assert wanted.class_names == ('background', 'a', 'b')


@pytest.mark.parametrize('declared', [0, 255, None])
def test_zero_beside_another_value_for_no_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, declared: int | None
) -> None:
    labels = write(tmp_path / 'gt.tif', LABELS[None], nodata=declared)
    open_scene(cube_file(tmp_path), labels)
    told = 'pixels have the label 0, which means "no label" (unlabelled=[0]), but'
    assert (told in caplog.text) == (declared == 255)
    caplog.clear()
    open_scene(cube_file(tmp_path), labels, unlabelled=[])
    open_scene(cube_file(tmp_path), labels, class_names=['a', 'b'])
    assert told not in caplog.text


@pytest.mark.parametrize(
    ('values', 'doubtful'),
    [
        ((255, 1, 2), True),
        ((255, 0, 1), True),
        ((0, 1, 255), True),
        ((1, 40, 255), True),  # a class between does not occur
        ((0, 127, 255), False),
        ((0, 254, 255), False),
        ((0, 0, 255), False),
        ((0, 1, 2), False),
    ],
)
def test_a_usual_value_for_no_label(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    values: tuple[int, ...],
    doubtful: bool,
) -> None:
    np.save(tmp_path / 'gt.npy', np.array(values, np.uint8)[LABELS])
    labels = str(tmp_path / 'gt.npy')
    open_scene(cube_file(tmp_path), labels)
    told = 'if that means "no label", give unlabelled=[0, 255], or unlabelled=[255]'
    assert (told in caplog.text) == doubtful
    caplog.clear()
    open_scene(cube_file(tmp_path), labels, unlabelled=[0, 255])
    _question_values('gt', np.arange(256), set(), [0])  # 255 is the next class
    assert 'if that means "no label"' not in caplog.text
    for last in (255, 65535, 2**31 - 1, 2**32 - 1):
        caplog.clear()
        _question_values('gt', np.array([0, 1, last]), set(), [])  # 0 is a class, too
        assert f'1 and {last}, which' in caplog.text


@pytest.mark.parametrize('unlabelled', [[0], [5]])
def test_negative_numbers_are_told_with_the_file(
    tmp_path: Path, unlabelled: list[int]
) -> None:
    np.save(tmp_path / 'gt.npy', LABELS.astype(np.int16) - 1)
    labels = str(tmp_path / 'gt.npy')
    given = rf'give unlabelled=\[{unlabelled[0]}, -1\], or unlabelled=\[-1\] where 0 is'
    found = (
        rf'gt\.npy: found the negative label value -1, which {(LABELS == 0).sum()} p'
    )
    for names in (None, {0: 'a', 1: 'b'}):
        with pytest.raises(FileError, match=f'{found}.*{given}'):
            open_scene(
                cube_file(tmp_path), labels, unlabelled=unlabelled, class_names=names
            )
    assert open_scene(cube_file(tmp_path), labels, unlabelled=[-1]).num_classes == 2


@pytest.mark.parametrize('classes', [256, 257])
def test_numbers_of_objects_are_questioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: int
) -> None:
    np.save(tmp_path / 'c.npy', np.ones((20, 20, 1), np.uint8))
    np.save(tmp_path / 'gt.npy', np.arange(400).reshape(20, 20) % (classes + 1))
    open_scene(tmp_path / 'c.npy', str(tmp_path / 'gt.npy'))
    assert (f'found {classes} label values from 1 to' in caplog.text) == (classes > 256)


@pytest.mark.parametrize('given', [255, '255', ['0', '255'], [0.5]])
def test_unlabelled_that_is_no_list(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ValueError, match=r'unlabelled is .*, expected a list of whole'):
        open_scene(cube_file(tmp_path), unlabelled=given)


def test_nodata_of_a_picture_is_that_of_its_bands(tmp_path: Path) -> None:
    picture = np.full((3, ROWS, COLS), 255, np.uint8)
    picture[:, :2] = np.array([0, 0, 255])[:, None, None]
    picture[:, 4:6] = np.array([255, 0, 0])[:, None, None]
    write(tmp_path / 'gt.tif', picture, nodata=255, photometric='RGB')
    labels = read_label_file(tmp_path / 'gt.tif').labels
    assert (labels[:2] == 0x0000FF).all()
    assert (labels[4:6] == 0xFF0000).all()
    assert (labels[2:4] == NO_LABEL).all()


def test_missing_texts_are_no_class(tmp_path: Path) -> None:
    texts = np.full((ROWS, COLS), 'NaN', dtype='U6')
    texts[:3], texts[5:] = ' wood', 'water'
    texts[3] = ''
    np.save(tmp_path / 'gt.npy', texts)
    scene = open_scene(cube_file(tmp_path), labels=str(tmp_path / 'gt.npy'))
    assert scene.class_names == ('water', 'wood')
    assert scene.class_counts == (24, 24)


def test_masked_pixels_have_no_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / 'gt.tif', LABELS[None])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, 'r+') as file:
        file.write_mask(LABELS != 2)
        file.scales = (0.5,)
    expected = np.where(LABELS == 2, NO_LABEL, LABELS.astype(int))
    assert np.array_equal(read_label_file(path).labels, expected)
    assert 'declare a factor and an offset, which are left out' in caplog.text


def test_a_picture_of_full_colours_is_no_band_a_class(tmp_path: Path) -> None:
    bands = np.zeros((3, ROWS, COLS), np.uint8)
    bands[0, :2] = bands[1, 4:] = 255
    labels = read_label_file(write(tmp_path / 'gt.tif', bands)).labels
    assert np.unique(labels).tolist() == [0, 0x00FF00, 0xFF0000]


@pytest.mark.parametrize('time', [True, False])
def test_order_of_axes_with_and_without_time(tmp_path: Path, time: bool) -> None:
    axes = [('lon', COLS), ('lat', ROWS)]
    with h5py.File(tmp_path / 'gt.nc', 'w') as file:
        stored = LABELS.T[None] if time else LABELS.T
        data = file.create_dataset('gt', data=stored)
        for place, (name, size) in enumerate([('time', 1), *axes] if time else axes):
            scale = file.create_dataset(name, data=np.arange(size, dtype='f4'))
            scale.make_scale(name)
            data.dims[place].attach_scale(scale)
    scene = open_scene(cube_file(tmp_path), labels=str(tmp_path / 'gt.nc'))
    assert (scene.label_map == LABELS).all()


def test_envi_labels_of_several_bands(tmp_path: Path) -> None:
    bands = np.zeros((2, ROWS, COLS), np.uint8)
    bands[0, :3], bands[1, 5:] = 1, 1
    head = (
        f'ENVI\nlines = {ROWS}\nsamples = {COLS}\nbands = 2\ndata type = 1\n'
        'interleave = bsq\nband names = {grass, wood}\n'
    )
    (tmp_path / 'gt.hdr').write_text(head)
    bands.tofile(tmp_path / 'gt.img')
    scene = open_scene(cube_file(tmp_path), labels=str(tmp_path / 'gt.hdr'))
    assert scene.class_names == ('grass', 'wood')
    bands[0, 5:] = 3
    bands.tofile(tmp_path / 'gt.img')
    scene = open_scene(
        cube_file(tmp_path), labels=str(tmp_path / 'gt.hdr'), labels_variable='1'
    )
    assert scene.class_values == (1, 3)
