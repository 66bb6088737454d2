# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The arrays that a file holds: which one is meant, and which describe its bands."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError
from ..units import nanometres
from .axes import squeezed
from .base import Request

#: What files call the band centres, lower case.
WAVELENGTHS = (
    'wavelength',
    'wavelengths',
    'center_wavelength',
    'center_wavelengths',
    'band_centers',
    'wvl',
    'wl',
)
#: What they call marks of good and of bad bands.
_GOOD = ('good_wavelengths', 'good_bands', 'bbl')
_BAD = ('bad_bands', 'badbands', 'bad_band_list')


class VariableError(FileError):
    """A variable is missing, not unique or of the wrong shape."""


class Variable(NamedTuple):
    """An array, or what reads it by ``[...]``, and its attributes."""

    data: Any
    attributes: Mapping[str, Any]


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
                f'{listed or "nothing"}'
                + (f'; name an array of it, such as {inner[0]!r}' if inner else '')
            )
        if not _fits(shapes[name], request) and len(shapes[name]) != ndim:
            raise VariableError(
                f'{path}: {name!r} has shape {tuple(shapes[name])}, expected {ndim} '
                'axes' + _flat_hint(shapes, request)
            )
        return name
    found = [name for name, shape in shapes.items() if _fits(shape, request)]
    if len(found) != 1:
        problem = 'no array' if not found else f'{len(found)} arrays'
        argument = 'labels_variable' if request.labels else 'cube_variable'
        raise VariableError(
            f'{path} has {problem} with {ndim} axes; it holds: {listed or "nothing"}; '
            f'name the variable ({argument}=)' + _flat_hint(shapes, request)
        )
    return found[0]


def _fits(shape: tuple[int, ...], request: Request) -> bool:
    if request.labels and request.size is not None:
        rows, cols = request.size
        return tuple(shape) == (rows, cols) or squeezed(shape) == rows * cols
    ndim = request.ndim
    return len(shape) == ndim and (ndim > 2 or min(shape) > 1)


def _flat_hint(shapes: Mapping[str, tuple[int, ...]], request: Request) -> str:
    flat = any(len(shape) == 2 and min(shape) > 1 for shape in shapes.values())
    if request.labels or request.size is not None or not flat:
        return ''
    return (
        "; bands x pixels open with size=[rows, columns] and axes='b(yx)', or 'b(xy)' "
        'where columns follow each other, as in MATLAB'
    )


def checked_numbers(
    path: Path, name: str, array: Any, request: Request
) -> NDArray[Any]:
    """Return an array if it holds numbers, or label texts.

    Raises:
        VariableError: If it does not.
    """
    kinds = 'iufbUS' if request.labels else 'iufb'
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        raise VariableError(f'{path}: {name!r} is not an array of numbers')
    if array.ndim != request.ndim and not _fits(array.shape, request):
        raise VariableError(
            f'{path}: {name!r} has shape {array.shape}, expected {request.ndim} axes'
        )
    return array


class BandFacts(NamedTuple):
    """What a file says about the bands of a cube, in its own units."""

    centres: NDArray[np.float64] | None = None
    unit: str | None = None
    bad: NDArray[np.bool_] | None = None

    def wavelengths(self, unit: str | None, where: str) -> NDArray[np.float64] | None:
        """Return the band centres in nm."""
        if self.centres is None:
            return None
        return nanometres(self.centres, unit or self.unit, where)


def band_facts(
    cube: str,
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any],
    bands: int,
) -> BandFacts:
    """Find band centres and marks of bad bands.

    They are attributes of the cube, variables, or attributes of the file, with one
    value a band.

    Args:
        cube: Name of the cube.
        variables: The arrays of the file.
        attributes: Attributes of the file.
        bands: Bands of the cube.
    """
    own = lower(variables[cube].attributes) if cube in variables else {}
    of_file = lower(attributes)

    def candidates(names: tuple[str, ...]) -> Iterable[tuple[str, Any, Any]]:
        for name in names:
            if name in own:
                yield name, own[name], own.get(f'{name}_units')
        # Of several variables the one that shares most of the cube's path is its own.
        near = sorted(
            (name for name in variables if name.split('/')[-1].lower() in names),
            key=lambda name: -len(os.path.commonpath([name, cube])),
        )
        for name in near:
            item = variables[name]
            yield name, item.data, lower(item.attributes).get('units')
        for name in names:
            if name in of_file:
                yield name, of_file[name], of_file.get(f'{name}_units')

    centres, unit, bad = None, None, None
    for _, values, told in candidates(WAVELENGTHS):
        numbers = _per_band(values, bands)
        if numbers is not None:
            centres, unit = numbers, text_of(told)
            break
    for name, values, _ in candidates((*_GOOD, *_BAD)):
        numbers = _per_band(values, bands)
        if numbers is not None and np.isin(numbers, (0, 1)).all():
            good = name.split('/')[-1].lower() in _GOOD
            bad = np.asarray((numbers == 0) == good)
            break
    return BandFacts(centres, unit, bad)


def misfit(shapes: Mapping[str, tuple[int, ...]], bands: int) -> int | None:
    """Return the length of a list of wavelengths that is not one a band, else None."""
    lengths = [
        squeezed(shape)
        for name, shape in shapes.items()
        if name.split('/')[-1].lower() in WAVELENGTHS
    ]
    if bands in lengths:
        return None
    return next(
        (length for length in lengths if length is not None and length > 1), None
    )


def _per_band(values: Any, bands: int) -> NDArray[np.float64] | None:
    """Return a list of one number a band, also of shape N x 1, as MATLAB writes it."""
    if squeezed(np.shape(values)) != bands:
        return None
    array = np.asarray(values[()] if hasattr(values, 'dtype') else values)
    if array.dtype.kind not in 'iufb':
        return None
    return array.astype(np.float64).reshape(-1)


def text_of(value: Any) -> str | None:
    """Return an attribute as text."""
    if value is None or not np.size(value):
        return None
    value = np.ravel(value)[0]
    return value.decode(errors='replace') if isinstance(value, bytes) else str(value)


def lower(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with keys in lower case."""
    return {key.lower(): value for key, value in attributes.items()}
