# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tables of the results."""

import statistics
from collections.abc import Sequence
from typing import Any

__all__ = (
    'busy_text',
    'data_text',
    'heading',
    'layers_text',
    'markdown',
    'models_text',
    'profile_text',
    'table_text',
)


def _milliseconds(times: dict[str, float]) -> str:
    """Write a time with its spread."""
    low, high = 1e3 * times['lower'], 1e3 * times['upper']
    return f'{1e3 * times["median"]:.1f} ({low:.1f}-{high:.1f})'


def _number(value: float | None, form: str = '.2f') -> str:
    """Write a figure that may be missing."""
    return '' if value is None else format(value, form)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table whose columns are aligned."""
    widths = [
        max(len(str(row[column])) for row in [header, *rows])
        for column in range(len(header))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) for c, w in zip(cells, widths, strict=True)]
        return '| ' + ' | '.join(padded) + ' |'

    rule = '|' + '|'.join('-' * (width + 2) for width in widths) + '|'
    return '\n'.join([line(header), rule, *map(line, rows)])


def _mebibytes(value: float | None, form: str = '.0f') -> str:
    """Write an amount of memory that may be missing."""
    return _number(None if value is None else value / 2**20, form)


def heading(results: dict[str, Any]) -> str:
    """Write where the times come from."""
    facts = ', '.join(f'{key} {value}' for key, value in results['machine'].items())
    floor = results['floor']
    return (
        f'{facts}\n\n'
        f'matrix peak {floor["flops"] / 1e9:.0f} GFLOP/s, '
        f'copy {floor["bytes"] / 1e9:.1f} GB/s; '
        f'precision {results["precision"]}; '
        f'times in ms ({results["clock"]} clock): median (quartiles)'
    )


def _times(row: dict[str, Any], arms: Sequence[str]) -> list[str]:
    """Write the times of arms, which not every row has."""
    times = row['seconds']
    return [_milliseconds(times[arm]) if arm in times else '' for arm in arms]


#: Titles of what :func:`_shares` writes.
_OF = ('of peak', 'of copy', 'of floor')


def _shares(row: dict[str, Any]) -> list[str]:
    """Write which shares of what the machine can do a row reaches."""
    names = ('share of peak', 'share of bandwidth', 'share of floor')
    return [_number(row[name], '.0%') for name in names]


def layers_text(rows: list[dict[str, Any]]) -> str:
    """Write the table of layers."""
    arms = ('ours', 'paper', 'static', 'dense', 'with mapping')
    cells = [
        [
            row['layer'],
            row['pass'],
            *_times(row, arms),
            _number(row['paper / ours']),
            _number(row['ours / static']),
            *_shares(row),
        ]
        for row in rows
    ]
    header = ['layer', 'pass', *arms, 'paper / ours', 'ours / static', *_OF]
    return markdown(header, cells)


def _size_text(row: dict[str, Any]) -> str:
    """Write patch size, bands and batch."""
    return f'{row["patch"]}, {row["bands"]}, {row["batch"]}'


def models_text(rows: list[dict[str, Any]]) -> str:
    """Write the table of networks."""
    arms = list(dict.fromkeys(arm for row in rows for arm in row['seconds']))
    cells = [
        [
            f'{row["model"]} {row["pass"]}',
            _size_text(row),
            *_times(row, arms),
            _number(row['patches per second'], '.0f'),
            _number(row['paper / ours']),
            _number(row.get('released / ours')),
            _number(row.get('unfolded / ours')),
            _number(row['ours / static']),
            *_shares(row),
            ' / '.join(_mebibytes(value) for value in row['peak bytes'].values()),
        ]
        for row in rows
    ]
    header = ['model', 'patch, bands, batch', *arms, 'patches/s', 'paper / ours']
    header += ['released / ours', 'unfolded / ours', 'ours / static', *_OF]
    return markdown([*header, f'peak MiB: {" / ".join(arms)}'], cells)


def profile_text(part: dict[str, Any]) -> str:
    """Write the profile."""
    cells = [
        [
            row['kind'],
            f'{1e3 * row["seconds"]:.1f}',
            f'{row["share"]:.0%}',
            _number(row['executed flops'] / 1e9 or None, '.1f'),
            _number(row['share of peak'], '.0%'),
        ]
        for row in part['rows']
    ]
    return (
        f'profile of {part["model"]}, inference, patch {part["patch"]}, '
        f'{part["bands"]} bands, batch {part["batch"]}: '
        f'{1e3 * part["seconds"]:.0f} ms a pass; the network needs '
        f'{part["useful flops"] / 1e9:.1f} GFLOP, '
        f'{part["executed flops"] / 1e9:.1f} GFLOP are executed\n\n'
    ) + markdown(['operators', 'ms', 'of the time', 'GFLOP', 'of peak'], cells)


def data_text(rows: list[dict[str, Any]]) -> str:
    """Write the table of the data path."""
    cells = [
        [
            row['model'],
            _size_text(row),
            *_times(row, ('data', 'training')),
            f'{row["data / training"]:.1%}',
        ]
        for row in rows
    ]
    header = ['model', 'patch, bands, batch', 'data', 'training', 'data / training']
    return markdown(header, cells)


def busy_text(rows: list[dict[str, Any]]) -> str:
    """Write the table of the demo beside busy processes."""
    cells = [
        [
            str(row['busy processes']),
            ', '.join(str(count) for count in sorted(set(row['threads']))),
            f'{statistics.median(row["seconds"]):.1f}',
            _number(row['times quiet']),
        ]
        for row in rows
    ]
    return markdown(['busy processes', 'threads', 'demo, s', 'times quiet'], cells)


def table_text(rows: list[dict[str, Any]]) -> str:
    """Write the model table."""
    cells = [
        [
            row['model'],
            str(row['bands']),
            str(row['patch']),
            f'{row["parameters"]:,}',
            f'{row["multiply-adds"] / 1e6:.1f} M',
            _mebibytes(row['training bytes per patch'], '.1f'),
            _mebibytes(row['training bytes besides']),
        ]
        for row in rows
    ]
    header = ['model', 'bands', 'patch', 'parameters', 'multiply-adds']
    return markdown([*header, 'training MiB per patch', 'MiB besides'], cells)
