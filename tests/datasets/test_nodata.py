# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of declared and undeclared values of missing data."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.datasets import HyperspectralScene, nodata, open_scene
from torchgeo_ekgnet.datasets.nodata import is_nodata
from torchgeo_ekgnet.transforms import PatchSource, SpectralNormalizer

LOWEST = float(np.finfo(np.float32).min)


def reflectance(rows: int = 40, cols: int = 30, bands: int = 6) -> np.ndarray:
    random = np.random.default_rng(7)
    return random.uniform(0.05, 0.6, (rows, cols, bands)).astype('float32')


class TestTolerance:
    @pytest.mark.parametrize(
        ('kind', 'stored', 'declared'),
        [
            ('f4', LOWEST, -3.40282e38),
            ('f4', LOWEST, -3.4028235e38),
            ('f4', LOWEST, LOWEST),
            ('f8', LOWEST, -3.40282346639e38),
            ('f8', -1.7976931348623157e308, -1.79769e308),
            ('f4', 9.969209968386869e36, 9.96921e36),
            ('f4', -9999, -9999.0),
            ('f4', np.float32(0.1), 0.1),
            ('f4', 1e20, 1e20),
            ('f4', np.finfo('f4').tiny, 1.17549e-38),
            ('i2', -9999, -9999.0),
            ('u2', 65535, 65535.0),
            ('f4', np.nan, np.nan),
            ('f4', np.inf, np.nan),
        ],
    )
    def test_same(self, kind: str, stored: float, declared: float) -> None:
        assert is_nodata(np.array([stored], kind), declared).all()

    @pytest.mark.parametrize(
        ('kind', 'stored', 'declared'),
        [
            ('f4', -9998.9, -9999),
            ('f4', 0.0, 1e-20),
            ('f4', 1e-7, 0),
            ('f8', -9999.0001, -9999),
            ('i4', 3, 3.5),
            ('u2', 0, -9999),
            ('f4', 3e38, -3.40282e38),
            ('f4', 1.0, np.nan),
        ],
    )
    def test_other(self, kind: str, stored: float, declared: float) -> None:
        assert not is_nodata(np.array([stored], kind), declared).any()


class TestUndeclared:
    @pytest.mark.parametrize('fill', [-9999, -1, 0, 1e20, LOWEST, 100])
    def test_whole_pixels(self, caplog: pytest.LogCaptureFixture, fill: float) -> None:
        cube = reflectance()
        cube[:, :3] = fill
        HyperspectralScene(cube, None)
        text = f'10 % of the pixels have the value {np.float32(fill):g} in every band'
        assert text in caplog.text
        assert f'nodata={np.float32(fill):g}' in caplog.text
        caplog.clear()
        scene = HyperspectralScene(cube, None, nodata=fill)
        assert scene.valid.mean() == 0.9
        assert not caplog.text

    def test_sample_of_a_large_scene(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nodata, '_SAMPLE_VALUES', 6 * 3000)
        cube = reflectance(200, 100)
        cube[:, 90:] = -9999
        HyperspectralScene(cube, None)
        assert 'of the pixels have the value -9999 in every band' in caplog.text

    @pytest.mark.parametrize('kind', ['int16', 'uint16'])
    def test_integers(self, caplog: pytest.LogCaptureFixture, kind: str) -> None:
        cube = (reflectance() * 10000).astype(kind)
        cube[:, :3] = 65535 if kind == 'uint16' else -32768
        HyperspectralScene(cube, None)
        assert '10 % of the pixels have the value' in caplog.text

    @pytest.mark.parametrize('fill', [-9999, -999, 1e20, 7])
    def test_some_bands(self, caplog: pytest.LogCaptureFixture, fill: float) -> None:
        cube = reflectance()
        cube[:10, :, 4] = fill
        HyperspectralScene(cube, None)
        assert f'the value {fill:g} in some band, far from all others' in caplog.text

    def test_bands_without_data(self, caplog: pytest.LogCaptureFixture) -> None:
        cube = reflectance()
        cube[:, :, 2] = 0.1
        HyperspectralScene(cube, None)
        assert 'bands [2] (zero-based) have one value in every pixel' in caplog.text
        assert 'exclude=[2]' in caplog.text

    def test_fill_in_a_whole_band(self, caplog: pytest.LogCaptureFixture) -> None:
        cube = reflectance()
        cube[:, :, 1] = -9999
        HyperspectralScene(cube, None)
        assert 'exclude=[1]' in caplog.text
        assert 'leave these pixels out' not in caplog.text

    def test_data_are_not_suspected(self, caplog: pytest.LogCaptureFixture) -> None:
        saturated = (reflectance() * 400).clip(0, 200).astype('uint8')
        for cube in (reflectance(), saturated, reflectance() - 0.3):
            HyperspectralScene(cube, None)
        assert not caplog.text

    def test_other_fill_than_declared(self, caplog: pytest.LogCaptureFixture) -> None:
        cube = reflectance()
        cube[:, :3] = -32768
        HyperspectralScene(cube, None, nodata=-9999)
        assert 'nodata=-32768' in caplog.text


class TestAnyOrAll:
    def scene(self, nodata_in: str) -> HyperspectralScene:
        cube = (reflectance(20, 20, 8) * 5000 + 300).astype('uint16')
        labels = np.zeros((20, 20), 'uint8')
        labels[:10, :10], labels[:10, 10:], labels[10:, :10] = 1, 2, 3
        cube[labels == 3, 5:] = 0  # water, dark in the infrared
        cube[10:, 10:] = 0  # beyond the flight line
        return HyperspectralScene(
            cube,
            labels,
            class_names={1: 'soil', 2: 'forest', 3: 'water'},
            nodata=0,
            nodata_in=nodata_in,  # type: ignore[arg-type]
        )

    def test_class_that_loses_all_pixels(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = self.scene('any')
        assert scene.class_counts == (100, 100, 0)
        assert scene.masked_labels == (0, 0, 100)
        assert 'all 100 labelled pixels of class water (label 3)' in caplog.text
        assert '100 of 400 pixels have no data (nodata=0) in some band' in caplog.text
        assert '100 more in every band' in caplog.text

    def test_only_pixels_without_any_data(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = self.scene('all')
        assert scene.class_counts == (100, 100, 100)
        assert (~scene.valid).sum() == 100
        assert 'water' not in caplog.text


class TestPrecision:
    @pytest.mark.parametrize('factor', [1e40, 1e-300, 1e-42])
    def test_values_beyond_single_precision(self, factor: float) -> None:
        with pytest.raises(ValueError, match='expected values that single precision'):
            HyperspectralScene(reflectance().astype('f8') * factor, None)

    def test_values_within_it(self) -> None:
        scene = HyperspectralScene(reflectance().astype('f8') * 1e30, None)
        assert math.isfinite(float(scene.read(0, 40, 0, 30).max()))

    @pytest.mark.parametrize('offset', [1e9, -1e12, 1e6])
    @pytest.mark.parametrize('method', ['zscore', 'minmax', 'snv'])
    @pytest.mark.parametrize('kind', ['float64', 'int64'])
    def test_values_far_from_zero(self, offset: float, method: Any, kind: str) -> None:
        plain = (reflectance(8, 9) * 1000).round().astype(kind)
        positions = torch.from_numpy(np.argwhere(np.ones((8, 9), bool)))
        found = []
        for cube in (plain, plain + np.array(offset, kind)):
            scene = HyperspectralScene(cube, None)
            normalizer = SpectralNormalizer(method).fit(scene)
            found.append(PatchSource(scene, normalizer, 3).gather(positions, 'cpu'))
        assert found[0].dtype == torch.float32
        np.testing.assert_allclose(found[1], found[0], atol=1e-4)
        assert float(found[1].std()) > 0.1

    def test_double(self) -> None:
        cube = 1e9 + reflectance().astype('f8')
        scene = HyperspectralScene(cube, None)
        assert scene.read(0, 1, 0, 1).dtype == np.float32
        exact = scene.read(0, 40, 0, 30, double=True)
        assert exact.dtype == np.float64
        assert np.array_equal(exact, cube)


@pytest.mark.parametrize('kind', ['f4', 'f8', 'i2'])
def test_no_data_anywhere(kind: str) -> None:
    cube = np.full((4, 5, 3), -9999, kind)
    with pytest.raises(ValueError, match='no pixel has data in every band'):
        HyperspectralScene(cube, None, nodata=-9999)


@pytest.mark.parametrize(('given', 'declared'), [('nan', -9999), (-9999, math.nan)])
def test_nan_beside_a_number(tmp_path: Path, given: Any, declared: float) -> None:
    cube = reflectance()
    cube[0, 0, 2], cube[1, 1, 3] = -9999, np.nan
    path = geotiff.write(
        tmp_path / 'cube.tif', cube.transpose(2, 0, 1), nodata=declared
    )
    for lazy in (False, True):
        scene = open_scene(path, nodata=given, lazy=lazy)
        assert np.argwhere(~scene.valid).tolist() == [[0, 0], [1, 1]]
    # Of two numbers the one that is given overrules the other.
    if declared == -9999:
        told = r'1 values are NaN or infinite, in 1 of 6 bands \(zero-based: \[3\]\)'
        with pytest.raises(ValueError, match=told):
            open_scene(path)
        cube[1, 1, 3] = 0.25
        geotiff.write(path, cube.transpose(2, 0, 1), nodata=declared)
        assert open_scene(path, nodata=0.25).valid[0, 0]
