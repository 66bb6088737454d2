# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A data module, a task and a trainer, small enough for a test."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit

CPU = torch.device('cpu')


def synthetic(**kwargs: Any) -> SyntheticSceneDataModule:
    arguments: dict[str, Any] = {
        'rows': 32,
        'cols': 30,
        'num_bands': 8,
        'num_classes': 3,
        'patch_size': 5,
        'split': RandomSplit(0.2, 0.1),
    }
    return SyntheticSceneDataModule(**{**arguments, **kwargs})


def ready(stage: str = 'fit', **kwargs: Any) -> SyntheticSceneDataModule:
    module = synthetic(**kwargs)
    module.prepare_data()
    module.setup(stage)
    return module


class Linear(nn.Module):
    """A classifier that trains on one sample."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.in_channels = in_chans
        self.fc = nn.Linear(in_chans, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x[:, :, x.shape[2] // 2, x.shape[3] // 2])
        return logits


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    arguments: dict[str, Any] = {
        'accelerator': 'cpu',
        'max_epochs': 1,
        'logger': False,
        'default_root_dir': folder,
        'enable_progress_bar': False,
        'enable_model_summary': False,
    }
    return Trainer(**{**arguments, **kwargs})
