# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pavia University data module."""

from ..datasets import PaviaUniversity
from .scene import HyperspectralDataModule


class PaviaUniversityDataModule(HyperspectralDataModule):
    """Data module of the Pavia University scene.

    Uses a random split as in the paper by default: 5:1:4 for training, validation and
    test.
    """

    scene_dataset = PaviaUniversity
    default_split = (0.5, 0.1)
