# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Vector labels: polygons, lines and points with a class attribute."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from .._reading import FileError, reading
from .._wording import listed, quoted
from .labels import (
    NO_LABEL,
    ClassNames,
    LabelLegend,
    given_names,
    one_line,
    question_alike,
    question_numbers,
    told_apart,
)
from .raster import Grid, OutsideError, placed_crs, read_crs
from .sources.legend import qgis_style
from .sources.vector import Features, read_features

logger = logging.getLogger(__name__)

#: Doubles hold every whole number up to here only.
_LARGEST = 2**53

#: Degrees of longitude, and what a whole turn adds to places.
_HALF_GLOBE = 180
_TURN = np.array([360.0, 0.0])


def read_vector_labels(
    path: str | os.PathLike[str] | Sequence[Path],
    grid: Grid,
    attribute: str | None = None,
    class_names: ClassNames = None,
    layer: str | None = None,
    all_touched: bool = False,
    unlabelled: Sequence[int] = (0,),
    labels_crs: str | None = None,
) -> tuple[NDArray[np.int64], LabelLegend]:
    """Burn vector labels into the grid of a scene.

    A pixel gets the class of the geometry that covers its centre, or of the point in
    it. Pixels that geometries of different classes claim stay unlabelled.

    Args:
        path: Any file geopandas reads, in any CRS; a folder ``.gdb``, a table of points
            and ENVI's text of regions of interest too. Several files add up.
        grid: Grid of the scene.
        attribute: Column with the class: whole numbers, or names. None takes the only
            column there is.
        class_names: Names by number, or in the order of the numbers, or of names.
            None numbers the names that occur in alphabetical order.
        layer: Layer of the file.
        all_touched: Label every pixel that a geometry touches.
        unlabelled: Numbers that mean "no label".
        labels_crs: CRS of the coordinates where the file names none, or a wrong one.

    Returns:
        Labels (rows, cols), ``NO_LABEL`` where there is none; names, and colours that
        files tell.

    Raises:
        FileNotFoundError: If there is no such file.
        VectorFileError: If no geometries are found in a file.
        ValueError: If the coordinates cannot be placed, the attribute does not exist or
            holds no classes, or no geometry lies in the scene.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else list(path)
    name = listed(paths, 1)
    features = [read_features(one, layer) for one in paths]
    frames = [
        _placed(one, found, grid, labels_crs)
        for one, found in zip(paths, features, strict=True)
    ]
    named = {name: rgb for found in features for name, rgb in found.colours.items()}
    frame = frames[0]
    if len(frames) > 1:
        frame = geopandas.GeoDataFrame(pd.concat(frames, ignore_index=True))
    if not len(frame):
        raise FileError(
            f'{name}: found no features, expected polygons, lines or points'
        )
    numbers, names = _classes(name, frame, attribute, class_names, unlabelled)
    shapes = frame.geometry
    finite = np.isfinite(shapes.bounds.to_numpy()).all(axis=1)
    usable = ~(shapes.is_empty | shapes.isna()).to_numpy() & finite
    usable &= numbers != NO_LABEL
    skipped = int((~usable).sum())
    if skipped:
        logger.warning(
            '%s: %d features without geometry or class are left out', name, skipped
        )
    excluded = usable & np.isin(numbers, list(unlabelled))
    if excluded.any():
        logger.warning(
            '%s: %d features have a number that means "no label" (unlabelled=%s) and '
            'are left out',
            name,
            int(excluded.sum()),
            list(unlabelled),
        )
    usable &= ~excluded
    if not usable.any():
        raise FileError(
            f'{name}: found no geometry with a class among its {len(frame)} features, '
            'expected some'
        )
    try:
        labels = _burnt(name, shapes[usable], numbers[usable], grid, all_touched)
    except OutsideError as error:
        if any(_exchanged(found.frame, grid) for found in features):
            raise OutsideError(
                f'{error}; they would lie in it with x and y, such as longitude and '
                'latitude, exchanged'
            ) from error
        raise
    lost = np.setdiff1d(numbers[usable], labels).tolist()
    if lost:
        logger.warning(
            '%s: the features of %s give no pixel: they lie outside the scene, are '
            'claimed by others, or cover no pixel centre (all_touched=True labels every '
            'pixel that they touch)',
            name,
            quoted(names.get(number, number) for number in lost),
        )
    colours = {number: named[text] for number, text in names.items() if text in named}
    return labels, LabelLegend(names, colours)


def number_features(path: Path, grid: Grid, alike: bool = False) -> NDArray[np.int64]:
    """Burn features into the grid of a scene, each with a number of its own from 1.

    Args:
        path: The file, see :func:`read_vector_labels`.
        grid: Grid of the scene.
        alike: Whether all have the number 1.

    Returns:
        Numbers (rows, cols), ``NO_LABEL`` where there is no feature, or several of
        different numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the coordinates cannot be placed, or no feature covers a pixel.
    """
    shapes = _placed(path, read_features(path), grid, None).geometry
    usable = ~(shapes.is_empty | shapes.isna()).to_numpy()
    numbers = np.arange(1, len(shapes) + 1)[usable]
    if alike:
        numbers = np.ones_like(numbers)
    return _burnt(str(path), shapes[usable], numbers, grid, False)


def _placed(
    path: Path, features: Features, grid: Grid, labels_crs: str | None
) -> geopandas.GeoDataFrame:
    """Bring features to the coordinates of the scene: its CRS, or its pixels."""
    frame, system = features.frame, features.system
    size = features.size
    if size is not None and size != (grid.rows, grid.cols):
        raise FileError(
            f'{path}: found regions of interest of an image of {size[0]} x {size[1]} '
            f'pixels, expected {grid.rows} x {grid.cols}'
        )
    if labels_crs is not None and system != 'pixels':
        crs = placed_crs(read_crs(labels_crs, 'labels_crs'), 'labels_crs')
        wkt = None if crs is None else crs.to_wkt()
        frame = frame.set_crs(wkt, allow_override=True)
        system = 'unknown' if crs is None else 'crs'
    if system == 'pixels':
        return _from_pixels(path, frame, grid)
    if system == 'crs':
        if grid.georeferenced:
            with reading(path, 'features in the CRS of the scene'):
                moved = frame.to_crs(grid.crs.to_wkt())  # type: ignore[union-attr]
                bounds = frame.total_bounds
                lost = ~np.isfinite(moved.geometry.bounds.to_numpy())
                if np.isfinite(bounds).all() and lost.all():
                    raise FileError(
                        f'{path}: found coordinates {_text(bounds)}, which are none of '
                        f'its CRS {frame.crs.name}, expected those of a CRS that '
                        'the file names (GeoJSON without one is in degrees); '
                        'labels_crs= gives another'
                    )
                return _near(moved, grid)
        implied = path.suffix.lower() in ('.geojson', '.json', '.geojsonl')
        if grid.crs is not None or not implied or not _within(frame, grid):
            raise FileError(
                f'{path}: vector labels need a scene with CRS and transform, but the '
                f'cube has {grid}; give crs and transform, or a label raster of the '
                'same size'
            )
        # GeoJSON without a CRS is read as degrees, which no such scene can have.
    elif system == 'scene' and grid.transform is not None:
        logger.warning(
            '%s: its places are taken in the CRS of the scene; labels_crs= names another',
            path,
        )
    elif system == 'unknown' and grid.crs is not None:
        raise FileError(
            f'{path} names no CRS, so its geometries cannot be placed in the scene '
            f'({grid}); give labels_crs=, such as labels_crs={grid.crs.to_string()!r}, or '
            'save what is no label file with its CRS'
        )
    if grid.transform is not None:
        return frame.set_crs(None, allow_override=True)
    logger.warning(
        '%s: neither labels nor cube have a CRS, so their coordinates are taken as '
        'columns and rows of pixels',
        path,
    )
    return _from_pixels(path, frame, grid)


def _near(frame: geopandas.GeoDataFrame, grid: Grid) -> geopandas.GeoDataFrame:
    """Bring longitudes to those of the scene: 181 and -179 are one meridian.

    What reaches round more than half of the globe without touching the meridian of 180
    crosses it.
    """
    if grid.crs is None or not grid.crs.is_geographic:
        return frame
    left, _, right, _ = grid.bounds
    centre = (left + right) / 2
    low, high = frame.geometry.bounds[['minx', 'maxx']].to_numpy().T
    reach = np.maximum(high - low, np.maximum(abs(low - centre), abs(high - centre)))
    odd = (reach > _HALF_GLOBE) & np.isfinite(reach)
    if not odd.any():
        return frame
    shapes = frame.geometry.to_numpy().copy()
    for number in np.flatnonzero(odd):
        parts = [_beside(part, centre) for part in shapely.get_parts(shapes[number])]
        shapes[number] = shapely.geometrycollections(parts)
    return frame.set_geometry(geopandas.GeoSeries(shapes, frame.index, crs=frame.crs))


def _beside(part: Any, longitude: float) -> Any:
    """Move a geometry by whole turns to a longitude."""
    low, _, high, _ = part.bounds
    if high - low > _HALF_GLOBE and -_HALF_GLOBE < low and high < _HALF_GLOBE:
        part = shapely.transform(part, lambda at: at + (at[:, :1] < 0) * _TURN)
        low, _, high, _ = part.bounds
    turns = round((longitude - (low + high) / 2) / 360)
    return shapely.transform(part, lambda at: at + turns * _TURN)


def _exchanged(frame: geopandas.GeoDataFrame, grid: Grid) -> bool:
    """Tell whether features lie in the scene once x and y are exchanged."""
    if frame.crs is None or grid.crs is None or grid.transform is None:
        return False
    turned = frame.geometry.affine_transform([0, 1, 1, 0, 0, 0])
    shapes = turned.to_crs(grid.crs.to_wkt())
    finite = np.isfinite(shapes.bounds.to_numpy()).all(axis=1)
    return bool(shapes[finite].intersects(shapely.box(*grid.bounds)).any())


def _from_pixels(
    path: Path, frame: geopandas.GeoDataFrame, grid: Grid
) -> geopandas.GeoDataFrame:
    """Turn columns and rows into the coordinates of the scene."""
    frame = frame.set_crs(None, allow_override=True)
    bounds = frame.total_bounds
    if len(frame) and bounds[1] < 0 and bounds[3] <= 0 and bounds[1] >= -grid.rows:
        logger.warning('rows of labels count downwards from 0 as negative numbers')
        frame = frame.set_geometry(frame.geometry.affine_transform([1, 0, 0, -1, 0, 0]))
    left, top, right, bottom = frame.total_bounds
    one_beyond = (
        grid.cols < right <= grid.cols + 1 or grid.rows < bottom <= grid.rows + 1
    )
    if one_beyond and max(right - grid.cols, bottom - grid.rows) <= 1 <= min(left, top):
        logger.warning(
            '%s: no feature lies in the first row or column, and some lie one beyond the '
            'last: if its columns and rows count from 1, every label is one pixel off; '
            'expected numbers from 0',
            path,
        )
    if grid.transform is None:
        return frame
    placed = frame.geometry.affine_transform(grid.transform.to_shapely())
    return frame.set_geometry(placed)


def _within(frame: geopandas.GeoDataFrame, grid: Grid) -> bool:
    """Whether geometries lie in a scene when read as its columns and rows."""
    left, top, right, bottom = frame.total_bounds
    rows = max(abs(top), abs(bottom))
    return bool(left >= 0 and right <= grid.cols and rows <= grid.rows)


def _burnt(
    path: str,
    shapes: geopandas.GeoSeries,
    numbers: NDArray[np.int64],
    grid: Grid,
    all_touched: bool,
) -> NDArray[np.int64]:
    """Return the label of each pixel; without a transform places are in pixels."""
    grid = replace(grid, transform=grid.transform or Affine.identity())
    labels = np.full((grid.rows, grid.cols), NO_LABEL)
    claimed = np.zeros(labels.shape, dtype=bool)
    disputed = np.zeros(labels.shape, dtype=bool)
    with reading(path, 'geometries'):
        for number in np.unique(numbers):
            mask = rasterize(
                shapes[numbers == number].tolist(),
                out_shape=labels.shape,
                transform=grid.transform,
                fill=0,
                default_value=1,
                all_touched=all_touched,
                dtype='uint8',
            ).astype(bool)
            disputed |= claimed & mask
            claimed |= mask
            labels[mask] = number
        labels[disputed] = NO_LABEL
        outside = ~shapes.intersects(shapely.box(*grid.bounds)).to_numpy()
    if not claimed.any():
        reason = (
            'they lie outside the scene'
            if outside.all()
            else 'they cover no pixel centre; try all_touched=True'
        )
        raise OutsideError(
            f'{path}: none of its {len(shapes)} labelled features gives a pixel: '
            f'{reason} (scene {_text(grid.bounds)}, features '
            f'{_text(shapes.total_bounds)} in {grid.crs or "pixels"})'
        )
    if disputed.any():
        logger.warning(
            '%s: %d pixels are claimed by features of different classes and stay '
            'unlabelled',
            path,
            int(disputed.sum()),
        )
    if outside.any():
        logger.warning(
            '%s: %d features lie outside the scene', path, int(outside.sum())
        )
    return labels


def _classes(
    path: str,
    frame: geopandas.GeoDataFrame,
    attribute: str | None,
    class_names: ClassNames,
    unlabelled: Sequence[int],
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return the class number of each feature, or ``NO_LABEL``, and names by number."""
    columns = [str(name) for name in frame.columns if name != frame.geometry.name]
    if attribute is None:
        if len(columns) != 1:
            raise FileError(
                f'{path} has {len(columns)} attributes ({columns}); name the one with '
                'the class (attribute=)'
                if columns
                else f'{path}: found geometries without attributes, expected one with '
                'the class'
            )
        attribute = columns[0]
    if attribute not in columns:
        raise FileError(f'{path} has no attribute {attribute!r}; it has {columns}')
    column = frame[attribute]
    written = column.astype(str).str.strip().str.lower()
    given = (column.notna() & ~written.isin(['', 'nan'])).to_numpy()
    if not given.any():
        raise FileError(f'{path}: attribute {attribute!r} is empty everywhere')
    numbers = np.full(len(frame), NO_LABEL)
    values = _as_numbers(f'{path}: attribute {attribute!r}', column[given])
    if values is None:
        texts = column[given].astype(str).map(one_line)
        names = _numbered_texts(path, attribute, texts, class_names)
        lookup = {text: number for number, text in names.items()}
        numbers[given] = [lookup[text] for text in texts]
        return numbers, names
    wrong = ~np.isfinite(values) | (values != np.floor(values))
    wrong |= ((values < 0) & ~np.isin(values, list(unlabelled))) | (values >= _LARGEST)
    if wrong.any():
        raise FileError(
            f'{path}: attribute {attribute!r} holds {values[wrong][:3].tolist()}; '
            'expected whole class numbers from 0, or names (unlabelled= lists values '
            'that mean "no label")'
        )
    numbers[given] = values.astype(np.int64)
    found = [int(v) for v in np.unique(numbers[given]) if v not in unlabelled]
    if class_names is None:
        styled = _styled(path, attribute)
        return numbers, told_apart(
            {value: styled.get(value) or f'class {value}' for value in found}
        )
    told = given_names(path, class_names)
    if isinstance(told, dict):
        unknown = [value for value in found if value not in told]
        if unknown:
            raise FileError(
                f'{path}: attribute {attribute!r} holds [{listed(unknown)}], which are '
                f'neither classes ([{listed(sorted(told))}]) nor unlabelled '
                f'({list(unlabelled)})'
            )
        return numbers, told
    if len(told) != len(found):
        raise FileError(
            f'{path}: {len(told)} class names for the {len(found)} values of '
            f'attribute {attribute!r} ([{listed(found)}]); expected one name a value'
        )
    return numbers, dict(zip(found, told, strict=True))


def _styled(path: str, attribute: str) -> dict[int, str]:
    """Return what a style of QGIS beside a file calls the numbers of an attribute."""
    style = qgis_style(Path(path))
    named = [
        (item.get('value', ''), item.get('label', '').strip())
        for renderer in (() if style is None else style.iter('renderer-v2'))
        if renderer.get('attr', '').strip('"') == attribute
        for item in renderer.iterfind('categories/category')
    ]
    return {
        int(value): one_line(text)
        for value, text in named
        if value.isdecimal() and text not in ('', value)
    }


def _as_numbers(where: str, column: 'pd.Series[Any]') -> NDArray[np.float64] | None:
    """Return a column of numbers, or of texts that are all written as such.

    True and False are no numbers: False would be the number that means "no label".
    """
    if pd.api.types.is_bool_dtype(column):
        return None
    if pd.api.types.is_numeric_dtype(column):
        return np.asarray(column, dtype=np.float64)
    # 1,0 is 1 where commas are decimal; 1,000 may be a thousand.
    texts = (
        column.astype(str).str.strip().str.replace(r',(0?0?|0{4,})$', '', regex=True)
    )
    if not texts.str.fullmatch(r'[+-]?\d+(\.\d*)?').all():
        return None
    question_numbers(where, texts)
    return np.asarray(texts.astype(float), dtype=np.float64)


def _numbered_texts(
    path: str, attribute: str, texts: 'pd.Series[str]', class_names: ClassNames
) -> dict[int, str]:
    """Return the number of each class name."""
    found = sorted(set(texts))
    question_alike(f'{path}: attribute {attribute!r}', found)
    if class_names is None:
        return dict(enumerate(found, start=1))
    given = given_names(path, class_names)
    names = given if isinstance(given, dict) else dict(enumerate(given, start=1))
    unknown = sorted(set(found) - set(names.values()))
    if unknown:
        raise FileError(
            f'{path}: attribute {attribute!r} holds {unknown}, which are not among the '
            f'class names {list(names.values())}'
        )
    return names


def _text(bounds: Sequence[float]) -> str:
    """Write bounds."""
    return '(' + ', '.join(f'{value:g}' for value in bounds) + ')'
