# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What ``test`` leaves behind: a table in the terminal and ``test.json`` in the run."""

import math
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .._environment import versions
from .._files import file_digest, write_json
from ..checkpoint import Provenance
from ..metrics import SCORES, Accuracies
from .run_folder import run_path

__all__ = ('AccuracyReport', 'accuracy_table')


class AccuracyReport(Callback):
    """Writes accuracies after ``test``, with all that is needed to judge them.

    ``test.json`` in the run folder holds overall accuracy, average accuracy (mean of
    recalls) and kappa, recall and precision of every class, the precision average that
    the reference code calls average accuracy, the confusion matrix, the protocol of the
    split with the two overlap shares, and scene, seed, epochs, parameters, versions,
    name and SHA-256 of the checkpoint.
    The terminal shows the same as a table. ``fast_dev_run`` writes none.
    """

    #: The callback changes no weights: repeated runs leave it out.
    only_writes = True

    def __init__(self, filename: str = 'test.json', table: bool = True) -> None:
        """Initialize a new AccuracyReport instance.

        Args:
            filename: Name of the JSON file in the run folder.
            table: Whether to print the table.
        """
        super().__init__()
        self.filename = filename
        self.table = table

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave Lightning's own table of the same scores out."""
        if stage == 'test' and self.table:
            trainer.test_loop.verbose = False

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and print the report.

        Args:
            trainer: The trainer.
            pl_module: A :class:`~torchgeo_ekgnet.tasks.HyperspectralClassificationTask`.

        Raises:
            TypeError: If the task keeps no accuracies.
        """
        accuracies = getattr(pl_module, 'accuracies', None)
        if accuracies is None:
            raise TypeError(
                f'AccuracyReport: {type(pl_module).__name__} keeps no confusion matrix,'
                ' expected a HyperspectralClassificationTask'
            )
        if getattr(trainer, 'fast_dev_run', False) or not trainer.is_global_zero:
            return
        if 'test' not in accuracies:
            return
        report = self.report(trainer, pl_module, accuracies['test'])
        path = write_json(run_path(trainer) / self.filename, report)
        if self.table:
            sys.stdout.write(f'\n{accuracy_table(report)}\nwritten to {path}\n')

    def report(
        self, trainer: Trainer, pl_module: LightningModule, accuracies: Accuracies
    ) -> dict[str, Any]:
        """Gather what belongs to a result.

        Args:
            trainer: The trainer.
            pl_module: The task.
            accuracies: Its figures.

        Returns:
            JSON-able content of ``test.json``.
        """
        datamodule: Any = getattr(trainer, 'datamodule', None)
        describe = getattr(datamodule, 'describe', dict)
        data: dict[str, Any] = _finite(describe())
        split: dict[str, Any] = data.get('split') or {}
        scene: dict[str, Any] = data.get('scene') or {}
        provenance = getattr(pl_module, 'provenance', None) or Provenance()
        names = scene.get('class_names') or [
            f'class {index}' for index in range(len(accuracies.counts))
        ]
        checkpoint = trainer.ckpt_path
        return {
            'scene': scene.get('name'),
            'synthetic': scene.get('synthetic'),
            'source': scene.get('source'),
            'model': pl_module.hparams.get('model'),
            'model_options': pl_module.hparams.get('model_options'),
            'parameters': _count_parameters(pl_module),
            **accuracies.to_dict(),
            'class_names': list(names),
            'protocol': split.get('protocol'),
            'overlap': split.get('overlap'),
            'split': split,
            'patch_size': data.get('patch_size'),
            'padding_mode': data.get('padding_mode'),
            'normalization': data.get('normalization'),
            'bands': data.get('bands'),
            'seed': provenance.seed,
            'epochs': provenance.epochs,
            'checkpoint': Path(checkpoint).name if checkpoint else None,
            'checkpoint_digest': (
                file_digest(checkpoint)
                if checkpoint and Path(checkpoint).is_file()
                else None
            ),
            'trained_with': dict(provenance.versions) or None,
            'versions': versions(),
        }


def accuracy_table(report: dict[str, Any]) -> str:
    """Lay the content of ``test.json`` out as text.

    Args:
        report: What :meth:`AccuracyReport.report` returns.

    Returns:
        Lines of text: the classes, then the overall figures and where they come from.
    """
    names = report['class_names']
    width = max(len(name) for name in (*names, *(score.title for score in SCORES)))
    lines = [f'{"class":<{width}}  {"pixels":>7}  {"recall %":>9}  {"precision %":>11}']
    lines.append('-' * len(lines[0]))
    for name, count, recall, precision in zip(
        names, report['counts'], report['per_class'], report['precision'], strict=True
    ):
        lines.append(
            f'{name:<{width}}  {count:>7}  {_percent(recall):>9}  '
            f'{_percent(precision):>11}'
        )
    lines.append('-' * len(lines[0]))
    for score in SCORES:
        lines.append(f'{score.title:<{width}}  {"":>7}  {score.shown(report):>9}')
    lines.append('')
    synthetic = ' (SYNTHETIC)' if report['synthetic'] else ''
    lines.append(
        f'{report["model"]}, {report["parameters"]:,} parameters, scene '
        f'{report["scene"]}{synthetic}, protocol {report["protocol"]}, seed '
        f'{report["seed"]}, {report["epochs"]} epochs'
    )
    overlap = report['overlap']
    if overlap:
        centre = overlap['contains_training_centre']
        pixel = overlap['shares_training_pixel']
        lines.append(
            f'test patches that contain a training centre: {_percent(centre)} %; that '
            f'share any pixel with a training patch: {_percent(pixel)} %'
        )
    return '\n'.join(lines)


def _percent(value: float | None) -> str:
    """Format a share as a percentage with two digits, or a dash for undefined."""
    return '-' if value is None else f'{100 * value:.2f}'


def _finite(value: Any) -> Any:
    """Replace what JSON does not know: NaN and infinities by None, tuples by lists."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _count_parameters(task: LightningModule) -> int:
    """Count the parameters of the network of a task, trained or frozen."""
    return sum(parameter.numel() for parameter in task.parameters())
