# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""HDF5 and NetCDF files, and MATLAB v7.3, which is HDF5 with its axes reversed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError, check_memory, reading
from ..labels import LabelLegend
from ..nodata import is_nodata
from ..raster import Grid
from ..units import named_centres, nanometres, told_nanometres
from .axes import axes_of, bands_in, in_order, kept_axes, reorder
from .base import Chosen, Request, Source
from .conventions import FLAGS, Signs, bounds, flags, meant_type, resigned
from .facts import (
    are_class_names,
    band_facts,
    lower,
    named_classes,
    own_centre,
    text_of,
)
from .hdf5_file import AXES, COORDINATES, PLACE, SYSTEM, class_names_of, open_hdf5
from .hdf5_place import number, of_map_info, of_prisma, placed
from .stack import StackSource
from .variables import Listed, pick, series

logger = logging.getLogger(__name__)

SUFFIXES = ('.h5', '.hdf5', '.hdf', '.he5', '.nc', '.nc4')

#: Endings of rasters that are HDF5 or NetCDF inside.
_RASTERS = ('.kea', '.bag', '.grd')

#: Rows that are compared with the bounds at once.
_ROWS_AT_ONCE = 64
#: Detectors of PRISMA, as its attributes call them.
_DETECTORS = ('vnir', 'swir')
#: Attributes that declare a value for missing data.
_NODATA = ('_fillvalue', 'missing_value', 'data_ignore_value', 'nodata_value', 'nodata')


def claims(path: Path) -> bool:
    """Tell whether a path names an HDF5 or NetCDF file, or is one by its first bytes.

    GDAL, which would open it otherwise, takes the last axes for rows and columns.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or not path.is_file():
        return suffix in SUFFIXES
    if suffix in _RASTERS:
        return False
    with reading(path, 'a file'), path.open('rb') as file:
        return file.read(8).startswith((b'\x89HDF\r\n\x1a\n', b'CDF\x01', b'CDF\x02'))


def open_source(path: Path, request: Request) -> Source:
    """Open an array of an HDF5 or NetCDF file; of PRISMA products both cubes."""
    product = None if request.labels else open_product(path, request)
    return open_arrays(path, request) if product is None else product


def open_product(path: Path, request: Request) -> Source | None:
    """Open the two cubes of a PRISMA product as one, None for other files."""
    with open_hdf5(path, request.variable) as (variables, attributes):
        cubes = _prisma_cubes(path, list(variables), request)
        return PrismaSource(path, cubes, attributes, request) if cubes else None


def open_arrays(path: Path, request: Request, matlab: bool = False) -> Source:
    """Open an array, or the maps that a pattern names as the bands of a cube."""
    with open_hdf5(path, request.variable) as (variables, _):
        shapes = {name: item.data.shape for name, item in variables.items()}
        names = series(path, shapes, request)
        told = [own_centre(path, variables[name].attributes) for name in names]
    if not names:
        return HDF5Source(path, request, matlab)
    band = replace(request, axes=None, size=None, labels=True)
    parts = [HDF5Source(path, replace(band, variable=n), matlab) for n in names]
    centres = [centre for centre in told if centre is not None]
    return SeriesSource(
        path, parts, centres if len(centres) == len(names) else named_centres(names)
    )


def list_arrays(path: Path, matlab: bool = False) -> dict[str, Listed]:
    """List the arrays of numbers by name.

    Args:
        path: The file.
        matlab: Whether it is MATLAB's, whose axes are stored in reverse.
    """
    with open_hdf5(path) as (variables, _):
        return {
            name: Listed.of(data.shape[::-1], data.dtype)
            if matlab
            else Listed.of(data.shape, data.dtype)._replace(axes=own.get(AXES))
            for name, (data, own) in variables.items()
        }


def _prisma_cubes(path: Path, names: list[str], request: Request) -> tuple[str, ...]:
    """Return the names of the two cubes of a PRISMA product, nothing for other files."""
    short = [name for name in names if name.endswith('/VNIR_Cube')]
    cubes = (short[0], short[0].replace('VNIR_Cube', 'SWIR_Cube')) if short else ()
    if not cubes or cubes[1] not in names:
        return ()
    if request.variable is None:
        return cubes
    if request.variable.strip('/') in cubes:
        raise FileError(
            f'{path}: found {request.variable!r} as variable, but VNIR_Cube and '
            'SWIR_Cube of a PRISMA product are one scene; expected no cube_variable; '
            'choose bands instead, by number or wavelengths'
        )
    return ()


class HDF5Source(Source):
    """A cube in an HDF5 or NetCDF file, read by window.

    The file is opened for every read, so that the source can be copied to other
    processes. Classic NetCDF files (version 3) are read whole.

    Args:
        path: The file.
        request: What is wanted of it.
        matlab: The file is a MATLAB v7.3 file, whose axes are stored in reverse.
    """

    def __init__(self, path: Path, request: Request, matlab: bool = False) -> None:
        """Initialize a new HDF5Source instance."""
        with open_hdf5(path, request.variable) as (variables, attributes):
            shapes = {
                name: item.data.shape[::-1] if matlab else item.data.shape
                for name, item in variables.items()
            }
            self.variable = pick(path, shapes, request)
            data, own = variables[self.variable]
            self.axes = axes_of(request, own.get(AXES))
            self._stored_axes = self.axes[::-1] if matlab else self.axes
            stored = shapes[self.variable]
            kept = kept_axes(stored, request.ndim)
            shape = [stored[axis] for axis in kept]
            #: For every stored axis its letter, or nothing where it has length 1.
            places = [
                self.axes[kept.index(axis)] if axis in kept else ''
                for axis in range(len(stored))
            ]
            self._places = places[::-1] if matlab else places
            self._values = data if isinstance(data, np.ndarray) else None
            # A cell of MATLAB lies elsewhere than it is called, a link to another file
            # is known by its name only.
            inside = isinstance(data, h5py.Dataset) and _file_of(data) == path
            self._path = data.name if inside else self.variable
            if request.size is not None:
                if request.check_memory:
                    check_memory(data.size * data.dtype.itemsize, path, self.variable)
                array = np.asarray(data[()])
                array = in_order(
                    array.T if matlab else array, self.axes, request, str(path)
                )
                self._values, self._stored_axes = array, 'yxb'
                self._places = list('yxb')
                size = array.shape
            else:
                size = tuple(
                    dict(zip(self.axes, shape, strict=True)).get(axis, 1)
                    for axis in 'yxb'
                )
            low = lower(own)
            dtype = meant_type(np.dtype(data.dtype), low)
            self._signs = Signs(np.dtype(data.dtype), dtype)
            self._attributes = {key: low[key] for key in _NODATA if key in low}
            self._bounds = bounds(path, self.variable, low, self._signs)
            pair = number(low, 'scale_factor', 1.0), number(low, 'add_offset', 0.0)
            self._scaling = () if pair == (1.0, 0.0) else (pair,) * size[2]
            self._named = {key: low[key] for key in FLAGS if key in low}
            self._texts = next(
                (
                    {key: value}
                    for told in (own, attributes)
                    for key, value in told.items()
                    if are_class_names(key) and np.size(value) > 1
                ),
                {},
            )
            self._members = h5py.check_enum_dtype(data.dtype)
            _check_parts(path, data)
            bands = bands_in(shape, self.axes)
            self._facts = band_facts(
                path, self.variable, variables, attributes, bands, shapes
            )
            super().__init__((path,), size, dtype)
            if request.size is None:
                named = zip(self._places, own.get(COORDINATES, ()), strict=False)
                held = {axis: variables.get(name.strip('/')) for axis, name in named}
                grid = Grid(*self.shape[:2])
                at = placed(path, grid, held.get('x'), held.get('y'), own.get(SYSTEM))
                if at is None and PLACE in own and not matlab:
                    at = of_map_info(path, grid, own[PLACE])
                self._grid = at or grid

    @property
    def nodata(self) -> float | None:
        """Value that the file declares for missing data."""
        declared = _nodata(self.files[0], self.variable, self._attributes)
        return None if declared is None else resigned(declared, self._signs)

    def legend(self) -> LabelLegend | None:
        """Return the names of an enumeration, of CF's flags, or of a list of texts."""
        if self._members is not None:
            names = {int(value): name for name, value in self._members.items()}
        else:
            names = flags(self.files[0], self._named, self._signs)
        texts = {} if names else self._texts or class_names_of(self.files[0])
        if texts:
            self._values = self._stored(())  # once: labels are read next
            return named_classes(self.files[0], texts, self.read_all())
        return LabelLegend(names) if names else None

    def mask(self) -> NDArray[np.bool_] | None:
        """Return False where a value lies outside the bounds that the file declares."""
        if self._bounds is None:
            return None
        low, high = self._bounds
        try:
            nodata = self.nodata
        except FileError:  # an argument may overrule it
            nodata = None
        rows, cols, _ = self.shape
        mask = np.ones((rows, cols), dtype=bool)
        for row in range(0, rows, _ROWS_AT_ONCE):
            stop = min(row + _ROWS_AT_ONCE, rows)
            values = self.read(slice(row, stop), slice(0, cols))
            if values.dtype.kind == 'f':
                low, high = values.dtype.type(low), values.dtype.type(high)
            outside = (values < low) | (values > high)
            if nodata is not None:
                outside &= ~is_nodata(values, nodata)
            mask[row:stop] = ~outside.any(axis=2)
        if mask.all():
            return None
        told = f'{low:g} to {high:g} (valid_range, valid_min, valid_max)'
        if not mask.any():
            logger.warning(
                '%s: no pixel of %r lies within %s in every band, so these bounds are '
                'left out',
                self.where,
                self.variable,
                told,
            )
            return None
        logger.warning(
            '%s: %d pixels of %r have values outside %s in some band and count as '
            'without data',
            self.where,
            int((~mask).sum()),
            self.variable,
            told,
        )
        return mask

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`."""
        window = {'y': rows, 'x': cols, 'b': slice(None)}
        array = self._stored(
            tuple(window[axis] if axis else 0 for axis in self._places)
        )
        if self._signs.stored != self._signs.meant:
            array = array.view(self._signs.meant)
        cube = reorder(array, self._stored_axes)
        return cube if bands is None else cube[:, :, bands]

    def _stored(self, where: Any) -> NDArray[Any]:
        """Return a part of the array in its own order."""
        if self._values is None:
            with reading(self.files[0], 'HDF5'), h5py.File(self.files[0], 'r') as file:
                dataset: Any = file[self._path]
                return np.asarray(dataset[where])
        return np.asarray(self._values[where])


class SeriesSource(StackSource):
    """Maps of one file that are the bands of a cube.

    Args:
        path: The file.
        parts: The maps in the order of their bands.
        centres: Wavelength and unit of each, nothing if they are unknown.
    """

    def __init__(
        self,
        path: Path,
        parts: Sequence[Source],
        centres: Sequence[tuple[float, str | None]],
    ) -> None:
        """Initialize a new SeriesSource instance."""
        super().__init__(parts)
        self.files, self._centres = (path,), list(centres)

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm that attributes or names of the maps tell."""
        if not self._centres:
            return None
        return told_nanometres(self._centres, unit, self.where)


class PrismaSource(StackSource):
    """The two cubes of a PRISMA product, VNIR before SWIR.

    Args:
        path: The file.
        cubes: Names of the cubes.
        attributes: Attributes of the file.
        request: What is wanted; the product's axes are rows, bands, columns.
    """

    def __init__(
        self,
        path: Path,
        cubes: tuple[str, ...],
        attributes: Mapping[str, Any],
        request: Request,
    ) -> None:
        """Initialize a new PrismaSource instance."""
        axes = 'ybx' if request.axes is None else request.axes
        parts = [
            HDF5Source(path, replace(request, variable=name, axes=axes))
            for name in cubes
        ]
        super().__init__(parts)
        self.files, self.axes = (path,), axes
        told = lower(attributes)
        self._place = of_prisma(path, Grid(*self.shape[:2]), told)
        self._listed: list[Any] = [told.get(f'list_cw_{name}') for name in _DETECTORS]
        self._acquired: list[Any] = [
            told.get(f'list_cw_{name}_flags') for name in _DETECTORS
        ]
        self._scales: list[tuple[float, float]] = []
        for part, detector in zip(parts, _DETECTORS, strict=True):
            low = number(told, f'l2scale{detector}min', 0.0)
            high = number(told, f'l2scale{detector}max', 0.0)
            # Reflectance lies between the two, in steps of 16 bits.
            pair = ((high - low) / 65535, low) if high > low else (1.0, 0.0)
            self._scales += [pair] * part.shape[2]

    @property
    def grid(self) -> Grid:
        """Where the pixels lie; products below level 2D tell no grid."""
        return self._place

    @property
    def scaling(self) -> tuple[tuple[float, float], ...]:
        """Factors and offsets of the reflectances of a product of level 2."""
        return () if set(self._scales) == {(1.0, 0.0)} else tuple(self._scales)

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm."""
        if any(values is None for values in self._listed):
            return None
        for values, part in zip(self._listed, self._parts, strict=True):
            if np.size(values) != part.shape[2]:
                raise FileError(
                    f'{self.where}: found {np.size(values)} centres for {part.shape[2]} '
                    f'bands of a cube (shape {part.shape}), expected one a band; the '
                    "axes of the product are axes='ybx'"
                )
        centres = np.concatenate([np.ravel(values) for values in self._listed])
        return nanometres(centres, unit or 'nm', self.where)

    def bad_bands(self) -> NDArray[np.bool_] | None:
        """Return True for the bands that were not acquired."""
        centres = self.wavelengths()
        if centres is None:
            return None
        bad = centres <= 0
        if all(
            np.size(flags) == part.shape[2]
            for flags, part in zip(self._acquired, self._parts, strict=True)
        ):
            bad |= np.concatenate([np.ravel(flags) for flags in self._acquired]) == 0
        return bad if bad.any() else None


def _check_parts(path: Path, data: Any) -> None:
    """Refuse a dataset whose values lie in other files that are not there.

    HDF5 gives the fill value for them. Refuse one that is compressed in a way that is not
    known here, too.
    """
    if not isinstance(data, h5py.Dataset):
        return
    stored = data.id.get_create_plist()
    for index in range(stored.get_nfilters()):
        code, *_, name = stored.get_filter(index)
        if not h5py.h5z.filter_avail(code):
            raise FileError(
                f'{path}: {data.name!r} is compressed by filter {code} '
                f'({text_of(name) or "without a name"}), which HDF5 does not have here, '
                'expected one that it has; write it anew with gzip (h5repack -f GZIP=4)'
            )
    if not data.is_virtual:
        return
    for source in data.virtual_sources():
        name = source.file_name
        known = name == '.' or '%b' in name
        if not known and not (_file_of(data).parent / name).is_file():
            raise FileError(
                f'{path}: {data.name!r} consists of parts of other files, and found no '
                f'file {name}, expected all of them'
            )


def _file_of(data: h5py.Dataset) -> Path:
    """Return the file in which a dataset lies."""
    return Path(data.file.filename)


def _nodata(path: Path, name: str, attributes: Mapping[str, Any]) -> float | None:
    """Return the value that a variable declares for missing data."""
    try:
        declared = [
            float(value)
            for key in _NODATA
            if key in attributes
            for value in np.ravel(attributes[key])
        ]
    except (TypeError, ValueError) as error:
        raise FileError(
            f'{path}: {name!r} declares a nodata value that is no number ({error}); '
            'name one with nodata='
        ) from error
    # One value in single and in double precision differs in its last digits.
    if len({f'{value:.6g}' for value in declared}) > 1:
        raise FileError(
            f'{path}: {name!r} declares different nodata values ({declared}); name one '
            'with nodata='
        )
    return declared[0] if declared else None
