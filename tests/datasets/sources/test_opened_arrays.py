# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Scenes of array files."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.data.arrays import data as arrays
from torchgeo_ekgnet.datasets import CustomScene, open_scene


class TestArrays:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return arrays.make(tmp_path)

    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize(
        ('cube', 'labels', 'options'),
        [
            ('cube.npy', 'labels.npy', {}),
            ('scene.npz', 'scene.npz', {}),
            (
                'scene.h5',
                'scene.h5',
                {
                    'cube_variable': 'product/reflectance',
                    'labels_variable': 'product/labels',
                    'axes': 'byx',
                },
            ),
            ('scene.nc', 'scene.nc', {'cube_variable': 'reflectance'}),
            ('v5.mat', 'v73.mat', {'labels_variable': 'labels'}),
            ('v73.mat', 'v5.mat', {}),
        ],
    )
    def test_formats(
        self, root: Path, cube: str, labels: str, options: dict[str, Any], lazy: bool
    ) -> None:
        scene = open_scene(root / cube, root / labels, lazy=lazy, **options)
        assert np.array_equal(scene.read(0, 15, 0, 18), arrays.cube_of())
        values = np.array((0, 2, 5))[scene.label_map]
        assert np.array_equal(values, arrays.labels_of())

    @pytest.mark.parametrize(
        ('options', 'match'),
        [
            ({'crs': 'EPSG:nope'}, 'is not known to PROJ'),
            ({'transform': [1, 2, 3]}, 'must have six numbers'),
            ({'wavelengths': [1, 2]}, '2 wavelengths for 7 bands'),
            ({'wavelengths': np.linspace(0.4, 1, 7).tolist()}, 'micrometres'),
            ({'bands': [1, 1]}, 'more than once'),
        ],
    )
    def test_errors(self, root: Path, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            open_scene(root / 'cube.npy', **options)

    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize('classic', [False, True])
    def test_what_netcdf_declares(
        self, tmp_path: Path, classic: bool, lazy: bool
    ) -> None:
        missing = arrays.cube_of()[3, 4, 2]
        path = arrays.netcdf(tmp_path / 'a.nc', classic, _FillValue=missing)
        scene = open_scene(path, path, lazy=lazy, unlabelled=(0,))
        assert (~scene.valid).sum() == 1 and not scene.valid[3, 4]
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, arrays.CENTRES)
        assert scene.class_values == (2,)
        assert open_scene(path, nodata=None, lazy=lazy).valid.all()
        nanometres = open_scene(path, wavelengths=arrays.CENTRES.tolist())
        assert nanometres.wavelengths is not None
        np.testing.assert_allclose(nanometres.wavelengths, arrays.CENTRES)

    def test_several_declared_values(self, tmp_path: Path) -> None:
        path = arrays.netcdf(tmp_path / 'a.nc', _FillValue=-9999, missing_value=-1)
        with pytest.raises(ValueError, match='declares different nodata values'):
            open_scene(path)
        assert open_scene(path, nodata=-9999).nodata == -9999
        single = np.float32(1e20)
        path = arrays.netcdf(tmp_path / 'b.nc', _FillValue=single, missing_value=1e20)
        assert open_scene(path).nodata == pytest.approx(1e20)

    def test_unit_of_netcdf(self, tmp_path: Path) -> None:
        path = arrays.netcdf(tmp_path / 'a.nc')
        with h5py.File(path, 'r+') as file:
            file['wavelength'].attrs['units'] = '1'
        with pytest.raises(ValueError, match=r"a.nc: wavelength unit '1' is not known"):
            open_scene(path)
        scene = open_scene(path, wavelength_unit='um')
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, arrays.CENTRES)

    @pytest.mark.parametrize('nodata', ['nan', float('nan')])
    def test_nodata_that_is_no_number(self, root: Path, nodata: Any) -> None:
        cube = arrays.cube_of()
        cube[2, 3, 1] = np.nan
        np.save(root / 'cube.npy', cube)
        for scene in (
            open_scene(root / 'cube.npy', nodata=nodata),
            CustomScene(root, 5, cube='cube.npy', nodata=nodata).scene,
        ):
            assert (~scene.valid).sum() == 1
            assert scene.nodata is not None and np.isnan(scene.nodata)
        wrong: Any = 'none'
        with pytest.raises(
            ValueError, match="nodata is 'none', expected 'file', a num"
        ):
            open_scene(root / 'cube.npy', nodata=wrong)

    def test_arrays_stack(self, root: Path) -> None:
        scene = open_scene([root / 'cube.npy', root / 'scene.nc'])
        assert scene.num_bands == 2 * arrays.BANDS
        assert np.array_equal(scene.cube[:, :, arrays.BANDS :], arrays.cube_of())

    def test_sizes_differ(self, root: Path) -> None:
        np.save(root / 'labels.npy', arrays.labels_of()[:-1])
        with pytest.raises(ValueError, match='cube and labels differ in size'):
            open_scene(root / 'cube.npy', root / 'labels.npy')
