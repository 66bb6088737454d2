# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Salinas and SalinasA data modules."""

from ..datasets import Salinas, SalinasA
from .scene import HyperspectralDataModule


class SalinasDataModule(HyperspectralDataModule):
    """Data module of the Salinas scene.

    Uses a random split by default: 5:1:4 for training, validation and test.
    """

    scene_dataset = Salinas
    default_split = (0.5, 0.1)


class SalinasADataModule(HyperspectralDataModule):
    """Data module of the SalinasA scene, a part of Salinas with six classes.

    Uses a random split by default: 5:1:4 for training, validation and test.
    """

    scene_dataset = SalinasA
    default_split = (0.5, 0.1)
