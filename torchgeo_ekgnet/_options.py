# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Checks of arguments that people write: numbers in their range, words that are known."""

import inspect
import math
import operator
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ._wording import shortened


def whole_number(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """Check a count.

    Args:
        name: Name of the argument.
        value: What was given; NumPy's integers are as good as Python's.
        least: Smallest number that is allowed.
        most: Largest number that is allowed.

    Returns:
        The number, of Python's type.

    Raises:
        ValueError: If it is no whole number, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        bounds = f'from {least}' if most is None else f'from {least} to {most}'
        raise ValueError(f'{name} is {value!r}, expected a whole number {bounds}')
    return number


def number_of_workers(value: Any) -> int:
    """Check a number of worker processes: thousands would take all of the memory."""
    return whole_number('num_workers', value, 0, max(64, 4 * (os.cpu_count() or 1)))


def real_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf
) -> float:
    """Check a number that is neither NaN nor infinite.

    Args:
        name: Name of the argument.
        value: What was given.
        least: Smallest number that is allowed.
        most: Largest number that is allowed.

    Returns:
        The number, of Python's type.

    Raises:
        ValueError: If it is no finite number, or out of range.
    """
    try:
        other = isinstance(value, bool | str | bytes)
        number = math.nan if other else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most):
        bounds = [f'{least:g} or more'] * math.isfinite(least)
        bounds += [f'{most:g} or less'] * math.isfinite(most)
        limits = ', '.join(['a finite number', *bounds])
        raise ValueError(f'{name} is {value!r}, expected {limits}')
    return number


def known_word(name: str, value: Any, words: tuple[Any, ...]) -> None:
    """Check a word.

    Args:
        name: Name of the argument.
        value: What was given.
        words: What is allowed.

    Raises:
        ValueError: If the word is not among them.
    """
    if value not in words:
        raise ValueError(f'{name} is {value!r}, expected one of {words}')


def known_arguments(
    name: str, function: Callable[..., Any], given: Mapping[str, Any]
) -> None:
    """Check names of arguments that are handed on.

    Args:
        name: Name of the option that holds them.
        function: Function or class that takes them.
        given: The arguments.

    Raises:
        TypeError: If one is not taken.
    """
    known = inspect.signature(function).parameters
    # A decorator may show arguments in place of one that is taken as well.
    bare = inspect.unwrap(getattr(function, '__init__', function))
    taken = {*known, *inspect.signature(bare).parameters}
    extra = [key for key in given if key not in taken]
    if extra and all(item.kind != item.VAR_KEYWORD for item in known.values()):
        raise TypeError(
            f'{name}: found {", ".join(extra)}, expected options of '
            f'{getattr(function, "__name__", function)}: {", ".join(known)}'
        )


def instance_of(name: str, value: object, *kinds: type[Any]) -> None:
    """Check what does a part of the work, such as a normaliser.

    Args:
        name: Name of the argument.
        value: What was given; None passes.
        kinds: Classes that it may be of.

    Raises:
        TypeError: If it is of none of them, as the arguments of one are.
    """
    if value is not None and not isinstance(value, kinds):
        names = ' or '.join(kind.__name__ for kind in kinds)
        raise TypeError(
            f'{name}: found {shortened(repr(value), 60)}, expected an instance of {names}'
        )


def plain_values(value: Any) -> Any:
    """Turn NumPy's numbers and texts into Python's, at any depth of lists and dicts.

    Files that hold one cannot be read where code in them is refused.
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {plain_values(key): plain_values(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain_values, value))
    return value


def plain_array(name: str, array: object, instead: str) -> None:
    """Refuse an array with a mask, which NumPy drops without a word.

    Args:
        name: What the array is.
        array: What was given.
        instead: What to give, for the error.

    Raises:
        TypeError: If it has a mask, as rasterio's ``read(masked=True)`` gives it.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f'{name}: found a masked array, expected a plain one: {instead}'
        )


def typed_array(name: str, array: object) -> None:
    """Refuse lists and tensors, which have no type of NumPy."""
    if not isinstance(getattr(array, 'dtype', None), np.dtype):
        raise TypeError(
            f'{name}: found {type(array).__name__}, expected an array of NumPy'
        )


def random_seed(value: Any) -> int:
    """Check a seed of NumPy's frozen generator, from 0 to 2**32 - 1."""
    return whole_number('seed', value, 0, 2**32 - 1)
