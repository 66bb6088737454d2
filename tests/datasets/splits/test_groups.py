# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits by groups of pixels, and folds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy import ndimage

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.datasets.raster import Grid
from torchgeo_ekgnet.datasets.splits import (
    SUBSETS,
    BlockSplit,
    FoldSplit,
    GroupSplit,
    SplitContext,
)

from .maps import fields


class TestGroups:
    def test_fields_stay_together(self) -> None:
        labels = fields(60, 60)
        split = GroupSplit(train=0.4, val=0.2)(labels, 5)
        areas, count = ndimage.label(labels)
        for area in range(1, count + 1):
            inside = areas == area
            touched = [n for n in SUBSETS if split.mask(n)[inside].any()]
            assert len(touched) == 1
            assert split.mask(touched[0])[inside].all()
        assert split == GroupSplit(train=0.4, val=0.2)(labels, 5)
        assert split != GroupSplit(train=0.4, val=0.2, seed=1)(labels, 5)

    def test_touching_fields_of_two_classes_are_two(self) -> None:
        labels = np.array([[1, 1, 2, 2, 0, 1, 0, 2]])
        groups = GroupSplit().groups_of(labels)
        assert groups.tolist() == [[0, 0, 2, 2, -1, 1, -1, 3]]

    def test_groups_of_a_raster(self, tmp_path: Path) -> None:
        labels = fields(60, 60)
        owners = np.kron(np.arange(9).reshape(3, 3), np.ones((20, 20), dtype=int))
        np.save(tmp_path / 'owners.npy', owners)
        protocol = GroupSplit('owners.npy').bind(SplitContext(root=str(tmp_path)))
        split = protocol(labels)
        for owner in range(1, 9):
            inside = (owners == owner) & (labels > 0)
            assert len({n for n in SUBSETS if split.mask(n)[inside].any()}) == 1
        # Pixels in no group are in no subset.
        assert not any(split.mask(name)[owners == 0].any() for name in SUBSETS)
        assert 'tmp' not in str(split.settings)
        folds = FoldSplit(0, 3, GroupSplit('owners.npy')).bind(protocol.context)
        assert np.array_equal(folds.of.groups_of(labels), protocol.groups_of(labels))
        folds = FoldSplit(of=GroupSplit(str(tmp_path / 'owners.npy')))
        assert folds.settings['of']['groups'] == 'owners.npy'
        with pytest.raises(ValueError, match=r'of shape \(60, 60\)'):
            GroupSplit(str(tmp_path / 'owners.npy'))(fields(20, 20))
        with pytest.raises(FileNotFoundError):
            GroupSplit('nowhere.npy')(labels)
        np.save(tmp_path / 'none.npy', np.zeros((60, 60), dtype=int))
        with pytest.raises(ValueError, match='no group on a labelled pixel'):
            GroupSplit(str(tmp_path / 'none.npy'))(labels)

    @pytest.mark.parametrize('attribute', [None, 'farm'])
    def test_groups_of_polygons(self, tmp_path: Path, attribute: str | None) -> None:
        import geopandas
        import shapely
        from rasterio.transform import from_origin

        labels = fields(40, 40, 10)
        boxes = [
            shapely.box(500000 + 10 * x, 5000000 - 10 * y - 100, 500100 + 10 * x,
                        5000000 - 10 * y)
            for y in range(0, 40, 10)
            for x in range(0, 40, 10)
        ]  # fmt: skip
        farms = [f'farm {number // 4}' for number in range(16)]
        frame = {'farm': farms, 'crop': list(range(16)), 'geometry': boxes}
        geopandas.GeoDataFrame(frame, crs='EPSG:32633').to_file(tmp_path / 'f.gpkg')
        crs, transform = 'EPSG:32633', from_origin(500000, 5000000, 10, 10)
        protocol = GroupSplit(str(tmp_path / 'f.gpkg'), attribute, train=0.4)
        context = SplitContext(grid=Grid(40, 40, CRS.from_user_input(crs), transform))
        groups = protocol.bind(context).groups_of(labels)
        assert len(np.unique(groups)) == (16 if attribute is None else 4)
        row = np.unique(groups[:10])
        assert len(row) == (4 if attribute is None else 1)
        with pytest.raises(ValueError, match='CRS'):
            protocol(labels)

    def test_place_of_a_raster(self, tmp_path: Path) -> None:
        labels = fields(60, 60)
        owners = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((20, 20), dtype=int))
        place = geotiff.TRANSFORM
        turned = Affine(10, 0, place.c, 0, 10, place.f - 600)
        geotiff.write(tmp_path / 'a.tif', owners[None].astype(np.uint8), place)
        geotiff.write(tmp_path / 'b.tif', owners[None, ::-1].astype(np.uint8), turned)
        grid = Grid(60, 60, CRS.from_user_input(geotiff.CRS), place)
        context = SplitContext(grid=grid)
        for name in ('a.tif', 'b.tif'):
            protocol = GroupSplit(str(tmp_path / name)).bind(context)
            assert np.array_equal(protocol.groups_of(labels), owners - 1)

    def test_polygons_count_from_0(self, tmp_path: Path) -> None:
        """Such as folds; 0 is no group in a raster, where it stands for nothing."""
        import geopandas
        import shapely

        labels = fields(40, 40, 10)
        place = geotiff.TRANSFORM
        lefts = [place.c + 100 * number for number in range(4)]
        columns = [shapely.box(x, place.f - 400, x + 100, place.f) for x in lefts]
        frame = {'fold': [0.0, 1.0, 0.0, 1.0], 'geometry': columns}
        path = tmp_path / 'folds.gpkg'
        folds = geopandas.GeoDataFrame(frame, crs=geotiff.CRS)
        folds.to_file(path)
        folds.to_file(tmp_path / 'f.shp.zip', driver='ESRI Shapefile')
        grid = Grid(40, 40, CRS.from_user_input(geotiff.CRS), place)
        protocol = GroupSplit(str(path), 'fold').bind(SplitContext(grid=grid))
        groups = protocol.groups_of(labels)
        assert np.array_equal(groups[0], np.repeat([0, 1, 0, 1], 10))
        zipped = GroupSplit(str(tmp_path / 'f.shp.zip')).bind(SplitContext(grid=grid))
        assert np.array_equal(zipped.groups_of(labels)[0], np.repeat(range(4), 10))

    def test_points_of_a_table(self, tmp_path: Path) -> None:
        """Each a group of its own would be a random split."""
        path = tmp_path / 'points.csv'
        places = [f'{row},{col},{row // 20}' for row in range(40) for col in range(40)]
        path.write_text('\n'.join(['row,col,fold', *places]))
        with pytest.raises(ValueError, match=r'^groups: found points .* \(attribute='):
            GroupSplit(str(path)).groups_of(fields(40, 40, 10))
        groups = GroupSplit(str(path), 'fold').groups_of(fields(40, 40, 10))
        assert np.array_equal(groups[:, 0], np.repeat([0, 1], 20))


class TestFolds:
    @pytest.mark.parametrize('of', [None, BlockSplit(6), GroupSplit()])
    def test_every_pixel_tests_once(self, of: Any) -> None:
        labels = fields(60, 60, 6)
        splits = [FoldSplit(k, 4, of, unserved='drop')(labels, 5) for k in range(4)]
        tested = np.sum([split.mask('test') for split in splits], axis=0)
        assert np.array_equal(tested, labels > 0)
        for split in splits:
            counts = split.counts(labels)
            assert set(counts['unused']) == {0}
            assert 0.1 < split.test.size / (labels > 0).sum() < 0.4
            assert 0 < split.val.size < split.train.size

    def test_guard(self) -> None:
        split = FoldSplit(1, 3, BlockSplit(12), guard='patch', unserved='drop')(
            fields(60, 60), 3
        )
        assert split.overlap(3).shares_training_pixel == 0
        assert split.settings['of'] == {'protocol': 'blocks', 'block_size': 12}

    def test_class_of_one_field(self) -> None:
        """It either trains or tests: no fold can serve it."""
        labels = fields(60, 60)
        labels[:12, :12] = 5
        groups = GroupSplit()
        for protocol in (groups, *(FoldSplit(k, 3, groups) for k in range(3))):
            with pytest.raises(ValueError, match='class 5: 144 pixels, of which'):
                protocol(labels)

    @pytest.mark.parametrize(
        'options', [{'fold': 5}, {'fold': -1}, {'folds': 1}, {'val': 1.0}]
    )
    def test_bad_arguments(self, options: dict[str, Any]) -> None:
        (name,) = options
        with pytest.raises(ValueError, match=rf'^{name} is'):
            FoldSplit(**options)
