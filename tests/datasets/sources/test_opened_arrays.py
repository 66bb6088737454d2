# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Scenes of array files."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

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
            ({'nodata_in': 'some'}, "nodata_in is 'some', expected one of"),
            ({'wavelength_unit': 'cm'}, "wavelength_unit is 'cm', expected one of"),
            ({'nodata': True}, 'nodata is True, expected'),
            ({'size': [15, 18]}, r'^size is for pixels on one axis'),
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


def _matlab_text(file: h5py.Group, name: str, text: str) -> h5py.Dataset:
    """Write characters as MATLAB v7.3 does."""
    codes = np.array([[ord(letter)] for letter in text], dtype=np.uint16)
    stored = file.create_dataset(name, data=codes)
    stored.attrs['MATLAB_class'] = np.bytes_('char')
    return stored


class TestWrittenWavelengths:
    """Band centres that are written as text are read as numbers."""

    WRITTEN = ('400.5', '500.25', '600', '700')
    CENTRES = (400.5, 500.25, 600.0, 700.0)
    CUBE = np.arange(48, dtype=np.float32).reshape(3, 4, 4)

    def check(self, path: Path) -> None:
        scene = open_scene(path, cube_variable='cube')
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == list(self.CENTRES)

    @pytest.mark.parametrize(
        'written',
        [
            list(WRITTEN),
            [f'{text} nm'.encode() for text in WRITTEN],
            np.array([list(text.ljust(6).encode()) for text in WRITTEN], 'u1').view(
                'S1'
            ),
            ', '.join(WRITTEN),
            '{0.4005 um, 0.50025 um, 0.6 um, 0.7 um}',
        ],
        ids=['texts', 'bytes with units', 'characters', 'one text', 'micrometres'],
    )
    @pytest.mark.parametrize('where', ['variable', 'attribute', 'file'])
    def test_hdf5(self, tmp_path: Path, written: Any, where: str) -> None:
        path = tmp_path / 'cube.h5'
        with h5py.File(path, 'w') as file:
            cube = file.create_dataset('cube', data=self.CUBE)
            if where == 'variable':
                file['wavelength'] = written
            else:
                holder = cube if where == 'attribute' else file
                holder.attrs['wavelength'] = written
        self.check(path)

    def test_unit_of_the_attribute_counts(self, tmp_path: Path) -> None:
        path = tmp_path / 'cube.h5'
        with h5py.File(path, 'w') as file:
            file['cube'] = self.CUBE
            file['wavelength'] = ['0.4005', '0.50025', '0.6', '0.7']
            file['wavelength'].attrs['units'] = 'micrometers'
        self.check(path)

    @pytest.mark.parametrize('cells', [False, True])
    def test_matlab_73(self, tmp_path: Path, cells: bool) -> None:
        path = tmp_path / 'cube.mat'
        with h5py.File(path, 'w') as file:
            file['cube'] = self.CUBE.T
            if cells:
                held = [
                    _matlab_text(file, f'#refs#/{number}', text).ref
                    for number, text in enumerate(self.WRITTEN)
                ]
                stored = file.create_dataset(
                    'info/wavelength', data=np.array([held], dtype=h5py.ref_dtype)
                )
                stored.attrs['MATLAB_class'] = np.bytes_('cell')
            else:
                _matlab_text(file, 'wavelength', ' '.join(self.WRITTEN))
        self.check(path)

    @pytest.mark.parametrize(
        'told',
        [
            {'wavelength': np.array(WRITTEN)},
            {'wavelength': ' '.join(WRITTEN)},
            {'info': {'Wavelengths': np.array(WRITTEN, dtype=object)}},
        ],
        ids=['characters', 'one text', 'cells of a struct'],
    )
    def test_matlab_5(self, tmp_path: Path, told: dict[str, Any]) -> None:
        path = tmp_path / 'cube.mat'
        scipy.io.savemat(path, {'cube': self.CUBE, **told})
        self.check(path)

    def test_npz_and_netcdf(self, tmp_path: Path) -> None:
        names = np.array(self.WRITTEN)
        np.savez(tmp_path / 'cube.npz', cube=self.CUBE, wavelengths=names)
        self.check(tmp_path / 'cube.npz')
        path = tmp_path / 'cube.nc'
        with scipy.io.netcdf_file(path, 'w') as file:
            for name, size in (('y', 3), ('x', 4), ('b', 4), ('length', 6)):
                file.createDimension(name, size)
            file.createVariable('cube', 'f4', ('y', 'x', 'b'))[:] = self.CUBE
            letters = np.array(
                [list(text.ljust(6)) for text in self.WRITTEN], dtype='S1'
            )
            file.createVariable('wavelength', 'c', ('b', 'length'))[:] = letters
        self.check(path)

    def test_other_texts_are_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / 'cube.h5'
        with h5py.File(path, 'w') as file:
            file['cube'] = self.CUBE
            file['wavelength'] = ['red', 'green', 'blue', 'nir']
        assert open_scene(path).wavelengths is None
        assert "cube.h5: found text in 'wavelength', expected a number a band" in (
            caplog.text
        )
        with h5py.File(path, 'a') as file:
            del file['wavelength']
            file['wavelength'] = ['400.5', '500']
        assert open_scene(path).wavelengths is None
        assert 'found 2 wavelengths for 4 bands' in caplog.text

    def test_list_of_the_argument(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'cube.npy', self.CUBE)
        texts = [f'{centre} nm' for centre in self.CENTRES]
        for given in (list(self.CENTRES), np.array(self.CENTRES), texts):
            scene = open_scene(tmp_path / 'cube.npy', wavelengths=given)
            assert scene.wavelengths is not None
            assert scene.wavelengths.tolist() == list(self.CENTRES)
        with pytest.raises(
            ValueError, match='wavelengths: expected one wavelength a band'
        ):
            open_scene(tmp_path / 'cube.npy', wavelengths=['red', 'green', 'blue', '9'])

    def test_text_file_may_name_the_unit(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'cube.npy', self.CUBE)
        path = tmp_path / 'centres.txt'
        path.write_text('0.4005 um\n0.50025 um\n0.6 um\n0.7 um\n')
        scene = open_scene(tmp_path / 'cube.npy', wavelengths=path)
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == list(self.CENTRES)
        path.write_text('400 nm 0.5 um 600 700')
        with pytest.raises(ValueError, match='found the units nm and um'):
            open_scene(tmp_path / 'cube.npy', wavelengths=path)
