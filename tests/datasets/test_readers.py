# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the array readers."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from tests.data.arrays import data
from torchgeo_ekgnet.datasets.readers import (
    HDF5Source,
    open_array,
    read_hdf5,
    read_mat,
    read_numpy,
)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.make(tmp_path_factory.mktemp('arrays'))


READERS = [
    (read_mat, 'v5.mat', 'cube'),
    (read_mat, 'v73.mat', 'cube'),
    (read_numpy, 'scene.npz', 'cube'),
    (read_hdf5, 'scene.nc', 'reflectance'),
]


class TestRead:
    @pytest.mark.parametrize(('reader', 'file', 'variable'), READERS)
    def test_named_or_found(
        self, root: Path, reader: Callable[..., Any], file: str, variable: str
    ) -> None:
        named = reader(root / file, variable)
        assert np.array_equal(named, data.cube_of())
        assert np.array_equal(reader(root / file), named)
        assert np.array_equal(reader(root / file, ndim=2), data.labels_of())

    @pytest.mark.parametrize(('reader', 'file', 'variable'), READERS)
    def test_wrong_variable(
        self, root: Path, reader: Callable[..., Any], file: str, variable: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"no variable 'nope'.*{variable} \(15"):
            reader(root / file, 'nope')
        with pytest.raises(ValueError, match='expected 2 axes'):
            reader(root / file, variable, ndim=2)
        with pytest.raises(ValueError, match='no array with 4 axes'):
            reader(root / file, ndim=4)

    def test_several_candidates(self, tmp_path: Path) -> None:
        cube = data.cube_of()
        scipy.io.savemat(tmp_path / 'two.mat', {'one': cube, 'two': cube})
        with pytest.raises(
            ValueError, match=r'2 arrays with 3 axes.*name the variable'
        ):
            read_mat(tmp_path / 'two.mat')

    def test_no_numbers(self, tmp_path: Path) -> None:
        scipy.io.savemat(tmp_path / 'text.mat', {'name': np.array([['a', 'b']])})
        with pytest.raises(ValueError, match='not an array of numbers'):
            read_mat(tmp_path / 'text.mat', 'name', ndim=2)

    @pytest.mark.parametrize('reader', [read_mat, read_numpy, read_hdf5])
    def test_missing(self, tmp_path: Path, reader: Callable[..., Any]) -> None:
        with pytest.raises(FileNotFoundError, match=r'there is no file .*absent'):
            reader(tmp_path / 'absent')
        with pytest.raises(FileNotFoundError, match='is a folder'):
            reader(tmp_path)

    @pytest.mark.parametrize(
        ('reader', 'file'),
        [
            (read_mat, 'v5.mat'),
            (read_mat, 'v73.mat'),
            (read_numpy, 'scene.npz'),
            (read_numpy, 'cube.npy'),
            (read_hdf5, 'scene.h5'),
        ],
    )
    @pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
    def test_truncated(
        self,
        root: Path,
        tmp_path: Path,
        reader: Callable[..., Any],
        file: str,
        share: float,
    ) -> None:
        whole = (root / file).read_bytes()
        path = tmp_path / file
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=file):
            reader(path)

    def test_other_format(self, tmp_path: Path) -> None:
        path = tmp_path / 'page.mat'
        path.write_text('<html>Not found</html>' * 20)
        with pytest.raises(ValueError, match='cannot be read as a MATLAB file'):
            read_mat(path)


class TestOpen:
    @pytest.mark.parametrize(
        ('file', 'variable', 'axes'),
        [
            ('cube.npy', None, 'yxb'),
            ('fortran.npy', None, 'yxb'),
            ('scene.npz', 'cube', 'yxb'),
            ('scene.h5', 'product/reflectance', 'byx'),
            ('scene.h5', '/product/reflectance', 'byx'),
            ('scene.nc', None, 'yxb'),
            ('v5.mat', None, 'yxb'),
            ('v73.mat', 'cube', 'yxb'),
        ],
    )
    def test_windows(
        self, root: Path, file: str, variable: str | None, axes: str
    ) -> None:
        cube = data.cube_of()
        source = open_array(root / file, variable, axes)
        assert source.shape == cube.shape
        assert source.dtype == cube.dtype
        for copy in (source, pickle.loads(pickle.dumps(source))):
            assert np.array_equal(copy.read(3, 9, 2, 11), cube[3:9, 2:11])
            bands = np.array([5, 0])
            assert np.array_equal(copy.read(0, 15, 0, 18, bands), cube[:, :, [5, 0]])

    def test_lazy_sources_travel_without_values(self, root: Path) -> None:
        for file in ('cube.npy', 'scene.nc'):
            assert len(pickle.dumps(open_array(root / file))) < 2000

    @pytest.mark.parametrize('axes', ['yx', 'yyb', 'abc'])
    def test_wrong_axes(self, root: Path, axes: str) -> None:
        with pytest.raises(ValueError, match='axes must order the letters'):
            open_array(root / 'scene.nc', axes=axes)

    def test_wrong_variable(self, root: Path) -> None:
        with pytest.raises(ValueError, match='2 arrays with 3 axes'):
            HDF5Source(root / 'scene.h5')
        with pytest.raises(ValueError, match='expected 3 axes'):
            HDF5Source(root / 'scene.h5', 'product/labels')

    def test_classic_netcdf(self, tmp_path: Path) -> None:
        path = data.netcdf(tmp_path / 'scene.nc', classic=True)
        source = open_array(path)
        assert isinstance(source, HDF5Source)
        assert source.dtype == np.dtype('=f4')
        for copy in (source, pickle.loads(pickle.dumps(source))):
            assert np.array_equal(copy.read(3, 9, 2, 11), data.cube_of()[3:9, 2:11])
        assert np.array_equal(read_hdf5(path, ndim=2), data.labels_of())
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match='cannot be read as NetCDF: it is trunc'):
            open_array(path)
        path.write_bytes(b'CDF\x05' + bytes(100))
        with pytest.raises(ValueError, match='of the kind CDF-5, which is not read'):
            open_array(path)

    @pytest.mark.parametrize(
        ('place', 'name'),
        [
            ('product/reflectance', 'wavelengths'),
            ('', 'wavelength'),
            (None, 'product/Wavelength'),
            (None, 'bands/wavelengths'),
        ],
    )
    def test_band_centres(self, tmp_path: Path, place: str | None, name: str) -> None:
        with h5py.File(tmp_path / 'cube.h5', 'w') as file:
            file['product/reflectance'] = data.cube_of()
            file['other/wavelength'] = np.arange(3.0)
            if place is None:
                file[name] = data.CENTRES
                file[name].attrs['Units'] = np.bytes_('nm')
            else:
                attributes = file[place or '/'].attrs
                attributes[name] = data.CENTRES
                attributes[f'{name}_units'] = 'nm'
        source = HDF5Source(tmp_path / 'cube.h5')
        assert source.wavelengths is not None
        assert np.array_equal(source.wavelengths, data.CENTRES)
        assert source.wavelength_unit == 'nm'

    def test_band_centres_of_the_own_group(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / 'cube.h5', 'w') as file:
            for number, group in enumerate(('a', 'b', 'c')):
                file[f'{group}/cube'] = data.cube_of()
                file[f'{group}/wavelength'] = data.CENTRES + number
        source = HDF5Source(tmp_path / 'cube.h5', 'b/cube')
        assert source.wavelengths is not None
        assert np.array_equal(source.wavelengths, data.CENTRES + 1)
        assert source.wavelength_unit is None

    def test_unknown_format(self, tmp_path: Path) -> None:
        (tmp_path / 'cube.txt').write_text('1 2 3')
        with pytest.raises(ValueError, match=r"'.txt' is none of the array formats"):
            open_array(tmp_path / 'cube.txt')

    def test_damaged_hdf5(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / 'cube.h5', 'w') as file:
            file['cube'] = np.zeros((4, 4, 4))
        with pytest.raises(ValueError, match="no variable 'other'"):
            open_array(tmp_path / 'cube.h5', 'other')
