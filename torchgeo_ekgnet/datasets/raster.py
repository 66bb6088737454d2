# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pixel grids, and label maps brought from one to another."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._reading import FileError, reading
from .labels import NO_LABEL

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

logger = logging.getLogger(__name__)

#: Largest difference, in pixels, between two grids that count as the same.
_SAME_GRID = 0.01
#: Points an edge that are brought to another CRS, and the least margin in pixels.
_POINTS, _MARGIN = 41, 3


class OutsideError(FileError):
    """No label of a file lies inside the scene."""


def outside(path: str, own: 'Grid', grid: 'Grid') -> OutsideError:
    """Make the error of a label raster that has no label in the scene."""
    return OutsideError(
        f'{path}: no labelled pixel of the label raster ({own}) lies inside the scene '
        f'({grid})'
    )


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie.

    Args:
        rows: Rows.
        cols: Columns.
        crs: Coordinate reference system, None if unknown.
        transform: Affine transform from pixel to CRS coordinates, None if unknown.
    """

    rows: int
    cols: int
    crs: 'CRS | None' = None
    transform: 'Affine | None' = None

    @property
    def georeferenced(self) -> bool:
        """True if both CRS and transform are known."""
        return self.crs is not None and self.transform is not None

    def same_as(self, other: 'Grid') -> bool:
        """Tell whether size, CRS and position of two grids agree."""
        if (self.rows, self.cols, self.crs) != (other.rows, other.cols, other.crs):
            return False
        if self.transform is None or other.transform is None:
            return self.transform is other.transform
        return all(
            max(abs(col - corner[0]), abs(row - corner[1])) <= _SAME_GRID
            for (col, row), corner in zip(
                self.pixels_of(other), self._pixel_corners(), strict=True
            )
        )

    def pixels_of(self, other: 'Grid') -> list[tuple[float, float]]:
        """Return column and row of the other grid's corners, see :meth:`corners`."""
        assert self.transform is not None
        check_transform(tuple(self.transform), str(self))
        to_pixel = tuple(~self.transform)
        return [_apply(to_pixel, *position) for position in other.corners()]

    def around(self, other: 'Grid') -> tuple[slice, slice]:
        """Return the rows and columns that another grid reaches, with a margin.

        Args:
            other: The other grid.

        Returns:
            Rows and columns, empty where the grids lie apart; all of them where their
            places cannot be compared.
        """
        sizes = (self.rows, self.cols)
        everything = (slice(0, self.rows), slice(0, self.cols))
        if (self.crs is None) != (other.crs is None) or other.transform is None:
            return everything
        if self.crs is not None and self.crs != other.crs:
            from rasterio.errors import RasterioError
            from rasterio.warp import transform_bounds

            try:
                box = transform_bounds(other.crs, self.crs, *other.bounds, _POINTS)
            except RasterioError:
                return everything
            left, bottom, right, top = box
            # Across the meridian of 180 the left is greater than the right.
            if not np.isfinite(box).all() or left >= right:
                return everything
            turn = type(other.transform)
            frame = turn(right - left, 0, left, 0, bottom - top, top)
            other = Grid(1, 1, self.crs, frame)
        corners = np.array(self.pixels_of(other))[:, ::-1]
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = _MARGIN + 0.02 * (high - low)
        starts = np.floor(low - margin).clip(0, sizes).astype(int).tolist()
        stops = np.ceil(high + margin).clip(0, sizes).astype(int).tolist()
        return slice(starts[0], stops[0]), slice(starts[1], stops[1])

    def part(self, rows: slice, cols: slice) -> 'Grid':
        """Return the grid of some rows and columns."""
        assert self.transform is not None
        a, b, _, d, e, _ = coefficients = tuple(self.transform)[:6]
        c, f = _apply(coefficients, cols.start, rows.start)
        transform = type(self.transform)(a, b, c, d, e, f)
        size = (rows.stop - rows.start, cols.stop - cols.start)
        return Grid(*size, self.crs, transform)

    def corners(self) -> list[tuple[float, float]]:
        """Return the corners in CRS coordinates.

        Returns:
            Upper left, upper right, lower left, lower right.

        Raises:
            ValueError: If the grid has no transform.
        """
        if self.transform is None:
            raise ValueError(f'found {self}, expected a transform to place its corners')
        coefficients = tuple(self.transform)
        return [_apply(coefficients, *corner) for corner in self._pixel_corners()]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least x, least y, greatest x and greatest y."""
        xs, ys = zip(*self.corners(), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def _pixel_corners(self) -> list[tuple[int, int]]:
        """Columns and rows of the four corners."""
        return [(0, 0), (self.cols, 0), (0, self.rows), (self.cols, self.rows)]

    def __str__(self) -> str:
        """Return size, CRS and origin."""
        if self.transform is None:
            return f'{self.rows} x {self.cols} pixels without georeference'
        crs = 'no CRS' if self.crs is None else self.crs.to_string()
        return (
            f'{self.rows} x {self.cols} pixels, {crs}, origin '
            f'({self.transform.c:g}, {self.transform.f:g})'
        )


def _apply(coefficients: tuple[float, ...], x: float, y: float) -> tuple[float, float]:
    """Apply the coefficients of an affine transform to a point."""
    a, b, c, d, e, f = coefficients[:6]
    return a * x + b * y + c, d * x + e * y + f


def check_transform(coefficients: Sequence[float], where: str) -> None:
    """Refuse a transform that places no pixels.

    Args:
        coefficients: a, b, c, d, e, f as rasterio orders them.
        where: File or argument, for the error.

    Raises:
        ValueError: If one is NaN or infinite, or a pixel has no area.
    """
    a, b, _, d, e, _ = (float(value) for value in coefficients[:6])
    if not all(math.isfinite(value) for value in coefficients[:6]):
        problem = 'a number that is not finite'
    elif a * e - b * d == 0:
        problem = 'pixels of size 0'
    else:
        return
    raise FileError(
        f'{where}: found a georeference with {problem} ({list(coefficients[:6])}), '
        'expected six finite numbers and pixels with an area; give transform='
    )


def checked_grid(grid: Grid, where: str) -> Grid:
    """Return a grid whose pixels have a place.

    Args:
        grid: The grid as a file tells it.
        where: File, for messages.

    Raises:
        FileError: If its transform places no pixels.
    """
    if grid.transform is None:
        return grid
    check_transform(tuple(grid.transform), where)
    if grid.crs is None or not grid.crs.is_geographic:
        return grid
    left, bottom, right, top = grid.bounds
    if max(abs(left), abs(right)) <= 2 * 360 and max(abs(bottom), abs(top)) <= 180:
        return grid
    logger.warning(
        '%s: its CRS %s is in degrees, but its pixels lie at x %g to %g and y %g to %g; '
        'the CRS counts as none (crs= gives the right one)',
        where,
        grid.crs.to_string(),
        left,
        right,
        bottom,
        top,
    )
    return replace(grid, crs=None)


def read_crs(text: str, argument: str = 'crs') -> 'CRS':
    """Return a CRS from an argument, in any form that PROJ reads.

    Raises:
        ValueError: If PROJ does not know it.
    """
    from rasterio.crs import CRS

    try:
        return CRS.from_user_input(text)
    except Exception as error:
        raise ValueError(
            f'{argument}={text!r} is not known to PROJ: {" ".join(str(error).split())}'
        ) from error


def placed_crs(crs: 'CRS | None', where: str) -> 'CRS | None':
    """Return a CRS that lies on the Earth; a local or unknown one counts as none."""
    if crs is None:
        return None
    wkt = crs.to_wkt()
    local = wkt.startswith(('LOCAL_CS', 'ENGCRS', 'ENGINEERINGCRS'))
    name = wkt.partition('"')[2].partition('"')[0]
    if not local and wkt and not name.lower().startswith(('undefined', 'unknown geo')):
        return crs
    logger.warning(
        '%s: the CRS %r is local or unknown, so it counts as none', where, name or wkt
    )
    return None


def check_matching(path: str, own: Grid, grid: Grid, hint: str = '') -> None:
    """Refuse labels that cannot be brought to the grid of a scene.

    Args:
        path: Their file, for the error.
        own: Their grid.
        grid: Grid of the scene.
        hint: What may be wrong where sizes differ.

    Raises:
        FileError: If sizes differ and places cannot be compared.
    """
    if (own.rows, own.cols) == (grid.rows, grid.cols):
        return
    if own.georeferenced and grid.georeferenced:
        return
    same_system = own.crs is None and grid.crs is None
    if same_system and own.transform is not None and grid.transform is not None:
        return
    missing = 'the labels have' if not own.georeferenced else 'the cube has'
    if (own.rows, own.cols) == (grid.cols, grid.rows):
        hint += '; the labels would fit if rows and columns were exchanged'
    raise FileError(
        f'{path}: cube and labels differ in size, and {missing} no CRS, so they cannot '
        f'be matched (labels: {own}; cube: {grid}); georeference them (labels_crs=, '
        f'crs=, transform=) or give labels of the same size{hint}'
    )


def labels_on_grid(
    path: str,
    labels: NDArray[np.int64],
    own: Grid,
    grid: Grid,
    unlabelled: Sequence[int] = (0,),
) -> NDArray[np.int64]:
    """Bring labels to the grid of a scene.

    Labels on the same grid, or without georeference but of the same size, are taken as
    they are. Any other grid is reprojected with nearest neighbours.

    Args:
        path: Their file, for errors.
        labels: Labels (rows, cols), ``NO_LABEL`` where the file has no data.
        own: Their grid.
        grid: Grid of the scene.
        unlabelled: Values that mean "no label".

    Returns:
        Labels (rows, cols) of the scene, ``NO_LABEL`` where the file covers nothing.

    Raises:
        ValueError: If the grids cannot be matched, or no label lies in the scene.
    """
    if own.transform is not None and (own.rows, own.cols) != (grid.rows, grid.cols):
        own = checked_grid(own, path)
    crs, own_crs = grid.crs, own.crs
    if not own.georeferenced or not grid.georeferenced:
        if (own.rows, own.cols) == (grid.rows, grid.cols):
            placed = own.transform is not None and grid.transform is not None
            if placed and not replace(own, crs=grid.crs).same_as(grid):
                logger.warning(
                    '%s: it has the size of the cube but another place (labels: %s; '
                    'cube: %s), and one of them has no CRS, so it is taken pixel by '
                    'pixel; labels_crs= or crs= places it',
                    path,
                    own,
                    grid,
                )
            return labels
        check_matching(path, own, grid)
        # Both lie in one system without a name; any flat one does for the warper.
        crs = own_crs = read_crs('EPSG:3857')
    elif own.same_as(grid):
        return labels
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    # Numbers of the values travel, because GDAL does not move every int64 unharmed.
    values, numbers = np.unique(labels, return_inverse=True)
    matched = np.zeros((grid.rows, grid.cols), dtype=np.int32)
    with reading(path, 'labels on the grid of the scene'):
        reproject(
            numbers.reshape(labels.shape).astype(np.int32) + 1,
            matched,
            src_transform=own.transform,
            src_crs=own_crs,
            dst_transform=grid.transform,
            dst_crs=crs,
            resampling=Resampling.nearest,
            init_dest_nodata=False,
        )
    moved = np.concatenate([[NO_LABEL], values])[matched]
    none = [NO_LABEL, *unlabelled]
    if not np.isin(values, none).all() and np.isin(moved, none).all():
        raise outside(path, own, grid)
    return moved
