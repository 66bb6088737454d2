# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Label files: rasters, arrays and vectors on the grid of a scene."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._reading import FileError, require_file
from . import sources
from .labels import NO_LABEL, ClassNames, whole_numbers
from .options import SceneOptions
from .raster import Grid, labels_on_grid
from .sources import Request, open_source, raster
from .sources.vector import SUFFIXES as VECTOR_SUFFIXES
from .sources.vector import VectorFileError
from .vector import read_vector_labels


def open_labels(
    path: Path, grid: Grid, options: SceneOptions
) -> tuple[NDArray[Any], ClassNames]:
    """Read the labels of a scene.

    Args:
        path: The label file.
        grid: Grid of the scene.
        options: The options of the scene.

    Returns:
        Labels (rows, cols) as the file has them, ``NO_LABEL`` where it says nothing,
        and names of the classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or does not fit the scene.
    """
    attribute, layer = options.attribute, options.layer
    if not _is_vector(path, attribute, layer):
        labels, own = read_label_map(path, options.labels_variable)
        labels = labels_on_grid(str(path), labels, own, grid, options.unlabelled)
        return labels, options.class_names
    try:
        return read_vector_labels(
            path,
            grid,
            attribute,
            options.class_names,
            layer,
            options.all_touched,
            options.unlabelled,
        )
    except VectorFileError as error:
        if path.suffix.lower() in VECTOR_SUFFIXES:
            raise
        reason = 'nor can it be opened as a raster'
        if attribute is not None:
            reason = f'and attribute={attribute!r} is for vector files'
        elif layer is not None:
            reason = f'and layer={layer!r} is for vector files'
        raise FileError(f'{error}; {reason}') from error


def _is_vector(path: Path, attribute: str | None, layer: str | None) -> bool:
    suffix = path.suffix.lower()
    if suffix in VECTOR_SUFFIXES or attribute is not None or layer is not None:
        return True
    require_file(path, 'labels')
    if any(known.claims(path) for known in sources.FORMATS if known is not raster):
        return False
    try:
        raster.open_raster(path).close()
    except FileError:
        return True
    return False


def read_label_map(
    path: Path, variable: str | None = None
) -> tuple[NDArray[np.int64], Grid]:
    """Read a label map from an array file or the first band of a raster.

    Args:
        path: Any file that holds a cube too.
        variable: Name of the array in the file, None for the only one with two axes.

    Returns:
        Labels (rows, cols), ``NO_LABEL`` where the file has no data, and their grid.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or labels are no whole numbers.
    """
    source = open_source(path, Request(variable, labels=True), 'labels')
    stored = source.read(0, source.shape[0], 0, source.shape[1], np.array([0]))[:, :, 0]
    absent = np.zeros(stored.shape, dtype=bool)
    nodata, mask = source.nodata, source.mask()
    if nodata is not None:
        absent = np.isnan(stored) if np.isnan(nodata) else stored == nodata
    if mask is not None:
        absent |= ~mask
    labels = whole_numbers(str(path), np.where(absent, np.zeros_like(stored), stored))
    labels[absent] = NO_LABEL
    return labels, source.grid
