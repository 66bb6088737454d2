# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What attributes of NetCDF say about stored values: signs, bounds, names."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._reading import FileError
from .facts import text_of

logger = logging.getLogger(__name__)

#: Attributes that bound the valid values, and how many numbers each holds.
_BOUNDS = {'valid_range': 2, 'valid_min': 1, 'valid_max': 1}
#: Attributes that name values.
FLAGS = ('flag_values', 'flag_meanings', 'flag_masks')


class Signs(NamedTuple):
    """The stored type, and the type of the same size that is meant."""

    stored: np.dtype[Any]
    meant: np.dtype[Any]


def meant_type(dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the type that is meant: classic NetCDF has no unsigned integers."""
    told = (text_of(attributes.get('_unsigned')) or '').lower()
    letter = {('i', 'true'): 'u', ('u', 'false'): 'i'}.get((dtype.kind, told))
    if letter is None:
        return dtype
    return np.dtype(f'{letter}{dtype.itemsize}').newbyteorder(dtype.byteorder)


def resigned(value: float, signs: Signs) -> float:
    """Return a number of the stored type in the type that is meant."""
    if signs.stored == signs.meant:
        return value
    bits = 8 * signs.stored.itemsize
    if signs.meant.kind == 'u':
        return value + 2**bits if value < 0 else value
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def bounds(
    path: Path, name: str, attributes: Mapping[str, Any], signs: Signs
) -> tuple[float, float] | None:
    """Return the least and the greatest valid value as they are stored.

    Bounds of the type of the values are of packed values; floats beside packed integers
    are of unpacked ones, as NetCDF's guide says.
    """
    listed = [np.ravel(attributes.get(key, ())) for key in _BOUNDS]
    if not any(len(values) for values in listed):
        return None
    if any(
        len(values) not in (0, size) or values.dtype.kind not in 'iuf'
        for values, size in zip(listed, _BOUNDS.values(), strict=True)
    ):
        logger.warning(
            '%s: %r declares valid values that are no numbers (%s), so they are left out',
            path,
            name,
            ', '.join(key for key in _BOUNDS if key in attributes),
        )
        return None
    factor, shift = (
        float(np.ravel(attributes.get(key, usual))[0])
        for key, usual in (('scale_factor', 1), ('add_offset', 0))
    )
    found = [-np.inf, np.inf]
    for places, values in zip(((0, 1), (0,), (1,)), listed, strict=True):
        for place, value in zip(places, values.tolist(), strict=False):
            if not math.isfinite(value):
                continue
            unpacked = values.dtype.kind == 'f' and signs.stored.kind != 'f'
            found[place] = (
                round((value - shift) / factor) if unpacked else resigned(value, signs)
            )
    low, high = sorted(found)
    return low, high


def flags(path: Path, attributes: Mapping[str, Any], signs: Signs) -> dict[int, str]:
    """Return the names of label values that CF's ``flag_meanings`` give.

    Raises:
        FileError: If there are more or fewer names than values.
    """
    meanings = (text_of(attributes.get('flag_meanings')) or '').split()
    values = np.ravel(attributes.get('flag_values', ()))
    if not meanings or 'flag_masks' in attributes or values.dtype.kind not in 'iu':
        return {}
    if len(values) != len(meanings):
        raise FileError(
            f'{path}: found {len(values)} flag_values and {len(meanings)} flag_meanings, '
            'expected a name a value; give class_names='
        )
    numbers = [int(resigned(value, signs)) for value in values.tolist()]
    return dict(zip(numbers, meanings, strict=True))
