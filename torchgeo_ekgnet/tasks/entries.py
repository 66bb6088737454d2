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
