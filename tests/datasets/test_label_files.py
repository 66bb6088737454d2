# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of label files: pictures, legends, texts, tables, places without a CRS."""

import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.maps.raster import Legend, attribute_table

pytestmark = pytest.mark.filterwarnings(
    # These files have no place on Earth.
    'ignore::rasterio.errors.NotGeoreferencedWarning',
    "ignore:'crs' was not provided:UserWarning",
)

ROWS, COLS = 12, 14
CUBE = np.random.default_rng(2).integers(1, 3000, (ROWS, COLS, 5)).astype('uint16')
TRUTH = np.random.default_rng(3).integers(0, 4, (ROWS, COLS)).astype('uint8')
COLOURS = np.array([[0, 0, 0], [230, 0, 0], [0, 230, 0], [0, 100, 255]], 'uint8')
NAMES = ('bare soil', 'low vegetation', 'water')
LEFT, TOP, PIXEL = geotiff.TRANSFORM.c, geotiff.TRANSFORM.f, 10.0


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    return geotiff.write(tmp_path / 'cube.tif', CUBE.transpose(2, 0, 1))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    np.save(tmp_path / 'plain.npy', CUBE)
    return tmp_path / 'plain.npy'


class TestPictures:
    @pytest.mark.parametrize('kind', ['png', 'tif', 'bmp', 'alpha.png'])
    def test_colours_are_classes(self, cube: Path, kind: str) -> None:
        path = cube.with_name(f'labels.{kind}')
        bands = COLOURS[TRUTH].transpose(2, 0, 1)
        if kind == 'alpha.png':
            opaque = np.where(TRUTH > 0, 255, 0).astype('uint8')
            bands = np.concatenate([bands, opaque[None]])
        driver = {'tif': 'GTiff', 'bmp': 'BMP'}.get(kind, 'PNG')
        with rasterio.open(
            path,
            'w',
            driver=driver,
            width=COLS,
            height=ROWS,
            count=len(bands),
            dtype='uint8',
        ) as file:
            file.write(bands)
        scene = open_scene(cube, path)
        assert set(scene.class_names) == {'#e60000', '#00e600', '#0064ff'}
        order = [
            scene.class_names.index(f'#{r:02x}{g:02x}{b:02x}')
            for r, g, b in COLOURS[1:]
        ]
        assert np.array_equal(scene.palette[order], COLOURS[1:])
        number = np.array([0, *(place + 1 for place in order)])
        assert np.array_equal(scene.label_map, number[TRUTH])

    @pytest.mark.parametrize('full', [1, 255])
    @pytest.mark.parametrize('kind', ['uint8', 'float32', 'int16'])
    def test_one_band_a_class(self, cube: Path, full: int, kind: str) -> None:
        hot = np.eye(5, dtype=kind)[TRUTH].transpose(2, 0, 1)[1:] * full
        hot = hot.astype(kind)
        path = geotiff.write(cube.with_name('l.tif'), hot)
        with rasterio.open(path, 'r+') as file:
            for band, name in enumerate((*NAMES, 'unseen'), start=1):
                file.set_band_description(band, name)
        scene = open_scene(cube, path)
        assert scene.class_names == NAMES
        assert np.array_equal(scene.label_map, TRUTH)

    def test_palette_picture(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None])
        with rasterio.open(path, 'r+') as file:
            file.write_colormap(
                1, {n: tuple(c) for n, c in enumerate(COLOURS.tolist())}
            )
        scene = open_scene(cube, path)
        assert np.array_equal(scene.palette, COLOURS[1:])
        assert np.array_equal(scene.label_map, TRUTH)

    @pytest.mark.parametrize('bands', [2, 3, 4])
    def test_what_is_neither(self, cube: Path, bands: int) -> None:
        values = np.random.default_rng(0).integers(0, 256, (bands, ROWS, COLS))
        path = geotiff.write(cube.with_name('l.tif'), values.astype('int16'))
        with pytest.raises(
            FileError, match=rf'labels in {bands} bands of int16 .*_var'
        ):
            open_scene(cube, path)
        scene = open_scene(cube, path, labels_variable='2')
        assert set(scene.class_values) == set(np.unique(values[1]).tolist()) - {0}

    @pytest.mark.parametrize('kind', ['jpg', 'tif'])
    def test_compressed_with_loss(self, cube: Path, kind: str) -> None:
        path = cube.with_name(f'l.{kind}')
        options: dict[str, Any] = {'driver': 'JPEG'}
        if kind == 'tif':
            options = {'driver': 'GTiff', 'compress': 'JPEG', 'photometric': 'YCBCR'}
        bands = COLOURS[TRUTH].transpose(2, 0, 1)
        with rasterio.open(
            path, 'w', width=COLS, height=ROWS, count=3, dtype='uint8', **options
        ) as file:
            file.write(bands)
        with pytest.raises(FileError, match=r'compressed with loss \(JPEG\)'):
            open_scene(cube, path)

    def test_overlapping_classes(self, cube: Path) -> None:
        hot = np.ones((4, ROWS, COLS), 'uint8')
        hot[0, 0] = 0
        path = geotiff.write(cube.with_name('l.tif'), hot)
        with pytest.raises(
            FileError, match=r'one band a class .0 and 1, one at a pixel'
        ):
            open_scene(cube, path)


class TestLegends:
    def check(self, cube: Path, labels: Path, colours: bool = True) -> None:
        scene = open_scene(cube, labels)
        assert scene.class_names == NAMES
        assert np.array_equal(scene.label_map, TRUTH)
        if colours:
            assert np.array_equal(scene.palette, COLOURS[1:])
        renamed = open_scene(cube, labels, class_names=['a', 'b', 'c'])
        assert renamed.class_names == ('a', 'b', 'c')

    @pytest.mark.parametrize('separator', [', ', ',\n', ' ,'])
    def test_envi_classification(self, cube: Path, separator: str) -> None:
        lookup = separator.join(str(value) for value in COLOURS.reshape(-1).tolist())
        names = separator.join(('Unclassified', *NAMES))
        path = cube.with_name('l.hdr')
        path.write_text(
            f'ENVI\nsamples = {COLS}\nlines = {ROWS}\nbands = 1\ndata type = 1\n'
            'interleave = bsq\nfile type = ENVI Classification\nclasses = 4\n'
            f'class lookup = {{{lookup}}}\nclass names = {{\n{names}}}\n'
        )
        path.with_suffix('.img').write_bytes(TRUTH.tobytes())
        self.check(cube, path)

    def test_categories(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None])
        inner = ''.join(f'<Category>{n}</Category>' for n in ('', *NAMES))
        path.with_name('l.tif.aux.xml').write_text(
            '<PAMDataset><PAMRasterBand band="1"><CategoryNames>'
            f'{inner}</CategoryNames></PAMRasterBand></PAMDataset>'
        )
        self.check(cube, path, colours=False)

    def test_own_map(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('map.tif'), TRUTH[None], nodata=0)
        legend = Legend.from_classes(NAMES, (1, 2, 3), COLOURS[1:])
        path.with_name('map.tif.aux.xml').write_bytes(attribute_table(legend))
        self.check(cube, path)

    def test_names_that_occur_only(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None] * 2)
        inner = ''.join(f'<Category>c{n // 4}</Category>' for n in range(9))
        path.with_name('l.tif.aux.xml').write_text(
            '<PAMDataset><PAMRasterBand band="1"><CategoryNames>'
            f'{inner}</CategoryNames></PAMRasterBand></PAMDataset>'
        )
        scene = open_scene(cube, path)
        assert scene.class_values == (2, 4, 6)
        assert scene.class_names == ('c0', 'c1 (4)', 'c1 (6)')

    @pytest.mark.parametrize(
        'extra',
        [
            'class lookup = {0, 0, 0, 255}\n',
            'class lookup = {a}\n',
            'classes = four\n',
            'classes = 9\n',
        ],
    )
    def test_envi_colours_that_do_not_fit(self, cube: Path, extra: str) -> None:
        path = cube.with_name('l.hdr')
        path.write_text(
            f'ENVI\nsamples = {COLS}\nlines = {ROWS}\nbands = 1\ndata type = 1\n'
            f'interleave = bsq\n{extra}class names = {{-, {", ".join(NAMES)}}}\n'
        )
        path.with_suffix('.img').write_bytes(TRUTH.tobytes())
        self.check(cube, path, colours=False)

    def test_labels_without_a_name(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = cube.with_name('l.hdr')
        path.write_text(
            f'ENVI\nsamples = {COLS}\nlines = {ROWS}\nbands = 1\ndata type = 1\n'
            f'interleave = bsq\nclass names = {{{", ".join(NAMES)}}}\n'
        )
        path.with_suffix('.img').write_bytes(TRUTH.tobytes())
        open_scene(cube, path)
        assert 'labels [3] without a name, and names for [0, 1, 2]' in caplog.text

    def test_no_labelled_pixel(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None] * 0)
        assert open_scene(cube, path).num_classes == 0
        assert 'no pixel is labelled: every value means "no label"' in caplog.text

    def test_damaged(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None])
        path.with_name('l.tif.aux.xml').write_text('<PAMDataset><half')
        with pytest.raises(FileError, match=r'aux.xml .*cannot be read as an XML file'):
            open_scene(cube, path)
        assert open_scene(cube, path, class_names=NAMES).class_names == NAMES


class TestTexts:
    @pytest.mark.parametrize('values', [['1', '2', '10'], ['1.0', '2.0', ' 10 ']])
    @pytest.mark.parametrize('kind', ['geojson', 'gpkg', 'csv'])
    def test_numbers_as_texts(self, cube: Path, values: list[str], kind: str) -> None:
        path = cube.with_name(f'l.{kind}')
        xs = [LEFT + 15, LEFT + 35, LEFT + 55]
        if kind == 'csv':
            lines = [f'{x},{TOP - 15},"{v}"' for x, v in zip(xs, values, strict=True)]
            path.write_text('\n'.join(['x,y,class', *lines]))
        else:
            points = geopandas.points_from_xy(xs, [TOP - 15] * 3)
            frame = geopandas.GeoDataFrame(
                {'class': values}, geometry=points, crs=32632
            )
            frame.to_crs('OGC:CRS84').to_file(path)
        scene = open_scene(cube, path)
        assert scene.class_values == (1, 2, 10)
        assert scene.label_map[1, [1, 3, 5]].tolist() == [1, 2, 3]
        listed = open_scene(cube, path, class_names=['a', 'b', 'c'])
        assert dict(zip(listed.class_values, listed.class_names, strict=True)) == {
            1: 'a',
            2: 'b',
            10: 'c',
        }

    def test_texts_in_arrays(self, plain: Path) -> None:
        path = plain.with_name('gt.npy')
        np.save(path, np.array(['', *NAMES])[TRUTH])
        assert open_scene(plain, path).class_names == NAMES
        np.save(path, TRUTH.astype('U3'))
        scene = open_scene(plain, path)
        assert np.array_equal(scene.label_map, TRUTH)

    @pytest.mark.parametrize('alike', ['Wheat', 'wheat ', 'WHEAT', 'wh eat'])
    def test_names_that_are_alike(
        self, cube: Path, alike: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = cube.with_name('l.csv')
        path.write_text(
            f'x,y,crop\n{LEFT + 15},{TOP - 15},wheat\n{LEFT + 35},{TOP - 15},"{alike}"\n'
        )
        with caplog.at_level(logging.WARNING):
            scene = open_scene(cube, path)
        questioned = 'differ only in case or spaces; are they one class?' in caplog.text
        assert questioned is (alike in ('Wheat', 'WHEAT'))
        assert scene.num_classes == (1 if alike.strip() == 'wheat' else 2)

    def test_names_that_are_alike_in_arrays(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        np.save(plain.with_name('gt.npy'), np.array(['', 'oak', 'Oak', 'x'])[TRUTH])
        assert open_scene(plain, plain.with_name('gt.npy')).num_classes == 3
        assert "holds 'Oak' and 'oak', which differ only in case" in caplog.text

    def test_empty_text_is_no_class(self, cube: Path) -> None:
        points = geopandas.points_from_xy([LEFT + 15, LEFT + 35], [TOP - 15] * 2)
        frame = geopandas.GeoDataFrame({'c': [' ', 'a']}, geometry=points, crs=32632)
        frame.to_file(cube.with_name('l.gpkg'))
        scene = open_scene(cube, cube.with_name('l.gpkg'))
        assert scene.class_names == ('a',)

    def test_number_without_a_given_name(self, cube: Path) -> None:
        cube.with_name('l.csv').write_text(
            f'x,y,c\n{LEFT + 15},{TOP - 15},3\n{LEFT + 35},{TOP - 15},7\n'
        )
        with pytest.raises(FileError, match=r"'c' holds \[7\], which are neither"):
            open_scene(cube, cube.with_name('l.csv'), class_names={3: 'a'})
        scene = open_scene(
            cube, cube.with_name('l.csv'), class_names={3: 'a'}, unlabelled=[0, 7]
        )
        assert scene.class_names == ('a',)

    @pytest.mark.parametrize('values', [[1.5], [-1.0], [1e30], [float('inf')]])
    def test_no_class_numbers(self, cube: Path, values: list[float]) -> None:
        points = geopandas.points_from_xy([LEFT + 15], [TOP - 15])
        frame = geopandas.GeoDataFrame({'c': values}, geometry=points, crs=32632)
        frame.to_file(cube.with_name('l.gpkg'))
        with pytest.raises(FileError, match='expected whole class numbers from 0'):
            open_scene(cube, cube.with_name('l.gpkg'))

    def test_wrong_number_of_names(self, cube: Path) -> None:
        cube.with_name('l.csv').write_text(f'x,y,c\n{LEFT + 15},{TOP - 15},7\n')
        with pytest.raises(
            FileError, match='2 class names for the 1 values of attribute'
        ):
            open_scene(cube, cube.with_name('l.csv'), class_names=['a', 'b'])

    @pytest.mark.parametrize('value', [2**60, 1e17, -(2.0**60)])
    def test_numbers_that_doubles_do_not_hold(self, plain: Path, value: float) -> None:
        labels = np.zeros((ROWS, COLS), 'f8')
        labels[0, 0] = value
        np.save(plain.with_name('gt.npy'), labels)
        with pytest.raises(ValueError, match='expected class numbers within'):
            open_scene(plain, plain.with_name('gt.npy'))


class TestTables:
    @pytest.mark.parametrize(
        ('head', 'system'),
        [
            ('x,y', 'scene'),
            ('Easting;Northing', 'scene'),
            ('lon\tlat', 'degrees'),
            ('Longitude,Latitude', 'degrees'),
            ('col,row', 'pixels'),
            ('WKT', 'wkt'),
        ],
    )
    @pytest.mark.parametrize('ending', ['csv', 'txt'])
    def test_points(self, cube: Path, head: str, system: str, ending: str) -> None:
        separator = next((c for c in ',;\t' if c in head), ',')
        places = [(1, 2), (8, 5)]
        points = [
            shapely.Point(LEFT + PIXEL * (c + 0.3), TOP - PIXEL * (r + 0.3))
            for r, c in places
        ]
        if system == 'degrees':
            points = geopandas.GeoSeries(points, crs=32632).to_crs(4326).tolist()
        lines = [f'cover{separator}{head}']
        for name, point, (row, col) in zip(('a', 'b'), points, places, strict=True):
            written = [f'{point.x:.8f}', f'{point.y:.8f}']
            if system == 'pixels':
                written = [str(col), str(row)]
            elif system == 'wkt':
                written = [f'"{point.wkt}"']
            lines.append(separator.join([name, *written]))
        path = cube.with_name(f'gps.{ending}')
        path.write_text('\n'.join(lines) + '\n')
        scene = open_scene(cube, path, attribute='cover')
        assert scene.class_names == ('a', 'b')
        assert scene.label_map[1, 2] == 1 and scene.label_map[8, 5] == 2
        assert scene.class_counts == (1, 1)

    @pytest.mark.parametrize(
        ('head', 'comma'),
        [
            ('x;y;Klasse', True),
            ('Rechtswert;Hochwert;Klasse', True),
            ('POINT_X\tPOINT_Y\tclass', False),
            ('utm_e,utm_n,class', False),
        ],
    )
    def test_tables_of_other_programs(self, cube: Path, head: str, comma: bool) -> None:
        separator = next(c for c in ';\t,' if c in head)
        lines = [head]
        for x, name in ((LEFT + 15.25, 'R\u00f6hricht'), (LEFT + 35.5, 'Wald')):
            place = [f'{x}', f'{TOP - 15.5}']
            if comma:
                place = [text.replace('.', ',') for text in place]
            lines.append(separator.join([*place, name]))
        path = cube.with_name('points.csv')
        path.write_bytes('\r\n'.join(lines).encode('latin-1'))
        scene = open_scene(cube, path)
        assert scene.class_names == ('R\u00f6hricht', 'Wald')
        assert scene.label_map[1, [1, 3]].tolist() == [1, 2]

    def test_pixels_on_a_scene_without_georeference(self, plain: Path) -> None:
        path = plain.with_name('points.csv')
        path.write_text('row,col,class\n3,4,2\n0,13,5\n')
        scene = open_scene(plain, path)
        assert scene.label_map[3, 4] == 1 and scene.label_map[0, 13] == 2

    @pytest.mark.parametrize(
        ('text', 'match'),
        [
            ('a,b\n1,2\n', r"found columns \['a', 'b'\], expected places in x and y"),
            ('x,y,c\none,2,3\n', "found 'one' in column 'x', expected coordinates"),
            ('', 'found an empty file, expected a table of points'),
            ('0,2,2,1\n0,1,1,2\n', 'numbers in the first line, expected names of col'),
            ('WKT,c\nPOINT(1,2\n', 'cannot be read as'),
        ],
    )
    def test_no_points(self, cube: Path, text: str, match: str) -> None:
        cube.with_name('l.csv').write_text(text)
        with pytest.raises(FileError, match=match):
            open_scene(cube, cube.with_name('l.csv'), attribute='c')

    ROI = (
        '; ENVI Output of ROIs (5.3) [Mon Jan 01 10:00:00 2024]\n'
        '; Number of ROIs: 2\n; File Dimension: 14 x 12\n;\n; ROI name: Trees\n'
        '; ROI rgb value: {0, 255, 0}\n; ROI npts: 2\n;\n; ROI name: Road\n'
        '; ROI rgb value: {255, 0, 0}\n; ROI npts: 1\n'
    )
    POINTS = '     1     3     4\n     2     5     6\n\n     1    10    11\n'

    @pytest.mark.parametrize('georeferenced', [True, False])
    @pytest.mark.parametrize('more', ['', '   Map X   Map Y   Lat   Lon', '   B1  B2'])
    def test_envi_regions(
        self, cube: Path, plain: Path, georeferenced: bool, more: str
    ) -> None:
        points = self.POINTS
        if more:
            points = points.replace('\n', '   1.5   2.5   3   4\n')
            points = points.replace('\n   1.5   2.5   3   4\n', '\n')
        path = cube.with_name('roi.txt')
        path.write_text(f'{self.ROI};   ID      X      Y{more}\n{points}')
        scene = open_scene(cube if georeferenced else plain, path)
        assert scene.class_names == ('Road', 'Trees')
        assert np.argwhere(scene.label_map == 2).tolist() == [[3, 2], [5, 4]]
        assert np.argwhere(scene.label_map == 1).tolist() == [[10, 9]]
        assert scene.palette.tolist() == [[255, 0, 0], [0, 255, 0]]

    XML = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<RegionsOfInterest version="1.1">'
        '<Region name="Trees" color="0,255,0"><GeometryDef><CoordSysStr>{0}'
        '</CoordSysStr><Polygon><Exterior><LinearRing><Coordinates>{1}</Coordinates>'
        '</LinearRing></Exterior>{2}</Polygon></GeometryDef></Region>'
        '<Region name="Road" color="255,0,0"><GeometryDef><CoordSysStr>{0}'
        '</CoordSysStr><Point><Coordinates>{3}</Coordinates></Point></GeometryDef>'
        '</Region></RegionsOfInterest>'
    )

    def places(self, *pixels: tuple[float, float], pixel: bool) -> str:
        if not pixel:
            pixels = tuple((LEFT + PIXEL * c, TOP - PIXEL * r) for c, r in pixels)
        return ' '.join(f'{x} {y}' for x, y in pixels)

    @pytest.mark.parametrize('system', ['none', 'EPSG:32632', 'wkt'])
    def test_envi_regions_in_xml(self, cube: Path, system: str) -> None:
        pixel = system == 'none'
        square = [(1, 1), (6, 1), (6, 5), (1, 5), (1, 1)]
        hole = [(2, 2), (4, 2), (4, 4), (2, 4), (2, 2)]
        inner = self.places(*hole, pixel=pixel)
        if system == 'wkt':
            crs = geopandas.GeoSeries(crs=32632).crs
            system = crs.to_wkt('WKT1_ESRI').replace('"', '&quot;')
        text = self.XML.format(
            system,
            self.places(*square, pixel=pixel),
            f'<Interior><LinearRing><Coordinates>{inner}</Coordinates></LinearRing>'
            '</Interior>',
            self.places((9.5, 8.5), (10.5, 8.5), pixel=pixel),
        )
        path = cube.with_name('roi.xml')
        path.write_text(text)
        scene = open_scene(cube, path)
        expected = np.zeros((ROWS, COLS), int)
        expected[1:5, 1:6] = 2
        expected[2:4, 2:4] = 0
        expected[8, 9:11] = 1
        assert scene.class_names == ('Road', 'Trees')
        assert np.array_equal(scene.label_map, expected)
        assert scene.palette.tolist() == [[255, 0, 0], [0, 255, 0]]

    @pytest.mark.parametrize(
        ('text', 'match'),
        [
            ('<RegionsOfInterest/>', 'found 0 geometries in 0 coordinate systems'),
            ('<Other/>', "found XML of 'Other', expected ENVI regions"),
            ('<RegionsOf', 'cannot be read as ENVI regions of interest'),
        ],
    )
    def test_damaged_xml(self, cube: Path, text: str, match: str) -> None:
        cube.with_name('roi.xml').write_text(text)
        with pytest.raises(FileError, match=match):
            open_scene(cube, cube.with_name('roi.xml'))

    @pytest.mark.parametrize(
        ('old', 'new', 'match'),
        [
            ('npts: 2', 'npts: 3', 'found 3 points .* expected 4'),
            ('14 x 12', '15 x 12', 'of an image of 12 x 15 pixels, expected 12 x 14'),
            (
                ';   ID      X      Y',
                ';',
                'expected one count a name and columns X and',
            ),
            ('     3     4', '     three 4', 'cannot be read as ENVI regions'),
        ],
    )
    def test_damaged_regions(self, cube: Path, old: str, new: str, match: str) -> None:
        text = f'{self.ROI};   ID      X      Y\n{self.POINTS}'
        cube.with_name('roi.txt').write_text(text.replace(old, new, 1))
        with pytest.raises(FileError, match=match):
            open_scene(cube, cube.with_name('roi.txt'))


class TestPlaces:
    def boxes(self, path: Path, shapes: list[Any], crs: Any = None) -> Path:
        frame = geopandas.GeoDataFrame({'cls': [1, 2]}, geometry=shapes, crs=crs)
        frame.to_file(path)
        return path

    def expected(self) -> np.ndarray:
        labels = np.zeros((ROWS, COLS), int)
        labels[0:4, 0:3], labels[5:9, 6:9] = 1, 2
        return labels

    PIXELS = (shapely.box(0, 0, 3, 4), shapely.box(6, 5, 9, 9))

    @pytest.mark.parametrize('kind', ['gpkg', 'shp', 'geojson', 'fgb'])
    def test_pixel_coordinates(
        self, plain: Path, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = self.boxes(plain.with_name(f'l.{kind}'), list(self.PIXELS))
        with caplog.at_level(logging.WARNING):
            scene = open_scene(plain, path)
        assert np.array_equal(scene.label_map, self.expected())
        assert 'are taken as columns and rows of pixels' in caplog.text

    def test_rows_that_count_downwards(self, plain: Path) -> None:
        shapes = [shapely.affinity.scale(s, 1, -1, origin=(0, 0)) for s in self.PIXELS]
        path = self.boxes(plain.with_name('l.gpkg'), shapes)
        assert np.array_equal(open_scene(plain, path).label_map, self.expected())

    def placed(self) -> list[Any]:
        matrix = [PIXEL, 0, 0, -PIXEL, LEFT, TOP]
        return [shapely.affinity.affine_transform(s, matrix) for s in self.PIXELS]

    def test_transform_without_crs(self, plain: Path) -> None:
        path = self.boxes(plain.with_name('l.gpkg'), self.placed())
        scene = open_scene(plain, path, transform=tuple(geotiff.TRANSFORM)[:6])
        assert np.array_equal(scene.label_map, self.expected())

    @pytest.mark.parametrize('crs', ['EPSG:32632', '+proj=utm +zone=32 +datum=WGS84'])
    def test_labels_crs(self, cube: Path, crs: str) -> None:
        path = self.boxes(cube.with_name('l.shp'), self.placed())
        with pytest.raises(FileError, match=r'give labels_crs=, such as .*EPSG:32632'):
            open_scene(cube, path)
        scene = open_scene(cube, path, labels_crs=crs)
        assert np.array_equal(scene.label_map, self.expected())
        with pytest.raises(ValueError, match="labels_crs='nonsense' is not known to"):
            open_scene(cube, path, labels_crs='nonsense')

    def test_labels_crs_of_a_raster(self, cube: Path) -> None:
        part = self.expected()[None, :10].astype('uint8')
        path = geotiff.write(cube.with_name('l.tif'), part, crs=None)
        with pytest.raises(FileError, match='labels_crs='):
            open_scene(cube, path)
        scene = open_scene(cube, path, labels_crs='EPSG:32632')
        assert np.array_equal(scene.label_map, self.expected())

    @pytest.mark.parametrize(
        'local',
        [
            'LOCAL_CS["Arbitrary",UNIT["metre",1]]',
            'LOCAL_CS["Lab",UNIT["millimetre",0.001],AXIS["x",EAST],AXIS["y",NORTH]]',
        ],
    )
    def test_local_crs(
        self, plain: Path, local: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = self.boxes(plain.with_name('l.gpkg'), list(self.PIXELS), local)
        with caplog.at_level(logging.WARNING):
            scene = open_scene(plain, path)
        assert np.array_equal(scene.label_map, self.expected())
        assert 'is local or unknown, so it counts as none' in caplog.text

    def test_earth_on_a_scene_without_place(self, plain: Path) -> None:
        path = self.boxes(plain.with_name('l.gpkg'), self.placed(), 'EPSG:32632')
        with pytest.raises(FileError, match='need a scene with CRS and transform'):
            open_scene(plain, path)

    @pytest.mark.parametrize('classes', [2, 255, 256, 257, 513])
    def test_many_classes_on_one_pixel(self, cube: Path, classes: int) -> None:
        shapes = [shapely.box(LEFT, TOP - 20, LEFT + 20, TOP)] * classes
        shapes.append(shapely.box(LEFT + 60, TOP - 90, LEFT + 90, TOP - 60))
        frame = geopandas.GeoDataFrame(
            {'c': range(1, classes + 2)}, geometry=shapes, crs=32632
        )
        frame.to_file(cube.with_name('l.gpkg'))
        scene = open_scene(cube, cube.with_name('l.gpkg'))
        assert not scene.label_map[:2, :2].any()
        assert scene.label_map.any()

    def test_coordinates_without_meaning(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        inside = geopandas.GeoSeries([self.placed()[1]], crs=32632).to_crs(4326)
        shapes = [shapely.Point(9, 95), inside[0]]  # beyond the pole
        self.boxes(cube.with_name('l.geojson'), shapes, 'EPSG:4326')
        with caplog.at_level(logging.WARNING):
            scene = open_scene(cube, cube.with_name('l.geojson'))
        assert scene.class_counts == (0, 12)
        assert '1 features without geometry or class' in caplog.text

    def test_two_vector_files(self, cube: Path) -> None:
        for name, number in (('a', 0), ('b', 1)):
            frame = geopandas.GeoDataFrame(
                {'crop': [name]}, geometry=[self.placed()[number]], crs=32632
            )
            frame.to_file(cube.with_name(f'{name}.gpkg'))
        scene = open_scene(cube, cube.with_name('[ab].gpkg'))
        assert scene.class_names == ('a', 'b')
        assert np.array_equal(scene.label_map, self.expected())
        geotiff.write(cube.with_name('c.tif'), TRUTH[None])
        with pytest.raises(ValueError, match='expected files of one kind'):
            open_scene(cube, [cube.with_name('a.gpkg'), cube.with_name('c.tif')])


class TestLayers:
    def test_the_first_of_several_is_said(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = cube.with_name('l.gpkg')
        points = geopandas.points_from_xy([LEFT + 15], [TOP - 15])
        for name, value in (('fields', 'a'), ('roads', 'b')):
            frame = geopandas.GeoDataFrame({'c': [value]}, geometry=points, crs=32632)
            frame.to_file(path, layer=name)
        assert open_scene(cube, path).class_names == ('a',)
        assert "found the layers ['fields', 'roads']; the first one" in caplog.text
        assert open_scene(cube, path, layer='roads').class_names == ('b',)
        with pytest.raises(
            FileError, match=r"no layer 'x', expected one of \['fields'"
        ):
            open_scene(cube, path, layer='x')
