# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Learning-rate schedules of the task, all stepped once an epoch."""

import math
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

LRSchedule = Literal['constant', 'cosine', 'cosine_wave', 'plateau']

WAVE_EPOCHS = 15
"""Half period, in epochs, of the learning-rate wave of the released program."""


class CosineToZero(LambdaLR):
    """Linear warm-up, then a cosine from the full rate to 0 at the trainer's end.

    What a checkpoint restores is the epoch only, so that a run which is resumed for
    more epochs has the rates of one that was meant to be that long.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, warmup: int = 0) -> None:
        """Initialize.

        Args:
            optimizer: The optimizer.
            epochs: Epoch at which the rate is 0.
            warmup: Epochs in which it rises.
        """
        super().__init__(
            optimizer,
            lambda epoch: (
                rising(epoch, warmup)
                if epoch < warmup
                else 0.5
                + 0.5 * math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup))
            ),
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the epoch of a checkpoint, of a schedule over any number of epochs."""
        super().load_state_dict(state_dict)
        factors = [factor(self.last_epoch) for factor in self.lr_lambdas]
        self._last_lr = [
            rate * factor for rate, factor in zip(self.base_lrs, factors, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group['lr'] = rate


def wave(epoch: int) -> float:
    """Learning-rate factor of the released program under PyTorch 1.9 and later.

    It creates a scheduler anew in each epoch and steps it with the epoch's index, which
    makes a cosine that touches 0 at epochs 16, 46, 76 and returns in between.

    Args:
        epoch: Epoch, from 0.

    Returns:
        Factor of the learning rate, in [0, 1].
    """
    return 0.5 * (1.0 + math.cos(math.pi * max(epoch - 1, 0) / WAVE_EPOCHS))


def rising(epoch: int, warmup: int) -> float:
    """Factor of a learning rate that rises to 1 in epoch *warmup*."""
    return min(1.0, (epoch + 1) / (warmup + 1))


def make_schedule(
    name: LRSchedule,
    optimizer: Optimizer,
    epochs: int | None,
    patience: int,
    warmup: float = 0.0,
) -> LRScheduler | None:
    """Create a schedule by its name.

    Args:
        name: Name of the schedule.
        optimizer: Optimizer whose rates it sets.
        epochs: Epochs of the training; None or -1 if it has no last one.
        patience: Epochs that 'plateau' waits for an improvement.
        warmup: Share of the epochs in which 'constant' and 'cosine' rise.

    Returns:
        The schedule; None for a constant rate.

    Raises:
        ValueError: If the schedule needs a last epoch and the training has none.
    """
    if warmup and name not in ('constant', 'cosine'):
        rank_zero_warn(
            f'warmup: {warmup:g} has no effect, because lr_schedule {name!r} does not '
            "rise; 'constant' and 'cosine' do"
        )
        warmup = 0.0
    if (name == 'cosine' or warmup) and (epochs is None or epochs < 1):
        raise ValueError(
            f"lr_schedule: 'cosine' and warmup need trainer.max_epochs, found {epochs}; "
            'give a number of epochs or another schedule'
        )
    # 7 % of 100 epochs are 7, though 0.07 * 100 is a little more.
    rise = math.ceil(warmup * epochs - 1e-9) if epochs else 0
    match name:
        case 'constant':
            if not rise:
                return None
            return LambdaLR(optimizer, lambda epoch: rising(epoch, rise))
        case 'plateau':
            return ReduceLROnPlateau(optimizer, patience=patience)
        case 'cosine_wave':
            return LambdaLR(optimizer, wave)
        case 'cosine':
            return CosineToZero(optimizer, epochs or 1, rise)
