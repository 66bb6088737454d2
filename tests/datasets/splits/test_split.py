# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A split that was drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets.splits import (
    CountSplit,
    MaskSplit,
    RandomSplit,
    SavedSplit,
    Split,
)

from .maps import fields, indices_of, quick, with_rare, write_masks


class TestSplit:
    def test_bad_indices(self) -> None:
        empty = np.empty(0, dtype=np.int64)
        for index in (-1, 9):
            with pytest.raises(ValueError, match='expected 0 to 8'):
                Split('any', {}, (3, 3), np.array([index]), empty, empty)
        for labels in ([0], [1, 2], []):
            with pytest.raises(ValueError, match='expected one label from 1'):
                Split(
                    'any',
                    {},
                    (3, 3),
                    *(np.array([1]), empty, empty),
                    own_labels={'train': np.array(labels)},
                )
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
        with pytest.raises(ValueError, match='read-only'):
            split.train[0] = 1

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
        split = RandomSplit(unserved='drop')(with_rare(2))
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
            labels, train, test = write_masks(folder)
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
        split = RandomSplit(unserved='merge')(with_rare(3, 3))
        path = split.save(tmp_path / 'run' / name)
        loaded = Split.load(path)
        assert loaded == split
        assert loaded.describe() == split.describe()
        assert indices_of(loaded) == indices_of(split)

    @pytest.mark.parametrize('name', ['split.npz', 'split.json'])
    def test_larger_than_the_memory(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = RandomSplit()(fields()).save(tmp_path / name)
        monkeypatch.setattr('torchgeo_ekgnet._reading._free_memory', lambda: 1000)
        with pytest.raises(FileError, match=rf'{name}: the split needs .* GB free'):
            Split.load(path)

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
        with pytest.raises(ValueError, match=r'split\.npz: .* to another scene'):
            SavedSplit(str(path))(fields(41))
        with pytest.raises(ValueError, match=r'split\.npz: .* to another label map'):
            SavedSplit(str(path))(fields() * 0)
