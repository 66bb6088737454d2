# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the variables of an array file are, without reading their values."""

from pathlib import Path
from typing import NamedTuple

import h5py

from .._reading import reading, require_file
from ..datasets.sources import Request, array, hdf5, matlab

ARRAY_SUFFIXES = (*matlab.SUFFIXES, *array.SUFFIXES, *hdf5.SUFFIXES)


class Variable(NamedTuple):
    """A variable of an array file.

    Attributes:
        name: Its name, None if the file holds a single nameless array.
        shape: Sizes of its axes, in MATLAB's order for MATLAB files.
        whole: Whether its type holds whole numbers only; None if that is unknown.
        axes: Order of its axes, without those of length 1, if the file tells it.
    """

    name: str | None
    shape: tuple[int, ...]
    whole: bool | None
    axes: str | None = None


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
        kind = next(kind for kind in (matlab, array, hdf5) if kind.claims(path))
        return [
            Variable(name or None, item.shape, item.whole, item.axes)
            for name, item in kind.list_arrays(path).items()
            if item.numeric
        ]


def prisma_shape(path: Path) -> tuple[int, int, int] | None:
    """Return rows, columns and bands of a PRISMA product, None for other files."""
    if not hdf5.claims(path) or not h5py.is_hdf5(path):
        return None
    source = hdf5.open_product(path, Request())
    return None if source is None else source.shape
