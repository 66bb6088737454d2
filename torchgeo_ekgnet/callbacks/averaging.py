# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Moving average of the weights, scored and kept in place of the last ones."""

import math
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ('MovingAverage',)


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights over a share of the run.

    Validation scores the average, checkpoints hold it, and so does the network when the
    training has ended. Running statistics are averaged as weights are.
    """

    def __init__(self, share: float = 0.05, start: float = 0.0) -> None:
        """Initialize a new MovingAverage instance.

        Args:
            share: Share of the run's optimizer steps that the average looks back: a
                step keeps 1 - 1 / (share * steps) of it, and less at the beginning.
            start: Share of the run that is over when averaging begins; until then the
                average is the present network.

        Raises:
            ValueError: If a share has no meaning.
        """
        if not 0 < share < 1:
            raise ValueError(f'share: found {share}, expected a share between 0 and 1')
        if not 0 <= start < 1:
            raise ValueError(f'start: found {start}, expected a share below 1')
        super().__init__(use_buffers=True, multi_avg_fn=self._update)
        self.share = share
        self.start = start
        self._steps = 1.0
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let Lightning copy the network to where it will be trained."""
        if stage == 'fit':
            self._device = trainer.strategy.root_device
            # Of an earlier training; that which is resumed brings its own number.
            self._latest_update_step = 0
        else:
            # A checkpoint, or the network, has the weights: not an average that an
            # earlier training, perhaps an interrupted one, has left here.
            self._average_model = None
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # PyTorch reads this counter on the host at every update.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on averaging; in other stages the checkpoint holds all that is needed."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a training without an end."""
        self._steps = float(trainer.estimated_stepping_batches)
        if not 0 < self._steps < math.inf:
            raise ValueError(
                f'MovingAverage: found {self._steps} steps, expected an end of the '
                'training: set max_epochs or max_steps of the trainer'
            )

    def should_update(
        self, step_idx: int | None = None, epoch_idx: int | None = None
    ) -> bool:
        """Update after every step."""
        self._step = self._step if step_idx is None else step_idx
        return step_idx is not None

    def kept(self, step: int) -> float:
        """Tell which share of the average an update keeps.

        Args:
            step: Number of the optimizer step, from 0.

        Returns:
            0 until averaging begins; then as a plain mean, until the steps that the
            average looks back are over.
        """
        since = step - math.floor(self.start * self._steps)
        return max(
            0.0, 1 - 1 / min(max(1, since + 1), max(1, self.share * self._steps))
        )

    def _update(
        self, average: Sequence[Tensor], current: Sequence[Tensor], updates: object
    ) -> None:
        """Update tensors of one type: PyTorch groups them."""
        if average[0].is_floating_point():
            get_ema_multi_avg_fn(self.kept(self._step))(list(average), list(current), 0)
            return
        # Counts and numbers, such as channels that are pruned, have no mean.
        for held, given in zip(average, current, strict=True):
            held.copy_(given)
