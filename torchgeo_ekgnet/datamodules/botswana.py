# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Botswana data module."""

from typing import ClassVar

from torchgeo.datasets import NonGeoDataset

from ..datasets import Botswana
from .scene import HyperspectralDataModule


class BotswanaDataModule(HyperspectralDataModule):
    """Data module of the Botswana scene.

    Uses a random split by default: 5:1:4 for training, validation and test.
    """

    scene_dataset: ClassVar[type[NonGeoDataset] | None] = Botswana
    default_split: ClassVar[tuple[float, float]] = (0.5, 0.1)
