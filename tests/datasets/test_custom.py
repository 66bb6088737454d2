# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of own scenes: ENVI, rasters, arrays; raster and vector labels."""

import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import geopandas
import h5py
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin
from torchgeo.datasets import DatasetNotFoundError

from tests.data.arrays import data as arrays
from tests.data.envi import data as envi
from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.datasets import BandSelection, CustomScene, open_scene

GOOD = [band for band in range(envi.BANDS) if band not in envi.BAD]


class TestEnvi:
    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize('big', [False, True])
    @pytest.mark.parametrize('interleave', ['bsq', 'bil', 'bip'])
    def test_interleaves(
        self, tmp_path: Path, interleave: str, big: bool, lazy: bool
    ) -> None:
        path = envi.make(tmp_path, interleave, big=big, offset=100)
        scene = open_scene(path, lazy=lazy)
        assert scene.in_memory is not lazy
        whole = scene.read(0, envi.ROWS, 0, envi.COLS)
        assert np.array_equal(whole, envi.cube_of()[:, :, GOOD])
        assert np.array_equal(scene.read(3, 7, 5, 6), whole[3:7, 5:6])

    @pytest.mark.parametrize('dtype', ['uint8', 'int16', 'uint16', 'float32'])
    def test_types(self, tmp_path: Path, dtype: str) -> None:
        scene = open_scene(envi.make(tmp_path, dtype=dtype))
        assert scene.dtype == dtype
        assert np.array_equal(scene.cube, envi.cube_of(dtype)[:, :, GOOD])

    @pytest.mark.parametrize('unit', ['Micrometers', 'Nanometers', 'nm', None])
    def test_metadata(self, tmp_path: Path, unit: str | None) -> None:
        scene = open_scene(envi.make(tmp_path, unit=unit))
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, envi.WAVELENGTHS[GOOD])
        assert scene.band_indices.tolist() == GOOD
        assert scene.crs == rasterio.crs.CRS.from_epsg(32632)
        assert scene.transform is not None
        assert tuple(scene.transform)[:6] == (30, 0, envi.LEFT, 0, -30, envi.TOP)
        assert scene.name == 'scene'

    @pytest.mark.parametrize('suffix', ['', '.dat', '.img', '.bil', '.raw', '.IMG'])
    def test_header_and_binary_file_find_each_other(
        self, tmp_path: Path, suffix: str
    ) -> None:
        envi.make(tmp_path, suffix=suffix)
        assert open_scene(tmp_path / 'scene.hdr').num_bands == len(GOOD)
        assert open_scene(tmp_path / f'scene{suffix}').num_bands == len(GOOD)

    def test_header_named_after_the_binary_file(self, tmp_path: Path) -> None:
        envi.make(tmp_path, suffix='.img').rename(tmp_path / 'scene.img.hdr')
        for name in ('scene.img', 'scene.img.hdr'):
            assert open_scene(tmp_path / name).num_bands == len(GOOD)

    def test_as_torchgeo_configures_gdal(self, tmp_path: Path) -> None:
        path = envi.make(tmp_path)
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR'):
            assert open_scene(path).crs is not None

    def test_bad_bands_can_be_kept(self, tmp_path: Path) -> None:
        keep = BandSelection(drop_bad=False)
        assert open_scene(envi.make(tmp_path), bands=keep).num_bands == envi.BANDS
        assert open_scene(tmp_path / 'scene.hdr', bands=[7]).num_bands == 1

    @pytest.mark.parametrize('lazy', [False, True])
    def test_data_ignore_value(self, tmp_path: Path, lazy: bool) -> None:
        cube = envi.cube_of()
        cube[5, 6] = -9999
        extra = 'data ignore value = -9999\n'
        path = envi.make(tmp_path, cube=cube, extra=extra)
        scene = open_scene(path, lazy=lazy)
        assert (~scene.valid).sum() == 1 and not scene.valid[5, 6]
        assert open_scene(path, lazy=lazy, nodata=None).valid.all()

    @pytest.mark.parametrize('file', ['scene.hdr', 'scene.rfl'])
    def test_binary_file_of_any_ending(self, tmp_path: Path, file: str) -> None:
        envi.make(tmp_path, suffix='.rfl')
        envi.polygons(tmp_path / 'scene.gpkg')
        for other in ('scene.tif', 'scene.txt', 'scene.rfl.aux.xml', 'other.rfl'):
            (tmp_path / other).write_text('beside')
        scene = open_scene(tmp_path / file, tmp_path / 'scene.gpkg', attribute='crop')
        assert scene.band_indices.tolist() == GOOD
        assert scene.class_names == ('maize', 'rape', 'wheat')
        (tmp_path / 'scene.rdn').write_text('beside')
        with pytest.raises(ValueError, match=r'several files .* \(scene.rdn, scene.rf'):
            open_scene(tmp_path / 'scene.hdr')

    def test_header_of_another_kind(self, tmp_path: Path) -> None:
        cube = envi.cube_of()
        cube.transpose(0, 2, 1).tofile(tmp_path / 'scene.bil')
        (tmp_path / 'scene.hdr').write_text(
            f'NROWS {envi.ROWS}\nNCOLS {envi.COLS}\nNBANDS {envi.BANDS}\n'
            'NBITS 16\nPIXELTYPE SIGNEDINT\nBYTEORDER I\nLAYOUT BIL\n'
        )
        assert np.array_equal(open_scene(tmp_path / 'scene.bil').cube, cube)
        with pytest.raises(ValueError, match=r'not an ENVI header.*name the raster'):
            open_scene(tmp_path / 'scene.hdr')

    def test_band_numbers_are_no_wavelengths(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = envi.make(tmp_path, unit='Index', wavelengths=np.arange(envi.BANDS))
        with caplog.at_level(logging.WARNING):
            assert open_scene(path).wavelengths is None
        assert 'the wavelength units are "Index"' in caplog.text

    def test_values_tell_a_unit_that_is_not_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = envi.make(tmp_path, unit=None, wavelengths=envi.WAVELENGTHS / 1000)
        with caplog.at_level(logging.WARNING):
            scene = open_scene(path)
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, envi.WAVELENGTHS[GOOD])
        assert 'they are taken as micrometres' in caplog.text

    def test_lazy_scene_travels_without_values(self, tmp_path: Path) -> None:
        scene = open_scene(envi.make(tmp_path), lazy=True)
        text = pickle.dumps(scene._source)
        assert len(text) < 2000
        again = pickle.loads(text)
        assert np.array_equal(again.read(0, 2, 0, 2), envi.cube_of()[:2, :2])

    @pytest.mark.parametrize(
        ('old', 'new', 'match'),
        [
            ('interleave = bil', 'interleave = bob', r"interleave is 'bob', expected"),
            ('interleave = bil', 'x = y', "interleave is 'missing'"),
            ('lines   = 24', 'lines = 25', 'too short for its header: 18432 bytes'),
            ('lines   = 24', 'lines = 0', 'expected positive numbers'),
            ('samples = 32', 'samples = many', "'samples' is 'many', expected a whole"),
            ('samples = 32', 'x = y', "has no entry 'samples'"),
            ('data type = 2', 'data type = 6', 'data type 6 is not supported'),
            ('ENVI\n', 'ERDAS\n', 'is not an ENVI header'),
            ('bbl = {1, ', 'bbl = {', "'bbl' has 11 values for 12 bands"),
            ('bbl = {1, ', 'bbl = {a, ', "'bbl' holds something that is no number"),
            ('wavelength = {', 'wavelength = {0.4, ', "'wavelength' has 13 values"),
            ('= Micrometers', '= Furlongs', "unit 'Furlongs' is not known"),
            ('= Micrometers', '= Nanometers', 'looks like micrometres'),
            ('byte order = 0', 'file compression = 1', 'compressed'),
            ('bil', 'bil\ndata ignore value = none', 'expected a number'),
            ('1, 1, 1}', '1, 1, 1', 'has no closing brace'),
        ],
    )
    def test_wrong_headers(
        self, tmp_path: Path, old: str, new: str, match: str
    ) -> None:
        path = envi.make(tmp_path)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=match):
            open_scene(path)

    def test_nanometres_taken_for_micrometres(self, tmp_path: Path) -> None:
        wrong = envi.WAVELENGTHS
        path = envi.make(tmp_path, unit='Micrometers', wavelengths=wrong)
        with pytest.raises(ValueError, match='unit is probably wrong'):
            open_scene(path)
        scene = open_scene(path, wavelength_unit='nm')
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, wrong[GOOD])

    def test_missing_files(self, tmp_path: Path) -> None:
        path = envi.make(tmp_path)
        (tmp_path / 'scene.dat').unlink()
        with pytest.raises(FileNotFoundError, match='has no binary file beside it'):
            open_scene(path)
        with pytest.raises(FileNotFoundError, match='there is no file'):
            open_scene(tmp_path / 'absent.hdr')


class TestRaster:
    @pytest.mark.parametrize('lazy', [False, True])
    def test_geotiff(self, tmp_path: Path, lazy: bool) -> None:
        scene = open_scene(geotiff.make(tmp_path), lazy=lazy)
        assert scene.in_memory is not lazy
        cube = geotiff.cube_of()
        assert np.array_equal(scene.read(0, 30, 0, 40), cube)
        assert np.array_equal(scene.read(4, 9, 1, 3), cube[4:9, 1:3])
        assert scene.crs == rasterio.crs.CRS.from_epsg(32632)
        assert scene.transform == geotiff.TRANSFORM
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, geotiff.WAVELENGTHS)
        assert (~scene.valid).sum() == 24
        assert not scene.valid[geotiff.EMPTY].any()

    @pytest.mark.parametrize('lazy', [False, True])
    def test_stack(self, tmp_path: Path, lazy: bool) -> None:
        paths = geotiff.make_stack(tmp_path)
        cube = geotiff.cube_of()
        for given in (paths, tmp_path / 'B*.tif'):
            scene = open_scene(given, lazy=lazy)
            assert np.array_equal(scene.read(0, 30, 0, 40), cube)
        some = open_scene(paths, lazy=lazy, bands=[9, 2])
        assert np.array_equal(some.read(1, 3, 0, 5), cube[1:3, 0:5][:, :, [9, 2]])
        assert np.array_equal(some.read_bands([1], step=3)[:, :, 0], cube[::3, ::3, 2])

    def test_lazy_raster_travels(self, tmp_path: Path) -> None:
        scene = open_scene(geotiff.make(tmp_path), lazy=True)
        scene.read(0, 1, 0, 1)
        again = pickle.loads(pickle.dumps(scene))
        assert np.array_equal(again.read(0, 5, 0, 5), scene.read(0, 5, 0, 5))

    def test_imagery_metadata(self, tmp_path: Path) -> None:
        path = geotiff.write(tmp_path / 'a.tif', np.ones((2, 4, 5), np.uint8))
        with rasterio.open(path, 'r+') as file:
            file.update_tags(1, ns='IMAGERY', CENTRAL_WAVELENGTH_UM='0.45')
            file.update_tags(2, ns='IMAGERY', CENTRAL_WAVELENGTH_UM='0.65')
        scene = open_scene(path)
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, [450, 650])

    def test_wavelength_unit_overrules_the_file(self, tmp_path: Path) -> None:
        path = geotiff.make(tmp_path)
        with rasterio.open(path, 'r+') as file:
            for band, centre in enumerate(geotiff.WAVELENGTHS, start=1):
                file.update_tags(band, wavelength=f'{centre / 1000:g}')
        with pytest.raises(ValueError, match='looks like micrometres'):
            open_scene(path)
        scene = open_scene(path, wavelength_unit='um')
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, geotiff.WAVELENGTHS)

    def test_internal_mask(self, tmp_path: Path) -> None:
        path = geotiff.write(tmp_path / 'a.tif', np.ones((2, 4, 5), np.uint8))
        mask = np.full((4, 5), 255, np.uint8)
        mask[1, 2] = 0
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(path, 'r+') as file,
        ):
            file.write_mask(mask)
        scene = open_scene(path)
        assert (~scene.valid).sum() == 1 and not scene.valid[1, 2]

    def test_stack_on_different_grids(self, tmp_path: Path) -> None:
        paths = geotiff.make_stack(tmp_path)
        bands = np.ones((1, geotiff.ROWS, geotiff.COLS), np.int16)
        moved = from_origin(600_010, 5_200_000, 10, 10)
        other = geotiff.write(tmp_path / 'other.tif', bands, transform=moved)
        with pytest.raises(ValueError, match='bands lie on different grids'):
            open_scene([paths[0], other])
        smaller = geotiff.write(tmp_path / 'small.tif', bands[:, 1:])
        with pytest.raises(ValueError, match='bands lie on different grids'):
            open_scene([paths[0], smaller])

    def test_stack_with_different_nodata(self, tmp_path: Path) -> None:
        paths = geotiff.make_stack(tmp_path)
        bands = np.ones((1, geotiff.ROWS, geotiff.COLS), np.int16)
        other = geotiff.write(tmp_path / 'other.tif', bands, nodata=0)
        with pytest.raises(ValueError, match='different nodata values'):
            open_scene([paths[0], other])
        open_scene([paths[0], other], nodata=-9999)

    def test_missing_and_damaged(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='there is no file'):
            open_scene(tmp_path / 'absent.tif')
        with pytest.raises(FileNotFoundError, match='no file matches'):
            open_scene(tmp_path / 'B*.tif')
        with pytest.raises(FileNotFoundError, match='no file is named'):
            open_scene([])
        (tmp_path / 'bad.tif').write_text('not a raster')
        with pytest.raises(ValueError, match='cannot be read as a raster'):
            open_scene(tmp_path / 'bad.tif')


class TestRasterLabels:
    @pytest.fixture
    def cube(self, tmp_path: Path) -> Path:
        return geotiff.make(tmp_path)

    def check(self, cube: Path, labels: Path, border: int = 0) -> None:
        scene = open_scene(cube, labels)
        assert scene.class_values == (3, 20, 21)
        expected = geotiff.labels_of()
        expected[geotiff.EMPTY] = 0
        values = np.array((0, 3, 20, 21))[scene.label_map]
        assert np.array_equal(values, expected)
        assert scene.num_masked_labels == 12

    def test_same_grid(self, cube: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            self.check(cube, geotiff.labels_same_grid(cube.with_name('l.tif')))
        assert '12 labelled pixels have no data' in caplog.text

    def test_other_grid(self, cube: Path) -> None:
        self.check(cube, geotiff.labels_other_grid(cube.with_name('l.tif')))

    def test_other_crs(self, cube: Path) -> None:
        labels = geotiff.labels_same_grid(cube.with_name('l.tif'))
        with rasterio.open(labels) as source:
            values, transform, crs = source.read(1), source.transform, source.crs
            bounds = source.bounds
        target = 'EPSG:3857'
        grid, width, height = rasterio.warp.calculate_default_transform(
            crs, target, values.shape[1], values.shape[0], *bounds, resolution=2
        )
        moved = np.zeros((1, height, width), np.uint8)
        rasterio.warp.reproject(
            values,
            moved[0],
            src_transform=transform,
            src_crs=crs,
            dst_transform=grid,
            dst_crs=target,
        )
        other = geotiff.write(cube.with_name('web.tif'), moved, grid, target)
        scene = open_scene(cube, other)
        expected = geotiff.labels_of()
        expected[geotiff.EMPTY] = 0
        found = np.array((0, 3, 20, 21))[scene.label_map]
        assert (found == expected).mean() > 0.98

    def test_no_georeference_but_same_size(self, cube: Path) -> None:
        labels = cube.with_name('labels.npy')
        np.save(labels, geotiff.labels_of())
        self.check(cube, labels)
        plain = geotiff.write(
            cube.with_name('l.tif'), geotiff.labels_of()[None], transform=None, crs=None
        )
        self.check(cube, plain)

    def test_no_georeference_and_other_size(self, cube: Path) -> None:
        bands = geotiff.labels_of()[None, 1:]
        plain = geotiff.write(cube.with_name('l.tif'), bands, transform=None, crs=None)
        with pytest.raises(ValueError, match=r'differ in size, and the labels have no'):
            open_scene(cube, plain)
        placed = geotiff.write(cube.with_name('m.tif'), bands)
        array = cube.with_name('cube.npy')
        np.save(array, geotiff.cube_of())
        with pytest.raises(ValueError, match='differ in size, and the cube has no CRS'):
            open_scene(array, placed)

    def test_outside_the_scene(self, cube: Path) -> None:
        far = from_origin(700_000, 5_200_000, 10, 10)
        labels = geotiff.write(
            cube.with_name('l.tif'), geotiff.labels_of()[None], transform=far
        )
        with pytest.raises(ValueError, match='no labelled pixel of the label raster'):
            open_scene(cube, labels)

    def test_nodata_of_the_labels(self, cube: Path) -> None:
        labels = geotiff.labels_of()
        labels[labels == 0] = 255
        path = geotiff.write(cube.with_name('l.tif'), labels[None], nodata=255)
        self.check(cube, path)

    @pytest.mark.parametrize('other_grid', [False, True])
    @pytest.mark.parametrize('unlabelled', [(), (-1,), (99,)])
    def test_labels_from_zero(
        self, cube: Path, unlabelled: tuple[int, ...], other_grid: bool
    ) -> None:
        values = geotiff.labels_of()
        labels = np.where(values == 0, 255, np.where(values == 3, 0, values))
        labels = labels.astype(np.uint8)
        transform = geotiff.TRANSFORM
        if other_grid:
            labels = np.pad(labels[:-1, :-1], 1, constant_values=255)
            transform = from_origin(599_990, 5_200_010, 10, 10)
        path = geotiff.write(
            cube.with_name('l.tif'), labels[None], transform, nodata=255
        )
        scene = open_scene(cube, path, unlabelled=unlabelled)
        assert scene.class_values == (0, 20, 21)
        expected = np.array((0, 3, 20, 21))[scene.label_map]
        values[geotiff.EMPTY] = 0
        assert np.array_equal(expected[:-1, :-1], values[:-1, :-1])

    def test_not_a_number_in_the_labels(self, cube: Path) -> None:
        labels = geotiff.labels_of().astype(np.float32)
        labels[labels == 0] = np.nan
        path = geotiff.write(cube.with_name('l.tif'), labels[None], nodata=np.nan)
        self.check(cube, path)

    def test_float_labels(self, cube: Path) -> None:
        labels = geotiff.labels_of().astype(np.float32)
        self.check(cube, geotiff.write(cube.with_name('l.tif'), labels[None]))
        path = geotiff.write(cube.with_name('m.tif'), labels[None] + 0.25)
        with pytest.raises(ValueError, match='are not whole numbers'):
            open_scene(cube, path)

    def test_envi_labels(self, tmp_path: Path) -> None:
        path = envi.make(tmp_path / 'cube')
        labels = np.zeros((envi.ROWS, envi.COLS, envi.BANDS), np.uint8)
        labels[2:5, 3:9] = 6
        envi.make(tmp_path / 'labels', dtype='uint8', cube=labels, interleave='bsq')
        scene = open_scene(path, tmp_path / 'labels' / 'scene.hdr')
        assert scene.class_values == (6,)
        assert scene.class_counts == (18,)

    def test_class_names(self, cube: Path) -> None:
        labels = geotiff.labels_same_grid(cube.with_name('l.tif'))
        named = open_scene(cube, labels, class_names={3: 'a', 20: 'b', 21: 'c'})
        assert named.class_names == ('a', 'b', 'c')
        listed = open_scene(cube, labels, class_names=['b', 'c'], unlabelled=(0, 3))
        assert listed.class_values == (20, 21)

    def test_attribute_is_for_vectors(self, cube: Path) -> None:
        labels = geotiff.labels_same_grid(cube.with_name('l.tif'))
        with pytest.raises(ValueError, match="attribute='x' is for vector files"):
            open_scene(cube, labels, attribute='x')

    def test_neither_raster_nor_vector(self, cube: Path) -> None:
        path = cube.with_name('labels.tif')
        path.write_text('damaged')
        with pytest.raises(ValueError, match=r'labels.tif .*nor .* opened as a raster'):
            open_scene(cube, path)


class TestVectorLabels:
    @pytest.fixture
    def cube(self, tmp_path: Path) -> Path:
        return envi.make(tmp_path)

    @pytest.mark.parametrize('file', ['f.gpkg', 'f.geojson', 'f.shp'])
    @pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:32632', 'EPSG:3857'])
    def test_polygons_in_any_crs(self, cube: Path, file: str, crs: str) -> None:
        if file == 'f.geojson' and crs != 'EPSG:4326':
            crs = 'OGC:CRS84'
        path = envi.polygons(cube.with_name(file), crs)
        scene = open_scene(cube, path, attribute='crop')
        assert scene.class_names == ('maize', 'rape', 'wheat')
        expected = np.zeros((envi.ROWS, envi.COLS), np.int64)
        for number, (start, stop) in enumerate(envi.CROPS.values(), start=1):
            expected[1 : envi.ROWS - 1, start + 1 : stop - 1] = number
        assert np.array_equal(scene.label_map, expected)

    @pytest.mark.parametrize(
        'file', ['f.sqlite', 'f.tab', 'f.geojsonl', 'f.gdb', 'f.zip', 'f.vectors']
    )
    def test_any_file_geopandas_reads(self, cube: Path, file: str) -> None:
        path = envi.polygons(cube.with_name('f.gpkg'), 'OGC:CRS84')
        expected = open_scene(cube, path, attribute='code')
        frame = geopandas.read_file(path)[['code', 'geometry']]
        drivers = {
            'f.sqlite': 'SQLite',
            'f.tab': 'MapInfo File',
            'f.geojsonl': 'GeoJSONSeq',
            'f.gdb': 'OpenFileGDB',
        }
        if file == 'f.zip':
            (cube.parent / 'shp').mkdir()
            frame.to_file(cube.parent / 'shp' / 'f.shp')
            shutil.make_archive(str(cube.with_name('f')), 'zip', cube.parent / 'shp')
        elif file == 'f.vectors':
            path.rename(cube.with_name(file))
        else:
            frame.to_file(cube.with_name(file), driver=drivers[file])
        scene = open_scene(
            cube,
            cube.with_name(file),
            attribute='code' if file == 'f.vectors' else None,
        )
        assert scene.class_values == (5, 7, 9)
        assert np.array_equal(scene.label_map, expected.label_map)

    def test_table_without_geometries(self, cube: Path) -> None:
        path = cube.with_name('f.gpkg')
        pyogrio.write_dataframe(pd.DataFrame({'crop': ['a', 'b']}), path)
        with pytest.raises(ValueError, match=r"no geometries, only .* \['crop'\]"):
            open_scene(cube, path, attribute='crop')

    @pytest.mark.parametrize('unlabelled', [(), (9,), (255,)])
    def test_numbers_from_zero(
        self, cube: Path, unlabelled: tuple[int, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        boxes = [self.box(0, 0, 6, 6), self.box(8, 0, 10, 6), self.box(12, 0, 20, 4)]
        self.frame(boxes, code=[0, 4, 9]).to_file(cube.with_name('f.gpkg'))
        with caplog.at_level(logging.WARNING):
            scene = open_scene(cube, cube.with_name('f.gpkg'), unlabelled=unlabelled)
        assert ('1 features have a number that' in caplog.text) is (unlabelled == (9,))
        expected = {0: 36, 4: 12, 9: 32}
        for number in unlabelled:
            expected.pop(number, None)
        found = dict(zip(scene.class_values, scene.class_counts, strict=True))
        assert found == expected

    def test_zero_means_no_label_by_default(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        boxes = [self.box(0, 0, 6, 6), self.box(8, 0, 10, 6)]
        self.frame(boxes, code=[0, 4]).to_file(cube.with_name('f.gpkg'))
        with caplog.at_level(logging.WARNING):
            scene = open_scene(cube, cube.with_name('f.gpkg'))
        assert scene.class_values == (4,)
        assert '1 features have a number that means "no label"' in caplog.text
        assert 'without geometry or class' not in caplog.text

    def test_numbers_as_classes(self, cube: Path) -> None:
        path = envi.polygons(cube.with_name('f.gpkg'))
        scene = open_scene(cube, path, attribute='code')
        assert scene.class_values == (5, 7, 9)
        assert scene.class_names == ('class 5', 'class 7', 'class 9')
        named = open_scene(
            cube, path, attribute='code', class_names={5: 'a', 7: 'b', 9: 'c'}
        )
        assert named.class_names == ('a', 'b', 'c')

    def test_order_of_names(self, cube: Path) -> None:
        path = envi.polygons(cube.with_name('f.gpkg'))
        names = ['wheat', 'maize', 'rape', 'oats']
        scene = open_scene(cube, path, attribute='crop', class_names=names)
        assert scene.class_names == tuple(names)
        assert scene.class_counts[3] == 0
        assert scene.label_map[5, 30] == 1
        numbered = open_scene(
            cube,
            path,
            attribute='crop',
            class_names={2: 'wheat', 4: 'maize', 6: 'rape'},
        )
        assert numbered.class_values == (2, 4, 6)

    def test_points(self, cube: Path) -> None:
        scene = open_scene(cube, envi.points(cube.with_name('p.gpkg')))
        assert scene.class_values == (5, 7, 9)
        assert scene.class_counts == (1, 1, 1)
        assert scene.label_map[11, 5] == 1

    def frame(self, shapes: list[Any], **columns: list[Any]) -> geopandas.GeoDataFrame:
        return geopandas.GeoDataFrame(columns, geometry=shapes, crs=envi.CRS)

    def box(self, left: int, top: int, right: int, bottom: int) -> shapely.Polygon:
        return shapely.box(
            envi.LEFT + left * 30,
            envi.TOP - bottom * 30,
            envi.LEFT + right * 30,
            envi.TOP - top * 30,
        )

    def test_disputed_pixels_stay_unlabelled(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        boxes = [self.box(0, 0, 6, 6), self.box(4, 0, 10, 6), self.box(0, 4, 6, 8)]
        frame = self.frame(boxes, kind=['a', 'b', 'a'])
        frame.to_file(cube.with_name('f.gpkg'))
        with caplog.at_level(logging.WARNING):
            scene = open_scene(cube, cube.with_name('f.gpkg'))
        assert '12 pixels are claimed by features of different classes' in caplog.text
        assert not scene.label_map[0:6, 4:6].any()
        assert (scene.label_map[0:8, 0:4] == 1).all()

    def test_features_without_class_or_outside(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        boxes = [self.box(0, 0, 6, 6), self.box(8, 0, 10, 6), self.box(900, 0, 910, 9)]
        frame = self.frame(boxes, kind=['a', None, 'b'])
        frame.to_file(cube.with_name('f.gpkg'))
        with caplog.at_level(logging.WARNING):
            scene = open_scene(cube, cube.with_name('f.gpkg'))
        assert '1 features without geometry or class' in caplog.text
        assert '1 features lie outside the scene' in caplog.text
        assert scene.class_counts == (36, 0)

    def test_all_outside(self, cube: Path) -> None:
        frame = self.frame([self.box(900, 0, 910, 9)], kind=['a'])
        frame.to_file(cube.with_name('f.gpkg'))
        with pytest.raises(ValueError, match='they lie outside the scene'):
            open_scene(cube, cube.with_name('f.gpkg'))

    def test_too_small(self, cube: Path) -> None:
        tiny = shapely.box(envi.LEFT + 1, envi.TOP - 5, envi.LEFT + 4, envi.TOP - 2)
        self.frame([tiny], kind=['a']).to_file(cube.with_name('f.gpkg'))
        with pytest.raises(ValueError, match='try all_touched=True'):
            open_scene(cube, cube.with_name('f.gpkg'))
        scene = open_scene(cube, cube.with_name('f.gpkg'), all_touched=True)
        assert scene.class_counts == (1,)

    @pytest.mark.parametrize(
        ('options', 'match'),
        [
            ({'attribute': 'speed'}, r"no attribute 'speed'; it has \['crop', 'code'"),
            ({}, 'has 3 attributes .* name the one with the class'),
            (
                {'attribute': 'crop', 'class_names': ['maize', 'rape']},
                r"holds \['wheat'\], which are not among the class names",
            ),
            ({'attribute': 'crop', 'layer': 'nope'}, 'cannot be read as vector file'),
        ],
    )
    def test_errors(self, cube: Path, options: dict[str, Any], match: str) -> None:
        path = envi.polygons(cube.with_name('f.gpkg'))
        with pytest.raises(ValueError, match=match):
            open_scene(cube, path, **options)

    def test_wrong_numbers(self, cube: Path) -> None:
        frame = self.frame([self.box(0, 0, 3, 3)], code=[1.5])
        frame.to_file(cube.with_name('f.gpkg'))
        with pytest.raises(ValueError, match='expected whole class numbers'):
            open_scene(cube, cube.with_name('f.gpkg'))
        frame = self.frame([self.box(0, 0, 3, 3)], code=[None])
        frame.to_file(cube.with_name('f.gpkg'))
        with pytest.raises(ValueError, match='is empty everywhere'):
            open_scene(cube, cube.with_name('f.gpkg'))

    def test_cube_without_crs(self, tmp_path: Path) -> None:
        root = arrays.make(tmp_path)
        path = envi.polygons(root / 'f.gpkg')
        with pytest.raises(ValueError, match='need a scene with CRS and transform'):
            open_scene(root / 'cube.npy', path, attribute='crop')
        scene = open_scene(
            root / 'cube.npy',
            path,
            attribute='crop',
            crs=envi.CRS,
            transform=[30, 0, envi.LEFT, 0, -30, envi.TOP],
        )
        assert scene.class_counts[0] > 0

    def test_labels_without_crs(self, cube: Path) -> None:
        frame = self.frame([self.box(0, 0, 3, 3)], kind=['a'])
        frame.set_crs(None, allow_override=True).to_file(cube.with_name('f.shp'))
        with pytest.raises(ValueError, match='names no CRS'):
            open_scene(cube, cube.with_name('f.shp'))


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


class TestCustomScene:
    def test_relative_paths(self, tmp_path: Path) -> None:
        root = arrays.make(tmp_path)
        (root / 'centres.txt').write_text('0.45 0.5\n0.55,0.6\n0.65\n0.7\n0.75\n')
        dataset = CustomScene(
            root,
            patch_size=5,
            cube='cube.npy',
            labels='labels.npy',
            wavelengths='centres.txt',
            wavelength_unit='um',
            bands=BandSelection(wavelengths=[(500, 700)]),
            name='mine',
        )
        assert dataset[0]['image'].shape == (5, 5, 5)
        assert dataset.scene.name == 'mine'
        assert dataset.wavelengths is not None
        np.testing.assert_allclose(dataset.wavelengths, [500, 550, 600, 650, 700])
        assert dataset.classes == ('class 2', 'class 5')

    def test_lazy_patches_equal_those_in_memory(self, tmp_path: Path) -> None:
        envi.make(tmp_path)
        envi.polygons(tmp_path / 'f.gpkg')
        options: dict[str, Any] = {
            'cube': 'scene.hdr',
            'labels': 'f.gpkg',
            'attribute': 'crop',
            'patch_size': 7,
            'padding_mode': 'reflect',
        }
        lazy = CustomScene(tmp_path, lazy=True, **options)
        memory = CustomScene(tmp_path, lazy=False, **options)
        assert len(lazy) == len(memory) > 0
        for index in (0, len(lazy) - 1):
            assert (lazy[index]['image'] == memory[index]['image']).all()

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='cube is missing'):
            CustomScene(tmp_path)
        with pytest.raises(DatasetNotFoundError):
            CustomScene(tmp_path / 'nowhere', cube='a.tif')
        with pytest.raises(FileNotFoundError, match='there is no file'):
            CustomScene(tmp_path, cube='a.tif')
        root = arrays.make(tmp_path)
        with pytest.raises(FileNotFoundError, match='labels: there is no file'):
            CustomScene(root, cube='cube.npy', labels='absent.npy')
        with pytest.raises(ValueError, match='patch_size is 17, expected at most'):
            CustomScene(root, cube='cube.npy', patch_size=17)
        (root / 'centres.txt').write_text('450 nm')
        with pytest.raises(ValueError, match='expected one wavelength a band'):
            CustomScene(root, cube='cube.npy', patch_size=5, wavelengths='centres.txt')
