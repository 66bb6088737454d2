# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What ``test`` leaves behind: a table in the terminal and ``test.json`` in the run."""

import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from .._environment import versions
from .._files import write_json, write_optional
from .._runs import Subject, claim_outputs, read_result, run_of_checkpoint
from ..checkpoint import Provenance
from ..metrics import SCORES, Accuracies
from .run_folder import described_data, run_path, subject_of, writes_results

if TYPE_CHECKING:
    from ..maps.smoothing import Smoothing

__all__ = ('AccuracyReport', 'accuracy_table')


class AccuracyReport(Callback):
    """Writes accuracies after ``test``, with all that is needed to judge them.

    ``test.json`` in the run folder holds overall accuracy, average accuracy (mean of
    recalls) and kappa, recall and precision of every class, the precision average that
    the reference code calls average accuracy, the confusion matrix, the protocol of the
    split with the two overlap shares, and scene, seed, epochs, parameters, versions,
    name and SHA-256 of the checkpoint and of the scene's values.
    The terminal shows the same as a table, ``report.html`` with curves and, if there is
    one, the map. Scores on another scene than that of the training lie in
    ``test/SCENE``. ``fast_dev_run`` writes none.
    """

    #: The callback changes no weights: repeated runs leave it out.
    only_writes = True

    def __init__(
        self,
        filename: str = 'test.json',
        table: bool = True,
        page: bool = True,
        smooth: int = 0,
        smooth_edges: float | None = None,
    ) -> None:
        """Initialize a new AccuracyReport instance.

        Args:
            filename: Name of the JSON file in the run folder.
            table: Whether to print the table.
            page: Whether to write ``report.html`` as well.
            smooth: Also score classes of probabilities that were averaged over a window
                of so many pixels a side (odd); 0 for none. The share of the windows
                that hold training pixels is told with it.
            smooth_edges: Average along the scene's edges by a guided filter with this
                epsilon, 0.1 or so: the smaller, the weaker the edges that are kept.

        Raises:
            ValueError: If the window or the epsilon has no meaning.
        """
        super().__init__()
        self.filename = filename
        self.table = table
        self.page = page
        self.smoothing = _smoothing(smooth, smooth_edges)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave Lightning's own table of the same scores out."""
        if stage == 'test' and self.table:
            trainer.test_loop.verbose = False

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the files can be written."""
        if writes_results(trainer):
            page = ('report.html',) if self.page else ()
            claim_outputs(run_path(trainer), (self.filename, *page))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and print the report."""
        accuracies = getattr(pl_module, 'accuracies', None)
        if accuracies is None:
            raise TypeError(
                f'AccuracyReport: {type(pl_module).__name__} keeps no confusion matrix,'
                ' expected a HyperspectralClassificationTask'
            )
        if not writes_results(trainer):
            return
        if 'test' not in accuracies:
            return
        report = self.report(trainer, pl_module, accuracies['test'])
        _doubt_part(report)
        if self.smoothing is not None:
            report['smoothed'] = _smoothed(trainer, pl_module, self.smoothing)
        path = run_path(trainer) / self.filename
        _tell_replacement(path, report)
        write_json(path, report)
        if self.table:
            sys.stdout.write(f'\n{accuracy_table(report)}\nwritten to {path}\n')
        if self.page:
            page = path.with_name('report.html')
            write_optional(page, partial(_write_page, trainer))

    def report(
        self, trainer: Trainer, pl_module: LightningModule, accuracies: Accuracies
    ) -> dict[str, Any]:
        """Gather what belongs to a result: the content of ``test.json``."""
        data: dict[str, Any] = _finite(described_data(trainer))
        split: dict[str, Any] = data.get('split') or {}
        scene: dict[str, Any] = data.get('scene') or {}
        provenance = getattr(pl_module, 'provenance', None) or Provenance()
        subject = subject_of(trainer)
        # The scores are those of the network's classes, of which the data may have some.
        classes: dict[str, Any] = getattr(pl_module, 'classes', None) or scene
        names = _names(classes, len(accuracies.counts))
        return {
            'scene': subject.scene,
            'cube': subject.cube,
            'synthetic': scene.get('synthetic'),
            'source': scene.get('source'),
            'model': pl_module.hparams.get('model'),
            'model_options': pl_module.hparams.get('model_options'),
            'parameters': sum(p.numel() for p in pl_module.parameters()),
            **accuracies.to_dict(),
            'calibration': _calibration(pl_module),
            'class_names': names,
            'class_values': classes.get('class_values'),
            'palette': classes.get('palette'),
            'without_test_pixels': [
                name
                for name, count in zip(names, accuracies.counts, strict=True)
                if not count
            ],
            'protocol': split.get('protocol'),
            'overlap': split.get('overlap'),
            'split': split,
            'patch_size': data.get('patch_size'),
            'padding_mode': data.get('padding_mode'),
            'normalization': data.get('normalization'),
            'bands': data.get('bands'),
            'seed': provenance.seed,
            'epochs': provenance.epochs,
            'checkpoint': subject.checkpoint,
            'checkpoint_digest': subject.checkpoint_digest,
            'trained_with': dict(provenance.versions) or None,
            'versions': versions(),
        }


def _doubt_part(report: Mapping[str, Any]) -> None:
    """Warn if the scores are those of some of the test pixels."""
    whole = (report['split'].get('sizes') or {}).get('test')
    scored = sum(sum(row) for row in report['confusion_matrix'])
    if whole is not None and scored < whole:
        rank_zero_warn(
            f'test: {scored} of {whole} test pixels were scored (limit_test_batches?); '
            'the report is of these alone'
        )


def _calibration(task: Any) -> dict[str, Any] | None:
    """Tell how true the probabilities are, and by which temperature they were mended."""
    found = getattr(task, 'reliability', None)
    return None if found is None else {'temperature': task.temperature, **found}


def _names(classes: dict[str, Any], number: int) -> list[str]:
    """Name the classes, by their numbers where no names fit."""
    names = [str(name) for name in classes.get('class_names') or ()]
    return names if len(names) == number else [f'class {k}' for k in range(number)]


def _smoothing(window: int, edges: float | None) -> 'Smoothing | None':
    """Make the smoothing that is asked for."""
    if not window and edges is None:
        return None
    from ..maps.smoothing import Smoothing

    return Smoothing(window, edges)


def _smoothed(
    trainer: Trainer, task: LightningModule, smoothing: 'Smoothing'
) -> dict[str, Any]:
    """Score the test pixels of a scene with smoothed probabilities."""
    from ..maps.scoring import score_smoothed

    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not hasattr(datamodule, 'patch_source') or not hasattr(datamodule, 'scene'):
        raise TypeError(
            f'smooth: found {type(datamodule).__name__}, expected a datamodule of a '
            'scene: single pixels have no neighbours'
        )
    network: Any = task
    accuracies, share = score_smoothed(
        network.classifier,
        datamodule,
        smoothing,
        task.device,
        getattr(task, 'class_numbers', None),
    )
    return {**smoothing.describe(), 'reaches_training': share, **accuracies.to_dict()}


def _tell_replacement(path: Path, report: dict[str, Any]) -> None:
    """Say that scores of something else are replaced."""
    old, new = Subject.of(read_result(path)), Subject.of(report)
    if path.is_file() and old != new:
        rank_zero_warn(f'{path}: scores of {old} are replaced by those of {new}')


def _write_page(trainer: Trainer, path: Path) -> None:
    """Write the report of the run, or of another scene in it."""
    from ..maps.run_report import write_run_report

    folder = path.parent
    run = run_of_checkpoint(trainer.ckpt_path) if trainer.ckpt_path else folder
    write_run_report(run, path, described_data(trainer), folder, lead='test')


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
    if report.get('calibration'):
        error = report['calibration']['expected_calibration_error']
        name = 'calibration error'
        lines.append(f'{name:<{width}}  {"":>7}  {_percent(error):>9}')
    if report.get('smoothed'):
        lines += _smoothed_lines(report['smoothed'])
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


def _smoothed_lines(smoothed: dict[str, Any]) -> list[str]:
    """Give the row of smoothed probabilities, and how far it may be believed."""
    from ..maps.smoothing import Smoothing

    scores = ', '.join(f'{score.name} {score.shown(smoothed)}' for score in SCORES[:3])
    lines = [f'smoothed {Smoothing.name(smoothed)}: {scores}']
    if smoothed['reaches_training']:
        lines.append(
            f'  of the windows, {_percent(smoothed["reaches_training"])} % hold a '
            'training pixel: these scores count what the network was taught there'
        )
    return lines


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
