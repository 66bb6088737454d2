# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Kennedy Space Center data module."""

from typing import ClassVar

from torchgeo.datasets import NonGeoDataset

from ..datasets import KSC
from .scene import HyperspectralDataModule


class KSCDataModule(HyperspectralDataModule):
    """Data module of the Kennedy Space Center scene.

    Uses the split of the paper by default: 5:1:4 for training, validation and
    test.
    """

    scene_dataset: ClassVar[type[NonGeoDataset] | None] = KSC
    default_split: ClassVar[tuple[float, float]] = (0.5, 0.1)
