# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Houston 2013 data module."""

from typing import Any

from ..datasets import Houston2013
from ..datasets.splits import MaskSplit, SplitProtocol
from .scene import HyperspectralDataModule


class Houston2013DataModule(HyperspectralDataModule):
    """Data module of the Houston 2013 scene.

    Uses the contest's official masks by default; a tenth of the training pixels of
    every class validates.
    """

    scene_dataset = Houston2013

    def _default_protocol(self, dataset: Any) -> SplitProtocol:
        """Choose the official masks."""
        train, test = (
            dataset._find(file)
            for file in (dataset.labels_file, dataset.test_labels_file)
        )
        return MaskSplit(
            train=str(train),
            test=str(test),
            train_variable=dataset.labels_file.variable,
            test_variable=dataset.test_labels_file.variable,
        )
