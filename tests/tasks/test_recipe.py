# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Losses, optimizers and schedules."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.small import (
    BANDS,
    CLASSES,
    make_datamodule,
    make_loader,
    make_task,
    make_trainer,
)
from torchgeo_ekgnet.tasks.losses import balanced_weights, mix, weigh_classes
from torchgeo_ekgnet.tasks.networks import doubt_crops
from torchgeo_ekgnet.tasks.schedules import wave
from torchgeo_ekgnet.transforms import PatchAugmentation


class Rates(Callback):
    """Notes the learning rate of every epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]['lr'])


class TestClassWeights:
    def test_balanced(self, tmp_path: Path) -> None:
        task, datamodule = make_task(class_weights='balanced'), make_datamodule()
        make_trainer(tmp_path, fast_dev_run=True).fit(task, datamodule)
        counts = datamodule.class_counts('train').double()
        weight = task.criterion.weight
        assert isinstance(weight, Tensor)
        expected = counts.sum() / (CLASSES * counts)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=0)
        assert 'criterion.weight' not in task.state_dict()

    def test_class_without_pixels_weighs_nothing(self) -> None:
        assert balanced_weights(torch.tensor([6, 0, 2])) == [8 / 12, 0.0, 2.0]

    def test_given(self) -> None:
        task = make_task(
            in_channels=BANDS, num_classes=CLASSES, class_weights=[1.0, 2.0, 3.0]
        )
        assert isinstance(task.criterion.weight, Tensor)
        assert task.criterion.weight.tolist() == [1.0, 2.0, 3.0]
        for weights in ([1.0], [1.0] * 4):
            message = f'class_weights: found {len(weights)} values, expected 3'
            with pytest.raises(ValueError, match=message):
                weigh_classes(task.criterion, weights, CLASSES)

    def test_balanced_needs_a_datamodule(self, tmp_path: Path) -> None:
        task = make_task(
            in_channels=BANDS, num_classes=CLASSES, class_weights='balanced'
        )
        loader = make_loader(4)
        with pytest.raises(ValueError, match='class_weights'):
            make_trainer(tmp_path, fast_dev_run=True).fit(task, loader)


class TestOptimizer:
    @pytest.mark.parametrize(
        ('schedule', 'expected'),
        [
            ('constant', lambda epoch: 1.0),
            ('cosine', lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / 6))),
            (
                'cosine_wave',
                lambda epoch: 0.5 * (1 + math.cos(math.pi * max(epoch - 1, 0) / 15)),
            ),
        ],
    )
    def test_schedules(self, schedule: str, expected: Any, tmp_path: Path) -> None:
        spy = Rates()
        trainer = make_trainer(
            tmp_path,
            max_epochs=6,
            callbacks=[spy],
            limit_train_batches=1,
            limit_val_batches=0,
        )
        trainer.fit(make_task(lr_schedule=schedule, lr=0.01), make_datamodule())
        np.testing.assert_allclose(spy.rates, [0.01 * expected(e) for e in range(6)])

    def test_cosine_of_a_run_that_is_resumed_for_more_epochs(
        self, tmp_path: Path
    ) -> None:
        rates: list[float] = []
        for epochs, path in ((2, None), (5, tmp_path / 'every.ckpt')):
            spy = Rates()
            # With a monitor, an epoch is saved before the schedule goes on.
            every = ModelCheckpoint(
                tmp_path,
                'every',
                monitor='val_loss',
                save_top_k=-1,
                enable_version_counter=False,
            )
            trainer = make_trainer(
                tmp_path,
                max_epochs=epochs,
                callbacks=[spy, every],
                limit_train_batches=1,
                enable_checkpointing=True,
            )
            trainer.fit(make_task(lr=0.01), make_datamodule(), ckpt_path=path)
            rates += spy.rates
        of_five = [0.005 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
        np.testing.assert_allclose(rates, [0.01, 0.005, *of_five[2:]])

    def test_wave_touches_zero_and_returns(self) -> None:
        assert [wave(epoch) for epoch in (0, 1, 31, 61)] == pytest.approx([1] * 4)
        assert [wave(epoch) for epoch in (16, 46, 76)] == pytest.approx([0] * 3)
        assert 5e-4 * wave(79) == pytest.approx(4.8e-5, rel=0.01)

    def test_plateau_follows_the_validation_loss(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        trainer.fit(make_task(lr_schedule='plateau', patience=3), make_datamodule())
        config = trainer.lr_scheduler_configs[0]
        assert config.monitor == 'val_loss'
        assert isinstance(config.scheduler, ReduceLROnPlateau)
        assert config.scheduler.patience == 3

    def test_cosine_needs_a_last_epoch(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, max_epochs=-1, max_steps=2)
        with pytest.raises(
            ValueError, match=r"'cosine' and warmup need trainer\.max_epochs"
        ):
            trainer.fit(make_task(), make_datamodule())

    def test_defaults_are_the_papers(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, fast_dev_run=True)
        trainer.fit(make_task(), make_datamodule())
        (optimizer,) = trainer.optimizers
        assert type(optimizer) is torch.optim.Adam
        assert optimizer.defaults['lr'] == 5e-4
        assert optimizer.defaults['weight_decay'] == 0


class TestRecipe:
    """What is not the paper's, and off by default."""

    def test_weight_decay_spares_what_the_network_names(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, fast_dev_run=True)
        task = make_task(weight_decay=0.05)
        trainer.fit(task, make_datamodule())
        (optimizer,) = trainer.optimizers
        assert type(optimizer) is torch.optim.AdamW
        decayed = {
            id(parameter)
            for group in optimizer.param_groups
            if group['weight_decay'] == 0.05
            for parameter in group['params']
        }
        network: Any = task.model
        spared = network.no_weight_decay()
        assert spared
        for name, parameter in network.named_parameters():
            vector = parameter.ndim <= 1 or name.endswith('.bias')
            assert (id(parameter) in decayed) is not (vector or name in spared), name

    @pytest.mark.parametrize(
        ('schedule', 'expected'),
        [
            ('constant', [1 / 3, 2 / 3, 1, 1, 1, 1]),
            ('cosine', [1 / 3, 2 / 3, 1, 0.8535534, 0.5, 0.1464466]),
        ],
    )
    def test_warmup(self, schedule: str, expected: list[float], tmp_path: Path) -> None:
        spy = Rates()
        trainer = make_trainer(
            tmp_path, max_epochs=6, callbacks=[spy], limit_train_batches=1
        )
        task = make_task(lr_schedule=schedule, lr=0.01, warmup=0.3)
        trainer.fit(task, make_datamodule())
        np.testing.assert_allclose(spy.rates, 0.01 * np.array(expected), rtol=1e-6)

    def test_label_smoothing(self) -> None:
        task = make_task(in_channels=4, num_classes=3, label_smoothing=0.3)
        loss = task.criterion(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([2]))
        log = torch.tensor([0.0, 0.0, 9.0]).log_softmax(0)
        torch.testing.assert_close(loss, -(0.1 * log[0] + 0.1 * log[1] + 0.8 * log[2]))

    @pytest.mark.parametrize('size', [1, 2, 5, 8])
    def test_mixed_patches_and_shares_agree(self, size: int) -> None:
        image, label = torch.randn(size, 2, 3, 3), torch.randint(0, 4, (size,))
        before = image.clone()
        mixed, shares = mix(image, label, 4, alpha=1.0)
        assert image.equal(before)
        assert shares.shape == (size, 4)
        shares_of_one = mix(image.double(), label, 4, alpha=1e-7)[1]
        assert shares_of_one.dtype == torch.float64
        assert (shares_of_one.minimum(1 - shares_of_one) < 1e-3).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(size))
        # The share of a sample's own label is that of its own patch.
        hot = torch.nn.functional.one_hot(label, 4).float()
        opposite, other = before.flip(0), hot.flip(0)
        for index in range(size):
            difference = before[index] - opposite[index]
            if not difference.any():
                torch.testing.assert_close(mixed[index], before[index])
                torch.testing.assert_close(shares[index], hot[index])
                continue
            own = float(((mixed - opposite)[index] / difference).median())
            expected = own * hot[index] + (1 - own) * other[index]
            torch.testing.assert_close(shares[index], expected, atol=1e-4, rtol=1e-3)

    def test_all_of_it_trains_with_class_weights(self, tmp_path: Path) -> None:
        task = make_task(
            weight_decay=0.05,
            warmup=0.5,
            label_smoothing=0.1,
            mixup=0.3,
            class_weights='balanced',
            lr=5e-3,
        )
        trainer = make_trainer(tmp_path, max_epochs=8)
        trainer.fit(task, make_datamodule())
        assert trainer.callback_metrics['val_OA'] > 0.6


@pytest.mark.parametrize(
    ('name', 'crop', 'doubted'),
    [
        ('ekgnet_spatial', 1, True),
        ('ekgnet_spatial', 3, False),
        ('ekgnet_spatial', None, False),
        ('ekgnet_spectral', 1, False),
    ],
)
def test_single_pixels_train_no_kernels_over_neighbours(
    name: str, crop: int | None, doubted: bool, recwarn: pytest.WarningsRecorder
) -> None:
    datamodule = make_datamodule(augmentation=PatchAugmentation(crop=crop))
    doubt_crops(timm.create_model(name, in_chans=BANDS), datamodule)
    assert [str(w.message)[:33] for w in recwarn] == doubted * [
        'augmentation: found crop 1 for EK'
    ]
