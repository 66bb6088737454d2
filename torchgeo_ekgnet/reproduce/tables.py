# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""From summaries to tables: means over seeds, published beside reproduced.

Text that people read is made of :class:`Table` objects, which :func:`to_markdown` and
the report page write; :func:`to_csv` writes one number a line for programs.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .declarations import Published
from .statistics import SIGNIFICANCE, mean_and_std
from .summary import Comparison, Summary

NONE = '-'
"""What stands where there is nothing to report."""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        name: Short name, for anchors and file names.
        caption: What the table shows.
        header: Names of the columns.
        rows: Cells, as many in each row as in the header.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def percent(values: Sequence[float]) -> str:
    """Print mean and standard deviation.

    Args:
        values: Numbers, one a seed; NaNs are left out.

    Returns:
        Such as ``'97.31 ± 0.12'``.
    """
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return NONE
    mean, spread = mean_and_std(known)
    return f'{mean:.2f}' if math.isnan(spread) else f'{mean:.2f} ± {spread:.2f}'


def _published(
    numbers: Mapping[tuple[str, str], Published], row: str, name: str
) -> str:
    """Print a number of the paper."""
    number = numbers.get((row, name))
    if number is None:
        return NONE
    spread = '' if number.std is None else f' ± {number.std:.2f}'
    return f'{number.percent:.2f}{spread}'


def _duration(seconds: float) -> str:
    """Print a time."""
    if seconds < 100:
        return f'{seconds:.1f} s'
    return f'{seconds / 60:.1f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def _range_of(summary: Summary, name: str) -> str:
    """Print a number of epochs that not every result has."""
    known = [result[name] for result in summary.results if result.get(name)]
    return number_range(known) if known else NONE


def number_range(values: Sequence[int]) -> str:
    """Print numbers by their smallest and largest.

    Args:
        values: At least one number.

    Returns:
        Such as ``'7'`` or ``'7 to 12'``.
    """
    low, high = min(values), max(values)
    return str(low) if low == high else f'{low} to {high}'


def accuracy_table(
    summaries: Sequence[Summary], numbers: Mapping[tuple[str, str], Published]
) -> Table:
    """Published beside reproduced.

    Args:
        summaries: The rows.
        numbers: The paper's numbers, may be empty.

    Returns:
        The table; without the columns of the paper if it has no numbers.
    """
    columns = (
        ('OA', 'OA', 'OA'),
        ('AA (precision)', 'AA', 'AA_precision'),
        ('AA (recall)', '', 'AA'),
        ('kappa', 'Kappa', 'Kappa'),
    )
    header = ['row']
    for title, name, _ in columns:
        if numbers and name:
            header.append(f'{title}, published')
        header.append(title)
    header += ['RBF-SVM, OA', 'seeds', 'epochs', 'tested epoch']
    header += ['last-quarter rise', 'status']
    rows = []
    for summary in summaries:
        cells = [summary.label]
        for _, name, metric in columns:
            if numbers and name:
                cells.append(_published(numbers, summary.key, name))
            cells.append(percent(summary.values(metric)))
        cells.append(NONE if summary.bar is None else f'{summary.bar:.2f}')
        cells.append(str(len(summary.results)))
        cells += [_range_of(summary, name) for name in ('epochs', 'tested_epoch')]
        known = summary.rise is not None and math.isfinite(summary.rise)
        cells.append(f'{round(summary.rise or 0.0, 2) + 0.0:+.2f}' if known else NONE)
        cells.append(summary.status)
        rows.append(tuple(cells))
    return Table(
        'accuracy',
        'Accuracy in percent, mean ± standard deviation over seeds',
        tuple(header),
        tuple(rows),
    )


def class_table(
    summaries: Sequence[Summary], numbers: Mapping[tuple[str, str], Published]
) -> Table:
    """Accuracy of each class: published (a precision), precision and recall.

    Args:
        summaries: The rows of the accuracy table; here they are columns.
        numbers: The paper's numbers, may be empty.

    Returns:
        The table.
    """
    names = summaries[0].results[0]['scene']['class_names']
    rows = []
    for index, name in enumerate(names, 1):
        cells = [f'{index} {name}']
        for summary in summaries:
            precision = percent(summary.values(f'class_{index}_precision'))
            recall = percent(summary.values(f'class_{index}'))
            cell = f'{precision} / {recall}'
            if numbers:
                cell = f'{_published(numbers, summary.key, f"class_{index}")} / {cell}'
            cells.append(cell)
        rows.append(tuple(cells))
    order = 'published / precision / recall' if numbers else 'precision / recall'
    return Table(
        'classes',
        f'Classes, in percent: {order}',
        ('class', *(summary.label for summary in summaries)),
        tuple(rows),
    )


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """All pairs of converged rows.

    Args:
        comparisons: The pairs.

    Returns:
        The table.
    """
    rows = [
        (
            pair.better.label,
            pair.worse.label,
            f'{pair.difference:.2f}',
            NONE if math.isnan(pair.shown_from) else f'{pair.shown_from:.2f}',
            _p(pair.p_value),
            _p(pair.adjusted),
            'better' if pair.significant else 'no difference shown',
        )
        for pair in comparisons
    ]
    return Table(
        'significance',
        'Converged rows in pairs, overall accuracy: corrected resampled t-test over '
        f'seeds, adjusted by Holm; an order is claimed below {SIGNIFICANCE}',
        (
            'higher mean',
            'lower mean',
            'points',
            'shown from',
            'p',
            'p adjusted',
            'claim',
        ),
        tuple(rows),
    )


def _p(value: float) -> str:
    """Print a p-value."""
    return NONE if math.isnan(value) else '< 0.001' if value < 0.001 else f'{value:.3f}'


def order_notes(
    comparisons: Sequence[Comparison],
    summaries: Sequence[Summary],
    numbers: Mapping[tuple[str, str], Published],
) -> list[str]:
    """Sentences on where the paper's order holds and where it does not.

    Args:
        comparisons: The pairs of converged rows.
        summaries: All rows.
        numbers: The paper's numbers, may be empty.

    Returns:
        The sentences.
    """
    notes = []
    excluded = [summary.label for summary in summaries if summary.reason]
    if excluded:
        notes.append(
            'Below the RBF-SVM or not converged, and kept out of every claim of order: '
            f'{", ".join(excluded)}.'
        )
    held, kept, turned = 0, 0, []
    for pair in comparisons:
        high = numbers.get((pair.better.key, 'OA'))
        low = numbers.get((pair.worse.key, 'OA'))
        if high is None or low is None or high.percent == low.percent:
            continue
        if high.percent > low.percent:
            held += 1
            kept += pair.significant
        else:
            shown = 'shown' if pair.significant else 'not significant'
            turned.append(f'{pair.better.label} over {pair.worse.label} ({shown})')
    if held or turned:
        notes.append(
            f'Of {held + len(turned)} pairs that the paper orders and that converged '
            f'here, {held} have the same sign, {kept} of them significantly.'
        )
    if turned:
        notes.append(f'Against the order of the paper: {"; ".join(turned)}.')
    return notes


def cost_table(summaries: Sequence[Summary]) -> Table:
    """Parameters and times.

    Args:
        summaries: The rows.

    Returns:
        The table.
    """
    rows = []
    for summary in summaries:
        parameters = summary.results[0]['parameters']
        training = [r['seconds']['training'] for r in summary.results]
        inference = [r['seconds']['inference'] for r in summary.results]
        tested = summary.results[0]['split']['sizes'][2]
        rows.append(
            (
                summary.label,
                NONE if parameters is None else f'{parameters:,}',
                _duration(float(np.mean(training))),
                _duration(float(np.mean(inference))),
                f'{1000 * float(np.mean(inference)) / tested:.2f} ms',
            )
        )
    return Table(
        'cost',
        'Cost, mean over seeds (times depend on what else the machine did)',
        ('row', 'parameters', 'training', 'test', 'test per pixel'),
        tuple(rows),
    )


def expert_table(summaries: Sequence[Summary]) -> Table | None:
    """How evenly dynamic convolutions use their experts.

    Args:
        summaries: The rows.

    Returns:
        The table, or None if no row has experts.
    """
    columns = {
        'entropy, mean': 'entropy',
        'entropy, lowest': 'lowest_entropy',
        'told about the class': 'information',
        'OA with mean attention': 'accuracy_with_mean_attention',
    }
    rows = []
    for summary in summaries:
        uses = [result.get('experts') for result in summary.results]
        known = [use for use in uses if use]
        if not known:
            continue
        cells = [summary.label]
        for name in columns.values():
            values = [use[name] for use in known]
            cells.append(
                percent([100 * value for value in values if value is not None])
            )
        warm = [use['temperature'] for use in known if use['temperature'] is not None]
        rows.append((*cells, f'{mean_and_std(warm)[0]:.1f}' if warm else NONE))
    if not rows:
        return None
    return Table(
        'experts',
        'Use of the experts over test patches, in percent: entropy of the attention '
        'over log K (100: all experts alike, 0: one only), mean and lowest over '
        'layers; most that a layer tells about the class, over log K; overall accuracy '
        'with the attention replaced by its mean; mean temperature of the tested '
        'network',
        ('row', *columns, 'temperature'),
        tuple(rows),
    )


def to_markdown(table: Table) -> str:
    """Write a table in Markdown.

    Args:
        table: The table.

    Returns:
        Caption and table.
    """

    def line(cells: Sequence[str]) -> str:
        # A name of several lines would end the row.
        plain = (' '.join(cell.split()).replace('|', '\\|') for cell in cells)
        return '| ' + ' | '.join(plain) + ' |'

    rule = '|' + '---|' * len(table.header)
    lines = [f'{table.caption}.', '', line(table.header), rule]
    return '\n'.join([*lines, *(line(row) for row in table.rows)]) + '\n'


CSV_HEADER = (
    'row',
    'label',
    'metric',
    'published',
    'published_std',
    'mean',
    'std',
    'seeds',
    'status',
)


def to_csv(
    summaries: Sequence[Summary], numbers: Mapping[tuple[str, str], Published]
) -> str:
    """Write every accuracy, one a line.

    The published ``AA`` and ``class_N`` stand beside ``AA_precision`` and
    ``class_N_precision``, which is what the released code computes.

    Args:
        summaries: The rows.
        numbers: The paper's numbers, may be empty.

    Returns:
        The text of the file, in percent with four decimals.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(CSV_HEADER)
    for summary in summaries:
        classes = range(1, len(summary.accuracies[0].counts) + 1)
        metrics = {'OA': 'OA', 'AA': None, 'AA_precision': 'AA', 'Kappa': 'Kappa'}
        for index in classes:
            metrics[f'class_{index}'] = None
            metrics[f'class_{index}_precision'] = f'class_{index}'
        for metric, name in metrics.items():
            number = numbers.get((summary.key, name)) if name else None
            known = [v for v in summary.values(metric) if not math.isnan(v)]
            mean, spread = mean_and_std(known) if known else (math.nan, math.nan)
            writer.writerow(
                (
                    summary.key,
                    summary.label,
                    metric,
                    '' if number is None else f'{number.percent:.2f}',
                    '' if number is None or number.std is None else f'{number.std:.2f}',
                    _number(mean),
                    _number(spread),
                    len(known),
                    summary.status,
                )
            )
    return text.getvalue()


def _number(value: float) -> str:
    """Print a number for programs, nothing for NaN."""
    return '' if math.isnan(value) else f'{value:.4f}'
