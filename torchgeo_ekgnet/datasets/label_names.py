# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Names of the values of label files, and values that are doubtful."""

import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .._reading import FileError
from .._wording import listed
from .labels import NO_LABEL, ClassNames, means_no_class, one_line, told_apart
from .options import SceneOptions

logger = logging.getLogger(__name__)

#: More colours than that in a picture are shades, more values objects or measurements.
MAX_CLASSES = 256
#: What files without a value for missing data often write where there is no label.
_USUAL_NO_LABEL = (255, 32767, 65535, 2**31 - 1, 2**32 - 1)
#: White as the number of a colour; pictures have it or black where there is no label.
_WHITE = 0xFFFFFF


def class_names_of(
    path: str,
    labels: NDArray[np.int64],
    names: Mapping[int, str],
    declared: Collection[float],
    options: SceneOptions,
) -> ClassNames:
    """Return the names that are given, or else those that the files hold.

    Raises:
        FileError: If a class would have a negative number.
    """
    _refuse_negative(path, labels, options.unlabelled)
    if np.isin(labels, [NO_LABEL, *options.unlabelled]).all():
        logger.warning(
            '%s: no pixel is labelled: every value means "no label" (unlabelled=%s), or '
            'is nodata',
            path,
            list(options.unlabelled),
        )
    elif options.class_names is None and names:
        _question_unlabelled(path, labels, names, options.unlabelled)
        return _legend_names(path, labels, names, options.unlabelled)
    elif options.class_names is None:
        _question_values(path, labels, declared, options.unlabelled)
    return options.class_names


def _refuse_negative(
    path: str, labels: NDArray[np.int64], unlabelled: Sequence[int]
) -> None:
    """Refuse negative numbers, which often mean "no label"."""
    below = labels[(labels < 0) & ~np.isin(labels, [NO_LABEL, *unlabelled])]
    if below.size:
        least = int(below.min())
        raise FileError(
            f'{path}: found the negative label value {least}, which '
            f'{int((below == least).sum())} pixels have, expected numbers of classes; '
            f'if it means "no label", give unlabelled={[*unlabelled, least]}, or '
            f'unlabelled={[least]} where 0 is a class'
        )


def _question_unlabelled(
    path: str,
    labels: NDArray[np.int64],
    names: Mapping[int, str],
    unlabelled: Sequence[int],
) -> None:
    """Warn of values that mean "no label" but have a name, and of a white ground."""
    nothing = [n for n, name in names.items() if means_no_class(name) and n in labels]
    for value in unlabelled:
        name = one_line(names.get(value) or '')
        pixels = int((labels == value).sum()) if name else 0
        if pixels and not name.startswith('#') and not means_no_class(name):
            logger.warning(
                '%s: it calls value %d %r, and %d pixels have it, but it means "no '
                'label" (unlabelled=%s); if it is a class, give unlabelled=%s',
                path,
                value,
                name,
                pixels,
                list(unlabelled),
                sorted({*unlabelled, *nothing} - {value}),
            )
    white = int((labels == _WHITE).sum()) if names.get(_WHITE) == '#ffffff' else 0
    if white and _WHITE not in unlabelled and not (labels == 0).any():
        logger.warning(
            '%s: %d pixels are white, which is taken as a class, and none is black; if '
            'white means "no label", give unlabelled=[%d]',
            path,
            white,
            _WHITE,
        )


def _question_values(
    path: str,
    labels: NDArray[np.int64],
    declared: Collection[float],
    unlabelled: Sequence[int],
) -> None:
    """Warn where it is not sure which values without a name mean "no label"."""
    values = np.unique(labels)
    for value in np.intersect1d(values, list(unlabelled)).tolist():
        if declared and value not in declared:
            logger.warning(
                '%s: %d pixels have the label %d, which means "no label" '
                '(unlabelled=%s), but the file declares %s for that; if %d is a class, '
                'give unlabelled=%s',
                path,
                int((labels == value).sum()),
                value,
                list(unlabelled),
                ', '.join(f'{number:g}' for number in sorted(declared)),
                value,
                [other for other in unlabelled if other != value],
            )
    *others, last = values[~np.isin(values, [NO_LABEL, *unlabelled])].tolist()
    if len(others) >= MAX_CLASSES:
        logger.warning(
            '%s: found %d label values from %d to %d, expected classes: numbers of '
            'objects, and measurements such as heights, are none',
            path,
            len(others) + 1,
            others[0],
            last,
        )
    counted = others in (list(range(1, len(others) + 1)), list(range(len(others))))
    # Levels of grey lie all over the range.
    apart = bool(others) and (counted or others[-1] < last / 4)
    if last in _USUAL_NO_LABEL and apart and last - others[-1] > 1:
        logger.warning(
            '%s: its labels are %s and %d, which %d pixels have; if that means "no '
            'label", give unlabelled=%s, or unlabelled=[%d] where 0 is a class',
            path,
            listed(others),
            last,
            int((labels == last).sum()),
            [*unlabelled, last],
            last,
        )


def _legend_names(
    path: str,
    labels: NDArray[np.int64],
    names: Mapping[int, str],
    unlabelled: Sequence[int],
) -> dict[int, str]:
    """Return the names of the values that occur."""
    values = [
        value
        for value in np.unique(labels).tolist()
        if value not in (NO_LABEL, *unlabelled)
    ]
    nameless = [value for value in values if not names.get(value)]
    if nameless:
        logger.warning(
            '%s: it has labels %s without a name, and names for %s; if the names belong '
            'to other values, give class_names=',
            path,
            listed(nameless),
            listed(sorted(names)),
        )
    return told_apart(
        {
            value: one_line(names.get(value) or '') or f'class {value}'
            for value in values
        }
    )
