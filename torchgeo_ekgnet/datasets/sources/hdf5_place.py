# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Where the pixels of an array in an HDF5 or NetCDF file lie."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from ..._wording import shortened
from ..raster import Grid, placed_crs, read_crs
from .facts import Variable, lower, text_of

logger = logging.getLogger(__name__)

#: Units of coordinates that a CRS has as well, without the end of "degrees_north".
_PLACED = ('m', 'meter', 'metre', 'degree')
#: Side of the pixels of PRISMA's cubes in metres.
_PRISMA_SIDE = 30.0


def placed(
    path: Path, grid: Grid, x: Variable | None, y: Variable | None, wkt: str | None
) -> Grid | None:
    """Return a grid in its place, as the coordinates of its axes tell.

    Args:
        path: The file, for messages.
        grid: The grid without a place.
        x: Coordinates of the columns.
        y: Coordinates of the rows.
        wkt: Their CRS.

    Returns:
        The grid, None if centres of pixels are unknown, or not evenly spaced.
    """
    lines = []
    for held in (x, y):
        low = {} if held is None else lower(held.attributes)
        unit = (text_of(low.get('units')) or 'm').lower()
        if held is None or len(held.data.shape) != 1 or held.data.shape[0] < 2:
            return None
        if unit.split('_')[0].rstrip('s') not in _PLACED:
            return None
        values = np.asarray(held.data[()], dtype=np.float64)
        values = values * number(low, 'scale_factor', 1.0)
        values += number(low, 'add_offset', 0.0)
        first, step = values[0], (values[-1] - values[0]) / (len(values) - 1)
        even = np.abs(values - first - step * np.arange(len(values))).max()
        # Numbers of rows and columns are no places.
        if not even < 0.1 * abs(step) or (step == 1 and first in (0, 0.5, 1)):
            return None
        lines.append((step, first - step / 2))
    (a, c), (e, f) = lines
    crs = None if wkt is None else _system(path, wkt)
    return replace(grid, crs=crs, transform=Affine(a, 0, c, 0, e, f))


def of_map_info(path: Path, grid: Grid, told: tuple[str, str | None]) -> Grid | None:
    """Return a grid in its place, as the ``Map_Info`` of a product of NEON tells.

    Its form is that of ENVI: reference pixel, its place, sides of a pixel, zone, datum.

    Args:
        path: The file, for messages.
        grid: The grid without a place.
        told: That text, and the EPSG code beside it.

    Returns:
        The grid, None if it is turned or has no CRS, which is said.
    """
    text, code = told
    parts = [part.strip().lower() for part in text.strip('{} \n').split(',')]
    turns = [part.split('=')[-1] for part in parts if part.startswith('rotation')]
    try:
        col, row, x, y, width, height = map(float, parts[1:7])
        crs = None if any(map(float, turns)) else read_crs(f'EPSG:{int(code or "")}')
    except ValueError:
        crs = None
    if crs is None:
        logger.warning(
            '%s: its place is left out (Map_Info %r, EPSG code %s); crs= and transform= '
            'give it',
            path,
            shortened(text),
            code,
        )
        return None
    left, top = x - (col - 1) * width, y + (row - 1) * height
    return replace(grid, crs=crs, transform=Affine(width, 0, left, 0, -height, top))


def of_prisma(path: Path, grid: Grid, told: Mapping[str, Any]) -> Grid:
    """Return the grid of a PRISMA product in its place, as its attributes tell.

    Corners are centres or outer corners of pixels: their distance says which.

    Args:
        path: The file.
        grid: The grid without a place.
        told: Attributes of the file, in lower case.
    """
    code = number(told, 'epsg_code', 0)
    left, top, right, bottom = (
        number(told, f'product_{corner}corner_{axis}', np.nan)
        for corner in ('ul', 'lr')
        for axis in ('easting', 'northing')
    )
    if not code or not np.isfinite([left, top, right, bottom]).all():
        return grid
    side = _PRISMA_SIDE
    for inner in (1, 0):
        wide, high = (grid.cols - inner) * side, (grid.rows - inner) * side
        if abs(right - left - wide) < 1 and abs(top - bottom - high) < 1:
            half = inner * side / 2
            transform = Affine(side, 0, left - half, 0, -side, top + half)
            return replace(
                grid, crs=_system(path, f'EPSG:{code:.0f}'), transform=transform
            )
    logger.warning(
        '%s: its place is left out: found corners %g x %g m apart, expected pixels of '
        '%g m for %d columns and %d rows; crs= and transform= give it',
        path,
        right - left,
        top - bottom,
        side,
        grid.cols,
        grid.rows,
    )
    return grid


def number(attributes: Mapping[str, Any], name: str, default: float) -> float:
    """Return an attribute that is one number, else what it is without."""
    try:
        return float(np.ravel(attributes.get(name, default))[0])
    except (TypeError, ValueError, IndexError):
        return default


def _system(path: Path, text: str) -> CRS | None:
    """Return the CRS that a file tells, None where PROJ does not know it."""
    try:
        return placed_crs(read_crs(text), str(path))
    except ValueError as error:
        logger.warning(
            '%s: found a CRS that is left out (%s)', path, shortened(str(error))
        )
        return None
