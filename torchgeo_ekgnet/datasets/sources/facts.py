# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What arrays, texts and attributes of a file tell about the bands and classes of a cube."""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._reading import decoded
from ..labels import LabelLegend, means_no_class, one_line
from ..units import written_numbers
from .axes import squeezed
from .base import BandFacts

logger = logging.getLogger(__name__)

#: What files call the band centres, lower case.
WAVELENGTHS = (
    *(
        f'{word}wavelength{end}'
        for word in ('', 'center_', 'central_', 'centre_')
        for end in ('', 's', '_nm', 's_nm', '_um', 's_um')
    ),
    'band_centers',
    'band_centres',
    'lambda',
    'wvl',
    'wl',
)
#: What they call marks of good and of bad bands.
_GOOD = ('good_wavelengths', 'good_bands', 'bbl')
_BAD = ('bad_bands', 'badbands', 'bad_band_list')
#: Names of what may be written as text: it is read as numbers.
_FACTS = frozenset((*WAVELENGTHS, *_GOOD, *_BAD))
#: What they call a list of the names of classes.
_CLASS_NAMES = frozenset(
    [
        'class_names',
        'classnames',
        'class_name',
        'classes',
        'target_names',
        'label_names',
        'labelnames',
        'label_name',
        'material_names',
        'materials_type',
    ]
)


class Variable(NamedTuple):
    """An array, or what reads it by ``[...]``, and its attributes."""

    data: Any
    attributes: Mapping[str, Any]


def is_fact(name: str) -> bool:
    """Tell whether a name, the last part of a path, is that of facts about bands."""
    return name.split('/')[-1].lower() in _FACTS


def are_class_names(name: str) -> bool:
    """Tell whether a name, the last part of a path, is that of names of classes."""
    return name.split('/')[-1].lower() in _CLASS_NAMES


def named_classes(
    path: Path, texts: Mapping[str, Any], labels: NDArray[Any]
) -> LabelLegend | None:
    """Return the names of classes that a file lists in the order of their numbers.

    The first one is that of 1, or of 0 if it means "no class", as "background" does.

    Args:
        path: The file, for messages.
        texts: What it holds as text, by name.
        labels: Its labels.
    """
    listed = [
        list(map(one_line, text.split('\n')))
        for name, value in texts.items()
        if are_class_names(name) and (text := _joined(value)) is not None
    ]
    if len(listed) != 1 or len(listed[0]) < 2 or labels.dtype.kind not in 'iuf':
        return None
    (names,) = listed
    first = 0 if means_no_class(names[0]) else 1
    last = float(np.fmax.reduce(labels, None))
    if first and last < len(names):
        logger.warning(
            '%s: its %d names of classes are taken as those of the labels 1 to %d, but its '
            'labels end with %g; class_names= gives others',
            path,
            len(names),
            len(names),
            last,
        )
    return LabelLegend(dict(enumerate(names, first)))


def written_fact(
    path: Path, name: str, texts: Any, attributes: Mapping[str, Any] | None = None
) -> Variable | None:
    """Read numbers a band that a variable holds as text.

    Args:
        path: The file.
        name: Name of the variable.
        texts: Its value: a text, or an array of texts or characters.
        attributes: Its attributes.

    Returns:
        The numbers, and their unit among the attributes; None if there are none, which
        is said.
    """
    found = _numbers_in(texts)
    if found is None:
        logger.warning(
            '%s: found text in %r, expected a number a band, so it is left out%s',
            path,
            name,
            '; wavelengths= gives them' if name.lower().endswith(WAVELENGTHS) else '',
        )
        return None
    numbers, unit = found
    return Variable(numbers, {'units': unit, **(attributes or {})})


def written_facts(path: Path, texts: Mapping[str, Any]) -> dict[str, Variable]:
    """Read what variables hold as text, as :func:`written_fact` does, by name.

    Args:
        path: The file.
        texts: Their values by name.
    """
    facts = {name: written_fact(path, name, value) for name, value in texts.items()}
    return {name: fact for name, fact in facts.items() if fact is not None}


def _numbers_in(value: Any) -> tuple[NDArray[np.float64], str | None] | None:
    """Read the numbers of a text or of an array of texts, with their unit."""
    text = _joined(value)
    if text is None:
        return None
    try:
        numbers, unit = written_numbers(text)
    except ValueError:
        return None
    return (np.array(numbers), unit) if numbers else None


def _joined(value: Any) -> str | None:
    """Join texts, or rows of characters, by ends of lines; None for anything else."""
    if isinstance(value, str | bytes):
        text = value if isinstance(value, str) else decoded(value)
        return text.replace('\0', ' ')
    if not isinstance(value, np.ndarray) or value.dtype.kind not in 'OSU':
        return None
    if value.dtype in ('S1', 'U1') and value.ndim:
        rows = value.reshape(-1, value.shape[-1]).tolist()
        parts = [_joined(row[0][:0].join(row)) for row in rows if row]
    else:
        parts = [_joined(item) for item in value.ravel().tolist()]
    return None if None in parts else '\n'.join(map(str, parts))


def band_facts(
    path: Path,
    cube: str,
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any],
    bands: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> BandFacts:
    """Find band centres and marks of bad bands.

    They are attributes of the cube, variables, or attributes of the file, with one
    value a band.

    Args:
        path: The file.
        cube: Name of the cube.
        variables: The arrays of the file that may tell.
        attributes: Attributes of the file.
        bands: Bands of the cube.
        shapes: Shape of every array of the file.
    """
    own, of_file = (
        _read_facts(path, lower(told))
        for told in (
            variables[cube].attributes if cube in variables else {},
            attributes,
        )
    )

    def candidates(
        names: tuple[str, ...],
    ) -> Iterable[tuple[str, Any, Mapping[str, Any]]]:
        for name in names:
            if name in own:
                yield name, own[name], {'units': own.get(f'{name}_units')}
        # Of several variables the one that shares most of the cube's path is its own.
        near = sorted(
            (name for name in variables if name.split('/')[-1].lower() in names),
            key=lambda name: -len(os.path.commonpath([name, cube])),
        )
        for name in near:
            item = variables[name]
            yield name, item.data, lower(item.attributes)
        for name in names:
            if name in of_file:
                yield name, of_file[name], {'units': of_file.get(f'{name}_units')}

    centres, unit, bad = None, None, None
    for _, values, told in candidates(WAVELENGTHS):
        numbers = _per_band(values, bands)
        if numbers is not None:
            # Values of the cube are used as they are stored; these are numbers of nm.
            for key, change in (('scale_factor', np.multiply), ('add_offset', np.add)):
                if told.get(key) is not None:
                    numbers = change(numbers, float(np.ravel(told[key])[0]))
            centres, unit = numbers, text_of(told.get('units'))
            break
    for name, values, _ in candidates((*_GOOD, *_BAD)):
        numbers = _per_band(values, bands)
        if numbers is not None and np.isin(numbers, (0, 1)).all():
            good = name.split('/')[-1].lower() in _GOOD
            bad = np.asarray((numbers == 0) == good)
            break
    return BandFacts(centres, unit, bad, _misfit(shapes, own, bands))


def own_centre(
    path: Path, attributes: Mapping[str, Any]
) -> tuple[float, str | None] | None:
    """Return the wavelength, and its unit, that a map of one band tells of itself.

    Args:
        path: The file, for messages.
        attributes: Attributes of the map.
    """
    low = _read_facts(path, lower(attributes))
    for name in (*WAVELENGTHS, 'radiation_wavelength'):
        numbers = _per_band(np.ravel(low.get(name, ())), 1)
        if numbers is not None and numbers[0] > 0:
            unit = low.get(f'{name}_units', low.get(f'{name}_unit'))
            return float(numbers[0]), text_of(unit)
    return None


def _read_facts(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes, what they tell of bands in text as numbers with their unit."""
    read = dict(attributes)
    for name in _FACTS & attributes.keys():
        if _joined(attributes[name]) is None:
            continue
        fact = written_fact(path, name, attributes[name])
        if fact is None:
            del read[name]
        else:
            read[name] = fact.data
            if fact.attributes['units'] is not None:
                read.setdefault(f'{name}_units', fact.attributes['units'])
    return read


def _misfit(
    shapes: Mapping[str, tuple[int, ...]], told: Mapping[str, Any], bands: int
) -> int | None:
    """Return the length of a list of wavelengths that is not one a band, else None."""
    lengths = [
        squeezed(shape)
        for name, shape in shapes.items()
        if name.split('/')[-1].lower() in WAVELENGTHS
    ]
    lengths += [squeezed(np.shape(told[name])) for name in WAVELENGTHS if name in told]
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
