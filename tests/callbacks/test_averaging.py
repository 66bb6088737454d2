# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the moving average of weights."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.small import make_datamodule, make_task, make_trainer
from torchgeo_ekgnet.callbacks import MovingAverage
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


def fit(
    folder: Path, *callbacks: Callback, ckpt_path: Any = None, **options: Any
) -> HyperspectralClassificationTask:
    torch.manual_seed(0)
    task = make_task(class_weights='balanced', lr_schedule='constant')
    trainer = make_trainer(folder, *callbacks, **{'max_epochs': 2, **options})
    trainer.fit(task, make_datamodule(), ckpt_path=ckpt_path)
    return task


class Weights(Callback):
    """Keeps one weight after every step, and while the validation runs."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.scored: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.steps.append(pl_module.model.classifier.weight.detach().clone())

    def on_validation_batch_start(self, trainer: Any, task: Any, *args: Any) -> None:
        if not trainer.sanity_checking:
            self.scored.append(task.model.classifier.weight.detach().clone())


def test_average_is_scored_and_stays(tmp_path: Path) -> None:
    weights, average = Weights(), MovingAverage(share=0.4)
    task = fit(tmp_path, weights, average)
    mean = torch.zeros_like(weights.steps[0])
    for step, value in enumerate(weights.steps):
        kept = average.kept(step)
        mean = kept * mean + (1 - kept) * value
    assert average.kept(0) == 0 and average.kept(len(weights.steps)) > 0.5
    torch.testing.assert_close(task.model.classifier.weight.detach(), mean)
    torch.testing.assert_close(weights.scored[-1], mean)
    assert not mean.allclose(weights.steps[-1])
    for name, buffer in task.model.named_buffers():
        assert torch.isfinite(buffer).all(), name


@pytest.mark.filterwarnings('ignore:.*Swapping scheduler')
def test_lightnings_callbacks_find_the_network(tmp_path: Path) -> None:
    """Its sizes come from the data; they copy and change it before the task's setup."""
    average = StochasticWeightAveraging(1e-3, swa_epoch_start=1)
    fit(tmp_path, average, ModelPruning('l1_unstructured', amount=0.5), max_epochs=2)
    assert average.n_averaged is not None and int(average.n_averaged) > 0


def test_what_an_update_keeps() -> None:
    average = MovingAverage()
    average._steps = 100.0
    found = [average.kept(step) for step in (0, 1, 3, 4, 5, 99)]
    assert found == pytest.approx([0, 1 / 2, 3 / 4, 4 / 5, 4 / 5, 4 / 5])
    average = MovingAverage(start=0.5)
    average._steps = 61.0
    found = [average.kept(step) for step in (0, 29, 30, 31, 60)]
    assert found == pytest.approx([0, 0, 0, 1 / 2, 1 - 1 / 3.05])


def test_start(tmp_path: Path) -> None:
    weights, average = Weights(), MovingAverage(start=0.99)
    task = fit(tmp_path, weights, average, max_epochs=1)
    torch.testing.assert_close(task.model.classifier.weight.detach(), weights.steps[-1])


def test_checkpoint_holds_the_average_and_resumes(tmp_path: Path) -> None:
    weights, average = Weights(), MovingAverage(share=0.4)

    def run(name: str, epochs: int, path: Any = None) -> dict[str, Any]:
        saver = ModelCheckpoint(tmp_path / name, 'last', save_on_train_epoch_end=True)
        fit(
            tmp_path,
            average,
            weights,
            saver,
            max_epochs=epochs,
            ckpt_path=path,
            enable_checkpointing=True,
        )
        content: dict[str, Any] = torch.load(saver.best_model_path, weights_only=True)
        return content

    first = run('first', 2)
    name = 'model.classifier.weight'
    assert not first['state_dict'][name].equal(first['current_model_state'][name])
    done = len(weights.steps)
    again = run('again', 3, tmp_path / 'first' / 'last.ckpt')
    assert again['epoch'] == 2
    mean = first['state_dict'][name]
    for step, value in enumerate(weights.steps[done:], start=done):
        kept = average.kept(step)
        mean = kept * mean + (1 - kept) * value
    torch.testing.assert_close(again['state_dict'][name], mean)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'share': 0.0}, 'share: found 0.0'),
        ({'share': math.nan}, 'share: found nan'),
        ({'start': 1.0}, 'start: found 1.0'),
        ({'start': math.nan}, 'start: found nan'),
    ],
)
def test_bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingAverage(**options)


def test_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='expected an end of the training'):
        fit(tmp_path, MovingAverage(), max_epochs=-1)


def test_other_stages_are_quiet(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, 'last', save_on_train_epoch_end=True)
    fit(tmp_path, MovingAverage(), saver, max_epochs=1, enable_checkpointing=True)
    trainer = make_trainer(None, MovingAverage())
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*WeightAveraging')
        trainer.test(
            make_task(),
            make_datamodule(),
            ckpt_path=saver.best_model_path,
            verbose=False,
        )


def test_stages_after_the_training_have_the_weights_of_the_checkpoint(
    tmp_path: Path,
) -> None:
    """As in a process of their own: the average of then, not of now or the last step."""
    torch.manual_seed(0)
    task = make_task(lr_schedule='constant')
    saver = ModelCheckpoint(
        tmp_path, '{epoch}', save_top_k=-1, save_on_train_epoch_end=True
    )
    weights = Weights()
    average = MovingAverage(share=0.4)
    trainer = make_trainer(tmp_path, average, saver, weights, max_epochs=2)
    trainer.fit(task, make_datamodule())
    name = 'model.classifier.weight'
    for epoch in (0, 1):
        path = tmp_path / f'epoch={epoch}.ckpt'
        content = torch.load(path, weights_only=True)
        kept = content['state_dict'][name]
        assert not kept.equal(content['current_model_state'][name])
        trainer.test(task, make_datamodule(), ckpt_path=path, verbose=False)
        assert task.state_dict()[name].equal(kept)
        trainer.validate(task, make_datamodule(), ckpt_path=path, verbose=False)
        assert weights.scored[-1].equal(kept)
        trainer.save_checkpoint(tmp_path / 'again.ckpt')
        again = torch.load(tmp_path / 'again.ckpt', weights_only=True)
        assert again['state_dict'][name].equal(kept)


class Failure(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError('in the second epoch')


def test_a_test_after_an_interrupted_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = make_task(lr_schedule='constant')
    saver = ModelCheckpoint(tmp_path, 'first', save_on_train_epoch_end=True)
    average = MovingAverage(share=0.4)
    trainer = make_trainer(tmp_path, average, saver, Failure(), max_epochs=2)
    with pytest.raises(RuntimeError, match='in the second epoch'):
        trainer.fit(task, make_datamodule())
    path = saver.best_model_path
    kept = torch.load(path, weights_only=True)['state_dict']
    trainer.test(task, make_datamodule(), ckpt_path=path, verbose=False)
    name = 'model.classifier.weight'
    assert task.state_dict()[name].equal(kept[name])


def test_one_callback_for_two_trainings(tmp_path: Path) -> None:
    average = MovingAverage(share=0.4)
    first, second = (fit(tmp_path, average).state_dict() for _ in range(2))
    assert all(value.equal(second[name]) for name, value in first.items())


def test_numbers_are_those_of_the_trained_network() -> None:
    """A mean of counts, cut to whole numbers at every step, would not prune."""
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    network.register_buffer('inactive', torch.tensor([12]))
    callback = MovingAverage(share=0.5)
    callback._steps = 100
    average = AveragedModel(network, multi_avg_fn=callback._update, use_buffers=True)
    for step in range(50):
        callback._step = step
        average.update_parameters(network)
    assert average.module.state_dict()['inactive'].item() == 12
