# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""ENVI files: the text header and the binary cube."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .readers import MemmapSource, require_file

#: Endings of binary files that an ENVI header describes.
ENVI_SUFFIXES = ('.hdr', '.dat', '.img', '.raw', '.bsq', '.bil', '.bip', '.bin', '')

_TYPES = {
    1: 'u1',
    2: 'i2',
    3: 'i4',
    4: 'f4',
    5: 'f8',
    12: 'u2',
    13: 'u4',
    14: 'i8',
    15: 'u8',
}
#: Order of the axes in the file, slowest first, by interleave.
_AXES = {'bsq': 'byx', 'bil': 'ybx', 'bip': 'yxb'}
_UNITS = {
    'nanometers': 1.0,
    'nanometer': 1.0,
    'nanometres': 1.0,
    'nm': 1.0,
    'micrometers': 1000.0,
    'micrometer': 1000.0,
    'micrometres': 1000.0,
    'microns': 1000.0,
    'um': 1000.0,
    'µm': 1000.0,
}


def unit_factor(unit: str | None, where: str) -> float | None:
    """Return what turns a unit of length into nm.

    Args:
        unit: Name of the unit.
        where: Name of the file or argument for the error.

    Returns:
        The factor, None if no unit is named (ENVI writes "Unknown").

    Raises:
        ValueError: If the unit is not known.
    """
    if unit is None or unit.strip().lower() in ('', 'unknown'):
        return None
    factor = _UNITS.get(unit.strip().lower())
    if factor is None:
        raise ValueError(
            f'{where}: wavelength unit {unit!r} is not known; expected nm '
            '(nanometers) or um (micrometers)'
        )
    return factor


@dataclass(frozen=True)
class EnviHeader:
    """What an ENVI header says about its cube.

    Args:
        path: The header.
        data: The binary file.
        rows: Lines.
        cols: Samples.
        bands: Bands.
        dtype: Type of a value, byte order included.
        axes: Order of the axes in the file, slowest first: ``byx``, ``ybx`` or ``yxb``.
        offset: Bytes before the first value.
        wavelengths: Band centres in nm, None if the header has none.
        bad_bands: True for bands that ``bbl`` marks as bad, None without ``bbl``.
        nodata: The data ignore value.
        band_names: Names of the bands.
    """

    path: Path
    data: Path
    rows: int
    cols: int
    bands: int
    dtype: np.dtype[Any]
    axes: str
    offset: int
    wavelengths: NDArray[np.float64] | None
    bad_bands: NDArray[np.bool_] | None
    nodata: float | None
    band_names: tuple[str, ...]


def find_envi(path: str | os.PathLike[str]) -> tuple[Path, Path] | None:
    """Find header and binary file from either of them.

    Args:
        path: The header or the binary file.

    Returns:
        Header and binary file, None if this is no pair of ENVI files.
    """
    path = Path(path)
    if path.suffix.lower() not in ENVI_SUFFIXES:
        return None
    if path.suffix.lower() == '.hdr':
        if not path.is_file():
            return None
        stem = path.with_suffix('')
        candidates = [stem]
        for suffix in ENVI_SUFFIXES[1:-1]:
            candidates += [
                stem.with_name(stem.name + suffix),
                stem.with_name(stem.name + suffix.upper()),
            ]
        data = next((file for file in candidates if file.is_file()), None)
        return None if data is None else (path, data)
    for header in (path.with_name(path.name + '.hdr'), path.with_suffix('.hdr')):
        if header.is_file() and path.is_file():
            return header, path
    return None


def read_envi_header(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    wavelength_unit: str | None = None,
) -> EnviHeader:
    """Read an ENVI header and check the binary file against it.

    Args:
        path: The header.
        data: The binary file; found beside the header if None.
        wavelength_unit: Unit of the wavelengths, ``'nm'`` or ``'um'``; overrules the
            header.

    Returns:
        The description of the cube.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the header is not ENVI's, lacks an entry, has one that cannot be
            read, or promises more bytes than the binary file has.
    """
    path = require_file(path, 'ENVI header')
    if data is None:
        pair = find_envi(path)
        if pair is None:
            raise FileNotFoundError(
                f'ENVI header {path} has no binary file beside it (tried its name with '
                f'the endings {", ".join(ENVI_SUFFIXES[1:-1])} and none)'
            )
        data = pair[1]
    data = require_file(data, 'ENVI binary file')
    entries = _entries(path)
    rows, cols, bands = (
        _integer(path, entries, key) for key in ('lines', 'samples', 'bands')
    )
    if min(rows, cols, bands) < 1:
        raise ValueError(
            f'{path}: lines, samples and bands are {rows}, {cols}, {bands}; expected '
            'positive numbers'
        )
    code = _integer(path, entries, 'data type')
    if code not in _TYPES:
        raise ValueError(
            f'{path}: data type {code} is not supported; expected one of '
            f'{sorted(_TYPES)} (no complex numbers)'
        )
    interleave = entries.get('interleave', '').lower()
    if interleave not in _AXES:
        raise ValueError(
            f'{path}: interleave is {interleave or "missing"!r}, expected one of '
            f'{sorted(_AXES)}'
        )
    if entries.get('file compression', '0').strip() not in ('', '0'):
        raise ValueError(f'{path}: the cube is compressed; save it uncompressed')
    order = _integer(path, entries, 'byte order', 0)
    dtype = np.dtype(('>' if order else '<') + _TYPES[code])
    offset = _integer(path, entries, 'header offset', 0)
    expected = offset + rows * cols * bands * dtype.itemsize
    found = data.stat().st_size
    if found < expected:
        raise ValueError(
            f'{data} is too short for its header: {found} bytes, but {rows} lines x '
            f'{cols} samples x {bands} bands of {dtype.name} after {offset} bytes need '
            f'{expected}'
        )
    return EnviHeader(
        path=path,
        data=data,
        rows=rows,
        cols=cols,
        bands=bands,
        dtype=dtype,
        axes=_AXES[interleave],
        offset=offset,
        wavelengths=_wavelengths(path, entries, bands, wavelength_unit),
        bad_bands=_bad_bands(path, entries, bands),
        nodata=_number(path, entries, 'data ignore value'),
        band_names=tuple(_list(entries.get('band names', ''))),
    )


def envi_source(header: EnviHeader) -> MemmapSource:
    """Map the cube of an ENVI file.

    Args:
        header: The description of the cube.

    Returns:
        The cube, read by window.
    """
    sizes = {'y': header.rows, 'x': header.cols, 'b': header.bands}
    shape = tuple(sizes[axis] for axis in header.axes)
    return MemmapSource(header.data, header.dtype, header.offset, shape, header.axes)


def _entries(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    lines = text.lstrip('\ufeff').splitlines()
    if not lines or lines[0].strip() != 'ENVI':
        first = lines[0][:40] if lines else ''
        raise ValueError(
            f"{path} is not an ENVI header: its first line is {first!r}, not 'ENVI'"
        )
    entries: dict[str, str] = {}
    remaining = iter(lines[1:])
    for line in remaining:
        key, equals, value = line.partition('=')
        if not equals or line.lstrip().startswith(';'):
            continue
        value = value.strip()
        if value.startswith('{'):
            parts = [value]
            while '}' not in parts[-1]:
                following = next(remaining, None)
                if following is None:
                    raise ValueError(
                        f'{path}: the list of {key.strip()!r} has no closing brace'
                    )
                parts.append(following)
            value = ' '.join(parts).strip()
        entries[re.sub(r'\s+', ' ', key.strip().lower())] = value
    return entries


def _list(value: str) -> list[str]:
    inner = value.strip().removeprefix('{').split('}')[0]
    return [item.strip() for item in inner.split(',') if item.strip()]


def _integer(
    path: Path, entries: dict[str, str], key: str, default: int | None = None
) -> int:
    value = entries.get(key)
    if value is None:
        if default is None:
            raise ValueError(f'{path} has no entry {key!r}')
        return default
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f'{path}: {key!r} is {value!r}, expected a whole number'
        ) from None


def _number(path: Path, entries: dict[str, str], key: str) -> float | None:
    value = entries.get(key)
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        raise ValueError(f'{path}: {key!r} is {value!r}, expected a number') from None


def _numbers(path: Path, key: str, value: str, bands: int) -> NDArray[np.float64]:
    items = _list(value)
    try:
        numbers = np.array([float(item) for item in items])
    except ValueError:
        raise ValueError(f'{path}: {key!r} holds something that is no number') from None
    if len(numbers) != bands:
        raise ValueError(f'{path}: {key!r} has {len(numbers)} values for {bands} bands')
    return numbers


def _wavelengths(
    path: Path, entries: dict[str, str], bands: int, unit: str | None
) -> NDArray[np.float64] | None:
    if 'wavelength' not in entries:
        return None
    centres = _numbers(path, 'wavelength', entries['wavelength'], bands)
    factor = unit_factor(unit or entries.get('wavelength units'), str(path))
    if factor is None:
        if centres.max() < 100:
            raise ValueError(
                f'{path}: wavelengths run from {centres.min():g} to {centres.max():g} '
                'and the header names no unit; they look like micrometres: give '
                "wavelength_unit='um' (or 'nm')"
            )
        factor = 1.0
    return np.round(centres * factor, 6)


def _bad_bands(
    path: Path, entries: dict[str, str], bands: int
) -> NDArray[np.bool_] | None:
    if 'bbl' not in entries:
        return None
    return np.asarray(_numbers(path, 'bbl', entries['bbl'], bands) == 0)
