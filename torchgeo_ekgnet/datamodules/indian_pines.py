# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Indian Pines data module."""

from ..datasets import IndianPines
from .scene import HyperspectralDataModule


class IndianPinesDataModule(HyperspectralDataModule):
    """Data module of the Indian Pines scene.

    Uses a random split as in the paper by default: 6:1:3 for training, validation and
    test.
    """

    scene_dataset = IndianPines
    default_split = (0.6, 0.1)
