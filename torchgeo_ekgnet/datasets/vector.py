# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Vector labels: polygons, lines and points with a class attribute."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from .labels import NO_LABEL, ClassNames
from .raster import Grid
from .sources.vector import read_features

logger = logging.getLogger(__name__)


def read_vector_labels(
    path: str | os.PathLike[str],
    grid: Grid,
    attribute: str | None = None,
    class_names: ClassNames = None,
    layer: str | None = None,
    all_touched: bool = False,
    unlabelled: Sequence[int] = (0,),
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Burn vector labels into the grid of a scene.

    A pixel gets the class of the geometry that covers its centre, or of the point in
    it. Pixels that geometries of different classes claim stay unlabelled.

    Args:
        path: Any file geopandas reads, in any CRS; a folder ``.gdb`` too.
        grid: Grid of the scene, with CRS.
        attribute: Column with the class: whole numbers, or names. None takes the only
            column there is.
        class_names: Names by number, or the order in which names are numbered from 1.
            None numbers the names that occur in alphabetical order.
        layer: Layer of the file.
        all_touched: Label every pixel that a geometry touches.
        unlabelled: Numbers that mean "no label".

    Returns:
        Labels (rows, cols), ``NO_LABEL`` where there is none, and the names by number.

    Raises:
        FileNotFoundError: If there is no such file.
        VectorFileError: If geopandas cannot read the file or finds no geometries.
        ValueError: If a CRS is missing, the attribute does not exist or holds no
            classes, or no geometry lies in the scene.
    """
    path = Path(path)
    frame = read_features(path, layer)
    if not grid.georeferenced:
        raise ValueError(
            f'{path}: vector labels need a scene with CRS and transform, but the cube '
            f'has {grid}; give crs and transform, or a label raster of the same size'
        )
    if frame.crs is None:
        raise ValueError(
            f'{path} names no CRS, so its geometries cannot be placed in the scene'
        )
    numbers, names = _classes(str(path), frame, attribute, class_names, unlabelled)
    frame = frame.to_crs(grid.crs)
    shapes = frame.geometry
    usable = ~(shapes.is_empty | shapes.isna()) & (numbers >= 0)
    skipped = int((~usable).sum())
    if skipped:
        logger.warning(
            '%s: %d features without geometry or class are left out', path, skipped
        )
    excluded = usable & np.isin(numbers, list(unlabelled))
    if excluded.any():
        logger.warning(
            '%s: %d features have a number that means "no label" (unlabelled=%s) and '
            'are left out',
            path,
            int(excluded.sum()),
            list(unlabelled),
        )
    usable &= ~excluded
    claims = np.zeros((grid.rows, grid.cols), dtype=np.uint8)
    labels = np.full((grid.rows, grid.cols), NO_LABEL)
    for number in np.unique(numbers[usable]):
        own = shapes[usable & (numbers == number)]
        mask = rasterize(
            own.tolist(),
            out_shape=labels.shape,
            transform=grid.transform,
            fill=0,
            default_value=1,
            all_touched=all_touched,
            dtype='uint8',
        ).astype(bool)
        claims += mask
        labels[mask] = number
    disputed = claims > 1
    labels[disputed] = NO_LABEL
    if not claims.any():
        scene = shapely.box(*grid.bounds)
        touching = bool(shapes[usable].intersects(scene).any())
        reason = (
            'they cover no pixel centre; try all_touched=True'
            if touching
            else 'they lie outside the scene'
        )
        raise ValueError(
            f'{path}: none of its {int(usable.sum())} labelled features gives a '
            f'pixel: {reason} (scene {_text(grid.bounds)}, features '
            f'{_text(shapes.total_bounds)} in {grid.crs})'
        )
    if disputed.any():
        logger.warning(
            '%s: %d pixels are claimed by features of different classes and stay '
            'unlabelled',
            path,
            int(disputed.sum()),
        )
    outside = int((~shapes[usable].intersects(shapely.box(*grid.bounds))).sum())
    if outside:
        logger.warning('%s: %d features lie outside the scene', path, outside)
    return labels, names


def _classes(
    path: str,
    frame: geopandas.GeoDataFrame,
    attribute: str | None,
    class_names: ClassNames,
    unlabelled: Sequence[int],
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return the class number of each feature (-1: none) and the names by number."""
    columns = [name for name in frame.columns if name != frame.geometry.name]
    if attribute is None:
        if len(columns) != 1:
            raise ValueError(
                f'{path} has {len(columns)} attributes ({columns}); name the one with '
                'the class'
            )
        attribute = columns[0]
    if attribute not in columns:
        raise ValueError(f'{path} has no attribute {attribute!r}; it has {columns}')
    column = frame[attribute]
    given = column.notna()
    if not given.any():
        raise ValueError(f'{path}: attribute {attribute!r} is empty everywhere')
    numbers = np.full(len(frame), -1, dtype=np.int64)
    if pd.api.types.is_numeric_dtype(column):
        values = column[given].to_numpy(dtype=np.float64)
        if (values % 1 != 0).any() or (values < 0).any():
            raise ValueError(
                f'{path}: attribute {attribute!r} holds {values[values % 1 != 0][:3]} '
                'or negative numbers; expected whole class numbers or names'
            )
        numbers[given.to_numpy()] = values.astype(np.int64)
        if class_names is None or isinstance(class_names, Mapping):
            found = [int(v) for v in np.unique(values) if v not in unlabelled]
            names = {value: f'class {value}' for value in found}
            names.update({int(k): str(v) for k, v in (class_names or {}).items()})
        else:
            names = {number: str(n) for number, n in enumerate(class_names, start=1)}
        return numbers, names
    texts = column[given].astype(str).str.strip()
    if class_names is None:
        ordered = sorted(set(texts))
        names = {number: text for number, text in enumerate(ordered, start=1)}
    elif isinstance(class_names, Mapping):
        names = {int(number): str(text) for number, text in class_names.items()}
    else:
        names = {number: str(n) for number, n in enumerate(class_names, start=1)}
    lookup = {text: number for number, text in names.items()}
    unknown = sorted(set(texts) - set(lookup))
    if unknown:
        raise ValueError(
            f'{path}: attribute {attribute!r} holds {unknown}, which are not among the '
            f'class names {list(lookup)}'
        )
    numbers[given.to_numpy()] = [lookup[text] for text in texts]
    return numbers, names


def _text(bounds: Sequence[float]) -> str:
    return '(' + ', '.join(f'{value:g}' for value in bounds) + ')'
