# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tables and facts as HTML, for notebooks and pages."""

import html
import math
from collections.abc import Mapping, Sequence

#: Shown in place of a missing value.
DASH = '\N{EN DASH}'


def as_text(value: object) -> str:
    """Write a value as text that HTML shows unchanged."""
    return DASH if value is None else html.escape(str(value))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    swatches: Sequence[Sequence[int]] | None = None,
    totals: int = 0,
) -> str:
    """Write a table; columns that hold only numbers are aligned to the right.

    Args:
        columns: Heading of each column.
        rows: Cells of each row; None is shown as a dash.
        swatches: Colour (red, green, blue) in front of each row's first cell.
        totals: Number of rows at the end that are set in bold.

    Returns:
        HTML.

    Raises:
        ValueError: If a row has another number of cells than the heading.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f'a row has {len(row)} cells, the table {len(columns)} columns: '
                f'{list(row)}'
            )
    numeric = [
        bool(rows) and all(_is_number(row[index]) for row in rows)
        for index in range(len(columns))
    ]
    # The style holds where no page brings its own: in a notebook.
    kinds = [
        ' class="number" style="text-align:right"'
        if is_number
        else ' style="text-align:left"'
        for is_number in numeric
    ]
    head = ''.join(
        f'<th scope="col"{kind}>{as_text(name)}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = []
    for index, row in enumerate(rows):
        cells = [
            f'<td{kind}>{as_text(cell)}</td>'
            for cell, kind in zip(row, kinds, strict=True)
        ]
        if swatches is not None and index < len(swatches):
            red, green, blue = (int(part) for part in swatches[index])
            mark = (
                '<span class="swatch" style="display:inline-block;width:.85em;'
                f'height:.85em;margin-right:.5em;background:rgb({red},{green},{blue})">'
                '</span>'
            )
            cells[0] = cells[0].replace('>', f'>{mark}', 1)
        kind = ' class="total"' if index >= len(rows) - totals else ''
        body.append(f'<tr{kind}>{"".join(cells)}</tr>')
    return (
        f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


def summary(title: str, facts: Mapping[str, object], *tables: str) -> str:
    """Write what a notebook shows of an object.

    Args:
        title: Its name.
        facts: What is worth knowing, by name; None is left out.
        tables: Tables below (:func:`table`).

    Returns:
        HTML.
    """
    lines = ''.join(
        f'<br>{as_text(name)}: {as_text(value)}'
        for name, value in facts.items()
        if value is not None
    )
    return f'<div><p><b>{as_text(title)}</b>{lines}</p>{"".join(tables)}</div>'


def _is_number(cell: object) -> bool:
    """Tell whether a cell holds a number, or nothing."""
    if cell is None or isinstance(cell, int | float):
        return True
    if not isinstance(cell, str):
        return False
    words = cell.replace(',', '').replace('±', ' ').replace('%', '').split()
    if cell in ('', '-', DASH):
        return True
    try:
        return all(math.isfinite(float(word)) for word in words) and bool(words)
    except ValueError:
        return False
