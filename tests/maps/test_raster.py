# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import errno
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.windows import Window

from torchgeo_ekgnet.maps.raster import (
    Legend,
    RasterSpec,
    attribute_table,
    publish,
    stage_raster,
)

NAMES = ('Corn <no till>', 'Röte & Wiese', 'Trees')


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def _legend(values: tuple[int, ...] = (1, 10, 11)) -> Legend:
    palette = np.array([[255, 0, 0], [0, 128, 0], [1, 2, 3]], dtype=np.uint8)
    return Legend.from_classes(NAMES, values, palette)


def _reader(values: NDArray[Any]) -> Any:
    def read(window: Window) -> NDArray[Any]:
        rows, cols = window.toslices()
        return values[:, rows, cols]

    return read


def _write(folder: Path, legend: Legend, shape: tuple[int, int] = (300, 520)) -> Any:
    labels = np.random.default_rng(0).integers(0, 4, shape)
    values = legend.lookup()[labels][None]
    spec = RasterSpec(
        shape,
        legend.dtype,
        ('class',),
        0,
        rasterio.crs.CRS.from_epsg(32616),
        Affine(20, 0, 500000, 0, -20, 4400000),
        legend.colormap,
        {'SCENE': 'x'},
    )
    return stage_raster(folder, 'map.tif', spec, _reader(values)), values


@pytest.mark.parametrize(
    ('values', 'dtype'), [((1, 10, 11), 'uint8'), ((1, 2, 300), 'uint16')]
)
def test_class_raster(tmp_path: Path, values: tuple[int, ...], dtype: str) -> None:
    legend = _legend(values)
    path, written = _write(tmp_path, legend)
    with rasterio.open(path) as file:
        assert file.dtypes == (dtype,)
        assert (file.read() == written).all()
        assert file.nodata == 0
        assert file.crs.to_epsg() == 32616
        assert file.transform == Affine(20, 0, 500000, 0, -20, 4400000)
        colours = file.colormap(1)
        for value, colour in zip(values, legend.palette.tolist(), strict=True):
            assert colours[value] == (*colour, 255)
        assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
        assert file.block_shapes == [(256, 256)]
        assert file.overviews(1)
        small = file.read(1, out_shape=(75, 130))
        assert set(np.unique(small)) <= {0, *values}
        assert file.descriptions == ('class',)
        assert file.tags()['SCENE'] == 'x'
    assert [item.name for item in tmp_path.iterdir()] == ['map.tif']


def test_measures_without_georeference(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((2, 40, 30)).astype(np.float32)
    values[:, :3] = np.nan
    spec = RasterSpec((40, 30), 'float32', ('top probability', 'entropy'), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        path = stage_raster(tmp_path, 'confidence.tif', spec, _reader(values))
    with rasterio.open(path) as file:
        assert np.isnan(file.nodata)
        assert np.array_equal(file.read(), values, equal_nan=True)


def test_same_bytes_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / 'a', tmp_path / 'b'
    first.mkdir()
    second.mkdir()
    one, _ = _write(first, _legend())
    two, _ = _write(second, _legend())
    assert one.read_bytes() == two.read_bytes()


def test_attribute_table_names_the_classes(tmp_path: Path) -> None:
    root = ElementTree.fromstring(attribute_table(_legend(), (5, 0, 7)))
    categories = [item.text or '' for item in root.iter('Category')]
    assert len(categories) == 12
    assert (categories[1], categories[10], categories[11]) == NAMES
    rows = [[item.text for item in row] for row in root.iter('Row')]
    assert rows[0] == ['1', '5', NAMES[0], '255', '0', '0']
    assert rows[1][1] == '0'
    usages = [item.text for item in root.iter('Usage')]
    assert usages == ['5', '1', '2', '6', '7', '8']


def test_names_that_xml_does_not_know(tmp_path: Path) -> None:
    names = ('padded\0', 'escape\x1b', 'half \ud83d')
    content = attribute_table(Legend(names, (1, 2, 3), _legend().palette), (1, 1, 1))
    root = ElementTree.fromstring(content)
    shown = [item.text for item in root.iter('Category')]
    assert shown == [None, *(f'{name[:-1]}\ufffd' for name in names)]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = 'Gel\udce4nde'
    spec = RasterSpec((4, 3), 'uint8', (name,), 0, tags={'SCENE': name})
    values = np.ones((1, 4, 3), np.uint8)
    path = stage_raster(tmp_path, 'map.tif', spec, _reader(values))
    with rasterio.open(path) as file:
        assert file.tags()['SCENE'] == r'Gel\udce4nde'
        assert file.descriptions == (r'Gel\udce4nde',)


def test_gdal_reads_the_tags_from_the_side_file(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, _legend())
    Path(f'{path}.aux.xml').write_bytes(attribute_table(_legend(), (1, 1, 1)))
    # torchgeo's command line tells GDAL to overlook side files for the whole process.
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=False), rasterio.open(path) as file:
        assert f'{path}.aux.xml' in file.files


def test_values_that_no_map_can_hold_are_numbered() -> None:
    assert _legend((0, 1, 2)).values == (1, 2, 3)
    assert _legend((1, 2, 70000)).values == (1, 2, 3)
    with pytest.raises(ValueError, match='3 names, 2 values'):
        _legend((1, 2))


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: _Usage(1 << 30, 1 << 30, 1000))
    with pytest.raises(
        OSError, match=r'not enough room for map\.tif.*are free'
    ) as info:
        _write(tmp_path, _legend())
    assert info.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_disk_full_while_writing(tmp_path: Path) -> None:
    spec = RasterSpec((600, 600), 'uint8', ('class',), 0)

    def read(window: Window) -> NDArray[Any]:
        if window.row_off:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return np.ones((1, int(window.height), int(window.width)), np.uint8)

    with pytest.raises(OSError, match='No space left'):
        stage_raster(tmp_path, 'map.tif', spec, read)
    assert not list(tmp_path.iterdir())


def test_failure_inside_gdal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        Path(args[1]).write_bytes(b'half')
        raise CPLE_BaseError(3, 1, 'seek error')

    monkeypatch.setattr(rasterio.shutil, 'copy', fail)
    with pytest.raises(OSError, match=r'map\.tif could not be written.*are free'):
        _write(tmp_path, _legend())
    assert not list(tmp_path.iterdir())


def test_damage_that_gdal_does_not_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rasterio.shutil.copy

    def damaged(source: Path, target: Path, **options: Any) -> None:
        real(source, target, **options)
        Path(target).write_bytes(Path(target).read_bytes()[:-5000])

    monkeypatch.setattr(rasterio.shutil, 'copy', damaged)
    with pytest.raises(OSError, match=r'map\.tif could not be written'):
        _write(tmp_path, _legend())
    assert not list(tmp_path.iterdir())


def test_publish_replaces(tmp_path: Path) -> None:
    staging = tmp_path / 'staging'
    staging.mkdir()
    (tmp_path / 'map.tif').write_text('old')
    (staging / 'map.tif').write_text('new')
    (final,) = publish([staging / 'map.tif'], tmp_path)
    assert final.read_text() == 'new'
    assert not list(staging.iterdir())
