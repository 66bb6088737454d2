# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Annealing of the temperature that sharpens the mixture of experts."""

import logging
import math

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim import Optimizer

from ..layers import expert_convs
from ..layers.context_mapping import TEMPERATURE_FLOOR

logger = logging.getLogger(__name__)


class TemperatureAnnealing(Callback):
    r"""Lowers the temperature :math:`\tau` of every expert convolution each epoch.

    The paper starts at 34 and lowers by 3 an epoch down to 1 (the defaults): a high
    temperature mixes the experts evenly while they are still alike, a low one lets the
    network choose. The released program never calls its own annealing; leave the
    callback out, or pass ``step=None``, to do the same. Runs of other lengths than the
    paper's 80 epochs are better served by a *share* of the run.

    The rules:

    * **Learnt temperatures.** :math:`\tau` is a parameter. While annealing lasts, it is
      *set* at the start of each epoch, which discards what the optimizer learnt of it
      in the epoch before. The first epoch that is trained at *end* is the last one in
      which it is set; from then on it is learnt freely (or kept, with ``learn=False``).
    * **Resuming.** The temperature of an epoch depends on the epoch's number alone, so
      a resumed run goes on as if it had never stopped.
    * **Early stopping.** The callback neither stops a run nor keeps one alive. A
      checkpoint holds the temperature it was scored with, so the best weights come
      back with theirs. If early stopping could end the run before *end* is reached
      (patience shorter than the annealing), a warning says so.
    """

    def __init__(
        self,
        start: float = 34.0,
        end: float = 1.0,
        step: float | None = 3.0,
        decay: float | None = None,
        learn: bool = True,
        share: float | None = None,
    ) -> None:
        """Initialize a new TemperatureAnnealing instance.

        Args:
            start: Temperature of the first epoch.
            end: Temperature at which annealing ends.
            step: What is subtracted in each epoch; None if *decay* is given, or to
                leave temperatures alone.
            decay: Factor in (0, 1) by which each epoch multiplies instead; give
                ``step=None`` with it.
            learn: Whether temperatures are learnt; False keeps the optimizer off them
                for the whole run, so they follow the schedule and nothing else (with
                ``step=None`` they stay where the network was built with them).
            share: Share of the run's epochs in which the temperature falls in equal
                steps from *start* to *end*, whatever their number; *step* is not used.

        Raises:
            ValueError: If an argument has no meaning, or *decay* is given beside
                *step* or *share*.
        """
        super().__init__()
        for name, value in (('start', start), ('end', end)):
            if not value > TEMPERATURE_FLOOR or math.isinf(value):
                raise ValueError(
                    f'{name}: found {value}, expected a number above '
                    f'{TEMPERATURE_FLOOR}, where temperatures end'
                )
        if end > start:
            raise ValueError(f'end: found {end}, expected at most start={start}')
        if share is not None:
            if not 0 < share <= 1:
                raise ValueError(
                    f'share: found {share}, expected a share above 0, at most 1'
                )
            step = None
            if decay is not None:
                raise ValueError(
                    f'share and decay: found share={share} and decay={decay}, expected '
                    'one of them'
                )
        if step is not None and decay is not None:
            raise ValueError(
                f'step and decay: found step={step} and decay={decay}, expected one of '
                'them; pass step=None with decay'
            )
        if step is not None and not 0 < step < math.inf:
            raise ValueError(
                f'step: found {step}, expected a positive number or None for off'
            )
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f'decay: found {decay}, expected a factor in (0, 1)')
        self.start = float(start)
        self.end = float(end)
        self.step = step
        self.decay = decay
        self.learn = learn
        self.share = share
        # Epochs of the run, which a share of it waits for.
        self._run: int | None = None

    def temperature(self, epoch: int) -> float | None:
        """Return what the temperature is set to at the start of an epoch, None if nothing."""
        if epoch > self.epochs:
            return None
        if self.share is not None:
            return self.start + (self.end - self.start) * epoch / self.epochs
        if self.step is not None:
            return max(self.end, self.start - self.step * epoch)
        if self.decay is not None:
            return max(self.end, self.start * self.decay**epoch)
        return None

    @property
    def epochs(self) -> int:
        """Number of the first epoch that is trained at *end*; -1 when off."""
        if self.share is not None:
            if self._run is None:
                raise RuntimeError('share: the epochs of the run are known in a fit')
            return max(1, math.ceil(self.share * self._run - 1e-9))
        # The tolerance keeps rounding from adding an epoch to an exact schedule.
        if self.step is not None:
            return math.ceil((self.start - self.end) / self.step - 1e-9)
        if self.decay is not None:
            return math.ceil(math.log(self.end / self.start, self.decay) - 1e-9)
        return -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn about runs in which annealing has no effect or no end."""
        self._run = trainer.max_epochs
        if self.share is not None and (self._run is None or self._run < 1):
            raise ValueError(
                f'share: found trainer.max_epochs={self._run}, expected a number of '
                'epochs; or give step or decay'
            )
        if self.epochs < 0:
            return
        self._warn_of_the_end(trainer)
        if not any(True for _ in expert_convs(pl_module)):
            logger.info('TemperatureAnnealing: the network has no expert convolution')
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.patience < self.epochs:
                logger.warning(
                    'TemperatureAnnealing lasts %d epochs, EarlyStopping may end the '
                    'run after %d without improvement: give it more patience',
                    self.epochs,
                    callback.patience,
                )

    def _warn_of_the_end(self, trainer: Trainer) -> None:
        """Warn if the network is hardly trained with the temperature that it keeps."""
        run = trainer.max_epochs
        if run is None or run < 1 or getattr(trainer, 'fast_dev_run', False):
            return
        if self.share is not None and self.share <= 0.5:
            return  # a run of one epoch is a trial
        if self.epochs >= run:
            when = 'does not end before the run does'
        elif self.epochs >= 0.9 * run:
            when = 'ends in the last tenth of the run'
        else:
            return
        logger.warning(
            'TemperatureAnnealing %s: %g is reached in epoch %d of %d, and short runs '
            'lose accuracy by it; give share=0.5, larger steps or more epochs',
            when,
            self.end,
            self.epochs + 1,
            run,
        )

    def on_train_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Set the temperature of the epoch."""
        temperature = self.temperature(trainer.current_epoch)
        if temperature is None:
            return
        for _, layer in expert_convs(pl_module):
            setter = getattr(layer.mapping, 'set_temperature', None)
            if setter is not None:
                setter(temperature)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the optimizer off temperatures that are not learnt."""
        if self.learn:
            return
        for _, layer in expert_convs(pl_module):
            parameter = getattr(layer.mapping, 'raw_temperature', None)
            if parameter is not None:
                parameter.grad = None
