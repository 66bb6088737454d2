# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data module of the built-in synthetic scene."""

from typing import Any

from ..datasets import SyntheticScene
from .scene import HyperspectralDataModule


class SyntheticSceneDataModule(HyperspectralDataModule):
    """Data module of the built-in synthetic scene: no files, no download.

    Uses a random split of 5 % for training, 5 % for validation and the rest for test
    by default.
    """

    scene_dataset = SyntheticScene
    default_split = (0.05, 0.05)

    def __init__(
        self,
        root: str = 'data',
        rows: int = 100,
        cols: int = 100,
        num_bands: int = 100,
        num_classes: int = 8,
        seed: int = 0,
        mixing: float = 1.0,
        noise: float = 1.0,
        dataset_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new data module.

        Args:
            root: Not used; there are no files.
            rows: Rows of the scene.
            cols: Columns of the scene.
            num_bands: Bands that are made, 400 to 2500 nm.
            num_classes: Number of materials, 2 or more.
            seed: Seed of everything in the scene, not of the split.
            mixing: Share of foreign materials in a pixel; 1 is hard, 0 none.
            noise: Strength of the noise; 1 is hard, 0 none.
            dataset_options: Further arguments of the dataset, which replace those above.
            **kwargs: Arguments of :class:`HyperspectralDataModule`.
        """
        super().__init__(
            root=root,
            dataset_options={
                'rows': rows,
                'cols': cols,
                'num_bands': num_bands,
                'num_classes': num_classes,
                'seed': seed,
                'mixing': mixing,
                'noise': noise,
                **(dataset_options or {}),
            },
            **kwargs,
        )
