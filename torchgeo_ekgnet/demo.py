# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``torchgeo-ekgnet demo``: the whole path on a laptop, without data or network.

Trains the shipped ``quickstart`` configuration on the built-in synthetic scene, tests
it, and compares it with a support vector machine that sees single spectra, on the same
pixels. What remains is a run folder with checkpoints, logs, accuracies and a figure of
the classified scene next to its labels.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ._files import named_path, replaced, write_json
from .commands import CommandParser, resolve_config
from .metrics import SCORES, Accuracies

FIGURE = 'demo.png'
REPORT = 'demo.json'


def main(args: Sequence[str] | None = None) -> None:
    """Run the demo.

    Args:
        args: Command-line arguments; None for those of the process.
    """
    options = _parser().parse_args(args)
    started = time.perf_counter()
    task, datamodule, folder = _fit(options)
    scene, split = datamodule.scene, datamodule.split

    network: Accuracies = task.accuracies['test']
    sys.stdout.write('\nRBF-SVM on single spectra, same pixels ...\n')
    from .reproduce.classical import classical_confusion

    svm = Accuracies.from_confusion(classical_confusion('rbf_svm', scene, split))
    picture = _draw(task, datamodule, folder / FIGURE)
    seconds = time.perf_counter() - started

    chance = float(network.counts.max() / network.counts.sum())
    rows = {f'EKGNet ({task.hparams["model"]})': network, 'RBF-SVM': svm}
    sys.stdout.write(_summary(rows, chance, options.shuffle_labels))
    sys.stdout.write(f'figure   {picture}\nrun      {folder}\n{seconds:.0f} s\n')
    report = {
        'scene': scene.name,
        'synthetic': scene.synthetic,
        'shuffled_labels': options.shuffle_labels,
        'ekgnet': network.to_dict(),
        'rbf_svm': svm.to_dict(),
        'largest_class': chance,
        'seconds': round(seconds, 1),
        'threads': torch.get_num_threads(),
    }
    write_json(folder / REPORT, report)


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog='torchgeo-ekgnet demo',
        description='Train EKGNet on the built-in synthetic scene, compare it with an '
        'RBF-SVM on single spectra and draw the classified scene.',
        epilog='Any option of "torchgeo-ekgnet fit" may follow after --, such as '
        '-- --data.patch_size 5',
    )
    parser.add_argument(
        '--output',
        type=named_path,
        default='.',
        help='folder in which runs/ is made (default: the current one)',
    )
    parser.add_argument('--epochs', type=int, help='epochs (default: as configured)')
    parser.add_argument(
        '--shuffle-labels',
        action='store_true',
        help='shuffle training and validation labels: accuracy must fall to chance, or something '
        'leaks from test to training',
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bars')
    parser.add_argument('fit_options', nargs='*', metavar='-- OPTIONS', default=[])
    return parser


def _fit(options: argparse.Namespace) -> tuple[Any, Any, Path]:
    """Train and test what the quickstart configuration says."""
    from .callbacks.run_folder import run_path
    from .cli import CommandLine

    arguments = ['--config', resolve_config('quickstart')]
    arguments += ['--trainer.default_root_dir', str(options.output)]
    if options.epochs is not None:
        if options.epochs < 1:
            raise ValueError(f'--epochs: found {options.epochs}, expected at least 1')
        arguments += ['--trainer.max_epochs', str(options.epochs)]
    if options.quiet:
        arguments += ['--trainer.enable_progress_bar', 'false']
    cli = CommandLine(run=False, args=[*arguments, *options.fit_options])
    task: Any = cli.model
    datamodule: Any = cli.datamodule
    if options.shuffle_labels:
        datamodule.setup('fit')
        # The validation labels, too: they choose the epoch that is tested.
        _shuffle(datamodule.train_dataset.columns)
        _shuffle(datamodule.val_dataset.columns)
    cli.trainer.fit(task, datamodule=datamodule)
    best = cli.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    cli.trainer.test(task, datamodule=datamodule, ckpt_path=best, verbose=False)
    return task, datamodule, run_path(cli.trainer)


def _shuffle(columns: dict[str, torch.Tensor]) -> None:
    """Shuffle labels among the pixels of a subset."""
    labels = columns['label']
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    columns['label'] = labels[order]


def _draw(task: Any, datamodule: Any, path: Path) -> Path:
    """Draw the classified scene next to its labels."""
    from .maps import predict_map
    from .maps.figure import map_figure

    found = predict_map(
        task.model.eval(), datamodule.scene, patches=datamodule.patch_source
    )
    figure = map_figure(found.labels, datamodule.scene, found.legend)
    with replaced(path) as part:
        figure.savefig(part)
    return path


def _summary(rows: dict[str, Accuracies], chance: float, shuffled: bool) -> str:
    """Lay the comparison out as text."""
    width = max(len(name) for name in rows)
    lines = ['', 'Built-in SYNTHETIC scene: a program made it, nothing was measured.']
    titles = '  '.join(f'{score.name:>6}' for score in SCORES)
    lines.append(f'{"test pixels, %":<{width}}  {titles}')
    for name, figures in rows.items():
        text = '  '.join(
            f'{100 * score.of(figures):{max(6, len(score.name))}.2f}'
            for score in SCORES
        )
        lines.append(f'{name:<{width}}  {text}')
    if shuffled:
        lines.append(
            f'The network was trained with SHUFFLED labels: chance is about '
            f'{100 * chance:.2f} % OA (always the largest class) and 0 kappa.'
        )
    else:
        first, second = (figures.overall for figures in rows.values())
        lines.append(f'difference in OA: {100 * (first - second):+.2f} points')
    return '\n'.join([*lines, '', ''])
