# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of what attributes of HDF5 and NetCDF say about values: signs, bounds, names."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from affine import Affine
from rasterio.crs import CRS

from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import HyperspectralScene, open_scene

CUBE = np.random.default_rng(0).integers(10, 4000, (7, 5, 4)).astype('int16')
LABELS = np.arange(35).reshape(7, 5) % 4


def write(
    path: Path, cube: np.ndarray, attributes: dict[str, Any] | None = None
) -> Path:
    """Write an HDF5 file with a cube and its attributes."""
    with h5py.File(path, 'w') as file:
        file['cube'] = cube
        file['cube'].attrs.update(attributes or {})
    return path


def add(path: Path, name: str, values: Any, **attributes: Any) -> None:
    """Add an array and its attributes to an HDF5 file."""
    with h5py.File(path, 'r+') as file:
        file[name] = values
        file[name].attrs.update(attributes)


def values_of(scene: HyperspectralScene) -> np.ndarray:
    return scene.read(0, scene.shape[0], 0, scene.shape[1])


class TestSigns:
    @pytest.mark.parametrize('kind', ['hdf5', 'classic'])
    def test_unsigned_values(self, tmp_path: Path, kind: str) -> None:
        cube = CUBE.copy()
        cube[0, 0], cube[1, 1] = -30, -1
        path = tmp_path / 'cube.nc'
        if kind == 'hdf5':
            write(path, cube, {'_Unsigned': 'true', '_FillValue': np.int16(-1)})
        else:
            with scipy.io.netcdf_file(path, 'w') as file:
                for name, size in zip('yxb', cube.shape, strict=True):
                    file.createDimension(name, size)
                variable = file.createVariable('cube', 'h', tuple('yxb'))
                variable[:] = cube
                variable._Unsigned, variable._FillValue = 'true', np.int16(-1)
        scene = open_scene(path, None)
        assert np.array_equal(values_of(scene), cube.view('uint16'))
        assert scene.nodata == 65535 and not scene.valid[1, 1] and scene.valid[0, 0]

    def test_unsigned_labels(self, tmp_path: Path) -> None:
        path = write(tmp_path / 'cube.h5', CUBE)
        stored = np.where(LABELS == 3, 200, LABELS).astype('uint8').view('int8')
        add(path, 'labels', stored, _Unsigned='true')
        scene = open_scene(path, path, labels_variable='labels')
        assert scene.class_values == (1, 2, 200)

    def test_other_byte_order(self, tmp_path: Path) -> None:
        path = write(tmp_path / 'cube.h5', CUBE.astype('>f4'))
        scene = open_scene(path, None, lazy=True)
        assert scene.dtype == np.float32 and not scene.precise
        assert np.array_equal(values_of(scene), CUBE)


class TestBounds:
    @pytest.mark.parametrize(
        'attributes',
        [
            {'valid_range': np.array([0, 4000], 'int16')},
            {'valid_min': np.int16(0)},
            {'valid_min': 0.5, 'scale_factor': np.float32(1e-4), 'add_offset': 0.5},
            {'valid_range': [0.0, np.inf]},
        ],
        ids=['range', 'least', 'unpacked', 'infinite'],
    )
    def test_values_outside_are_no_data(
        self,
        tmp_path: Path,
        attributes: dict[str, Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        cube = CUBE.copy()
        cube[2, 3, 1] = -7
        scene = open_scene(write(tmp_path / 'cube.h5', cube, attributes), None)
        assert np.argwhere(~scene.valid).tolist() == [[2, 3]]
        assert "cube.h5: 1 pixels of 'cube' have values outside" in caplog.text

    def test_fill_is_judged_as_fill(self, tmp_path: Path) -> None:
        cube = CUBE.copy()
        cube[2, 3, 1], cube[4, 4] = -7, -7
        bounds = {'_FillValue': np.int16(-7), 'valid_min': np.int16(0)}
        path = write(tmp_path / 'cube.h5', cube, bounds)
        assert np.argwhere(~open_scene(path, None, nodata_in='all').valid).tolist() == [
            [4, 4]
        ]

    @pytest.mark.parametrize('limit', [np.int16(-5), 'high'], ids=str)
    def test_bounds_that_cannot_be(
        self, tmp_path: Path, limit: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(tmp_path / 'cube.h5', CUBE, {'valid_max': limit})
        assert open_scene(path, None).valid.all()
        assert 'left out' in caplog.text

    def test_wavelengths_are_unpacked(self, tmp_path: Path) -> None:
        path = write(tmp_path / 'cube.h5', CUBE)
        packed = np.array([800, 1000, 1200, 1400], 'int16')
        add(path, 'wavelength', packed, scale_factor=0.5, add_offset=1.0, units='nm')
        found = open_scene(path, None).wavelengths
        assert found is not None and found.tolist() == [401, 501, 601, 701]


class TestNames:
    def test_flags(self, tmp_path: Path) -> None:
        path = write(tmp_path / 'cube.h5', CUBE)
        names = 'none water forest maize'
        add(path, 'labels', LABELS, flag_values=[0, 1, 2, 3], flag_meanings=names)
        scene = open_scene(path, path, labels_variable='labels')
        assert scene.class_names == ('water', 'forest', 'maize')

    def test_flags_that_do_not_fit(self, tmp_path: Path) -> None:
        path = write(tmp_path / 'cube.h5', CUBE)
        add(path, 'labels', LABELS, flag_values=[0, 1, 2, 3], flag_meanings='a b')
        with pytest.raises(FileError, match='4 flag_values and 2 flag_meanings'):
            open_scene(path, path, labels_variable='labels')
        names = ['a', 'b', 'c']
        scene = open_scene(path, path, labels_variable='labels', class_names=names)
        assert scene.class_names == ('a', 'b', 'c')

    def test_enumeration(self, tmp_path: Path) -> None:
        path = write(tmp_path / 'cube.h5', CUBE)
        kind = h5py.enum_dtype({'none': 0, 'oak': 1, 'fir': 2, 'elm': 3}, 'u1')
        with h5py.File(path, 'r+') as file:
            file.create_dataset('labels', data=LABELS, dtype=kind)
        scene = open_scene(path, path, labels_variable='labels')
        assert scene.class_names == ('oak', 'fir', 'elm')

    @pytest.mark.parametrize(
        'kind', ['v5', 'struct', 'characters', 'v7.3', 'h5', 'file.h5', 'map.h5', 'npz']
    )
    @pytest.mark.parametrize('ground', [[], ['Background']])
    def test_list_of_texts(
        self,
        tmp_path: Path,
        kind: str,
        ground: list[str],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Files of MUUFL Gulfport and others list names beside the labels."""
        names = [*ground, 'bare soil', 'forest', 'maize']
        cells = np.array(names, dtype=object)
        path = tmp_path / {
            'h5': 'gt.h5',
            'npz': 'gt.npz',
            'file.h5': 'gt.h5',
            'map.h5': 'gt.h5',
        }.get(kind, 'gt.mat')
        labels = 'gt'
        if kind == 'v5':
            scipy.io.savemat(path, {'gt': LABELS, 'Class_Names': cells})
        elif kind == 'struct':
            struct = {'labels': LABELS, 'Materials_Type': cells[:, None]}
            scipy.io.savemat(path, {'scene': struct})
            labels = 'scene/labels'
        elif kind == 'characters':
            scipy.io.savemat(path, {'gt': LABELS, 'classes': np.array(names)})
        elif kind == 'npz':
            np.savez(path, gt=LABELS, class_names=names, names=['a', 'b', 'c'])
        else:
            with h5py.File(path, 'w') as file:
                file['gt'] = LABELS.T if kind == 'v7.3' else LABELS
                if kind == 'h5':
                    file['class_names'] = names
                elif kind.endswith('.h5'):
                    holder = file if kind == 'file.h5' else file['gt']
                    holder.attrs['class_names'] = names
                else:
                    texts = [np.array([[ord(c)] for c in n], 'u2') for n in names]
                    held = [
                        file.create_dataset(f'#refs#/{place}', data=text)
                        for place, text in enumerate(texts)
                    ]
                    for item in held:
                        item.attrs['MATLAB_class'] = np.bytes_('char')
                    references = np.array([item.ref for item in held], h5py.ref_dtype)
                    listed = file.create_dataset('class_names', data=references[None])
                    listed.attrs['MATLAB_class'] = np.bytes_('cell')
        np.save(tmp_path / 'cube.npy', CUBE)
        read: list[str] = []

        def get(data: h5py.Dataset, *args: Any) -> Any:
            read.append(str(data.name))
            return item(data, *args)

        item = h5py.Dataset.__getitem__
        monkeypatch.setattr(h5py.Dataset, '__getitem__', get)
        scene = open_scene(tmp_path / 'cube.npy', path, labels_variable=labels)
        assert read.count('/gt') <= 1  # the map is not read again for its names
        assert scene.class_names == ('bare soil', 'forest', 'maize')
        assert not caplog.text
        assert scene.class_values == (1, 2, 3)

    def test_more_names_than_labels(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The first of them may be that of 0."""
        names = ['others', 'bare soil', 'forest', 'maize']
        np.savez(tmp_path / 'gt.npz', gt=LABELS * 1.0, class_names=names)
        np.save(tmp_path / 'cube.npy', CUBE)
        scene = open_scene(tmp_path / 'cube.npy', tmp_path / 'gt.npz')
        assert scene.class_names == ('others', 'bare soil', 'forest')
        told = (
            '4 names of classes are taken as those of the labels 1 to 4, but its labels'
        )
        assert f'{told} end with 3' in caplog.text


def test_parts_that_are_missing(tmp_path: Path) -> None:
    part = write(tmp_path / 'part.h5', CUBE)
    layout = h5py.VirtualLayout(CUBE.shape, CUBE.dtype)
    layout[:] = h5py.VirtualSource('part.h5', 'cube', CUBE.shape)
    with h5py.File(tmp_path / 'whole.h5', 'w') as file:
        file.create_virtual_dataset('cube', layout)
    assert np.array_equal(values_of(open_scene(tmp_path / 'whole.h5', None)), CUBE)
    part.unlink()
    with pytest.raises(FileError, match=r'whole\.h5.*found no file part\.h5'):
        open_scene(tmp_path / 'whole.h5', None)


class TestLinks:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A file whose cube has a second and a third name, beside one of links."""
        path = write(tmp_path / 'cube.h5', CUBE)
        with h5py.File(path, 'r+') as file:
            file['soft'] = h5py.SoftLink('/cube')
            file['group/hard'] = file['cube']
        with h5py.File(tmp_path / 'links.h5', 'w') as file:
            file['there'] = h5py.ExternalLink('cube.h5', '/cube')
            file['gone'] = h5py.ExternalLink('none.h5', '/cube')
        return path

    @pytest.mark.parametrize('name', [None, 'cube', '/soft', 'group/hard'])
    @pytest.mark.parametrize('lazy', [False, True])
    def test_other_names(self, path: Path, name: str | None, lazy: bool) -> None:
        scene = open_scene(path, None, cube_variable=name, lazy=lazy)
        assert np.array_equal(values_of(scene), CUBE)

    @pytest.mark.parametrize('name', [None, 'there'])
    def test_other_files(self, path: Path, name: str | None) -> None:
        links = path.with_name('links.h5')
        scene = open_scene(links, None, cube_variable=name, lazy=True)
        assert np.array_equal(values_of(scene), CUBE)

    def test_other_files_that_are_gone(self, path: Path) -> None:
        links = path.with_name('links.h5')
        with pytest.raises(FileError, match=r"'gone' should lie at .* in none\.h5"):
            open_scene(links, None, cube_variable='gone')
        path.unlink()
        with pytest.raises(FileError, match=r'should lie at .*found nothing there'):
            open_scene(links, None)

    def test_groups_of_other_files(self, path: Path) -> None:
        with h5py.File(path.with_name('scans.h5'), 'w') as file:
            file['scan'] = h5py.ExternalLink('cube.h5', '/group')
        scene = open_scene(path.with_name('scans.h5'), None, lazy=True)
        assert np.array_equal(values_of(scene), CUBE)


def test_texts_and_sparse_labels_of_matlab(tmp_path: Path) -> None:
    path = write(tmp_path / 'scene.mat', CUBE.T)
    add(path, 'names', (65 + LABELS.T).astype('uint16'), MATLAB_class=np.bytes_('char'))
    with pytest.raises(FileError, match='no array with 2 axes'):
        open_scene(path, path)
    sparse = scipy.sparse.csc_array(LABELS.astype(float))
    with h5py.File(path, 'r+') as file:
        group = file.create_group('labels')
        group.attrs['MATLAB_sparse'] = np.uint64(LABELS.shape[0])
        for key in ('data', 'indices', 'indptr'):
            name = {'indices': 'ir', 'indptr': 'jc'}.get(key, key)
            group[name] = getattr(sparse, key)
    scene = open_scene(path, path)
    assert np.array_equal(scene.label_map, LABELS)


class TestContainers:
    @pytest.mark.parametrize('name', ['a.cdf', 'a.data', 'a'])
    def test_of_another_ending(self, tmp_path: Path, name: str) -> None:
        """GDAL takes the last two axes for rows and columns."""
        with h5py.File(tmp_path / name, 'w') as file:
            file['cube'] = CUBE
        assert np.array_equal(open_scene(tmp_path / name).cube, CUBE)

    def test_filter_that_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with h5py.File(tmp_path / 'a.h5', 'w') as file:
            file.create_dataset('cube', data=CUBE, compression='gzip')
        assert np.array_equal(open_scene(tmp_path / 'a.h5').cube, CUBE)
        monkeypatch.setattr(h5py.h5z, 'filter_avail', lambda code: False)
        with pytest.raises(FileError, match=r"'/cube' is compressed by filter 1 \("):
            open_scene(tmp_path / 'a.h5')

    @pytest.mark.parametrize('kind', ['a.nc', 'classic.nc'])
    @pytest.mark.parametrize(
        ('told', 'code'),
        [('EPSG:32633', 32633), ('no such CRS', None), ('LOCAL_CS["site"]', None)],
    )
    def test_crs(self, tmp_path: Path, kind: str, told: str, code: int | None) -> None:
        """CF names the variable that holds it, which may have no numbers."""
        path = tmp_path / kind
        wkt = CRS.from_string(told).to_wkt() if code else told
        places = {'y': 5399985.0 - 30 * np.arange(7), 'x': 500015.0 + np.arange(5)}
        if kind == 'a.nc':
            with h5py.File(path, 'w') as file:
                data = file.create_dataset('cube', data=CUBE)
                data.attrs['grid_mapping'] = 'spatial: x y'
                file.create_dataset('spatial', data=b'').attrs['crs_wkt'] = wkt
                for axis, (name, values) in enumerate(places.items()):
                    file[name] = values
                    file[name].make_scale(name)
                    data.dims[axis].attach_scale(file[name])
        else:
            with scipy.io.netcdf_file(path, 'w') as classic:
                for name, size in (('y', 7), ('x', 5), ('band', 4)):
                    classic.createDimension(name, size)
                for name, values in places.items():
                    classic.createVariable(name, 'f8', (name,))[:] = values
                cube = classic.createVariable('cube', 'i4', ('y', 'x', 'band'))
                cube[:], cube.grid_mapping = CUBE, 'crs'
                classic.createVariable('crs', 'c', ()).spatial_ref = wkt
        scene = open_scene(path)
        assert scene.transform == Affine(1, 0, 500014.5, 0, -30, 5400000)
        assert (scene.crs and scene.crs.to_epsg()) == code
