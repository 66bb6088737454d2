# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The page writer: one self-contained page for a browser or a printer."""

import base64
import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .. import _html
from .._files import write_text
from .._html import DASH, as_text

__all__ = ('Page',)

#: By this a page of ours is known.
_GENERATOR = '<meta name="generator" content="torchgeo_ekgnet">'

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dde2e8;
  --tint: #f5f7f9; --accent: #1d5f8a; --paper: #fff; --warn: #b3541e;
  --warn-tint: #fdf4ee; --faint: #76808c; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e3e8ee;
  --soft: #a3adb9; --line: #363f4a; --tint: #1d232b; --accent: #7cbbe6;
  --paper: #14181d; --warn: #e58a52; --warn-tint: #2e2019; --faint: #87919d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--line); }
p { max-width: 46rem; }
.subtitle { color: var(--soft); margin: 0 0 1rem; }
.notice { border-left: 4px solid var(--warn); background: var(--warn-tint);
  padding: .6rem 1rem; max-width: none; }
nav { display: flex; flex-wrap: wrap; margin: 1.2rem 0; font-size: .92rem; }
nav a { color: var(--accent); margin-right: 1.1rem; white-space: nowrap; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.caption { color: var(--soft); font-size: .9rem; margin: 0 0 .4rem; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); background: var(--tint); }
td { overflow-wrap: break-word; min-width: 4.5rem; }
td + td { overflow-wrap: anywhere; }
.matrix td { min-width: 0; }
.number { text-align: right; overflow-wrap: normal; }
tr.total td { font-weight: 600; }
.matrix th, .matrix td { padding: .2rem .35rem; text-align: right; font-size: .8rem; }
.matrix tbody th { text-align: left; white-space: nowrap; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; }
.cards div { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem 1rem;
  min-width: 9rem; }
.cards dt { color: var(--soft); font-size: .85rem; }
.cards dd { margin: 0; font-size: 1.5rem; font-weight: 600; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; background: #fff; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
pre { background: var(--tint); border: 1px solid var(--line); padding: .8rem 1rem;
  overflow-x: auto; font-size: .82rem; line-height: 1.4; }
.matrix i { font-style: normal; color: var(--faint); }
.swatch { border: 1px solid var(--faint); vertical-align: -.08em; }
@media print { body { max-width: none; padding: 0; font-size: 11px; }
  nav { display: none; } figure, table { break-inside: avoid; } }
"""


class Page:
    """A page that is built section by section and written at the end.

    Pictures are part of the page; it loads nothing from elsewhere and runs no script.
    """

    def __init__(self, title: str, subtitle: str = '') -> None:
        """Create an empty page.

        Args:
            title: Heading.
            subtitle: Line below it.
        """
        self.title = title
        self.subtitle = subtitle
        self._parts: list[str] = []
        self._sections: list[str] = []

    def section(self, heading: str) -> None:
        """Start a section.

        Args:
            heading: Its heading.
        """
        self._sections.append(heading)
        number = len(self._sections)
        self._parts.append(f'<h2 id="s{number}">{as_text(heading)}</h2>')

    def paragraph(self, text: str) -> None:
        """Add a paragraph.

        Args:
            text: Plain text.
        """
        self._parts.append(f'<p>{as_text(text)}</p>')

    def notice(self, text: str) -> None:
        """Add a paragraph that must not be overlooked.

        Args:
            text: Plain text.
        """
        self._parts.append(f'<p class="notice">{as_text(text)}</p>')

    def cards(self, values: Mapping[str, object]) -> None:
        """Add a row of headline figures.

        Args:
            values: Figures by name.
        """
        items = ''.join(
            f'<div><dt>{as_text(name)}</dt><dd>{as_text(value)}</dd></div>'
            for name, value in values.items()
        )
        self._parts.append(f'<dl class="cards">{items}</dl>')

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        caption: str | None = None,
        swatches: Sequence[Sequence[int]] | None = None,
        totals: int = 0,
    ) -> None:
        """Add a table; columns that hold only numbers are aligned to the right.

        Args:
            columns: Heading of each column.
            rows: Cells of each row; None is shown as a dash.
            caption: Text above the table.
            swatches: Colour (red, green, blue) in front of each row's first cell.
            totals: Number of rows at the end that are set in bold.

        Raises:
            ValueError: If a row has another number of cells than the heading.
        """
        self._add_table(_html.table(columns, rows, swatches, totals), caption)

    def matrix(
        self,
        values: Sequence[Sequence[int]],
        names: Sequence[str],
        caption: str | None = None,
    ) -> None:
        """Add a confusion matrix, shaded by the share of the row.

        Args:
            values: Counts, true class in rows and predicted class in columns.
            names: Name of each class.
            caption: Text above the table.
        """
        counts = np.asarray(values, dtype=np.int64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        head = ''.join(
            f'<th scope="col" title="{as_text(name)}">{number}</th>'
            for number, name in enumerate(names, start=1)
        )
        body = []
        for row, name in enumerate(names):
            cells = []
            for col in range(len(names)):
                count, share = int(counts[row, col]), float(shares[row, col])
                if not count:
                    # Nearly all of the cells, where there are hundreds of classes.
                    cells.append('<td><i>0</i></td>')
                    continue
                tone = '29,95,138' if row == col else '179,84,30'
                # Small shares of wrong pixels must remain visible.
                depth = 0.12 + 0.6 * math.sqrt(share)
                ink = ';color:#fff' if depth > 0.55 else ''
                cells.append(
                    f'<td style="background:rgba({tone},{depth:.2f}){ink}">{count}</td>'
                )
            body.append(
                f'<tr><th scope="row">{row + 1} {as_text(name)}</th>{"".join(cells)}</tr>'
            )
        self._add_table(
            '<table class="matrix"><thead><tr>'
            f'<th scope="col">true \\ predicted</th>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table>',
            caption,
        )

    def _add_table(self, table: str, caption: str | None) -> None:
        """Add a table, which scrolls where it is wider than the page."""
        above = f'<p class="caption">{as_text(caption)}</p>' if caption else ''
        self._parts.append(f'{above}<div class="scroll">{table}</div>')

    def settings(self, values: Mapping[str, object]) -> None:
        """Add names and values, one a line.

        Args:
            values: Values by name; nested values are written as JSON.
        """
        rows = [(name, _plain(value)) for name, value in values.items()]
        self.table(('setting', 'value'), rows)

    def code(self, text: str) -> None:
        """Add text as it stands.

        Args:
            text: The text.
        """
        self._parts.append(f'<pre>{html.escape(text.rstrip())}</pre>')

    def figure(
        self,
        picture: Figure | str | os.PathLike[str],
        caption: str = '',
        alt: str | None = None,
    ) -> None:
        """Add a picture, which becomes part of the page.

        Args:
            picture: A figure, or the path of a PNG file.
            caption: Text below.
            alt: Text for readers who do not see it; the caption by default.
        """
        if isinstance(picture, Figure):
            data = _png(picture)
        else:
            data = Path(picture).read_bytes()
        code = base64.b64encode(data).decode('ascii')
        below = f'<figcaption>{as_text(caption)}</figcaption>' if caption else ''
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{code}" '
            f'alt="{as_text(alt or caption)}">{below}</figure>'
        )

    def render(self) -> str:
        """Give the page.

        Returns:
            HTML.
        """
        links = ''.join(
            f'<a href="#s{number}">{as_text(heading)}</a>'
            for number, heading in enumerate(self._sections, start=1)
        )
        subtitle = f'<p class="subtitle">{as_text(self.subtitle)}</p>'
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'{_GENERATOR}\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{as_text(self.title)}</title>\n<style>{_STYLE}</style></head>\n'
            f'<body><header><h1>{as_text(self.title)}</h1>'
            f'{subtitle if self.subtitle else ""}'
            f'{f"<nav>{links}</nav>" if links else ""}</header>\n<main>\n'
            + '\n'.join(self._parts)
            + '\n</main></body></html>\n'
        )

    @staticmethod
    def wrote(path: str | os.PathLike[str]) -> bool:
        """Say whether a file is a page that this package has written."""
        with open(path, 'rb') as file:
            return _GENERATOR.encode() in file.read(1000)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; the file appears in full or not at all.

        Args:
            path: File to write; an older one is replaced.

        Returns:
            The file.
        """
        return write_text(path, self.render())


def _plain(value: object) -> str:
    """Write a setting."""
    if isinstance(value, str) or value is None:
        return DASH if value is None else value
    try:
        return json.dumps(value)
    except TypeError:
        return str(value)


def _png(figure: Figure) -> bytes:
    """Draw a figure."""
    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=150)
    return buffer.getvalue()
