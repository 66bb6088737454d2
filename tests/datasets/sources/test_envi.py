# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests that an ENVI header is one truth: dialects, GDAL, file types, file sizes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import BandSelection, open_scene

ROWS = 7
COLS = 9
BANDS = 5
CENTRES = [400.0, 500, 600, 700, 800]
CUBE = np.random.default_rng(1).integers(1, 3000, (ROWS, COLS, BANDS)).astype('uint16')
ENTRIES = {
    'samples': str(COLS),
    'lines': str(ROWS),
    'bands': str(BANDS),
    'header offset': '0',
    'file type': 'ENVI Standard',
    'data type': '12',
    'interleave': 'bsq',
    'byte order': '0',
}


#: A place in UTM.
PLACE = 'map info = {UTM, 1, 1, 5e5, 5e6, 30, 30, 33, North, WGS-84, units=Meters}'


def write(
    root: Path,
    extra: str = '',
    data: bytes | None = None,
    encoding: str = 'utf-8',
    name: str = 'a.hdr',
    newline: str = '\n',
    **changes: str | None,
) -> Path:
    """Write a.hdr and, unless data is empty, a.img."""
    entries = ENTRIES | {key.replace('_', ' '): value for key, value in changes.items()}
    lines = [f'{key} = {value}' for key, value in entries.items() if value is not None]
    text = newline.join(['ENVI', *lines, *extra.splitlines(), ''])
    (root / name).write_bytes(text.encode(encoding))
    stored = CUBE.transpose(2, 0, 1).tobytes() if data is None else data
    if stored:
        (root / 'a.img').write_bytes(stored)
    return root / name


class TestDialects:
    @pytest.mark.parametrize(
        'extra',
        [
            'wavelength = {400, 500, 600, 700, 800}\nwavelength units = Nanometers',
            'Wavelength = { 400 ,500,600, 700,800 }\nWAVELENGTH UNITS = nm',
            'wavelength={\n400,\n500,\n600,\n700,\n800\n}\nwavelength units=nanometres',
            'wavelength = {\n400\n500\n600\n700\n800}\nwavelength_units = Nanometer',
            'wavelength = {0.4;0.5;0.6;0.7;0.8}\nwavelength units = {Micrometers}',
            'wavelength = 0.4, 0.5, 0.6, 0.7, 0.8\nwavelength units = microns',
            'wavelength = {0.4, 0.5, 0.6, 0.7, 0.8}\nwavelength units = ',
            'wavelength = {4e2, 5e2, 6e2, 7e2, 8e2}\nwavelength units = Unknown',
            'wavelength = {400, 500, 600, 700, 800}\nwavelength units = Nanometers (nm)',
            'wavelength = {4000,5000,6000,7000,8000}\nwavelength units = Angstroms',
            'wavelength = {25000, 20000, 16666.7, 14285.7, 12500}\nWavelength Units=cm-1',
            '; a comment = {\nwavelength = {400, 500, 600, 700, 800}\nbbl = {}\nfwhm =',
        ],
    )
    def test_wavelengths(self, tmp_path: Path, extra: str) -> None:
        scene = open_scene(write(tmp_path, extra))
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, CENTRES, rtol=1e-5)
        assert np.array_equal(scene.cube, CUBE)

    @pytest.mark.parametrize(
        ('unit', 'encoding'),
        [
            ('\u00b5m', 'latin-1'),
            ('\u00b5m', 'utf-8'),
            ('\u03bcm', 'utf-8'),
            ('\u00b5m', 'utf-8-sig'),
            ('Micrometers [\u00b5m]', 'cp1252'),
        ],
    )
    def test_micro_signs(self, tmp_path: Path, unit: str, encoding: str) -> None:
        extra = f'wavelength = {{0.4, 0.5, 0.6, 0.7, 0.8}}\nwavelength units = {unit}'
        scene = open_scene(write(tmp_path, extra, encoding=encoding))
        assert scene.wavelengths is not None
        np.testing.assert_allclose(scene.wavelengths, CENTRES)

    @pytest.mark.parametrize(
        'extra',
        [
            'wavelength =\n{400, 500,\n600, 700, 800}',
            'wavelengths = {400, 500, 600, 700, 800}',
            'wavelength = {"400" "500" "600" "700" "800"}',
            "wavelength = {'400', '500', '600', '700', '800'}",
        ],
    )
    def test_lists(self, tmp_path: Path, extra: str) -> None:
        scene = open_scene(write(tmp_path, extra))
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == CENTRES

    def test_lines_that_are_no_entries(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        extra = 'wavelength : {400, 500, 600, 700, 800}\n; a comment\n\n'
        assert open_scene(write(tmp_path, extra)).wavelengths is None
        assert '1 lines are ignored because they have no "=", such as \'wave' in (
            caplog.text
        )

    @pytest.mark.parametrize('value', ['0', '550'])
    def test_wavelengths_that_are_all_the_same(
        self, tmp_path: Path, value: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        extra = f'wavelength = {{{", ".join([value] * 5)}}}'
        assert open_scene(write(tmp_path, extra)).wavelengths is None
        assert f'its 5 wavelengths are all {value}' in caplog.text

    @pytest.mark.parametrize('newline', ['\r\n', '\n', '\r'])
    def test_ends_of_lines(self, tmp_path: Path, newline: str) -> None:
        path = write(tmp_path, 'bbl = {1, 1, 0, 1, 1}', newline=newline)
        assert open_scene(path).band_indices.tolist() == [0, 1, 3, 4]

    @pytest.mark.parametrize(
        ('extra', 'told'),
        [
            (f'; note = {{\n{PLACE}', "GDAL reads no place from its 'map info'"),
            (PLACE, ''),
            ('geo points = {1, 1, 50, 13, 14, 12, 49, 14}', 'ground control points'),
        ],
    )
    def test_place_that_is_not_read(
        self, tmp_path: Path, extra: str, told: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = open_scene(write(tmp_path, extra))
        assert (scene.transform is None) == bool(told)
        assert told in caplog.text and bool(caplog.text) == bool(told)

    @pytest.mark.parametrize(
        ('extra', 'match'),
        [
            ('bands = 4', "found 'bands' twice, as '5' and '4'"),
            ('wavelength = {400, 500}', "'wavelength' has 2 values for 5 bands"),
            (
                'wavelength = {a, b, c, d, e}',
                "holds 'a', expected numbers; give wavelengths=",
            ),
            ('wavelength = {4nm 5nm 6nm 7nm 8nm}', "holds '4nm', expected numbers"),
            ('bbl = {True, True, False, True, True}', 'choose bands by number'),
            ('data ignore value = {-9999, 0}', 'a number; name it with nodata='),
            ('map info = {UTM, 1, 1, x, 5e6, 9, 9, 33, North}', "'x', .*transform="),
            ('wavelength = {1, 2, 3', 'no closing brace'),
            ('data ignore value = none', "'none', expected a number"),
        ],
    )
    def test_refusals(self, tmp_path: Path, extra: str, match: str) -> None:
        with pytest.raises(FileError, match=match):
            open_scene(write(tmp_path, extra))


class TestArgumentsOverrule:
    @pytest.mark.parametrize(
        ('extra', 'options'),
        [
            ('wavelength = {400, 500}', {'wavelengths': CENTRES}),
            ('wavelength = {X1, X2, X3, X4, X5}', {'wavelengths': CENTRES}),
            (
                'wavelength = {1, 2, 3, 4, 5}\nwavelength units = Furlongs',
                {'wavelengths': CENTRES},
            ),
            (
                'wavelength = {0.4,0.5,0.6,0.7,0.8}\nwavelength units = Furlongs',
                {'wavelength_unit': 'um'},
            ),
            ('data ignore value = -1.#IND', {'nodata': None}),
            ('data ignore value = {}x', {'nodata': 0}),
            ('bbl = {1, 1, 0}', {'bands': list(range(BANDS))}),
            ('bbl = {a}', {'bands': BandSelection(drop_bad=False)}),
        ],
    )
    def test_before_the_file_is_parsed(
        self, tmp_path: Path, extra: str, options: dict[str, Any]
    ) -> None:
        scene = open_scene(write(tmp_path, extra), **options)
        assert np.array_equal(scene.cube, CUBE)
        if 'wavelengths' in options or 'wavelength_unit' in options:
            assert scene.wavelengths is not None
            np.testing.assert_allclose(scene.wavelengths, CENTRES)

    @pytest.mark.parametrize('easting', ['x', '5e5'])
    def test_georeference(self, tmp_path: Path, easting: str) -> None:
        extra = f'map info = {{UTM, 1, 1, {easting}, 5e6, 0, 30, 33, North, WGS-84}}'
        path = write(tmp_path, extra)
        with pytest.raises(FileError, match='give transform='):
            open_scene(path)
        scene = open_scene(path, transform=[30, 0, 5e5, 0, -30, 5e6])
        assert scene.transform is not None and scene.transform.c == 5e5

    def test_system_that_does_not_hold_the_pixels(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        extra = 'map info = {UTM, 1, 1, 5e5, 5e6, 30, 30, 99, North, Mars}'
        path = write(tmp_path, extra)
        assert open_scene(path).crs is None
        assert 'is in degrees, but its pixels lie at x 500000' in caplog.text
        placed = open_scene(path, crs='EPSG:32633')
        assert placed.crs is not None and placed.crs.to_epsg() == 32633


class TestSizes:
    @pytest.mark.parametrize(
        ('kind', 'code', 'fits'),
        [('f4', '2', 'data type 3 .int32. or 4 .float32.'), ('f8', '12', '5 .float64')],
    )
    def test_longer_than_the_header(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        kind: str,
        code: str,
        fits: str,
    ) -> None:
        data = CUBE.astype(kind).transpose(2, 0, 1).tobytes()
        open_scene(write(tmp_path, data=data, data_type=code))
        assert 'is longer than its header says' in caplog.text
        assert re.search(fits, caplog.text)

    def test_fewer_lines(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        open_scene(write(tmp_path, lines='6'))
        assert 'no data type would fit' in caplog.text

    @pytest.mark.parametrize(
        'changes', [{'lines': '8'}, {'data_type': '5'}, {'header_offset': '1'}]
    )
    def test_shorter(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(FileError, match='is too short for its header'):
            open_scene(write(tmp_path, **changes))


@pytest.mark.parametrize('others', [['a.dat'], ['a'], ['a.raw', 'a.bin']])
def test_several_binary_files(tmp_path: Path, others: list[str]) -> None:
    path = write(tmp_path)
    for name in others:
        (tmp_path / name).write_bytes(bytes(CUBE.nbytes))
    with pytest.raises(FileError, match=r'several files .*a\.img.*name the binary'):
        open_scene(path)
    if 'a.raw' in others:
        return
    assert np.array_equal(open_scene(tmp_path / 'a.img').cube, CUBE)


class TestFrames:
    @pytest.mark.parametrize(
        ('interleave', 'axes'), [('bsq', 'byx'), ('bil', 'ybx'), ('bip', 'yxb')]
    )
    @pytest.mark.parametrize('major', [(8, 0), (0, 6), (4, 2)])
    @pytest.mark.parametrize('minor', [(0, 0), (2, 4)])
    def test_bytes_around_frames(
        self,
        tmp_path: Path,
        interleave: str,
        axes: str,
        major: tuple[int, int],
        minor: tuple[int, int],
    ) -> None:
        stored = CUBE.transpose(['yxb'.index(axis) for axis in axes])
        data = b''.join(
            b'\xff' * major[0]
            + b''.join(
                b'\xfe' * minor[0] + inner.tobytes() + b'\xfe' * minor[1]
                for inner in outer
            )
            + b'\xff' * major[1]
            for outer in stored
        )
        extra = f'major frame offsets = {{{major[0]}, {major[1]}}}\n'
        extra += f'minor frame offsets = {{{minor[0]}, {minor[1]}}}'
        path = write(tmp_path, extra, data=b'offs' + data, header_offset='4')
        path.write_text(path.read_text().replace('= bsq', f'= {interleave}'))
        assert np.array_equal(open_scene(path).cube, CUBE)
        lazy = open_scene(path, lazy=True)
        assert np.array_equal(lazy.read(2, 5, 1, 4), CUBE[2:5, 1:4])
        (tmp_path / 'a.img').write_bytes(b'offs' + data[:-1])
        with pytest.raises(FileError, match='too short'):
            open_scene(path)

    @pytest.mark.parametrize('value', ['{-1, 0}', '{1.5, 0}', '{1}', '{a, b}'])
    def test_no_frames(self, tmp_path: Path, value: str) -> None:
        with pytest.raises(FileError, match='major frame offsets'):
            open_scene(write(tmp_path, f'major frame offsets = {value}'))


class TestFileTypes:
    @pytest.mark.parametrize('name', ['b.hdr', 'b.tif.hdr'])
    @pytest.mark.parametrize('kind', ['TIFF', 'GeoTIFF'])
    def test_tiff_named_by_its_header(
        self, tmp_path: Path, name: str, kind: str
    ) -> None:
        geotiff.write(tmp_path / 'b.tif', CUBE.transpose(2, 0, 1))
        extra = 'bbl = {1, 1, 0, 1, 1}\nwavelength = {400, 500, 600, 700, 800}'
        write(tmp_path, extra, data=b'', name=name, file_type=kind)
        for path in (tmp_path / name, tmp_path / 'b.tif'):
            scene = open_scene(path)
            assert np.array_equal(scene.cube, CUBE[:, :, [0, 1, 3, 4]])
            assert scene.wavelengths is not None
            assert scene.wavelengths.tolist() == [400, 500, 700, 800]
            assert scene.crs is not None

    def test_header_of_another_file(self, tmp_path: Path) -> None:
        write(tmp_path, name='b.hdr')
        (tmp_path / 'a.img').rename(tmp_path / 'b.img')
        geotiff.write(tmp_path / 'b.tif', CUBE.transpose(2, 0, 1)[:2])
        assert open_scene(tmp_path / 'b.hdr').num_bands == BANDS
        assert open_scene(tmp_path / 'b.tif').num_bands == 2

    def test_header_that_calls_a_tiff_raw(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        geotiff.write(tmp_path / 'b.tif', CUBE.transpose(2, 0, 1))
        write(tmp_path, 'bbl = {1, 1, 0, 1, 1}', data=b'', name='b.tif.hdr')
        assert open_scene(tmp_path / 'b.tif').num_bands == BANDS
        assert 'is ignored: it calls b.tif a raw binary' in caplog.text
        with pytest.raises(FileError, match='begins as a TIFF file'):
            open_scene(tmp_path / 'b.tif.hdr')

    @pytest.mark.parametrize('kind', ['b.tif', 'b.h5', 'b.png'])
    def test_another_container_called_raw(self, tmp_path: Path, kind: str) -> None:
        magic = {
            'b.tif': b'II*\0',
            'b.h5': b'\x89HDF\r\n\x1a\n',
            'b.png': b'\x89PNG\r\n\x1a\n',
        }
        write(tmp_path, data=magic[kind] + bytes(5000))
        with pytest.raises(FileError, match=r'begins as a .* but .*calls it a raw'):
            open_scene(tmp_path / 'a.hdr')

    @pytest.mark.parametrize(
        'kind', ['ENVI Spectral Library', 'ENVI Meta File', 'ENVI Virtual Mosaic']
    )
    def test_no_images(self, tmp_path: Path, kind: str) -> None:
        with pytest.raises(FileError, match=f'found file type {kind!r}, expected'):
            open_scene(write(tmp_path, file_type=kind))

    def test_sizes_of_header_and_tiff_differ(self, tmp_path: Path) -> None:
        geotiff.write(tmp_path / 'b.tif', CUBE.transpose(2, 0, 1)[:4])
        write(tmp_path, data=b'', name='b.hdr', file_type='TIFF')
        with pytest.raises(FileError, match=r'says \(7, 9, 5\) .*has \(7, 9, 4\)'):
            open_scene(tmp_path / 'b.hdr')


class TestAgreesWithGdal:
    def aux(self, root: Path, inner: str) -> None:
        (root / 'a.img.aux.xml').write_text(
            f'<PAMDataset><PAMRasterBand band="1">{inner}</PAMRasterBand></PAMDataset>'
        )

    def test_other_nodata(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'data ignore value = 7')
        self.aux(tmp_path, '<NoDataValue>9</NoDataValue>')
        with pytest.raises(FileError, match=r'is 7, but GDAL finds nodata 9'):
            open_scene(path)
        assert open_scene(path, nodata=7).nodata == 7

    def test_other_wavelengths(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'wavelength = {400, 500, 600, 700, 800}')
        self.aux(tmp_path, '<Metadata><MDI key="wavelength">410</MDI></Metadata>')
        with pytest.raises(FileError, match=r"band 1 is 400, but GDAL finds '410'"):
            open_scene(path)
        assert open_scene(path, wavelengths=CENTRES).wavelengths is not None

    def test_data_of_another_driver(self, tmp_path: Path) -> None:
        path = write(tmp_path)
        other = geotiff.write(tmp_path / 'other.tif', CUBE.transpose(2, 0, 1)[:1])
        other.replace(tmp_path / 'a.img')
        with pytest.raises(
            FileError, match=r'begins as a TIFF file, but .*a.hdr calls'
        ):
            open_scene(path)
