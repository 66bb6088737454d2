# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""HDF5 and NetCDF files, and MATLAB v7.3, which is HDF5 with its axes reversed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from ..._reading import FileError, reading
from ..units import nanometres
from .base import Request, Source, reorder
from .variables import axes_of, pick

SUFFIXES = ('.h5', '.hdf5', '.hdf', '.he5', '.nc', '.nc4')

#: Names of the variable or attribute that holds the band centres.
_WAVELENGTHS = ('wavelength', 'wavelengths')
#: Attributes that declare a value for missing data.
_NODATA = ('_FillValue', 'missing_value')


def claims(path: Path) -> bool:
    """Tell whether a path names an HDF5 or NetCDF file."""
    return path.suffix.lower() in SUFFIXES


def open_source(path: Path, request: Request) -> Source:
    """Open an array of an HDF5 or NetCDF file."""
    return HDF5Source(path, request)


class Variable(NamedTuple):
    """A dataset of an HDF5 file, or an array, and its attributes."""

    data: Any
    attributes: Mapping[str, Any]


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
        axes = axes_of(request)
        self.axes = axes[::-1] if matlab else axes
        with open_hdf5(path) as (variables, attributes):
            shapes = {
                name: item.data.shape[::-1] if matlab else item.data.shape
                for name, item in variables.items()
            }
            self.variable = pick(path, shapes, request)
            data, own = variables[self.variable]
            stored = dict(zip(self.axes, data.shape, strict=True))
            self._values = data if isinstance(data, np.ndarray) else None
            self._attributes = {key: own[key] for key in _NODATA if key in own}
            shape = (stored['y'], stored['x'], stored.get('b', 1))
            self._centres = _band_centres(
                self.variable, variables, attributes, shape[2]
            )
            super().__init__((path,), shape, np.dtype(data.dtype))

    @property
    def nodata(self) -> float | None:
        """Value that the file declares for missing data."""
        return _nodata(self.files[0], self.variable, self._attributes)

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm.

        They are an attribute of the cube, a variable of one axis or an attribute of the
        file, called ``wavelength`` or ``wavelengths`` and with one value a band.
        """
        centres, own = self._centres
        if centres is None:
            return None
        return nanometres(centres, unit or own, self.where)

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        bands: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`."""
        window = {
            'y': slice(row_start, row_stop),
            'x': slice(col_start, col_stop),
            'b': slice(None),
        }
        where = tuple(window[axis] for axis in self.axes)
        if self._values is not None:
            array = self._values[where]
        else:
            with reading(self.files[0], 'HDF5'), h5py.File(self.files[0], 'r') as file:
                dataset: Any = file[self.variable]
                array = dataset[where]
        cube = reorder(array, self.axes)
        return cube if bands is None else cube[:, :, bands]


@contextmanager
def open_hdf5(path: Path) -> Iterator[tuple[dict[str, Variable], Mapping[str, Any]]]:
    """Open an HDF5 or NetCDF file.

    Args:
        path: The file.

    Yields:
        The variables that hold numbers, by their path in the file, and the attributes
        of the file.

    Raises:
        FileError: If the file, or what is read from it meanwhile, is damaged.
    """
    with path.open('rb') as raw:
        magic = raw.read(4)
    if magic in (b'CDF\x01', b'CDF\x02'):
        yield _read_classic_netcdf(path)
        return
    if magic == b'CDF\x05':
        raise FileError(
            f'{path} is a NetCDF file of the kind CDF-5, which is not read; convert it '
            'to NetCDF-4 (nccopy -k nc4)'
        )
    with reading(path, 'HDF5'), h5py.File(path, 'r') as file:
        variables: dict[str, Variable] = {}

        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            numeric = isinstance(item, h5py.Dataset) and item.dtype.kind in 'iufb'
            if numeric and not name.startswith('#'):
                variables[name] = Variable(item, item.attrs)

        file.visititems(visit)
        yield variables, file.attrs


def _read_classic_netcdf(path: Path) -> tuple[dict[str, Variable], Mapping[str, Any]]:
    with reading(path, 'NetCDF'), scipy.io.netcdf_file(path, mmap=False) as file:
        # scipy keeps the attributes of a file or variable among its own ones.
        variables = {
            name: Variable(
                variable.data.astype(variable.data.dtype.newbyteorder('=')),
                vars(variable),
            )
            for name, variable in file.variables.items()
            if variable.data.dtype.kind in 'iuf'
        }
        return variables, dict(vars(file))


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


def _band_centres(
    cube: str,
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any],
    bands: int,
) -> tuple[NDArray[np.float64] | None, str | None]:
    """Return the band centres of a cube and the name of their unit."""
    # Of several variables the one that shares most of the cube's path is its own.
    near = sorted(
        (name for name in variables if name.split('/')[-1].lower() in _WAVELENGTHS),
        key=lambda name: -len(os.path.commonpath([name, cube])),
    )
    candidates = [
        *_listed_centres(variables[cube].attributes),
        *(
            (variables[name].data, _lower(variables[name].attributes).get('units'))
            for name in near
        ),
        *_listed_centres(attributes),
    ]
    for values, unit in candidates:
        if np.shape(values) == (bands,) and values.dtype.kind in 'iuf':
            return np.asarray(values[()], dtype=np.float64), _text(unit)
    return None, None


def _text(value: Any) -> str | None:
    """Return an attribute as text."""
    if value is None:
        return None
    value = np.ravel(value)[0]
    return value.decode(errors='replace') if isinstance(value, bytes) else str(value)


def _listed_centres(attributes: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    lower = _lower(attributes)
    return [(lower[k], lower.get(f'{k}_units')) for k in _WAVELENGTHS if k in lower]


def _lower(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in attributes.items()}
