# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of classes that are matched by name and value, never by position."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small import make_trainer
from torchgeo_ekgnet.callbacks import AccuracyReport
from torchgeo_ekgnet.checkpoint import match_classes
from torchgeo_ekgnet.datamodules import CustomSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask

# What these tests do on purpose.
pytestmark = pytest.mark.filterwarnings(
    'ignore:.*accepted because allow_other_split is set',
    'ignore:test. classes are matched by name and value',
)

VALUES = (1, 2, 3, 5)


def scene_of(names: list[str], values: list[int]) -> dict[str, Any]:
    return {'class_names': names, 'class_values': values}


@pytest.mark.parametrize(
    ('trained', 'scene', 'expected'),
    [
        ((['a', 'b'], [1, 2]), (['a', 'b'], [1, 2]), (0, 1)),
        ((['a', 'b'], [1, 2]), (['b', 'a'], [1, 2]), (1, 0)),
        ((['a', 'b'], [1, 2]), (['b'], [7]), (1,)),
        ((['a', 'b'], [1, 2]), ([' B', 'c'], [1, 2]), (1, None)),
        ((['\xfc', 'b'], [1, 2]), (['b', 'u\u0308'], [1, 2]), (1, 0)),
        ((['a', 'b'], [1, 4]), (['class 4', 'class 5'], [4, 5]), (1, None)),
        ((['class 1', 'class 3'], [1, 3]), (['class 3'], [3]), (1,)),
        ((['class 1', 'class 2'], [1, 2]), (['wood', 'water'], [2, 1]), (1, 0)),
        # A name comes before a value, and no class stands for two.
        ((['class 1', 'b'], [1, 2]), (['b', 'class 2'], [1, 2]), (1, None)),
        ((['Oak', 'oak'], [1, 2]), (['Oak', 'oak', 'OAK'], [1, 2, 3]), (0, 1, None)),
    ],
)
def test_matching(trained: Any, scene: Any, expected: Any) -> None:
    assert match_classes(scene_of(*trained), scene_of(*scene)) == expected


def write_scene(folder: Path, name: str, order: dict[int, int], seed: int = 0) -> None:
    """Write a scene whose value v is written as order[v]; 0 leaves the class out."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.repeat(random.choice(VALUES, (6, 6)), 4, 0), 4, 1)
    truth.flat[: len(VALUES)] = VALUES
    cube = random.normal(0, 0.05, (*truth.shape, 9)).astype(np.float32)
    for value in VALUES:
        cube[truth == value] += np.sin(np.arange(9) * value)
    labels = np.zeros_like(truth)
    for value, written in order.items():
        labels[truth == value] = written
    np.save(folder / f'{name}.npy', cube)
    np.save(folder / f'{name}_gt.npy', labels)


def make_datamodule(folder: Path, name: str, **options: Any) -> CustomSceneDataModule:
    arguments: dict[str, Any] = {
        'root': str(folder),
        'cube': f'{name}.npy',
        'labels': f'{name}_gt.npy',
        'patch_size': 1,
        'batch_size': 32,
        'split': RandomSplit(0.5, 0.1, 3),
        'allow_other_split': name != 'a',
    }
    return CustomSceneDataModule(**{**arguments, **options})


def make_task(**options: Any) -> HyperspectralClassificationTask:
    return HyperspectralClassificationTask('ssrn', lr=0.01, **options)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('classes')
    write_scene(folder, 'a', {v: v for v in VALUES})
    torch.manual_seed(0)
    task, trainer = make_task(), make_trainer(folder, max_epochs=10)
    trainer.fit(task, make_datamodule(folder, 'a'))
    assert trainer.test(task, make_datamodule(folder, 'a'), verbose=False)[0][
        'test_OA'
    ] == pytest.approx(1, abs=0.02)
    trainer.save_checkpoint(folder / 'best.ckpt')
    return folder


# How weights are loaded tells which classes they know; what is scored then is one way.
@pytest.mark.parametrize(
    ('way', 'order', 'absent'),
    [
        ('ckpt_path', {1: 1, 3: 3, 5: 5}, ['class 2']),
        ('weights', {1: 1, 3: 3, 5: 5}, ['class 2']),
        ('load_from_checkpoint', {1: 1, 3: 3, 5: 5}, ['class 2']),
        ('weights', {2: 2, 5: 5}, ['class 1', 'class 3']),
        ('ckpt_path', {5: 5, 3: 3, 2: 2, 1: 1}, []),
    ],
)
def test_subset_is_scored_and_the_rest_is_named(
    way: str, order: dict[int, int], absent: list[str], trained: Path, tmp_path: Path
) -> None:
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_scene(tmp_path, 'b', order, seed=1)
    path = str(tmp_path / 'best.ckpt')
    task: HyperspectralClassificationTask
    more: dict[str, Any] = {}
    match way:
        case 'ckpt_path':
            task, more = make_task(), {'ckpt_path': path}
        case 'weights':
            task = make_task(weights=path)
        case _:
            task = HyperspectralClassificationTask.load_from_checkpoint(path)
    trainer = make_trainer(tmp_path, callbacks=[AccuracyReport(table=False)])
    datamodule = make_datamodule(tmp_path, 'b')
    with pytest.warns(UserWarning, match='allow_other_split'):
        (found,) = trainer.test(task, datamodule, verbose=False, **more)
    assert found['test_OA'] == pytest.approx(1, abs=0.02)
    reports = list(tmp_path.rglob('test.json'))
    report = json.loads(reports[0].read_text())
    assert report['class_names'] == [f'class {value}' for value in VALUES]
    assert report['without_test_pixels'] == absent


@pytest.mark.parametrize('order', [{1: 1, 2: 4}, {1: 1, 2: 2, 3: 3, 5: 9}])
def test_unknown_class_is_named(
    order: dict[int, int], trained: Path, tmp_path: Path
) -> None:
    write_scene(tmp_path, 'b', order, seed=1)
    task, trainer = make_task(), make_trainer(tmp_path)
    unknown = max(order.values())
    with pytest.raises(ValueError, match=f"not know the classes .'class {unknown}"):
        trainer.test(
            task, make_datamodule(tmp_path, 'b'), ckpt_path=trained / 'best.ckpt'
        )


def test_scene_without_labels_is_mapped(trained: Path, tmp_path: Path) -> None:
    """What there is to find, the checkpoint knows."""
    write_scene(tmp_path, 'b', {}, seed=1)
    datamodule = make_datamodule(tmp_path, 'b', labels=None, split=None)
    task = make_task()
    batches: Any = make_trainer(tmp_path).predict(
        task, datamodule=datamodule, ckpt_path=trained / 'best.ckpt'
    )
    assert sum(len(batch) for batch in batches) == 24 * 24
    assert batches[0].shape[1] == len(VALUES)
    with pytest.raises(ValueError, match='no checkpoint was given'):
        make_trainer(tmp_path).predict(make_task(), datamodule=datamodule)


def test_names_overrule_values(trained: Path, tmp_path: Path) -> None:
    """Two numberings of the same names."""
    names = {1: 'wood', 2: 'water', 3: 'road', 5: 'field'}
    write_scene(tmp_path, 'a', {v: v for v in VALUES})
    order = {1: 4, 2: 3, 3: 2, 5: 1}
    write_scene(tmp_path, 'b', order, seed=1)
    task = make_task(weights=str(trained / 'best.ckpt'))
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, make_datamodule(tmp_path, 'a', class_names=names))
    other = make_datamodule(
        tmp_path, 'b', class_names={order[value]: name for value, name in names.items()}
    )
    (found,) = trainer.test(task, other, verbose=False)
    assert found['test_OA'] == pytest.approx(1, abs=0.02)


def test_classifier_is_brought_into_the_order_of_the_data(tmp_path: Path) -> None:
    write_scene(tmp_path, 'a', {v: v for v in VALUES})
    names = {1: 'wood', 2: 'water', 3: 'road', 5: 'field'}
    first = make_task()
    trainer = make_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(first, make_datamodule(tmp_path, 'a', class_names=names))
    trainer.save_checkpoint(tmp_path / 'named.ckpt')
    write_scene(tmp_path, 'b', {1: 4, 2: 3, 3: 2, 5: 1})
    others = {4: 'wood', 3: 'Water', 2: 'road', 1: 'lake'}
    again = make_task(weights=str(tmp_path / 'named.ckpt'))
    still = make_trainer(tmp_path, max_epochs=1, limit_train_batches=0)
    still.fit(again, make_datamodule(tmp_path, 'b', class_names=others))
    theirs, ours = (task.model.classifier.weight.detach() for task in (first, again))
    torch.testing.assert_close(ours[[3, 2, 1]], theirs[[0, 1, 2]])
    assert not ours[0].equal(theirs[3])


def test_other_number_of_classes_without_a_checkpoint(tmp_path: Path) -> None:
    write_scene(tmp_path, 'b', {1: 1, 2: 2})
    task = make_task(in_channels=9, num_classes=7)
    task.load_state_dict(task.state_dict())
    with pytest.raises(ValueError, match='network has 7 classes, the data have 2'):
        make_trainer(tmp_path).test(task, make_datamodule(tmp_path, 'b'))


def test_classes_of_a_test_do_not_outlive_it(trained: Path, tmp_path: Path) -> None:
    """Validation in a later fit counts the classes of its own data."""
    for file in trained.glob('*.npy'):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_scene(tmp_path, 'b', {5: 5, 3: 3, 2: 2}, seed=1)
    task = make_task(weights=str(trained / 'best.ckpt'))
    trainer = make_trainer(tmp_path)
    trainer.test(task, make_datamodule(tmp_path, 'b'), verbose=False)
    again = make_trainer(tmp_path, max_epochs=1, limit_train_batches=0)
    again.fit(task, make_datamodule(tmp_path, 'a'))
    assert task.accuracies['val'].overall == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize('centres', ['reversed', 'shifted', 'close', 'unknown'])
def test_other_bands_are_not_scored(centres: str, tmp_path: Path) -> None:
    known = np.linspace(400, 800, 9)
    write_scene(tmp_path, 'a', {v: v for v in VALUES})
    write_scene(tmp_path, 'b', {v: v for v in VALUES}, seed=1)
    before = make_datamodule(tmp_path, 'a', wavelengths=known.tolist())
    before.setup('fit')
    given = {'reversed': known[::-1], 'shifted': known + 30, 'close': known + 2}
    options = {'wavelengths': given[centres].tolist()} if centres in given else {}
    other = make_datamodule(tmp_path, 'b', **options)
    other.setup('test')
    if centres in ('close', 'unknown'):
        other.load_state_dict(before.state_dict())
        return
    with pytest.raises(
        ValueError, match=r'other bands than the scene b has: band 1 .*match_wav'
    ):
        other.load_state_dict(before.state_dict())
