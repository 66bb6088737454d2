# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Several files that are one cube."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError
from ..raster import Grid
from .base import Source


class StackSource(Source):
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
        self._parts = tuple(parts)
        counts = [part.shape[2] for part in parts]
        super().__init__(
            [file for part in parts for file in part.files],
            (*first.shape[:2], sum(counts)),
            np.result_type(*(part.dtype for part in parts)),
        )

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._parts[0].grid

    @property
    def nodata(self) -> float | None:
        """Value that the files declare for missing data."""
        return common_nodata(self._parts)

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm, if every file has them."""
        centres = [part.wavelengths(unit) for part in self._parts]
        known = [centre for centre in centres if centre is not None]
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

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        bands: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`."""
        wanted = np.arange(self.shape[2]) if bands is None else bands
        rows, cols = row_stop - row_start, col_stop - col_start
        cube = np.empty((rows, cols, len(wanted)), dtype=self.dtype)
        first = 0
        for part in self._parts:
            last = first + part.shape[2]
            here = np.flatnonzero((wanted >= first) & (wanted < last))
            if len(here):
                cube[:, :, here] = part.read(
                    row_start, row_stop, col_start, col_stop, wanted[here] - first
                )
            first = last
        return cube


def common_nodata(parts: Sequence[Source]) -> float | None:
    """Return the nodata value that all files declare.

    Raises:
        FileError: If they declare different ones.
    """
    declared = {str(value): value for value in (part.nodata for part in parts)}
    if len(declared) > 1:
        raise FileError(
            f'the bands from {parts[0].files[0].name} on declare different nodata '
            f'values ({sorted(declared)}); name one with nodata='
        )
    return next(iter(declared.values()))
