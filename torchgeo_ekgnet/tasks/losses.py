# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Losses of the task and weights of their classes."""

from collections.abc import Sequence
from typing import Literal

import torch
from segmentation_models_pytorch.losses import FocalLoss, JaccardLoss
from torch import Tensor, nn

Loss = Literal['ce', 'focal', 'jaccard']


def make_loss(name: Loss) -> nn.Module:
    """Create a loss by its name."""
    match name:
        case 'ce':
            return nn.CrossEntropyLoss()
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
