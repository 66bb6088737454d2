# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which weights a training has kept, and what its scores are of."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

__all__ = ('kept_weights', 'validated_part')


def kept_weights(trainer: Trainer) -> tuple[str, Path] | None:
    """Find the weights to go on with: the best, else the last ones.

    Without a score to watch, the configuration means the last weights; they are what is
    left, too, where the score was never computed. If there are none, a warning says so.
    """
    savers = [
        item
        for item in trainer.checkpoint_callbacks
        if isinstance(item, ModelCheckpoint)
    ]
    kept = [
        (name, Path(path))
        for item in savers
        for name, path in (
            ('last' if item.monitor is None else 'best', item.best_model_path),
            ('last', item.last_model_path),
        )
        if path and Path(path).is_file()
    ]
    if kept:
        return min(kept, key=lambda item: item[0])
    if savers and savers == trainer.checkpoint_callbacks:
        rank_zero_warn(
            'fit: found no checkpoint, expected one at least: what was trained is lost; '
            'was the score that ModelCheckpoint monitors never computed (see '
            'check_val_every_n_epoch and limit_val_batches of the trainer), or does it '
            'save less often (every_n_epochs)?'
        )
    return None


def validated_part(trainer: Trainer) -> str:
    """Say on how many batches a validation was done, where not on all."""
    done, whole = sum(trainer.num_val_batches), trainer.val_dataloaders
    if not isinstance(whole, DataLoader) or done >= len(whole):
        return ''
    return f' on {done:g} of {len(whole)} batches'
