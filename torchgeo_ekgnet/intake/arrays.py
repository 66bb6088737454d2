# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the variables of an array file are, without reading their values."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.io

ARRAY_SUFFIXES = (
    *('.mat', '.npy', '.npz', '.h5', '.hdf5', '.hdf', '.he5', '.nc', '.nc4'),
)

#: MATLAB's names of types that hold numbers.
_MATLAB_NUMBERS = ('double', 'single', 'logical')


class Variable(NamedTuple):
    """A variable of an array file.

    Attributes:
        name: Its name, None if the file holds a single nameless array.
        shape: Sizes of its axes, in MATLAB's order for MATLAB files.
        whole: Whether its type holds whole numbers only; None if that is unknown.
    """

    name: str | None
    shape: tuple[int, ...]
    whole: bool | None


def list_variables(path: Path) -> list[Variable]:
    """List the numeric variables of a file.

    Args:
        path: MATLAB, NumPy, HDF5 or NetCDF file.

    Returns:
        Its variables.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        if path.suffix.lower() == '.npy':
            array = np.load(path, mmap_mode='r', allow_pickle=False)
            return [Variable(None, array.shape, array.dtype.kind in 'iub')]
        if path.suffix.lower() == '.npz':
            return _npz(path)
        if h5py.is_hdf5(path):
            return _hdf5(path)
        if path.suffix.lower() == '.mat':
            return _matlab(path)
        return _classic_netcdf(path)
    except Exception as error:  # each library raises its own classes
        raise ValueError(
            f'{path}: found no readable {path.suffix} file, expected one: {error}'
        ) from error


def _npz(path: Path) -> list[Variable]:
    """List the arrays of an archive by their headers."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                read: Any = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
            if dtype.kind in 'iufb':
                stem = name.removesuffix('.npy')
                found.append(Variable(stem, shape, dtype.kind in 'iub'))
    return found


def _hdf5(path: Path) -> list[Variable]:
    """List the datasets of an HDF5, NetCDF-4 or MATLAB v7.3 file."""
    found = []
    turned = path.suffix.lower() == '.mat'

    def visit(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith('#'):
            return
        if item.dtype.kind in 'iufb':
            shape = item.shape[::-1] if turned else item.shape
            found.append(Variable(name, shape, item.dtype.kind in 'iub'))

    with h5py.File(path, 'r') as file:
        file.visititems(visit)
    return found


def _matlab(path: Path) -> list[Variable]:
    """List the variables of a MATLAB v5 file."""
    return [
        Variable(name, shape, None if kind in ('double', 'single') else True)
        for name, shape, kind in scipy.io.whosmat(path)
        if kind in _MATLAB_NUMBERS or 'int' in kind
    ]


def _classic_netcdf(path: Path) -> list[Variable]:
    """List the variables of a NetCDF-3 file."""
    with scipy.io.netcdf_file(path, mmap=False) as file:
        return [
            Variable(name, item.data.shape, item.data.dtype.kind in 'iu')
            for name, item in file.variables.items()
            if item.data.dtype.kind in 'iuf'
        ]
