# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The pruning schedule in a real training loop."""

from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.small import make_trainer
from torchgeo_ekgnet.callbacks import PruningSchedule
from torchgeo_ekgnet.models.dgcnet import DynamicGroupConv3d, inactive_channels


class Task(LightningModule):
    """Fit one network to noise and record its pruning."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[int] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        for module in self.modules():
            if isinstance(module, DynamicGroupConv3d):
                self.seen.append(int(module.inactive))
                break
        loss: Tensor = self.network(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(task: Task, **kwargs: Any) -> None:
    data = DataLoader(TensorDataset(torch.randn(12, 8, 3, 3)), batch_size=2)
    make_trainer(None, PruningSchedule(), **kwargs).fit(task, data)


@pytest.fixture
def network() -> nn.Module:
    model: nn.Module = timm.create_model(
        'dgcnet', in_chans=8, block_config=(1, 1, 1), growth_rate=4
    )
    return model


def test_progress_follows_the_training(network: nn.Module) -> None:
    task = Task(network)
    fit(task, max_epochs=2)
    channels = 8
    assert task.seen == [inactive_channels(s / 12, channels) for s in range(12)]
    assert task.seen[0] == 0 and task.seen[-1] == 6


def test_end_by_steps(network: nn.Module) -> None:
    task = Task(network)
    fit(task, max_epochs=None, max_steps=8)
    assert task.seen == [inactive_channels(s / 8, 8) for s in range(8)]


def test_an_end_is_needed(network: nn.Module) -> None:
    with pytest.raises(ValueError, match='set max_epochs or max_steps'):
        fit(Task(network), max_epochs=-1)


def test_other_networks_are_left_alone() -> None:
    task = Task(nn.Sequential(nn.Flatten(), nn.Linear(72, 2)))
    fit(task, max_epochs=-1, max_time={'milliseconds': 1})
    assert task.seen == []
