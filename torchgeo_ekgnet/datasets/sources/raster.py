# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Anything that rasterio opens."""

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from ..._reading import FileError, reading, require_file
from ..raster import Grid, check_transform
from ..units import nanometres
from .base import Request, Source


def claims(path: Path) -> bool:
    """Rasterio is asked about every file that no other format claims."""
    return True


def open_source(path: Path, request: Request) -> Source:
    """Open a raster."""
    return RasterSource(path)


def open_raster(path: str | os.PathLike[str]) -> Any:
    """Open a file with rasterio.

    Args:
        path: The file.

    Returns:
        The open dataset.

    Raises:
        FileNotFoundError: If there is no such file.
        FileError: If rasterio cannot open it.
    """
    path = require_file(path, 'raster')
    # torchgeo's command line tells GDAL not to look at neighbouring files, and then it
    # does not find the header of an ENVI file.
    with (
        reading(path, 'a raster'),
        warnings.catch_warnings(),
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=False),
    ):
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        return rasterio.open(path)


def grid_of(dataset: Any) -> Grid:
    """Return the grid of an open raster; without transform if the file has none.

    Raises:
        ValueError: If its transform is not finite or its pixels have no area.
    """
    transform = dataset.transform
    if transform.is_identity:
        transform = None
    else:
        check_transform(tuple(transform), str(dataset.name))
    return Grid(dataset.height, dataset.width, dataset.crs, transform)


class RasterSource(Source):
    """A cube in one raster.

    The file stays open, one handle a process; windows are read on demand.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Initialize a new RasterSource instance.

        Raises:
            FileNotFoundError: If the file is missing.
            FileError: If it cannot be opened.
        """
        self._lock = threading.Lock()
        self._handles: dict[int, Any] = {}
        with open_raster(path) as dataset, reading(path, 'a raster'):
            self._grid = grid_of(dataset)
            self._nodatas: dict[str, float | None] = {
                str(value): value for value in dataset.nodatavals
            }
            self._tags = [
                (
                    dataset.tags(band, ns='IMAGERY').get('CENTRAL_WAVELENGTH_UM'),
                    {key.lower(): text for key, text in dataset.tags(band).items()},
                )
                for band in dataset.indexes
            ]
            self._masked = any(
                MaskFlags.per_dataset in flags for flags in dataset.mask_flag_enums
            )
            shape = (dataset.height, dataset.width, dataset.count)
            super().__init__((path,), shape, np.result_type(*dataset.dtypes))

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._grid

    @property
    def nodata(self) -> float | None:
        """Value that the file declares for missing data."""
        if len(self._nodatas) > 1:
            raise FileError(
                f'the bands of {self.where} declare different nodata values '
                f'({sorted(self._nodatas)}); name one with nodata='
            )
        return next(iter(self._nodatas.values()), None)

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm where every band's metadata tell them."""
        told = [self._centre(*tags) for tags in self._tags]
        found = [(value, unit or own) for value, own in told if value is not None]
        if len(found) != len(told):
            return None
        centres = np.array([value for value, _ in found])
        units = [own for _, own in found]
        for own in set(units):
            here = [number for number, other in enumerate(units) if other == own]
            converted = nanometres(centres[here], own, self.where)
            if converted is None:
                return None
            centres[here] = converted
        return centres

    def _centre(
        self, imagery: str | None, tags: dict[str, str]
    ) -> tuple[float | None, str | None]:
        """Return centre and unit of a band."""
        # GDAL rounds its own tag; the one of the file has all digits.
        text = tags.get('wavelength')
        unit = tags.get('wavelength_units') or tags.get('wavelength_unit')
        if text is None:
            text, unit = imagery, 'um'
        try:
            return None if text is None else float(text), unit
        except ValueError:
            return None, None

    def mask(self) -> NDArray[np.bool_] | None:
        """Return the mask that the file carries beside its bands."""
        if not self._masked:
            return None
        with open_raster(self.files[0]) as dataset, reading(self.files[0], 'a raster'):
            return np.asarray(dataset.dataset_mask() > 0)

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
        indexes = [int(band) + 1 for band in wanted]
        rows, cols = row_stop - row_start, col_stop - col_start
        window = Window(col_start, row_start, cols, rows)
        with self._lock, reading(self.files[0], 'a raster'):
            values = self._handle().read(indexes, window=window)
        cube = np.empty((rows, cols, len(indexes)), dtype=self.dtype)
        cube[...] = np.moveaxis(values, 0, 2)
        return cube

    def _handle(self) -> Any:
        process = os.getpid()
        if process not in self._handles:
            self._handles[process] = open_raster(self.files[0])
        return self._handles[process]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files."""
        state = self.__dict__.copy()
        del state['_lock'], state['_handles']
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state; files are opened when they are read."""
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._handles = {}
