# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Losses of the task and weights of their classes."""

from collections.abc import Sequence
from typing import Literal

import torch
from segmentation_models_pytorch.losses import FocalLoss, JaccardLoss
from timm.data import Mixup
from torch import Tensor, nn

Loss = Literal['ce', 'focal', 'jaccard']


class MeanLoss:
    """Mean of losses over samples, added up on their device."""

    def __init__(self) -> None:
        """Begin without losses."""
        self._sum: Tensor | None = None
        self._samples = 0

    def add(self, loss: Tensor, samples: int) -> None:
        """Add the mean loss of a batch."""
        total = torch.zeros((), device=loss.device) if self._sum is None else self._sum
        self._sum = torch.add(total, loss, alpha=samples)
        self._samples += samples

    def take(self) -> Tensor | None:
        """Give the mean and begin anew; None without losses."""
        total, samples = self._sum, self._samples
        self._sum, self._samples = None, 0
        return None if total is None else total / samples


def make_loss(name: Loss, label_smoothing: float = 0.0) -> nn.Module:
    """Create a loss by its name; smoothing of labels is for the cross entropy."""
    match name:
        case 'ce':
            return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        case 'focal':
            loss: nn.Module = FocalLoss(mode='multiclass', normalized=True)
        case 'jaccard':
            loss = JaccardLoss(mode='multiclass')
    return loss


def weigh_classes(
    loss: nn.Module, weights: Sequence[float], num_classes: int | None
) -> None:
    """Give the cross entropy its class weights, which stay out of checkpoints.

    Args:
        loss: The loss, changed in place.
        weights: One weight a class.
        num_classes: Number of classes; None if it is not known yet.

    Raises:
        ValueError: If their number is not the number of classes.
    """
    if num_classes is not None and len(weights) != num_classes:
        raise ValueError(
            f'class_weights: found {len(weights)} values, expected {num_classes}, '
            'one a class'
        )
    values = torch.tensor(list(weights), dtype=torch.float32)
    loss.register_buffer('weight', values, persistent=False)


def mix(
    image: Tensor, label: Tensor, num_classes: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Mix every sample of a batch with the one opposite to it (Zhang et al. 2018).

    Args:
        image: Patches, shape (B, bands, P, P); left as they are.
        label: Classes, shape (B,).
        num_classes: Number of classes C.
        alpha: Both parameters of the beta distribution that the share is drawn from.

    Returns:
        Mixed patches and shares of the classes, shape (B, C). The sample in the middle
        of an odd batch has no opposite, and stays.
    """
    mixup = Mixup(mixup_alpha=alpha, label_smoothing=0.0, num_classes=num_classes)
    middle = len(label) // 2
    if len(label) % 2:
        # timm wants an even number: the middle and its copy are mixed to themselves.
        image = torch.cat([image[: middle + 1], image[middle:]])
        label = torch.cat([label[: middle + 1], label[middle:]])
        mixed, shares = mixup(image, label)
        mixed = torch.cat([mixed[: middle + 1], mixed[middle + 2 :]])
        shares = torch.cat([shares[: middle + 1], shares[middle + 2 :]])
    else:
        mixed, shares = mixup(image.clone(), label)
    return mixed, shares.to(image.dtype)


def balanced_weights(counts: Tensor) -> list[float]:
    """Weigh classes by the inverse of their size.

    Args:
        counts: Training pixels of every class, shape (C,).

    Returns:
        N / (C n_c) over the C classes that occur; 0 for a class without pixels.
    """
    sizes = torch.as_tensor(counts).double()
    occurring = sizes > 0
    weights = sizes.sum() / (occurring.sum() * sizes.clamp(min=1))
    balanced: list[float] = torch.where(occurring, weights, 0.0).tolist()
    return balanced
