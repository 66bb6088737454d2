# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Losses and logits that are no numbers: seen on the device, told on the host."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..metrics import not_finite

OnNonfinite = Literal['stop', 'skip']


class FiniteWatch:
    """Counts batches that are not finite, without waiting for the device.

    Args:
        skip: Whether training steps are skipped instead of ending the training.
    """

    def __init__(self, skip: bool = False) -> None:
        """Initialize."""
        self.skip = skip
        self.skipped = 0
        self.steps = 0
        self._bad: Tensor | None = None
        self._unfinished = 0
        self._saved: list[Tensor] | None = None

    def see(self, values: Tensor) -> None:
        """Look at the loss or the logits of a batch."""
        bad = (~torch.isfinite(values.detach())).any().long()
        self._bad = bad if self._bad is None else self._bad + bad

    def read(self) -> int:
        """Give the number of batches that were not finite, and begin anew.

        The host waits for the device here, and nowhere else.
        """
        bad, self._bad = self._bad, None
        return 0 if bad is None else int(bad)

    def check(self, stage: str) -> None:
        """Raise ValueError if a batch was not finite."""
        if self.read():
            raise ValueError(not_finite(stage))

    def save(self, network: nn.Module) -> None:
        """Keep the running statistics, which a skipped step must not spoil."""
        if self.skip and self._saved is None:
            self._saved = [buffer.clone() for buffer in network.buffers()]

    def before_validation(self, network: nn.Module) -> None:
        """Keep a step that is skipped later out of a validation amid its batches."""
        if self._saved is not None:
            self._unfinished += self.read()
            if self._unfinished:
                self._restore(network, self._saved)

    def before_step(self, network: nn.Module, module: Any) -> None:
        """Refuse or skip an optimizer step whose loss or gradient is not finite.

        A device other than the CPU is asked only if steps are to be skipped; otherwise
        its loss is looked at when the epoch ends. With the scaler of float16 the loss
        alone counts: the scaler finds its scale by gradients that are infinite, leaves
        out such steps itself, and wants to see the gradients of each.

        Args:
            network: The network.
            module: The task, which knows the other processes.

        Raises:
            ValueError: If the training is to stop.
        """
        self.steps += 1
        if not self.skip:
            if module.device.type == 'cpu':
                self.check('fit')
            return
        scaled = getattr(module.trainer.precision_plugin, 'scaler', None) is not None
        own = [] if scaled else [p for p in network.parameters() if p.grad is not None]
        for parameter in own:
            self.see(cast(Tensor, parameter.grad))
        bad = torch.tensor(self._unfinished + self.read(), device=module.device)
        self._unfinished = 0
        if bool(module.all_gather(bad).any()):
            self.skipped += 1
            for parameter in own:
                parameter.grad = None
            if self._saved is not None:
                self._restore(network, self._saved)
        self._saved = None

    @staticmethod
    def _restore(network: nn.Module, saved: list[Tensor]) -> None:
        """Give a network the running statistics that were kept."""
        with torch.no_grad():
            for now, kept in zip(network.buffers(), saved, strict=True):
                now.copy_(kept)

    def finish_epoch(self) -> int:
        """Check the epoch, and tell how many of its steps were skipped.

        Raises:
            ValueError: If the loss was not finite, or no step was left.
        """
        steps, skipped = self.steps, self.skipped
        self.steps = self.skipped = 0
        if not self.skip or (steps and skipped == steps):
            if skipped:  # each of these steps has been counted, and read, already
                self._bad = torch.tensor(1)
            self.check('fit')
        return skipped
