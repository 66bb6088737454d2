# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of space products and of what arrays say about bands and axes."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from tests.data.arrays import data as arrays
from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import BandSelection, open_scene

CUBE = np.random.default_rng(2).integers(1, 3000, (12, 14, 5)).astype('uint16')
CENTRES = np.array([400.0, 500, 600, 700, 800])
LABELS = np.random.default_rng(3).integers(0, 4, (12, 14)).astype('uint8')


class TestPrisma:
    BASE = 'HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/'

    def write(self, path: Path, **attributes: Any) -> Path:
        with h5py.File(path, 'w') as file:
            file[self.BASE + 'VNIR_Cube'] = CUBE[:, :, :3].transpose(0, 2, 1)
            file[self.BASE + 'SWIR_Cube'] = CUBE[:, :, 3:].transpose(0, 2, 1)
            file[self.BASE + 'VNIR_PIXEL_L2_ERR_MATRIX'] = np.zeros((12, 3, 14), 'u1')
            file.attrs['List_Cw_Vnir'] = CENTRES[:3]
            file.attrs['List_Cw_Swir'] = CENTRES[3:]
            file.attrs.update(attributes)
        return path

    @pytest.mark.parametrize('axes', [None, 'ybx'])
    @pytest.mark.parametrize('lazy', [False, True])
    def test_both_cubes(self, tmp_path: Path, axes: str | None, lazy: bool) -> None:
        scene = open_scene(self.write(tmp_path / 'a.he5'), axes=axes, lazy=lazy)
        assert np.array_equal(scene.read(0, 12, 0, 14), CUBE)
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == CENTRES.tolist()

    def test_bands_that_were_not_acquired(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path / 'a.he5',
            List_Cw_Vnir=[0.0, 500, 600],
            List_Cw_Vnir_Flags=[0, 1, 1],
            List_Cw_Swir_Flags=[1, 0],
        )
        assert open_scene(path).band_indices.tolist() == [1, 2, 3]

    def test_scale_of_reflectance(self, tmp_path: Path) -> None:
        limits = {
            'L2ScaleVnirMin': 0.0,
            'L2ScaleVnirMax': 1.0,
            'L2ScaleSwirMin': 0.1,
            'L2ScaleSwirMax': 0.5,
        }
        scene = open_scene(self.write(tmp_path / 'a.he5', **limits))
        expected = [(1 / 65535, 0.0)] * 3 + [(0.4 / 65535, 0.1)] * 2
        np.testing.assert_allclose(scene.scaling, expected)
        assert open_scene(self.write(tmp_path / 'b.he5')).scaling == ()

    def test_one_of_the_cubes(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / 'a.he5')
        with pytest.raises(FileError, match='are one scene; expected no cube_variable'):
            open_scene(path, cube_variable=self.BASE + 'SWIR_Cube')
        infrared = open_scene(path, bands=BandSelection(wavelengths=[(650, 900)]))
        assert infrared.band_indices.tolist() == [3, 4]


class TestEnmap:
    def write(self, root: Path, parts: dict[str, slice], count: int = 5) -> Path:
        bands = np.moveaxis(CUBE, 2, 0)
        for part, which in parts.items():
            geotiff.write(root / f'ENMAP01-L2A-SPECTRAL_IMAGE{part}.TIF', bands[which])
        inner = ''.join(
            f'<bandID number="{n}"><wavelengthCenterOfBand>{CENTRES[n]}'
            '</wavelengthCenterOfBand></bandID>'
            for n in range(count)
        )
        path = root / 'ENMAP01-L2A-METADATA.XML'
        path.write_text(
            f'<p:level_X xmlns:p="x"><specific><bandCharacterisation>{inner}'
            '</bandCharacterisation></specific></p:level_X>'
        )
        return path

    @pytest.mark.parametrize(
        'parts',
        [
            {'': slice(5)},
            {'_VNIR': slice(3), '_SWIR': slice(3, 5)},
            {'_COG': slice(5)},  # as the archive of DLR has it
        ],
    )
    def test_product(self, tmp_path: Path, parts: dict[str, slice]) -> None:
        path = self.write(tmp_path, parts)
        images = sorted(tmp_path.glob('*.TIF'))
        for cube in (path, *images):
            scene = open_scene(cube)
            assert np.array_equal(scene.cube, CUBE)
            assert scene.wavelengths is not None
            assert scene.wavelengths.tolist() == CENTRES.tolist()

    def test_metadata_that_does_not_fit(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, {'': slice(5)}, count=4)
        with pytest.raises(FileError, match='found 4 band centres, expected 5'):
            open_scene(path)
        assert open_scene(path, wavelengths=CENTRES).num_bands == 5
        path.write_text('<half')
        with pytest.raises(FileError, match='cannot be read as metadata of EnMAP'):
            open_scene(path)

    def test_no_image(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='there is no image beside it'):
            open_scene(self.write(tmp_path, {}))


class TestBandFacts:
    @pytest.mark.parametrize('name', ['good_wavelengths', 'good_bands', 'bbl'])
    @pytest.mark.parametrize(
        'kind', ['group.h5', 'column.mat', 'attribute.nc', 'a.npz']
    )
    def test_bad_bands(self, tmp_path: Path, name: str, kind: str) -> None:
        good = np.array([1, 1, 0, 1, 1], 'u1')
        path = tmp_path / kind
        if kind == 'column.mat':
            scipy.io.savemat(path, {'cube': CUBE, name: good[:, None]})
        elif kind == 'a.npz':
            np.savez(path, **{'cube': CUBE, name: good})  # type: ignore[arg-type]
        else:
            with h5py.File(path, 'w') as file:
                file['cube'] = CUBE
                if kind == 'group.h5':
                    file[f'sensor/{name}'] = good
                else:
                    file['cube'].attrs[name] = good
        assert open_scene(path).band_indices.tolist() == [0, 1, 3, 4]
        assert open_scene(path, bands=BandSelection(drop_bad=False)).num_bands == 5

    @pytest.mark.parametrize(
        'name', ['wavelength', 'Wavelengths', 'center_wavelengths']
    )
    @pytest.mark.parametrize('shape', [(5,), (5, 1), (1, 5)])
    @pytest.mark.parametrize('kind', ['a.mat', 'a.npz', 'a.h5'])
    def test_wavelengths(
        self, tmp_path: Path, name: str, shape: tuple[int, ...], kind: str
    ) -> None:
        arrays: dict[str, Any] = {'cube': CUBE, name: CENTRES.reshape(shape)}
        path = tmp_path / kind
        if kind == 'a.mat':
            scipy.io.savemat(path, arrays)
        elif kind == 'a.npz':
            np.savez(path, **arrays)
        else:
            with h5py.File(path, 'w') as file:
                for key, value in arrays.items():
                    file[key] = value
        scene = open_scene(path)
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == CENTRES.tolist()


class TestStructs:
    @pytest.fixture(params=['v5.mat', 'v73.mat'])
    def path(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        path = tmp_path / str(request.param)
        if request.param == 'v5.mat':
            inner = {'Data': CUBE, 'info': {'wavelength': CENTRES}}
            scipy.io.savemat(path, {'hsi': {**inner, 'truth': {'labels': LABELS}}})
        else:
            with h5py.File(path, 'w', userblock_size=512) as file:
                file['hsi/Data'] = CUBE.transpose(2, 1, 0)
                file['hsi/info/wavelength'] = CENTRES[:, None]
                file['hsi/truth/labels'] = LABELS.T
        return path

    @pytest.mark.parametrize(
        ('cube', 'labels'),
        [
            ('hsi/Data', 'hsi/truth/labels'),
            ('hsi.Data', 'hsi.truth.labels'),
            (None, 'hsi.truth.labels'),
            (None, None),
        ],
    )
    def test_by_path(self, path: Path, cube: str | None, labels: str | None) -> None:
        scene = open_scene(path, path, cube_variable=cube, labels_variable=labels)
        assert np.array_equal(scene.cube, CUBE)
        assert np.array_equal(scene.label_map, LABELS)
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == CENTRES.tolist()

    def test_struct_itself(self, path: Path) -> None:
        with pytest.raises(FileError, match=r"name an array of it, such as 'hsi/"):
            open_scene(path, cube_variable='hsi')


class TestPixelsOnOneAxis:
    @pytest.mark.parametrize('kind', ['a.mat', 'a.npy', 'a.npz', 'a.h5'])
    @pytest.mark.parametrize('axes', ['b(yx)', 'b(xy)', '(yx)b', '(xy)b'])
    def test_cube_and_labels(self, tmp_path: Path, kind: str, axes: str) -> None:
        order: Any = 'F' if '(xy)' in axes else 'C'
        flat = CUBE.reshape((-1, 5), order=order)
        if axes.startswith('b'):
            flat = flat.T
        labels = LABELS.reshape((-1, 1), order=order)
        path, truth = tmp_path / kind, tmp_path / 'gt.npy'
        np.save(truth, labels)
        if kind == 'a.mat':
            scipy.io.savemat(path, {'V': flat, 'wavelength': CENTRES})
        elif kind == 'a.npy':
            np.save(path, flat)
        elif kind == 'a.npz':
            np.savez(path, V=flat, wavelength=CENTRES)
        else:
            with h5py.File(path, 'w') as file:
                file['V'], file['wavelength'] = flat, CENTRES
        scene = open_scene(path, truth, axes=axes, size=[12, 14])
        assert np.array_equal(scene.cube, CUBE)
        assert np.array_equal(scene.label_map, LABELS)
        with pytest.raises(FileError, match='expected 12 x 15 pixels'):
            open_scene(path, axes=axes, size=[12, 15])
        with pytest.raises(ValueError, match=r'needs size=\[rows, columns\]'):
            open_scene(path, axes=axes)

    def test_suggested(self, tmp_path: Path) -> None:
        scipy.io.savemat(tmp_path / 'a.mat', {'V': CUBE.reshape(-1, 5)})
        with pytest.raises(FileError, match=r"must order the letters .* got ''"):
            open_scene(tmp_path / 'a.mat', axes='')
        with pytest.raises(
            FileError,
            match=r'exchanged\? Bands x pixels open with size=\[rows, columns\] and axes',
        ):
            open_scene(tmp_path / 'a.mat')


class TestAxes:
    @pytest.mark.parametrize(
        ('names', 'axes'),
        [
            (('wavelength', 'y', 'x'), 'byx'),
            (('band', 'latitude', 'longitude'), 'byx'),
            (('x', 'y', 'bands'), 'xyb'),
            (('downtrack', 'Band', 'crosstrack'), 'ybx'),
        ],
    )
    @pytest.mark.parametrize(
        'kind', ['scales.nc', 'labels.h5', 'bytes.h5', 'classic.nc']
    )
    def test_known_from_dimensions(
        self, tmp_path: Path, names: tuple[str, ...], axes: str, kind: str
    ) -> None:
        stored = CUBE.transpose(['yxb'.index(axis) for axis in axes]).astype('i4')
        path = tmp_path / kind
        if kind == 'classic.nc':
            with scipy.io.netcdf_file(path, 'w') as classic:
                for name, size in zip(names, stored.shape, strict=True):
                    classic.createDimension(name, size)
                classic.createVariable('cube', stored.dtype, names)[:] = stored
        else:
            with h5py.File(path, 'w') as file:
                data = file.create_dataset('cube', data=stored)
                # Whatever has no value is not there.
                file['note'] = data.attrs['units'] = h5py.Empty('f4')
                file.attrs['wavelength'] = h5py.Empty('f4')
                if kind == 'bytes.h5':  # the functions of HDF5 end the process on these
                    data.attrs['DIMENSION_LABELS'] = np.array(names, dtype='S')
                    data.attrs['DIMENSION_LIST'] = np.arange(3)
                for number, name in enumerate(names):
                    if kind == 'bytes.h5':
                        break
                    if kind == 'labels.h5':
                        data.dims[number].label = name
                        continue
                    scale = file.create_dataset(
                        name, data=np.arange(stored.shape[number])
                    )
                    scale.make_scale(name)
                    data.dims[number].attach_scale(scale)
        # Scales count from 0 here, and are no wavelengths.
        assert np.array_equal(open_scene(path, wavelengths=CENTRES).cube, CUBE)
        other = open_scene(
            path, wavelengths=np.arange(1, 1 + stored.shape[2]) * 300.0, axes='yxb'
        )
        assert other.shape == stored.shape

    @pytest.mark.parametrize('kind', ['a.npy', 'a.npz', 'a.mat', 'a.h5'])
    def test_suggested_where_sizes_fit(self, tmp_path: Path, kind: str) -> None:
        path = arrays.write_cube(tmp_path / kind, CUBE.transpose(2, 0, 1))
        np.save(tmp_path / 'gt.npy', LABELS)
        with pytest.raises(ValueError, match="fits with axes='byx'"):
            open_scene(path, tmp_path / 'gt.npy')
        with pytest.raises(ValueError, match="fits with axes='b"):
            open_scene(path, wavelengths=CENTRES)
        scene = open_scene(path, tmp_path / 'gt.npy', axes='byx')
        assert np.array_equal(scene.label_map, LABELS)

    @pytest.mark.parametrize('kind', ['a.npz', 'a.mat', 'a.h5'])
    def test_suggested_by_wavelengths_of_the_file(
        self, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        arrays: dict[str, Any] = {
            'cube': CUBE.transpose(2, 0, 1),
            'wavelength': CENTRES,
        }
        if kind == 'a.npz':
            np.savez(tmp_path / kind, **arrays)
        elif kind == 'a.mat':
            scipy.io.savemat(tmp_path / kind, arrays)
        else:
            with h5py.File(tmp_path / kind, 'w') as file:
                for key, value in arrays.items():
                    file[key] = value
        open_scene(tmp_path / kind)
        assert (
            'found 5 wavelengths for 14 bands, so they are left out; the cube of shape'
            in caplog.text
        )

    def test_transposed_labels(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'a.npy', CUBE)
        np.save(tmp_path / 'gt.npy', LABELS.T)
        with pytest.raises(ValueError, match='if rows and columns were exchanged'):
            open_scene(tmp_path / 'a.npy', tmp_path / 'gt.npy')

    def test_two_arrays_of_different_grids(self, tmp_path: Path) -> None:
        scipy.io.savemat(tmp_path / 'a.mat', {'cube': CUBE, 'labels': LABELS[::2, ::2]})
        with pytest.raises(
            ValueError, match=r'differ in size.*labels: 6 x 7.*cube: 12 x 14'
        ):
            open_scene(tmp_path / 'a.mat', tmp_path / 'a.mat')

    @pytest.mark.parametrize('place', ['variable', 'attribute'])
    def test_wavelengths_of_another_number(
        self, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with h5py.File(tmp_path / 'a.h5', 'w') as file:
            data = file.create_dataset('cube', data=CUBE)
            if place == 'variable':
                file['wavelength'] = CENTRES[:4]
            else:
                data.attrs['wavelength'] = CENTRES[:4]
        assert open_scene(tmp_path / 'a.h5').wavelengths is None
        assert 'found 4 wavelengths for 5 bands, so they are left out' in caplog.text
        open_scene(tmp_path / 'a.h5', wavelengths=CENTRES)

    @pytest.mark.parametrize(
        ('names', 'axes'),
        [
            (('layer', 'y', 'x'), 'byx'),
            (('time', 'y', 'x'), 'byx'),
            (('lat', 'lon', 'feature'), 'yxb'),
        ],
    )
    def test_third_axis_of_any_name(
        self, tmp_path: Path, names: tuple[str, ...], axes: str
    ) -> None:
        stored = CUBE.transpose(['yxb'.index(axis) for axis in axes])
        with h5py.File(tmp_path / 'a.nc', 'w') as file:
            data = file.create_dataset('cube', data=stored)
            for number, name in enumerate(names):
                data.dims[number].label = name
        assert np.array_equal(open_scene(tmp_path / 'a.nc').cube, CUBE)


class TestAxesOfLengthOne:
    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize('kind', ['a.npy', 'a.npz', 'a.mat', 'v73.mat', 'a.h5'])
    @pytest.mark.parametrize('place', [0, 3])
    def test_cube(self, tmp_path: Path, kind: str, place: int, lazy: bool) -> None:
        path = arrays.write_cube(tmp_path / kind, np.expand_dims(CUBE, place))
        scene = open_scene(path, lazy=lazy)
        assert np.array_equal(scene.read(0, 12, 0, 14), CUBE)
        assert np.array_equal(scene.read(2, 5, 3, 9), CUBE[2:5, 3:9])

    def test_time(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / 'a.nc', 'w') as file:
            data = file.create_dataset('cube', data=CUBE.transpose(2, 0, 1)[None])
            for number, name in enumerate(('time', 'wavelength', 'lat', 'lon')):
                data.dims[number].label = name
        assert np.array_equal(open_scene(tmp_path / 'a.nc').cube, CUBE)

    @pytest.mark.parametrize('shape', [(12, 14, 1), (1, 12, 14)])
    @pytest.mark.parametrize('kind', ['l.npy', 'l.h5'])
    def test_labels(self, tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
        np.save(tmp_path / 'a.npy', CUBE)
        if kind == 'l.npy':
            np.save(tmp_path / kind, LABELS.reshape(shape))
        else:
            with h5py.File(tmp_path / kind, 'w') as file:
                file['labels'] = LABELS.reshape(shape)
        scene = open_scene(tmp_path / 'a.npy', tmp_path / kind)
        assert np.array_equal(scene.label_map, LABELS)

    def test_a_real_fourth_axis(self, tmp_path: Path) -> None:
        np.savez(tmp_path / 'a.npz', cube=np.stack([CUBE, CUBE]))
        with pytest.raises(FileError, match='no array with 3 axes'):
            open_scene(tmp_path / 'a.npz')


class TestBandsInArraysOfTheirOwn:
    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize('kind', ['a.nc', 'a.npz', 'a.mat', 'v73.mat'])
    def test_named_by_a_pattern(self, tmp_path: Path, kind: str, lazy: bool) -> None:
        # Band10 follows Band9.
        bands: dict[str, Any] = {f'Band{n + 8}': CUBE[:, :, n] for n in range(5)}
        path = tmp_path / kind
        others: dict[str, Any] = {'labels': LABELS}
        if kind == 'a.npz':
            np.savez(path, **bands, **others)
        elif kind == 'a.mat':
            scipy.io.savemat(path, {**bands, **others})
        else:
            with h5py.File(path, 'w', userblock_size=512) as file:
                for name, values in {**bands, **others}.items():
                    file[name] = values.T if kind == 'v73.mat' else values
        with pytest.raises(FileError, match=r"5 arrays, .*cube_variable='Band\*'"):
            open_scene(path)
        scene = open_scene(
            path, path, cube_variable='Band*', labels_variable='labels', lazy=lazy
        )
        assert np.array_equal(scene.read(0, 12, 0, 14), CUBE)
        assert np.array_equal(scene.label_map, LABELS)

    @pytest.mark.parametrize(
        ('names', 'centre', 'unit', 'found'),
        [
            ('band_{}', 'wavelength', 1.0, True),  # SNAP
            ('b{}', 'radiation_wavelength', 1e-3, True),
            ('Rrs_{nm}', '', 0.0, True),
            ('band_{}', 'wavelength', 0.0, False),  # not spectral
        ],
    )
    def test_wavelengths(
        self, tmp_path: Path, names: str, centre: str, unit: float, found: bool
    ) -> None:
        with h5py.File(tmp_path / 'a.nc', 'w') as file:
            for n, value in enumerate(CENTRES):
                name = names.format(n + 1, nm=int(value))
                file[name] = CUBE[:, :, n]
                file[name].attrs[f'{centre}_unit'] = 'nm' if unit == 1 else 'um'
                file[name].attrs[centre or 'x'] = np.float32(value * unit)
        pattern = names.partition('{')[0] + '*'
        scene = open_scene(tmp_path / 'a.nc', cube_variable=pattern)
        assert (scene.wavelengths is not None) == found
        if scene.wavelengths is not None:
            np.testing.assert_allclose(scene.wavelengths, CENTRES, rtol=1e-6)

    @pytest.mark.parametrize('pattern', ['X*', '*'])
    def test_no_maps_of_one_size(self, tmp_path: Path, pattern: str) -> None:
        with h5py.File(tmp_path / 'a.nc', 'w') as file:
            file['B1'], file['B2'] = CUBE[:, :, 0], CUBE[::2, :, 1]
        with pytest.raises(FileError, match='expected maps of one size, a band each'):
            open_scene(tmp_path / 'a.nc', cube_variable=pattern)


class TestOtherContents:
    def test_cells_and_sparse_matrices(self, tmp_path: Path) -> None:
        cells = np.empty(2, dtype=object)
        cells[0], cells[1] = CUBE, LABELS
        scipy.io.savemat(
            tmp_path / 'a.mat', {'c': cells, 's': scipy.sparse.csc_array(LABELS * 1.0)}
        )
        for variable in ('s', 'c/2', 'c.2'):
            scene = open_scene(
                tmp_path / 'a.mat', tmp_path / 'a.mat', labels_variable=variable
            )
            assert np.array_equal(scene.cube, CUBE)
            assert np.array_equal(scene.label_map, LABELS)

    def test_objects(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'a.npy', np.array([CUBE, None], dtype=object))
        with pytest.raises(FileError, match='found Python objects, which are not read'):
            open_scene(tmp_path / 'a.npy')
        objects = np.empty((2, 3, 4), dtype=object)
        np.savez(tmp_path / 'b.npz', cube=objects)
        with pytest.raises(FileError, match="'cube': found Python objects, which are"):
            open_scene(tmp_path / 'b.npz')

    def test_hdf4(self, tmp_path: Path) -> None:
        (tmp_path / 'a.hdf').write_bytes(b'\x0e\x03\x13\x01' + bytes(100))
        with pytest.raises(FileError, match='is an HDF4 file, which is not read; conv'):
            open_scene(tmp_path / 'a.hdf')

    @pytest.mark.parametrize('name', ['Data_Ignore_Value', '_FillValue', 'nodata'])
    def test_nodata(self, tmp_path: Path, name: str) -> None:
        with h5py.File(tmp_path / 'a.h5', 'w') as file:
            cube = CUBE.astype('int16')
            cube[0, :3] = -9999
            file.create_dataset('cube', data=cube).attrs[name] = -9999.0
        assert (~open_scene(tmp_path / 'a.h5').valid).sum() == 3
