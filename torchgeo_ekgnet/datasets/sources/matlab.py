# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""MATLAB files: v5 here, v7.3 through HDF5."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from ..._reading import check_memory, reading, require_file
from . import hdf5
from .array import DescribedArray
from .axes import axes_of, bands_in, squeezed
from .base import Request, Source
from .variables import Variable, band_facts, checked_numbers, misfit, pick

SUFFIXES = ('.mat',)

#: What MATLAB calls arrays of numbers, and their bytes a value.
_NUMBERS = {
    **dict.fromkeys(('int8', 'uint8', 'logical'), 1),
    **dict.fromkeys(('int16', 'uint16'), 2),
    **dict.fromkeys(('int32', 'uint32', 'single'), 4),
    **dict.fromkeys(('int64', 'uint64', 'double'), 8),
}


def claims(path: Path) -> bool:
    """Tell whether a path names a MATLAB file."""
    return path.suffix.lower() in SUFFIXES


def open_source(path: Path, request: Request) -> Source:
    """Open an array; v5 is read whole, v7.3 by window. Structs are paths.

    Raises:
        FileError: If the file is damaged, or the array is not in it or not unique.
    """
    with reading(path, 'a MATLAB file'):
        if h5py.is_hdf5(path):
            return hdf5.HDF5Source(path, request, matlab=True)
        return _open_v5(path, request)


def _open_v5(path: Path, request: Request) -> Source:
    axes = axes_of(request)
    listed = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
    wanted = request.variable
    plain = {
        name: shape
        for name, (shape, kind) in listed.items()
        if kind in _NUMBERS or (wanted == name and kind != 'struct')
    }
    structs = [name for name, (_, kind) in listed.items() if kind == 'struct']
    inner = {
        name: array
        for struct in structs
        for name, array in _fields(
            struct, scipy.io.loadmat(path, variable_names=[struct])[struct]
        )
    }
    shapes = {**plain, **{name: array.shape for name, array in inner.items()}}
    name = pick(path, shapes, request)

    def load(name: str) -> Any:
        if name in inner:
            return inner[name]
        if request.check_memory:
            shape, kind = listed[name]
            check_memory(
                _NUMBERS.get(kind, 1) * int(np.prod(shape, dtype=object)), path, name
            )
        return scipy.io.loadmat(path, variable_names=[name])[name]

    array = checked_numbers(path, name, load(name), request)
    bands = bands_in(array.shape, axes)
    near = {
        other: Variable(load(other), {})
        for other, shape in shapes.items()
        if bands and other != name and squeezed(shape) == bands
    }
    facts = band_facts(name, near, {}, bands)
    source = DescribedArray(array, path, axes, request, facts)
    source.misfit = misfit(shapes, bands)
    return source


def _fields(path: str, value: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a struct by their path."""
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names is None:
        if value.dtype.kind in 'iufb' and '/' in path:
            yield path, value
        return
    for number, item in enumerate(value.reshape(-1)):
        place = path if value.size == 1 else f'{path}/{number + 1}'
        for field in value.dtype.names:
            yield from _fields(f'{place}/{field}', item[field])


def read_mat(
    path: str | os.PathLike[str], variable: str | None = None, ndim: int = 3
) -> NDArray[Any]:
    """Read one array of a MATLAB file into memory.

    Args:
        path: The file.
        variable: Name of the array, None for the only one with ``ndim`` axes.
        ndim: 3 for a cube, 2 for a label map.

    Returns:
        The array in its stored type.

    Raises:
        FileNotFoundError: If there is no such file.
        FileError: If the file is damaged, or the array is not in it or not unique.
    """
    path = require_file(path, 'MATLAB file')
    values = open_source(path, Request(variable, labels=ndim == 2)).read_all()
    return values[:, :, 0] if ndim == 2 else values
