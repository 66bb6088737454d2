# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the commands share: arguments, runs, bars and the end of a report."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .._files import check_writable
from .._runs import claim_outputs
from .declarations import FIRST_SEED
from .engine import Sweep, classical_settings
from .figures import draw_curves
from .report import REPORT_FILES, Report, write_report
from .settings import places, read_config
from .summary import Summary, summarise
from .tables import to_markdown

_LAST_SEED = 2**32
"""Where the seeds of NumPy's generator end."""

_FIGURES = ('curves.png', 'maps.png')
"""Figures that a report may have."""

BAR_PIXELS = 50_000
"""Most training pixels that the bar of the convergence rule is fitted on: its time grows
with their square."""

Runs = Mapping[tuple[str, int], dict[str, Any]]
"""Settings of runs by the key of the system and the seed."""


def at_least_one(text: str) -> int:
    """Parse a count."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f'expected a number from 1, found {text!r}')
    return count


def a_seed(text: str) -> int:
    """Parse a seed of NumPy's and PyTorch's generators."""
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < _LAST_SEED:
        raise argparse.ArgumentTypeError(
            f'expected a number from 0 to {_LAST_SEED - 1}, found {text!r}'
        )
    return seed


def configured(options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Read the configuration of a sweep, and note where the scene's files lie.

    Args:
        options: The command's options; ``root`` becomes the configuration's if the user
            gives none.
        overrides: Further arguments of ``fit``.

    Returns:
        Settings without a seed.

    Raises:
        ValueError: If an argument is one that every run sets itself.
    """
    _refuse_seeds(overrides)
    settings = read_config(options.config, overrides)
    root = places(settings)
    options.root = options.root or root
    return settings


def _refuse_seeds(overrides: Sequence[str]) -> None:
    """Refuse arguments of ``fit`` that every run of a sweep sets itself."""
    for argument in overrides:
        name = argument.partition('=')[0]
        if name.startswith('--seed') or re.fullmatch(r'--data\..*\.seed', name):
            raise ValueError(
                f'{name}: every run has a seed of its own, expected --first-seed and '
                '--seeds'
            )


def shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all of the commands have."""
    parser.add_argument(
        '--first-seed',
        type=a_seed,
        default=FIRST_SEED,
        metavar='S',
        help='seed of the first run; the next ones count up (default: %(default)s)',
    )
    parser.add_argument(
        '--root', help='folder of the scene files (default: as the configuration says)'
    )
    parser.add_argument(
        '--threads',
        type=at_least_one,
        help="PyTorch's threads; fix it where runs must be equal to the last digit "
        '(default: all cores)',
    )
    parser.add_argument(
        '--smooth',
        type=at_least_one,
        metavar='PIXELS',
        help='also report scores of probabilities that were averaged over a window of '
        'so many pixels a side (odd), as rows of their own',
    )
    parser.add_argument(
        '--smooth-edges',
        type=float,
        metavar='EPSILON',
        help='average along the edges of the scene, by a guided filter; 0.1 or so',
    )
    parser.add_argument(
        '--report-only',
        action='store_true',
        help='train nothing: report on the runs that have finished',
    )


def smoothed_too(runs: Runs, options: argparse.Namespace) -> Runs:
    """Ask every run for scores of smoothed probabilities, if the user wants them.

    Raises:
        ValueError: If the window or the epsilon has no meaning.
    """
    if options.smooth is None:
        if options.smooth_edges is not None:
            raise ValueError(
                f'--smooth-edges: found {options.smooth_edges} without a window, '
                'expected --smooth PIXELS with it'
            )
        return runs
    from ..maps.smoothing import Smoothing

    smooth = Smoothing(options.smooth, options.smooth_edges).describe()
    return {name: {**settings, 'smooth': smooth} for name, settings in runs.items()}


def seeds_of(options: argparse.Namespace, count: int) -> list[int]:
    """Seeds that the user wants.

    Raises:
        ValueError: If the generators do not know the last one.
    """
    if options.first_seed + count > _LAST_SEED:
        raise ValueError(
            f'--first-seed: found {options.first_seed} and {count} seeds, expected '
            f'seeds below {_LAST_SEED}'
        )
    return [options.first_seed + index for index in range(count)]


def summaries_of(
    systems: Mapping[str, str],
    runs: Runs,
    sweep: Sweep,
    folder: Path,
    report_only: bool,
) -> tuple[list[Summary], list[int]]:
    """Do the runs of all systems, or look up those that have finished.

    Args:
        systems: Name of each system by its key.
        runs: Settings of each run by key and seed.
        sweep: What does them.
        folder: Where the report is going to be written.
        report_only: Whether nothing is to be done.

    Returns:
        One summary a system, and the seeds of which a run has finished: what a report
        is of.

    Raises:
        ValueError: If none has finished and none is to be done.
        OSError: If the report cannot be written.
    """
    results = _results_of(runs, sweep, folder, report_only)
    done = {seed for _, seed in results}
    seeds = [seed for seed in dict.fromkeys(seed for _, seed in runs) if seed in done]
    rows = [
        (key, label, [results[key, s] for s in seeds if (key, s) in results])
        for key, label in systems.items()
    ]
    return summarise(rows, _bars_of(runs, results, sweep, report_only)), seeds


def _results_of(
    runs: Runs, sweep: Sweep, folder: Path, report_only: bool
) -> dict[tuple[str, int], dict[str, Any]]:
    """Do the runs, or look up those that have finished."""
    files = (*REPORT_FILES, *_FIGURES)
    store = sweep.store
    if report_only:
        loaded = {name: store.load(settings) for name, settings in runs.items()}
        known = {name: result for name, result in loaded.items() if result is not None}
        if not known:
            raise ValueError(
                f'--report-only: no run has finished in {store.folder}, expected one of '
                f'the {len(runs)} that these arguments ask for; seeds, data and '
                'configuration are those of the call that trained'
            )
        claim_outputs(folder, files)
        return known
    # Before the training, not after it.
    claim_outputs(folder, files)
    check_writable(store.folder)
    return dict(zip(runs, sweep.results(runs.values()), strict=True))


def _bars_of(
    runs: Runs,
    results: Mapping[tuple[str, int], dict[str, Any]],
    sweep: Sweep,
    report_only: bool,
) -> list[dict[str, Any]]:
    """Fit the bar of the convergence rule, an RBF-SVM, once on every split and seed.

    There is none for splits on which it cannot be fitted.
    """
    bars: dict[tuple[str, int], dict[str, Any] | None] = {
        (result['split']['identity'], seed): result
        for (key, seed), result in results.items()
        if runs[key, seed]['model'].get('classical') == 'rbf_svm'
    }
    for (key, seed), result in results.items():
        # With the seed: a saved split is the same for all of them.
        split, drawn = result['split'], (result['split']['identity'], seed)
        if drawn in bars:
            continue
        settings = classical_settings(runs[key, seed])
        bars[drawn] = sweep.store.load(settings)
        if bars[drawn] is not None or report_only:
            continue
        if split['sizes'][0] > BAR_PIXELS:
            rank_zero_info(
                f'bar not run: {split["sizes"][0]} training pixels are too many for '
                f'the RBF-SVM, at most {BAR_PIXELS}'
            )
            continue
        try:
            (bars[drawn],) = sweep.results([settings])
        except ValueError as error:
            rank_zero_info(f'bar not run: {error}')
    return [bar for bar in bars.values() if bar is not None]


def finish(folder: Path, report: Report, maps: Sequence[tuple[Path, str]] = ()) -> None:
    """Write the report, with curves below its maps, and show its first table."""
    files = write_report(
        folder, report, [*maps, *draw_curves(report.summaries, folder)]
    )
    rank_zero_info(to_markdown(report.tables[0]))
    for note in report.notes:
        rank_zero_info(note)
    rank_zero_info('written: ' + ', '.join(str(file) for file in files))
