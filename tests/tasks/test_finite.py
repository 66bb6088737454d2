# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of what happens to values that are no numbers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from tests.small import make_datamodule, make_task, make_trainer
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


class Spoil(Callback):
    """Puts a value into the patches of some batches."""

    def __init__(self, value: float, *batches: int) -> None:
        self.value = value
        self.batches = batches
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, i: int) -> None:
        if not self.batches or i in self.batches:
            batch['image'].fill_(self.value)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_training_stops_before_the_weights_are_spoilt(
    value: float, tmp_path: Path
) -> None:
    task, saver = make_task(), ModelCheckpoint(tmp_path, monitor='val_loss')
    trainer = make_trainer(
        tmp_path, callbacks=[Spoil(value, 1), saver], enable_checkpointing=True
    )
    with pytest.raises(ValueError, match='fit: the loss is NaN or infinite'):
        trainer.fit(task, make_datamodule())
    assert trainer.global_step == 1
    assert all(torch.isfinite(p).all() for p in task.model.parameters())
    assert not saver.best_model_path and 'train' not in task.accuracies


def test_learning_rate_beyond_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'(fit|validate): .* NaN or infinite'):
        make_trainer(tmp_path).fit(make_task(lr=1e30), make_datamodule())


class SpoilGradient(Callback):
    """Makes the gradient of the second step of each epoch infinite."""

    def on_after_backward(self, trainer: Any, task: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == 1:
            next(task.model.parameters()).grad.fill_(math.inf)


@pytest.mark.parametrize('spoil', [Spoil(math.nan, 1), SpoilGradient()])
def test_steps_are_skipped_when_asked_for(spoil: Callback, tmp_path: Path) -> None:
    task = make_task(on_nonfinite='skip')
    trainer = make_trainer(tmp_path, callbacks=[spoil], max_epochs=2)
    with pytest.warns(UserWarning, match='steps of epoch') as told:
        trainer.fit(task, make_datamodule())
    said = [str(one.message) for one in told if 'skipped' in str(one.message)]
    assert [text[:18] for text in said] == ['1 steps of epoch 0', '1 steps of epoch 1']
    for name, value in task.model.state_dict().items():
        assert torch.isfinite(value).all(), name
        if name.endswith('num_batches_tracked'):
            assert value == trainer.global_step - 2
    assert math.isfinite(trainer.callback_metrics['train_loss'])
    assert math.isfinite(trainer.callback_metrics['val_loss'])


@pytest.mark.parametrize('options', [{}, {'gradient_clip_val': 1.0}])
def test_the_scaler_of_float16_finds_its_scale_and_skips_as_well(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """With Adam in one kernel, and with one that leaves gradients to the scaler."""
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**30)
    task = make_task(on_nonfinite='skip')
    trainer = make_trainer(
        tmp_path,
        plugins=MixedPrecision('16-mixed', 'cpu', scaler),
        callbacks=[Spoil(math.nan, 5)],
        max_epochs=2,
        **options,
    )
    before = [p.detach().clone() for p in task.model.parameters()]
    with pytest.warns(UserWarning, match='1 steps of epoch 1 were skipped'):
        trainer.fit(task, make_datamodule(batch_size=8))
    assert scaler.get_scale() < 2.0**30  # gradients were infinite
    (optimizer,) = trainer.optimizers
    assert optimizer.defaults['fused'] is (None if options else True)
    assert all(value.isfinite().all() for value in task.model.state_dict().values())
    now = list(task.model.parameters())
    assert not all(a.equal(b) for a, b in zip(before, now, strict=True))


@pytest.mark.parametrize('batch', [0, 1])
def test_validation_amid_the_batches_of_a_step_that_is_skipped(
    batch: int, tmp_path: Path
) -> None:
    task = make_task(on_nonfinite='skip')
    trainer = make_trainer(
        tmp_path,
        callbacks=[Spoil(math.nan, batch)],
        accumulate_grad_batches=2,
        val_check_interval=1,
    )
    with pytest.warns(UserWarning, match='1 steps of epoch 0 were skipped'):
        trainer.fit(task, make_datamodule())
    for name, value in task.model.state_dict().items():
        assert torch.isfinite(value).all(), name
    assert math.isfinite(trainer.callback_metrics['val_loss'])


def test_a_training_of_skipped_steps_only_ends(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[Spoil(math.nan)], limit_val_batches=0)
    with pytest.raises(ValueError, match='fit: the loss is NaN'):
        trainer.fit(make_task(on_nonfinite='skip'), make_datamodule())


def spoilt(tmp_path: Path, value: float) -> tuple[HyperspectralClassificationTask, Any]:
    task, datamodule = make_task(), make_datamodule()
    make_trainer(tmp_path).fit(task, datamodule)
    with torch.no_grad():
        task.model.classifier.weight.fill_(value)
    return task, datamodule


@pytest.mark.parametrize('stage', ['validate', 'test'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_no_score(
    stage: str, value: float, tmp_path: Path
) -> None:
    task, datamodule = spoilt(tmp_path, value)
    task.accuracies.clear()
    with pytest.raises(ValueError, match=f'{stage}: logits are NaN or infinite'):
        getattr(make_trainer(tmp_path), stage)(task, datamodule)
    assert not task.accuracies
