# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of tiles that are one scene."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import Affine, from_origin

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene

CUBE = np.random.default_rng(2).integers(1, 3000, (12, 14, 5)).astype('uint16')
BANDS = np.moveaxis(CUBE, 2, 0)


def moved(place: Affine, cols: float) -> Affine:
    """Move a georeference by columns; affine 2 has no @, 3 warns about *."""
    return Affine(
        place.a,
        place.b,
        place.c + cols * place.a,
        place.d,
        place.e,
        place.f + cols * place.d,
    )


class TestTiles:
    def tiles(self, root: Path, **options: Any) -> list[Path]:
        """Write four tiles of 6 x 7 pixels of CUBE, named out of order."""
        root.mkdir(exist_ok=True)
        paths = []
        for row in (0, 6):
            for col in (0, 7):
                place = from_origin(500_000 + 30 * col, 5_000_000 - 30 * row, 30, 30)
                tile = BANDS[:, row : row + 6, col : col + 7]
                name = root / f't_{9 - row}_{9 - col}.tif'
                paths.append(geotiff.write(name, tile, place, **options))
        return paths

    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize('given', ['list', 'pattern', 'folder', 'any depth'])
    def test_tiles_are_one_cube(self, tmp_path: Path, given: str, lazy: bool) -> None:
        paths = self.tiles(tmp_path / 'tiles')
        cube: Any = {
            'list': paths[::-1],
            'pattern': tmp_path / 'tiles' / 't_?_*.tif',
            'folder': tmp_path / 'tiles',
            'any depth': tmp_path / '**' / '*.tif',
        }[given]
        scene = open_scene(cube, lazy=lazy)
        assert scene.shape == CUBE.shape
        assert np.array_equal(scene.read(0, 12, 0, 14), CUBE)
        assert np.array_equal(scene.read(4, 8, 5, 9), CUBE[4:8, 5:9])
        assert scene.transform == from_origin(500_000, 5_000_000, 30, 30)
        assert scene.valid.all()
        again = pickle.loads(pickle.dumps(scene))
        assert np.array_equal(again.read(5, 7, 6, 8), CUBE[5:7, 6:8])

    def test_missing_tile_has_no_data(self, tmp_path: Path) -> None:
        paths = self.tiles(tmp_path)
        scene = open_scene(paths[:3])
        assert scene.shape == CUBE.shape
        assert not scene.valid[6:, 7:].any()
        assert scene.valid.sum() == 12 * 14 - 6 * 7

    def test_overlapping_tiles(self, tmp_path: Path) -> None:
        left = geotiff.write(tmp_path / 'l.tif', BANDS[:, :, :9])
        place = moved(geotiff.TRANSFORM, 6)
        right = geotiff.write(tmp_path / 'r.tif', BANDS[:, :, 6:], place)
        assert np.array_equal(open_scene([left, right]).cube, CUBE)

    @pytest.mark.parametrize('lazy', [False, True])
    @pytest.mark.parametrize('told', ['nodata', 'mask'])
    def test_what_a_tile_lacks_comes_from_the_next(
        self, tmp_path: Path, told: str, lazy: bool
    ) -> None:
        none = 60_000
        first, second = BANDS[:, :, :9].copy(), BANDS[:, :, 6:].copy()
        first[:, 2:5, 7:] = none  # in both tiles; the second has data there
        first[:, 0, 8] = second[:, 0, 2] = none  # none has
        nodata: Any = {'nodata': none} if told == 'nodata' else {}
        place = moved(geotiff.TRANSFORM, 6)
        paths = [
            geotiff.write(tmp_path / 'l.tif', first, **nodata),
            geotiff.write(tmp_path / 'r.tif', second, place, **nodata),
        ]
        for path, bands in zip(paths, (first, second), strict=True):
            if told == 'mask':
                with rasterio.open(path, 'r+') as file:
                    file.write_mask((bands[0] != none).astype('u1') * 255)
        scene = open_scene(paths, lazy=lazy)
        expected = CUBE.copy()
        expected[0, 8] = none
        assert np.array_equal(scene.read(0, 12, 0, 14), expected)
        assert np.array_equal(scene.read(2, 4, 6, 9), CUBE[2:4, 6:9])
        assert np.argwhere(~scene.valid).tolist() == [[0, 8]]
        some = open_scene(paths, lazy=lazy, bands=[3])
        assert np.array_equal(some.read(1, 6, 5, 9), CUBE[1:6, 5:9, 3:4])

    def test_tiles_in_different_scales(self, tmp_path: Path) -> None:
        paths = self.tiles(tmp_path)
        with rasterio.open(paths[1], 'r+') as file:
            file.scales = (0.01,) * file.count
        with pytest.raises(FileError, match=r'factor and offset 0\.01 and 0, expected'):
            open_scene(paths)
        for path in paths:
            with rasterio.open(path, 'r+') as file:
                file.scales = (0.01,) * file.count
        assert np.array_equal(open_scene(paths).cube, CUBE)

    @pytest.mark.parametrize('shift', [0.5, 1.0])
    def test_no_tiles(self, tmp_path: Path, shift: float) -> None:
        first = geotiff.write(tmp_path / 'a.tif', BANDS)
        place = moved(geotiff.TRANSFORM, shift)
        other = geotiff.write(tmp_path / 'b.tif', BANDS, place)
        with pytest.raises(ValueError, match='lie on different grids'):
            open_scene([first, other])

    def test_tiles_of_different_cubes(self, tmp_path: Path) -> None:
        paths = self.tiles(tmp_path)
        for number, path in enumerate(paths):
            with rasterio.open(path, 'r+') as file:
                for band in range(1, 6):
                    file.update_tags(band, wavelength=str(400 + 10 * band + number))
        with pytest.raises(FileError, match='found other wavelengths than in'):
            open_scene(paths)
        given = open_scene(paths, wavelengths=[400, 500, 600, 700, 800])
        assert np.array_equal(given.cube, CUBE)

    @pytest.mark.parametrize('given', ['pattern', 'folder'])
    def test_labels_in_tiles(self, tmp_path: Path, given: str) -> None:
        self.tiles(tmp_path / 'tiles')
        labels = np.random.default_rng(0).integers(0, 4, (12, 14)).astype('u1')
        (tmp_path / 'labels').mkdir()
        for row in (0, 6):
            place = from_origin(500_000, 5_000_000 - 30 * row, 30, 30)
            part = labels[None, row : row + 6]
            geotiff.write(tmp_path / 'labels' / f'l{row}.tif', part, place)
        places = tmp_path / 'labels'
        scene = open_scene(
            tmp_path / 'tiles', places if given == 'folder' else places / '*.tif'
        )
        assert np.array_equal(scene.label_map, labels)

    def test_labels_that_contradict(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cube = geotiff.write(tmp_path / 'a.tif', BANDS)
        first = np.ones((1, 12, 14), 'u1')
        first[0, :2] = 0
        second = first * 2
        second[0, 4:] = 0
        geotiff.write(tmp_path / 'l1.tif', first)
        geotiff.write(tmp_path / 'l2.tif', second)
        scene = open_scene(cube, tmp_path / 'l?.tif')
        assert not scene.label_map[:4].any()
        assert (scene.label_map[4:] == 1).all()
        assert '28 pixels have several labels' in caplog.text

    def test_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / 'tiles').mkdir()
        (tmp_path / 'tiles' / 'read.me').write_text('nothing')
        with pytest.raises(FileNotFoundError, match=r'found read.me, expected'):
            open_scene(tmp_path / 'tiles')


class TestEnmapTiles:
    """Real tiles of EnMAP and a real ENVI subset."""

    def test_mosaic(self, real_data_dir: Path) -> None:
        root = real_data_dir / 'enmap_potsdam'
        if not root.is_dir():
            pytest.skip('no EnMAP tiles')
        scene = open_scene(root / 'images', root / 'labels' / '*.tif')
        assert scene.shape == (192, 160, 218)
        assert scene.wavelengths is not None
        assert scene.wavelengths[:2].tolist() == [418.24, 423.874]
        assert scene.valid.sum() == 18 * 32 * 32
        whole = open_scene(root / 'images', root / 'enmap_landcover_unstyled.tif')
        assert np.array_equal(whole.label_map, scene.label_map)
        lazy = open_scene(root / 'images' / '*.tif', lazy=True)
        assert lazy.digest() == scene.digest()

    def test_gamsberg(self, real_data_dir: Path) -> None:
        path = real_data_dir / 'gamsberg' / 'cubus_gamsberg_subset'
        if not path.is_file():
            pytest.skip('no Gamsberg subset')
        scene = open_scene(path)
        assert scene.shape == (25, 10, 189)
        assert scene.wavelengths is not None
        assert len(scene.wavelengths) == 189
        assert scene.wavelengths[[0, -1]].round(2).tolist() == [426.82, 2324.91]
