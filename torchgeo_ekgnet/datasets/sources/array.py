# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""NumPy files."""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError, check_memory, reading
from ..labels import LabelLegend
from .axes import axes_of, bands_in, in_order, squeezed
from .base import ArraySource, Request, Source
from .memmap import Layout, MemmapSource
from .variables import (
    BandFacts,
    Variable,
    are_class_names,
    band_facts,
    checked_numbers,
    is_fact,
    misfit,
    named_classes,
    pick,
    series,
    written_facts,
)

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
        shape, dtype = header_of(path)
        _refuse_objects(str(path), dtype)
        if 0 in shape:
            raise FileError(
                f'{path}: found an empty array of shape {shape}, expected values'
            )
        array = np.load(path, mmap_mode='r', allow_pickle=False)
        array = checked_numbers(path, path.stem, array, request)
        flat = '(' in axes or request.size is not None
        if not isinstance(array, np.memmap) or flat:
            return DescribedArray(np.asarray(array), path, axes, request)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        layout = Layout(array.dtype, array.offset, array.shape, axes, fortran=fortran)
        source = MemmapSource(path, layout)
        source.axes = axes
        return source


class DescribedArray(ArraySource):
    """An array in memory with what its file says about its bands.

    Args:
        array: The array as stored.
        path: The file.
        axes: Order of its axes.
        request: What is wanted.
        facts: What the file says about the bands.
        legend: What it says about the classes.
    """

    def __init__(
        self,
        array: NDArray[Any],
        path: Path,
        axes: str,
        request: Request,
        facts: BandFacts | None = None,
        legend: LabelLegend | None = None,
    ) -> None:
        """Initialize a new DescribedArray instance."""
        super().__init__(in_order(array, axes, request, str(path)), path, axes)
        self._facts = facts or BandFacts()
        self._legend = legend

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm."""
        return self._facts.wavelengths(unit, self.where)

    def bad_bands(self) -> NDArray[np.bool_] | None:
        """Return True for the bands that the file marks as bad."""
        return self._facts.bad

    def legend(self) -> LabelLegend | None:
        """Return the names of classes."""
        return self._legend


def _archived(path: Path, request: Request, axes: str) -> Source:
    """Open an array of an ``.npz`` file, or several that are a cube."""
    listed = headers(path)
    shapes = {key: shape for key, (shape, _) in listed.items()}
    names = series(path, shapes, request)
    name = names[0] if names else pick(path, shapes, request)
    _refuse_objects(f'{path}: {name!r}', listed[name][1])
    if request.check_memory:
        needed = sum(
            listed[key][1].itemsize * math.prod(shapes[key]) for key in names or [name]
        )
        check_memory(needed, path, repr(name))
    with np.load(path, allow_pickle=False) as arrays:
        array = (
            np.stack([arrays[key] for key in names], axis=2) if names else arrays[name]
        )
        array = checked_numbers(path, name, array, request)
        axes = 'yxb' if names else axes
        bands = bands_in(array.shape, axes)
        near = {
            key: Variable(arrays[key], {})
            for key, (other, kind) in listed.items()
            if bands and squeezed(other) == bands and kind.kind in 'iufb'
        }
        texts = {
            key: arrays[key]
            for key, (_, kind) in listed.items()
            if kind.kind in 'SU'
            and key != name
            and (is_fact(key) if bands else are_class_names(key))
        }
        near |= written_facts(path, texts) if bands else {}
    facts = band_facts(path, name, near, {}, bands)
    legend = None if bands else named_classes(path, texts, array)
    source = DescribedArray(array, path, axes, request, facts, legend)
    source.misfit = misfit(shapes, bands)
    return source


def headers(path: Path) -> dict[str, tuple[tuple[int, ...], 'np.dtype[np.generic]']]:
    """Return shape and type of each array of an ``.npz`` file by name.

    Args:
        path: The file.
    """
    with zipfile.ZipFile(path) as archive:
        return {
            name.removesuffix('.npy'): _header(archive, name)
            for name in archive.namelist()
            if name.endswith('.npy')
        }


def _refuse_objects(where: str, dtype: 'np.dtype[np.generic]') -> None:
    """Refuse pickled objects, which may run code when they are read."""
    if dtype.hasobject:
        raise FileError(
            f'{where}: found Python objects, which are not read, expected an array of '
            'numbers or texts; save it as one'
        )


def _header(
    archive: zipfile.ZipFile, name: str
) -> tuple[tuple[int, ...], 'np.dtype[np.generic]']:
    """Read shape and type of an array in an archive."""
    with archive.open(name) as file:
        return _read_header(file)


def header_of(path: Path) -> tuple[tuple[int, ...], 'np.dtype[np.generic]']:
    """Return shape and type of the array of an ``.npy`` file.

    Args:
        path: The file.
    """
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
