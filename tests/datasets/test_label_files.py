# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of label files: pictures, legends, texts, tables, places without a CRS."""

import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.maps.raster import Legend, attribute_table

from .label_scene import COLOURS, COLS, LEFT, NAMES, ROWS, TOP, TRUTH

pytestmark = pytest.mark.filterwarnings(
    # These files have no place on Earth.
    'ignore::rasterio.errors.NotGeoreferencedWarning',
    "ignore:'crs' was not provided:UserWarning",
)


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

    @pytest.mark.parametrize('share', [0.5, 0.99, 1.0])
    def test_a_png_that_is_cut_off(self, cube: Path, share: float) -> None:
        path = cube.with_name('labels.png')
        size = {'width': COLS, 'height': ROWS, 'count': 1, 'dtype': 'uint8'}
        with rasterio.open(path, 'w', driver='PNG', **size) as file:
            file.write(TRUTH[None].astype('uint8'))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        if share == 1:
            assert np.array_equal(open_scene(cube, path).label_map, TRUTH)
            return
        with pytest.raises(FileError, match='of a PNG without its end'):
            open_scene(cube, path)

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

    def test_other_compressions_with_loss(self, cube: Path) -> None:
        path = cube.with_name('l.tif')
        for kind, count in (('lerc', 1), ('webp', 3)):
            bands = np.stack([TRUTH] * count)
            geotiff.write(path, bands, compress=kind, max_z_error=1, webp_level=50)
            with pytest.raises(FileError, match=r'compressed with loss \((LERC|WEBP)'):
                open_scene(cube, path)
        geotiff.write(path, TRUTH[None], compress='lerc')
        assert np.array_equal(open_scene(cube, path).label_map, TRUTH)

    def test_overlapping_classes(self, cube: Path) -> None:
        hot = np.zeros((4, ROWS, COLS), 'uint8')
        hot[0] = hot[1, 0] = 1
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

    @pytest.mark.parametrize(
        ('first', 'questioned'),
        [('grass', True), ('No data', False), ('Unclassified', False), ('', False)],
    )
    def test_a_name_of_what_means_no_label(
        self, cube: Path, first: str, questioned: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = cube.with_name('l.hdr')
        names = ', '.join((first, *NAMES))
        path.write_text(
            f'ENVI\nsamples = {COLS}\nlines = {ROWS}\nbands = 1\ndata type = 1\n'
            f'interleave = bsq\nclasses = 4\nclass names = {{{names}}}\n'
        )
        path.with_suffix('.img').write_bytes(TRUTH.tobytes())
        assert open_scene(cube, path).class_names == NAMES
        pixels = int((TRUTH == 0).sum())
        text = f"it calls value 0 'grass', and {pixels} pixels have it, but it means"
        assert (text in caplog.text) is questioned
        assert ('it calls value' in caplog.text) is questioned
        named = open_scene(cube, path, unlabelled=[]).class_names
        assert not questioned or named == ('grass', *NAMES)

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

    def test_attribute_table_with_an_empty_value(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('map.tif'), TRUTH[None], nodata=0)
        legend = Legend.from_classes(NAMES, (1, 2, 3), COLOURS[1:])
        table = attribute_table(legend).decode()
        end = table.index('</GDALRasterAttributeTable>')
        columns = table.count('<FieldDefn')
        empty = '<Row index="9">' + '<F></F>' * columns + '</Row>'
        text = table[:end] + empty + table[end:]
        path.with_name('map.tif.aux.xml').write_text(text)
        self.check(cube, path)

    def test_categories_of_a_virtual_raster(self, cube: Path) -> None:
        geotiff.write(cube.with_name('l.tif'), TRUTH[None])
        inner = ''.join(f'<Category>{name}</Category>' for name in ('', *NAMES))
        path = cube.with_name('l.vrt')
        path.write_text(
            f'<VRTDataset rasterXSize="{COLS}" rasterYSize="{ROWS}">'
            '<VRTRasterBand dataType="Byte" band="1">'
            f'<CategoryNames>{inner}</CategoryNames><SimpleSource><SourceFilename '
            'relativeToVRT="1">l.tif</SourceFilename></SimpleSource></VRTRasterBand>'
            '</VRTDataset>'
        )
        self.check(cube, path, colours=False)

    def test_attribute_table_that_tells_no_use_of_columns(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None])
        columns = (('OBJECTID', 0), ('Value', 0), ('Class_Name', 2), ('Remark', 2))
        fields = ''.join(
            f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type>'
            '<Usage>0</Usage></FieldDefn>'
            for i, (name, kind) in enumerate(columns)
        )
        rows = ''.join(
            f'<Row index="{i}"><F>{i}</F><F>{i + 1}</F><F>{name}</F><F>r</F></Row>'
            for i, name in enumerate(NAMES)
        )
        path.with_name('l.tif.aux.xml').write_text(
            '<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable>'
            f'{fields}{rows}</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>'
        )
        self.check(cube, path, colours=False)

    def test_attribute_table_of_arcgis(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None])
        table = pd.DataFrame({'VALUE': [1, 2, 3, 9], 'LANDCOVER': [*NAMES, None]})
        for place, colour in enumerate(('RED', 'GREEN', 'BLUE')):
            table[colour] = [*COLOURS[1:, place].tolist(), 0]
        pyogrio.write_dataframe(table, cube.with_name('l.dbf'), driver='ESRI Shapefile')
        cube.with_name('l.dbf').rename(cube.with_name('l.tif.vat.dbf'))
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

    def envi_names(self, cube: Path, names: str, classes: int) -> tuple[str, ...]:
        path = cube.with_name('l.hdr')
        path.write_text(
            f'ENVI\nsamples = {COLS}\nlines = {ROWS}\nbands = 1\ndata type = 1\n'
            f'interleave = bsq\nclasses = {classes}\nclass names = {{{names}}}\n'
        )
        path.with_suffix('.img').write_bytes(TRUTH.tobytes())
        return open_scene(cube, path).class_names

    def test_envi_names_keep_their_places(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = self.envi_names(cube, '-, "beech, oak", , fir', 4)
        assert found == ('beech, oak', 'class 2', 'fir')
        assert self.envi_names(cube, '-, beech, oak, elm, fir', 4)[0] == 'class 1'
        assert '5 class names for 4 classes' in caplog.text

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
        np.save(path, np.array(['nan', '2', '10', '1.0'])[TRUTH])
        assert open_scene(plain, path).class_values == (1, 2, 10)

    def test_numbers_that_are_written_in_two_ways(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = plain.with_name('gt.npy')
        np.save(path, np.array(['', '01', '1', '2'])[TRUTH])
        assert open_scene(plain, path).class_values == (1, 2)
        assert "'01' and '1', which all count as the number 1" in caplog.text

    def test_numbers_of_tables_keep_how_they_are_written(
        self, plain: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = plain.with_name('l.csv')
        path.write_text('col,row,class\n0,0,01\n1,0,1\n2,0,2\n3,0,\n')
        assert open_scene(plain, path).class_values == (1, 2)
        assert "'01' and '1', which all count as the number 1" in caplog.text
        path.write_text('col;row;class\n0;0;4,0\n1;0;5,0\n')
        assert open_scene(plain, path).class_values == (4, 5)
        path.write_text('col;row;class\n0;0;1,000\n1;0;1\n')
        assert open_scene(plain, path).class_names == ('1', '1,000')  # not one class
        path.write_text('col,row,class\n0,0,True\n1,0,False\n')
        assert open_scene(plain, path).class_names == ('False', 'True')

    def test_nan_as_a_text_is_no_class(self, cube: Path) -> None:
        points = geopandas.points_from_xy([LEFT + 15, LEFT + 35], [TOP - 15] * 2)
        for values in (['nan', 'a'], ['NaN', '3']):
            frame = geopandas.GeoDataFrame({'c': values}, geometry=points, crs=32632)
            frame.to_file(cube.with_name('l.gpkg'))
            assert open_scene(cube, cube.with_name('l.gpkg')).num_classes == 1

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

    @pytest.mark.parametrize('value', [2**60, 2**53, 1e17, -(2.0**60)])
    def test_numbers_that_doubles_do_not_hold(self, plain: Path, value: float) -> None:
        labels = np.zeros((ROWS, COLS), 'f8')
        labels[0, 0] = value
        np.save(plain.with_name('gt.npy'), labels)
        with pytest.raises(ValueError, match='expected class numbers below'):
            open_scene(plain, plain.with_name('gt.npy'))


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
