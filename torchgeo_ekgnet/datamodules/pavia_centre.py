# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pavia Centre data module."""

from ..datasets import PaviaCentre
from .scene import HyperspectralDataModule


class PaviaCentreDataModule(HyperspectralDataModule):
    """Data module of the Pavia Centre scene.

    Uses a random split by default: 5:1:4 for training, validation and test.
    """

    scene_dataset = PaviaCentre
    default_split = (0.5, 0.1)
