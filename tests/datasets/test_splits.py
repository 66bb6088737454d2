# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import logging
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy import ndimage
from scipy.spatial import KDTree

from tests.data.envi import data as envi
from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets.raster import Grid
from torchgeo_ekgnet.datasets.splits import (
    SUBSETS,
    BlockSplit,
    CommunitySplit,
    CountSplit,
    DisjointSplit,
    FoldSplit,
    GroupSplit,
    MaskSplit,
    MatchedSplit,
    RandomSplit,
    SavedSplit,
    Split,
    SplitContext,
    SplitProtocol,
    as_protocol,
    compare_protocols,
    guard_distance,
    match_counts,
    read_mask,
)

Labels = NDArray[np.int64]
quick = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def fields(rows: int = 40, cols: int = 48, side: int = 12) -> Labels:
    """A chequerboard of fields of four classes with unlabelled strips between."""
    row, col = np.indices((rows, cols))
    labels = (row // side + 2 * (col // side)) % 4 + 1
    gap = (row % side == 0) | (col % side == 0)
    return np.where(gap, 0, labels).astype(np.int64)


def distances(split: Split, a: str, b: str) -> int:
    """Smallest Chebyshev distance between two subsets."""
    first, second = split.positions(a), split.positions(b)
    if not len(first) or not len(second):
        return 10**6
    return int(KDTree(second).query(first, p=np.inf)[0].min())


def indices_of(split: Split) -> list[list[int]]:
    return [split.train.tolist(), split.val.tolist(), split.test.tolist()]


def checked_split(
    protocol: SplitProtocol, labels: Labels, patch_size: int
) -> Split | None:
    """Draw a split that must part the pixels, keep its guard and serve its classes."""
    try:
        split = protocol(labels, patch_size)
    except ValueError as error:
        reasons = 'no class', 'nothing is left', 'no place for validation'
        assert any(reason in str(error) for reason in reasons)
        return None
    joined = np.concatenate([split.train, split.val, split.test])
    assert np.unique(joined).size == joined.size
    assert (labels.ravel()[joined] > 0).all()
    counts = split.counts(labels)
    total = np.sum(list(counts.values()), axis=0)
    assert total.tolist() == np.bincount(labels.ravel())[1:].tolist()
    for label in np.unique(labels[labels > 0]):
        served = label not in split.dropped
        assert (counts['train'][label - 1] > 0) == served
        assert (counts['test'][label - 1] > 0) == served
    # A matched split keeps the guard of the split that it thins.
    guard = split.settings.get('split', split.settings).get('guard', 'none')
    for a, b in (('train', 'test'), ('val', 'test'), ('train', 'val')):
        assert distances(split, a, b) > guard_distance(guard, patch_size)
    overlap = split.overlap(patch_size)
    assert overlap.contains_training_centre == 0 or guard == 'none'
    assert overlap.shares_training_pixel == 0 or guard != 'patch'
    assert split == protocol(labels, patch_size)
    return split


@st.composite
def label_maps(draw: Any) -> Labels:
    rows, cols = draw(st.integers(6, 24)), draw(st.integers(6, 24))
    seed = draw(st.integers(0, 1000))
    side = draw(st.integers(1, 8))
    classes = draw(st.integers(1, 5))
    generator = np.random.RandomState(seed)
    coarse = generator.randint(
        0, classes + 1, (-(-rows // side), -(-cols // side))
    ).astype(np.int64)
    labels = np.kron(coarse, np.ones((side, side), dtype=np.int64))[:rows, :cols]
    labels[0, 0] = 1
    return np.ascontiguousarray(labels)


class TestRandomSplit:
    @pytest.mark.parametrize(
        ('file', 'variable', 'train', 'sizes', 'trained', 'held'),
        [
            (
                'indian_pines/Indian_pines_gt.mat',
                'indian_pines_gt',
                0.6,
                (6153, 1024, 3072),
                '28 857 498 143 290 438 17 287 12 584 1473 356 123 759 232 56',
                '18 571 332 94 193 292 11 191 8 388 982 237 82 506 154 37',
            ),
            (
                'pavia_university/PaviaU_gt.mat',
                'paviaU_gt',
                0.5,
                (21391, 4277, 17108),
                '3316 9325 1050 1532 673 2515 665 1841 474',
                '3315 9324 1049 1532 672 2514 665 1841 473',
            ),
            (
                'ksc/KSC_gt.mat',
                'KSC_gt',
                0.5,
                (2610, 521, 2080),
                '381 122 128 126 81 115 53 216 260 202 210 252 464',
                '380 121 128 126 80 114 52 215 260 202 209 251 463',
            ),
        ],
    )
    def test_counts_of_the_reference(
        self,
        real_data_dir: Path,
        file: str,
        variable: str,
        train: float,
        sizes: tuple[int, int, int],
        trained: str,
        held: str,
    ) -> None:
        labels = scipy.io.loadmat(real_data_dir / file)[variable]
        split = RandomSplit(train)(labels)
        counts = split.counts(labels)
        assert (split.train.size, split.val.size, split.test.size) == sizes
        assert counts['train'] == [int(n) for n in trained.split()]
        both = np.add(counts['val'], counts['test']).tolist()
        assert both == [int(n) for n in held.split()]
        assert set(counts['unused']) == {0}

    @pytest.mark.parametrize(
        ('train', 'sizes'),
        [
            (0.5, (5128, 1024, 4097)),
            (0.4, (4106, 1024, 5119)),
            (0.3, (3081, 1024, 6144)),
            (0.2, (2055, 1024, 7170)),
        ],
    )
    def test_other_ratios(
        self, real_data_dir: Path, train: float, sizes: tuple[int, int, int]
    ) -> None:
        path = real_data_dir / 'indian_pines/Indian_pines_gt.mat'
        split = RandomSplit(train)(scipy.io.loadmat(path)['indian_pines_gt'])
        assert (split.train.size, split.val.size, split.test.size) == sizes

    def test_golden(self) -> None:
        labels = np.array([[1, 1, 2, 2, 1], [1, 0, 2, 2, 1], [1, 2, 2, 0, 1]])
        split = RandomSplit(0.5, 0.2)(labels)
        assert indices_of(split) == GOLDEN['random']

    def test_test_share(self) -> None:
        whole = RandomSplit(0.3, 0.1)(fields())
        part = RandomSplit(0.3, 0.1, test=0.2)(fields())
        assert np.array_equal(whole.train, part.train)
        assert np.array_equal(whole.val, part.val)
        assert set(part.test) < set(whole.test)
        assert part.test.size == int(0.2 * (fields() > 0).sum())
        assert sum(part.counts(fields())['unused']) > 0

    def test_classes_missing_from_test_share(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = np.array([[1] * 80 + [2] * 4 + [3] * 4])
        with caplog.at_level(logging.WARNING):
            whole = RandomSplit(0.4, 0.0)(labels)
            assert not caplog.records
            part = RandomSplit(0.4, 0.0, test=0.02)(labels)
        assert part.counts(labels)['test'] == [1, 0, 0]
        assert '0.02, has none of the classes 2, 3;' in caplog.text
        assert np.array_equal(whole.train, part.train)
        assert part.dropped == ()

    def test_independent_of_other_generators(self) -> None:
        np.random.seed(0)
        first = RandomSplit()(fields())
        np.random.rand(10)
        assert RandomSplit()(fields()) == first
        assert RandomSplit(seed=1)(fields()) != first

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'train': 0.0}, 'train is 0.0'),
            ({'train': 1.0}, 'train is 1.0'),
            ({'val': -0.1}, 'val is -0.1'),
            ({'train': 0.7, 'val': 0.3}, 'nothing is left to test'),
            ({'test': 0.9}, 'test is 0.9'),
            ({'unserved': 'skip'}, 'unserved is'),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            RandomSplit(**arguments)

    def test_nothing_to_test(self) -> None:
        labels = np.repeat(np.arange(1, 11), 19).reshape(10, 19)
        with pytest.raises(ValueError, match='nothing is left to test'):
            RandomSplit(0.8, 0.19)(labels)


class TestUnserved:
    labels = fields()

    def with_rare(self, *sizes: int) -> Labels:
        labels = self.labels.copy()
        free = np.flatnonzero(labels.ravel() == 0)
        for i, size in enumerate(sizes):
            labels.flat[free[:size]] = 5 + i
            free = free[size:]
        return labels

    def test_error_names_class_and_remedy(self) -> None:
        with pytest.raises(ValueError, match=r"class 5: 2 pixels.*unserved='drop'"):
            RandomSplit()(self.with_rare(2))

    def test_drop(self) -> None:
        labels = self.with_rare(2)
        split = RandomSplit(unserved='drop')(labels)
        assert split.dropped == (5,)
        assert split.counts(labels)['unused'] == [0, 0, 0, 0, 2]
        assert np.array_equal(split.train, RandomSplit()(self.labels).train)

    def test_merge(self) -> None:
        labels = self.with_rare(3, 3)
        split = RandomSplit(unserved='merge')(labels)
        assert split.relabel == {6: 5}
        counts = split.counts(labels)
        assert counts['train'][4] == 3 and counts['train'][5] == 0
        assert counts['val'][4] + counts['test'][4] == 3
        assert 6 not in split.labels(labels, 'train')

    def test_all_held_out_pixels_validate(self) -> None:
        # Four pixels: one trains, three are held out, and half of those validate.
        labels = self.with_rare(4)
        served = 0
        for seed in range(30):
            split = RandomSplit(0.6, 0.3, seed, unserved='drop')(labels)
            counts = split.counts(labels)
            assert (counts['test'][4] == 0) == (split.dropped == (5,))
            if not split.dropped:
                served += 1
                assert RandomSplit(0.6, 0.3, seed)(labels) == split
                continue
            assert counts['unused'] == [0, 0, 0, 0, 4]
            for test in (None, 0.1):
                with pytest.raises(
                    ValueError, match=r"class 5: 4 pixels, .*validate.*='drop'"
                ):
                    RandomSplit(0.6, 0.3, seed, test)(labels)
        assert 0 < served < 30
        both = {
            RandomSplit(0.6, 0.3, seed, unserved='drop')(self.with_rare(4, 2)).dropped
            for seed in range(30)
        }
        assert both == {(6,), (5, 6)}

    def test_merge_that_does_not_help(self) -> None:
        with pytest.raises(ValueError, match='after merging'):
            RandomSplit(unserved='merge')(self.with_rare(2))

    def test_no_class_left(self) -> None:
        labels = np.array([[1, 1, 0, 2]])
        with pytest.raises(ValueError, match='can serve no class'):
            RandomSplit(unserved='drop')(labels)

    def test_disjoint_error(self) -> None:
        with pytest.raises(ValueError, match='class 5: 4 pixels, of which'):
            DisjointSplit()(self.with_rare(4), 3)


class TestCountSplit:
    def test_counts(self) -> None:
        labels = fields()
        split = CountSplit(7, val=3)(labels)
        counts = split.counts(labels)
        assert counts['train'] == [7] * 4
        assert counts['val'] == [3] * 4
        assert counts['unused'] == [0] * 4

    def test_list(self) -> None:
        labels = fields()
        split = CountSplit([1, 2, 3, 4], val=0)(labels)
        assert split.counts(labels)['train'] == [1, 2, 3, 4]
        with pytest.raises(ValueError, match='there is a class 4'):
            CountSplit([1, 2, 3])(labels)

    def test_golden(self) -> None:
        split = CountSplit(1, val=1, seed=7)(fields(6, 8, 4))
        assert indices_of(split) == GOLDEN['count']

    def test_bad(self) -> None:
        with pytest.raises(ValueError, match='per_class is 0'):
            CountSplit(0)
        with pytest.raises(
            ValueError, match='val is -1, expected a whole number from 0'
        ):
            CountSplit(1, val=-1)
        with pytest.raises(ValueError, match='none is left to test'):
            CountSplit(10_000)(fields())


class TestMaskSplit:
    def masks(self, folder: Path) -> tuple[Labels, str, str]:
        labels = fields()
        train = np.where(np.arange(labels.shape[1]) < 20, labels, 0)
        test = np.where(np.arange(labels.shape[1]) >= 20, labels, 0)
        scipy.io.savemat(folder / 'train.mat', {'TRLabel': train.astype(np.uint8)})
        np.save(folder / 'test.npy', test.astype(bool))
        return labels, str(folder / 'train.mat'), str(folder / 'test.npy')

    def test_masks(self, tmp_path: Path) -> None:
        labels, train, test = self.masks(tmp_path)
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
        labels, train, _ = self.masks(tmp_path)
        with pytest.raises(ValueError, match=r'share .* pixels'):
            MaskSplit(train, train)(labels)

    def test_unlabelled_pixels(self, tmp_path: Path) -> None:
        labels, train, test = self.masks(tmp_path)
        full = labels.copy()
        labels[1, 1] = 0
        with pytest.raises(ValueError, match='1 pixels that have no label'):
            MaskSplit(train, test)(labels)
        split = MaskSplit(train, test, unlabelled='drop')(labels)
        assert split.train.size + split.val.size < MaskSplit(train)(full).shape[0] ** 2
        assert labels.shape[1] + 1 not in split.train

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
        labels, train, test = self.masks(tmp_path)
        MaskSplit(train, test)(labels)
        MaskSplit(train)(np.where(labels > 0, labels * 2, 0))
        assert caplog.text == ''
        mask = np.where(np.arange(labels.shape[1]) < 20, labels, 0)
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

    def test_nodata_is_outside(self, tmp_path: Path) -> None:
        mask = np.full((1, 4, 5), 255, dtype=np.uint8)
        mask[0, :2] = 3
        mask[0, 2] = 0
        path = geotiff.write(tmp_path / 'mask.tif', mask, nodata=255)
        assert np.array_equal(read_mask(path), np.repeat([3, 3, 0, 0], 5).reshape(4, 5))

    @pytest.mark.parametrize('file', ['scene.hdr', 'scene.dat'])
    def test_envi_as_torchgeo_configures_gdal(self, tmp_path: Path, file: str) -> None:
        rasterio = pytest.importorskip('rasterio')
        same = np.repeat(envi.cube_of()[:, :, :1], envi.BANDS, axis=2)
        envi.make(tmp_path, cube=same)
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR'):
            mask = read_mask(tmp_path / file)
        assert np.array_equal(mask, envi.cube_of()[:, :, 0])

    def test_bad_files(self, tmp_path: Path) -> None:
        labels, train, test = self.masks(tmp_path)
        with pytest.raises(FileNotFoundError, match='nowhere'):
            MaskSplit(str(tmp_path / 'nowhere.npy'))(labels)
        with pytest.raises(ValueError, match='has shape'):
            MaskSplit(train, test)(labels[:-1])
        (tmp_path / 'broken.tif').write_bytes(b'no raster')
        with pytest.raises(ValueError, match='cannot be read'):
            MaskSplit(str(tmp_path / 'broken.tif'))(labels)
        with pytest.raises(ValueError, match='TRLabel'):
            MaskSplit(train, train_variable='TR')(labels)

    def test_class_without_test_pixels(self, tmp_path: Path) -> None:
        labels, train, _ = self.masks(tmp_path)
        labels = np.where(labels == 2, np.where(np.arange(48) < 20, 2, 0), labels)
        with pytest.raises(ValueError, match=r'class 2: .* 0 test pixels'):
            MaskSplit(train)(labels)
        split = MaskSplit(train, unserved='drop')(labels)
        assert split.dropped == (2,)


class TestBlockSplit:
    def test_blocks_are_whole(self) -> None:
        labels = fields()
        split = BlockSplit(block_size=6)(labels)
        owner: dict[tuple[int, int], str] = {}
        for name in ('train', 'val', 'test'):
            for row, col in split.positions(name):
                assert owner.setdefault((row // 6, col // 6), name) == name
        assert all(n > 0 for n in split.counts(labels)['train'])
        assert all(n > 0 for n in split.counts(labels)['test'])

    def test_ratios(self) -> None:
        labels = np.ones((64, 64), dtype=np.int64)
        split = BlockSplit(block_size=4, train=0.5, val=0.25)(labels)
        assert abs(split.train.size / labels.size - 0.5) < 0.05
        assert abs(split.val.size / labels.size - 0.25) < 0.05

    def test_no_validation(self) -> None:
        assert BlockSplit(block_size=6, val=0.0)(fields()).val.size == 0

    def test_golden(self) -> None:
        split = BlockSplit(block_size=2, seed=3)(fields(6, 8, 4))
        assert indices_of(split) == GOLDEN['blocks']

    @pytest.mark.parametrize('guard', ['none', 'centre', 'patch'])
    @pytest.mark.parametrize('patch_size', [1, 3, 5, 7, 9, 11])
    def test_guard(self, guard: Any, patch_size: int) -> None:
        protocol = BlockSplit(block_size=32, val=0.2, guard=guard)
        split = checked_split(protocol, fields(160, 160), patch_size)
        assert split is not None and split.dropped == () and split.val.size > 0

    def test_bad(self) -> None:
        with pytest.raises(ValueError, match='block_size is 0'):
            BlockSplit(0)
        with pytest.raises(ValueError, match='guard is'):
            BlockSplit(guard='far')  # type: ignore[arg-type]


class TestDisjointSplit:
    @pytest.mark.parametrize('guard', ['centre', 'patch'])
    @pytest.mark.parametrize('patch_size', [1, 3, 5, 7])
    def test_fields(self, guard: Any, patch_size: int) -> None:
        labels = fields(72, 72)
        split = DisjointSplit(guard=guard)(labels, patch_size)
        guarded = guard_distance(guard, patch_size)
        for a, b in (('train', 'test'), ('val', 'test'), ('train', 'val')):
            assert distances(split, a, b) > guarded
        counts = split.counts(labels)
        assert min(counts['train']) >= 5 and min(counts['test']) >= 5
        overlap = split.overlap(patch_size)
        assert overlap.contains_training_centre == 0
        if guard == 'patch':
            assert overlap.shares_training_pixel == 0

    def test_golden(self) -> None:
        split = DisjointSplit(seed=2, attempts=4)(fields(), 5)
        assert split.pixels_digest() == GOLDEN_DISJOINT

    @pytest.mark.parametrize(
        ('file', 'variable', 'guard', 'patch_size', 'unserved'),
        [
            ('indian_pines/Indian_pines_gt.mat', 'indian_pines_gt', 'centre', 7, ()),
            ('indian_pines/Indian_pines_gt.mat', 'indian_pines_gt', 'patch', 7, (7, 9)),
            ('salinas_a/SalinasA_gt.mat', 'salinasA_gt', 'patch', 11, ()),
            ('ksc/KSC_gt.mat', 'KSC_gt', 'patch', 7, ()),
        ],
    )
    def test_real_maps(
        self,
        real_data_dir: Path,
        file: str,
        variable: str,
        guard: Any,
        patch_size: int,
        unserved: tuple[int, ...],
    ) -> None:
        stored = scipy.io.loadmat(real_data_dir / file)[variable]
        labels = np.searchsorted(np.unique(stored), stored).astype(np.int64)
        split = DisjointSplit(guard=guard, unserved='drop')(labels, patch_size)
        assert split.dropped == unserved
        assert split.overlap(patch_size).contains_training_centre == 0
        assert split.val.size > 0

    def test_no_place_for_validation(self) -> None:
        labels = np.ones((4, 40), dtype=np.int64)
        with pytest.raises(ValueError, match='validation pixels'):
            DisjointSplit(min_pixels=1)(labels, 33)
        assert DisjointSplit(val=0.0, min_pixels=1)(labels, 33).test.size > 0

    def test_bad(self) -> None:
        with pytest.raises(ValueError, match='guard is'):
            DisjointSplit(guard='none')  # type: ignore[arg-type]
        with pytest.raises(ValueError, match='min_pixels is 0'):
            DisjointSplit(min_pixels=0)
        with pytest.raises(ValueError, match='patch_size is 4'):
            DisjointSplit()(fields(), 4)


def drawn(protocol: type[SplitProtocol], **arguments: Any) -> Any:
    """Protocols of a class that leave out the classes they cannot serve."""
    return st.builds(
        protocol, seed=st.integers(0, 5), unserved=st.just('drop'), **arguments
    )


VAL = st.sampled_from([0.0, 0.1, 0.3])
RANDOM = drawn(RandomSplit, train=st.sampled_from([0.05, 0.6]), val=VAL)
BLOCKS = drawn(
    BlockSplit,
    block_size=st.integers(1, 12),
    val=VAL,
    guard=st.sampled_from(['none', 'centre', 'patch']),
)
DISJOINT = drawn(
    DisjointSplit,
    val=VAL,
    guard=st.sampled_from(['centre', 'patch']),
    min_pixels=st.just(1),
    attempts=st.just(3),
)
PROTOCOLS: dict[str, Any] = {
    'random': RANDOM,
    'count': drawn(CountSplit, per_class=st.integers(1, 3), val=st.integers(0, 1)),
    'blocks': BLOCKS,
    'disjoint': DISJOINT,
    'matched': st.builds(
        MatchedSplit,
        split=RANDOM | BLOCKS | DISJOINT,
        to=RANDOM | BLOCKS | DISJOINT,
        seed=st.integers(0, 5),
    ),
}


class TestEverySplit:
    @pytest.mark.parametrize('name', PROTOCOLS)
    @quick
    @given(data=st.data(), labels=label_maps(), radius=st.integers(0, 4))
    def test_property(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        data: st.DataObject,
        labels: Labels,
        radius: int,
    ) -> None:
        protocol = data.draw(PROTOCOLS[name])
        split = checked_split(protocol, labels, 2 * radius + 1)
        if split is not None:
            path = split.save(tmp_path_factory.mktemp('split') / 'split.npz')
            saved = SavedSplit(str(path))
            assert checked_split(saved, labels, 2 * radius + 1) == split

    @quick
    @given(labels=label_maps(), radius=st.integers(0, 5), seed=st.integers(0, 9))
    def test_overlap_by_brute_force(
        self, labels: Labels, radius: int, seed: int
    ) -> None:
        pixels = np.flatnonzero(labels.ravel())
        np.random.RandomState(seed).shuffle(pixels)
        cut = max(1, len(pixels) // 4)
        split = Split(
            'any',
            {},
            (labels.shape[0], labels.shape[1]),
            train=pixels[:cut],
            val=pixels[:0],
            test=pixels[cut:],
        )
        size = 2 * radius + 1
        rows, cols = labels.shape
        seen = np.zeros((rows + 2 * radius, cols + 2 * radius), dtype=bool)
        centres = seen.copy()
        for row, col in split.positions('train'):
            seen[row : row + size, col : col + size] = True
            centres[row + radius, col + radius] = True
        # Only pixels of the scene count, not its padding.
        inside = np.zeros_like(seen)
        inside[radius : radius + rows, radius : radius + cols] = True
        shared, contained = [], []
        for row, col in split.positions('test'):
            window = (slice(row, row + size), slice(col, col + size))
            shared.append((seen & inside)[window].any())
            contained.append(centres[window].any())
        overlap = split.overlap(size)
        if not shared:
            assert overlap == (0.0, 0.0)
            return
        assert overlap.contains_training_centre == pytest.approx(np.mean(contained))
        assert overlap.shares_training_pixel == pytest.approx(np.mean(shared))

    def test_other_process(self, tmp_path: Path) -> None:
        """Another process, with another hash seed, draws the same pixels."""
        labels = fields()
        train = str(tmp_path / 'train.npy')
        np.save(train, (labels > 0) & (np.arange(labels.shape[1]) % 3 == 0))
        code = (
            'import numpy as np\n'
            'from torchgeo_ekgnet.datasets.splits import *\n'
            'row, col = np.indices((40, 48))\n'
            'labels = (row // 12 + 2 * (col // 12)) % 4 + 1\n'
            'labels = np.where((row % 12 == 0) | (col % 12 == 0), 0, labels)\n'
            'protocols = RandomSplit(), CountSplit(), BlockSplit(), DisjointSplit()\n'
            f'masks = MaskSplit({train!r}, val=0.2)\n'
            'for p in (*protocols, MatchedSplit(), masks):\n'
            '    print(p(labels, 5).identity())\n'
        )
        result = subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            check=True,
            env={'PYTHONHASHSEED': '1', 'OMP_NUM_THREADS': '1'},
        )
        protocols = RandomSplit(), CountSplit(), BlockSplit(), DisjointSplit()
        masks = MaskSplit(train, val=0.2)
        here = [p(labels, 5).identity() for p in (*protocols, MatchedSplit(), masks)]
        assert result.stdout.split() == here

    @pytest.mark.parametrize(
        ('labels', 'error', 'message'),
        [
            (np.ones((3, 3)), TypeError, 'has type float64'),
            (np.ones(3, dtype=int), ValueError, 'expected'),
            (np.zeros((3, 3), dtype=int), ValueError, 'no labelled pixel'),
            (-np.ones((3, 3), dtype=int), ValueError, 'label -1'),
        ],
    )
    def test_bad_label_maps(
        self, labels: NDArray[Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            RandomSplit()(labels)

    def test_repr(self) -> None:
        assert repr(RandomSplit(0.5)).startswith('RandomSplit(train=0.5, val=0.1')


class TestSplit:
    def test_bad_indices(self) -> None:
        empty = np.empty(0, dtype=np.int64)
        with pytest.raises(ValueError, match='expected 0 to 8'):
            Split('any', {}, (3, 3), np.array([9]), empty, empty)
        with pytest.raises(ValueError, match='disjoint'):
            Split('any', {}, (3, 3), np.array([1]), np.array([1]), empty)

    def test_other_scene(self) -> None:
        split = RandomSplit()(fields())
        with pytest.raises(ValueError, match='another scene'):
            split.counts(fields(41))
        with pytest.raises(ValueError, match='another label map'):
            split.labels(np.zeros_like(fields()), 'train')
        with pytest.raises(ValueError, match='subset is'):
            split.mask('all')

    def test_positions(self) -> None:
        split = RandomSplit()(fields())
        rows, cols = split.positions('test').T
        assert split.mask('test')[rows, cols].all()
        assert np.array_equal(rows * split.shape[1] + cols, split.test)

    def test_identity_depends_on_pixels(self) -> None:
        split = RandomSplit()(fields())
        moved = Split(
            'random', {}, split.shape, split.train, split.test, split.val
        ).identity()
        assert moved != split.identity()
        assert len(split.identity()) == 64
        assert hash(split) == hash(RandomSplit()(fields()))

    @pytest.mark.parametrize(
        'changes',
        [
            {'protocol': 'disjoint'},
            {'settings': {'train': 0.6, 'seed': 7}},
            {'settings': {}},
            {'dropped': [3]},
            {'dropped': []},
            {'relabel': {'2': 1}},
            {'shape': [40, 49]},
            {'identity': 64 * '0'},
        ],
        ids=str,
    )
    @pytest.mark.parametrize('name', ['split.npz', 'split.json'])
    def test_identity_covers_what_is_said_of_the_pixels(
        self, tmp_path: Path, changes: dict[str, Any], name: str
    ) -> None:
        split = RandomSplit(unserved='drop')(TestUnserved().with_rare(2))
        path = split.save(tmp_path / name)
        if name == 'split.json':
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        else:
            with np.load(path) as archive:
                arrays = dict(archive)
            said = json.loads(str(arrays['description'])) | changes
            arrays['description'] = np.array(json.dumps(said))
            np.savez(path, **arrays)
        with pytest.raises(FileError, match='was changed after it was written'):
            Split.load(path)

    def test_who_drew_the_pixels_is_in_the_identity_only(self) -> None:
        split = RandomSplit()(fields())
        other = Split('own', {}, split.shape, split.train, split.val, split.test)
        assert other == split and hash(other) == hash(split)
        assert other.pixels_digest() == split.pixels_digest()
        assert other.identity() != split.identity()

    def test_where_masks_lie_is_not_in_the_identity(self, tmp_path: Path) -> None:
        found = []
        for folder in (tmp_path / 'here', tmp_path / 'there'):
            folder.mkdir()
            labels, train, test = TestMaskSplit().masks(folder)
            found.append(MaskSplit(train, test)(labels).identity())
        assert found[0] == found[1]

    def test_describe_is_json(self) -> None:
        split = RandomSplit()(fields())
        description = json.loads(json.dumps(split.describe()))
        assert description['protocol'] == 'random'
        assert description['settings']['seed'] == 1331
        assert description['sizes']['train'] == split.train.size

    @pytest.mark.parametrize('name', ['split.npz', 'split.json'])
    def test_round_trip(self, tmp_path: Path, name: str) -> None:
        split = RandomSplit(unserved='merge')(TestUnserved().with_rare(3, 3))
        path = split.save(tmp_path / 'run' / name)
        loaded = Split.load(path)
        assert loaded == split
        assert loaded.describe() == split.describe()
        assert indices_of(loaded) == indices_of(split)

    def test_bad_files(self, tmp_path: Path) -> None:
        split = RandomSplit()(fields())
        with pytest.raises(ValueError, match=r'expected \.npz or \.json'):
            split.save(tmp_path / 'split.txt')
        with pytest.raises(FileNotFoundError, match='nowhere'):
            Split.load(tmp_path / 'nowhere.npz')
        (tmp_path / 'empty.json').write_text('{}')
        with pytest.raises(ValueError, match='cannot be read as a split file'):
            Split.load(tmp_path / 'empty.json')
        (tmp_path / 'broken.npz').write_bytes(b'PK')
        with pytest.raises(ValueError, match='cannot be read as a split file'):
            Split.load(tmp_path / 'broken.npz')

    @pytest.mark.parametrize(
        'changes',
        [
            {'relabel': 3},
            {'relabel': {'a': 1}},
            {'identity': 1},
            {'train': [2**70]},
            {'train': [-1]},
            {'train': [[1, 2], [3]]},
            {'val': 'abc'},
            {'shape': [float('inf'), 1]},
            {'shape': [30]},
            {'shape': None},
            {'settings': 7},
            {'dropped': {'a': 1}},
            {'train_labels': [1]},
        ],
        ids=str,
    )
    def test_damaged_json(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        path = RandomSplit()(fields()).save(tmp_path / 'split.json')
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(FileError, match=r'split\.json') as failure:
            Split.load(path)
        assert '\n' not in str(failure.value)

    @pytest.mark.parametrize('content', [b'', b'[]', b'{', b'\xff\xfe', b'null', b'{}'])
    @pytest.mark.parametrize('name', ['split.json', 'split.npz'])
    def test_no_split_file(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=name):
            Split.load(tmp_path / name)

    @quick
    @given(
        name=st.sampled_from(['split.npz', 'split.json']),
        place=st.floats(0, 1, exclude_max=True),
        kind=st.sampled_from(['flip', 'cut', 'insert']),
        value=st.integers(0, 255),
    )
    def test_mutated_file(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        place: float,
        kind: str,
        value: int,
    ) -> None:
        """A mutated file is refused in one line, or gives the same split."""
        split = CountSplit(4)(fields())
        path = split.save(tmp_path_factory.mktemp('mutated') / name)
        content = path.read_bytes()
        at = int(place * len(content))
        tail = {'flip': content[at + 1 :], 'cut': b'', 'insert': content[at:]}[kind]
        path.write_bytes(content[:at] + bytes([value]) + tail)
        try:
            loaded = Split.load(path)
        except FileError as error:
            assert name in str(error) and '\n' not in str(error)
        else:
            assert loaded == split

    def test_changed_file(self, tmp_path: Path) -> None:
        path = RandomSplit()(fields()).save(tmp_path / 'split.json')
        content = json.loads(path.read_text())
        content['train'].append(content['test'].pop())
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match='was changed'):
            Split.load(path)

    def test_saved_split(self, tmp_path: Path) -> None:
        split = CountSplit(4)(fields())
        path = split.save(tmp_path / 'split.npz')
        assert SavedSplit(str(path))(fields(), 7) == split
        assert SavedSplit(str(path))(fields()).protocol == 'count'
        with pytest.raises(ValueError, match='another scene'):
            SavedSplit(str(path))(fields(41))


@pytest.mark.parametrize(
    ('protocol', 'options'),
    [
        (RandomSplit, {'seed': -1}),
        (RandomSplit, {'seed': 0.5}),
        (RandomSplit, {'train': float('nan')}),
        (RandomSplit, {'val': float('inf')}),
        (RandomSplit, {'test': float('nan')}),
        (CountSplit, {'seed': 2**32}),
        (CountSplit, {'per_class': float('nan')}),
        (CountSplit, {'per_class': 2.5}),
        (CountSplit, {'per_class': []}),
        (CountSplit, {'per_class': [3, 0]}),
        (CountSplit, {'val': True}),
        (BlockSplit, {'block_size': float('nan')}),
        (BlockSplit, {'val': float('nan')}),
        (DisjointSplit, {'attempts': float('inf')}),
        (DisjointSplit, {'min_pixels': 1.5}),
        (MatchedSplit, {'seed': -1}),
        (partial(MaskSplit, 'mask.npy'), {'val': float('nan')}),
        (partial(MaskSplit, 'mask.npy'), {'seed': -3}),
    ],
)
def test_options_without_meaning(protocol: Any, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf'^{name} is .*expected'):
        protocol(**options)


@pytest.mark.parametrize(
    'per_class', [np.int64(4), np.uint8(4), [np.int64(4)] * 4, np.full(4, 4)]
)
def test_numpys_counts_are_as_good_as_pythons(per_class: Any) -> None:
    val: Any = np.int32(1)
    seed: Any = np.int64(1331)
    split = CountSplit(per_class, val, seed)(fields())
    assert split.counts(fields())['train'] == [4] * 4
    assert indices_of(split) == indices_of(CountSplit(4, val=1)(fields()))
    json.dumps(split.describe())


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
        split = GroupSplit('owners.npy').bind(SplitContext(root=str(tmp_path)))(labels)
        for owner in range(1, 9):
            inside = (owners == owner) & (labels > 0)
            assert len({n for n in SUBSETS if split.mask(n)[inside].any()}) == 1
        # Pixels in no group are in no subset.
        assert not any(split.mask(name)[owners == 0].any() for name in SUBSETS)
        assert 'tmp' not in str(split.settings)
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

    @pytest.mark.parametrize(
        'options', [{'fold': 5}, {'fold': -1}, {'folds': 1}, {'val': 1.0}]
    )
    def test_bad_arguments(self, options: dict[str, Any]) -> None:
        (name,) = options
        with pytest.raises(ValueError, match=rf'^{name} is'):
            FoldSplit(**options)


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

    def test_pixels_that_only_the_masks_label(self, tmp_path: Path) -> None:
        labels, protocol = self.make(tmp_path)
        split = protocol(labels)
        used = sum(split.indices(name).size for name in SUBSETS)
        assert used == (fields() > 0).sum() > (labels > 0).sum()
        for name in SUBSETS:
            expected = fields().flat[split.indices(name)]
            assert np.array_equal(split.labels(labels, name), expected)
        assert set(split.counts(labels)['unused']) == {0}

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


class TestCommunity:
    def test_pixels(self, real_data_dir: Path) -> None:
        """Counts that the masks' publishers give, and the shares of the docs."""
        path = real_data_dir / 'indian_pines/Indian_pines_gt.mat'
        labels = scipy.io.loadmat(path)['indian_pines_gt']
        context = SplitContext(root=str(real_data_dir))
        split = CommunitySplit('dase', val=0).bind(context)(labels, 7)
        assert (split.train.size, split.test.size) == (5538, 4711)
        assert [round(share, 3) for share in split.overlap(7)] == [0.558, 0.910]
        path = real_data_dir / 'pavia_university/PaviaU_gt.mat'
        labels = scipy.io.loadmat(path)['paviaU_gt']
        split = CommunitySplit('pavia_fixed', val=0).bind(context)(labels, 7)
        assert (split.train.size, split.test.size) == (3921, 40002)
        outside = (labels.flat[split.train] == 0).sum()
        assert outside == 1147
        assert split.labels(labels, 'train').min() == 1

    def test_names(self) -> None:
        with pytest.raises(
            ValueError, match=r"split is 'grss', expected one of.*'dase'"
        ):
            as_protocol('grss')
        protocol = as_protocol('dase')
        assert isinstance(protocol, CommunitySplit) and protocol.masks == 'dase'
        assert as_protocol(None) is None
        random_split = RandomSplit()
        assert as_protocol(random_split) is random_split

    def test_missing_or_other_masks(self, tmp_path: Path) -> None:
        protocol = CommunitySplit('dase').bind(SplitContext(root=str(tmp_path)))
        with pytest.raises(
            FileNotFoundError, match=r'indianpines_disjoint_dset\.mat.*download.*md5'
        ):
            protocol(fields())
        (tmp_path / 'splits').mkdir()
        (tmp_path / 'splits' / 'indianpines_disjoint_dset.mat').write_bytes(b'other')
        with pytest.raises(ValueError, match='not the published mask: md5 is'):
            protocol(fields())


def test_messages_call_classes_by_value_and_name() -> None:
    context = SplitContext({5: '12 (oats)'})
    labels = TestUnserved().with_rare(2)
    for protocol in (RandomSplit(), CountSplit(3), MatchedSplit(RandomSplit())):
        with pytest.raises(ValueError, match=r'class 12 \(oats\): 2 pixels'):
            protocol.bind(context)(labels)
    plain = RandomSplit(unserved='drop')
    assert plain.bind(context)(labels) == plain(labels)


class TestComparison:
    def test_match_counts(self) -> None:
        labels = fields(72, 72)
        split, other = RandomSplit(0.6)(labels), CountSplit(9)(labels)
        matched = match_counts(split, other, labels)
        assert matched.counts(labels)['train'] == [9] * 4
        assert set(matched.train) < set(split.train)
        assert np.array_equal(matched.test, split.test)
        assert 'matched to count' in matched.protocol
        assert matched == match_counts(split, other, labels)
        assert matched != match_counts(split, other, labels, seed=1)

    def test_classes_in_common(self) -> None:
        labels = TestUnserved().with_rare(6)
        comparison = compare_protocols(labels, 7)
        assert 5 in comparison.unserved
        assert set(comparison.classes) | set(comparison.unserved) == {1, 2, 3, 4, 5}
        random, disjoint = comparison.random, comparison.disjoint
        counts = random.counts(labels)
        assert counts['train'] == disjoint.counts(labels)['train']
        assert counts['test'][4] == 0 and counts['val'][4] == 0
        assert comparison.overlap['disjoint'] == (0.0, 0.0)
        assert comparison.overlap['random'].shares_training_pixel > 0.5

    def test_matched_protocols(self) -> None:
        labels = fields(72, 72)
        random = MatchedSplit(seed=3)(labels, 5)
        # Seeds of the protocols themselves give way: repetitions stay comparable.
        disjoint = MatchedSplit(
            DisjointSplit(unserved='drop'), RandomSplit(unserved='drop'), seed=3
        )(labels, 5)
        assert random.counts(labels)['train'] == disjoint.counts(labels)['train']
        comparison = compare_protocols(labels, 5, seed=3)
        assert (random, disjoint) == (comparison.random, comparison.disjoint)
        assert random.settings['matched_to']['guard'] == 'patch'
        assert MatchedSplit(seed=4)(labels, 5) != random
        assert MatchedSplit(RandomSplit(), CountSplit(3)).settings['to'] == {
            'protocol': 'count',
            **CountSplit(3, seed=1331).settings,
        }

    def test_different_merges(self) -> None:
        labels = TestUnserved().with_rare(8, 8)
        merging = RandomSplit(0.05, unserved='drop'), DisjointSplit(unserved='merge')
        with pytest.raises(ValueError, match=r"\{\} and \{6: 5\}.*unserved='drop'"):
            compare_protocols(labels, 1, *merging)

    def test_nothing_in_common(self) -> None:
        labels = np.array([[1, 1, 1, 2, 2, 2]])
        empty = np.empty(0, dtype=np.int64)
        one = Split('a', {}, (1, 6), np.array([0]), empty, np.array([1]))
        two = Split('b', {}, (1, 6), np.array([3]), empty, np.array([4]))
        with pytest.raises(ValueError, match='no class in common'):
            match_counts(one, two, labels)


GOLDEN: dict[str, list[list[int]]] = {
    'random': [[2, 3, 4, 5, 9, 12, 14], [10, 11], [0, 1, 7, 8]],
    'count': [
        [11, 30, 41, 47],
        [21, 26, 42, 46],
        [9, 10, 13, 14, 15, 17, 18, 19, 22, 23, 25, 27, 29, 31, 43, 45],
    ],
    'blocks': [
        [13, 18, 19, 22, 23, 26, 27, 30, 31, 42, 43, 46, 47],
        [9],
        [10, 11, 14, 15, 17, 21, 25, 29, 41, 45],
    ],
}
GOLDEN_DISJOINT = '43c0cc191cd4cfe3d00ca23a3242ffc37729202c31a9cca60b5d9a1ba2cde992'
