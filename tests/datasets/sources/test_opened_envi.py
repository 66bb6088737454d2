# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Scenes of ENVI files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.data.envi import data as envi
from torchgeo_ekgnet.datasets import BandSelection, open_scene

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
        assert open_scene(path).wavelengths is None
        assert 'the wavelength units are "Index"' in caplog.text

    def test_values_tell_a_unit_that_is_not_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = envi.make(tmp_path, unit=None, wavelengths=envi.WAVELENGTHS / 1000)
        scene = open_scene(path)
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, envi.WAVELENGTHS[GOOD])
        assert 'they are taken as micrometres' in caplog.text

    def test_lazy_scene_travels_without_values(self, tmp_path: Path) -> None:
        scene = open_scene(envi.make(tmp_path), lazy=True)
        text = pickle.dumps(scene._source)
        assert len(text) < 2000
        again = pickle.loads(text)
        assert np.array_equal(
            again.read(slice(0, 2), slice(0, 2)), envi.cube_of()[:2, :2]
        )

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
            ('bbl = {1, ', 'bbl = {a, ', "'bbl' holds 'a', expected numbers"),
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


class TestScales:
    def scaled(self, folder: Path, extra: str) -> tuple[tuple[float, float], ...]:
        path = envi.make(folder)
        path.write_text(path.read_text() + extra)
        scene = open_scene(path, bands=list(range(envi.BANDS)))
        assert np.array_equal(scene.cube, envi.cube_of())
        return scene.scaling

    def test_gains_and_offsets(self, tmp_path: Path) -> None:
        gains = [0.1 + band / 100 for band in range(envi.BANDS)]
        text = ', '.join(map(str, gains))
        found = self.scaled(tmp_path, f'data gain values = {{{text}}}\n')
        assert found == tuple((gain, 0.0) for gain in gains)

    def test_divisor(self, tmp_path: Path) -> None:
        found = self.scaled(tmp_path, 'reflectance scale factor = 10000\n')
        assert found == ((1e-4, 0.0),) * envi.BANDS

    @pytest.mark.parametrize(
        'entry', ['reflectance scale factor = none', 'data gain values = {0.1, 0.2}']
    )
    def test_that_cannot_be_read(
        self, tmp_path: Path, entry: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert self.scaled(tmp_path, f'{entry}\n') == ()
        assert 'left out: values are read as stored' in caplog.text
