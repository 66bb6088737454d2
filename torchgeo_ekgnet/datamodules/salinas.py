# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""SalinasA data module."""

from typing import ClassVar

from torchgeo.datasets import NonGeoDataset

from ..datasets import SalinasA
from .scene import HyperspectralDataModule


class SalinasADataModule(HyperspectralDataModule):
    """Data module of the SalinasA scene.

    Uses the split of the paper by default: 5:1:4 for training, validation and
    test.
    """

    scene_dataset: ClassVar[type[NonGeoDataset] | None] = SalinasA
    default_split: ClassVar[tuple[float, float]] = (0.5, 0.1)
