# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits into blocks and fields."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from torchgeo_ekgnet.datasets.splits import BlockSplit, DisjointSplit, guard_distance

from .maps import GOLDEN, checked_split, distances, fields, indices_of


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

    def test_least_pixels_come_before_shares(self) -> None:
        line = np.ones((1, 10), dtype=np.int64)
        split = DisjointSplit(train=0.9, val=0.0)(line)
        assert (split.train.size, split.test.size) == (5, 5)
        line = np.ones((1, 60), dtype=np.int64)
        split = DisjointSplit(train=0.5, val=0.02)(line, 3)
        assert split.val.size == 5

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


GOLDEN_DISJOINT = '43c0cc191cd4cfe3d00ca23a3242ffc37729202c31a9cca60b5d9a1ba2cde992'
