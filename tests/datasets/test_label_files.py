# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of label files: pictures, legends, layers."""

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


class TestPictures:
    def test_a_white_ground_is_questioned(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        colours = np.where(COLOURS == 0, 255, COLOURS)
        path = cube.with_name('l.tif')
        geotiff.write(path, colours[TRUTH].transpose(2, 0, 1), photometric='RGB')
        assert '#ffffff' in open_scene(cube, path).class_names
        ground = int((TRUTH == 0).sum())
        told = f'{ground} pixels are white, which is taken as a class, and none is'
        assert told in caplog.text and 'give unlabelled=[16777215]' in caplog.text
        caplog.clear()
        assert open_scene(cube, path, unlabelled=[16777215]).num_classes == 3
        assert not caplog.text

    @pytest.mark.parametrize('kind', ['png', 'tif', 'bmp', 'alpha.png'])
    def test_colours_are_classes(
        self, cube: Path, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
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
        assert 'white' not in caplog.text
        order = [
            scene.class_names.index(f'#{r:02x}{g:02x}{b:02x}')
            for r, g, b in COLOURS[1:]
        ]
        assert np.array_equal(scene.palette[order], COLOURS[1:])
        number = np.array([0, *(place + 1 for place in order)])
        assert np.array_equal(scene.label_map, number[TRUTH])

    def test_many_colours_are_questioned(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        mixed = np.arange(3 * ROWS * COLS).reshape(3, ROWS, COLS) % 40
        geotiff.write(cube.with_name('l.tif'), mixed.astype('uint8'))
        open_scene(cube, cube.with_name('l.tif'))
        assert 'each of its 40 colours is taken as a class' in caplog.text

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
    @pytest.mark.parametrize('unseen', [0, 3])
    def test_one_band_a_class(
        self, cube: Path, full: int, kind: str, unseen: int
    ) -> None:
        hot = np.eye(4, dtype=kind)[TRUTH].transpose(2, 0, 1)[1:] * full
        hot = np.insert(hot.astype(kind), unseen, 0, axis=0)
        # The fourth band of 0 and 255 is called an alpha band.
        path = geotiff.write(cube.with_name('l.tif'), hot)
        with rasterio.open(path, 'r+') as file:
            for band, name in enumerate(np.insert(NAMES, unseen, 'unseen'), start=1):
                file.set_band_description(band, str(name))
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
        path.write_text(path.read_text().replace(NAMES[-1], 'Unclassified'))
        open_scene(cube, path)
        assert ('if it is a class, give unlabelled=[3]' in caplog.text) is questioned

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
        path.with_name('map.tif.aux.xml').write_bytes(
            attribute_table(legend, (4, 5, 6))
        )
        self.check(cube, path)

    def test_attribute_table_with_an_empty_value(self, cube: Path) -> None:
        path = geotiff.write(cube.with_name('map.tif'), TRUTH[None], nodata=0)
        legend = Legend.from_classes(NAMES, (1, 2, 3), COLOURS[1:])
        table = attribute_table(legend, (4, 5, 6)).decode()
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

    @pytest.mark.parametrize('kind', ['paletted', 'exact', 'clr'])
    def test_styles(self, cube: Path, kind: str) -> None:
        """QGIS keeps names and colours in a style beside the raster."""
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None].astype(np.int16))
        entries = list(zip((1, 2, 3), COLOURS[1:].tolist(), NAMES, strict=True))
        if kind == 'clr':
            rows = [f'{n} {r} {g} {b} 255 {name}' for n, (r, g, b), name in entries]
            path.with_suffix('.clr').write_text('# QGIS\r\n' + '\r\n'.join(rows))
        else:
            tag, shader = {
                'paletted': ('paletteEntry', 'colorPalette'),
                'exact': ('item', 'colorrampshader colorRampType="EXACT"'),
            }[kind]
            inner = ''.join(
                f'<{tag} value="{n}" color="#{r:02x}{g:02X}{b:02x}" label="{name}"/>'
                for n, (r, g, b), name in entries
            )
            path.with_suffix('.qml').write_text(
                "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n<qgis>"
                f'<{shader}>{inner}<{tag} value="nan" color="#0" label=""/>'
                f'</{shader.split()[0]}></qgis>'
            )
        self.check(cube, path)

    def test_style_without_names(self, cube: Path) -> None:
        """The file itself comes first; a class without a name is called by its value."""
        path = geotiff.write(cube.with_name('l.tif'), TRUTH[None])
        entry = '<paletteEntry value="{0}" color="#00000{0}" label="{0}"/>'
        style = path.with_suffix('.qml')
        style.write_text(f'<qgis>{"".join(map(entry.format, (1, 2, 3)))}</qgis>')
        scene = open_scene(cube, path)
        assert scene.class_names == ('class 1', 'class 2', 'class 3')
        assert scene.palette.tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3]]
        style.write_text('<qgis>')
        with pytest.raises(
            FileError, match=r'l\.qml .* cannot be read as a style of QG'
        ):
            open_scene(cube, path)

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
        assert 'labels 3 without a name, and names for 0, 1, 2' in caplog.text

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
