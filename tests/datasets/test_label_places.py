# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Labels as tables, regions and polygons, and where they lie."""

from pathlib import Path
from typing import Any

import geopandas
import h5py
import numpy as np
import pytest
import shapely
from rasterio.transform import from_origin

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene

from .label_scene import COLS, LEFT, PIXEL, ROWS, TOP, TRUTH


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
            ('the_geom', 'EWKT'),
            ('geom', 'EWKB'),
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
        if system in ('degrees', 'EWKT', 'EWKB'):
            points = geopandas.GeoSeries(points, crs=32632).to_crs(4326).tolist()
        lines = [f'cover{separator}{head}']
        for name, point, (row, col) in zip(('a', 'b'), points, places, strict=True):
            written = [f'{point.x:.8f}', f'{point.y:.8f}']
            if system == 'pixels':
                written = [str(col), str(row)]
            elif system == 'wkt':
                written = [f'"{point.wkt}"']
            elif system == 'EWKT':
                written = [f'"SRID=4326;{point.wkt}"']
            elif system == 'EWKB':
                known = shapely.set_srid(point, 4326)
                written = [shapely.to_wkb(known, hex=True, include_srid=True)]
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
            ('easting|northing|class', False),
            ('coords.x1,coords.x2,class', False),
            ('UTM East (m),UTM North (m),class', False),
            ('x,y,class,x2', False),
        ],
    )
    def test_tables_of_other_programs(self, cube: Path, head: str, comma: bool) -> None:
        separator = next(c for c in ';\t,|' if c in head)
        lines = [head]
        for x, name in ((LEFT + 15.25, 'R\u00f6hricht'), (LEFT + 35.5, 'Wald')):
            place = [f'{x}', f'{TOP - 15.5}']
            if comma:
                place = [text.replace('.', ',') for text in place]
            lines.append(
                separator.join([*place, name, '1'][: head.count(separator) + 1])
            )
        path = cube.with_name('points.csv')
        path.write_bytes('\r\n'.join(lines).encode('latin-1'))
        scene = open_scene(cube, path, attribute=head.split(separator)[2])
        assert scene.class_names == ('R\u00f6hricht', 'Wald')
        assert scene.label_map[1, [1, 3]].tolist() == [1, 2]

    def test_pixels_on_a_scene_without_georeference(self, plain: Path) -> None:
        path = plain.with_name('points.csv')
        path.write_text('row,col,class\n3,4,2\n0,13,5\n')
        scene = open_scene(plain, path)
        assert scene.label_map[3, 4] == 1 and scene.label_map[0, 13] == 2

    def test_geometries_of_several_systems(self, cube: Path) -> None:
        path = cube.with_name('points.csv')
        path.write_text('geom,class\nSRID=1;POINT(1 2),a\nSRID=2;POINT(1 2),b\n')
        with pytest.raises(FileError, match=r"\(SRID\) \[1, 2\] in column 'geom'"):
            open_scene(cube, path)

    def test_parts_of_pixels(self, plain: Path) -> None:
        """Some programs call the centre of pixel 3 3.0, and others 3.5."""
        path = plain.with_name('points.csv')
        path.write_text('row,col,class\n3.0,4.0,2\n0.0,12.5,5\n')
        with pytest.raises(FileError, match=r"found 12\.5 in column 'col', expected"):
            open_scene(plain, path)

    @pytest.mark.parametrize(
        ('points', 'told'),
        [('1,1 12,14', True), ('0,1 12,14', False), ('1,1 11,13', False)],
    )
    def test_numbers_from_one_are_questioned(
        self, plain: Path, caplog: pytest.LogCaptureFixture, points: str, told: bool
    ) -> None:
        path = plain.with_name('points.csv')
        rows = '\n'.join(f'{point},grass' for point in points.split())
        path.write_text(f'row,col,class\n{rows}\n')
        open_scene(plain, path)
        assert ('count from 1' in caplog.text) == told

    @pytest.mark.parametrize(
        ('head', 'end', 'coding'),
        [('', '', 'utf-16'), ('', ',', 'utf-8'), ('"', '"', 'utf-8-sig')],
        ids=['utf-16', 'comma at the end', 'quoted'],
    )
    def test_dialects(self, plain: Path, head: str, end: str, coding: str) -> None:
        path = plain.with_name('points.csv')
        text = f'col,row,class\n4,3,{head}2{end}\n13,0,{head}5{end}\n'
        path.write_text(text, encoding=coding)
        scene = open_scene(plain, path)
        assert scene.label_map[3, 4] == 1 and scene.label_map[0, 13] == 2

    @pytest.mark.parametrize(
        'text',
        [
            'col, row, class\n4, 3, "oak, old"\n13, 0, pine\n',
            'col,row,class\r4,3,"oak, old"\r13,0,pine\r',
            '\n\ncol,row,class\n4,3,"oak, old"\n13,0,pine\n',
            'sep=;\r\ncol;row;class\r\n4;3;oak, old\r\n13;0;pine\r\n',
            '# GPS, 2026\n#\ncol,row,class\n4,3,"oak, old"\n13,0,pine\n',
            '# col,row,class\n4,3,"oak, old"\n13,0,pine\n',
        ],
        ids=['spaces', 'carriage returns', 'empty lines', 'Excel', 'remarks', 'NumPy'],
    )
    def test_tables_that_are_typed(self, plain: Path, text: str) -> None:
        path = plain.with_name('points.csv')
        path.write_bytes(text.encode())
        scene = open_scene(plain, path, attribute='class')
        assert scene.class_names == ('oak, old', 'pine')
        assert scene.label_map[3, 4] == 1 and scene.label_map[0, 13] == 2

    @pytest.mark.parametrize('exchanged', [True, False])
    def test_longitude_and_latitude_exchanged(
        self, cube: Path, exchanged: bool
    ) -> None:
        place = geopandas.points_from_xy([LEFT + 15], [TOP - 15], crs=32632)[0]
        point = geopandas.GeoSeries([place], crs=32632).to_crs('OGC:CRS84')[0]
        lon, lat = (point.y, point.x) if exchanged else (point.x + 9, point.y)
        path = cube.with_name('points.csv')
        path.write_text(f'lon,lat,class\n{lon},{lat},oak\n')
        with pytest.raises(FileError, match='they lie outside the scene') as caught:
            open_scene(cube, path)
        assert ('longitude and latitude, exchanged' in str(caught.value)) is exchanged

    def test_texts_as_windows_writes_them(self, plain: Path) -> None:
        path = plain.with_name('points.csv')
        names = 'for\u00eat \u2013 c\u0153ur', 'pr\u00e9'
        path.write_bytes(
            f'col,row,class\n4,3,{names[0]}\n13,0,{names[1]}\n'.encode('cp1252')
        )
        assert open_scene(plain, path).class_names == names

    @pytest.mark.parametrize(
        ('text', 'match'),
        [
            ('x,y,c\n1,2,3,4\n', 'rows with more values than the first line has names'),
            ('a,b\n1,2\n', r"found columns \['a', 'b'\], expected places in x and y"),
            ('x,y,c\none,2,3\n', "found 'one' in column 'x', expected coordinates"),
            ('x;y;c\n1,2,3;4;5\n', "found '1,2,3' in column 'x', expected coord"),
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

    def test_a_region_in_xml_without_geometry(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        square = [(1, 1), (6, 1), (6, 5), (1, 5), (1, 1)]
        text = self.XML.format(
            'none',
            self.places(*square, pixel=True),
            '',
            self.places((1, 1), pixel=True),
        )
        text = text.replace('Point>', 'Threshold>')
        cube.with_name('roi.xml').write_text(text)
        scene = open_scene(cube, cube.with_name('roi.xml'))
        assert scene.class_names == ('Trees',)
        assert (
            "the regions of interest 'Road' have no polygons, lines or" in caplog.text
        )

    def test_regions_named_as_binary_ones(self, cube: Path) -> None:
        path = cube.with_name('areas.roi')
        path.write_text(f'{self.ROI};   ID      X      Y\n{self.POINTS}')
        assert open_scene(cube, path).class_names == ('Road', 'Trees')
        path.write_bytes(bytes(range(256)))
        with pytest.raises(FileError, match=r'areas.roi: found a binary file of ENVI'):
            open_scene(cube, path)

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
        place: Any = geotiff.TRANSFORM  # as rasterio gives it
        scene = open_scene(plain, path, transform=place)
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

    def test_metres_in_a_file_of_degrees(self, cube: Path) -> None:
        """GeoJSON that names no CRS is in degrees, whatever it holds."""
        path = self.boxes(cube.with_name('fields.geojson'), self.placed())
        with pytest.raises(FileError, match=r'none of its CRS WGS 84, .* labels_crs='):
            open_scene(cube, path)
        scene = open_scene(cube, path, labels_crs='EPSG:32632')
        assert np.array_equal(scene.label_map, self.expected())

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


class TestCoordinatesOfNetCDF:
    """Files of xarray often begin at the southern edge, and name no CRS that is read."""

    @staticmethod
    def write(path: Path, down: bool, spacing: Any = 1.0, units: str = 'm') -> Path:
        """Write a cube whose first band is the truth, and the centres of its pixels."""
        order = slice(None) if down else slice(None, None, -1)
        ys = (TOP - PIXEL * (np.arange(ROWS) + 0.5) * spacing)[order]
        axes = {'y': ys, 'x': LEFT + PIXEL * (np.arange(COLS) + 0.5)}
        axes['band'] = np.arange(2) + 700.0
        with h5py.File(path, 'w') as file:
            file['cube'] = np.stack([TRUTH[order], TRUTH[order] + 1], axis=2)
            for place, (name, values) in enumerate(axes.items()):
                file[name] = values
                file[name].attrs['units'] = units
                file[name].make_scale(name)
                file['cube'].dims[place].attach_scale(file[name])
        return path

    @pytest.mark.parametrize('down', [True, False])
    def test_labels_lie_where_they_are(
        self, tmp_path: Path, down: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        grid = from_origin(LEFT, TOP, PIXEL, PIXEL)
        labels = geotiff.write(tmp_path / 'l.tif', TRUTH[None].astype('uint8'), grid)
        cube = self.write(tmp_path / 'c.nc', down)
        scene = open_scene(cube, labels, crs=geotiff.CRS)
        order = slice(None) if down else slice(None, None, -1)
        assert np.array_equal(scene.label_map, TRUTH[order])
        caplog.clear()
        taken = open_scene(cube, labels)
        assert np.array_equal(taken.label_map, TRUTH)
        assert ('but another place' in caplog.text) != down

    @pytest.mark.parametrize(
        ('spacing', 'units'), [(1.0, 'km'), (np.arange(ROWS) ** 0.1, 'm')]
    )
    def test_what_is_no_place(self, tmp_path: Path, spacing: Any, units: str) -> None:
        cube = self.write(tmp_path / 'c.nc', True, spacing, units)
        assert open_scene(cube).transform is None

    def test_numbers_of_rows_and_columns(self, tmp_path: Path) -> None:
        cube = self.write(tmp_path / 'c.nc', True)
        with h5py.File(cube, 'r+') as file:
            file['x'][:] = np.arange(COLS)
            file['y'][:] = np.arange(ROWS)
        assert open_scene(cube).transform is None
