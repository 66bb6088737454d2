# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Kennedy Space Center data module."""

from typing import Any

from ..datasets import KSC
from .scene import HyperspectralDataModule


class KSCDataModule(HyperspectralDataModule):
    """Data module of the Kennedy Space Center scene.

    Uses a random split as in the paper by default: 5:1:4 for training, validation and
    test.
    """

    scene_dataset = KSC
    default_split = (0.5, 0.1)

    def __init__(
        self,
        root: str = 'data',
        repair: bool = True,
        dataset_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new data module.

        Args:
            root: Folder of the scene's files.
            repair: Read wrapped values as the negative numbers they are.
            dataset_options: Further arguments of the dataset, which replace those above.
            **kwargs: Arguments of :class:`HyperspectralDataModule`.
        """
        super().__init__(
            root=root,
            dataset_options={'repair': repair, **(dataset_options or {})},
            **kwargs,
        )
