# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""ENVI files: the text header and the binary cube."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .readers import ARRAY_SUFFIXES, VECTOR_SUFFIXES, MemmapSource, require_file

logger = logging.getLogger(__name__)

#: Usual endings of the binary file, the most likely first; any other one is taken too.
_USUAL = ('.dat', '.img', '.raw', '.bsq', '.bil', '.bip', '.bin')
#: Endings of files that may lie beside a header and are not its binary file.
_OTHER = (
    *ARRAY_SUFFIXES,
    *VECTOR_SUFFIXES,
    *('.hdr', '.enp', '.sta', '.gsw', '.roi', '.prj', '.shx', '.dbf', '.cpg', '.qpj'),
    *('.tif', '.tiff', '.jp2', '.vrt', '.png', '.jpg', '.jpeg', '.bmp', '.pdf', '.ovr'),
    *('.txt', '.csv', '.xml', '.yaml', '.yml', '.md', '.log', '.qml', '.zip', '.gz'),
)

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
    'nanometre': 1.0,
    'nm': 1.0,
    'micrometers': 1000.0,
    'micrometer': 1000.0,
    'micrometres': 1000.0,
    'micrometre': 1000.0,
    'microns': 1000.0,
    'micron': 1000.0,
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
        Header and binary file, None if the path is no header and has none beside it.

    Raises:
        FileNotFoundError: If the header, or its binary file, does not exist.
        ValueError: If the header is not ENVI's, or several files may be the binary.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == '.hdr':
        header = require_file(path, 'ENVI header')
        _check_first_line(header)
        return header, _find_binary(header)
    if suffix in _OTHER or not path.is_file():
        return None
    for header in (path.with_name(path.name + '.hdr'), path.with_suffix('.hdr')):
        # ESRI describes its .bil, .bip and .bsq in files of the same ending.
        if header.is_file() and _first_line(header) == 'ENVI':
            return header, path
    return None


def _find_binary(header: Path) -> Path:
    stem = header.with_suffix('')
    usual = [stem]
    for suffix in _USUAL:
        usual += [stem.with_name(stem.name + end) for end in (suffix, suffix.upper())]
    found = [file for file in usual if file.is_file()][:1] or [
        file
        for file in sorted(header.parent.iterdir())
        if file.with_suffix('') == stem
        and file.suffix.lower() not in _OTHER
        and file.is_file()
    ]
    if not found:
        raise FileNotFoundError(
            f'ENVI header {header} has no binary file beside it: no file of its name '
            f'with none or another ending, such as {", ".join(_USUAL)}'
        )
    if len(found) > 1:
        raise ValueError(
            f'ENVI header {header} has several files beside it that may be its binary '
            f'file ({", ".join(file.name for file in found)}); name the binary file'
        )
    return found[0]


def _first_line(header: Path) -> str:
    try:
        with header.open(encoding='utf-8-sig', errors='replace') as file:
            return file.readline(80).strip()
    except OSError as error:
        raise ValueError(f'{header} cannot be read: {error}') from error


def _check_first_line(header: Path) -> None:
    first = _first_line(header)
    if first != 'ENVI':
        raise ValueError(
            f'{header} is not an ENVI header: its first line is {first[:40]!r}, not '
            "'ENVI'; if it describes a raster of another kind, name the raster"
        )


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
            read, or promises more bytes than the binary file has; if several files may
            be the binary.
    """
    path = require_file(path, 'ENVI header')
    entries = _entries(path)
    data = require_file(data or _find_binary(path), 'ENVI binary file')
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
    _check_first_line(path)
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
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
    unit = unit or entries.get('wavelength units')
    if unit is not None and unit.lower() == 'index':
        logger.warning(
            '%s: the wavelength units are "Index", so its wavelengths are band numbers '
            'and are left out',
            path,
        )
        return None
    factor = unit_factor(unit, str(path))
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
