# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits that files hold: masks and what was saved."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import scipy.io
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine

from tests.data.envi import data as envi
from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.datasets.raster import Grid
from torchgeo_ekgnet.datasets.splits import (
    SUBSETS,
    CountSplit,
    MaskSplit,
    MatchedSplit,
    RandomSplit,
    SavedSplit,
    Split,
    SplitContext,
    read_mask,
)

from .maps import Labels, checked_split, fields, label_maps, quick, write_masks


class TestMaskSplit:
    def test_masks(self, tmp_path: Path) -> None:
        labels, train, test = write_masks(tmp_path)
        split = MaskSplit(train, test, val=0.2)(labels)
        held_in = np.concatenate([split.train, split.val])
        columns = split.shape[1]
        assert (held_in % columns).max() < 20 <= (split.test % columns).min()
        assert held_in.size + split.test.size == (labels > 0).sum()
        counts = split.counts(labels)
        for trained, validated in zip(counts['train'], counts['val'], strict=True):
            assert validated == int(0.2 * (trained + validated))
        assert MaskSplit(train, val=0.2)(labels) == split

    @quick
    @given(
        labels=label_maps(),
        share=st.sampled_from([0.2, 0.5]),
        both=st.booleans(),
        val=st.sampled_from([0.0, 0.3]),
        seed=st.integers(0, 5),
    )
    def test_property(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        labels: Labels,
        share: float,
        both: bool,
        val: float,
        seed: int,
    ) -> None:
        folder = tmp_path_factory.mktemp('masks')
        number = np.random.RandomState(seed).random_sample(labels.shape)
        train, test = number < share, number > 1 - share
        np.save(folder / 'train.npy', train & (labels > 0))
        np.save(folder / 'test.npy', test & (labels > 0))
        protocol = MaskSplit(
            str(folder / 'train.npy'),
            str(folder / 'test.npy') if both else None,
            val=val,
            seed=seed,
            unserved='drop',
        )
        split = checked_split(protocol, labels, 3)
        if split is not None:
            assert train.flat[split.train].all() and train.flat[split.val].all()
            assert (test if both else ~train).flat[split.test].all()

    @pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
    def test_raster(self, tmp_path: Path) -> None:
        rasterio = pytest.importorskip('rasterio')
        labels = fields()
        mask = (np.arange(labels.shape[1]) < 20) & (labels > 0)
        with rasterio.open(
            tmp_path / 'train.tif',
            'w',
            driver='GTiff',
            height=labels.shape[0],
            width=labels.shape[1],
            count=1,
            dtype='uint8',
        ) as raster:
            raster.write(mask.astype(np.uint8), 1)
        split = MaskSplit(str(tmp_path / 'train.tif'), val=0)(labels)
        assert np.array_equal(split.mask('train'), mask)

    def test_overlapping_masks(self, tmp_path: Path) -> None:
        labels, train, _ = write_masks(tmp_path)
        with pytest.raises(ValueError, match=r'share .* pixels'):
            MaskSplit(train, train)(labels)
        mask = np.load(tmp_path / 'test.npy')
        mask[1, 1] = True
        np.save(tmp_path / 'test.npy', mask)
        with pytest.raises(ValueError, match='share 1 pixels'):
            MaskSplit(train, str(tmp_path / 'test.npy'))(labels)

    def test_unlabelled_pixels(self, tmp_path: Path) -> None:
        labels, train, test = write_masks(tmp_path)
        labels[1, 1] = 0
        with pytest.raises(ValueError, match='1 pixels that have no label'):
            MaskSplit(train, test)(labels)
        split = MaskSplit(train, test, unlabelled='drop')(labels)
        used = np.concatenate([split.indices(name) for name in SUBSETS])
        assert np.array_equal(np.sort(used), np.flatnonzero(labels))

    def test_masks_of_another_edition(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """695 training and 9671 test pixels, as published for Indian Pines.

        These masks number the classes in an order of their own, the small ones last,
        and come from an edition of the label map with 10,366 labelled pixels; today's
        has 10,249. The places here are made up, the counts are not.
        """
        order = np.array([2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16, 1, 7, 9])
        now = np.ravel(
            [
                [46, 1428, 830, 237, 483, 730, 28, 478],
                [20, 972, 2455, 593, 205, 1265, 386, 93],
            ]
        )
        then = np.ravel(
            [
                [54, 1434, 834, 234, 497, 747, 26, 489],
                [20, 968, 2468, 614, 212, 1294, 380, 95],
            ]
        )
        trained = np.where(np.arange(16) < 13, 50, 15)
        labels = np.zeros((145, 145), dtype=np.int64)
        train = np.zeros((145, 145), dtype=np.uint8)
        test = np.zeros((145, 145), dtype=np.uint8)
        start = 0
        for value, label in enumerate(order, start=1):
            pixels = start + np.arange(max(now[label - 1], then[label - 1]))
            labels.flat[pixels[: now[label - 1]]] = label
            marked = pixels[: then[label - 1]]
            train.flat[marked[: trained[value - 1]]] = value
            test.flat[marked[trained[value - 1] :]] = value
            start += len(pixels)
        assert (labels > 0).sum() == 10249
        assert [int((mask > 0).sum()) for mask in (train, test)] == [695, 9671]
        file = str(tmp_path / 'IndianPine.mat')
        scipy.io.savemat(file, {'TR': train, 'TE': test})
        masks = partial(
            MaskSplit, file, file, val=0, train_variable='TR', test_variable='TE'
        )
        with pytest.raises(
            ValueError, match="no label in the scene; use unlabelled='d"
        ):
            masks()(labels)
        split = masks(unlabelled='drop')(labels)
        counts = split.counts(labels)
        assert np.array_equal(np.array(counts['train'])[order - 1], trained)
        assert sum(counts['train']) == 695
        both = np.minimum(now, then)
        assert sum(counts['test']) == both.sum() - 695
        excess = then.sum() - both.sum()
        assert f'{excess} of 9671 pixels have no label in the scene' in caplog.text
        assert "scene's label: 1: 2, 2: 3, 3: 4" in caplog.text
        assert 'not one to one' not in caplog.text

    def test_values_against_labels(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels, train, test = write_masks(tmp_path)
        MaskSplit(train, test)(labels)
        MaskSplit(train)(np.where(labels > 0, labels * 2, 0))
        assert caplog.text == ''
        train_mask = np.where(np.arange(labels.shape[1]) < 20, labels, 0)
        mask = train_mask.copy()
        mask[1, 1] = labels.max() - labels[1, 1] + 1
        np.save(tmp_path / 'moved.npy', mask)
        split = MaskSplit(str(tmp_path / 'moved.npy'))(labels)
        assert split == MaskSplit(train)(labels)
        assert 'not one to one: 1 of' in caplog.text
        assert 'numbers the classes otherwise' not in caplog.text
        caplog.clear()
        np.save(tmp_path / 'joined.npy', np.where(mask == 2, 1, mask))
        MaskSplit(str(tmp_path / 'joined.npy'))(labels)
        assert 'not one to one' in caplog.text
        caplog.clear()
        halves = np.where(np.arange(labels.shape[1]) % 2, train_mask, 10 * train_mask)
        np.save(tmp_path / 'halves.npy', halves)
        MaskSplit(str(tmp_path / 'halves.npy'))(labels)
        assert 'not one to one: 0 of' in caplog.text
        caplog.clear()
        np.save(tmp_path / 'two.npy', np.array([[2, 0, 1, 0]]))
        MaskSplit(str(tmp_path / 'two.npy'))(np.array([[1, 1, 2, 2]]))
        assert "(mask's value: scene's label: 1: 2, 2: 1)" in caplog.text
        assert 'not one to one' not in caplog.text

    @pytest.mark.parametrize('subset', ['train', 'test'])
    def test_argument_that_names_the_array(self, tmp_path: Path, subset: str) -> None:
        masks = {'TR': fields() * 0 + 1, 'TE': fields() * 0}
        scipy.io.savemat(tmp_path / 'both.mat', masks)
        both = str(tmp_path / 'both.mat')
        if subset == 'train':
            split = MaskSplit(both, both, test_variable='TE')
        else:
            split = MaskSplit(both, both, train_variable='TR')
        with pytest.raises(
            ValueError, match=rf'name the variable \({subset}_variable='
        ):
            split(fields())

    def test_nodata_is_outside(self, tmp_path: Path) -> None:
        mask = np.full((1, 4, 5), 255, dtype=np.uint8)
        mask[0, :2] = 3
        mask[0, 2] = 0
        path = geotiff.write(tmp_path / 'mask.tif', mask, nodata=255)
        assert np.array_equal(read_mask(path), np.repeat([3, 3, 0, 0], 5).reshape(4, 5))

    def test_polygons(self, tmp_path: Path) -> None:
        labels = fields()
        rows, cols = labels.shape
        grid = Grid(rows, cols, CRS.from_user_input(geotiff.CRS), geotiff.TRANSFORM)
        left, top = geotiff.TRANSFORM.c, geotiff.TRANSFORM.f
        below = top - 10 * rows
        # Pixels of two polygons train as well: they must not fall to the test.
        boxes = [shapely.box(left, below, left + x, top) for x in (150, 200)]
        frame = geopandas.GeoDataFrame(geometry=boxes, crs=geotiff.CRS)
        frame.to_file(tmp_path / 'train.shp')
        protocol = MaskSplit(str(tmp_path / 'train.shp'), val=0, unlabelled='drop')
        bound = protocol.bind(SplitContext(grid=grid))
        split = bound(labels)
        expected = (labels > 0) & (np.arange(cols) < 20)
        assert np.array_equal(split.mask('train'), expected)
        with pytest.raises(ValueError, match='CRS'):
            protocol(labels)
        bound.labels = 'masks'
        with pytest.raises(ValueError, match='one value on pixels of several classes'):
            bound(labels)

    @pytest.mark.parametrize('file', ['train.csv', 'train.txt', 'train.xml'])
    def test_tables_and_regions_of_interest(self, tmp_path: Path, file: str) -> None:
        labels = fields()
        train = (labels > 0) & (np.arange(labels.shape[1]) < 20)
        places = np.argwhere(train)
        rows = [f'{row},{col}' for row, col in places]
        text = '\n'.join(['row,col', *rows])
        if file == 'train.txt':
            rows = [f' 1 {col + 1} {row + 1}' for row, col in places]
            head = ['; ENVI Output of ROIs (5.3)', '; ROI name: a']
            head += [f'; ROI npts: {len(rows)}', '; ID X Y']
            text = '\n'.join([*head, *rows])
        elif file == 'train.xml':
            at = ' '.join(f'{col + 0.5} {row + 0.5}' for row, col in places)
            text = f'<GeometryDef><Point><Coordinates>{at}</Coordinates></Point>'
            text = f'<Region name="a">{text}</GeometryDef></Region>'
            text = f'<RegionsOfInterest>{text}</RegionsOfInterest>'
        (tmp_path / file).write_text(text)
        split = MaskSplit(str(tmp_path / file), val=0)(labels)
        assert np.array_equal(split.mask('train'), train)

    @pytest.mark.parametrize('way', ['same', 'south up', 'wider', 'half the pixels'])
    def test_place_of_a_raster(self, tmp_path: Path, way: str) -> None:
        labels = fields()
        rows, cols = labels.shape
        train = np.where(np.arange(cols) < 20, labels, 0).astype(np.uint8)
        place = geotiff.TRANSFORM
        grid = Grid(rows, cols, CRS.from_user_input(geotiff.CRS), place)
        stored = train
        if way == 'south up':
            stored = train[::-1]
            place = Affine(10, 0, place.c, 0, 10, place.f - 10 * rows)
        elif way == 'wider':
            stored = np.pad(train, 3)[: rows + 3]
            place = Affine(10, 0, place.c - 30, 0, -10, place.f + 30)
        elif way == 'half the pixels':
            stored = np.kron(train, np.ones((2, 2), np.uint8))
            place = Affine(5, 0, place.c, 0, -5, place.f)
        path = geotiff.write(tmp_path / 'train.tif', stored[None], place)
        protocol = MaskSplit(str(path), val=0).bind(SplitContext(grid=grid))
        assert np.array_equal(protocol(labels).mask('train'), train > 0)

    def test_raster_beside_the_scene(self, tmp_path: Path) -> None:
        labels = fields()
        crs = CRS.from_user_input(geotiff.CRS)
        rows, cols = labels.shape
        grid = Grid(rows, cols, crs, geotiff.TRANSFORM)
        place = Affine(10, 0, geotiff.TRANSFORM.c + 2000, 0, -10, geotiff.TRANSFORM.f)
        mask = labels.astype(np.uint8)[None]
        path = geotiff.write(tmp_path / 'train.tif', mask, place)
        with pytest.raises(ValueError, match=r'no labelled pixel .* inside the'):
            MaskSplit(str(path)).bind(SplitContext(grid=grid))(labels)

    @pytest.mark.parametrize('file', ['scene.hdr', 'scene.dat'])
    def test_envi_as_torchgeo_configures_gdal(self, tmp_path: Path, file: str) -> None:
        rasterio = pytest.importorskip('rasterio')
        same = np.repeat(envi.cube_of()[:, :, :1], envi.BANDS, axis=2)
        envi.make(tmp_path, cube=same)
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR'):
            mask = read_mask(tmp_path / file)
        assert np.array_equal(mask, envi.cube_of()[:, :, 0])

    def test_bad_files(self, tmp_path: Path) -> None:
        labels, train, test = write_masks(tmp_path)
        with pytest.raises(FileNotFoundError, match='nowhere'):
            MaskSplit(str(tmp_path / 'nowhere.npy'))(labels)
        with pytest.raises(ValueError, match='has shape'):
            MaskSplit(train, test)(labels[:-1])
        (tmp_path / 'broken.tif').write_bytes(b'no raster')
        with pytest.raises(ValueError, match='cannot be read'):
            MaskSplit(str(tmp_path / 'broken.tif'))(labels)
        with pytest.raises(ValueError, match='TRLabel'):
            MaskSplit(train, train_variable='TR')(labels)

    def test_order_of_earlier_releases(self, tmp_path: Path) -> None:
        """The same pixels validate in every release."""
        np.save(tmp_path / 'train.npy', (np.arange(16) % 4 > 0)[None])
        labels = np.array([[1] * 8 + [2] * 8])
        split = MaskSplit(str(tmp_path / 'train.npy'), val=0.4)(labels)
        assert split.train.tolist() == [3, 5, 6, 7, 9, 10, 11, 15]
        assert split.val.tolist() == [1, 2, 13, 14]
        assert split.test.tolist() == [0, 4, 8, 12]

    @pytest.mark.parametrize(
        ('option', 'words'),
        [
            ('unlabelled', "'error', 'drop'"),
            ('labels', "'scene', 'masks'"),
            ('unserved', "'error', 'drop', 'merge'"),
        ],
    )
    def test_unknown_words(self, option: str, words: str) -> None:
        options: Any = {option: 'maybe'}
        with pytest.raises(
            ValueError, match=rf"^{option} is 'maybe', expected one of \({words}\)$"
        ):
            MaskSplit('mask.npy', **options)

    def test_class_without_training_or_test_pixels(self, tmp_path: Path) -> None:
        labels, train, _ = write_masks(tmp_path)
        taught = (labels == 2) & (np.arange(48) < 20)
        with pytest.raises(ValueError, match=r'class 2: 0 training, \d+ test pixels'):
            MaskSplit(train, unlabelled='drop')(np.where(taught, 0, labels))
        labels = np.where(labels == 2, np.where(np.arange(48) < 20, 2, 0), labels)
        with pytest.raises(ValueError, match=r'class 2: .* 0 test pixels'):
            MaskSplit(train)(labels)
        split = MaskSplit(train, unserved='drop')(labels)
        assert split.dropped == (2,)


class TestLabelsOfMasks:
    def make(self, folder: Path) -> tuple[Labels, MaskSplit]:
        """Masks whose values are numbered otherwise, and label more than the scene."""
        full = fields()
        numbers = np.array([0, 30, 10, 40, 20])
        left = np.arange(full.shape[1]) < 20
        np.save(folder / 'train.npy', numbers[np.where(left, full, 0)])
        np.save(folder / 'test.npy', numbers[np.where(left, 0, full)])
        labels = full.copy()
        labels[:6] = 0
        train, test = (str(folder / name) for name in ('train.npy', 'test.npy'))
        return labels, MaskSplit(train, test, val=0.2, labels='masks')

    def test_pixels_that_only_the_masks_label(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels, protocol = self.make(tmp_path)
        # The class of a value is that of most of its pixels.
        labels[7, 1] = 5 - fields()[7, 1]
        split = protocol(labels)
        assert '1 of ' in caplog.text and 'have another label than' in caplog.text
        used = sum(split.indices(name).size for name in SUBSETS)
        assert used == (fields() > 0).sum() > (labels > 0).sum()
        for name in SUBSETS:
            expected = fields().flat[split.indices(name)]
            assert np.array_equal(split.labels(labels, name), expected)
        assert set(split.counts(labels)['unused']) == {0}

    def test_the_other_labels_test(self, tmp_path: Path) -> None:
        labels, protocol = self.make(tmp_path)
        split = MaskSplit(protocol.train, val=0, labels='masks')(labels)
        left = np.arange(labels.shape[1]) < 20
        assert np.array_equal(split.mask('train'), (fields() > 0) & left)
        assert np.array_equal(split.mask('test'), (labels > 0) & ~left)
        for name in ('train', 'test'):
            expected = fields().flat[split.indices(name)]
            assert np.array_equal(split.labels(labels, name), expected)

    def test_messages_name_the_file(self, tmp_path: Path) -> None:
        labels, protocol = self.make(tmp_path)
        for value, file in ((3, protocol.train), (4, protocol.test)):
            left = np.arange(labels.shape[1]) < 20
            lost = (labels == value) & (left == (value == 3))
            with pytest.raises(
                ValueError, match=rf'^mask {file}: the scene labels no pixel of value'
            ):
                protocol(np.where(lost, 0, labels))
        scene = MaskSplit(protocol.train, protocol.test)
        with pytest.raises(ValueError, match=rf'^mask {protocol.train} marks \d+ pix'):
            scene(labels)
        labels = np.where(np.arange(labels.shape[1]) < 20, fields(), labels)
        with pytest.raises(ValueError, match=rf'^mask {protocol.test} marks \d+ pix'):
            scene(labels)
        # Labels of the scene are read from it, not kept.
        assert scene(fields()).own_labels is None

    def test_thinned_with_its_labels(self, tmp_path: Path) -> None:
        labels, protocol = self.make(tmp_path)
        split = MatchedSplit(protocol, RandomSplit(0.1, 0.1))(labels)
        assert 0 < split.train.size < protocol(labels).train.size
        for name in SUBSETS:
            expected = fields().flat[split.indices(name)]
            assert np.array_equal(split.labels(labels, name), expected)

    @pytest.mark.parametrize('name', ['split.npz', 'split.json'])
    def test_saved_with_its_labels(self, tmp_path: Path, name: str) -> None:
        labels, protocol = self.make(tmp_path)
        split = protocol(labels)
        again = SavedSplit(str(split.save(tmp_path / name)))(labels)
        assert again == split
        assert np.array_equal(
            again.labels(labels, 'test'), split.labels(labels, 'test')
        )

    def test_values_without_a_class(self, tmp_path: Path) -> None:
        labels, protocol = self.make(tmp_path)
        lost = np.where(labels == 3, 0, labels)
        with pytest.raises(ValueError, match='labels no pixel of value 40'):
            protocol(lost)
        plain = np.load(tmp_path / 'train.npy')
        plain[plain == 10] = 7
        plain[4, 5] = 10
        labels[:6] = fields()[:6]
        np.save(tmp_path / 'train.npy', plain)
        with pytest.raises(ValueError, match='two values of one class'):
            protocol(labels)

    def test_labels_do_not_belong(self) -> None:
        with pytest.raises(ValueError, match='2 pixels and 1 labels'):
            Split('own', {}, (2, 2), np.array([0, 1]), np.array([], int), np.array([3]),
                  own_labels={'train': np.array([1]), 'test': np.array([2])})  # fmt: skip

    def test_labels_follow_their_pixels(self) -> None:
        own = {
            'train': np.array([2, 1]),
            'val': np.array([], int),
            'test': np.array([1]),
        }
        split = Split(
            'own', {}, (2, 2), np.array([3, 0]), np.array([], int), np.array([1]),
            own_labels=own,
        )  # fmt: skip
        labels = np.array([[9, 9], [9, 9]])
        assert split.labels(labels, 'train').tolist() == [1, 2]
        # The same pixels under other labels are another split.
        assert split != replace(split, own_labels={**own, 'test': np.array([3])})


def test_saved_split_lies_where_masks_do(tmp_path: Path) -> None:
    """As it is named, or else below the root of the scene."""
    split = CountSplit(per_class=5, val=1)(fields())
    split.save(tmp_path / 'all.npz')
    there = SavedSplit('all.npz').bind(SplitContext(root=str(tmp_path)))
    assert there(fields()) == split
    with pytest.raises(FileNotFoundError, match=r'all\.npz'):
        SavedSplit('all.npz')(fields())
