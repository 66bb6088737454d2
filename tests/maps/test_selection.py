# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely.affinity import affine_transform
from shapely.geometry import Point, box

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.maps.selection import MapOptions, select_pixels
from torchgeo_ekgnet.transforms.patches import PatchSource

from .conftest import make_scene

Patches = Callable[[HyperspectralScene], PatchSource]
OPTIONS: dict[str, Any] = {'window_size': 6, 'batch_size': 10}


def test_polygon_in_pixels(
    scene: HyperspectralScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'field.geojson'
    areas = [box(2, 3, 10, 8), None, box(12, 15, 14, 20)]
    frame = geopandas.GeoDataFrame(geometry=areas)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        frame.to_file(path)
    # A configuration may name it below the home folder.
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    selected = select_pixels(scene, MapOptions('polygon', '~/field.geojson'))
    expected = np.zeros((21, 17), dtype=bool)
    expected[3:8, 2:10] = True
    expected[15:20, 12:14] = True
    assert (selected == (expected & scene.valid)).all()


def test_polygon_of_another_reference_system(tmp_path: Path) -> None:
    utm = rasterio.crs.CRS.from_epsg(32616)
    scene = make_scene(crs=utm, transform=Affine(20, 0, 500000, 0, -20, 4400000))
    corner = box(500000, 4400000 - 100, 500000 + 60, 4400000)
    frame = geopandas.GeoDataFrame(geometry=[corner], crs=32616).to_crs(4326)
    frame.to_file(tmp_path / 'corner.gpkg')
    options = MapOptions('polygon', str(tmp_path / 'corner.gpkg'))
    selected = select_pixels(scene, options)
    assert selected[:5, :3].all()
    assert selected.sum() == 15


def test_polygon_errors(scene: HyperspectralScene, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='belong together'):
        MapOptions('polygon')
    with pytest.raises(ValueError, match="found 'somewhere'"):
        MapOptions('somewhere')  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match='there is no file'):
        select_pixels(scene, MapOptions('polygon', str(tmp_path / 'x.gpkg')))
    points = tmp_path / 'points.gpkg'
    geopandas.GeoDataFrame(geometry=[Point(1, 1)], crs=4326).to_file(points)
    with pytest.raises(ValueError, match=r"must hold polygons, found \['Point'\]"):
        select_pixels(scene, MapOptions('polygon', str(points)))
    outside = tmp_path / 'outside.gpkg'
    geopandas.GeoDataFrame(geometry=[box(90, 90, 99, 99)], crs=4326).to_file(outside)
    with pytest.raises(ValueError, match='no pixel to classify'):
        select_pixels(scene, MapOptions('polygon', str(outside)))


GRID = Affine(20, 0, 500000, 0, -20, 4400000)


@pytest.mark.parametrize(
    'drawn_in', [Affine.identity(), GRID], ids=['pixels', 'transform']
)
def test_polygon_on_a_scene_with_transform_but_no_crs(
    tmp_path: Path, drawn_in: Affine
) -> None:
    scene = make_scene(valid=None, transform=GRID)
    area = affine_transform(box(2, 3, 6, 9), drawn_in.to_shapely())
    path = tmp_path / 'area.gpkg'
    geopandas.GeoDataFrame(geometry=[area]).to_file(path)
    selected = select_pixels(scene, MapOptions(scope='polygon', polygon=str(path)))
    expected = np.zeros_like(selected)
    expected[3:9, 2:6] = True
    np.testing.assert_array_equal(selected, expected)


def test_polygon_that_could_be_in_either_is_in_pixels(tmp_path: Path) -> None:
    scene = make_scene(valid=None, transform=Affine(0.5, 0, 0, 0, 0.5, 0))
    path = tmp_path / 'area.gpkg'
    geopandas.GeoDataFrame(geometry=[box(0, 0, 4, 4)]).to_file(path)
    with pytest.warns(UserWarning, match='taken as pixels'):
        selected = select_pixels(scene, MapOptions(scope='polygon', polygon=str(path)))
    assert selected[:4, :4].all() and selected.sum() == 16


def test_polygons_of_a_geodatabase(tmp_path: Path) -> None:
    utm = rasterio.crs.CRS.from_epsg(32616)
    scene = make_scene(crs=utm, transform=Affine(20, 0, 500000, 0, -20, 4400000))
    corner = box(500000, 4400000 - 100, 500000 + 60, 4400000)
    frame = geopandas.GeoDataFrame(geometry=[corner], crs=32616)
    frame.to_file(tmp_path / 'corner.gdb', driver='OpenFileGDB')
    selected = select_pixels(scene, MapOptions('polygon', str(tmp_path / 'corner.gdb')))
    assert selected.sum() == 15


def test_polygons_that_cannot_be_read_or_placed(tmp_path: Path) -> None:
    (tmp_path / 'x.gpkg').write_text('no vector')
    with pytest.raises(ValueError, match=r'x\.gpkg'):
        select_pixels(make_scene(), MapOptions('polygon', str(tmp_path / 'x.gpkg')))
    geopandas.GeoDataFrame(geometry=[box(0, 0, 5, 5)], crs=32616).to_file(
        tmp_path / 'y.gpkg'
    )
    scene = make_scene(crs=rasterio.crs.CRS.from_epsg(32616))
    with pytest.raises(ValueError, match='no transform, so nothing can be placed'):
        select_pixels(scene, MapOptions('polygon', str(tmp_path / 'y.gpkg')))
    geopandas.GeoDataFrame(geometry=[box(0, 0, 5, 5)]).to_file(tmp_path / 'z.gpkg')
    with pytest.raises(ValueError, match='has no coordinate reference system, the sc'):
        select_pixels(scene, MapOptions('polygon', str(tmp_path / 'z.gpkg')))
