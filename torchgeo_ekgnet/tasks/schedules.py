# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Learning-rate schedules of the task, all stepped once an epoch."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

LRSchedule = Literal['constant', 'cosine', 'cosine_wave', 'plateau']

WAVE_EPOCHS = 15
"""Half period, in epochs, of the learning-rate wave of the released program."""


class Scaled(LRScheduler):
    """Rates that a function of the epoch scales, also of groups that are added later.

    Lightning's callbacks that unfreeze layers add them, at a rate of the moment, and
    PyTorch's ``LambdaLR`` ends there. What a checkpoint restores is the epoch only, so
    that a run which is resumed for more epochs has the rates of one that was meant to be
    that long.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        """Initialize.

        Args:
            optimizer: The optimizer.
            factor: Factor of the rate by the epoch, from 0.
        """
        self._factor = factor
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Give the rate of every group in this epoch."""
        before = self._factor(max(self.last_epoch - 1, 0))
        for group in self.optimizer.param_groups:
            group.setdefault('initial_lr', group['lr'] / (before or 1.0))
        now = self._factor(self.last_epoch)
        return [group['initial_lr'] * now for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint keeps, which holds no functions."""
        state = super().state_dict()
        del state['_factor']
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the epoch of a checkpoint, of a schedule over any number of epochs."""
        super().load_state_dict(state_dict)
        self._last_lr = self.get_lr()
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


def falling(epoch: int, epochs: int, warmup: int = 0) -> float:
    """Factor of a rate that rises in *warmup* epochs and falls as a cosine to 0."""
    if epoch < warmup:
        return rising(epoch, warmup)
    part = math.pi * (epoch - warmup) / max(1, epochs - warmup)
    return 0.5 + 0.5 * math.cos(part)


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
            return Scaled(optimizer, partial(rising, warmup=rise)) if rise else None
        case 'plateau':
            return ReduceLROnPlateau(optimizer, patience=patience)
        case 'cosine_wave':
            return Scaled(optimizer, wave)
        case 'cosine':
            return Scaled(optimizer, partial(falling, epochs=epochs or 1, warmup=rise))
