# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Choosing one of the arrays that a file holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError
from .base import Request, check_axes


class VariableError(FileError):
    """A variable is missing, not unique or of the wrong shape."""


def pick(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    request: Request,
    candidates: Mapping[str, tuple[int, ...]] | None = None,
) -> str:
    """Return the name of the array that is meant.

    Args:
        path: The file, for errors.
        shapes: Shape of every array by name; parts of a path are joined by ``/``.
        request: What is wanted; a path may be written with dots too.
        candidates: Arrays to choose from where no name is given, by default all.

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
            raise VariableError(
                f'{path} has no variable {request.variable!r}; it holds: '
                f'{listed or "nothing"}'
            )
        if len(shapes[name]) != ndim:
            raise VariableError(
                f'{path}: {name!r} has shape {tuple(shapes[name])}, expected {ndim} '
                'axes'
            )
        return name
    found = [
        name
        for name, shape in (shapes if candidates is None else candidates).items()
        if len(shape) == ndim and (ndim > 2 or min(shape) > 1)
    ]
    if len(found) != 1:
        problem = 'no array' if not found else f'{len(found)} arrays'
        raise VariableError(
            f'{path} has {problem} with {ndim} axes; it holds: {listed or "nothing"}; '
            'name the variable'
        )
    return found[0]


def checked_numbers(path: Path, name: str, array: Any, ndim: int) -> NDArray[Any]:
    """Return an array if it holds numbers on ``ndim`` axes.

    Raises:
        VariableError: If it does not.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'iufb':
        raise VariableError(f'{path}: {name!r} is not an array of numbers')
    if array.ndim != ndim:
        raise VariableError(
            f'{path}: {name!r} has shape {array.shape}, expected {ndim} axes'
        )
    return array


def axes_of(request: Request, told: str | None = None) -> str:
    """Return the order of the axes: the argument's, the file's, or the usual one.

    Args:
        request: What is wanted.
        told: What the file tells.

    Raises:
        ValueError: If the argument is no order of axes.
    """
    if request.labels:
        return told or 'yx'
    return check_axes(request.axes or told or 'yxb')
