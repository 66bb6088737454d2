# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Indian Pines data module."""

from typing import ClassVar

from torchgeo.datasets import NonGeoDataset

from ..datasets import IndianPines
from .scene import HyperspectralDataModule


class IndianPinesDataModule(HyperspectralDataModule):
    """Data module of the Indian Pines scene.

    Uses a random split as in the paper by default: 6:1:3 for training, validation and
    test.
    """

    scene_dataset: ClassVar[type[NonGeoDataset] | None] = IndianPines
    default_split: ClassVar[tuple[float, float]] = (0.6, 0.1)
