# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Truth of probabilities: how far they are off, and a temperature that mends them.

A network that is trained until its training pixels are certain says 99 % where it is
right in 80 % of the cases. One number mends most of that (Guo et al. 2017,
https://arxiv.org/abs/1706.04599): logits are divided by a temperature that makes the
validation pixels most probable. No class changes by it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ('Calibrated', 'Reliability', 'ValidationLogits', 'calibrated')

#: Bins of equal width from 0 to 1; what most publications use.
BINS = 15

_PARTS = 1 << 24
"""Parts of 1 that confidences are summed in: the digits of float32 between 0.5 and 1."""

_COLDEST, _HOTTEST = 0.01, 100.0


class Calibrated(nn.Module):
    """A network whose logits are divided by a temperature."""

    temperature: Tensor

    def __init__(self, network: nn.Module, temperature: float) -> None:
        """Initialize a new Calibrated instance.

        Args:
            network: Network from patches to logits.
            temperature: What its logits are divided by.
        """
        super().__init__()
        self.network = network
        value = torch.tensor(float(temperature), dtype=torch.float32)
        self.register_buffer('temperature', value)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits of shape (B, classes)."""
        logits: Tensor = self.network(x)
        return logits / self.temperature


def calibrated(network: nn.Module, temperature: float | None) -> nn.Module:
    """Let a network tell calibrated probabilities.

    Args:
        network: Network from patches to logits.
        temperature: Its temperature; None for a network that has none.

    Returns:
        The network itself, or one around it in the same mode and place.
    """
    if temperature is None:
        return network
    around = Calibrated(network, temperature).train(network.training)
    first = next(network.parameters(), None)
    return around if first is None else around.to(first.device)


class ValidationLogits(Metric):
    """Keeps logits and classes of the validation pixels, and fits a temperature."""

    full_state_update = False
    logits: list[Tensor]
    target: list[Tensor]

    def __init__(self) -> None:
        """Start without pixels."""
        super().__init__()
        for name in ('logits', 'target'):
            self.add_state(name, default=[], dist_reduce_fx='cat')

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Keep a batch: logits (B, classes) and classes (B,)."""
        # A captured network writes its next logits into the same memory.
        self.logits.append(logits.detach().float().clone())
        self.target.append(target.clone())

    def compute(self) -> float:
        """Give the temperature under which the pixels are most probable.

        Where every pixel is right no temperature is too low. So it is fitted as if one
        pixel more had been seen that could be of any class (the rule of succession, as
        in Platt's scaling).
        """
        # Validation runs in inference mode, whose tensors no gradient passes.
        with torch.inference_mode(False), torch.enable_grad():
            logits = dim_zero_cat(self.logits).cpu().double()
            target = dim_zero_cat(self.target).cpu().clone()
            doubt = 1 / (len(target) + 1)
            exponent = torch.zeros((), dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.LBFGS(
                [exponent], max_iter=100, line_search_fn='strong_wolfe'
            )

            def loss() -> Tensor:
                optimizer.zero_grad()
                value = functional.cross_entropy(
                    logits / exponent.exp(), target, label_smoothing=doubt
                )
                value.backward()
                return value

            optimizer.step(loss)
            found = float(exponent.detach().exp())
        return min(max(found, _COLDEST), _HOTTEST)


class Reliability(Metric):
    """Confidence beside accuracy, by bins of the confidence.

    torchmetrics' ``MulticlassCalibrationError`` gives the same error but keeps every
    pixel, and not the bins that a figure needs.
    """

    full_state_update = False
    pixels: Tensor
    confidence: Tensor
    right: Tensor

    def __init__(self) -> None:
        """Start without pixels."""
        super().__init__()
        for name in ('pixels', 'confidence', 'right'):
            # Whole numbers: sums of float32 stand still after some million pixels.
            counts = torch.zeros(BINS, dtype=torch.int64)
            self.add_state(name, default=counts, dist_reduce_fx='sum')

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Count a batch: probabilities (B, classes) and classes (B,)."""
        # What is no number has no bin; the task refuses it when the stage ends.
        top, found = probabilities.float().nan_to_num(0.0).max(dim=1)
        cell = (top * BINS).long().clamp(max=BINS - 1)
        for name, values in (
            ('pixels', torch.ones_like(cell)),
            ('confidence', (top * _PARTS).round().long()),
            ('right', (found == target).long()),
        ):
            sums: Tensor = getattr(self, name)
            setattr(self, name, sums.scatter_add(0, cell, values))

    def compute(self) -> dict[str, Any]:
        """Give error and bins as JSON-able values.

        Returns:
            'expected_calibration_error', the mean difference of confidence and accuracy
            over the bins, weighted by their pixels, from 0 to 1; 'bins': lists of
            'pixels', mean 'confidence' and 'accuracy', one a bin, None for an empty one.
        """
        pixels, sums, right = (
            values.cpu().double()
            for values in (self.pixels, self.confidence, self.right)
        )
        sums = sums / _PARTS
        error = float((sums - right).abs().sum() / pixels.sum().clamp(min=1))
        filled = pixels.tolist()
        means = {
            name: [
                value / count if count else None
                for value, count in zip(values.tolist(), filled, strict=True)
            ]
            for name, values in (('confidence', sums), ('accuracy', right))
        }
        return {
            'expected_calibration_error': error,
            'bins': {'pixels': [int(count) for count in filled], **means},
        }
