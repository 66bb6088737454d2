# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Texts of tables, whatever program wrote them."""

import io
import re
import warnings
from typing import Literal

import pandas as pd


def plain_names(table: pd.DataFrame) -> dict[str, str]:
    """Return the columns by the letters of their names, with their digits and without.

    What stands in brackets is a unit. Of two names with the same letters the first counts.

    Args:
        table: The table.
    """
    found: dict[str, str] = {}
    for other in ('a-z0-9', 'a-z'):
        for name in table.columns:
            word = re.sub(r'[(\[].*?[)\]]', '', str(name).lower())
            found.setdefault(re.sub(f'[^{other}]', '', word), name)
    return found


def parsed(text: str, index: Literal[False] | None) -> pd.DataFrame:
    """Parse a table, whatever separates its columns; all values stay texts.

    Numbers would lose how they are written: 01 and 1 may be two classes.

    Args:
        text: The table.
        index: What pandas takes as ``index_col``.
    """
    text, separators = _without_remarks(text)
    first = text.splitlines()[0]
    # pandas would take any character that seems to separate, letters too.
    separator = max(separators, key=first.count)
    with warnings.catch_warnings(action='ignore', category=pd.errors.ParserWarning):
        table = pd.read_csv(
            io.StringIO(text, newline=None),
            sep=separator if separator in first else ' ',
            engine='python',
            index_col=index,
            dtype=str,
            skipinitialspace=True,
        )
    return table.rename(columns=lambda name: str(name).strip())


def _without_remarks(text: str) -> tuple[str, str]:
    """Return a table from its names of columns on, and what may separate them.

    Excel names the separator in a line of its own; other programs begin with remarks, of
    which the last one holds the names if it has as many separators as the line below.
    """
    separators = '\t;|,'
    told = re.match(r'\s*"?sep=([^\r\n])"?[;,\s]*?[\r\n]+', text)
    if told:
        text, separators = text[told.end() :], told[1]
    text = text.lstrip('\r\n')
    remarks = re.match(r'(?:#[^\r\n]*[\r\n]+)+', text)
    if remarks:
        last, text = remarks[0].split('#')[-1], text[remarks.end() :]
        below = re.match(r'[^\r\n]*', text)
        assert below is not None
        plain = (re.sub('"[^"]*"', '', line) for line in (last, below[0]))
        here, there = (max(map(line.count, separators)) for line in plain)
        text = last + text if here >= there else text
    return text, separators
