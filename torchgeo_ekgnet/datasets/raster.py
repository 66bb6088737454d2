# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Rasters: cubes in anything rasterio opens, label rasters on any grid."""

import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.warp import reproject
from rasterio.windows import Window

from .envi import find_envi, unit_factor
from .readers import ARRAY_SUFFIXES, read_label_array, require_file
from .scene import NO_LABEL, whole_numbers

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

#: Largest difference, in pixels, between two grids that count as the same.
_SAME_GRID = 0.01


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
        """Tell whether two georeferenced grids have the same pixels.

        Args:
            other: The other grid.

        Returns:
            True if size, CRS and position agree.
        """
        if (self.rows, self.cols, self.crs) != (other.rows, other.cols, other.crs):
            return False
        if self.transform is None or other.transform is None:
            return self.transform is other.transform
        to_pixel = tuple(~self.transform)
        for position, corner in zip(
            other.corners(), self._pixel_corners(), strict=True
        ):
            col, row = _apply(to_pixel, *position)
            if max(abs(col - corner[0]), abs(row - corner[1])) > _SAME_GRID:
                return False
        return True

    def corners(self) -> list[tuple[float, float]]:
        """Return the corners in CRS coordinates.

        Returns:
            Upper left, upper right, lower left, lower right.

        Raises:
            ValueError: If the grid has no transform.
        """
        if self.transform is None:
            raise ValueError(f'{self} has no corners')
        coefficients = tuple(self.transform)
        return [_apply(coefficients, *corner) for corner in self._pixel_corners()]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least x, least y, greatest x and greatest y."""
        xs, ys = zip(*self.corners(), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def _pixel_corners(self) -> list[tuple[int, int]]:
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
    a, b, c, d, e, f = coefficients[:6]
    return a * x + b * y + c, d * x + e * y + f


def open_raster(path: str | os.PathLike[str]) -> Any:
    """Open a file with rasterio.

    Args:
        path: The file.

    Returns:
        The open dataset.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If rasterio cannot open it.
    """
    path = require_file(path, 'raster')
    try:
        # torchgeo's command line tells GDAL not to look at neighbouring files, and
        # then it does not find the header of an ENVI file.
        with (
            warnings.catch_warnings(),
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=False),
        ):
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioIOError as error:
        raise ValueError(f'{path} cannot be opened as a raster: {error}') from error


def grid_of(dataset: Any) -> Grid:
    """Return the grid of an open raster.

    Args:
        dataset: Open rasterio dataset.

    Returns:
        The grid; without transform if the file has none.
    """
    transform = dataset.transform
    if transform.is_identity:
        transform = None
    return Grid(dataset.height, dataset.width, dataset.crs, transform)


class RasterSource:
    """A cube in one raster, or in several whose bands are stacked.

    Files stay open, one handle a process; windows are read on demand.

    Args:
        paths: The files in the order of their bands, all on the same grid.
        wavelength_unit: Unit of the wavelengths, ``'nm'`` or ``'um'``; overrules the
            files.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        wavelength_unit: str | None = None,
    ) -> None:
        """Initialize a new RasterSource instance.

        Args:
            paths: The files in the order of their bands, all on the same grid.
            wavelength_unit: Unit of the wavelengths, ``'nm'`` or ``'um'``; overrules
                the files.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file cannot be opened, or the grids differ.
        """
        if not paths:
            raise ValueError('a raster cube needs at least one file')
        self.paths = [Path(path) for path in paths]
        self._lock = threading.Lock()
        self._handles: dict[tuple[int, int], Any] = {}
        self._counts: list[int] = []
        types: list[str] = []
        centres: list[float | None] = []
        nodatas: set[float | None] = set()
        factor = unit_factor(wavelength_unit, 'wavelength_unit')
        self.masked = False
        for number, path in enumerate(self.paths):
            with open_raster(path) as dataset:
                grid = grid_of(dataset)
                if number == 0:
                    self.grid = grid
                elif not self.grid.same_as(grid):
                    raise ValueError(
                        f'the bands lie on different grids: {self.paths[0]} has '
                        f'{self.grid}, {path} has {grid}'
                    )
                self._counts.append(dataset.count)
                types += dataset.dtypes
                nodatas.update(dataset.nodatavals)
                centres += [
                    _band_centre(dataset, band, factor) for band in dataset.indexes
                ]
                self.masked |= any(
                    MaskFlags.per_dataset in flags for flags in dataset.mask_flag_enums
                )
        self._nodatas = {str(value): value for value in nodatas}
        self._dtype = np.result_type(*types)
        known = [centre for centre in centres if centre is not None]
        self.wavelengths = (
            np.array(known) if known and len(known) == len(centres) else None
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bands."""
        return self.grid.rows, self.grid.cols, sum(self._counts)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self._dtype

    @property
    def files(self) -> tuple[Path, ...]:
        """The files in the order of their bands."""
        return tuple(self.paths)

    @property
    def nodata(self) -> float | None:
        """The nodata value that the files declare, None if they do not.

        Raises:
            ValueError: If they declare different ones.
        """
        if len(self._nodatas) > 1:
            raise ValueError(
                f'the bands from {self.paths[0].name} on declare different nodata '
                f'values ({sorted(self._nodatas)}); name one with nodata='
            )
        return next(iter(self._nodatas.values()))

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        bands: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Read one window.

        Args:
            row_start: First row.
            row_stop: Row after the last one.
            col_start: First column.
            col_stop: Column after the last one.
            bands: Zero-based bands in the wanted order, None for all of them.

        Returns:
            Values of shape (rows, cols, bands) in their stored type.
        """
        wanted = np.arange(self.shape[2]) if bands is None else bands
        rows, cols = row_stop - row_start, col_stop - col_start
        cube = np.empty((rows, cols, len(wanted)), dtype=self.dtype)
        window = Window(col_start, row_start, cols, rows)
        first = 0
        for number, count in enumerate(self._counts):
            here = np.flatnonzero((wanted >= first) & (wanted < first + count))
            if len(here):
                indexes = [int(band) for band in wanted[here] - first + 1]
                with self._lock:
                    values = self._handle(number).read(indexes, window=window)
                cube[:, :, here] = np.moveaxis(values, 0, 2)
            first += count
        return cube

    def dataset_mask(self) -> NDArray[np.bool_]:
        """Read the mask that files carry beside their bands.

        Returns:
            bool (rows, cols), False where a file masks the pixel.
        """
        mask = np.ones(self.shape[:2], dtype=bool)
        for path in self.paths:
            with open_raster(path) as dataset:
                mask &= dataset.dataset_mask() > 0
        return mask

    def _handle(self, number: int) -> Any:
        key = (os.getpid(), number)
        if key not in self._handles:
            self._handles[key] = open_raster(self.paths[number])
        return self._handles[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files."""
        state = self.__dict__.copy()
        del state['_lock'], state['_handles']
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state; files are opened when they are read.

        Args:
            state: What :meth:`__getstate__` returned.
        """
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._handles = {}


def _band_centre(dataset: Any, band: int, factor: float | None) -> float | None:
    """Return the wavelength of a band in nm where the file's metadata tell it.

    The factor turns the file's unit into nm; None takes the unit that the file names.
    """
    imagery = dataset.tags(band, ns='IMAGERY').get('CENTRAL_WAVELENGTH_UM')
    tags = {key.lower(): value for key, value in dataset.tags(band).items()}
    try:
        if imagery is not None:
            return float(imagery) * (factor or 1000.0)
        if 'wavelength' in tags:
            if factor is None:
                unit = tags.get('wavelength_units') or tags.get('wavelength_unit')
                factor = unit_factor(unit, str(dataset.name))
            value = float(tags['wavelength'])
            return value * (factor or (1000.0 if value < 100 else 1.0))
    except ValueError:
        return None
    return None


def read_labels(
    path: str | os.PathLike[str], variable: str | None = None
) -> tuple[NDArray[np.int64], Grid]:
    """Read labels from an array file or from the first band of a raster.

    Args:
        path: MATLAB, NumPy, HDF5 or NetCDF file, ENVI header or binary file, or
            anything else that rasterio opens.
        variable: Name of the array in the file, None for the only one with two axes.

    Returns:
        Labels (rows, cols), ``NO_LABEL`` where the file has no data, and their grid.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or labels are no whole numbers.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        stored, nodata = read_label_array(path, variable)
        grid = Grid(*stored.shape)
        absent = np.zeros(stored.shape, dtype=bool)
        if nodata is not None:
            absent = np.isnan(stored) if np.isnan(nodata) else stored == nodata
    else:
        envi = find_envi(path)
        with open_raster(path if envi is None else envi[1]) as dataset:
            grid = grid_of(dataset)
            stored = dataset.read(1)
            absent = dataset.read_masks(1) == 0
    labels = whole_numbers(str(path), np.where(absent, np.zeros_like(stored), stored))
    labels[absent] = NO_LABEL
    return labels, grid


def read_label_map(
    path: str | os.PathLike[str],
    grid: Grid,
    variable: str | None = None,
    unlabelled: Sequence[int] = (0,),
) -> NDArray[np.int64]:
    """Read labels and bring them to the grid of a scene.

    Labels on the same grid, or without georeference but of the same size, are taken as
    they are. Any other grid is reprojected with nearest neighbours.

    Args:
        path: The file, see :func:`read_labels`.
        grid: Grid of the scene.
        variable: Name of the array in the file, None for the only one with two axes.
        unlabelled: Values that mean "no label".

    Returns:
        Labels (rows, cols), ``NO_LABEL`` for pixels that the file does not cover or
        where it has no data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If labels are no whole numbers, or the grids cannot be matched.
    """
    labels, own = read_labels(path, variable)
    if not own.georeferenced or not grid.georeferenced:
        if (own.rows, own.cols) == (grid.rows, grid.cols):
            return labels
        missing = 'the labels have' if not own.georeferenced else 'the cube has'
        raise ValueError(
            f'{path}: cube and labels differ in size, and {missing} no CRS, so they '
            f'cannot be matched (labels: {own}; cube: {grid}); georeference them or '
            'give labels of the same size'
        )
    if own.same_as(grid):
        return labels
    # Numbers of the values travel, because GDAL does not move every int64 unharmed.
    values, numbers = np.unique(labels, return_inverse=True)
    matched = np.zeros((grid.rows, grid.cols), dtype=np.int32)
    reproject(
        numbers.reshape(labels.shape).astype(np.int32) + 1,
        matched,
        src_transform=own.transform,
        src_crs=own.crs,
        dst_transform=grid.transform,
        dst_crs=grid.crs,
        resampling=Resampling.nearest,
        init_dest_nodata=False,
    )
    moved = np.concatenate([[NO_LABEL], values])[matched]
    none = [NO_LABEL, *unlabelled]
    if not np.isin(values, none).all() and np.isin(moved, none).all():
        raise ValueError(
            f'{path}: no labelled pixel of the label raster ({own}) lies inside the '
            f'scene ({grid})'
        )
    return moved
