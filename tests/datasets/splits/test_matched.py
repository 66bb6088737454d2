# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Protocols with as many training pixels a class."""

import numpy as np
import pytest

from torchgeo_ekgnet.datasets.splits import (
    SUBSETS,
    CountSplit,
    DisjointSplit,
    MatchedSplit,
    RandomSplit,
    Split,
    SplitContext,
    compare_protocols,
    match_counts,
)

from .maps import fields, with_rare


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
        labels = with_rare(6)
        comparison = compare_protocols(labels, 7)
        assert 5 in comparison.unserved
        assert set(comparison.classes) | set(comparison.unserved) == {1, 2, 3, 4, 5}
        random, disjoint = comparison.random, comparison.disjoint
        assert random.dropped == disjoint.dropped == comparison.unserved
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
        labels = with_rare(8, 8)
        merging = RandomSplit(0.05, unserved='drop'), DisjointSplit(unserved='merge')
        with pytest.raises(ValueError, match=r"\{\} and \{6: 5\}.*unserved='drop'"):
            compare_protocols(labels, 1, *merging)

    def test_what_a_split_says_of_its_classes_is_kept(self) -> None:
        labels = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 0]])
        pixels = np.array([5, 0, 4, 1, 8]), np.array([6]), np.array([9, 3, 7, 2])
        own = {
            name: labels[0, part] for name, part in zip(SUBSETS, pixels, strict=True)
        }
        split = Split('a', {}, (1, 12), *pixels, relabel={3: 2}, own_labels=own)
        other = Split(
            'b', {}, (1, 12), pixels[0][1:3], pixels[1], pixels[2], relabel={3: 2}
        )
        matched = match_counts(split, other, labels)
        assert matched.counts(labels)['train'] == [1, 1, 0, 0]
        assert (matched.relabel, matched.dropped) == ({3: 2}, (4,))
        for name in SUBSETS:
            found = labels.ravel()[matched.indices(name)]
            assert matched.own_labels is not None
            assert matched.own_labels[name].tolist() == found.tolist()

    def test_protocols_are_copied_with_the_seed(self) -> None:
        random, disjoint = RandomSplit(seed=7), DisjointSplit(seed=8)
        matched = MatchedSplit(random, disjoint, seed=3)
        seeds = [matched.settings[name]['seed'] for name in ('split', 'to')]
        assert seeds == [3, 3]
        assert (random.seed, disjoint.seed) == (7, 8)
        assert not matched.spatial and MatchedSplit(disjoint, random).spatial
        bound = matched.bind(SplitContext(root='here'))
        assert bound.split.context.root == bound.to.context.root == 'here'

    def test_nothing_in_common(self) -> None:
        labels = np.array([[1, 1, 1, 2, 2, 2]])
        empty = np.empty(0, dtype=np.int64)
        one = Split('a', {}, (1, 6), np.array([0]), empty, np.array([1]))
        two = Split('b', {}, (1, 6), np.array([3]), empty, np.array([4]))
        with pytest.raises(ValueError, match='no class in common'):
            match_counts(one, two, labels)
