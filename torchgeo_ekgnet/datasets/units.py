# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Units of wavelengths: one policy for every format.

Wavelengths are nm. A unit that is named is obeyed, and values that it makes absurd are
refused. Where none is named the values tell: no sensor has bands below 100 nm, so
smaller numbers are micrometres, and the log says so.
"""

import logging
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: What the ``wavelength_unit`` argument accepts.
WavelengthUnit = Literal['nm', 'um']

#: Factor to nm by name, without plural.
_FACTORS = {
    **dict.fromkeys(('nm', 'nanometer', 'nanometre'), 1.0),
    **dict.fromkeys(('um', '\u03bcm', 'micrometer', 'micrometre', 'micron'), 1e3),
    **dict.fromkeys(
        ('a', '\u00e5', 'angstrom', 'angstroem', '\u00e5ngstr\u00f6m'), 0.1
    ),
    **dict.fromkeys(('mm', 'millimeter', 'millimetre'), 1e6),
    **dict.fromkeys(('m', 'meter', 'metre'), 1e9),
}
#: A unit behind a number, as ENVI's and other programs write it.
UNIT = (
    r'(?:nm|nanomet(?:er|re)s?|\u00b5m|\u03bcm|um|microns?|micromet(?:er|re)s?)(?!\w)'
)
#: A number with its unit in the name of a band; R writes dots for spaces.
_NAMED_CENTRE = re.compile(rf'(?<![\d.])(\d+(?:\.\d+)?)[\s._]*({UNIT})', re.IGNORECASE)
#: A name that is a number, perhaps behind one word, such as Band_503 or X450.5.
_BARE = re.compile(r'\s*([A-Za-z]*[ _]?)(\d{3,5}(?:\.\d+)?)\s*')
#: Units per cm: nm are 1e7 through the value.
_WAVENUMBERS = ('wavenumber', '1/cm', 'cm-1', 'cm^-1')
#: What stands for no unit.
_UNNAMED = ('', 'unknown', 'none', 'n/a')
#: Largest wavelength in nm, and smallest one.
_HIGHEST, _LOWEST = 100_000.0, 100.0
#: Least number that as the whole name of a band is a wavelength, and no band's number.
_LEAST_BARE = 300.0


def _names(unit: str) -> list[str]:
    """Take a unit apart into its words."""
    # NFKC makes cm-1 of the typeset one, but for its minus sign.
    text = unicodedata.normalize('NFKC', unit).replace('\u2212', '-').strip().lower()
    if text in _UNNAMED:
        return [text]
    words = re.findall(r'1/cm|cm\^?-1|[^\W\d_]+', text)
    return [word.removesuffix('s') for word in words]


def written_numbers(text: str) -> tuple[list[float], str | None]:
    """Read numbers that are written as a text.

    Args:
        text: Numbers between spaces, commas, semicolons, brackets or quotes, each with
            or all without one unit of length.

    Returns:
        The numbers, and their unit as it is written, None without.

    Raises:
        ValueError: If it holds anything else, or several units.
    """
    behind = rf'(?<=[\d.\s]){UNIT}'
    units = sorted({unit.lower() for unit in re.findall(behind, text, re.IGNORECASE)})
    if len(units) > 1:
        raise ValueError(f'found the units {" and ".join(units)}, expected one')
    bare = re.sub(behind, ' ', text, flags=re.IGNORECASE)
    words = re.split(r'[\s,;{}\[\]"\']+', bare)
    return [float(word) for word in words if word], units[0] if units else None


def nanometres(
    values: Sequence[float] | NDArray[Any], unit: str | None, where: str
) -> NDArray[np.float64] | None:
    """Turn wavelengths into nm.

    Args:
        values: One value a band.
        unit: Their unit as an argument or a file names it, None if nobody does.
        where: File or argument, for the error.

    Returns:
        float64 of the same shape; None if the unit says that they are band numbers.

    Raises:
        ValueError: If the unit is not known.
    """
    centres = np.asarray(values, dtype=np.float64)
    names = [''] if unit is None else _names(unit)
    counted = np.arange(centres.size, dtype=np.float64)
    unnamed = bool(names) and names[0] in _UNNAMED and centres.size > 1
    if unnamed and any(np.array_equal(centres, counted + first) for first in (0, 1)):
        logger.warning(
            '%s: its wavelengths count from %g to %g without a unit, so they are band '
            'numbers and are left out',
            where,
            centres[0],
            centres[-1],
        )
        return None
    # Files write 0 or NaN where they know no wavelengths.
    same = np.isclose(centres, centres.flat[0], rtol=0, atol=0, equal_nan=True)
    if centres.size > 1 and same.all():
        logger.warning(
            '%s: its %d wavelengths are all %g, so they are left out',
            where,
            centres.size,
            centres.flat[0],
        )
        return None
    if names == ['index']:
        logger.warning(
            '%s: the wavelength units are "Index", so its wavelengths are band numbers '
            'and are left out',
            where,
        )
        return None
    if names and names[0] in _UNNAMED:
        finite = centres[np.isfinite(centres)]
        if not finite.size or finite.max() >= _LOWEST or finite.max() <= 0:
            return centres
        logger.warning(
            '%s: wavelengths run from %g to %g and no unit is named; they are taken as '
            "micrometres (wavelength_unit='nm' overrules it)",
            where,
            finite.min(),
            finite.max(),
        )
        names = ['um']
    if all(name in _WAVENUMBERS for name in names) and names:
        with np.errstate(divide='ignore'):
            return np.asarray(np.round(1e7 / centres, 6))
    factors = {_FACTORS.get(name) for name in names}
    factor = factors.pop() if len(factors) == 1 else None
    if factor is None:
        raise ValueError(
            f'{where}: wavelength unit {unit!r} is not known; expected nm (nanometers) '
            "or um (micrometers); wavelength_unit='nm' or 'um' overrules it"
        )
    return centres if factor == 1 else np.asarray(np.round(centres * factor, 6))


def told_nanometres(
    told: Sequence[tuple[float, str | None]], unit: str | None, where: str
) -> NDArray[np.float64] | None:
    """Turn wavelengths of which each has a unit of its own into nm.

    Args:
        told: Value and unit of each band.
        unit: Unit that overrules them.
        where: File, for the error.

    Returns:
        float64 (bands,); None if a unit says that they are band numbers.
    """
    centres = np.array([value for value, _ in told])
    units = [unit or own for _, own in told]
    for one in set(units):
        here = [number for number, other in enumerate(units) if other == one]
        converted = nanometres(centres[here], one, where)
        if converted is None:
            return None
        centres[here] = converted
    return centres


def named_centres(names: Sequence[str]) -> list[tuple[float, str | None]]:
    """Find a wavelength in the name of every band: a number with a unit.

    Names that are numbers, all behind the same word or none, count if all are too large
    for numbers of bands and do not count on.

    Args:
        names: The names.

    Returns:
        Value and unit of each, nothing if one has none or several.
    """
    found = [_NAMED_CENTRE.findall(name) for name in names]
    if all(len(centres) == 1 for centres in found):
        return [(float(number), own) for ((number, own),) in found]
    bare = [match for name in names if (match := _BARE.fullmatch(name))]
    centres = [float(match[2]) for match in bare]
    far = len(centres) == len(names) and min(centres) >= _LEAST_BARE
    steps = {after - before for before, after in pairwise(centres)}
    counted = len(centres) > 1 and steps == {1.0}
    alike = len({match[1] for match in bare}) == 1
    return [(c, None) for c in centres] if far and alike and not counted else []


def checked_nanometres(
    name: str,
    wavelengths: Sequence[float] | NDArray[Any] | None,
    num_bands: int,
    bad_bands: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64] | None:
    """Check wavelengths in nm against a cube.

    Args:
        name: Name of the scene, for the error.
        wavelengths: One value a band, or None.
        num_bands: Bands of the cube.
        bad_bands: Bands that may have any value.

    Returns:
        float64 (bands,), or None.

    Raises:
        ValueError: If their number is wrong or they cannot be nm.
    """
    if wavelengths is None:
        return None
    centres = np.asarray(wavelengths, dtype=np.float64)
    if centres.shape != (num_bands,):
        raise ValueError(
            f'{name}: {centres.size} wavelengths for {num_bands} bands; give one centre '
            'in nm for each band'
        )
    used = centres if bad_bands is None else centres[~bad_bands]
    wrong = used[~(np.isfinite(used) & (used > 0))]
    if wrong.size:
        raise ValueError(
            f'{name}: wavelengths must be positive and finite (nm), found {wrong[0]:g}; '
            'give wavelengths='
        )
    if not used.size:
        return centres
    span = f'{name}: wavelengths run from {used.min():g} to {used.max():g}'
    if used.max() > _HIGHEST:
        raise ValueError(
            f'{span} nm; the unit is probably wrong (nm taken for micrometres)'
        )
    if used.max() >= _LOWEST > used.min():
        raise ValueError(
            f'{span} nm, so some are nm and others micrometres, or they are band numbers '
            'in part; expected all in one unit; give wavelengths='
        )
    if used.max() < _LOWEST:
        raise ValueError(
            f'{span}, which looks like micrometres; expected nm (multiply by 1000 or '
            'give the unit)'
        )
    return centres
