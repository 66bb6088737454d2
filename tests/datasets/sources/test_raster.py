# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of rasters: bands, pages, subdatasets, alpha, tags, legends."""

import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.intake.candidates import list_candidates

CUBE = np.random.default_rng(2).integers(1, 3000, (12, 14, 5)).astype('uint16')
BANDS = np.moveaxis(CUBE, 2, 0)


@pytest.mark.parametrize(('name', 'told'), [('a.tif', True), ('a.npy', False)])
def test_order_of_axes_of_a_raster_is_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, told: bool
) -> None:
    geotiff.write(tmp_path / 'a.tif', BANDS)
    np.save(tmp_path / 'a.npy', BANDS)
    scene = open_scene(tmp_path / name, axes='byx')
    assert np.array_equal(scene.cube, CUBE)
    assert ("axes='byx' is left out" in caplog.text) == told


class TestBandTags:
    def tagged(self, root: Path, each: list[dict[str, str]], **tags: str) -> Path:
        path = geotiff.write(root / 'a.tif', BANDS)
        with rasterio.open(path, 'r+') as file:
            for band, own in enumerate(each, start=1):
                file.update_tags(band, **own)
            file.update_tags(**tags)
        return path

    def test_exact_before_rounded(self, tmp_path: Path) -> None:
        exact = [423.8741, 429.2945, 434.7, 440.123, 445.9]
        path = self.tagged(tmp_path, [{'wavelength': str(w)} for w in exact])
        with rasterio.open(path, 'r+') as file:
            for band, centre in enumerate(exact, start=1):
                rounded = f'{centre / 1000:.3f}'
                file.update_tags(band, ns='IMAGERY', CENTRAL_WAVELENGTH_UM=rounded)
        scene = open_scene(path)
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == exact

    @pytest.mark.parametrize('unit', ['um', 'Micrometers', '\u03bcm', 'microns', None])
    def test_units(self, tmp_path: Path, unit: str | None) -> None:
        each = [{'wavelength': f'0.{band}'} for band in range(4, 9)]
        if unit is not None:
            each = [{**own, 'wavelength_units': unit} for own in each]
        scene = open_scene(self.tagged(tmp_path, each))
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, [400, 500, 600, 700, 800])

    def test_unknown_unit(self, tmp_path: Path) -> None:
        each = [
            {'wavelength': f'{band}00', 'wavelength_units': 'furlongs'}
            for band in range(4, 9)
        ]
        path = self.tagged(tmp_path, each)
        with pytest.raises(ValueError, match=r"a.tif: wavelength unit 'furlongs'"):
            open_scene(path)
        assert open_scene(path, wavelength_unit='nm').wavelengths is not None

    @pytest.mark.parametrize('place', ['bands', 'file', 'envi'])
    def test_bad_bands(self, tmp_path: Path, place: str) -> None:
        good = ['1', '0', '1', '1', '0']
        if place == 'bands':
            path = self.tagged(tmp_path, [{'bbl': text} for text in good])
        else:
            path = self.tagged(tmp_path, [])
            with rasterio.open(path, 'r+') as file:
                space = 'ENVI' if place == 'envi' else None
                file.update_tags(ns=space, bbl='{' + ', '.join(good) + '}')
        assert open_scene(path).band_indices.tolist() == [0, 2, 3]
        assert open_scene(path, bands=[1]).num_bands == 1

    def test_a_mark_on_bad_bands_only(self, tmp_path: Path) -> None:
        path = self.tagged(tmp_path, [{}, {'bbl': '0'}])
        assert open_scene(path).band_indices.tolist() == [0, 2, 3, 4]

    @pytest.mark.parametrize('key', ['central_wavelength_nm', 'WAVELENGTHS', 'wl'])
    def test_other_names_of_the_tag(self, tmp_path: Path, key: str) -> None:
        centres = [450.25, 550, 650, 750, 850]
        path = self.tagged(tmp_path, [{key: f'{centre} nm'} for centre in centres])
        scene = open_scene(path)
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == centres

    @pytest.mark.parametrize(
        'key', ['wavelength', 'WAVELENGTHS', 'central_wavelengths']
    )
    @pytest.mark.parametrize('separator', [',', ' ', ';\n'])
    def test_list_of_the_file(self, tmp_path: Path, key: str, separator: str) -> None:
        texts = separator.join(map(str, (450.25, 550, 650, 750, 850)))
        tags = {key: f'{{{texts}}}', 'wavelength_units': 'nm'}
        scene = open_scene(self.tagged(tmp_path, [], **tags))
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == [450.25, 550, 650, 750, 850]

    @pytest.mark.parametrize(
        'name',
        [
            *('{0} nm', 'B{1} ({0:.2f} Nanometers)', '{0}nm', 'band {1}: {0} NM'),
            *('wl_{0}nm', '{0}', 'Band_{0}', 'X{0}.Nanometers'),
        ],
    )
    def test_names_of_the_bands(self, tmp_path: Path, name: str) -> None:
        path = self.tagged(tmp_path, [])
        with rasterio.open(path, 'r+') as file:
            for band in range(1, 6):
                file.set_band_description(band, name.format(400 + 50.25 * band, band))
        rasterio.shutil.copy(path, tmp_path / 'scene.bsq', driver='ENVI')
        for one in (path, tmp_path / 'scene.bsq'):
            scene = open_scene(one)
            assert scene.wavelengths is not None
            assert scene.wavelengths.tolist() == [400 + 50.25 * b for b in range(1, 6)]

    @pytest.mark.parametrize(
        'name', ['band {0}', '{0}', '10{0}', 'B{0} 10 nm 20 nm', '5 numb', 'B30{0}']
    )
    def test_names_without_wavelengths(self, tmp_path: Path, name: str) -> None:
        path = self.tagged(tmp_path, [])
        with rasterio.open(path, 'r+') as file:
            for band in range(1, 6):
                file.set_band_description(band, name.format(band))
        assert open_scene(path).wavelengths is None

    def test_wavelengths_of_some_bands(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = self.tagged(tmp_path, [{'wavelength': '450'}, {'wavelength': '550'}])
        assert open_scene(path).wavelengths is None
        assert 'found wavelengths of 2 of 5 bands' in caplog.text

    def test_wavelength_that_is_no_number(self, tmp_path: Path) -> None:
        path = self.tagged(tmp_path, [{'wavelength': 'red'}])
        with pytest.raises(FileError, match=r"'red', expected a number; give wave"):
            open_scene(path)
        assert open_scene(path, wavelengths=[450, 550, 650, 750, 850]).num_bands == 5

    @pytest.mark.parametrize('text', ['{1, 0}', '{a, b, c, d, e}', '{}'])
    def test_bad_bands_that_do_not_fit(self, tmp_path: Path, text: str) -> None:
        path = self.tagged(tmp_path, [], bbl=text)
        with pytest.raises(FileError, match=r"the tag 'bbl'.* expected a number for"):
            open_scene(path)
        assert open_scene(path, bands=[0, 1]).num_bands == 2


class TestContainers:
    @pytest.mark.parametrize('lazy', [False, True])
    def test_pages_are_bands(self, tmp_path: Path, lazy: bool) -> None:
        path = tmp_path / 'pages.tif'
        for number, band in enumerate(BANDS):
            part = geotiff.write(tmp_path / f'{number}.tif', band[None])
            with rasterio.open(part) as source:
                rasterio.shutil.copy(
                    source, path, driver='GTiff', APPEND_SUBDATASET=number > 0
                )
        scene = open_scene(path, lazy=lazy)
        assert np.array_equal(scene.read(0, 12, 0, 14), CUBE)
        assert list_candidates([str(path)])[0][0].shape == CUBE.shape

    def test_pages_of_other_sizes(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / 'pages.tif'
        for number, bands in enumerate((BANDS, BANDS[:1, ::2, ::2])):
            part = geotiff.write(tmp_path / f'{number}.tif', bands)
            with rasterio.open(part) as source:
                rasterio.shutil.copy(
                    source, path, driver='GTiff', APPEND_SUBDATASET=number > 0
                )
        assert np.array_equal(open_scene(path).cube, CUBE)
        assert 'only the first of its 2 pages' in caplog.text
        assert 'cube_variable=2 reads the second' in caplog.text
        assert np.array_equal(
            open_scene(path, cube_variable='2').cube[..., 0], CUBE[::2, ::2, 0]
        )
        labels = open_scene(path, path, labels_variable='2', cube_variable='1')
        assert set(labels.class_values) == set(np.unique(CUBE[::2, ::2, 0]).tolist())

    @pytest.mark.parametrize('variable', ['2', 'refl'])
    def test_variable_of_one_raster(self, tmp_path: Path, variable: str) -> None:
        path = geotiff.write(tmp_path / 'a.tif', BANDS)
        with pytest.raises(FileError, match=f'{variable}.*expected .*none: the file'):
            open_scene(path, cube_variable=variable)

    def test_subdatasets(self, tmp_path: Path) -> None:
        # GDAL's HDF5 driver lists the arrays; the ending keeps our reader away.
        path = tmp_path / 'a.kea'
        with h5py.File(path, 'w') as file:
            file['scene/cube'] = BANDS
            file['scene/labels'] = BANDS[0]
        with pytest.raises(
            FileError, match=r'found 2 rasters .*cube_variable=.*number'
        ):
            open_scene(path)
        for variable in ('1', 'scene/cube'):
            scene = open_scene(path, cube_variable=variable)
            assert np.array_equal(scene.cube, CUBE)
        with pytest.raises(FileError, match="no raster 'x', expected one of"):
            open_scene(path, cube_variable='x')
        scene = open_scene(path, path, cube_variable='1', labels_variable='2')
        assert set(scene.class_values) == set(np.unique(CUBE[..., 0]).tolist())

    @pytest.mark.parametrize('count', [2, 4, 6])
    def test_alpha_is_a_mask(
        self, tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        bands = np.random.default_rng(0).integers(1, 200, (count, 6, 7)).astype('u1')
        bands[-1] = 255
        bands[-1, 2, 3] = 0
        path = geotiff.write(tmp_path / 'a.tif', bands)
        with rasterio.open(path, 'r+') as file:
            file.colorinterp = [*file.colorinterp[:-1], ColorInterp.alpha]
        scene = open_scene(path)
        assert scene.num_bands == count - 1
        assert (~scene.valid).sum() == 1 and not scene.valid[2, 3]
        assert 'is an alpha band' in caplog.text

    def test_near_infrared_called_alpha_is_a_band(self, tmp_path: Path) -> None:
        bands = np.random.default_rng(0).integers(1, 200, (4, 6, 7)).astype('u1')
        path = geotiff.write(tmp_path / 'a.tif', bands)
        with rasterio.open(path, 'r+') as file:
            file.colorinterp = [*file.colorinterp[:-1], ColorInterp.alpha]
        assert open_scene(path).num_bands == 4

    def test_complex_values(self, tmp_path: Path) -> None:
        path = geotiff.write(tmp_path / 'a.tif', BANDS.astype('complex64'))
        with pytest.raises(FileError, match='found complex64 values, expected real'):
            open_scene(path)

    @pytest.mark.parametrize(
        'transform', [Affine(0, 0, 5, 0, -1, 5), Affine(1, 0, float('nan'), 0, -1, 5)]
    )
    def test_georeference_without_meaning(
        self, tmp_path: Path, transform: Affine
    ) -> None:
        np.save(tmp_path / 'a.npy', CUBE)
        given = tuple(transform)[:6]
        with pytest.raises(ValueError, match='found a georeference with'):
            open_scene(tmp_path / 'a.npy', crs='EPSG:32632', transform=given)

    def test_given_transform_overrules_one_without_meaning(
        self, tmp_path: Path
    ) -> None:
        nowhere = Affine(np.nan, 0, 0, 0, -30, 0)
        path = geotiff.write(tmp_path / 'a.tif', BANDS, transform=nowhere)
        scene = open_scene(path, transform=[30, 0, 5e5, 0, -30, 5e6])
        assert scene.crs is not None and scene.transform is not None
        assert tuple(scene.transform)[:6] == (30, 0, 5e5, 0, -30, 5e6)

    def test_local_crs_counts_as_none(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        local = 'LOCAL_CS["Arbitrary",UNIT["metre",1]]'
        path = geotiff.write(tmp_path / 'a.tif', BANDS, crs=local)
        scene = open_scene(path)
        assert scene.crs is None
        assert 'is local or unknown, so it counts as none' in caplog.text


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

    def test_bands_of_several_types(self, tmp_path: Path) -> None:
        bands = np.arange(40, dtype='f8').reshape(2, 4, 5)
        parts = []
        for number, kind in enumerate(('int16', 'float32')):
            geotiff.write(
                tmp_path / f'{kind}.tif', bands[number : number + 1].astype(kind)
            )
            parts.append(
                f'<VRTRasterBand dataType="{kind.capitalize()}" band="{number + 1}">'
                f'<SimpleSource><SourceFilename relativeToVRT="1">{kind}.tif'
                '</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
                '</VRTRasterBand>'
            )
        head = '<VRTDataset rasterXSize="5" rasterYSize="4">'
        (tmp_path / 'a.vrt').write_text(f'{head}{"".join(parts)}</VRTDataset>')
        scene = open_scene(tmp_path / 'a.vrt')
        assert scene.dtype == np.float32
        assert (scene.cube == np.moveaxis(bands, 0, 2)).all()

    def test_ground_control_points_are_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / 'a.tif'
        corners = [(0, 0, 10, 50), (0, 5, 11, 50), (4, 0, 10, 49), (4, 5, 11, 49)]
        points = [GroundControlPoint(*corner) for corner in corners]
        options = {'height': 4, 'width': 5, 'count': 2, 'dtype': 'uint8'}
        with rasterio.open(path, 'w', driver='GTiff', **options) as file:
            file.write(np.ones((2, 4, 5), np.uint8))
            file.gcps = (points, CRS.from_epsg(4326))
        assert open_scene(path).transform is None
        assert 'placed by ground control points' in caplog.text

    def test_scale_of_stacked_files(self, tmp_path: Path) -> None:
        paths = [tmp_path / f'{scale}.tif' for scale in (1.0, 0.5)]
        for path, scale in zip(paths, (1.0, 0.5), strict=True):
            geotiff.write(path, np.ones((1, 4, 5), np.uint8))
            with rasterio.open(path, 'r+') as file:
                file.scales = (scale,)
        assert open_scene(paths).scaling == ((1.0, 0.0), (0.5, 0.0))
        assert open_scene(paths[:1]).scaling == ()

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
        paths = geotiff.make_stack(tmp_path)
        rasterio.shutil.copy(paths[0], tmp_path / 'a.vrt', driver='VRT')
        moved = paths[0].rename(tmp_path / 'moved.tif')
        with pytest.raises(FileError, match=f'{paths[0].name}: No such file'):
            open_scene([tmp_path / 'a.vrt', moved])
        text = (tmp_path / 'a.vrt').read_text()
        band = re.search('<VRTRasterBand.*</VRTRasterBand>', text, re.DOTALL)
        assert band is not None
        other = band[0].replace('band="1"', 'band="2"')
        other = re.sub('<NoDataValue>[^<]*', '<NoDataValue>7', other)
        (tmp_path / 'b.vrt').write_text(text.replace(band[0], band[0] + other))
        with pytest.raises(FileError, match=f'{paths[0].name}: No such file'):
            open_scene(tmp_path / 'b.vrt')
