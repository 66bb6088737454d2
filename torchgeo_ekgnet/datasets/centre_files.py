# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Files that tell the band centres of a scene: numbers, tables and ENVI headers."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from .._reading import FileError, decoded, reading, require_file
from .sources.envi_header import EnviHeader, first_line
from .units import UNIT, written_numbers

__all__ = ('centres_of_table', 'read_centres')

#: Titles of the columns of a table that hold band centres.
_CENTRE = re.compile(r'wave|wvl|\bwl|lambda|cent(?:er|re)|cwl', re.IGNORECASE)
#: The same of columns with edges or widths of the bands.
_EDGE = re.compile(r'fwhm|width|min|max|start|end|low|upp|from|to\b', re.IGNORECASE)
_REMARK = ('#', '%', '//')


def read_centres(path: Path, bands: int) -> tuple[list[float], str | None]:
    """Read band centres.

    Args:
        path: A text file with nothing but numbers, a table with a column of them, whose
            title may hold their unit, or an ENVI header.
        bands: Bands of the cube; it tells two columns from a list in lines of two.

    Returns:
        The centres, and their unit as it is written, None without.

    Raises:
        FileNotFoundError: If there is no such file.
        FileError: If it holds anything else.
    """
    require_file(path, 'wavelengths')
    if first_line(path) == 'ENVI':
        header = EnviHeader(path)
        centres = header.numbers('wavelength', bands)
        if centres is None:
            raise FileError(f"{path}: found no 'wavelength', expected band centres")
        return centres.tolist(), header.text('wavelength units')
    with reading(path, 'a text file'):
        text = decoded(path.read_bytes())
    wrong = 'it is empty'
    try:
        numbers, unit = written_numbers(text)
    except ValueError as error:
        numbers, unit, wrong = [], None, str(error)
    table = None if len(numbers) == bands else centres_of_table(text)
    if table is not None and (not numbers or len(table[0]) == bands):
        return table
    if not numbers:
        raise FileError(
            f'{path}: expected one wavelength a band and nothing else, or a table with a '
            f'column of them, such as band;wavelength;fwhm ({wrong})'
        )
    return numbers, unit


def centres_of_table(text: str) -> tuple[list[float], str | None] | None:
    """Find the column of band centres in a table.

    It is the one whose title says so, else the only one of wavelengths: columns that
    count the bands, and those of smaller numbers behind it, which are widths, are none.

    Args:
        text: Lines with as many values each, perhaps below their titles.

    Returns:
        The centres, and the unit in their title, None without; None if there are none.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_REMARK)]
    between = next((sign for sign in '\t;,' if lines and sign in lines[-1]), None)
    rows = [[word.strip(' "\'') for word in line.split(between)] for line in lines]
    titles: list[str] = []
    if rows and all(_number(word, between) is None for word in rows[0]):
        titles = rows.pop(0)
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return None
    columns = len(rows[0])
    if columns == 1:
        titles = [' '.join(titles)]
    titles = titles if len(titles) == columns else [''] * columns
    found = []
    for title, words in zip(titles, zip(*rows, strict=True), strict=True):
        if _EDGE.search(title):
            continue
        numbers = [_number(word, between) for word in words]
        centres = [number for number in numbers if number is not None]
        if len(centres) == len(words) and _may_be_centres(centres):
            unit = re.search(rf'(?<![^\W_]){UNIT}', title, re.IGNORECASE)
            found.append((title, centres, unit[0] if unit else None))
    told = [column for column in found if _CENTRE.search(column[0])]
    if not told:
        told = [column for column in found if column[2]] or found
        # Lower and upper edges, perhaps.
        if any(other[0] >= told[0][1][0] for _, other, _ in told[1:]):
            return None
    return told[0][1:] if told else None


def _may_be_centres(numbers: Sequence[float]) -> bool:
    """Tell whether numbers rise or fall, and do not count the bands."""
    steps = {after - before for before, after in pairwise(numbers)}
    return (min(steps) > 0 or max(steps) < 0) and not (
        numbers[0] in (0, 1) and steps == {1}
    )


def _number(word: str, between: str | None) -> float | None:
    """Read a number; a comma that separates no columns is a point."""
    try:
        return float(word if between == ',' else word.replace(',', '.'))
    except ValueError:
        return None
