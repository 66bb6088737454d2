# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of which files a pattern or a folder names: those of the cube, each once."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.geotiff.data import write
from torchgeo_ekgnet.datasets import CustomScene, open_scene

ROWS, COLS = 8, 9
CUBE = np.random.default_rng(1).integers(1, 900, (4, ROWS, COLS)).astype('int16')
LABELS = np.zeros((ROWS, COLS), np.uint8)
LABELS[:3], LABELS[5:] = 1, 2


def write_envi(path: Path, bands: np.ndarray, extra: str = '') -> None:
    """Write a binary file, and its header beside it."""
    bands.tofile(path)
    count, rows, cols = bands.shape
    text = (
        f'ENVI\nlines = {rows}\nsamples = {cols}\nbands = {count}\ninterleave = bsq\n'
        f'data type = {1 if bands.dtype == np.uint8 else 2}\n{extra}'
    )
    path.with_suffix('.hdr').write_text(text)


def write_class_map(path: Path) -> None:
    """Write a map of classes as ENVI does."""
    kind = 'file type = ENVI Classification\nclasses = 3\nclass names = {none, a, b}\n'
    write_envi(path, LABELS[None], kind)


def test_labels_are_no_band(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, band in enumerate(CUBE):
        write(tmp_path / f'B{number}.tif', band[None])
    write(tmp_path / 'gt.tif', LABELS[None])
    scene = open_scene(str(tmp_path / '*.tif'), labels=str(tmp_path / 'gt.tif'))
    assert scene.shape == (ROWS, COLS, 4)
    assert 'gt.tif left out' in caplog.text
    assert (scene.cube == np.moveaxis(CUBE, 0, 2)).all()
    with pytest.raises(ValueError, match='found only label files'):
        open_scene([str(tmp_path / 'gt.tif')] * 2, labels=str(tmp_path / 'gt.tif'))


@pytest.mark.parametrize(
    ('name', 'questioned'),
    [
        *(('LC08_QA_PIXEL', True), ('scene-QL_SWIR', True), ('cloud_mask', True)),
        *(('cloudmask', True), ('B8A', False), ('aquamarine', False), ('B12', False)),
        *(('T33UUU_TCI_10m', True), ('T33UUU_AOT_10m', True), ('B08_10m', False)),
    ],
)
def test_marks_of_quality_beside_bands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, questioned: bool
) -> None:
    for number, band in enumerate(CUBE):
        write(tmp_path / f'B{number}.tif', band[None])
    write(tmp_path / f'{name}.tif', CUBE[:1])
    assert open_scene(tmp_path).num_bands == 5
    assert (f'cube: {name}.tif taken as bands, though' in caplog.text) == questioned
    assert 'both are taken as bands' not in caplog.text
    write(tmp_path / f'{name}.tif', CUBE[:1].astype(np.uint8))
    open_scene(tmp_path)
    assert f'{name}.tif holds uint8' in caplog.text


def test_wavelengths_of_some_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_envi(tmp_path / 'vnir.img', CUBE[:2], 'wavelength = {400, 500}\n')
    write_envi(tmp_path / 'swir.img', CUBE[2:], '')
    scene = open_scene([tmp_path / 'vnir.img', tmp_path / 'swir.img'])
    assert scene.wavelengths is None
    assert 'found wavelengths in 1 of 2 files of the cube' in caplog.text


def test_labels_of_a_folder_of_envi_files(tmp_path: Path) -> None:
    write_envi(tmp_path / 'flight.img', CUBE, 'wavelength = {400, 500, 600, 700}\n')
    write_class_map(tmp_path / 'gt.img')
    scene = open_scene(tmp_path, labels=str(tmp_path / 'gt.img'))
    assert scene.shape == (ROWS, COLS, 4)
    assert scene.wavelengths is not None
    # A map of classes is no band, even where it is not named as labels.
    assert open_scene(tmp_path).shape == (ROWS, COLS, 4)


def test_library_of_spectra_beside_a_cube(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_envi(tmp_path / 'flight.img', CUBE)
    spectra = CUBE[:1, :2]
    write_envi(tmp_path / 'library.sli', spectra, 'file type = ENVI Spectral Library\n')
    assert open_scene(tmp_path).shape == (ROWS, COLS, 4)
    assert 'library.hdr left out' in caplog.text
    with pytest.raises(ValueError, match="'ENVI Spectral Library', expected an image"):
        open_scene(tmp_path / 'library.sli')


def test_a_file_counts_once(tmp_path: Path) -> None:
    write_envi(tmp_path / 'flight.img', CUBE)
    path = tmp_path / 'flight.img'
    assert open_scene(str(tmp_path / 'flight.*')).shape == (ROWS, COLS, 4)
    assert open_scene([path, path]).shape == (ROWS, COLS, 4)


def test_folder_of_a_product(tmp_path: Path) -> None:
    start = 'ENMAP01-____L2A-X-'
    write(tmp_path / f'{start}SPECTRAL_IMAGE.TIF', CUBE)
    write(tmp_path / f'{start}QL_QUALITY_CLASSES.TIF', LABELS[None])
    centres = ''.join(
        f'<wavelengthCenterOfBand>{centre}</wavelengthCenterOfBand>'
        for centre in (400, 500, 600, 700)
    )
    (tmp_path / f'{start}METADATA.XML').write_text(f'<bands>{centres}</bands>')
    scene = open_scene(tmp_path)
    assert scene.shape == (ROWS, COLS, 4)
    assert scene.wavelengths is not None
    assert scene.wavelengths.tolist() == [400, 500, 600, 700]


def test_folder_with_brackets(tmp_path: Path) -> None:
    root = tmp_path / 'Project [1]'
    root.mkdir()
    for number, band in enumerate(CUBE):
        write(root / f'B{number} [x].tif', band[None])
    write(root / 'gt.tif', LABELS[None])
    scene = CustomScene(root, 3, cube='B*.tif', labels='gt.tif').scene
    assert scene.shape == (ROWS, COLS, 4)
    one = CustomScene(root, 3, cube='B0 [x].tif', labels='gt.tif').scene
    assert one.shape == (ROWS, COLS, 1)


def test_header_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / 'cube.tif', CUBE)
    write_class_map(tmp_path / 'gt.img')
    for name in ('gt.img', 'gt.hdr'):
        (tmp_path / name).rename(tmp_path / name.upper())
    scene = open_scene(tmp_path / 'cube.tif', labels=str(tmp_path / 'GT.IMG'))
    assert scene.class_names == ('a', 'b')
