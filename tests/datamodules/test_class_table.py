# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What fit says of the classes before it trains them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from torchgeo_ekgnet.datamodules import CustomSceneDataModule
from torchgeo_ekgnet.datamodules.class_table import ClassCounts, doubts_of_scene
from torchgeo_ekgnet.datasets import CountSplit, HyperspectralScene, RandomSplit

LABELS = np.kron(np.array([[1, 2], [3, 3]]), np.ones((10, 10), dtype=np.int64))
LABELS[9:11] = 0


def scene(
    labels: NDArray[np.int64],
    truth: NDArray[np.int64] | None = None,
    names: Sequence[str] | None = None,
) -> HyperspectralScene:
    """A scene whose spectra follow a label map of its own."""
    generator = np.random.default_rng(0)
    spectra = generator.uniform(500, 3000, (int(labels.max()) + 1, 6))
    truth = labels if truth is None else truth
    cube = spectra[truth] + generator.normal(0, 100, (*labels.shape, 6))
    return HyperspectralScene(cube.astype(np.float32), labels, class_names=names)


def module(folder: Path, labels: Any, **options: Any) -> CustomSceneDataModule:
    cube = np.random.default_rng(0).uniform(1, 2, (*labels.shape, 4))
    np.save(folder / 'cube.npy', cube)
    np.save(folder / 'labels.npy', labels)
    settings: dict[str, Any] = {
        'root': str(folder),
        'cube': 'cube.npy',
        'labels': 'labels.npy',
        'patch_size': 3,
        'split': CountSplit(8, val=4),
    }
    return CustomSceneDataModule(**(settings | options))


def test_table() -> None:
    counts = {'train': [8, 1], 'val': [4, 0], 'test': [100, 0], 'unused': [0, 3]}
    assert ClassCounts(
        [3, 12], ['wheat', 'bare soil'], counts
    ).table().splitlines() == [
        'value  name       labelled  train  validation  test',
        '    3  wheat           112      8           4   100',
        '   12  bare soil         4      1           0     0',
    ]


def test_counts() -> None:
    counts = {
        'train': [9, 1, 9, 0],
        'val': [0, 0, 0, 0],
        'test': [9, 9, 0, 0],
        'unused': [0, 0, 0, 0],
    }
    found = list(ClassCounts([1, 2, 3, 9], ['a', 'b', 'class 3', 'd'], counts).doubts())
    assert found == [
        'class 2 (b) has only 1 training pixel(s)',
        'class 3 has no test pixel: it counts in no accuracy',
        'class 9 (d) has no pixel: it is trained with nothing',
    ]


@pytest.mark.parametrize(
    'name', ['Background', 'no-data', 'unlabelled', 'Unclassified', 'void', 'No Data']
)
def test_background_by_name(name: str) -> None:
    counts = {key: [9, 9] for key in ('train', 'val', 'test', 'unused')}
    (found,) = ClassCounts([0, 1], [name, 'wheat'], counts).doubts()
    assert f'class 0 ({name})' in found and 'add 0 to unlabelled' in found
    assert not list(ClassCounts([0, 1], ['grassland', 'wheat'], counts).doubts())


def test_background_by_place() -> None:
    labels = np.full((20, 20), 1)
    labels[5:9, 5:9], labels[12:15, 3:14] = 2, 3
    (found,) = doubts_of_scene(scene(labels))
    assert 'every pixel is labelled' in found and 'unlabelled=[1]' in found
    labels[0, 0] = 0
    assert not list(doubts_of_scene(scene(labels)))


@pytest.mark.parametrize(
    ('turn', 'word'),
    [
        (np.transpose, 'transposed'),
        (np.flipud, 'upside down'),
        (np.fliplr, 'mirrored'),
        (lambda labels: labels[::-1, ::-1], 'turned by 180'),
    ],
)
def test_turned_labels(turn: Any, word: str) -> None:
    truth = np.full((20, 20), 3)
    truth[:4, :4], truth[2:9, 6:18], truth[12:14] = 0, 1, 2
    truth[15:, :3] = 4
    (found,) = doubts_of_scene(scene(turn(truth), truth))
    assert f'fit the cube better {word}' in found


@pytest.mark.parametrize('seed', range(5))
def test_labels_in_place_are_not_doubted(seed: int) -> None:
    """Neither where they explain the spectra nor where nothing does."""
    assert not list(doubts_of_scene(scene(LABELS)))
    generator = np.random.default_rng(seed)
    noise = generator.permutation(LABELS.ravel()).reshape(LABELS.shape)
    assert not list(doubts_of_scene(scene(LABELS, noise)))


@pytest.mark.parametrize(
    'labels', [np.ones((12, 12), int), np.where(LABELS > 1, 0, LABELS)]
)
def test_one_class_is_refused(tmp_path: Path, labels: Any) -> None:
    data = module(tmp_path, labels, class_names={1: 'wheat'})
    with pytest.raises(
        ValueError, match=r'two classes or more, found class 1 \(wheat\)'
    ):
        data.setup('fit')


def test_one_trained_class_is_refused() -> None:
    counts = {'train': [9, 0], 'val': [0, 0], 'test': [1, 5], 'unused': [0, 0]}
    with pytest.raises(ValueError, match=r'found class 4 \(oats\) among 2'):
        ClassCounts([4, 7], ['oats', 'rye'], counts).check()
    counts['train'] = [0, 0]
    with pytest.raises(ValueError, match='found none among 2'):
        ClassCounts([4, 7], ['oats', 'rye'], counts).check()


def test_fit_prints_the_table_and_test_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {1: 'wheat', 2: 'background', 3: 'rye'}
    with caplog.at_level(logging.INFO):
        module(tmp_path, LABELS, class_names=names).setup('test')
    assert 'validation  test' not in caplog.text
    with caplog.at_level(logging.INFO):
        module(tmp_path, LABELS, class_names=names).setup('fit')
    assert '    3  rye              180      8           4   168' in caplog.text
    (warned,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert 'class 2 (background) is trained' in warned.getMessage()


def test_what_is_left_out_is_told_once_and_the_split_below_the_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    labels = LABELS.copy()
    labels[0, :3] = 4
    split = CountSplit(8, val=4, unserved='drop')
    with caplog.at_level(logging.INFO):
        module(tmp_path, labels, split=split).setup('fit')
    told, table = (record.getMessage() for record in caplog.records)
    assert told.startswith('CountSplit: drop classes (class 4: 3 pixels')
    assert table.startswith('cube:\nvalue') and len(recwarn) == 0
    assert table.splitlines()[-1].startswith('cube: count split, 24 training, 12 valid')


def test_a_small_class_is_named_by_value_and_name(tmp_path: Path) -> None:
    labels = LABELS * 10
    labels[0, :3] = 70
    names = {10: 'a', 20: 'b', 30: 'c', 70: 'oats'}
    data = module(tmp_path, labels, class_names=names)
    with pytest.raises(ValueError, match=r'class 70 \(oats\): 3 pixels'):
        data.setup('fit')


def test_a_map_needs_no_split(tmp_path: Path) -> None:
    """Labels that no protocol could split do not keep a map from being made."""
    labels = LABELS * 10
    labels[0, :3] = 70
    data = module(tmp_path, labels, split=RandomSplit(0.9, 0.05))
    data.setup('predict')
    assert sum(len(b['row_col']) for b in data.predict_dataloader()) == 400
    with pytest.raises(ValueError, match='class 70: 3 pixels'):
        data.setup('test')


def test_classes_are_announced_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.arange(1, 3).repeat(60).reshape(12, 10)
    data = module(tmp_path, labels)
    with caplog.at_level('INFO'):
        # By hand, and again by the trainer.
        for _ in range(2):
            data.setup('fit')
    assert caplog.text.count('value  name') == 1
