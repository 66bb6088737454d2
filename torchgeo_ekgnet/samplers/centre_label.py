# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""One label for a window with a mask."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class CentreLabel:
    """Make a patch with one label of a window with a mask.

    Use it as ``transforms`` of the combined dataset. The mask is replaced by ``label``,
    the number of the centre pixel's class from 0.

    Args:
        class_values: Mask value of each class in the order of the labels.
    """

    def __init__(self, class_values: Sequence[int]) -> None:
        """Initialize a new CentreLabel instance.

        Args:
            class_values: Mask value of each class in the order of the labels.

        Raises:
            ValueError: If a value is listed twice or none is.
        """
        if not class_values or len(set(class_values)) != len(class_values):
            raise ValueError(
                f'class_values must list each class once, got {list(class_values)}'
            )
        self.class_values = tuple(int(value) for value in class_values)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Replace the mask by the label of its centre.

        Args:
            sample: Sample with ``mask`` (P, P) or (1, P, P).

        Returns:
            The same sample with ``label``, int64 scalar, and without ``mask``.

        Raises:
            ValueError: If the centre is not one of the classes.
        """
        mask: Tensor = sample.pop('mask')
        value = int(mask[..., mask.shape[-2] // 2, mask.shape[-1] // 2].reshape(()))
        if value not in self.class_values:
            raise ValueError(
                f'the centre of the window has mask value {value}, which is none of the '
                f'classes {self.class_values}'
            )
        sample['label'] = torch.tensor(self.class_values.index(value))
        return sample
