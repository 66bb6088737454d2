# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Several files that are one cube."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError
from ..nodata import is_nodata
from ..raster import Grid, checked_grid
from .base import Chosen, Source

logger = logging.getLogger(__name__)

#: Tiles share at most that much of their area; more is one place on two grids.
_MOST_OVERLAP = 0.5
#: Rows of a tile that are searched for nodata at once.
_ROWS_AT_ONCE = 64


class _Joined(Source):
    """Several files as one source.

    Args:
        parts: The files.
        shape: Rows, columns and bands of the whole.
    """

    def __init__(self, parts: Sequence[Source], shape: Sequence[int]) -> None:
        """Initialize a new instance."""
        self._parts = tuple(parts)
        super().__init__(
            [file for part in parts for file in part.files],
            shape,
            np.result_type(*(part.dtype for part in parts)),
        )

    @property
    def nodata(self) -> float | None:
        """Value that all files declare for missing data.

        Raises:
            FileError: If they declare different ones.
        """
        declared = {str(value): value for value in (p.nodata for p in self._parts)}
        if len(declared) > 1:
            raise FileError(
                f'the bands from {self._parts[0].files[0].name} on declare different '
                f'nodata values ({sorted(declared)}); name one with nodata='
            )
        return next(iter(declared.values()))


class StackSource(_Joined):
    """Files on one grid whose bands follow each other.

    Args:
        parts: The files in the order of their bands.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        """Initialize a new StackSource instance.

        Raises:
            ValueError: If the grids differ.
        """
        first = parts[0]
        for part in parts[1:]:
            if not first.grid.same_as(part.grid):
                raise ValueError(
                    f'the bands lie on different grids: {first.where} has '
                    f'{first.grid}, {part.where} has {part.grid}'
                )
        bands = sum(part.shape[2] for part in parts)
        super().__init__(parts, (*first.shape[:2], bands))

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._parts[0].grid

    @property
    def scaling(self) -> tuple[tuple[float, float], ...]:
        """Factors and offsets of the stored values."""
        scales = [part.scaling for part in self._parts]
        if not any(scales):
            return ()
        return tuple(
            pair
            for part, own in zip(self._parts, scales, strict=True)
            for pair in own or ((1.0, 0.0),) * part.shape[2]
        )

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm, if every file has them."""
        centres = [part.wavelengths(unit) for part in self._parts]
        known = [centre for centre in centres if centre is not None]
        if 0 < len(known) < len(centres):
            logger.warning(
                '%s: found wavelengths in %d of %d files of the cube, so they are left '
                'out; wavelengths= gives them',
                self.where,
                len(known),
                len(centres),
            )
        return np.concatenate(known) if len(known) == len(centres) else None

    def bad_bands(self) -> NDArray[np.bool_] | None:
        """Return True for the bands that a file marks as bad."""
        listed = [(part, part.bad_bands()) for part in self._parts]
        if all(bad is None for _, bad in listed):
            return None
        none = [
            np.zeros(part.shape[2], bool) if bad is None else bad
            for part, bad in listed
        ]
        return np.concatenate(none)

    def mask(self) -> NDArray[np.bool_] | None:
        """Return False where a file masks the pixel."""
        masks = [mask for part in self._parts if (mask := part.mask()) is not None]
        return np.logical_and.reduce(masks) if masks else None

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`."""
        wanted = np.arange(self.shape[2]) if bands is None else bands
        size = (rows.stop - rows.start, cols.stop - cols.start, len(wanted))
        cube = np.empty(size, dtype=self.dtype)
        first = 0
        for part in self._parts:
            last = first + part.shape[2]
            here = np.flatnonzero((wanted >= first) & (wanted < last))
            if len(here):
                cube[:, :, here] = part.read(rows, cols, wanted[here] - first)
            first = last
        return cube


class MosaicSource(_Joined):
    """Tiles of one pixel grid that lie beside each other, read by window.

    Where tiles overlap, the first one that has data there counts.

    Args:
        parts: The tiles.
        grid: Grid of the whole.
        offsets: First row and column of each tile in it.

    Raises:
        FileError: If the tiles declare different scales of their values.
    """

    def __init__(
        self, parts: Sequence[Source], grid: Grid, offsets: Sequence[tuple[int, int]]
    ) -> None:
        """Initialize a new MosaicSource instance."""
        self._grid, self._scaling = grid, parts[0].scaling
        self._offsets = tuple(offsets)
        self._known: dict[int, NDArray[np.bool_] | None] = {}
        for part in parts[1:]:
            if part.scaling != self._scaling:
                raise FileError(
                    f'{part.where}: found values with {_named(part.scaling)}, expected '
                    f'{_named(self._scaling)} as in {parts[0].where}: values are '
                    'used as they are stored; bring the tiles to one scale'
                )
        super().__init__(parts, (grid.rows, grid.cols, parts[0].shape[2]))

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm.

        Raises:
            FileError: If they differ between tiles.
        """
        first = self._parts[0].wavelengths(unit)
        for part in self._parts[1:]:
            other = part.wavelengths(unit)
            same = (first is None) == (other is None)
            if first is not None and other is not None:
                same = bool(np.allclose(first, other, rtol=0, atol=0.01))
            if not same:
                raise FileError(
                    f'{part.where}: found other wavelengths than in '
                    f'{self._parts[0].where}, expected tiles of one cube; give '
                    'wavelengths= if they are one all the same'
                )
        return first

    def bad_bands(self) -> NDArray[np.bool_] | None:
        """Return True for the bands that any tile marks as bad."""
        marked = [bad for part in self._parts if (bad := part.bad_bands()) is not None]
        return np.logical_or.reduce(marked) if marked else None

    def mask(self) -> NDArray[np.bool_] | None:
        """Return False where no tile has data."""
        mask = np.zeros(self.shape[:2], dtype=bool)
        for part, (row, col) in zip(self._parts, self._offsets, strict=True):
            own = part.mask()
            here = mask[row : row + part.shape[0], col : col + part.shape[1]]
            here |= True if own is None else own
        return None if mask.all() else mask

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`; 0 beyond all tiles."""
        count = self.shape[2] if bands is None else len(bands)
        size = (rows.stop - rows.start, cols.stop - cols.start, count)
        cube = np.zeros(size, dtype=self.dtype)
        filled = np.zeros(size[:2], dtype=bool)
        for number in reversed(range(len(self._parts))):
            part, (row, col) = self._parts[number], self._offsets[number]
            top, bottom = max(row, rows.start), min(row + part.shape[0], rows.stop)
            left, right = max(col, cols.start), min(col + part.shape[1], cols.stop)
            if top >= bottom or left >= right:
                continue
            where = np.s_[
                top - rows.start : bottom - rows.start,
                left - cols.start : right - cols.start,
            ]
            own = np.s_[top - row : bottom - row, left - col : right - col]
            values = part.read(*own, bands)
            known = self._has_data(number) if filled[where].any() else None
            if known is None:
                cube[where] = values
            else:
                new = known[own] | ~filled[where]
                cube[where][new] = values[new]
            filled[where] = True
        return cube

    def _has_data(self, number: int) -> NDArray[np.bool_] | None:
        """Return where a tile has data, None for everywhere; looked at once."""
        if number not in self._known:
            part = self._parts[number]
            known, nodata = part.mask(), part.nodata
            if nodata is not None:
                empty = np.zeros(part.shape[:2], dtype=bool)
                for row in range(0, part.shape[0], _ROWS_AT_ONCE):
                    rows = slice(row, min(row + _ROWS_AT_ONCE, part.shape[0]))
                    values = part.read(rows, slice(0, part.shape[1]))
                    empty[rows] = is_nodata(values, nodata).all(axis=2)
                known = ~empty if known is None else known & ~empty
            self._known[number] = known
        return self._known[number]


def _named(scaling: tuple[tuple[float, float], ...]) -> str:
    """Name factors and offsets, each once."""
    pairs = ', '.join(f'{factor:g} and {shift:g}' for factor, shift in set(scaling))
    return f'factor and offset {pairs or "1 and 0"}'


def joined(parts: Sequence[Source]) -> Source:
    """Join the files of one cube: bands on one grid, or tiles beside each other.

    Raises:
        ValueError: If they are neither.
    """
    first = parts[0]
    for part in parts:
        checked_grid(part.grid, part.where)
    if all(first.grid.same_as(part.grid) for part in parts[1:]):
        other = next((part for part in parts if part.dtype != first.dtype), None)
        if other is not None:
            logger.warning(
                '%s holds %s and %s holds %s; both are taken as bands of one cube: a '
                'pattern or a list that leaves out what is no band names the cube',
                first.where,
                first.dtype,
                other.where,
                other.dtype,
            )
        return StackSource(parts)
    placed = _tiled(parts)
    return StackSource(parts) if placed is None else MosaicSource(parts, *placed)


def _tiled(parts: Sequence[Source]) -> tuple[Grid, list[tuple[int, int]]] | None:
    """Return the grid of the whole and the place of each tile, None for no tiles."""
    grids = [part.grid for part in parts]
    first = grids[0]
    if any(part.shape[2] != parts[0].shape[2] for part in parts):
        return None
    offsets = []
    for grid in grids:
        if first.transform is None or grid.transform is None or grid.crs != first.crs:
            return None
        (left, top), (right, _), (_, bottom), _ = first.pixels_of(grid)
        wanted = (left + grid.cols, top + grid.rows)
        drift = max(
            abs(left - round(left)),
            abs(top - round(top)),
            abs(right - wanted[0]),
            abs(bottom - wanted[1]),
        )
        if drift > 0.01:
            return None
        offsets.append((round(top), round(left)))
    rows = [
        (row, row + grid.rows) for (row, _), grid in zip(offsets, grids, strict=True)
    ]
    cols = [
        (col, col + grid.cols) for (_, col), grid in zip(offsets, grids, strict=True)
    ]
    if _overlap(rows, cols) > _MOST_OVERLAP:
        return None
    top, left = min(rows)[0], min(cols)[0]
    bottom, right = max(stop for _, stop in rows), max(stop for _, stop in cols)
    whole = first.part(slice(top, bottom), slice(left, right))
    return whole, [(row - top, col - left) for row, col in offsets]


def _overlap(rows: list[tuple[int, int]], cols: list[tuple[int, int]]) -> float:
    """Return the largest share of a tile that another one covers."""
    r, c = np.array(rows), np.array(cols)
    high = np.minimum(r[:, None, 1], r[None, :, 1]) - np.maximum(
        r[:, None, 0], r[None, :, 0]
    )
    wide = np.minimum(c[:, None, 1], c[None, :, 1]) - np.maximum(
        c[:, None, 0], c[None, :, 0]
    )
    shared = high.clip(min=0) * wide.clip(min=0)
    np.fill_diagonal(shared, 0)
    area = (r[:, 1] - r[:, 0]) * (c[:, 1] - c[:, 0])
    return float((shared / area[:, None]).max())
