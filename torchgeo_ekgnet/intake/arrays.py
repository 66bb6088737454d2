# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the variables of an array file are, without reading their values."""

from pathlib import Path
from typing import NamedTuple

import h5py
import scipy.io

from .._reading import reading, require_file
from ..datasets.sources import Request, array, hdf5, matlab
from ..datasets.sources.hdf5_file import open_hdf5

ARRAY_SUFFIXES = (*matlab.SUFFIXES, *array.SUFFIXES, *hdf5.SUFFIXES)

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
        Its variables; those of structs and cell arrays by their path.

    Raises:
        FileNotFoundError: If there is no such file.
        FileError: If the file cannot be read.
    """
    path = require_file(path)
    with reading(path, f'a {path.suffix} file'):
        if path.suffix.lower() == '.npy':
            shape, dtype = array.header_of(path)
            return [Variable(None, shape, dtype.kind in 'iub')]
        if path.suffix.lower() == '.npz':
            return [
                Variable(name, shape, dtype.kind in 'iub')
                for name, (shape, dtype) in array.headers(path).items()
                if dtype.kind in 'iufb'
            ]
        if path.suffix.lower() == '.mat' and not h5py.is_hdf5(path):
            return _matlab(path)
        return _hdf5(path)


def prisma_shape(path: Path) -> tuple[int, int, int] | None:
    """Return rows, columns and bands of a PRISMA product, None for other files."""
    if path.suffix.lower() not in hdf5.SUFFIXES or not h5py.is_hdf5(path):
        return None
    source = hdf5.open_product(path, Request())
    return None if source is None else source.shape


def _hdf5(path: Path) -> list[Variable]:
    """List the datasets of an HDF5, NetCDF or MATLAB v7.3 file."""
    turned = path.suffix.lower() == '.mat'
    with open_hdf5(path) as (variables, _):
        return [
            Variable(
                name,
                tuple(item.data.shape[::-1] if turned else item.data.shape),
                item.data.dtype.kind in 'iub',
            )
            for name, item in variables.items()
        ]


def _matlab(path: Path) -> list[Variable]:
    """List the variables of a MATLAB v5 file."""
    matlab.check_elements(path)
    listed = scipy.io.whosmat(path)
    found = [
        Variable(name, shape, None if kind in ('double', 'single') else True)
        for name, shape, kind in listed
        if kind in _MATLAB_NUMBERS or 'int' in kind
    ]
    inner = matlab.nested(
        path, [name for name, _, kind in listed if kind in matlab.NESTS]
    )
    return [
        *found,
        *(
            Variable(name, values.shape, None if values.dtype.kind == 'f' else True)
            for name, values in inner.items()
        ),
    ]
