# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Label values, what a file says about them, and the classes they become."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._options import plain_array, typed_array
from .._wording import composed, listed, quoted

logger = logging.getLogger(__name__)

#: Value of pixels that a label file says nothing about; no file holds it as a label.
NO_LABEL = int(np.iinfo(np.int64).min)

#: Names that label files give to pixels that belong to no class.
_NO_CLASS = frozenset(
    (
        *('background', 'bg', 'unlabelled', 'unlabeled', 'unclassified', 'undefined'),
        *('unknown', 'nodata', 'nolabel', 'null', 'void', 'none', 'ignore', 'masked'),
        *('notlabelled', 'notlabeled', 'notclassified', 'unassigned'),
    )
)

#: What the ``class_names`` arguments accept.
ClassNames = Mapping[int, str] | Sequence[str] | None


@dataclass(frozen=True)
class LabelLegend:
    """Names and colours that a label file holds for its values.

    Args:
        names: Names by value.
        colours: Red, green and blue by value, 0..255.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Classes:
    """The classes of a scene.

    Args:
        values: Value of each class in the label file.
        names: Name of each class.
        label_map: Signed integers (rows, cols): 0 no label, else 1..C.
        masked: Labelled pixels of each class that have no data.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    label_map: NDArray[np.signedinteger[Any]]
    masked: tuple[int, ...]


def means_no_class(name: str) -> bool:
    """Tell whether a name says that its pixels belong to no class."""
    words = re.sub('[-_]', ' ', name.lower()).split()
    return bool(_NO_CLASS & {*words, ''.join(words)})


def question_alike(where: str, names: Iterable[str]) -> None:
    """Warn of names that differ only in case, spaces or how accents are stored.

    Args:
        where: File, and attribute if there is one, for the message.
        names: Names of classes.
    """
    alike: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        alike.setdefault(composed(name).casefold(), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            logger.warning(
                '%s holds %s, which differ only in case, spaces or how accents are '
                'stored; are they one class?',
                where,
                ' and '.join(map(repr, group)),
            )


def question_numbers(where: str, texts: Iterable[str]) -> None:
    """Warn of numbers that are written in several ways, such as codes 01 and 1.

    Args:
        where: File, and attribute if there is one, for the message.
        texts: Class numbers as texts.
    """
    written: dict[float, set[str]] = {}
    for text in set(texts):
        plain = re.sub(r'\.0*$', '', text.strip()).removeprefix('+')
        written.setdefault(float(text), set()).add(plain)
    for number, forms in sorted(written.items()):
        if len(forms) > 1:
            logger.warning(
                '%s holds %s, which all count as the number %g; are they one class?',
                where,
                ' and '.join(map(repr, sorted(forms))),
                number,
            )


def given_names(
    where: str, class_names: Mapping[int, str] | Sequence[str]
) -> dict[int, str] | list[str]:
    """Check names of classes: by whole number, or in order; none empty, none twice.

    Args:
        where: File or scene, for the error.
        class_names: The names.

    Returns:
        The names, each in one line.

    Raises:
        TypeError: If a text is given instead of a list.
        ValueError: If a class has no name, two have one name, or a key is no number.
    """
    if isinstance(class_names, str):
        raise TypeError(
            f'{where}: found the text {class_names!r} as class names, expected a list of '
            'names, or names by value'
        )
    texts: list[Any] = list(
        class_names.values() if isinstance(class_names, Mapping) else class_names
    )
    names = [one_line(str(text)) for text in texts]
    for text, name in zip(texts, names, strict=True):
        if text is None or not name:
            raise ValueError(
                f'{where}: found the class name {text!r} among {names}, expected a name '
                'for each class'
            )
        if names.count(name) > 1:
            raise ValueError(
                f'{where}: found the class name {name!r} {names.count(name)} times, '
                'expected each name once: results are told apart by them'
            )
    if not isinstance(class_names, Mapping):
        return names
    keys = [str(key).strip() for key in class_names]
    wrong = [key for key in keys if not re.fullmatch(r'[+-]?\d+(\.0*)?', key)]
    numbers = [] if wrong else [int(float(key)) for key in keys]
    if wrong or len(set(numbers)) < len(keys):
        raise ValueError(
            f'{where}: found class names for the values {quoted(wrong or keys)}, '
            'expected them for whole numbers, each once'
        )
    return dict(zip(numbers, names, strict=True))


def one_line(text: str) -> str:
    """Return a name without breaks of lines, and without spaces around it."""
    return re.sub(r'\s*[\r\n\t\v\f\x85\u2028\u2029]\s*', ' ', text).strip()


def told_apart(names: Mapping[int, str]) -> dict[int, str]:
    """Add its value to each class name that several values have."""
    texts = list(names.values())
    return {
        value: f'{text} ({value})' if texts.count(text) > 1 else text
        for value, text in names.items()
    }


def whole_numbers(name: str, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return labels as int64 without changing any value.

    Floating-point files are accepted when every value is a whole number, because
    MATLAB and many GIS programs store class numbers as doubles; texts, when every one
    is written as a whole number.

    Args:
        name: Name of the scene or file for the error.
        labels: Label values.

    Returns:
        The same values as int64.

    Raises:
        ValueError: If a value is not a whole number, or too large.
    """
    if labels.dtype.kind in 'US':
        try:
            labels = np.char.strip(labels).astype(np.float64)
        except (ValueError, UnicodeError) as error:
            raise ValueError(
                f'{name}: found labels that are texts and no numbers ({error}), '
                'expected class numbers'
            ) from error
    limits = np.iinfo(np.int64)
    if labels.dtype.kind in 'iub':
        if labels.size and labels.dtype == np.uint64 and labels.max() > limits.max:
            raise ValueError(
                f'{name}: found label {labels.max()}, expected at most {limits.max}'
            )
        return labels.astype(np.int64)
    if labels.dtype.kind != 'f':
        raise ValueError(
            f'{name}: labels have type {labels.dtype}, expected whole numbers'
        )
    finite = np.isfinite(labels)
    wrong = ~finite | (np.where(finite, labels, 0) % 1 != 0)
    if wrong.any():
        raise ValueError(
            f'{name}: labels have type {labels.dtype} and {int(wrong.sum())} values are '
            f'not whole numbers ({listed(np.unique(labels[wrong]), 5)}); expected '
            'class numbers'
        )
    # Doubles hold every whole number up to 2**53 only.
    largest = float(labels.flat[np.abs(labels).argmax()]) if labels.size else 0.0
    if abs(largest) >= 2**53:
        raise ValueError(
            f'{name}: found label {largest:g}, expected class numbers below {2**53}; if it '
            'means "no label", the file must declare it (gdal_edit.py -a_nodata)'
        )
    return labels.astype(np.int64)


def numbered_classes(
    name: str,
    labels: NDArray[Any] | None,
    valid: NDArray[np.bool_],
    class_names: ClassNames,
    unlabelled: Sequence[int],
    blocks: Callable[[], Iterator[tuple[int, int]]],
) -> Classes:
    """Number the classes of a label map from 1.

    Args:
        name: Name of the scene, for the error.
        labels: Integers (rows, cols) as the label file has them, or None.
        valid: False where the cube has no data.
        class_names: Names by value, in the order of the values found, or None.
        unlabelled: Values that mean "no label"; ``NO_LABEL`` always does.
        blocks: Yields row ranges that cover the scene; copies are made by them only.

    Returns:
        The classes.

    Raises:
        ValueError: If sizes do not fit, labels are not whole numbers, or names do not
            fit the labels.
    """
    values = np.empty(0, dtype=np.int64)
    if labels is not None:
        plain_array(f'{name}: labels', labels, 'labels.filled(0), where 0 is no label')
        typed_array(f'{name}: labels', labels)
        if labels.shape != valid.shape:
            rows, cols = valid.shape
            raise ValueError(
                f'{name}: cube and labels differ in size: the cube has {rows} x {cols} '
                f'pixels, the label map has shape {labels.shape}'
            )
        if labels.dtype.kind not in 'iub' or labels.dtype == np.uint64:
            labels = whole_numbers(name, labels)
        # By block: sorting a copy of a large map would take many times its size.
        parts = [np.unique(labels[start:stop]) for start, stop in blocks()]
        values = np.unique(np.concatenate(parts)).astype(np.int64)
        values = values[~np.isin(values, [NO_LABEL, *unlabelled])]
    classes, names = _named(name, values, class_names, unlabelled)
    kind = np.min_scalar_type(-1 - len(classes))
    masked = np.zeros(len(classes) + 1, dtype=np.int64)
    if labels is None or not classes:
        empty = np.broadcast_to(kind.type(0), valid.shape)
        return Classes(tuple(classes), tuple(names), empty, tuple(masked[1:].tolist()))
    label_map = np.zeros(valid.shape, dtype=kind)
    for start, stop in blocks():
        block, inside = labels[start:stop], valid[start:stop]
        position = np.searchsorted(classes, block).clip(max=len(classes) - 1)
        hit = np.asarray(classes)[position] == block
        if not inside.all():
            masked += np.bincount(position[hit & ~inside] + 1, minlength=len(masked))
            hit &= inside
        label_map[start:stop][hit] = position[hit] + 1
    counts = tuple(masked[1:].tolist())
    return Classes(tuple(classes), tuple(names), label_map, counts)


def _named(
    name: str,
    values: NDArray[np.int64],
    class_names: ClassNames,
    unlabelled: Sequence[int],
) -> tuple[list[int], list[str]]:
    """Return value and name of each class."""
    given = None if class_names is None else given_names(name, class_names)
    if isinstance(given, dict):
        named = {
            value: text for value, text in given.items() if value not in unlabelled
        }
        if len(named) < len(given):
            logger.warning(
                '%s: class_names names [%s], which unlabelled=%s lists: no class',
                name,
                listed(sorted(set(given) - set(named))),
                list(unlabelled),
            )
        unknown = sorted(set(values.tolist()) - set(named))
        if unknown:
            raise ValueError(
                f'{name}: the label map has values [{listed(unknown)}] that are neither '
                f'classes ([{listed(sorted(named))}]) nor unlabelled ({list(unlabelled)})'
            )
        classes = sorted(named)
        names = [named[value] for value in classes]
    else:
        classes = values.tolist()
        names = [f'class {value}' for value in classes] if given is None else given
        if len(names) != len(classes):
            raise ValueError(
                f'{name}: {len(names)} class names for {len(classes)} label values '
                f'([{listed(classes)}])'
            )
    if classes and classes[0] < 0:
        raise ValueError(
            f'{name}: negative label value {classes[0]}; list values that mean "no '
            'label" under unlabelled'
        )
    return classes, names
