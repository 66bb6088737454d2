# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A data module and a network, small enough for a test."""

import json
from pathlib import Path
from typing import Any

import lightning
import torch
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


class KeepScores(lightning.Callback):
    """Writes down what process 0 found in the stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def keep(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if trainer.is_global_zero and stage in pl_module.accuracies:
            scores = pl_module.accuracies[stage].to_dict()
            scores['loss'] = float(trainer.callback_metrics[f'{stage}_loss'])
            (self.folder / stage).write_text(json.dumps(scores))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.keep(trainer, pl_module, 'val')

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.keep(trainer, pl_module, 'test')
