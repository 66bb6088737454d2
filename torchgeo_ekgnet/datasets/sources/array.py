# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""NumPy files."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError, reading
from .axes import axes_of, in_order
from .base import ArraySource, Request, Source
from .memmap import Layout, MemmapSource
from .variables import Listed, checked_numbers, open_array

SUFFIXES = ('.npy', '.npz')


def claims(path: Path) -> bool:
    """Tell whether a path names a NumPy file."""
    return path.suffix.lower() in SUFFIXES


def open_source(path: Path, request: Request) -> Source:
    """Open an array; an ``.npy`` file is mapped, of an ``.npz`` file one array is read.

    Raises:
        FileError: If the file is damaged, or the array is not in it or not unique.
    """
    axes = axes_of(request)
    with reading(path, 'a NumPy file'):
        if zipfile.is_zipfile(path):
            return _archived(path, request, axes)
        request.expect_no_variable(path)
        shape, dtype = _header_of(path)
        _refuse_objects(str(path), dtype)
        if 0 in shape:
            raise FileError(
                f'{path}: found an empty array of shape {shape}, expected values'
            )
        array = np.load(path, mmap_mode='r', allow_pickle=False)
        array = checked_numbers(path, path.stem, array, request)
        flat = '(' in axes or request.size is not None
        if not isinstance(array, np.memmap) or flat:
            array = in_order(np.asarray(array), axes, request, str(path))
            return ArraySource(array, path, axes)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        layout = Layout(array.dtype, array.offset, array.shape, axes, fortran=fortran)
        source = MemmapSource(path, layout)
        source.axes = axes
        return source


def _archived(path: Path, request: Request, axes: str) -> Source:
    """Open an array of an ``.npz`` file, or several that are a cube."""
    found = _headers(path)
    listed = {name: Listed.of(*header) for name, header in found.items()}
    with np.load(path, allow_pickle=False) as arrays:

        def load(key: str) -> NDArray[Any]:
            _refuse_objects(f'{path}: {key!r}', found[key][1])
            return np.asarray(arrays[key])

        def texts_of(wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
            return {
                key: arrays[key]
                for key, (_, dtype) in found.items()
                if dtype.kind in 'SU' and wanted(key)
            }

        return open_array(path, request, axes, listed, load, texts_of)


def list_arrays(path: Path) -> dict[str, Listed]:
    """List the arrays of a file by name; that of an ``.npy`` file has none.

    Args:
        path: The file.
    """
    if not zipfile.is_zipfile(path):
        return {'': Listed.of(*_header_of(path))}
    return {name: Listed.of(*header) for name, header in _headers(path).items()}


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], 'np.dtype[np.generic]']]:
    """Return shape and type of each array of an ``.npz`` file by name."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith('.npy'):
                with archive.open(name) as file:
                    found[name.removesuffix('.npy')] = _read_header(file)
    return found


def _refuse_objects(where: str, dtype: 'np.dtype[np.generic]') -> None:
    """Refuse pickled objects, which may run code when they are read."""
    if dtype.hasobject:
        raise FileError(
            f'{where}: found Python objects, which are not read, expected an array of '
            'numbers or texts; save it as one'
        )


def _header_of(path: Path) -> tuple[tuple[int, ...], 'np.dtype[np.generic]']:
    """Return shape and type of the array of an ``.npy`` file."""
    with path.open('rb') as file:
        return _read_header(file)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], 'np.dtype[np.generic]']:
    """Return shape and type of an array without reading it."""
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    return shape, dtype
