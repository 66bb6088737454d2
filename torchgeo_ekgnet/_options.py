# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Checks of arguments that people write: numbers in their range, words that are known."""

import math
import operator
from typing import Any


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
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
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


def random_seed(value: Any, name: str = 'seed') -> int:
    """Check a seed of NumPy's frozen generator, from 0 to 2**32 - 1."""
    return whole_number(name, value, 0, 2**32 - 1)
