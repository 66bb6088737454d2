# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The report of a sweep: Markdown, CSV and a page for the browser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import write_text
from .declarations import Published
from .statistics import RISE_LIMIT, RISE_PIXELS
from .summary import Summary, compare, conclusion, runs_of
from .tables import (
    Table,
    accuracy_table,
    class_table,
    comparison_table,
    cost_table,
    expert_table,
    number_range,
    order_notes,
    to_csv,
    to_markdown,
)


@dataclass(frozen=True)
class Report:
    """What is written about a sweep.

    Attributes:
        title: Heading.
        facts: Name and text of what holds for the whole sweep: scene, split, seeds.
        tables: The tables.
        notes: Sentences below the tables.
        summaries: The rows.
        numbers: The paper's numbers, may be empty.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    summaries: tuple[Summary, ...]
    numbers: Mapping[tuple[str, str], Published]


def _percent(values: Sequence[float]) -> str:
    """Print the mean of shares."""
    return f'{100 * sum(values) / len(values):.1f} %'


def _settings_text(settings: Mapping[str, Any]) -> str:
    """Print a protocol's arguments without its seeds."""
    return ', '.join(
        f'{name} ({_settings_text(value)})'
        if isinstance(value, Mapping)
        else f'{name} {value}'
        for name, value in settings.items()
        if name != 'seed'
    )


def _split_facts(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Describe the splits: protocol, sizes and the two overlap shares."""
    facts = []
    seen: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for result in results:
        split = result['split']
        protocol = f'{split["protocol"]} ({_settings_text(split["settings"])})'
        seen.setdefault((protocol, result['patch_size']), []).append(split)
    for (protocol, patch_size), splits in seen.items():
        sizes = ' / '.join(
            number_range([split['sizes'][part] for split in splits])
            for part in range(3)
        )
        centre = _percent([split['contains_training_centre'] for split in splits])
        pixel = _percent([split['shares_training_pixel'] for split in splits])
        text = (
            f'{protocol}; pixels to train / validate / test: {sizes}; patches of '
            f'{patch_size} x {patch_size}: {centre} of the test patches contain a '
            f'training centre, {pixel} share a pixel with a training patch'
        )
        facts.append(('split', text))
    dropped = {
        result['scene']['class_names'][label - 1]
        for result in results
        for label in result['split']['dropped']
    }
    if dropped:
        names = ', '.join(sorted(dropped))
        facts.append(('classes left out', f'{names}: the protocol cannot serve them'))
    return facts


#: Files of a report; its figures lie beside them.
REPORT_FILES = ('report.md', 'results.csv', 'report.html')


def _sweep_facts(
    results: Sequence[Mapping[str, Any]], seeds: Sequence[int], note: str
) -> list[tuple[str, str]]:
    """Name what holds for a whole sweep."""
    scene = results[0]['scene']
    size = ' x '.join(str(length) for length in scene['shape'])
    synthetic = 'made up by this package; ' if scene.get('synthetic') else ''
    facts = [
        ('scene', f'{scene["name"]}, {size}; {synthetic}{scene.get("source", "")}')
    ]
    facts += _split_facts(results)
    facts.append(('seeds', ', '.join(str(seed) for seed in seeds)))
    if note:
        facts.append(('effort', note))
    environments = [result['environment'] for result in results]
    versions: dict[str, dict[str, None]] = {}
    for environment in environments:
        for name, text in environment['versions'].items():
            versions.setdefault(name, {})[text] = None
    listed = (f'{name} {" and ".join(found)}' for name, found in versions.items())
    facts.append(('software', ', '.join(listed)))
    machines = {
        f'{environment["accelerator"]}, {environment["processor"]}, '
        f'{environment["threads"]} thread(s)'
        for environment in environments
    }
    facts.append(('hardware', '; '.join(sorted(machines))))
    return facts


def _software_note(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say that results were measured with different software, if they were."""
    found: dict[str, set[str]] = {}
    for result in results:
        environment = result['environment']
        code = environment.get('code', 'unknown')
        for name, text in {**environment['versions'], 'code': code}.items():
            found.setdefault(name, set()).add(text)
    names = {'code': 'code of this package'}
    mixed = [
        f'{names.get(name, name)} {" and ".join(sorted(texts))}'
        for name, texts in found.items()
        if len(texts) > 1
    ]
    if not mixed:
        return []
    text = (
        f'The runs were done with different software ({", ".join(mixed)}): scores and '
        'times may differ for that. Another --out measures all of them anew.'
    )
    return [text]


def build_report(
    title: str,
    summaries: Sequence[Summary],
    seeds: Sequence[int],
    numbers: Mapping[tuple[str, str], Published] | None = None,
    note: str = '',
) -> Report:
    """Put a report together.

    Args:
        title: Heading.
        summaries: All rows, at least one.
        seeds: Seeds of the runs.
        numbers: The paper's numbers, if it has any for this table and scene.
        note: Sentence on the effort.

    Returns:
        The report.

    Raises:
        ValueError: If there is no row.
    """
    if not summaries:
        raise ValueError('summaries: no run has finished, there is nothing to report')
    numbers = numbers or {}
    comparisons = compare(summaries)
    tables = [accuracy_table(summaries, numbers)]
    if comparisons:
        tables.append(comparison_table(comparisons))
    # Smoothing changes scores alone.
    plain = [summary for summary in summaries if not summary.is_smoothed]
    tables.append(class_table(plain, numbers))
    experts = expert_table(plain)
    if experts is not None:
        tables.append(experts)
    tables.append(cost_table(plain))
    results = runs_of(summaries)
    notes = _software_note(results)
    notes += [conclusion(summaries, comparisons)] if len(summaries) > 1 else []
    notes += order_notes(comparisons, summaries, numbers)
    if ('spectralformer', 'class_1') in numbers:
        notes.append(
            "The published column of SpectralFormer is copied from that system's own "
            'paper: another split, and on Indian Pines another order of the classes.'
        )
    notes.append(
        'AA (recall) is the mean of the recalls, the standard definition; AA '
        "(precision) is the mean of the precisions, which the paper's released code "
        'computes under the name of average accuracy.'
    )
    notes.append(
        'A network below the RBF-SVM on the same splits, or whose validation accuracy '
        f'still rises by more than {RISE_LIMIT} points (or {RISE_PIXELS} validation '
        'pixels, where that is more) over the last quarter of its epochs, counts as not '
        'converged. Where no pixel validates, the rise is that '
        'of training accuracy, which is shown and decides nothing.'
    )
    hours = sum(sum(run['seconds'].values()) for run in runs_of(plain))
    notes.append(f'Training and testing took {hours / 3600:.2f} hours in all.')
    facts = _sweep_facts(results, seeds, note)
    return Report(
        title, tuple(facts), tuple(tables), tuple(notes), tuple(summaries), numbers
    )


def report_markdown(report: Report) -> str:
    """Write a report in Markdown.

    Args:
        report: The report.

    Returns:
        The text.
    """
    parts = [_line(f'# {report.title}'), '']
    parts += [_line(f'- **{name}**: {text}') for name, text in report.facts]
    parts.append('')
    parts += [to_markdown(table) for table in report.tables]
    parts += [_line(f'- {note}') for note in report.notes]
    return '\n'.join(parts) + '\n'


def _line(text: str) -> str:
    """Write what names of files may break into lines as one."""
    return ' '.join(text.split())


def _write_page(
    path: Path, report: Report, figures: Sequence[tuple[Path, str]]
) -> None:
    """Write a report as a page for the browser."""
    from ..maps.page import Page

    page = Page(report.title)
    page.table(('', ''), report.facts)
    for image, caption in figures:
        page.figure(image, caption)
    for table in report.tables:
        page.section(table.name.capitalize())
        page.table(table.header, table.rows, caption=table.caption)
    for note in report.notes:
        page.paragraph(note)
    page.write(path)


def write_report(
    folder: Path, report: Report, figures: Sequence[tuple[Path, str]]
) -> list[Path]:
    """Write all files of a report.

    Args:
        folder: Where to; made if missing.
        report: The report.
        figures: PNG files in the folder with their captions.

    Returns:
        The files: ``report.md``, ``results.csv`` and ``report.html``.
    """
    markdown, values, page = (folder / name for name in REPORT_FILES)
    images = [f'![{caption}]({image.name})\n' for image, caption in figures]
    write_text(markdown, '\n'.join([report_markdown(report), *images]))
    write_text(values, to_csv(report.summaries, report.numbers))
    _write_page(page, report, figures)
    return [markdown, values, page]
