# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of array files: MATLAB, NumPy, HDF5 and NetCDF."""

import io
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from tests.data.arrays import data
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.datasets.sources import Request, Source, open_source


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.make(tmp_path_factory.mktemp('arrays'))


FILES = [
    ('v5.mat', 'cube'),
    ('v73.mat', 'cube'),
    ('scene.npz', 'cube'),
    ('scene.nc', 'reflectance'),
]


def open_file(
    path: Path, variable: str | None = None, axes: str | None = None
) -> Source:
    return open_source(path, Request(variable, axes))


def read_array(path: Path, variable: str | None = None, ndim: int = 3) -> np.ndarray:
    values = open_source(path, Request(variable, labels=ndim == 2), 'array').read_all()
    return values[:, :, 0] if ndim == 2 else values


class TestRead:
    @pytest.mark.parametrize(('file', 'variable'), FILES)
    def test_named_or_found(self, root: Path, file: str, variable: str) -> None:
        named = read_array(root / file, variable)
        assert np.array_equal(named, data.cube_of())
        assert np.array_equal(read_array(root / file), named)
        assert np.array_equal(read_array(root / file, ndim=2), data.labels_of())

    @pytest.mark.parametrize(('file', 'variable'), FILES)
    def test_wrong_variable(self, root: Path, file: str, variable: str) -> None:
        with pytest.raises(FileError, match=rf"no variable 'nope'.*{variable} \(15"):
            read_array(root / file, 'nope')
        with pytest.raises(FileError, match='expected 2 axes'):
            read_array(root / file, variable, ndim=2)

    @pytest.mark.parametrize('file', ['a.mat', 'a.npz', 'a.h5'])
    def test_no_cube(self, tmp_path: Path, file: str) -> None:
        labels = data.labels_of()
        if file == 'a.mat':
            scipy.io.savemat(tmp_path / file, {'labels': labels})
        elif file == 'a.npz':
            np.savez(tmp_path / file, labels=labels)
        else:
            with h5py.File(tmp_path / file, 'w') as group:
                group['labels'] = labels
        with pytest.raises(FileError, match=r'no array with 3 axes.*labels \(15, 18\)'):
            read_array(tmp_path / file)

    def test_several_candidates(self, tmp_path: Path) -> None:
        cube = data.cube_of()
        scipy.io.savemat(tmp_path / 'two.mat', {'one': cube, 'two': cube})
        with pytest.raises(FileError, match=r'2 arrays with 3 axes.*name the variable'):
            read_array(tmp_path / 'two.mat')

    def test_no_numbers(self, tmp_path: Path) -> None:
        scipy.io.savemat(tmp_path / 'a.mat', {'name': np.ones((3, 4, 2)) * 1j})
        with pytest.raises(
            FileError, match='holds complex128, expected an array of real'
        ):
            read_array(tmp_path / 'a.mat', 'name')

    @pytest.mark.parametrize(
        'file', ['absent.mat', 'absent.npy', 'absent.h5', 'absent']
    )
    def test_missing(self, tmp_path: Path, file: str) -> None:
        with pytest.raises(FileNotFoundError, match=r'there is no file .*absent'):
            read_array(tmp_path / file)
        (tmp_path / file).mkdir()
        with pytest.raises(FileNotFoundError, match='is a folder'):
            read_array(tmp_path / file)

    @pytest.mark.parametrize(
        'file', ['v5.mat', 'v73.mat', 'scene.npz', 'cube.npy', 'scene.nc']
    )
    @pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
    def test_truncated(
        self, root: Path, tmp_path: Path, file: str, share: float
    ) -> None:
        whole = (root / file).read_bytes()
        path = tmp_path / file
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FileError, match=file):
            read_array(path)

    def test_other_format(self, tmp_path: Path) -> None:
        path = tmp_path / 'page.mat'
        path.write_text('<html>Not found</html>' * 20)
        with pytest.raises(FileError, match='cannot be read as a MATLAB file'):
            read_array(path)


class TestMemory:
    """What a file declares is compared with the free memory before it is read."""

    @pytest.mark.parametrize('file', ['scene.npz', 'v5.mat', 'cube.npy', 'scene.nc'])
    def test_larger_than_the_memory(
        self, root: Path, file: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr('torchgeo_ekgnet._reading._free_memory', lambda: 1000)
        with pytest.raises(FileError, match=rf'{file}: .* needs .*check_memory=False'):
            open_scene(root / file, lazy=False)
        scene = open_scene(root / file, lazy=False, check_memory=False)
        assert np.array_equal(scene.cube, data.cube_of())

    def test_only_the_wanted_array(self, tmp_path: Path) -> None:
        path = tmp_path / 'bomb.npz'
        np.savez(path, cube=data.cube_of())
        header = io.BytesIO()
        facts = {'descr': '|u1', 'fortran_order': False, 'shape': (1 << 50,)}
        np.lib.format.write_array_header_1_0(header, facts)
        with zipfile.ZipFile(path, 'a') as archive:
            archive.writestr('other.npy', header.getvalue())
        assert np.array_equal(open_scene(path).cube, data.cube_of())

    def test_pixels_that_no_memory_holds(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / 'a.h5', 'w') as file:
            file.create_dataset('cube', (1 << 24, 1 << 24, 2), 'u1', chunks=(64, 64, 2))
        with pytest.raises(FileError, match=r'the mask of .* pixels needs'):
            open_scene(tmp_path / 'a.h5')


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
        source = open_file(root / file, variable, axes)
        assert source.shape == cube.shape
        assert source.dtype == cube.dtype
        for copy in (source, pickle.loads(pickle.dumps(source))):
            assert np.array_equal(copy.read(slice(3, 9), slice(2, 11)), cube[3:9, 2:11])
            bands = np.array([5, 0])
            assert np.array_equal(
                copy.read(slice(0, 15), slice(0, 18), bands), cube[:, :, [5, 0]]
            )

    def test_lazy_sources_travel_without_values(self, root: Path) -> None:
        for file in ('cube.npy', 'scene.nc'):
            assert len(pickle.dumps(open_file(root / file))) < 2000

    @pytest.mark.parametrize('axes', ['yx', 'yyb', 'abc'])
    def test_wrong_axes(self, root: Path, axes: str) -> None:
        with pytest.raises(ValueError, match='axes must order the letters'):
            open_file(root / 'scene.nc', axes=axes)

    def test_wrong_variable(self, root: Path) -> None:
        with pytest.raises(ValueError, match='2 arrays with 3 axes'):
            open_file(root / 'scene.h5')
        with pytest.raises(ValueError, match='expected 3 axes'):
            open_file(root / 'scene.h5', 'product/labels')

    def test_classic_netcdf(self, tmp_path: Path) -> None:
        path = data.netcdf(tmp_path / 'scene.nc', classic=True)
        source = open_file(path)
        assert source.dtype == np.dtype('=f4')
        for copy in (source, pickle.loads(pickle.dumps(source))):
            assert np.array_equal(
                copy.read(slice(3, 9), slice(2, 11)), data.cube_of()[3:9, 2:11]
            )
        assert np.array_equal(read_array(path, ndim=2), data.labels_of())
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match='cannot be read as NetCDF: it is trunc'):
            open_file(path)
        path.write_bytes(b'CDF\x05' + bytes(100))
        with pytest.raises(ValueError, match='of the kind CDF-5, which is not read'):
            open_file(path)

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
        source = open_file(tmp_path / 'cube.h5')
        assert (centres := source.wavelengths()) is not None
        assert np.array_equal(centres, data.CENTRES)

    def test_band_centres_of_the_own_group(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / 'cube.h5', 'w') as file:
            for number, group in enumerate(('a', 'b', 'c')):
                file[f'{group}/cube'] = data.cube_of()
                file[f'{group}/wavelength'] = data.CENTRES + number
        source = open_file(tmp_path / 'cube.h5', 'b/cube')
        assert (centres := source.wavelengths()) is not None
        assert np.array_equal(centres, data.CENTRES + 1)

    def test_damaged_hdf5(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / 'cube.h5', 'w') as file:
            file['cube'] = np.zeros((4, 4, 4))
        with pytest.raises(ValueError, match="no variable 'other'"):
            open_file(tmp_path / 'cube.h5', 'other')
