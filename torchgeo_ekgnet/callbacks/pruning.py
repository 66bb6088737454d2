# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tell networks that prune themselves how far the training is."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ['PruningSchedule']


class PruningSchedule(Callback):
    """Call ``set_progress`` of every submodule that has it before a training step.

    DGCNet masks more channels as the training proceeds; without this callback it masks
    none. Networks without the method are left alone, so the callback may stand in a
    configuration for any model. Training ends at ``max_epochs`` or ``max_steps``; a
    run that early stopping cuts short keeps the pruning it had reached, and so does
    every checkpoint.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a training without an end, if there is something to prune."""
        self._networks: list[Any] = [
            module
            for module in pl_module.modules()
            if module is not pl_module
            and callable(getattr(module, 'set_progress', None))
        ]
        self._total = float(trainer.estimated_stepping_batches)
        if self._networks and not 0 < self._total < math.inf:
            raise ValueError(
                'PruningSchedule has to know the end of the training: set max_epochs '
                f'or max_steps of the trainer, found {self._total} steps'
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the progress of the training."""
        for module in self._networks:
            module.set_progress(min(trainer.global_step / self._total, 1.0))
