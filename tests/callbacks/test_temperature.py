# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from tests.small import make_trainer
from torchgeo_ekgnet.callbacks import TemperatureAnnealing
from torchgeo_ekgnet.layers import expert_convs
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


class Record(Callback):
    """Keeps the temperatures at the start and at the end of each epoch."""

    def __init__(self) -> None:
        self.start: list[list[float]] = []
        self.end: list[list[float]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.start.append(temperatures(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end.append(temperatures(pl_module))


def temperatures(module: torch.nn.Module) -> list[float]:
    return [float(layer.temperature) for _, layer in expert_convs(module)]


def make_task(**options: Any) -> HyperspectralClassificationTask:
    torch.manual_seed(0)
    return HyperspectralClassificationTask(
        'ekgnet_tiny',
        in_channels=12,
        num_classes=3,
        lr=0.05,
        lr_schedule='constant',
        model_options=options or None,
    )


def fit(folder: Path, *callbacks: Callback, epochs: int, **kwargs: Any) -> Trainer:
    task = kwargs.pop('task', None) or make_task()
    batches: Any = [
        {
            'image': torch.randn(
                8, 12, 5, 5, generator=torch.Generator().manual_seed(1)
            ),
            'label': torch.arange(8) % 3,
        }
    ]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)
    trainer = make_trainer(folder, *callbacks, max_epochs=epochs)
    trainer.fit(task, loader, loader, **kwargs)
    return trainer


class TestSchedule:
    def test_default_is_the_papers(self) -> None:
        anneal = TemperatureAnnealing()
        values = [anneal.temperature(epoch) for epoch in range(13)]
        assert values == [34, 31, 28, 25, 22, 19, 16, 13, 10, 7, 4, 1, None]
        assert anneal.epochs == 11

    def test_step_that_does_not_divide_ends_at_end(self) -> None:
        anneal = TemperatureAnnealing(10, 1, step=4)
        values = [anneal.temperature(epoch) for epoch in range(5)]
        assert values == [10, 6, 2, 1, None]

    def test_decay(self) -> None:
        anneal = TemperatureAnnealing(16, 1, step=None, decay=0.5)
        values = [anneal.temperature(epoch) for epoch in range(6)]
        assert values == [16, 8, 4, 2, 1, None]

    def test_decay_that_does_not_divide_ends_at_end(self) -> None:
        anneal = TemperatureAnnealing(10, 3, step=None, decay=0.5)
        assert [anneal.temperature(epoch) for epoch in range(4)] == [10, 5, 3, None]

    @pytest.mark.parametrize(
        ('options', 'epochs'),
        [
            ({'start': 1.3, 'step': 0.1}, 3),
            ({'start': 1 / 0.7**2, 'step': None, 'decay': 0.7}, 2),
            ({'share': 0.07}, 7),
            ({'share': 0.065}, 7),
        ],
    )
    def test_rounding_adds_no_epoch(self, options: dict[str, Any], epochs: int) -> None:
        anneal = TemperatureAnnealing(**options)
        trainer: Any = SimpleNamespace(max_epochs=100, callbacks=[])
        anneal.on_fit_start(trainer, torch.nn.Identity())  # type: ignore[arg-type]
        assert anneal.epochs == epochs

    def test_off(self) -> None:
        anneal = TemperatureAnnealing(step=None)
        assert [anneal.temperature(epoch) for epoch in range(3)] == [None] * 3

    def test_start_equal_to_end_sets_once(self) -> None:
        anneal = TemperatureAnnealing(5, 5)
        assert [anneal.temperature(epoch) for epoch in range(2)] == [5, None]

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'start': 0.0}, 'start: found 0.0'),
            ({'start': float('inf')}, 'start: found inf'),
            ({'end': -1.0}, 'end: found -1.0'),
            ({'end': 0.01}, 'end: found 0.01, expected a number above 0.01'),
            ({'end': 0.005}, 'end: found 0.005'),
            ({'start': 1.0, 'end': 2.0}, 'end: found 2.0, expected at most start=1.0'),
            ({'step': 0.0}, 'step: found 0.0'),
            ({'decay': 0.5}, 'step and decay: found step=3.0 and decay=0.5'),
            ({'step': None, 'decay': 1.5}, 'decay: found 1.5'),
            ({'step': None, 'decay': 1.0}, 'decay: found 1.0'),
            ({'step': float('nan')}, 'step: found nan'),
            ({'step': float('inf')}, 'step: found inf'),
            ({'share': 0.0}, 'share: found 0.0'),
            ({'share': float('nan')}, 'share: found nan'),
            ({'share': 0.5, 'decay': 0.5}, 'share and decay: found share=0.5'),
        ],
    )
    def test_bad_values(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TemperatureAnnealing(**options)


class TestShare:
    @pytest.mark.parametrize(
        ('epochs', 'expected'),
        [(4, [3.0, 2.0, 1.0]), (5, [3.0, 7 / 3, 5 / 3, 1.0]), (1, [3.0])],
    )
    def test_falls_over_a_share_of_the_run(
        self, epochs: int, expected: list[float], tmp_path: Path
    ) -> None:
        record = Record()
        fit(tmp_path, TemperatureAnnealing(3, 1, share=0.5), record, epochs=epochs)
        for values, value in zip(record.start, expected, strict=False):
            assert values == pytest.approx([value] * 6, rel=1e-4)

    def test_needs_a_last_epoch(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'share: found trainer\.max_epochs=-1'):
            fit(tmp_path, TemperatureAnnealing(share=0.5), epochs=-1)

    @pytest.mark.parametrize(
        ('options', 'epochs', 'message'),
        [
            ({}, 12, 'ends in the last tenth'),
            (
                {},
                11,
                'does not end before the run does: 1 is reached in epoch 12 of 11',
            ),
            ({'share': 1.0}, 3, 'does not end before'),
            ({'share': 0.5}, 3, None),
            ({'share': 0.5}, 1, None),  # a trial; more epochs are all that would help
            ({'step': None}, 1, None),
            ({}, 14, None),
        ],
    )
    def test_late_end_is_pointed_out(
        self,
        options: dict[str, Any],
        epochs: int,
        message: str | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        trainer: Any = SimpleNamespace(max_epochs=epochs, callbacks=[])
        with caplog.at_level(logging.WARNING, logger='torchgeo_ekgnet'):
            TemperatureAnnealing(**options).on_fit_start(trainer, make_task())
        assert (message or '') in caplog.text
        assert bool(caplog.text) is (message is not None)


class TestFit:
    def test_sets_each_epoch_then_learns_freely(self, tmp_path: Path) -> None:
        record = Record()
        fit(tmp_path, TemperatureAnnealing(3, 1, step=1), record, epochs=5)
        for epoch, expected in enumerate((3.0, 2.0, 1.0)):
            assert record.start[epoch] == pytest.approx([expected] * 6, rel=1e-4)
        # What was learnt is discarded while annealing lasts, and kept afterwards.
        assert record.end[0] != pytest.approx([3.0] * 6, rel=1e-4)
        assert record.start[3] == record.end[2]
        assert record.start[4] == record.end[3]
        assert record.end[3] != record.end[4]

    def test_off_leaves_the_temperature_to_the_optimizer(self, tmp_path: Path) -> None:
        record = Record()
        fit(tmp_path, TemperatureAnnealing(step=None), record, epochs=2)
        assert record.start[0] == pytest.approx([34.0] * 6, rel=1e-4)
        assert record.start[1] == record.end[0]

    @pytest.mark.parametrize('step', [1.0, None])
    def test_not_learnt(self, step: float | None, tmp_path: Path) -> None:
        record = Record()
        anneal = TemperatureAnnealing(3, 1, step=step, learn=False)
        fit(tmp_path, anneal, record, epochs=4)
        assert record.start == record.end
        expected = [34.0] * 4 if step is None else [3.0, 2.0, 1.0, 1.0]
        for values, value in zip(record.end, expected, strict=True):
            assert values == pytest.approx([value] * 6, rel=1e-4)

    def test_resumed_run_goes_on_as_if_it_had_not_stopped(self, tmp_path: Path) -> None:
        whole, first, second = Record(), Record(), Record()

        def make() -> TemperatureAnnealing:
            return TemperatureAnnealing(4, 1, step=1)

        fit(tmp_path, make(), whole, epochs=6)
        path = tmp_path / 'stopped.ckpt'
        fit(tmp_path, make(), first, epochs=2).save_checkpoint(path)
        fit(tmp_path, make(), second, epochs=6, ckpt_path=path)
        assert first.end + second.end == whole.end

    def test_best_weights_keep_their_temperature(self, tmp_path: Path) -> None:
        task = make_task()
        trainer = fit(tmp_path, TemperatureAnnealing(), epochs=3, task=task)
        path = tmp_path / 'best.ckpt'
        trainer.save_checkpoint(path)
        loaded = HyperspectralClassificationTask.load_from_checkpoint(
            path, weights_only=True
        )
        assert temperatures(loaded) == temperatures(task)
        assert temperatures(loaded) != pytest.approx([34.0] * 6, rel=1e-3)

    @pytest.mark.parametrize(('patience', 'warns'), [(5, True), (11, False)])
    def test_impatient_early_stopping(
        self,
        patience: int,
        warns: bool,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        stopping = EarlyStopping('val_loss', patience=patience)
        with caplog.at_level(logging.WARNING, logger='torchgeo_ekgnet'):
            fit(tmp_path, TemperatureAnnealing(), stopping, epochs=1)
        found = [record.getMessage() for record in caplog.records]
        assert any('EarlyStopping' in message for message in found) is warns

    def test_early_stopping_may_end_annealing(self, tmp_path: Path) -> None:
        record = Record()
        stopping = EarlyStopping('val_loss', patience=0, min_delta=1e9)
        fit(tmp_path, TemperatureAnnealing(), stopping, record, epochs=9)
        assert len(record.start) < 9

    def test_network_without_experts(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, logger='torchgeo_ekgnet'):
            task = make_task(conv_layer='conv3d')
            fit(tmp_path, TemperatureAnnealing(), epochs=1, task=task)
        assert 'no expert convolution' in caplog.text
