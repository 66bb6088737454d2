# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits that draw single pixels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from torchgeo_ekgnet.datasets.splits import CountSplit, DisjointSplit, RandomSplit

from .maps import GOLDEN, fields, indices_of, with_rare


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
        assert RandomSplit(0.3, 0.1, test=1e-6)(fields()).test.size == 1

    def test_classes_missing_from_test_share(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = np.array([[1] * 80 + [2] * 4 + [3] * 4])
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

    def test_error_names_class_and_remedy(self) -> None:
        with pytest.raises(ValueError, match=r"class 5: 2 pixels.*unserved='drop'"):
            RandomSplit()(with_rare(2))

    def test_drop(self) -> None:
        labels = with_rare(2)
        split = RandomSplit(unserved='drop')(labels)
        assert split.dropped == (5,)
        assert split.counts(labels)['unused'] == [0, 0, 0, 0, 2]
        assert np.array_equal(split.train, RandomSplit()(self.labels).train)

    def test_merge(self) -> None:
        labels = with_rare(3, 3)
        split = RandomSplit(unserved='merge')(labels)
        assert split.relabel == {6: 5}
        counts = split.counts(labels)
        assert counts['train'][4] == 3 and counts['train'][5] == 0
        assert counts['val'][4] + counts['test'][4] == 3
        assert 6 not in split.labels(labels, 'train')
        untested = replace(split, test=split.test[:0])
        assert untested.counts(labels)['unused'] == counts['test']

    def test_all_held_out_pixels_validate(self) -> None:
        # Four pixels: one trains, three are held out, and half of those validate.
        labels = with_rare(4)
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
            RandomSplit(0.6, 0.3, seed, unserved='drop')(with_rare(4, 2)).dropped
            for seed in range(30)
        }
        assert both == {(6,), (5, 6)}

    def test_merge_that_does_not_help(self) -> None:
        with pytest.raises(ValueError, match='after merging'):
            RandomSplit(unserved='merge')(with_rare(2))

    def test_no_class_left(self) -> None:
        labels = np.array([[1, 1, 0, 2]])
        with pytest.raises(ValueError, match='can serve no class'):
            RandomSplit(unserved='drop')(labels)

    def test_disjoint_error(self) -> None:
        with pytest.raises(ValueError, match='class 5: 4 pixels, of which'):
            DisjointSplit()(with_rare(4), 3)


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
