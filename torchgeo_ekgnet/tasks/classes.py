# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Classes of other data, found among those that a network was trained on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..checkpoint import match_classes


def numbers_in_network(
    stage: str, trained: Mapping[str, Any], data: Mapping[str, Any]
) -> Tensor | None:
    """Number the classes of data as a network does.

    Args:
        stage: What the network is about to do, for messages.
        trained: Description of the data that it was trained with.
        data: Description of the data that it is going to be shown.

    Returns:
        Number of each class of the data, int64, shape (C,), -1 for a class without a
        pixel that the network does not know; None if both have the same classes in the
        same order.

    Raises:
        ValueError: If the data have pixels of a class that the network does not know.
    """
    numbers = match_classes(trained['scene'], data['scene'])
    names = list(trained['scene']['class_names'])
    if numbers == tuple(range(len(names))):
        return None
    theirs, ours = trained['scene']['name'], data['scene']['name']
    counts = np.sum(list(data['split']['counts'].values()), axis=0)
    unknown = [
        name
        for name, number, count in zip(
            data['scene']['class_names'], numbers, counts, strict=True
        )
        if number is None and count
    ]
    if unknown:
        raise ValueError(
            f'{stage}: the network does not know the classes {unknown} of {ours}, it was '
            f'trained on {names} of {theirs}: give labels without them, or class_names '
            'that say which are the same'
        )
    absent = [name for number, name in enumerate(names) if number not in numbers]
    rank_zero_warn(
        f'{stage}: classes are matched by name and value; {ours} has no pixel of '
        f'{absent or "none"} of the classes that the network knows'
    )
    return torch.tensor([-1 if n is None else n for n in numbers])
