# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A task, its data and its trainer, small enough for a test."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask

BANDS = 12
CLASSES = 3
PATCH = 5
#: Of the smallest network with experts, one layer.
FEW: dict[str, Any] = {'block_config': [1]}


def make_datamodule(**kwargs: Any) -> SyntheticSceneDataModule:
    arguments: dict[str, Any] = {
        'rows': 20,
        'cols': 20,
        'num_bands': BANDS,
        'num_classes': CLASSES,
        'patch_size': PATCH,
        'batch_size': 32,
        'split': RandomSplit(0.3, 0.2, 3),
    }
    return SyntheticSceneDataModule(**{**arguments, **kwargs})


def make_task(**kwargs: Any) -> HyperspectralClassificationTask:
    if 'model' not in kwargs:
        kwargs = {'model': 'ekgnet_tiny', 'model_options': FEW, **kwargs}
    return HyperspectralClassificationTask(**kwargs)


def make_trainer(
    folder: Path | None = None, *callbacks: Callback, **kwargs: Any
) -> Trainer:
    """Make a trainer that shows nothing, and writes what its callbacks write alone."""
    options: dict[str, Any] = {
        'max_epochs': 1,
        'accelerator': 'cpu',
        'logger': False,
        'callbacks': list(callbacks),
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'enable_checkpointing': any(isinstance(c, ModelCheckpoint) for c in callbacks),
        'default_root_dir': folder,
    }
    return Trainer(**{**options, **kwargs})


def make_batch(size: int = 8) -> dict[str, Tensor]:
    return {
        'image': torch.randn(size, BANDS, PATCH, PATCH),
        'label': torch.randint(0, CLASSES, (size,)),
    }


def make_loader(size: int) -> DataLoader[Any]:
    batches: Any = [make_batch(size)]
    return DataLoader(batches, batch_size=None)
