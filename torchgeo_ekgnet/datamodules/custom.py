# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data module of one's own scene."""

from typing import Any, ClassVar, Literal

from torchgeo.datasets import NonGeoDataset

from ..datasets import CustomScene
from ..datasets.custom import Nodata
from .scene import HyperspectralDataModule


class CustomSceneDataModule(HyperspectralDataModule):
    """Data module of one's own scene: ENVI, rasters, MATLAB, NumPy, HDF5 or NetCDF.

    Formats and arguments are those of :func:`torchgeo_ekgnet.datasets.open_scene`;
    relative paths are taken from ``root``. Uses a random split by default: 6:1:3 for
    training, validation and test.
    """

    scene_dataset: ClassVar[type[NonGeoDataset] | None] = CustomScene

    def __init__(
        self,
        root: str = 'data',
        cube: str | list[str] = '',
        labels: str | None = None,
        cube_variable: str | None = None,
        labels_variable: str | None = None,
        axes: str = 'yxb',
        attribute: str | None = None,
        layer: str | None = None,
        all_touched: bool = False,
        class_names: dict[int, str] | list[str] | None = None,
        unlabelled: list[int] | None = None,
        wavelengths: list[float] | str | None = None,
        wavelength_unit: Literal['nm', 'um'] | None = None,
        nodata: Nodata = 'file',
        crs: str | None = None,
        transform: list[float] | None = None,
        lazy: bool | None = None,
        name: str | None = None,
        dataset_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new data module.

        Args:
            root: Folder that relative paths start from.
            cube: The file; several files, or a pattern such as ``'B*.tif'``, for a
                stack.
            labels: The label file: raster, polygons or points, or an array.
            cube_variable: Variable of the cube in MATLAB, ``.npz``, HDF5 and NetCDF
                files.
            labels_variable: Variable of the labels in such files.
            axes: Order of the axes in array files: ``y`` rows, ``x`` columns, ``b``
                bands.
            attribute: Class attribute of vector labels.
            layer: Layer of vector labels.
            all_touched: Whether every pixel that a geometry touches is labelled.
            class_names: Names by label value, or in the order of the values.
            unlabelled: Label values that mean "no label", 0 by default.
            wavelengths: Band centres, or a text file with one number a band.
            wavelength_unit: Unit of the wavelengths where the file does not tell.
            nodata: 'file' for the value that the file declares, None for none, or a
                value.
            crs: CRS of an array file, such as ``EPSG:32632``.
            transform: Affine transform of an array file: a, b, c, d, e, f.
            lazy: Whether windows are read on demand; above 1 GiB by default.
            name: Name of the scene, by default that of the file.
            dataset_options: Further arguments of the dataset, which replace those above.
            **kwargs: Arguments of :class:`HyperspectralDataModule`.
        """
        super().__init__(
            root=root,
            dataset_options={
                'cube': cube,
                'labels': labels,
                'cube_variable': cube_variable,
                'labels_variable': labels_variable,
                'axes': axes,
                'attribute': attribute,
                'layer': layer,
                'all_touched': all_touched,
                'class_names': class_names,
                'unlabelled': (0,) if unlabelled is None else tuple(unlabelled),
                'wavelengths': wavelengths,
                'wavelength_unit': wavelength_unit,
                'nodata': nodata,
                'crs': crs,
                'transform': transform,
                'lazy': lazy,
                'name': name,
                **(dataset_options or {}),
            },
            **kwargs,
        )
