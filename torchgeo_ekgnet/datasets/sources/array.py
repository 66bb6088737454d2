# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""NumPy files."""

import zipfile
from pathlib import Path

import numpy as np

from ..._reading import check_memory, reading
from .base import ArraySource, Request, Source, reorder
from .memmap import Layout, MemmapSource
from .variables import axes_of, checked_numbers, pick

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
        array = np.load(path, mmap_mode='r', allow_pickle=False)
        checked_numbers(path, path.stem, array, request.ndim)
        assert isinstance(array, np.memmap)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        layout = Layout(array.dtype, array.offset, array.shape, axes, fortran=fortran)
        return MemmapSource(path, layout)


def _archived(path: Path, request: Request, axes: str) -> Source:
    with zipfile.ZipFile(path) as archive:
        headers = {
            name.removesuffix('.npy'): _header(archive, name)
            for name in archive.namelist()
            if name.endswith('.npy')
        }
    name = pick(path, {key: shape for key, (shape, _) in headers.items()}, request)
    shape, dtype = headers[name]
    if request.check_memory:
        needed = int(np.prod([float(size) for size in shape])) * dtype.itemsize
        check_memory(needed, path, repr(name))
    with np.load(path, allow_pickle=False) as arrays:
        array = checked_numbers(path, name, arrays[name], request.ndim)
    return ArraySource(reorder(array, axes), path)


def _header(
    archive: zipfile.ZipFile, name: str
) -> tuple[tuple[int, ...], 'np.dtype[np.generic]']:
    """Return shape and type of an array without reading it."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        return shape, dtype
