# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Label files: rasters, arrays and vectors on the grid of a scene."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._reading import FileError, check_memory, reading, require_file
from . import sources
from .label_names import MAX_CLASSES, class_names_of
from .labels import (
    NO_LABEL,
    ClassNames,
    LabelLegend,
    question_alike,
    question_numbers,
    whole_numbers,
)
from .nodata import is_nodata
from .options import SceneOptions
from .raster import (
    Grid,
    OutsideError,
    check_matching,
    checked_grid,
    labels_on_grid,
    outside,
    placed_crs,
    read_crs,
)
from .sources import Request, Source, open_source, raster
from .sources.axes import axes_hint
from .sources.vector import SUFFIXES as VECTOR_SUFFIXES
from .sources.vector import TABLES, VectorFileError, holds_features
from .vector import read_vector_labels

logger = logging.getLogger(__name__)

#: More colours of a picture than that may be mixed ones.
_MANY_COLOURS = 32
#: What ASCII grids of ESRI begin with.
_GRIDS = (b'ncols', b'nrows')


@dataclass(frozen=True)
class LabelFile:
    """Labels as a file has them.

    Args:
        labels: int64 (rows, cols), ``NO_LABEL`` where the file says nothing.
        grid: Their grid.
        legend: Names and colours that the file holds.
        nodata: Value that the file declares for missing data.
        cut_from: Grid of the whole file where only the part around a scene was read.
    """

    labels: NDArray[np.int64]
    grid: Grid
    legend: LabelLegend
    nodata: float | None = None
    cut_from: Grid | None = None


@dataclass(frozen=True)
class SceneLabels:
    """Labels on the grid of a scene.

    Args:
        labels: int64 (rows, cols), ``NO_LABEL`` where no file says anything.
        class_names: Names, given or found in the files.
        colours: Red, green and blue by value, as far as the files tell.
    """

    labels: NDArray[np.int64] | None
    class_names: ClassNames
    colours: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)


def open_labels(
    paths: Sequence[Path], grid: Grid, options: SceneOptions, cube: Source
) -> SceneLabels:
    """Read the labels of a scene.

    Args:
        paths: The label files; tiles, or several that add to each other.
        grid: Grid of the scene.
        options: The options of the scene.
        cube: The cube, for suggestions where sizes differ.

    Returns:
        Labels on the grid of the scene.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file cannot be read, or none fits the scene.
    """
    vectors = [path for path in paths if _is_vector(path, options)]
    if not vectors:
        return _from_rasters(paths, grid, options, cube)
    if len(vectors) < len(paths):
        raise ValueError(
            f'labels: found {len(vectors)} vector files among {len(paths)} files, such '
            f'as {vectors[0]}; expected files of one kind'
        )
    try:
        labels, legend = read_vector_labels(
            paths,
            grid,
            options.attribute,
            options.class_names,
            options.layer,
            options.all_touched,
            options.unlabelled,
            options.labels_crs,
        )
    except VectorFileError as error:
        known = (*VECTOR_SUFFIXES, *TABLES)
        if any(path.suffix.lower() in known for path in paths):
            raise
        reason = 'nor can it be opened as a raster'
        for name in ('attribute', 'layer'):
            if (value := getattr(options, name)) is not None:
                reason = f'and {name}={value!r} is for vector files'
                break
        raise FileError(f'{error}; {reason}') from error
    return SceneLabels(labels, legend.names, legend.colours)


def _is_vector(path: Path, options: SceneOptions) -> bool:
    """Whether labels are points or polygons, and no raster or array."""
    suffix = path.suffix.lower()
    if suffix in VECTOR_SUFFIXES or is_table(path):
        return True
    if options.attribute is not None or options.layer is not None:
        return True
    require_file(path, 'labels')
    if any(known.claims(path) for known in sources.FORMATS if known is not raster):
        return False
    try:
        raster.open_raster(path).close()
    except FileError:
        return True
    return False


def is_table(path: Path) -> bool:
    """Tell whether a file is a table, and no grid, which ArcGIS ends in ``.txt``, too."""
    named = path.suffix.lower() in TABLES
    if not named or not path.is_file():
        return named
    with reading(path, 'a table'), path.open('rb') as file:
        return file.read(5).lower() not in _GRIDS


def places_pixels(path: Path) -> bool:
    """Tell whether a file holds polygons, points or regions, by its name or as a table."""
    return holds_features(path) or is_table(path)


def _from_rasters(
    paths: Sequence[Path], grid: Grid, options: SceneOptions, cube: Source
) -> SceneLabels:
    """Read labels of rasters and arrays, and join those of several."""
    merged = np.full((grid.rows, grid.cols), NO_LABEL)
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    declared: set[float] = set()
    disputed = np.zeros(merged.shape, dtype=bool)
    elsewhere: list[OutsideError] = []
    for path in paths:
        found = read_label_file(path, options, grid, cube=cube)
        try:
            part = labels_on_grid(
                str(path), found.labels, found.grid, grid, options.unlabelled
            )
            none = [NO_LABEL, *options.unlabelled]
            if found.cut_from is not None and np.isin(part, none).all():
                raise outside(str(path), found.cut_from, grid)
        except OutsideError as error:
            elsewhere.append(error)
            continue
        if len(paths) == 1:
            merged = part
        else:
            new = ~np.isin(part, [NO_LABEL, *options.unlabelled])
            disputed |= new & (merged != NO_LABEL) & (merged != part)
            merged[new] = part[new]
        colours.update(found.legend.colours)
        declared |= set() if found.nodata is None else {found.nodata}
        for value, name in found.legend.names.items():
            if names.setdefault(value, name) != name:
                raise FileError(
                    f'{path}: found {name!r} as name of label {value}, expected '
                    f'{names[value]!r}, as another label file calls it; give '
                    'class_names='
                )
    if len(elsewhere) == len(paths):
        raise elsewhere[0]
    for count, text in (
        (len(elsewhere), 'label files lie outside the scene'),
        (int(disputed.sum()), 'pixels have several labels and stay unlabelled'),
    ):
        if count:
            logger.warning('%s: %d %s', paths[0].parent, count, text)
    merged[disputed] = NO_LABEL
    class_names = class_names_of(str(paths[0]), merged, names, declared, options)
    return SceneLabels(merged, class_names, colours)


def read_label_file(
    path: Path,
    options: SceneOptions | None = None,
    scene: Grid | None = None,
    argument: str | None = None,
    cube: Source | None = None,
) -> LabelFile:
    """Read a label map from an array file or a raster.

    Args:
        path: Any file that holds a cube too.
        options: Those of the scene; the variable of a raster is a band by its number
            from 1.
        scene: Grid of the scene; of a file on another one only what lies around it is
            read.
        argument: Argument that gives the variable, for messages.
        cube: The cube whose labels they must be; nothing is read of others.

    Returns:
        The labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or labels are no whole numbers.
    """
    options = options or SceneOptions()
    variable, crs = options.labels_variable, options.labels_crs
    request = Request(
        variable, options.axes, options.shape, labels=True, argument=argument
    )
    source = open_source(path, request, 'labels')
    try:
        legend = source.legend() or LabelLegend()
    except FileError as error:
        # Where names are given a legend that cannot be read is no error.
        if options.class_names is None:
            raise
        logger.warning('%s; names are given, so its legend is left out', error)
        legend = LabelLegend()
    grid = source.grid
    if crs is not None:
        grid = replace(grid, crs=placed_crs(read_crs(crs, 'labels_crs'), str(path)))
    if scene is not None and cube is not None:
        hint = axes_hint(cube, (grid.rows, grid.cols))
        check_matching(str(path), grid, scene, hint)
    cut = None if scene is None else _around(path, grid, scene)
    rows, cols = cut or (slice(0, grid.rows), slice(0, grid.cols))
    whole, grid = grid, grid if cut is None else grid.part(rows, cols)
    if scene is not None and 0 in (grid.rows, grid.cols):
        raise outside(str(path), whole, scene)
    if options.check_memory:
        needed = grid.rows * grid.cols * source.shape[2] * source.dtype.itemsize
        check_memory(needed, path, 'labels', 'cut it, or give check_memory=False')
    if source.scaling:
        logger.warning(
            '%s: its labels declare a factor and an offset, which are left out: the '
            'stored numbers are the classes',
            path,
        )
    mask = source.mask()
    mask = None if mask is None else mask[rows, cols]
    values = source.read(rows, cols)
    stored = values[:, :, 0]
    if values.shape[2] > 1:
        values = _chosen_bands(values, variable)
        stored, own = _from_bands(source, values, request.named_by)
        legend = own or legend
    absent: NDArray[np.bool_] = np.zeros(stored.shape, dtype=bool)
    nodata = source.nodata
    if nodata is not None and values.dtype.kind in 'iuf':
        # What a file declares is a value of its bands, not of a colour made of them.
        missing = np.isnan(values) if np.isnan(nodata) else is_nodata(values, nodata)
        absent = np.all(missing, axis=2)
    if mask is not None:
        absent |= ~mask
    if stored.dtype.kind == 'f' and (unknown := np.isnan(stored) & ~absent).any():
        logger.warning(
            '%s: %d labels are not a number (NaN) and count as no label',
            path,
            int(unknown.sum()),
        )
        absent |= unknown
    if stored.dtype.kind in 'US':
        return _from_texts(str(path), stored, grid)
    labels = whole_numbers(str(path), np.where(absent, np.zeros_like(stored), stored))
    labels[absent] = NO_LABEL
    return LabelFile(labels, grid, legend, nodata, None if cut is None else whole)


def _around(path: Path, own: Grid, scene: Grid) -> tuple[slice, slice] | None:
    """Return the part of a file that lies around a scene, None for all of it."""
    if own.transform is None or scene.transform is None:
        return None
    if (own.rows, own.cols) != (scene.rows, scene.cols):
        own = checked_grid(own, str(path))
    elif not (own.georeferenced and scene.georeferenced) or own.same_as(scene):
        return None
    return own.around(scene)


def _from_texts(path: str, stored: NDArray[Any], grid: Grid) -> LabelFile:
    """Read labels that an array holds as texts: numbers, or names."""
    texts = np.char.strip(stored.astype(np.str_))
    absent = np.isin(np.char.lower(texts), ('', 'nan'))
    given = np.unique(texts[~absent])
    if all(text.removesuffix('.0').lstrip('+-').isdecimal() for text in given):
        question_numbers(path, given.tolist())
        labels = whole_numbers(path, np.where(absent, '0', texts))
        labels[absent] = NO_LABEL
        return LabelFile(labels, grid, LabelLegend())
    names = given.tolist()
    question_alike(path, names)
    labels = np.searchsorted(names, texts) + 1
    labels[absent] = NO_LABEL
    return LabelFile(
        labels.astype(np.int64), grid, LabelLegend(dict(enumerate(names, 1)))
    )


def _chosen_bands(stored: NDArray[Any], variable: str | None) -> NDArray[Any]:
    """Keep the band that is named, or one of several that are the same."""
    bands = stored.shape[2]
    if variable is not None and variable.isdecimal() and 1 <= int(variable) <= bands:
        return stored[:, :, [int(variable) - 1]]
    return stored[:, :, :1] if (stored == stored[:, :, :1]).all() else stored


def _from_bands(
    source: Source, stored: NDArray[Any], argument: str
) -> tuple[NDArray[Any], LabelLegend | None]:
    """Read labels of several bands: a picture in colours, or one band a class."""
    bands = stored.shape[2]
    if bands == 1:
        return stored[:, :, 0], None
    values = np.unique(stored)
    one_hot = len(values) == 2 and values[0] == 0
    one_hot &= bool(((stored != 0).sum(axis=2) <= 1).all())
    picture = stored.dtype == np.uint8 and bands == 3
    if one_hot and not (picture and values[1] == 255):
        names = source.band_names()
        legend = LabelLegend(dict(enumerate(names, start=1)) if names else {})
        number = (stored != 0).argmax(axis=2) + 1
        return np.where((stored != 0).any(axis=2), number, 0), legend
    if picture:
        red, green, blue = (stored[:, :, band].astype(np.int64) for band in range(3))
        value = (red << 16) | (green << 8) | blue
        found = [int(number) for number in np.unique(value)]
        if len(found) <= MAX_CLASSES:
            if len(found) > _MANY_COLOURS:
                logger.warning(
                    '%s: each of its %d colours is taken as a class; smoothed edges mix '
                    'colours: export the picture without smoothing',
                    source.where,
                    len(found),
                )
            return value, LabelLegend(
                {number: f'#{number:06x}' for number in found},
                {n: (n >> 16, n >> 8 & 255, n & 255) for n in found},
            )
    raise FileError(
        f'{source.where}: found labels in {bands} bands of {stored.dtype} with '
        f'{len(values)} values, expected one band of class numbers, a picture in up to '
        f'{MAX_CLASSES} colours, or one band a class (0 and 1, one at a pixel); name a '
        f'band with {argument}=1 to {bands}'
    )


def read_label_map(
    path: Path, variable: str | None, grid: Grid | None, argument: str
) -> NDArray[np.int64]:
    """Read labels, see :func:`read_label_file`, and bring them to a grid.

    Args:
        path: The file.
        variable: Name of the array in the file.
        grid: Grid of the scene. Labels without a place, and of another size, stay as
            they are, and so do all without a grid.
        argument: Argument that gives *variable*, for messages.

    Returns:
        Labels (rows, cols), ``NO_LABEL`` where there is none.
    """
    found = read_label_file(
        path, SceneOptions(labels_variable=variable), grid, argument
    )
    own = found.grid
    same_size = grid is not None and (own.rows, own.cols) == (grid.rows, grid.cols)
    if grid is None or not (same_size or (own.georeferenced and grid.georeferenced)):
        return found.labels
    return labels_on_grid(str(path), found.labels, own, grid)
