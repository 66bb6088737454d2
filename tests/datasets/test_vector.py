# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Polygons and points."""

import shutil
import warnings
from pathlib import Path
from typing import Any, ClassVar

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from rasterio.transform import from_origin

from tests.data.arrays import data as arrays
from tests.data.envi import data as envi
from tests.data.geotiff.data import write
from torchgeo_ekgnet.datasets import open_scene


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

    def test_tables_beside_the_only_layer(self, cube: Path) -> None:
        path = cube.with_name('f.gpkg')
        boxes = [self.box(0, 0, 6, 6), self.box(8, 0, 10, 6)]
        self.frame(boxes, crop=['a', 'b']).to_file(path)
        styles = pd.DataFrame({'style': ['x']})
        pyogrio.write_dataframe(styles, path, layer='layer_styles')
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            scene = open_scene(cube, path, attribute='crop')
        assert scene.class_names == ('a', 'b')

    @pytest.mark.parametrize('unlabelled', [(), (9,), (255,)])
    def test_numbers_from_zero(
        self, cube: Path, unlabelled: tuple[int, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        boxes = [self.box(0, 0, 6, 6), self.box(8, 0, 10, 6), self.box(12, 0, 20, 4)]
        self.frame(boxes, code=[0, 4, 9]).to_file(cube.with_name('f.gpkg'))
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
        inner = '<category value="{}" label="{}"/>'
        entries = [(5, 'rye'), (7, '7'), (9, 'rye'), ('', 'others')]
        path.with_suffix('.qml').write_text(
            '<qgis><renderer-v2 attr="code" type="categorizedSymbol"><categories>'
            + ''.join(inner.format(*entry) for entry in entries)
            + '</categories></renderer-v2></qgis>'
        )
        styled = open_scene(cube, path, attribute='code')
        assert styled.class_names == ('rye (5)', 'class 7', 'rye (9)')
        assert open_scene(cube, path, attribute='crop').class_names[0] == 'maize'

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

    def test_a_class_that_gives_no_pixel_is_named(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        tiny = shapely.box(envi.LEFT + 1, envi.TOP - 5, envi.LEFT + 4, envi.TOP - 2)
        frame = self.frame([tiny, self.box(4, 0, 10, 6)], kind=['a', 'b'])
        frame.to_file(cube.with_name('f.gpkg'))
        assert open_scene(cube, cube.with_name('f.gpkg')).class_counts == (0, 36)
        assert "f.gpkg: the features of 'a' give no pixel" in caplog.text

    @pytest.mark.parametrize('names', [['a', 'a'], {1: 'a', 2: 'a'}], ids=str)
    def test_names_that_are_given_twice(self, cube: Path, names: Any) -> None:
        boxes = [self.box(0, 0, 3, 3), self.box(4, 0, 10, 6)]
        self.frame(boxes, kind=['a', 'b']).to_file(cube.with_name('f.gpkg'))
        with pytest.raises(ValueError, match="class name 'a' 2 times"):
            open_scene(cube, cube.with_name('f.gpkg'), class_names=names)

    @pytest.mark.parametrize(
        ('options', 'match'),
        [
            ({'attribute': 'speed'}, r"no attribute 'speed'; it has \['crop', 'code'"),
            ({}, 'has 3 attributes .* name the one with the class'),
            (
                {'attribute': 'crop', 'class_names': ['maize', 'rape']},
                r"holds \['wheat'\], which are not among the class names",
            ),
            (
                {'attribute': 'crop', 'layer': 'nope'},
                "found no layer 'nope', expected one of",
            ),
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

    def test_negative_numbers_that_mean_no_label(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        boxes = [self.box(0, 0, 3, 3), self.box(3, 3, 6, 6), self.box(6, 6, 8, 8)]
        self.frame(boxes, code=[-1, 2, 0]).to_file(cube.with_name('f.gpkg'))
        with pytest.raises(ValueError, match='unlabelled= lists values that'):
            open_scene(cube, cube.with_name('f.gpkg'))
        scene = open_scene(cube, cube.with_name('f.gpkg'), unlabelled=[-1])
        assert scene.class_values == (0, 2)
        assert scene.class_counts == (4, 9)
        assert '1 features have a number that means "no label"' in caplog.text
        assert 'without geometry' not in caplog.text

    def test_nothing_to_label_with(self, cube: Path) -> None:
        path = cube.with_name('f.geojson')
        path.write_text('{"type": "FeatureCollection", "features": []}')
        with pytest.raises(ValueError, match='found no features, expected polygons'):
            open_scene(cube, path)
        self.frame([None, shapely.Polygon()], code=[1, 2]).to_file(path)
        with pytest.raises(ValueError, match='no geometry with a class among its 2'):
            open_scene(cube, path)
        self.frame([self.box(0, 0, 3, 3)], code=[0]).to_file(path)
        with pytest.raises(ValueError, match='no geometry with a class among its 1'):
            open_scene(cube, path)

    @pytest.mark.parametrize('encoding', ['UTF-8', 'ISO-8859-1', 'CP1252'])
    def test_letters_of_a_shapefile_that_names_no_encoding(
        self, cube: Path, encoding: str
    ) -> None:
        names = ['Bl\u00e9', f'For\u00eat {"x" * 140}']
        boxes = [self.box(0, 0, 3, 3), self.box(3, 3, 6, 6)]
        path = cube.with_name('f.shp')
        self.frame(boxes, crop=names).to_file(path, encoding=encoding)
        path.with_suffix('.cpg').unlink(missing_ok=True)
        assert list(open_scene(cube, path).class_names) == names

    def test_a_shapefile_that_is_cut_off(self, cube: Path) -> None:
        path = cube.with_name('f.shp')
        boxes = [self.box(0, 0, 3, 3), self.box(3, 3, 6, 6)]
        self.frame(boxes, code=[1, 2]).to_file(path)
        raw = path.read_bytes()
        path.write_bytes(raw[:-40])
        match = f'found {len(raw) - 40} of the {len(raw)} bytes that it says'
        with pytest.raises(ValueError, match=match):
            open_scene(cube, path)
        # GDAL reads the first feature only, where the table has one row.
        path.write_bytes(raw)
        self.frame(boxes[:1], code=[7]).to_file(cube.with_name('g.shp'))
        cube.with_name('g.dbf').replace(path.with_suffix('.dbf'))
        with pytest.raises(ValueError, match=r'f\.dbf: found 1 rows for the 2 geom'):
            open_scene(cube, path)

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

    @pytest.mark.parametrize('file', ['f.gpkg', 'f.geojson', 'f.shp'])
    def test_true_and_false_are_two_classes(self, cube: Path, file: str) -> None:
        path = envi.polygons(cube.with_name('crops.gpkg'), 'OGC:CRS84')
        frame = geopandas.read_file(path)
        frame['arable'] = frame.crop != 'rape'
        frame[['arable', 'geometry']].to_file(cube.with_name(file))
        scene = open_scene(cube, cube.with_name(file), attribute='arable')
        assert scene.class_names == ('False', 'True')
        whole = open_scene(cube, path, attribute='crop')
        assert np.array_equal(scene.label_map == 1, whole.label_map == 2)
        assert np.array_equal(scene.label_map > 0, whole.label_map > 0)


class TestAntimeridian:
    """However the meridian of 180 degrees is crossed, the same pixels are labelled."""

    INSIDE = shapely.box(179.95, -0.05, 180.05, 0.05)
    FORMS: ClassVar[dict[str, Any]] = {
        'beyond 180': INSIDE,
        'below -180': shapely.box(-180.05, -0.05, -179.95, 0.05),
        'jump': shapely.Polygon(
            [(179.95, -0.05), (-179.95, -0.05), (-179.95, 0.05), (179.95, 0.05)]
        ),
        'parts': shapely.MultiPolygon(
            [
                shapely.box(179.95, -0.05, 180, 0.05),
                shapely.box(-180, -0.05, -179.95, 0.05),
            ]
        ),
    }

    def scene(self, folder: Path, left: float, shape: Any) -> Any:
        cube, labels = folder / 'cube.tif', folder / 'labels.gpkg'
        values = np.random.default_rng(0).random((3, 20, 20), dtype=np.float32)
        write(cube, values, from_origin(left, 0.1, 0.01, 0.01), 'EPSG:4326')
        frame = geopandas.GeoDataFrame({'c': ['a']}, geometry=[shape], crs='EPSG:4326')
        frame.to_file(labels)
        return open_scene(cube, labels)

    @pytest.mark.parametrize('form', FORMS)
    @pytest.mark.parametrize(
        ('left', 'cols'),
        [(179.9, slice(5, 15)), (-180.1, slice(5, 15)), (179.8, slice(15, 20))],
    )
    def test_crossed(self, tmp_path: Path, form: str, left: float, cols: slice) -> None:
        expected = np.zeros((20, 20), dtype=np.int64)
        expected[5:15, cols] = 1
        scene = self.scene(tmp_path, left, self.FORMS[form])
        assert np.array_equal(scene.label_map, expected)

    def test_far_away(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='they lie outside the scene'):
            self.scene(tmp_path, 100.0, self.FORMS['jump'])

    def test_whole_world_stays(self, tmp_path: Path) -> None:
        scene = self.scene(tmp_path, 100.0, shapely.box(-180, -90, 180, 90))
        assert (scene.label_map == 1).all()
