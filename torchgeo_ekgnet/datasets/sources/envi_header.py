# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The text header of ENVI files."""

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError, decoded, reading, require_file
from ..._wording import shortened
from ..labels import LabelLegend

logger = logging.getLogger(__name__)

#: Type of a value by ENVI's code.
TYPES = {
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
AXES = {'bsq': 'byx', 'bil': 'ybx', 'bip': 'yxb'}
#: Arguments that overrule an entry.
_REMEDIES = {
    'wavelength': '; give wavelengths=',
    'bbl': '; choose bands by number',
    'data ignore value': '; name it with nodata=',
}


def first_line(path: Path) -> str:
    """Return the first line of a header, stripped."""
    with reading(path, 'a text header'), path.open('rb') as file:
        line = re.split(rb'[\r\n]', file.read(80).replace(b'\0', b''))[0]
    return decoded(line.lstrip(b'\xff\xfe\xef\xbb\xbf')).strip()


class EnviHeader:
    """The entries of an ENVI header, parsed when they are asked for.

    Keys are lower case with single spaces, whatever the header writes; entries without
    a value count as missing.

    Args:
        path: The header.
    """

    def __init__(self, path: Path) -> None:
        """Initialize a new EnviHeader instance.

        Raises:
            FileNotFoundError: If there is no such file.
            FileError: If it is no ENVI header, a list does not end, or an entry has two
                different values.
        """
        self.path = require_file(path, 'ENVI header')
        first = first_line(path)
        if first != 'ENVI':
            raise FileError(
                f'{path} is not an ENVI header: its first line is {first[:40]!r}, not '
                "'ENVI'; if it describes a raster of another kind, name the raster"
            )
        with reading(path, 'a text header'):
            lines = re.split(r'\r\n|\r|\n', decoded(path.read_bytes()))[1:]
        #: Lines that are neither an entry nor a comment.
        self.ignored: list[str] = []
        self.entries = self._parsed(lines)
        if 'wavelengths' in self.entries:
            self.entries.setdefault('wavelength', self.entries['wavelengths'])

    def _parsed(self, lines: list[str]) -> dict[str, str]:
        """Take lines apart into keys and values."""
        entries: dict[str, str] = {}
        remaining = iter(lines)
        pending = ''
        for line in remaining:
            if line.lstrip().startswith(';') or not line.strip():
                continue
            key, equals, value = line.partition('=')
            if pending and line.lstrip().startswith('{'):
                # The list of an entry may begin on the line after its key.
                key, equals, value = pending, '=', line
            if not equals:
                self.ignored.append(line.strip())
                continue
            key = re.sub(r'[\s_]+', ' ', key.strip().lower())
            value = value.strip()
            pending = '' if value else key
            if value.startswith('{'):
                parts = [value]
                while '}' not in parts[-1]:
                    following = next(remaining, None)
                    if following is None:
                        raise FileError(
                            f'{self.path}: the list of {key!r} has no closing brace'
                        )
                    parts.append(following)
                value = '\n'.join(parts).strip()
            if not re.sub(r'[{}\s]', '', value):
                continue
            if entries.get(key, value) != value:
                raise FileError(
                    f'{self.path}: found {key!r} twice, as {_start(entries[key])} and '
                    f'{_start(value)}, expected it once'
                )
            entries[key] = value
        return entries

    def text(self, key: str) -> str | None:
        """Return an entry without braces, None if it is missing."""
        value = self.entries.get(key)
        return None if value is None else _inner(value)

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an entry that must be a whole number.

        Raises:
            FileError: If it is missing and has no default, or is none.
        """
        value = self.text(key)
        if value is None:
            if default is None:
                raise FileError(f'{self.path} has no entry {key!r}')
            return default
        found = re.fullmatch(r'([+-]?\d{1,18})(?:\.0*)?', value)
        if found is None:
            raise FileError(
                f'{self.path}: {key!r} is {_start(value)}, expected a whole number'
            )
        return int(found[1])

    def number(self, key: str) -> float | None:
        """Return an entry that must be a number, None if it is missing.

        Raises:
            FileError: If it is none.
        """
        value = self.text(key)
        try:
            return None if value is None else float(value)
        except ValueError:
            raise FileError(
                f'{self.path}: {key!r} is {_start(value or "")}, expected a number'
                f'{_REMEDIES.get(key, "")}'
            ) from None

    def listed(self, key: str) -> list[str]:
        """Return a list of texts, empty if it is missing."""
        value = self.text(key) or ''
        separator = ',' if ',' in value else ';' if ';' in value else '\n'
        items = (' '.join(item.split()) for item in value.split(separator))
        return [item for item in items if item]

    def numbers(self, key: str, count: int | None = None) -> NDArray[np.float64] | None:
        """Return a list of numbers, None if it is missing.

        Args:
            key: Name of the entry.
            count: Number of values, a value a band by default.

        Raises:
            FileError: If one is no number, or their count is wrong.
        """
        value = self.text(key)
        if value is None:
            return None
        items = [item for item in re.split(r'[,;\s"\']+', value) if item]
        remedy = _REMEDIES.get(key, '')
        numbers = np.empty(len(items))
        for place, item in enumerate(items):
            try:
                numbers[place] = float(item)
            except ValueError:
                raise FileError(
                    f'{self.path}: {key!r} holds {_start(item)}, expected numbers'
                    f'{remedy}'
                ) from None
        bands = self.integer('bands') if count is None else count
        if len(numbers) != bands:
            raise FileError(
                f'{self.path}: {key!r} has {len(numbers)} values for {bands} '
                f'{"bands" if count is None else "numbers"}{remedy}'
            )
        return numbers

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, columns and bands.

        Raises:
            FileError: If one is missing, or no whole number.
        """
        rows, cols, bands = map(self.integer, ('lines', 'samples', 'bands'))
        return rows, cols, bands

    @property
    def file_type(self) -> str:
        """What the header calls the binary file, lower case."""
        return ' '.join((self.text('file type') or '').lower().split())

    def legend(self) -> LabelLegend | None:
        """Return names and colours of the classes of an ENVI classification."""
        names = self._class_names()
        if not names:
            return None
        classes = self.text('classes') or ''
        if classes.isdecimal() and int(classes) < len(names):
            logger.warning(
                '%s: it has %d class names for %s classes, as a comma in a name makes '
                'them, so the names are left out; give class_names=',
                self.path,
                len(names),
                classes,
            )
            return None
        table = {}
        try:
            colours = self.numbers('class lookup', 3 * len(names))
        except FileError as error:
            logger.warning('%s; the colours are left out', error)
            colours = None
        if colours is not None:
            whole = colours.clip(0, 255).astype(int).reshape(-1, 3).tolist()
            table = {value: (r, g, b) for value, (r, g, b) in enumerate(whole)}
        return LabelLegend(dict(enumerate(names)), table)

    def _class_names(self) -> list[str]:
        """Return a name a value: in quotes it may hold commas, or be empty."""
        value = self.text('class names') or ''
        if value.count(',') < 1 and '"' not in value:
            return self.listed('class names')
        quoted = re.findall(r'\s*(?:"([^"]*)"\s*|([^,]*))(?:,|$)', value)
        names = [' '.join((a or b).split()) for a, b in quoted]
        while names and not names[-1]:
            names.pop()
        return names


def _inner(value: str) -> str:
    """Give what stands within braces."""
    return value.strip().removeprefix('{').split('}')[0].strip()


def _start(value: str) -> str:
    """Quote the beginning of an entry."""
    return repr(shortened(' '.join(value.split()), 40))
