# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The report writer: one self-contained page for a browser or a printer."""

import base64
import csv
import html
import io
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ('Report', 'write_run_report')

logger = logging.getLogger(__name__)

#: Shown in place of a missing value.
DASH = '\N{EN DASH}'

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #dde2e8;
  --tint: #f5f7f9; --accent: #1d5f8a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; color: var(--ink);
  background: #fff; font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue",
  Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 2px solid var(--line); }
p { max-width: 46rem; }
.subtitle { color: var(--soft); margin: 0 0 1rem; }
.notice { border-left: 4px solid #b3541e; background: #fdf4ee; padding: .6rem 1rem;
  max-width: none; }
nav { margin: 1.2rem 0; font-size: .92rem; }
nav a { color: var(--accent); margin-right: 1.1rem; white-space: nowrap; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.caption { color: var(--soft); font-size: .9rem; margin: 0 0 .4rem; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); background: var(--tint); }
.number { text-align: right; }
tr.total td { font-weight: 600; }
.matrix th, .matrix td { padding: .2rem .35rem; text-align: right; font-size: .8rem; }
.matrix tbody th { text-align: left; white-space: nowrap; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; }
.cards div { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem 1rem;
  min-width: 9rem; }
.cards dt { color: var(--soft); font-size: .85rem; }
.cards dd { margin: 0; font-size: 1.5rem; font-weight: 600; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
pre { background: var(--tint); border: 1px solid var(--line); padding: .8rem 1rem;
  overflow-x: auto; font-size: .82rem; line-height: 1.4; }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .5em;
  border: 1px solid #666; vertical-align: -.08em; }
@media print { body { max-width: none; padding: 0; font-size: 11px; }
  nav { display: none; } figure, table { break-inside: avoid; } }
"""


class Report:
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
        self._parts.append(f'<h2 id="s{number}">{_text(heading)}</h2>')

    def paragraph(self, text: str) -> None:
        """Add a paragraph.

        Args:
            text: Plain text.
        """
        self._parts.append(f'<p>{_text(text)}</p>')

    def notice(self, text: str) -> None:
        """Add a paragraph that must not be overlooked.

        Args:
            text: Plain text.
        """
        self._parts.append(f'<p class="notice">{_text(text)}</p>')

    def cards(self, values: Mapping[str, object]) -> None:
        """Add a row of headline figures.

        Args:
            values: Figures by name.
        """
        items = ''.join(
            f'<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>'
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
        classes = [' class="number"' if is_number else '' for is_number in numeric]
        head = ''.join(
            f'<th scope="col"{cls}>{_text(name)}</th>'
            for name, cls in zip(columns, classes, strict=True)
        )
        body = []
        for index, row in enumerate(rows):
            cells = [
                f'<td{cls}>{_text(cell)}</td>'
                for cell, cls in zip(row, classes, strict=True)
            ]
            if swatches is not None and index < len(swatches):
                red, green, blue = (int(part) for part in swatches[index])
                mark = (
                    f'<span class="swatch" style="background:rgb({red},{green},{blue})">'
                    '</span>'
                )
                cells[0] = cells[0].replace('>', f'>{mark}', 1)
            kind = ' class="total"' if index >= len(rows) - totals else ''
            body.append(f'<tr{kind}>{"".join(cells)}</tr>')
        above = f'<p class="caption">{_text(caption)}</p>' if caption else ''
        self._parts.append(
            f'{above}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div>'
        )

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
            f'<th scope="col" title="{_text(name)}">{number}</th>'
            for number, name in enumerate(names, start=1)
        )
        body = []
        for row, name in enumerate(names):
            cells = []
            for col in range(len(names)):
                count, share = int(counts[row, col]), float(shares[row, col])
                tone = '29,95,138' if row == col else '179,84,30'
                # Small shares of wrong pixels must remain visible.
                depth = 0.0 if count == 0 else 0.12 + 0.6 * math.sqrt(share)
                ink = ';color:#fff' if depth > 0.55 else ''
                shown = f'{count}' if count else '<span style="color:#bbb">0</span>'
                cells.append(
                    f'<td style="background:rgba({tone},{depth:.2f}){ink}">{shown}</td>'
                )
            body.append(
                f'<tr><th scope="row">{row + 1} {_text(name)}</th>{"".join(cells)}</tr>'
            )
        above = f'<p class="caption">{_text(caption)}</p>' if caption else ''
        self._parts.append(
            f'{above}<div class="scroll"><table class="matrix"><thead><tr>'
            f'<th scope="col">true \\ predicted</th>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div>'
        )

    def settings(
        self, values: Mapping[str, object], caption: str | None = None
    ) -> None:
        """Add names and values, one a line.

        Args:
            values: Values by name; nested values are written as JSON.
            caption: Text above the table.
        """
        rows = [(name, _plain(value)) for name, value in values.items()]
        self.table(('setting', 'value'), rows, caption)

    def code(self, text: str) -> None:
        """Add text as it stands.

        Args:
            text: The text.
        """
        self._parts.append(f'<pre>{html.escape(text.rstrip())}</pre>')

    def figure(
        self,
        picture: Figure | bytes | str | os.PathLike[str],
        caption: str = '',
        alt: str | None = None,
    ) -> None:
        """Add a picture, which becomes part of the page.

        Args:
            picture: A figure, the content of a PNG file, or the path of one.
            caption: Text below.
            alt: Text for readers who do not see it; the caption by default.
        """
        if isinstance(picture, Figure):
            data = _png(picture)
        elif isinstance(picture, bytes):
            data = picture
        else:
            data = Path(picture).read_bytes()
        code = base64.b64encode(data).decode('ascii')
        below = f'<figcaption>{_text(caption)}</figcaption>' if caption else ''
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{code}" '
            f'alt="{_text(alt or caption)}">{below}</figure>'
        )

    def render(self) -> str:
        """Give the page.

        Returns:
            HTML.
        """
        links = ''.join(
            f'<a href="#s{number}">{_text(heading)}</a>'
            for number, heading in enumerate(self._sections, start=1)
        )
        subtitle = f'<p class="subtitle">{_text(self.subtitle)}</p>'
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{_text(self.title)}</title>\n<style>{_STYLE}</style></head>\n'
            f'<body><header><h1>{_text(self.title)}</h1>'
            f'{subtitle if self.subtitle else ""}'
            f'{f"<nav>{links}</nav>" if links else ""}</header>\n<main>\n'
            + '\n'.join(self._parts)
            + '\n</main></body></html>\n'
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; the file appears in full or not at all.

        Args:
            path: File to write; an older one is replaced.

        Returns:
            The file.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix='.', suffix='.part')
        try:
            with os.fdopen(handle, 'w', encoding='utf-8') as file:
                file.write(self.render())
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return path


def _text(value: object) -> str:
    """Write a value as text that HTML shows unchanged."""
    if value is None:
        return DASH
    return html.escape(str(value))


def _plain(value: object) -> str:
    """Write a setting."""
    if isinstance(value, str) or value is None:
        return DASH if value is None else value
    try:
        return json.dumps(value)
    except TypeError:
        return str(value)


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


def _png(figure: Figure, dpi: int = 150) -> bytes:
    """Draw a figure."""
    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    return buffer.getvalue()


def write_run_report(
    run: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    data: Mapping[str, Any] | None = None,
    mapping: Mapping[str, Any] | None = None,
    map_folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of a run: what there is in its folder, on one page.

    Args:
        run: Folder of the run. ``test.json``, ``metrics.csv``, ``config.yaml``,
            ``expert_use.json``, ``map.png`` and ``confidence.tif`` are shown if they
            exist.
        path: File to write, ``report.html`` in the folder by default.
        data: What the datamodule says of its data; taken from ``test.json`` if None.
        mapping: Facts about the map; with 'checkpoint digest', a notice says if
            ``test.json`` is of another checkpoint.
        map_folder: Folder of the map's files, the run's folder by default.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f'there is no run folder {run}')
    maps = run if map_folder is None else Path(map_folder)
    test = _read_json(run / 'test.json')
    described: Mapping[str, Any] = data or {}
    scene: Mapping[str, Any] = described.get('scene') or {}
    name = scene.get('name') or test.get('scene') or run.name
    synthetic = scene.get('synthetic') or test.get('synthetic')
    page = Report(f'Classification of {name}', _subtitle(test, scene))
    if synthetic:
        page.notice(
            'This scene is synthetic: a program made it. Figures say nothing about '
            'real images.'
        )
    palette = scene.get('palette')
    mapped, tested = (
        (mapping or {}).get('checkpoint digest'),
        test.get('checkpoint_digest'),
    )
    if mapped and tested and mapped != tested:
        page.notice(
            f'Accuracies and map are of two checkpoints: {test.get("checkpoint")} '
            f'({tested[:12]}) was tested, {(mapping or {}).get("checkpoint")} '
            f'({mapped[:12]}) made the map. Run test with the checkpoint of the map.'
        )
    if test:
        _headline(page, test)
    if (maps / 'map.png').is_file():
        _show_map(page, maps, mapping or {})
    if test:
        _accuracies(page, test, palette)
    split = described.get('split') or test.get('split') or {}
    names = scene.get('class_names') or test.get('class_names') or []
    if split:
        _split(page, split, names, palette)
    if (run / 'metrics.csv').is_file():
        curves = learning_curves(run / 'metrics.csv')
        if curves is not None:
            page.section('Learning curves')
            page.figure(curves, 'Loss and accuracy by epoch.')
    experts = _read_json(run / 'expert_use.json')
    if experts:
        _experts(page, run, experts)
    _settings(page, run, test, described)
    return page.write(run / 'report.html' if path is None else path)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        logger.warning('%s cannot be read and is left out: %s', path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _percent(value: Any, digits: int = 2) -> str | None:
    """Write a share as a percentage."""
    return None if value is None else f'{100 * float(value):.{digits}f}'


def _subtitle(test: Mapping[str, Any], scene: Mapping[str, Any]) -> str:
    parts = []
    if test.get('model'):
        parts.append(f'{test["model"]}')
    if test.get('parameters'):
        parts.append(f'{test["parameters"]:,} parameters')
    if scene.get('shape'):
        rows, cols, bands = scene['shape']
        parts.append(f'{rows} x {cols} pixels, {bands} bands')
    source = scene.get('source') or test.get('source')
    if source:
        parts.append(str(source))
    return ' · '.join(parts)


def _headline(page: Report, test: Mapping[str, Any]) -> None:
    overlap = test.get('overlap') or {}
    page.cards(
        {
            'overall accuracy, %': _percent(test.get('overall_accuracy')),
            'average accuracy, %': _percent(test.get('average_accuracy')),
            'kappa x 100': _percent(test.get('kappa')),
        }
    )
    text = f'On the test pixels of the {test.get("protocol")} split'
    if test.get('seed') is not None:
        text += f', seed {test["seed"]}'
    if test.get('epochs') is not None:
        text += f', after {test["epochs"]} epoch{"s" if test["epochs"] != 1 else ""}'
    text += '.'
    centre = _percent(overlap.get('contains_training_centre'), 1)
    pixel = _percent(overlap.get('shares_training_pixel'), 1)
    if centre is not None and pixel is not None:
        text += (
            f' Of the test patches, {centre} % contain the centre of a training patch, '
            f'and {pixel} % share a pixel with a training patch: the larger these '
            'shares, the less the accuracies say about places the network has not seen.'
        )
    page.paragraph(text)


def _show_map(page: Report, folder: Path, facts: Mapping[str, Any]) -> None:
    page.section('Map')
    page.figure(
        folder / 'map.png', 'The map, the scene in false colour, and its labels.'
    )
    confidence = folder / 'confidence.tif'
    if confidence.is_file():
        page.figure(
            confidence_figure(confidence),
            'Probability of the class that was chosen (not calibrated).',
        )
    if facts.get('classes'):
        rows = facts['classes']
        total = max(sum(row[2] for row in rows), 1)
        page.table(
            ('class', 'value in map.tif', 'pixels', 'share, %'),
            [
                (name, value, f'{count:,}', _percent(count / total))
                for name, value, count in rows
            ],
            'Pixels of the map by class.',
            swatches=facts.get('palette'),
        )
    rest = {
        name: value
        for name, value in facts.items()
        if name not in ('classes', 'palette')
    }
    if rest:
        page.settings(rest)


def confidence_figure(path: Path) -> Figure:
    """Draw the top probability as a picture and a histogram.

    Args:
        path: ``confidence.tif``.

    Returns:
        The figure.
    """
    from .figure import read_confidence

    values = read_confidence(path)
    figure = Figure(figsize=(7.2, 3.0), layout='constrained')
    left, right = figure.subplots(1, 2)
    picture = left.imshow(values, vmin=0, vmax=1, cmap='viridis', aspect='equal')
    left.set_axis_off()
    left.set_title('Top probability', fontsize=9)
    figure.colorbar(picture, ax=left, shrink=0.9).ax.tick_params(labelsize=8)
    known = values[np.isfinite(values)]
    right.hist(known, bins=np.linspace(0, 1, 41).tolist(), color='#1d5f8a')
    right.set_xlabel('top probability', fontsize=8)
    right.set_ylabel('pixels', fontsize=8)
    right.set_xlim(0, 1)
    right.tick_params(labelsize=8)
    right.set_title('Histogram', fontsize=9)
    return figure


def _accuracies(page: Report, test: Mapping[str, Any], palette: Any) -> None:
    page.section('Accuracies')
    names = test.get('class_names') or []
    counts, recalls = test.get('counts') or [], test.get('per_class') or []
    precisions = test.get('precision') or [None] * len(recalls)
    rows: list[Sequence[object]] = [
        (number, name, count, _percent(recall), _percent(precision))
        for number, (name, count, recall, precision) in enumerate(
            zip(names, counts, recalls, precisions, strict=False), start=1
        )
    ]
    shown: list[Sequence[object]] = [(name, *rest) for _, name, *rest in rows]
    shown += [
        ('overall accuracy', sum(counts), _percent(test.get('overall_accuracy')), None),
        (
            'average',
            None,
            _percent(test.get('average_accuracy')),
            _percent(test.get('precision_average')),
        ),
        ('kappa x 100', None, _percent(test.get('kappa')), None),
    ]
    page.table(
        ('class', 'test pixels', 'recall, %', 'precision, %'),
        shown,
        'Average accuracy is the mean of the recalls.',
        swatches=palette,
        totals=3,
    )
    if test.get('confusion_matrix'):
        page.matrix(
            test['confusion_matrix'],
            names,
            'Confusion matrix: pixels by true class (rows) and predicted class '
            '(columns). Colour is the share of the row.',
        )


def _split(
    page: Report, split: Mapping[str, Any], names: Sequence[str], palette: Any
) -> None:
    page.section('Split')
    overlap = split.get('overlap') or {}
    facts = {
        'protocol': split.get('protocol'),
        **(split.get('settings') or {}),
        'identity': split.get('identity'),
    }
    if overlap:
        facts['test patches that contain a training centre, %'] = _percent(
            overlap.get('contains_training_centre')
        )
        facts['test patches that share a pixel with a training patch, %'] = _percent(
            overlap.get('shares_training_pixel')
        )
    page.settings(facts)
    counts = split.get('counts') or {}
    parts = [part for part in ('train', 'val', 'test') if part in counts]
    if parts and all(len(counts[part]) == len(names) for part in parts):
        rows: list[Sequence[object]] = [
            (name, *(counts[part][index] for part in parts))
            for index, name in enumerate(names)
        ]
        rows.append(('all', *(sum(counts[part]) for part in parts)))
        heads = {'train': 'training', 'val': 'validation', 'test': 'test'}
        page.table(
            ('class', *(heads[part] for part in parts)),
            rows,
            'Pixels by class.',
            swatches=palette,
            totals=1,
        )


def learning_curves(path: str | os.PathLike[str]) -> Figure | None:
    """Draw losses and accuracies by epoch.

    Args:
        path: ``metrics.csv`` of Lightning's CSV logger; what is no number is left out.

    Returns:
        The figure, or None if the file has no epoch.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    with Path(path).open(newline='', encoding='utf-8') as file:
        for line in csv.DictReader(file):
            epoch = _float(line.get('epoch'))
            if epoch is None or not math.isfinite(epoch):
                continue
            for name, text in line.items():
                value = _float(text)
                if value is not None and name not in ('epoch', 'step'):
                    series.setdefault(name, []).append((int(epoch), value))
    losses = [
        (name, label)
        for name, label in (
            ('train_loss_epoch', 'training'),
            ('train_loss', 'training'),
            ('val_loss', 'validation'),
        )
        if name in series
    ]
    scores = [
        (name, label)
        for name, label in (
            ('train_OA', 'OA, training'),
            ('val_OA', 'OA, validation'),
            ('val_AA', 'AA, validation'),
            ('val_kappa', 'kappa, validation'),
        )
        if name in series
    ]
    if not losses and not scores:
        return None
    figure = Figure(figsize=(7.2, 2.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    for axes, names, factor, unit in (
        (left, losses, 1.0, 'loss'),
        (right, scores, 100.0, 'per cent'),
    ):
        for name, label in names:
            points = sorted(dict(series[name]).items())
            marker = 'o' if len(points) < 3 else None
            axes.plot(
                [epoch + 1 for epoch, _ in points],
                [factor * value for _, value in points],
                label=label,
                marker=marker,
                markersize=3,
                linewidth=1.3,
            )
        axes.set_xlabel('epoch', fontsize=8)
        axes.set_ylabel(unit, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        if names:
            axes.legend(
                fontsize=8,
                frameon=False,
                loc='lower center',
                bbox_to_anchor=(0.5, 1.0),
                ncols=2,
            )
    return figure


def _float(text: object) -> float | None:
    """Read a cell of a CSV file; None if it holds no number."""
    try:
        return float(str(text))
    except ValueError:
        return None


def _experts(page: Report, run: Path, experts: Mapping[str, Any]) -> None:
    """Show how much each class uses each expert."""
    page.section('Experts')
    page.paragraph(
        'How the network mixes its kernels. An entropy of 1 means that all experts '
        'count the same; information about the class is how much the mixture of a '
        'pixel tells of its class, as a share of the most that is possible.'
    )
    picture = run / 'expert_use.png'
    if picture.is_file():
        page.figure(picture, 'Mean attention to each expert by layer and class.')
    rows: list[Sequence[object]] = []
    by_class: list[Sequence[object]] = []
    for name, layer in (experts.get('layers') or {}).items():
        most = layer.get('log_experts') or 1.0
        rows.append(
            (
                name,
                layer.get('experts'),
                f'{layer.get("entropy", 0.0) / most:.3f}',
                f'{layer.get("class_information", 0.0) / most:.4f}',
                ', '.join(f'{share:.2f}' for share in layer.get('mean') or ()),
            )
        )
        shares = layer.get('per_class') or ()
        by_class.append((name, *(_top_expert(share) for share in shares)))
    if not rows:
        return
    page.table(('layer', 'experts', 'entropy', 'information', 'mean attention'), rows)
    names = experts.get('class_names') or [
        f'class {number}' for number in range(1, len(by_class[0]))
    ]
    if all(len(row) == 1 + len(names) for row in by_class):
        page.table(
            ('layer', *names),
            by_class,
            'The expert that counts most for each class, and its mean attention.',
        )


def _top_expert(shares: Sequence[float] | None) -> str | None:
    """Name the expert of the largest attention; None for a class without samples."""
    if not shares:
        return None
    top = max(range(len(shares)), key=shares.__getitem__)
    return f'{top + 1} ({shares[top]:.2f})'


def _settings(
    page: Report, run: Path, test: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    page.section('Settings')
    scene = described.get('scene') or {}
    facts: dict[str, object] = {}
    for key in (
        'model',
        'model_options',
        'parameters',
        'checkpoint',
        'checkpoint_digest',
        'seed',
        'epochs',
    ):
        if test.get(key) is not None:
            facts[key] = test[key]
    for key in ('patch_size', 'padding_mode', 'normalization', 'pca', 'num_bands'):
        value = described.get(key, test.get(key))
        if value is not None:
            facts[key] = value
    for key in ('source', 'dtype', 'nodata', 'crs'):
        if scene.get(key):
            facts[f'scene: {key}'] = scene[key]
    versions = test.get('versions') or {}
    if versions:
        facts['versions'] = ', '.join(f'{k} {v}' for k, v in versions.items())
    if facts:
        page.settings(facts)
    config = run / 'config.yaml'
    if config.is_file():
        page.paragraph('Configuration of the training run (config.yaml):')
        page.code(config.read_text(encoding='utf-8'))
