# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""MATLAB files: v5 here, v7.3 through HDF5."""

import os
from pathlib import Path
from typing import Any

import h5py
import scipy.io
from numpy.typing import NDArray

from ..._reading import reading, require_file
from . import hdf5
from .base import ArraySource, Request, Source, reorder
from .variables import axes_of, checked_numbers, pick

SUFFIXES = ('.mat',)


def claims(path: Path) -> bool:
    """Tell whether a path names a MATLAB file."""
    return path.suffix.lower() in SUFFIXES


def open_source(path: Path, request: Request) -> Source:
    """Open an array; v5 is read whole, v7.3 by window.

    Raises:
        FileError: If the file is damaged, or the array is not in it or not unique.
    """
    with reading(path, 'a MATLAB file'):
        if h5py.is_hdf5(path):
            return hdf5.HDF5Source(path, request, matlab=True)
        axes = axes_of(request)
        return ArraySource(reorder(_read(path, request), axes), path)


def _read(path: Path, request: Request) -> NDArray[Any]:
    listed = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    name = pick(path, listed, request)
    array = scipy.io.loadmat(path, variable_names=[name])[name]
    return checked_numbers(path, name, array, request.ndim)


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
