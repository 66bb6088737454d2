# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The same batches and weights, whatever the workers and however often it stopped."""

import random
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.small import make_trainer
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datamodules.generators import generator_states, restore_generators
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.samplers import ClassBalancedSampler, PerClassSampler
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask
from torchgeo_ekgnet.transforms import PatchAugmentation

EPOCHS = 3


def fit(
    folder: Path,
    seed: int = 1,
    ckpt_path: Path | None = None,
    save: bool | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Train for three epochs, or to the third; the weights."""
    lightning.seed_everything(seed, verbose=False)
    settings: dict[str, Any] = {
        'rows': 16,
        'cols': 16,
        'num_bands': 8,
        'num_classes': 2,
        'patch_size': 3,
        'batch_size': 16,
        'split': RandomSplit(0.2, 0.1),
        'augmentation': PatchAugmentation(flips=True, turns=True, noise=0.1),
    }
    # Dropout draws from the same generator as the shuffle and the augmentation.
    task = HyperspectralClassificationTask(
        'ekgnet_tiny', lr=1e-3, model_options={'drop_rate': 0.3, 'block_config': [1]}
    )
    checkpoints = ModelCheckpoint(
        folder,
        'epoch-{epoch}',
        save_top_k=-1,
        auto_insert_metric_name=False,
        save_on_train_epoch_end=save,
    )
    data = SyntheticSceneDataModule(**(settings | options))
    trainer = make_trainer(None, checkpoints, max_epochs=EPOCHS)
    trainer.fit(task, data, ckpt_path=ckpt_path)
    return task.state_dict()


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings('ignore:The dirpath has changed')
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'save': True},
        {'split': RandomSplit(0.2, 0.0)},
        {'sampler': ClassBalancedSampler(seed=3)},
        {'sampler': PerClassSampler(9)},
        {'num_workers': 1},
    ],
    ids=[
        'shuffle',
        'saved after the epoch',
        'no validation',
        'balanced',
        'each',
        'worker',
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    options: dict[str, Any], tmp_path: Path
) -> None:
    whole = fit(tmp_path, **options)
    for epoch in range(EPOCHS - 1):
        path = tmp_path / f'epoch-{epoch}.ckpt'
        resumed = fit(tmp_path / f'again-{epoch}', seed=9, ckpt_path=path, **options)
        assert_same(resumed, whole)


def test_workers_change_no_weight(tmp_path: Path) -> None:
    alone = fit(tmp_path / 'alone')
    assert_same(fit(tmp_path / 'two', num_workers=2), alone)


def test_no_warning_filter_stays(tmp_path: Path) -> None:
    before = list(warnings.filters)
    fit(tmp_path)
    assert list(warnings.filters) == before


def test_generators_go_on() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    states = generator_states()
    first = draw(), draw()
    restore_generators(states)
    assert (draw(), draw()) == first


def test_generators_pass_through_a_checkpoint(tmp_path: Path) -> None:
    np.random.standard_normal()  # half of a pair is kept for the next call
    states = generator_states()
    torch.save(states, tmp_path / 'states.pt')
    expected = random.random(), np.random.standard_normal(), float(torch.rand(()))
    restore_generators(torch.load(tmp_path / 'states.pt', weights_only=True))
    found = random.random(), np.random.standard_normal(), float(torch.rand(()))
    assert found == expected


def test_other_stages_leave_the_generators_alone(tmp_path: Path) -> None:
    fit(tmp_path)
    data = SyntheticSceneDataModule(
        rows=16, cols=16, num_bands=8, num_classes=2, patch_size=3,
        batch_size=16, split=RandomSplit(0.2, 0.1),
    )  # fmt: skip
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    data.setup('test')
    data.load_state_dict(
        torch.load(tmp_path / 'epoch-0.ckpt', weights_only=True)[
            'SyntheticSceneDataModule'
        ]
    )
    data.train_dataloader()
    assert torch.equal(torch.get_rng_state(), expected)
