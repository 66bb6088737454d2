# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What holds of every protocol."""

import contextlib
from functools import partial
from pathlib import Path
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
    DrawnSplit,
    MaskSplit,
    MatchedSplit,
    RandomSplit,
    SavedSplit,
    Split,
    SplitContext,
    SplitProtocol,
)
from torchgeo_ekgnet.datasets.splits.protocol import (
    Unserved,
    check_ratios,
    classes_of,
    joined,
    pixels_of,
)
from torchgeo_ekgnet.datasets.splits.split import Indices

from .maps import Labels, checked_split, indices_of, label_maps, quick, with_rare


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

    def test_which_keep_patches_apart(self) -> None:
        assert DisjointSplit.spatial and not RandomSplit.spatial
        assert not MaskSplit.spatial and not SavedSplit.spatial


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
    assert plain.context == SplitContext({}, None, 'data', False)


class Ends(DrawnSplit):
    """The first pixel of a class trains, the last tests, the second validates."""

    name = 'ends'
    files = ('path',)

    def __init__(self, path: str = '', unserved: Unserved = 'error') -> None:
        super().__init__(unserved)
        self.path = path

    def _reason(self, label: int, label_map: Labels) -> str | None:
        count = len(pixels_of(label_map, label))
        return f'{count} pixels' if count < 3 else None

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        parts: dict[str, list[Indices]] = {'train': [], 'val': [], 'test': []}
        reasons = {}
        for label in reversed(classes_of(label_map)):
            pixels = pixels_of(label_map, label)
            reason = self._reason(label, label_map)
            if reason is not None:
                reasons[label] = reason
                continue
            parts['train'].append(pixels[:1])
            parts['val'].append(pixels[1:2])
            parts['test'].append(pixels[-1:])
        return joined(parts), reasons


class Follows(Ends):
    """Serves class 1 only where class 2 is."""

    def _reason(self, label: int, label_map: Labels) -> str | None:
        if label == 1 and 2 not in label_map:
            return 'no class 2'
        return super()._reason(label, label_map)


class TestUnserved:
    LABELS = np.array([[1, 1, 1, 0], [2, 3, 2, 3], [4, 4, 4, 4]])

    def test_error(self) -> None:
        with pytest.raises(ValueError, match=r'^Ends cannot serve') as caught:
            Ends().bind(SplitContext({3: '7 (oats)'}))(self.LABELS)
        assert '(class 2: 2 pixels; class 7 (oats): 2 pixels)' in str(caught.value)
        with pytest.raises(ValueError, match=r"^unserved is 'keep', expected one of"):
            Ends(unserved='keep')  # type: ignore[arg-type]
        with pytest.raises(ValueError, match='patch_size is 4'):
            Ends()(self.LABELS, 4)

    def test_served(self, caplog: pytest.LogCaptureFixture) -> None:
        split = Ends('/folder/fields.shp')(self.LABELS[::2])
        assert indices_of(split) == [[0, 4], [1, 5], [2, 7]]
        assert (split.protocol, split.shape) == ('ends', (2, 4))
        assert split.settings == {'path': 'fields.shp', 'unserved': 'error'}
        assert (split.dropped, split.relabel) == ((), {})
        assert caplog.text == ''
        assert Ends('').described['path'] == ''
        protocol = Ends('/folder/fields.shp')
        assert protocol.settings['path'] == '/folder/fields.shp'
        assert repr(protocol) == "Ends(path='/folder/fields.shp', unserved='error')"

    def test_drop(self, caplog: pytest.LogCaptureFixture) -> None:
        split = Ends(unserved='drop')(self.LABELS)
        assert indices_of(split) == [[0, 8], [1, 9], [2, 11]]
        assert (split.dropped, split.relabel) == ((2, 3), {})
        text = 'drop classes (class 2: 2 pixels; class 3: 2 pixels)'
        assert text in caplog.text
        with pytest.raises(ValueError, match=r'^Ends can serve no class \(class 2: 2'):
            Ends(unserved='drop')(self.LABELS[1:2])

    def test_classes_that_others_take_with_them(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The message names all that are left out, not those of the first look."""
        split = Follows(unserved='drop')(self.LABELS)
        assert split.dropped == (1, 2, 3)
        text = 'class 1: no class 2; class 2: 2 pixels; class 3: 2 pixels'
        assert f'drop classes ({text})' in caplog.text
        assert len(caplog.records) == 1
        with pytest.raises(ValueError, match='can serve no class') as caught:
            Follows(unserved='drop')(self.LABELS[:2])
        assert str(caught.value) == f'Follows can serve no class ({text})'

    def test_many_classes(self) -> None:
        """Labels that are numbers of objects must not fill the screen."""
        labels = np.arange(1, 901).reshape(30, 30)
        with pytest.raises(ValueError, match=r'class 12: .* and 888 more\)') as c:
            Ends()(labels)
        assert 'class 13' not in str(c.value)

    def test_merge(self, caplog: pytest.LogCaptureFixture) -> None:
        split = Ends(unserved='merge')(self.LABELS)
        assert indices_of(split) == [[0, 4, 8], [1, 5, 9], [2, 7, 11]]
        assert (split.dropped, split.relabel) == ((), {3: 2})
        assert 'merge classes (class 2: 2 pixels; class 3: 2' in caplog.text
        labels = np.array([[1, 2, 0, 4, 4, 4]])
        with pytest.raises(ValueError, match=r'^Ends cannot serve every') as caught:
            Ends(unserved='merge').bind(SplitContext({2: '5 (rye)'}))(labels)
        text = "after merging ['1', '5 (rye)'] (class 1: 2 pixels)"
        assert text in str(caught.value)


def test_files_as_named_or_below_the_root(tmp_path: Path) -> None:
    protocol = Ends().bind(SplitContext(root=str(tmp_path)))
    assert protocol.path_of('mask.npy') == Path('mask.npy')
    (tmp_path / 'mask.npy').touch()
    assert protocol.path_of('mask.npy') == tmp_path / 'mask.npy'
    with contextlib.chdir(tmp_path):
        assert protocol.path_of('mask.npy') == Path('mask.npy')


@pytest.mark.parametrize(
    ('train', 'val', 'message'),
    [
        (0, 0.1, '^train is 0, expected a share between 0 and 1$'),
        (1, 0, '^train is 1, expected a share between 0 and 1$'),
        (0.5, -0.1, '^val is -0.1, expected a share from 0 to below 1$'),
        (0.5, 1, '^val is 1, expected a share from 0 to below 1$'),
        (0.5, 0.5, r'^train \+ val is 1, expected less than 1: nothing is left to'),
    ],
)
def test_shares(train: float, val: float, message: str) -> None:
    check_ratios(0.5, 0.25)
    check_ratios(0.5, 0)
    with pytest.raises(ValueError, match=message):
        check_ratios(train, val)
