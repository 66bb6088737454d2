# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""One folder for everything that belongs to a training run."""

import errno
import os
import shutil
import sys
import uuid
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from .._files import at_home, check_writable, file_digest, write_json
from .._runs import (
    RUN_FILE,
    RUN_NAME,
    Subject,
    claim_outputs,
    claim_scene_folder,
    create_version,
    holds_no_more,
    newest_checkpoint,
    next_steps,
    read_result,
    run_of_checkpoint,
    scene_folder,
    version_of,
)
from ..checkpoint import LocalCheckpointIO, read_checkpoint
from ..metrics import SCORES
from .checkpoint_io import write_whole
from .csv_log import CSVLog
from .kept import kept_weights, validated_part
from .resumption import Saver, restore, savers_of, take_along

__all__ = ('RunFolder', 'described_data', 'run_path', 'subject_of', 'writes_results')


#: What is logged of a stage, beside its results.
_LOGS = ('metrics.csv', 'hparams.yaml', 'config.yaml')


def subject_of(trainer: Trainer) -> Subject:
    """Say what the results of the current stage are of."""
    data = _describe(trainer)
    path = trainer.ckpt_path
    digest = None
    if path:
        # As it was read: a training that still runs replaces the file.
        reader = trainer.strategy.checkpoint_io
        if isinstance(reader, LocalCheckpointIO):
            digest = reader.digest(path)
        if digest is None and Path(path).is_file():
            digest = file_digest(path)
    return Subject.of(
        {
            **data,
            'checkpoint': Path(path).name if path else None,
            'checkpoint_digest': digest,
        }
    )


def described_data(trainer: Trainer) -> dict[str, Any]:
    """Describe the data in use as results report them; empty for those of others."""
    datamodule: Any = getattr(trainer, 'datamodule', None)
    data: dict[str, Any] = getattr(datamodule, 'describe', dict)()
    return data


def _describe(trainer: Trainer) -> dict[str, Any]:
    """Name scene, cube and split of the data in use."""
    data = described_data(trainer)
    scene = data.get('scene') or {}
    return {
        'scene': scene.get('name'),
        'cube': scene.get('cube'),
        'split': (data.get('split') or {}).get('identity'),
    }


def _trained_on(trainer: Trainer, run: Path) -> Subject:
    """Say what the network of the current stage was trained on."""
    provenance = getattr(trainer.lightning_module, 'provenance', None)
    data = getattr(provenance, 'data', None)
    if data:
        return Subject(scene=data['scene']['name'], cube=data['scene'].get('cube'))
    return Subject.of(read_result(run / RUN_FILE))


def writes_results(trainer: Trainer) -> bool:
    """Say whether this process writes results: the first one, of a real run."""
    return trainer.is_global_zero and not getattr(trainer, 'fast_dev_run', False)


def run_path(trainer: Trainer) -> Path:
    """Give the folder that results of the current stage are written to.

    Args:
        trainer: The trainer.

    Returns:
        The run folder of the checkpoint in use; without one, that of the run in this
        process, or the logger's folder if there is no :class:`RunFolder`. Results of
        ``validate`` lie in ``validate`` in it, those on another scene than that of the
        training in a folder such as ``test/SCENE``.
    """
    run = _run(trainer)
    if trainer.state.fn in (None, TrainerFn.FITTING):
        return run
    subject = subject_of(trainer)
    if subject.same_scene(_trained_on(trainer, run)):
        # What test has found stays.
        return (
            run / _stage(trainer) if trainer.state.fn == TrainerFn.VALIDATING else run
        )
    return scene_folder(run / _stage(trainer), subject)


def _run(trainer: Trainer) -> Path:
    """Give the folder of the run in use."""
    checkpoint = trainer.ckpt_path
    if checkpoint and trainer.state.fn != TrainerFn.FITTING:
        return run_of_checkpoint(checkpoint)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, RunFolder) and callback.path is not None:
            return callback.path
    for logger in trainer.loggers:
        if logger.log_dir is not None:
            return Path(logger.log_dir)
    return Path(trainer.default_root_dir)


def _stage(trainer: Trainer) -> str:
    """Name the stage as the command line does."""
    return str(getattr(trainer.state.fn, 'value', trainer.state.fn))


class RunFolder(Callback):
    """Keeps one folder a run: ``runs/NAME/version_N``.

    ``fit`` opens the next version and logs there as CSV; checkpoints go to
    ``checkpoints/`` in it, and ``run.json`` says what the training is of. ``validate``,
    ``test`` and ``predict`` write beside the run of their checkpoint (their logs in
    ``validate/``, ``test/`` and ``predict/``), so results always lie with the weights
    they belong to; on another scene, they write into ``test/SCENE`` and
    ``predict/SCENE``. A stage that is refused leaves no folder.

    Resuming ``fit`` from a checkpoint opens a new version, which takes the best
    checkpoints so far along: nothing is written over, and later epochs have to be
    better. A run that fails before its first step leaves no folder.

    The loggers of the trainer stay. Where none is given, the run logs for TensorBoard
    as well.

    ``fast_dev_run`` opens no run.

    A run folder that cannot be written to stops ``fit``, ``validate`` and ``test`` at
    once; ``predict``, which may write its map elsewhere, goes on without log and
    configuration.

    ``--trainer.default_root_dir DIR`` moves ``runs`` into another folder; ``--name``
    of the command line replaces *name*.
    """

    #: The callback changes no weights: repeated runs leave it out.
    only_writes = True

    def __init__(self, name: str, root: str = 'runs', tensorboard: bool = True) -> None:
        """Initialize a new RunFolder instance.

        Args:
            name: Name of the runs, such as the scene's.
            root: Folder of all runs, relative to the trainer's ``default_root_dir``.
            tensorboard: Whether to write TensorBoard events beside the CSV file, if
                the trainer has no logger.

        Raises:
            ValueError: If the name is empty or not a plain folder name.
        """
        super().__init__()
        name = RUN_NAME.get() or name
        if name.strip() in ('', '.', '..') or Path(name).name != name:
            raise ValueError(f'name: found {name!r}, expected a plain folder name')
        self.name = name
        self.root = root
        self.tensorboard = tensorboard
        self.path: Path | None = None
        self._ours: list[Logger] = []
        self._logs: list[Logger] = []
        self._opened = False
        self._began = False
        self._made: Path | None = None
        self._id: str | None = None
        self._scores: dict[int, dict[str, float]] = {}
        self._before_stage: list[Saver] = []
        self._before_run: list[Saver] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Point our loggers to the run folder; those of others stay."""
        self._opened, self._made = False, None
        if getattr(trainer, 'fast_dev_run', False):
            return
        others = [item for item in trainer.loggers if not self._replaces(trainer, item)]
        self._ours = []
        # What tested another run must not train into its folder, for its best score.
        restore(self._before_stage)
        self._before_stage = [] if stage == 'fit' else savers_of(trainer)
        if stage == 'fit':
            # A trainer that has trained before goes on, in its folder and with its log.
            if self.path is None or not self._logs or not trainer.global_step:
                self.path = self._next_version(trainer)
                self._began = False
                restore(self._before_run)
                self._before_run = savers_of(trainer)
                self._logs = self._loggers(self.path, tensorboard=not others)
            self._ours = self._logs
            write_whole(trainer)
        else:
            # Lightning tells which checkpoint it loads only later: until then, nothing
            # may write, the copy of the configuration included.
            for callback in _config_savers(trainer):
                callback.already_saved = True
        trainer.loggers = [*self._ours, *others]

    def _replaces(self, trainer: Trainer, logger: Logger) -> bool:
        """Whether a logger is ours or the one that Lightning makes where none is given."""
        unasked = (
            type(logger) in (CSVLogger, TensorBoardLogger)
            and logger.name == 'lightning_logs'
            and logger.save_dir == trainer.default_root_dir
        )
        return unasked or logger in self._ours

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the split, and what the run is of, beside the weights."""
        if self.path is None or not trainer.is_global_zero:
            return
        split: Any = getattr(getattr(trainer, 'datamodule', None), 'split', None)
        if hasattr(split, 'save'):
            split.save(self.path / 'split.npz')
        self._id = uuid.uuid4().hex
        about = {**_describe(trainer), 'started_in': os.getcwd(), 'run': self._id}
        write_json(self.path / RUN_FILE, about)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write where the folder of the run is no more, or is another's."""
        self._check_place(trainer)

    def _place_taken(self) -> str | None:
        """Say what is in the place of the run's folder, None if that is there."""
        if self.path is None or self._id is None:
            return None
        if not self.path.is_dir():
            return 'none'
        note = read_result(self.path / RUN_FILE)
        # A note that was deleted alone says nothing.
        return (
            'that of another training' if note and note.get('run') != self._id else None
        )

    def _check_place(self, trainer: Trainer) -> None:
        """Stop a training whose folder is no more, or is another's."""
        found = self._place_taken() if trainer.is_global_zero else None
        if found is not None:
            raise FileNotFoundError(
                errno.ENOENT,
                f'found {found}, expected the folder of this run, which was moved or '
                'deleted while it trained; its checkpoints lie where it was moved, and '
                'fit --ckpt_path .../last.ckpt goes on from there',
                str(self.path),
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is something to keep."""
        self._began = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the scores of an epoch."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._check_place(trainer)
            self._scores[trainer.current_epoch] = {
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith('val_')
            }

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the folder of a run that has not begun, or of a stage without results."""
        fits = trainer.state.fn == TrainerFn.FITTING
        made = self.path if fits else self._made
        if fits and self._place_taken():
            # What they still hold is of a folder that is no more.
            trainer.loggers = [i for i in trainer.loggers if i not in self._ours]
            return
        if made is None or (self._began if fits else not holds_no_more(made, _LOGS)):
            return
        trainer.loggers = [item for item in trainer.loggers if item not in self._ours]
        if trainer.is_global_zero:
            shutil.rmtree(made, ignore_errors=True)
        if made == self.path:
            self.path = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the run is, how good it is and what to type next."""
        if self.path is not None and trainer.is_global_zero:
            sys.stdout.write(self._summary(trainer))

    def _summary(self, trainer: Trainer) -> str:
        """Sum up a training run."""
        lines = [f'run    {_shown(self.path)}']
        kept = kept_weights(trainer) if self._began else None
        if kept is not None:
            name, best = kept
            epoch = int(read_checkpoint(best).get('epoch', -1))
            last = trainer.current_epoch
            scores = self._scores.get(epoch, {})
            shown = ', '.join(
                f'{score.name} {100 * scores[key]:.2f}'
                for score in SCORES
                if (key := f'val_{score.name}') in scores
            )
            lines.append(
                f'{name}   epoch {min(epoch + 1, last)} of {last}'
                + (f', validation{validated_part(trainer)}: {shown}' if shown else '')
            )
            lines += [
                f'{"next" if number == 0 else "":<7}{step}'
                for number, step in enumerate(next_steps(best, _shown))
            ]
        return '\n' + '\n'.join(lines) + '\n'

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write beside the run of the checkpoint, or take its best ones along."""
        if trainer.state.fn == TrainerFn.FITTING:
            take_along(trainer, checkpoint)
            return
        self._open_stage(trainer, pl_module)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.dirpath = str(Path(str(trainer.ckpt_path)).absolute().parent)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``validate``, unless it is part of a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open_stage(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``test`` or ``predict``, which must have weights."""
        self._open_stage(trainer, pl_module)

    on_predict_start = on_test_start

    def _open_stage(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log a stage other than ``fit`` in the folder of its run, once.

        Raises:
            ValueError: If there is no checkpoint, and the weights are random.
            OSError: If the folder cannot be written to (not in ``predict``).
        """
        if self._opened or getattr(trainer, 'fast_dev_run', False):
            return
        stage = _stage(trainer)
        if not trainer.ckpt_path and self.path is None:
            if not getattr(pl_module, 'is_trained', False):
                raise ValueError(self._no_weights(trainer, stage))
            self.path = self._made = self._next_version(trainer)
        self._opened = True
        run, path = _run(trainer), run_path(trainer)
        logs = run / stage if path == run else path
        if self._made is None:
            missing = (folder for folder in (run / stage, logs) if not folder.exists())
            self._made = next(missing, None)
        try:
            for folder in (run, run / stage, logs):
                _check_folder(folder)
            place = logs.relative_to(run)
            claim_outputs(run, [(place / name).as_posix() for name in _LOGS])
            _remove_links(logs)
            if path not in (run, run / stage) and trainer.is_global_zero:
                claim_scene_folder(path, subject_of(trainer))
        except OSError as error:
            if stage != 'predict':
                raise
            rank_zero_warn(f'predict keeps no log and no configuration: {error}')
            return
        # What an earlier call of the stage logged is replaced.
        self._ours = [_open(CSVLog(str(logs.parent), name='', version=logs.name))]
        trainer.loggers = [*self._ours, *trainer.loggers]
        for callback in _config_savers(trainer):
            callback.already_saved = False
            callback.setup(trainer, pl_module, stage)

    def _no_weights(self, trainer: Trainer, stage: str) -> str:
        """Say that a stage needs a checkpoint, and which there is."""
        runs = self._runs(trainer)
        newest = newest_checkpoint(runs)
        hint = f'the newest is {newest}' if newest else f'there is none in {runs}'
        return (
            f'{stage}: no checkpoint was given, and random weights are not worth a '
            f'score; pass --ckpt_path FILE ({hint})'
        )

    def _runs(self, trainer: Trainer) -> Path:
        """Give the folder of the runs of this name."""
        runs = Path(trainer.default_root_dir).absolute() / at_home(self.root)
        return runs / self.name

    def _next_version(self, trainer: Trainer) -> Path:
        """Create the folder of a new run, the same one on all processes."""
        path = ''
        if trainer.is_global_zero:
            runs = self._runs(trainer)
            check_writable(runs)
            path = str(create_version(runs))
        return Path(trainer.strategy.broadcast(path))

    def _loggers(self, path: Path, tensorboard: bool) -> list[Logger]:
        """Create the loggers of a run."""
        where: dict[str, Any] = {
            'save_dir': str(path.parent.parent),
            'name': path.parent.name,
            'version': version_of(path),
        }
        csv = _open(CSVLog(**where))
        if self.tensorboard and tensorboard:
            # A Ctrl-C while a value is queued lets the writer sleep that long at the end.
            return [csv, TensorBoardLogger(**where, flush_secs=2)]
        return [csv]


def _check_folder(folder: Path) -> None:
    """Make a folder, and see that it is none of somebody else's."""
    if folder.is_symlink() and folder.name in ('validate', 'test', 'predict'):
        raise NotADirectoryError(
            errno.ENOTDIR, 'found a link, expected a folder or nothing', str(folder)
        )
    check_writable(folder)


def _remove_links(folder: Path) -> None:
    """Remove links where the logger is going to write: it would write through them."""
    for name in _LOGS:
        if (folder / name).is_symlink():
            (folder / name).unlink()


def _shown(path: Path | None) -> str:
    """Write a path as short as it can be typed."""
    path = Path(str(path)).absolute()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _open(logger: CSVLogger) -> CSVLogger:
    """Create the folder of a logger, without Lightning's warning that it exists."""
    with warnings.catch_warnings(action='ignore'):
        _ = logger.experiment
    return logger


def _config_savers(trainer: Trainer) -> list[SaveConfigCallback]:
    """Give the callbacks by which the command line saves its configuration."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [item for item in callbacks if isinstance(item, SaveConfigCallback)]
