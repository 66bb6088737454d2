# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How messages and reports write much: the first of a list, a text's start, columns."""

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from itertools import islice


def listed(items: Collection[object], most: int = 10, between: str = ', ') -> str:
    """Write items between commas, of many the first ones and how many more there are."""
    rest = len(items) - most
    shown = between.join(map(str, islice(items, most)))
    return f'{shown} and {rest} more' if rest > 0 else shown


def quoted(items: Iterable[object], most: int = 10) -> str:
    """Write items as :func:`listed` does, each as Python writes it."""
    return listed([repr(item) for item in items], most)


def shortened(text: str, most: int = 240) -> str:
    """Cut a text, such as a library's message, which may name every weight of a network."""
    return text if len(text) <= most else f'{text[:most]} ...'


def composed(name: str) -> str:
    """Write a name in one line, as all do that no screen tells apart from it.

    Programs store an umlaut as one character or as two.
    """
    return unicodedata.normalize('NFC', ' '.join(name.split()))


def columns(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Lay cells out as lines: one column begins at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.ljust(width) if place == left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
