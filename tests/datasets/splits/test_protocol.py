# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What holds of every protocol."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from torchgeo_ekgnet.datasets.splits import (
    BlockSplit,
    CountSplit,
    DisjointSplit,
    MaskSplit,
    MatchedSplit,
    RandomSplit,
    SavedSplit,
    Split,
    SplitContext,
    SplitProtocol,
)

from .maps import Labels, checked_split, label_maps, quick, with_rare


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


def test_messages_call_classes_by_value_and_name() -> None:
    context = SplitContext({5: '12 (oats)'})
    labels = with_rare(2)
    for protocol in (RandomSplit(), CountSplit(3), MatchedSplit(RandomSplit())):
        with pytest.raises(ValueError, match=r'class 12 \(oats\): 2 pixels'):
            protocol.bind(context)(labels)
    plain = RandomSplit(unserved='drop')
    assert plain.bind(context)(labels) == plain(labels)
