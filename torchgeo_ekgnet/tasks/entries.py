# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a batch holds."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def entries(batch: Any, *names: str) -> list[Tensor]:
    """Take tensors of a batch.

    Args:
        batch: What a data loader gave.
        *names: Which tensors.

    Returns:
        The tensors, in this order.

    Raises:
        ValueError: If the batch has no names, or lacks one.
    """
    named = isinstance(batch, Mapping)
    if named and all(name in batch for name in names):
        return [batch[name] for name in names]
    found = ', '.join(batch) if named else type(batch).__name__
    raise ValueError(
        f'the batch: found {found}, expected a dict with {", ".join(names)}; loaders of '
        'a scene ship positions, from which its datamodule takes the patches: give the '
        'trainer that (datamodule=...) and not its loaders'
    )


def class_numbers(label: Tensor, num_classes: int) -> Tensor:
    """Check labels, and give them as every loss and count takes them.

    Args:
        label: Labels of a batch.
        num_classes: Number of classes of the data.

    Returns:
        Classes, int64, shape (B,).

    Raises:
        ValueError: If labels are no whole numbers of shape (B,), or, where no device
            has to be waited for, no classes.
    """
    if label.ndim != 1 or label.is_floating_point():
        raise ValueError(
            f'the batch: found label of type {label.dtype} and shape '
            f'{tuple(label.shape)}, expected whole numbers of shape (B,)'
        )
    label = label.long()
    if label.device.type == 'cpu':
        wrong = label[(label < 0) | (label >= num_classes)]
        if len(wrong):
            raise ValueError(
                f'the batch: found label {int(wrong[0])}, expected classes from 0 to '
                f'{num_classes - 1}; leave out samples without a class'
            )
    return label
