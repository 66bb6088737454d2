# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""MATLAB files: v5 here, v7.3 through HDF5."""

import inspect
import io
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

from ..._reading import FileError, reading, require_file
from . import hdf5
from .axes import axes_of
from .base import Request, Source
from .variables import Listed, TextsOf, open_array

SUFFIXES = ('.mat',)

Order = Literal['little', 'big']

#: What MATLAB calls arrays of numbers, and their bytes a value.
_NUMBERS = {
    **dict.fromkeys(('int8', 'uint8', 'logical'), 1),
    **dict.fromkeys(('int16', 'uint16'), 2),
    **dict.fromkeys(('int32', 'uint32', 'single'), 4),
    **dict.fromkeys(('int64', 'uint64', 'double'), 8),
}

#: What it calls variables that hold others.
_NESTS = ('struct', 'cell')

#: Sparse matrices as arrays, where SciPy can be asked (1.17 and newer).
_SPARSE: dict[str, Any] = (
    {'spmatrix': False}
    if 'spmatrix' in inspect.signature(scipy.io.loadmat).parameters
    else {}
)

#: Types of elements of v5 files: numbers, text, a matrix, a compressed matrix.
_MATRIX, _COMPRESSED = 14, 15
_ELEMENTS = frozenset((*range(1, 8), 9, *range(12, 19)))

#: Bytes of a compressed matrix whose elements are looked at; its values have a sum.
_LOOKED_AT = 1 << 16

#: The class of matrices that are objects.
_OBJECT = 17

#: Bytes before the first element, and the deepest nesting that is looked at.
_HEADER, _DEPTH = 128, 20


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
            return hdf5.open_arrays(path, request, matlab=True)
        return _open_v5(path, request)


def list_arrays(path: Path) -> dict[str, Listed]:
    """List the arrays of numbers by name, those of structs and cell arrays by their path.

    Args:
        path: The file.
    """
    if h5py.is_hdf5(path):
        return hdf5.list_arrays(path, matlab=True)
    return _look_into(path)[0]


def _look_into(
    path: Path,
) -> tuple[dict[str, Listed], dict[str, NDArray[Any]], TextsOf]:
    """List the arrays of a v5 file, and give those that are nested, and its texts."""
    check_elements(path)
    found = _found(path)
    kinds = {name: kind for name, _, kind in found}
    nests = {name: _loaded(path, name) for name in kinds if kinds[name] in _NESTS}
    inner = {
        place: array
        for name, value in nests.items()
        for place, array in _fields(name, value)
    }
    listed = {
        name: Listed(
            shape,
            _NUMBERS.get(kind, 1) * int(np.prod(shape, dtype=object)),
            kind in (*_NUMBERS, 'sparse'),
            # Programs keep whole numbers as doubles, too.
            None if kind in ('double', 'single', 'sparse') else True,
        )
        for name, shape, kind in found
        if kind not in _NESTS
    }
    listed |= {
        name: Listed(array.shape, 0, whole=None if array.dtype.kind == 'f' else True)
        for name, array in inner.items()
    }

    def texts_of(wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
        words = [name for name in kinds if kinds[name] == 'char' and wanted(name)]
        return _texts(nests | {name: _loaded(path, name) for name in words}, wanted)

    return listed, inner, texts_of


def _open_v5(path: Path, request: Request) -> Source:
    """Open an array of a MATLAB file before version 7.3."""
    axes = axes_of(request)
    every, inner, texts_of = _look_into(path)
    # What is named is looked at, whatever it holds.
    listed = {n: a for n, a in every.items() if a.numeric or n == request.variable}

    def load(name: str) -> Any:
        if name in inner:
            return inner[name]
        value = _loaded(path, name)
        return value.toarray() if scipy.sparse.issparse(value) else value

    return open_array(path, request, axes, listed, load, texts_of)


def _loaded(path: Path, name: str) -> Any:
    """Read a variable."""
    return scipy.io.loadmat(path, variable_names=[name], **_SPARSE)[name]


def _texts(
    variables: Mapping[str, Any], wanted: Callable[[str], bool]
) -> dict[str, NDArray[Any]]:
    """Find what variables of wanted names tell as text: characters, or cells of them."""
    found: dict[str, NDArray[Any]] = {}

    def look(place: str, value: Any) -> None:
        if not isinstance(value, np.ndarray):
            return
        if value.dtype.names is not None and value.size == 1:
            for field in value.dtype.names:
                look(f'{place}/{field}', value.reshape(-1)[0][field])
        elif wanted(place):
            items = value.ravel() if value.dtype.hasobject else [value]
            if all(isinstance(i, np.ndarray) and i.dtype.kind == 'U' for i in items):
                found[place] = np.concatenate([item.ravel() for item in items])

    for name, value in variables.items():
        look(name, value)
    return found


def _found(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """List name, shape and kind of the variables of a file, objects left out.

    SciPy lists nothing where one is an object: a text in double quotes, a table or
    a categorical array.
    """
    try:
        found = scipy.io.whosmat(path)
    except TypeError:
        content = path.read_bytes()
        order = _order_of(content)
        kept = [
            whole
            for kind, body, whole in _elements(
                path, memoryview(content)[_HEADER:], order
            )
            if _class_of(kind, body, order) != _OBJECT
        ]
        found = scipy.io.whosmat(io.BytesIO(content[:_HEADER] + b''.join(kept)))
    return [item for item in found if not item[0].startswith('__')]


def check_elements(path: Path) -> None:
    """Refuse a v5 file with elements of unknown types, which end SciPy's process.

    Args:
        path: The file.

    Raises:
        FileError: If there is one.
    """
    with path.open('rb') as file:
        header = file.read(_HEADER)
        # Files of version 4 have no such header.
        if header[126:] not in (b'IM', b'MI') or not file.read(1):
            return
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _check_elements(path, memoryview(content)[_HEADER:], _order_of(header))


def _order_of(header: bytes) -> Order:
    """Return the order of bytes of a file."""
    return 'little' if header[126:_HEADER] == b'IM' else 'big'


def _check_elements(
    path: Path, content: memoryview, order: Order, depth: int = 0
) -> None:
    """Look at the tags of elements, and into matrices."""
    if depth == _DEPTH:
        return
    for kind, body, _ in _elements(path, content, order):
        if kind == _MATRIX:
            _check_elements(path, body, order, depth + 1)
        elif kind == _COMPRESSED:
            _check_elements(path, _start_of(body), order, depth + 1)


def _elements(
    path: Path, content: memoryview, order: Order
) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield type, content and whole of each element."""
    at = 0
    while at + 8 <= len(content):
        kind = int.from_bytes(content[at : at + 4], order)
        size, body = int.from_bytes(content[at + 4 : at + 8], order), at + 8
        if kind >> 16:
            # A small element: its size, its type and up to 4 bytes.
            kind, size, body = kind & 0xFFFF, 4, at + 4
        if kind not in _ELEMENTS:
            raise FileError(
                f'{path} is damaged: found an element of type {kind} at byte '
                f'{at} of a matrix, expected a type of MATLAB 5; export it again'
            )
        padded = size if kind == _COMPRESSED else -(-size // 8) * 8
        end = body + (4 if body == at + 4 else padded)
        yield kind, content[body : body + size], content[at:end]
        at = end


def _start_of(body: memoryview) -> memoryview:
    """Return the first bytes of a compressed matrix."""
    return memoryview(zlib.decompressobj().decompress(body, _LOOKED_AT))


def _class_of(kind: int, body: memoryview, order: Order) -> int:
    """Return the class of a matrix, which is the first of its flags."""
    flags = _start_of(body)[16:20] if kind == _COMPRESSED else body[8:12]
    return int.from_bytes(flags, order) & 0xFF


def _fields(path: str, value: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a struct or cell array by their path."""
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names is None:
        if value.dtype.kind in 'iufb' and '/' in path:
            yield path, value
        elif value.dtype.hasobject:
            for number, item in enumerate(value.reshape(-1), start=1):
                yield from _fields(f'{path}/{number}', item)
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
