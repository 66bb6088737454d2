# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Botswana data module."""

from ..datasets import Botswana
from .scene import HyperspectralDataModule


class BotswanaDataModule(HyperspectralDataModule):
    """Data module of the Botswana scene.

    Uses a random split by default: 5:1:4 for training, validation and test.
    """

    scene_dataset = Botswana
    default_split = (0.5, 0.1)
