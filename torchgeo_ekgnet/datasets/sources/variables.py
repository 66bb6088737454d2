# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The arrays that a file holds: which one is meant, and opening it."""

import fnmatch
import glob
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError, check_memory
from .axes import bands_in, in_order, kept_axes, squeezed, trimmed
from .base import ArraySource, Request
from .facts import (
    Variable,
    are_class_names,
    band_facts,
    is_fact,
    named_classes,
    written_facts,
)


class VariableError(FileError):
    """A variable is missing, not unique or of the wrong shape."""


class Listed(NamedTuple):
    """An array of a file before it is read.

    Attributes:
        shape: Its shape.
        nbytes: What reading it takes.
        numeric: Whether it holds numbers.
        whole: Whether its type holds whole numbers only; None if that is unknown.
        axes: Order of its axes, without those of length 1, if the file tells it.
    """

    shape: tuple[int, ...]
    nbytes: int
    numeric: bool = True
    whole: bool | None = None
    axes: str | None = None

    @classmethod
    def of(cls, shape: Sequence[int], dtype: 'np.dtype[Any]') -> 'Listed':
        """List an array of a type of NumPy's."""
        size = dtype.itemsize * math.prod(shape)
        return cls(tuple(shape), size, dtype.kind in 'iufb', dtype.kind in 'iub')


#: Reads what a file holds as text under names that pass a test.
TextsOf = Callable[[Callable[[str], bool]], Mapping[str, Any]]


def open_array(
    path: Path,
    request: Request,
    axes: str,
    arrays: Mapping[str, Listed],
    load: Callable[[str], Any],
    texts_of: TextsOf,
) -> ArraySource:
    """Read the array that is meant, or the maps that are its bands, and what is near it.

    Args:
        path: The file.
        request: What is wanted.
        axes: Order of the array's axes.
        arrays: All arrays of the file by name.
        load: Reads an array by its name.
        texts_of: Reads what the file holds as text under names that pass a test.

    Raises:
        FileError: If the array is not in the file, not unique or no such array.
    """
    shapes = {key: listed.shape for key, listed in arrays.items()}
    maps = series(path, shapes, request)
    names = maps or [pick(path, shapes, request)]
    name = names[0]
    if request.check_memory:
        check_memory(sum(arrays[key].nbytes for key in names), path, repr(name))
    array = np.stack([load(key) for key in maps], axis=2) if maps else load(name)
    array = checked_numbers(path, name, array, request)
    axes = 'yxb' if maps else axes
    bands = bands_in(array.shape, axes)
    texts = dict(texts_of(is_fact if bands else are_class_names))
    texts.pop(name, None)
    near, legend = {}, None
    if bands:
        near = {
            key: Variable(load(key), {})
            for key, listed in arrays.items()
            if key != name and listed.numeric and squeezed(listed.shape) == bands
        }
        near |= written_facts(path, texts)
    else:
        legend = named_classes(path, texts, array)
    facts = band_facts(path, name, near, {}, bands, shapes)
    array = in_order(array, axes, request, str(path))
    return ArraySource(array, path, axes, facts, legend)


def pick(path: Path, shapes: Mapping[str, tuple[int, ...]], request: Request) -> str:
    """Return the name of the array that is meant.

    Args:
        path: The file, for errors.
        shapes: Shape of every array by name; parts of a path are joined by ``/``.
        request: What is wanted; a path may be written with dots too.

    Raises:
        VariableError: If it is not in the file, not unique or no such array.
    """
    listed = ', '.join(f'{name} {tuple(shape)}' for name, shape in shapes.items())
    ndim = request.ndim
    if request.variable is not None:
        name = request.variable.strip('/')
        if name not in shapes:
            name = name.replace('.', '/')
        if name not in shapes:
            inner = [other for other in shapes if other.startswith(f'{name}/')]
            raise VariableError(
                f'{path} has no variable {request.variable!r}; it holds: '
                f'{listed or "nothing"}; '
                + (
                    f'name an array of it, such as {inner[0]!r}'
                    if inner
                    else f'name one of these ({request.named_by}=)'
                    + _objects_hint(path)
                )
            )
        if not _fits(shapes[name], request) and len(_kept(shapes[name], ndim)) != ndim:
            raise VariableError(
                f'{path}: {name!r} has shape {tuple(shapes[name])}, expected {ndim} '
                'axes' + _flat_hint(shapes, request)
            )
        return name
    found = [name for name, shape in shapes.items() if _fits(shape, request)]
    if not found:
        found = [
            name
            for name, shape in shapes.items()
            if len(shape) > ndim and _fits(_kept(shape, ndim), request)
        ]
    if len(found) != 1:
        problem = 'no array' if not found else f'{len(found)} arrays'
        hint = '' if found else _series_hint(shapes, request)
        raise VariableError(
            f'{path} has {problem} with {ndim} axes; it holds: '
            f'{listed or "nothing that is an array of numbers"}; '
            f'name the variable ({request.named_by}=)'
            + (hint or ('' if found else _flat_hint(shapes, request)))
            + ('' if found else _objects_hint(path))
        )
    return found[0]


def _objects_hint(path: Path) -> str:
    """Say what in files of MATLAB is no array."""
    if path.suffix.lower() != '.mat':
        return ''
    return (
        '; strings, tables and categorical arrays of MATLAB are not read: cellstr() and '
        'double() make arrays of them'
    )


def series(
    path: Path, shapes: Mapping[str, tuple[int, ...]], request: Request
) -> list[str]:
    """Return the arrays that a pattern names, one a band, in the order of numbers.

    Raises:
        VariableError: If a pattern matches none, or no maps of one size.
    """
    if request.labels or not glob.has_magic(request.variable or ''):
        return []
    pattern = (request.variable or '').strip('/')
    if pattern in shapes:
        return []
    found = sorted(fnmatch.filter(shapes, pattern), key=natural)
    sizes = {tuple(shapes[name]) for name in found}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2:
        raise VariableError(
            f'{path}: found {len(found)} arrays that {pattern!r} matches, of the shapes '
            f'{sorted(sizes)[:5]}, expected maps of one size, a band each'
        )
    return found


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts B2 before B10."""
    parts = re.split(r'(\d+)', name)
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts]


def _series_hint(shapes: Mapping[str, tuple[int, ...]], request: Request) -> str:
    """Suggest a pattern where maps of one size have numbered names."""
    if request.labels or request.variable is not None:
        return ''
    alike: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, shape in shapes.items():
        stem = re.sub(r'\d+', '*', name)
        if stem != name and len(shape) == 2 and min(shape) > 1:
            alike[stem, tuple(shape)] = alike.get((stem, tuple(shape)), 0) + 1
    if not alike:
        return ''
    (stem, _), count = max(alike.items(), key=lambda item: item[1])
    if count < 2:
        return ''
    return f'; {count} arrays, a band each, open with cube_variable={stem!r}'


def _kept(shape: Sequence[int], ndim: int) -> tuple[int, ...]:
    """Leave out axes of one element that are too many."""
    return tuple(shape[axis] for axis in kept_axes(shape, ndim))


def _fits(shape: tuple[int, ...], request: Request) -> bool:
    """Whether an array may be what is asked for."""
    if request.labels and request.size is not None:
        rows, cols = request.size
        return tuple(shape) == (rows, cols) or squeezed(shape) == rows * cols
    ndim = request.ndim
    return len(shape) == ndim and (ndim > 2 or min(shape) > 1)


def _flat_hint(shapes: Mapping[str, tuple[int, ...]], request: Request) -> str:
    """Say how pixels on one axis are opened, if there seem to be any."""
    flat = any(len(shape) == 2 and min(shape) > 1 for shape in shapes.values())
    if request.labels or '(' in (request.axes or '') or not flat:
        return ''
    return (
        '; a label map has 2 axes: are cube and labels exchanged?'
        " Bands x pixels open with size=[rows, columns] and axes='b(yx)', or 'b(xy)' "
        'where columns follow each other, as in MATLAB'
    )


def checked_numbers(
    path: Path, name: str, array: Any, request: Request
) -> NDArray[Any]:
    """Return an array if it holds numbers, or label texts, without axes of length 1.

    Raises:
        VariableError: If it does not.
    """
    kinds = 'iufbUS' if request.labels else 'iufb'
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise VariableError(
            f'{path}: {name!r} holds {kind}, expected an array of real numbers'
        )
    found = trimmed(array, request.ndim)
    if found.ndim != request.ndim and not _fits(found.shape, request):
        raise VariableError(
            f'{path}: {name!r} has shape {found.shape}, expected {request.ndim} axes'
        )
    return found
