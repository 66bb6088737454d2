# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Train and test one network as a run says."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from .._files import StrPath
from ..callbacks import ExpertUse
from ..callbacks.checkpoint_io import write_whole
from ..layers import expert_convs
from .build import built_run, check_content, described, placed
from .runs import Result, Settings

MONITOR = 'val_loss'
"""What decides which epoch's weights are tested: the lowest validation loss."""

_CURVES = ('train_loss', 'train_OA', 'val_loss', 'val_OA')


class CurveLogger(Logger):
    """Keeps what is logged once an epoch in memory.

    Attributes:
        curves: Values by name of the logged quantity, one an epoch; None for a value
            that is not finite. ``train_epoch`` and ``val_epoch`` are their epochs, from
            1: not every epoch validates.
    """

    def __init__(self) -> None:
        """Start with empty curves."""
        super().__init__()
        self.curves: dict[str, list[float | None]] = {}

    @property
    def name(self) -> str:
        """Name of the logger."""
        return 'curves'

    @property
    def version(self) -> int:
        """Version of the logged run."""
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters: the settings of the run are known."""

    @rank_zero_only
    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None
    ) -> None:
        """Note the values of an epoch."""
        for name in _CURVES:
            if name in metrics:
                value = float(metrics[name])
                known = value if math.isfinite(value) else None
                self.curves.setdefault(name, []).append(known)
                stage = name.partition('_')[0]
                epochs = self.curves.setdefault(f'{stage}_epoch', [])
                if len(epochs) < len(self.curves[name]):
                    epochs.append(float(metrics.get('epoch', len(epochs))) + 1)


class SettledCheckpoint(ModelCheckpoint):
    """Keeps the weights of the best epoch among those after a schedule has ended.

    A network in the middle of pruning or annealing is another one than the table
    means, however low its validation loss is.

    Args:
        start_epoch: First epoch, from 0, that may be kept.
        **kwargs: Arguments of Lightning's ``ModelCheckpoint``.
    """

    def __init__(self, start_epoch: int = 0, **kwargs: Any) -> None:
        """Note the first epoch."""
        super().__init__(**kwargs)
        self.start_epoch = start_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after an epoch, if it may be kept."""
        if trainer.current_epoch >= self.start_epoch:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation, if the epoch may be kept."""
        if trainer.current_epoch >= self.start_epoch:
            super().on_validation_end(trainer, pl_module)


def train(settings: Settings, root: StrPath | None, work: Path) -> Result:
    """Train and test a network.

    Args:
        settings: Settings of a run.
        root: Folder of the scene's files; None: as configured.
        work: Folder for checkpoints.

    Returns:
        Confusion counts, epochs, curves, use of the experts, parameters and seconds.

    Raises:
        KeyboardInterrupt: If the user stopped the training.
    """
    curves, timer = CurveLogger(), Timer()
    checkpoint = SettledCheckpoint(
        settings.get('start_epoch', 0),
        dirpath=work,
        filename='best',
        enable_version_counter=False,
        **settings.get('checkpoint', {'monitor': MONITOR}),
    )
    built = built_run(placed(settings, root, work), (timer, checkpoint))
    trainer: Any = built.trainer
    task, data = built.model, built.datamodule
    trainer.loggers = [curves]
    write_whole(trainer)
    data.setup('fit')
    check_content(settings, data)
    trainer.fit(task, datamodule=data)
    if trainer.interrupted:
        # Lightning turns Ctrl-C into a normal end; half a run is not a result.
        raise KeyboardInterrupt
    epochs = trainer.current_epoch
    best = work / 'best.ckpt'
    if not best.is_file():
        # Stopped before the schedule had ended: nothing but the last epoch is left.
        trainer.save_checkpoint(best)
    tested_epoch = torch.load(best, map_location='cpu', weights_only=True)['epoch'] + 1
    # Before the test: restoring a checkpoint restores its timer on top of this one.
    training = timer.time_elapsed('train')
    # Watching the experts takes time, which is no part of inference: a second pass.
    watching = [c for c in trainer.callbacks if isinstance(c, ExpertUse)]
    trainer.callbacks = [c for c in trainer.callbacks if c not in watching]
    trainer.test(task, datamodule=data, ckpt_path=best, verbose=False)
    confusion = task.accuracies['test'].confusion.tolist()
    inference = timer.time_elapsed('test')
    if watching:
        trainer.callbacks += watching
        trainer.test(task, datamodule=data, verbose=False)
    return {
        **described(data),
        'confusion': confusion,
        **_smoothed(settings, task, data),
        'epochs': epochs,
        'tested_epoch': min(tested_epoch, epochs),
        'curves': curves.curves,
        'experts': _experts(task, work),
        'parameters': sum(p.numel() for p in task.parameters()),
        'seconds': {'training': training, 'inference': inference},
    }


def _smoothed(settings: Settings, task: Any, data: Any) -> Result:
    """Score smoothed probabilities of a network, if that is asked for."""
    wanted = settings.get('smooth')
    if wanted is None:
        return {}
    from ..maps.scoring import score_smoothed
    from ..maps.smoothing import Smoothing

    task.eval()
    accuracies, share = score_smoothed(
        task.classifier, data, Smoothing(**wanted), task.device
    )
    return smoothed_result(wanted, accuracies.confusion, share)


def smoothed_result(
    smooth: Mapping[str, Any], confusion: NDArray[np.int64], share: float
) -> Result:
    """Give what a result holds of smoothed probabilities."""
    counts = {'confusion': confusion.tolist(), 'reaches_training': share}
    return {'smoothed': {**smooth, **counts}}


def _experts(task: LightningModule, work: Path) -> Result | None:
    """Gather what ``ExpertUse`` has written about the tested network, if it has."""
    path = work / 'expert_use.json'
    if not path.is_file():
        return None
    use = json.loads(path.read_text(encoding='utf-8'))
    layers = [layer for layer in use['layers'].values() if layer['experts'] > 1]
    if not layers:
        return None
    shares = [layer['entropy'] / layer['log_experts'] for layer in layers]
    told = [layer['class_information'] / layer['log_experts'] for layer in layers]
    mappings: list[Any] = [layer.mapping for _, layer in expert_convs(task)]
    temperatures = [
        float(mapping.temperature.detach())
        for mapping in mappings
        if hasattr(mapping, 'temperature')
    ]
    accuracy = use.get('accuracy', {}).get('mean', {}).get('overall_accuracy')
    return {
        'entropy': use['normalised_entropy'],
        'lowest_entropy': min(shares),
        'information': max(told),
        'temperature': float(np.mean(temperatures)) if temperatures else None,
        'accuracy_with_mean_attention': accuracy,
    }
