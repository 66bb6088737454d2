# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data module of one's own scene."""

from typing import Any

from ..datasets import CustomScene, SceneOptions
from ..datasets.options import flat_options
from .scene import HyperspectralDataModule


class CustomSceneDataModule(HyperspectralDataModule):
    """Data module of one's own scene: ENVI, rasters, MATLAB, NumPy, HDF5 or NetCDF.

    Formats are those of :func:`torchgeo_ekgnet.datasets.open_scene`; relative paths are
    taken from ``root``. Uses a random split by default: 6:1:3 for training, validation
    and test.
    """

    scene_dataset = CustomScene

    @flat_options
    def __init__(
        self,
        root: str = 'data',
        cube: str | list[str] = '',
        *,
        options: SceneOptions,
        dataset_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new data module.

        Args:
            root: Folder that relative paths start from.
            cube: The file; several files, or a pattern such as ``'B*.tif'``, for a
                stack.
            options: Each field of :class:`~torchgeo_ekgnet.datasets.SceneOptions` is an
                argument of its own.
            dataset_options: Further arguments of the dataset, which replace those above.
            **kwargs: Arguments of :class:`HyperspectralDataModule`.
        """
        super().__init__(
            root=root,
            dataset_options={
                'cube': cube,
                'options': options,
                **(dataset_options or {}),
            },
            **kwargs,
        )
