# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Labels on a grid."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from tests.data.envi import data as envi
from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.datasets.labels import NO_LABEL
from torchgeo_ekgnet.datasets.raster import Grid, checked_grid, labels_on_grid
from torchgeo_ekgnet.datasets.sources.raster import RasterSource
from torchgeo_ekgnet.intake import find_scene


@pytest.mark.parametrize('crs', [None, 'EPSG:32633'])
def test_labels_of_a_part_of_the_scene(crs: str | None) -> None:
    """Beyond them is no label, also where the file has labels everywhere."""
    system = None if crs is None else CRS.from_string(crs)
    scene = Grid(4, 4, system, from_origin(500000, 5000000, 10, 10))
    own = Grid(2, 3, system, from_origin(500010, 4999990, 10, 10))
    labels = np.array([[5, 6, 7], [7, 5, 6]])
    expected = np.full((4, 4), NO_LABEL)
    expected[1:3, 1:] = labels
    assert np.array_equal(labels_on_grid('l.tif', labels, own, scene), expected)


@pytest.mark.parametrize(
    ('x', 'y', 'kept'), [(10, 50, True), (10, 5e6, False), (5e5, 50, False)]
)
def test_degrees_that_are_none(x: float, y: float, kept: bool) -> None:
    grid = Grid(4, 4, CRS.from_epsg(4326), from_origin(x, y, 1, 1))
    assert (checked_grid(grid, 'l.tif').crs is not None) is kept


class TestRasterLabels:
    @pytest.fixture
    def cube(self, tmp_path: Path) -> Path:
        return geotiff.make(tmp_path)

    def check(self, cube: Path, labels: Path, border: int = 0) -> None:
        scene = open_scene(cube, labels)
        assert scene.class_values == (3, 20, 21)
        expected = geotiff.labels_of()
        expected[geotiff.EMPTY] = 0
        values = np.array((0, 3, 20, 21))[scene.label_map]
        assert np.array_equal(values, expected)
        assert scene.num_masked_labels == 12

    def test_same_grid(self, cube: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.check(cube, geotiff.labels_same_grid(cube.with_name('l.tif')))
        assert '12 labelled pixels have no data' in caplog.text

    def test_other_grid(self, cube: Path) -> None:
        self.check(cube, geotiff.labels_other_grid(cube.with_name('l.tif')))

    def test_other_crs(self, cube: Path) -> None:
        labels = geotiff.labels_same_grid(cube.with_name('l.tif'))
        with rasterio.open(labels) as source:
            values, transform, crs = source.read(1), source.transform, source.crs
            bounds = source.bounds
        target = 'EPSG:3857'
        grid, width, height = rasterio.warp.calculate_default_transform(
            crs, target, values.shape[1], values.shape[0], *bounds, resolution=2
        )
        moved = np.zeros((1, height, width), np.uint8)
        rasterio.warp.reproject(
            values,
            moved[0],
            src_transform=transform,
            src_crs=crs,
            dst_transform=grid,
            dst_crs=target,
        )
        other = geotiff.write(cube.with_name('web.tif'), moved, grid, target)
        scene = open_scene(cube, other)
        expected = geotiff.labels_of()
        expected[geotiff.EMPTY] = 0
        found = np.array((0, 3, 20, 21))[scene.label_map]
        assert (found == expected).mean() > 0.98

    @pytest.mark.parametrize('crs', [geotiff.CRS, 'EPSG:4326', 'EPSG:3035'])
    def test_only_labels_around_the_scene_are_read(
        self, cube: Path, crs: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A map of a country does not fit into the memory as 64 bits a pixel."""
        bounds = (590_000, 5_190_000, 610_000, 5_210_000)
        place, width, height = rasterio.warp.calculate_default_transform(
            geotiff.CRS, crs, 2000, 2000, *bounds, dst_width=700, dst_height=600
        )
        values = np.random.default_rng(0).integers(0, 4, (height, width), np.uint8)
        labels = geotiff.write(cube.with_name('l.tif'), values[None], place, crs)
        sizes = []
        read = RasterSource.read

        def recorded(source: RasterSource, *window: Any) -> Any:
            part = read(source, *window)
            sizes.append(part.size)
            return part

        monkeypatch.setattr(RasterSource, 'read', recorded)
        scene = open_scene(cube, labels, bands=[0])
        assert sizes[0] < 1000 < values.size
        grid = Grid(geotiff.ROWS, geotiff.COLS, scene.crs, scene.transform)
        own = Grid(height, width, CRS.from_string(crs), place)
        expected = labels_on_grid('l.tif', values.astype(np.int64), own, grid)
        found = np.array((0, *scene.class_values))[scene.label_map]
        expected[expected < 0] = 0
        assert np.array_equal(found, np.where(scene.valid, expected, 0))
        assert scene.class_values == (1, 2, 3)

    def test_no_georeference_but_same_size(self, cube: Path) -> None:
        labels = cube.with_name('labels.npy')
        np.save(labels, geotiff.labels_of())
        self.check(cube, labels)
        plain = geotiff.write(
            cube.with_name('l.tif'), geotiff.labels_of()[None], transform=None, crs=None
        )
        self.check(cube, plain)

    def test_no_georeference_and_other_size(
        self, cube: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bands = geotiff.labels_of()[None, 1:]
        plain = geotiff.write(cube.with_name('l.tif'), bands, transform=None, crs=None)
        with (
            monkeypatch.context() as patch,
            pytest.raises(ValueError, match=r'differ in size, and the labels have no'),
        ):
            # A wrong file may be large: nothing of it is read.
            patch.setattr(RasterSource, 'read', None)
            open_scene(cube, plain, lazy=True)
        placed = geotiff.write(cube.with_name('m.tif'), bands)
        array = cube.with_name('cube.npy')
        np.save(array, geotiff.cube_of())
        with pytest.raises(ValueError, match='differ in size, and the cube has no CRS'):
            open_scene(array, placed)

    def test_outside_the_scene(self, cube: Path) -> None:
        far = from_origin(700_000, 5_200_000, 10, 10)
        labels = geotiff.write(
            cube.with_name('l.tif'), geotiff.labels_of()[None], transform=far
        )
        with pytest.raises(ValueError, match='no labelled pixel of the label raster'):
            open_scene(cube, labels)

    def test_nodata_of_the_labels(self, cube: Path) -> None:
        labels = geotiff.labels_of()
        labels[labels == 0] = 255
        path = geotiff.write(cube.with_name('l.tif'), labels[None], nodata=255)
        self.check(cube, path)

    @pytest.mark.parametrize('other_grid', [False, True])
    @pytest.mark.parametrize('unlabelled', [(), (-1,), (99,)])
    def test_labels_from_zero(
        self, cube: Path, unlabelled: tuple[int, ...], other_grid: bool
    ) -> None:
        values = geotiff.labels_of()
        labels = np.where(values == 0, 255, np.where(values == 3, 0, values))
        labels = labels.astype(np.uint8)
        transform = geotiff.TRANSFORM
        if other_grid:
            labels = np.pad(labels[:-1, :-1], 1, constant_values=255)
            transform = from_origin(599_990, 5_200_010, 10, 10)
        path = geotiff.write(
            cube.with_name('l.tif'), labels[None], transform, nodata=255
        )
        scene = open_scene(cube, path, unlabelled=unlabelled)
        assert scene.class_values == (0, 20, 21)
        expected = np.array((0, 3, 20, 21))[scene.label_map]
        values[geotiff.EMPTY] = 0
        assert np.array_equal(expected[:-1, :-1], values[:-1, :-1])

    def test_not_a_number_in_the_labels(self, cube: Path) -> None:
        labels = geotiff.labels_of().astype(np.float32)
        labels[labels == 0] = np.nan
        path = geotiff.write(cube.with_name('l.tif'), labels[None], nodata=np.nan)
        self.check(cube, path)
        self.check(cube, geotiff.write(cube.with_name('m.tif'), labels[None]))

    def test_place_that_differs_without_a_crs(
        self, cube: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        here = geotiff.TRANSFORM  # Affine's operators differ between releases
        elsewhere = rasterio.Affine(here.a, here.b, here.c + 3 * here.a, *here[3:6])
        path = geotiff.write(
            cube.with_name('l.tif'),
            geotiff.labels_of()[None],
            crs=None,
            transform=elsewhere,
        )
        self.check(cube, path)
        assert 'size of the cube but another place' in caplog.text

    def test_float_labels(self, cube: Path) -> None:
        labels = geotiff.labels_of().astype(np.float32)
        self.check(cube, geotiff.write(cube.with_name('l.tif'), labels[None]))
        path = geotiff.write(cube.with_name('m.tif'), labels[None] + 0.25)
        with pytest.raises(ValueError, match='are not whole numbers'):
            open_scene(cube, path)

    def test_envi_labels(self, tmp_path: Path) -> None:
        path = envi.make(tmp_path / 'cube')
        labels = np.zeros((envi.ROWS, envi.COLS, envi.BANDS), np.uint8)
        labels[2:5, 3:9] = 6
        envi.make(tmp_path / 'labels', dtype='uint8', cube=labels, interleave='bsq')
        scene = open_scene(path, tmp_path / 'labels' / 'scene.hdr')
        assert scene.class_values == (6,)
        assert scene.class_counts == (18,)

    def test_grid_of_esri_as_text(self, cube: Path) -> None:
        """ArcGIS writes grids with the ending of tables."""
        path = cube.with_name('l.txt')
        head = (
            f'ncols {geotiff.COLS}\nnrows {geotiff.ROWS}\ncellsize 10\nxllcorner 600000'
        )
        head += f'\nyllcorner {5_200_000 - 10 * geotiff.ROWS}'
        np.savetxt(path, geotiff.labels_of(), '%d', header=head, comments='')
        self.check(cube, path)
        assert find_scene([cube, path]).scene.class_values == (3, 20, 21)

    def test_class_names(self, cube: Path) -> None:
        labels = geotiff.labels_same_grid(cube.with_name('l.tif'))
        named = open_scene(cube, labels, class_names={3: 'a', 20: 'b', 21: 'c'})
        assert named.class_names == ('a', 'b', 'c')
        listed = open_scene(cube, labels, class_names=['b', 'c'], unlabelled=(0, 3))
        assert listed.class_values == (20, 21)

    def test_attribute_is_for_vectors(self, cube: Path) -> None:
        labels = geotiff.labels_same_grid(cube.with_name('l.tif'))
        with pytest.raises(ValueError, match="attribute='x' is for vector files"):
            open_scene(cube, labels, attribute='x')

    def test_neither_raster_nor_vector(self, cube: Path) -> None:
        path = cube.with_name('labels.tif')
        path.write_text('damaged')
        with pytest.raises(ValueError, match=r'labels.tif .*nor .* opened as a raster'):
            open_scene(cube, path)
