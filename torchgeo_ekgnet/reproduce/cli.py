# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The command ``torchgeo-ekgnet reproduce``: the paper's tables and figures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from .._files import StrPath, named_path
from .._runs import claim_outputs
from ..commands import CommandParser
from ..datasets.plotting import plot_scene
from .build import build_data, content_of
from .declarations import (
    PROTOCOLS,
    SCENES,
    Budget,
    Experiment,
    Row,
    published,
    run_settings,
)
from .engine import Sweep, checkpoint_path
from .experiments import BUDGETS, EXPERIMENTS
from .figures import classical_map, map_panels, save
from .report import build_report
from .runs import RunStore
from .sweeping import (
    Runs,
    at_least_one,
    finish,
    seeds_of,
    shared_arguments,
    smoothed_too,
    summaries_of,
)


def reproduce_parser() -> argparse.ArgumentParser:
    """Parser of ``torchgeo-ekgnet reproduce``."""
    listing = '\n'.join(
        f'  {key:<12} {e.title} ({e.scene})' for key, e in EXPERIMENTS.items()
    )
    parser = CommandParser(
        prog='torchgeo-ekgnet reproduce',
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            'Train and test every system of a table, figure or ablation and report\n'
            'published beside reproduced accuracies. An interrupted command continues\n'
            'where it was; finished runs are not repeated.'
        ),
        epilog=f'experiments:\n{listing}',
    )
    parser.add_argument(
        'experiment',
        choices=EXPERIMENTS,
        metavar='EXPERIMENT',
        help='one of those below',
    )
    parser.add_argument(
        '--scene', choices=SCENES, help="scene (default: the experiment's own)"
    )
    parser.add_argument(
        '--seeds',
        type=at_least_one,
        metavar='N',
        help="number of seeds (default: the budget's, "
        + ', '.join(f'{b.name} {b.seeds}' for b in BUDGETS.values())
        + ')',
    )
    parser.add_argument(
        '--budget',
        choices=BUDGETS,
        default='paper',
        help=(
            "effort: the paper's, or a reduced version for a laptop (default: "
            '%(default)s)'
        ),
    )
    parser.add_argument(
        '--split',
        choices=PROTOCOLS,
        help="the paper's random split, one whose training and test patches share no "
        'pixel, or one of the two thinned to the pixels per class that both can serve '
        '(default: random)',
    )
    parser.add_argument(
        '--rows',
        help='only these rows, separated by commas, for example ssrn,ekgnet_base',
    )
    parser.add_argument(
        '--extra', action='store_true', help='also the rows that the paper lacks'
    )
    parser.add_argument(
        '--out',
        type=named_path,
        default=Path('runs', 'reproduce'),
        help='folder of runs and reports (default: %(default)s)',
    )
    shared_arguments(parser)
    return parser


def _chosen_rows(experiment: Experiment, names: str | None, extra: bool) -> list[Row]:
    """Rows that the user wants."""
    if names is None:
        return [row for row in experiment.rows if extra or not row.extra]
    wanted = [name.strip() for name in names.split(',')]
    known = [row.key for row in experiment.rows]
    for name in wanted:
        if name not in known:
            raise ValueError(
                f'--rows: {experiment.key} has no row {name!r}, expected some of '
                f'{", ".join(known)}'
            )
    return [row for row in experiment.rows if row.key in wanted]


def main_reproduce(args: Sequence[str] | None = None) -> None:
    """Run ``torchgeo-ekgnet reproduce``.

    Args:
        args: Arguments after the command's name; None: those of the process.
    """
    parser = reproduce_parser()
    options = parser.parse_args(args)
    experiment = EXPERIMENTS[options.experiment]
    budget = BUDGETS[options.budget]
    scene = options.scene or experiment.scene
    try:
        rows = _chosen_rows(experiment, options.rows, options.extra)
    except ValueError as error:
        parser.error(str(error))
    own_split = bool(rows) and all(row.split for row in rows)
    if own_split and options.split:
        parser.error(
            f'--split: every row of {experiment.key} has a split of its own, found '
            f'{options.split!r}, expected none'
        )
    options.split = options.split or 'random'
    seeds = seeds_of(options, options.seeds or budget.seeds)
    runs = {
        (row.key, seed): run_settings(
            experiment, row, seed, budget, scene, options.split
        )
        # All systems with one seed before the next seed: an early report is balanced.
        for seed in seeds
        for row in rows
    }
    protocol = 'matched' if own_split else options.split
    name = f'{experiment.key}-{scene}-{protocol}-{budget.name}'
    folder = options.out / name
    if not rows:
        _scene_figure(experiment, folder, scene, budget, options)
        return
    content = content_of(next(iter(runs.values())), options.root)
    complete = {key: {**settings, 'content': content} for key, settings in runs.items()}
    wanted = smoothed_too(complete, options)
    sweep = Sweep(
        RunStore(options.out / 'runs'),
        options.root,
        options.threads,
        options.out / 'checkpoints' if experiment.maps else None,
        seeds[0],
        rank_zero_info,
    )
    systems = {row.key: row.label for row in rows}
    summaries, done = summaries_of(systems, wanted, sweep, folder, options.report_only)
    # The paper's numbers are of its own scene and of random pixels.
    own = scene == experiment.scene and protocol == 'random'
    numbers = published(experiment) if own else {}
    title = f'{experiment.title}, {summaries[0].results[0]["scene"]["name"]}'
    report = build_report(title, summaries, done, numbers, budget.note)
    maps = []
    if sweep.keep is not None:
        maps = [_maps(rows, wanted, sweep.keep, seeds[0], folder, options.root)]
    finish(folder, report, maps)


def _scene_figure(
    experiment: Experiment,
    folder: Path,
    scene: str,
    budget: Budget,
    options: argparse.Namespace,
) -> None:
    """Draw a scene's false colour and labels."""
    row = Row('scene', 'scene', 'rbf_svm')
    settings = run_settings(
        experiment, row, options.first_seed, budget, scene, options.split
    )
    path = folder / f'{experiment.key}.png'
    claim_outputs(folder, [path.name])
    data = build_data(settings, options.root)
    file = save(plot_scene(data.scene), path)
    rank_zero_info(f'written: {file}')


def _maps(
    rows: Sequence[Row],
    runs: Runs,
    checkpoints: StrPath,
    seed: int,
    folder: Path,
    root: str | None,
) -> tuple[Path, str]:
    """Draw the map of every row by the checkpoint that was kept of it."""
    from ..maps import predict_map

    maps = []
    data = build_data(runs[rows[0].key, seed], root)
    for row in rows:
        if row.classical:
            classes = classical_map(row.model, data.scene, data.split, seed)
        else:
            checkpoint = checkpoint_path(runs[row.key, seed], checkpoints)
            if not checkpoint.is_file():
                continue
            classes = predict_map(checkpoint, data.scene, scope='labelled').labels
        maps.append((row.label, classes))
    file = save(map_panels(data.scene, maps), folder / 'maps.png')
    return file, (
        f'Maps with seed {seed}; the labelled pixels, training pixels included, as in the '
        'paper'
    )
