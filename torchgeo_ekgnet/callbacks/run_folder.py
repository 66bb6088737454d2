# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""One folder for everything that belongs to a training run."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from .._files import check_writable

__all__ = ('RunFolder', 'newest_checkpoint', 'run_of_checkpoint', 'run_path')

_VERSION = re.compile(r'version_(\d+)$')


def run_of_checkpoint(path: str | Path) -> Path:
    """Return the run folder that a checkpoint lies in.

    Args:
        path: Path of a checkpoint.

    Returns:
        The folder above ``checkpoints``; the checkpoint's own folder if it was moved
        out of one.
    """
    folder = Path(path).absolute().parent
    return folder.parent if folder.name == 'checkpoints' else folder


def run_path(trainer: Trainer) -> Path:
    """Return the folder that results of the current stage are written to.

    Args:
        trainer: The trainer.

    Returns:
        The run folder of the checkpoint in use; without one, that of the run in this
        process, or the logger's folder if there is no :class:`RunFolder`.
    """
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


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the best checkpoint of the newest run.

    Args:
        folder: Folder of the runs, ``runs/NAME``.

    Returns:
        Its path, or None if there is none.
    """
    found = folder.glob('version_*/checkpoints/best.ckpt')
    return max(found, key=lambda path: _version(path.parents[1]), default=None)


def _version(folder: Path) -> int:
    """Return N of ``version_N``, -1 for other names."""
    match = _VERSION.search(folder.name)
    return int(match.group(1)) if match else -1


class RunFolder(Callback):
    """Keeps one folder a run: ``runs/NAME/version_N``.

    ``fit`` opens the next version and logs there, as CSV and for TensorBoard;
    checkpoints go to ``checkpoints/`` in it. ``validate``, ``test`` and ``predict``
    write beside the run of their checkpoint (their logs in ``validate/``, ``test/`` and
    ``predict/``), so results always lie with the weights they belong to. Resuming
    ``fit`` from a checkpoint opens a new version, which takes the best checkpoints so
    far along: nothing is written over, and later epochs have to be better.

    ``fast_dev_run`` opens no run.

    A run folder that cannot be written to stops ``validate`` and ``test`` at once;
    ``predict``, which may write its map elsewhere, goes on without log and
    configuration.

    The loggers of the trainer are replaced. To use others, leave the callback out.

    ``--trainer.default_root_dir DIR`` moves ``runs`` into another folder.
    """

    #: The callback changes no weights: repeated runs leave it out.
    only_writes = True

    def __init__(self, name: str, root: str = 'runs', tensorboard: bool = True) -> None:
        """Initialize a new RunFolder instance.

        Args:
            name: Name of the runs, such as the scene's.
            root: Folder of all runs, relative to the trainer's ``default_root_dir``.
            tensorboard: Whether to write TensorBoard events beside the CSV file.

        Raises:
            ValueError: If the name is empty or not a plain folder name.
        """
        super().__init__()
        if name in ('', '.', '..') or Path(name).name != name:
            raise ValueError(f'name: found {name!r}, expected a plain folder name')
        self.name = name
        self.root = root
        self.tensorboard = tensorboard
        self.path: Path | None = None
        self._opened = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Point the loggers of the trainer to the run folder.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: One of 'fit', 'validate', 'test' or 'predict'.
        """
        self._opened = False
        if getattr(trainer, 'fast_dev_run', False):
            return
        if stage == 'fit':
            if self.path is None:
                self.path = self._next_version(trainer)
            trainer.loggers = self._loggers(self.path)
            return
        # Lightning tells which checkpoint it loads only later: until then, nothing may
        # write, the copy of the configuration included.
        trainer.loggers = []
        for callback in _config_savers(trainer):
            callback.already_saved = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the split beside the weights that are trained with it.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        split: Any = getattr(getattr(trainer, 'datamodule', None), 'split', None)
        if self.path is not None and trainer.is_global_zero and hasattr(split, 'save'):
            split.save(self.path / 'split.npz')

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write beside the run of the checkpoint, or take its best ones along.

        Args:
            trainer: The trainer.
            pl_module: The task.
            checkpoint: Content of the checkpoint; the state of the checkpoint callbacks
                is changed in place if ``fit`` goes on in a new folder.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            self._take_along(trainer, checkpoint)
            return
        self._open_stage(trainer, pl_module)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.dirpath = str(Path(str(trainer.ckpt_path)).absolute().parent)

    def _take_along(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """Copy the checkpoints that a resumed run has kept into its new folder.

        Lightning forgets the best score if the folder of the checkpoints is another
        one, and a worse epoch would become the best of the new run.

        Args:
            trainer: The trainer.
            checkpoint: Content of the checkpoint, changed in place.
        """
        beside = Path(str(trainer.ckpt_path)).absolute().parent
        states: dict[str, Any] = checkpoint.get('callbacks', {})
        for callback in trainer.checkpoint_callbacks:
            state = states.get(callback.state_key)
            if not isinstance(callback, ModelCheckpoint) or state is None:
                continue
            kept = {
                state['best_model_path'],
                state['last_model_path'],
                state['kth_best_model_path'],
                *state['best_k_models'],
            }
            # A run may have been moved: its checkpoints lie beside the one in use.
            sources = {
                path: beside / Path(path).name
                if (beside / Path(path).name).is_file()
                else Path(path)
                for path in kept - {''}
            }
            if not all(source.is_file() for source in sources.values()):
                continue
            folder = Path(str(callback.dirpath))
            moved = {'': ''}
            for path, source in sources.items():
                target = folder / source.name
                moved[path] = str(target)
                if trainer.is_global_zero and not target.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, target)
            states[callback.state_key] = {
                **state,
                'dirpath': callback.dirpath,
                'best_model_path': moved[state['best_model_path']],
                'last_model_path': moved[state['last_model_path']],
                'kth_best_model_path': moved[state['kth_best_model_path']],
                'best_k_models': {
                    moved[path]: score for path, score in state['best_k_models'].items()
                },
            }

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that ``validate`` has weights.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If it has none; the message names the newest checkpoint.
        """
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open_stage(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that ``test`` has weights.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If it has none; the message names the newest checkpoint.
        """
        self._open_stage(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that ``predict`` has weights.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If it has none; the message names the newest checkpoint.
        """
        self._open_stage(trainer, pl_module)

    def _open_stage(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log a stage other than ``fit`` in the folder of its run.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If the stage has random weights.
            OSError: If the folder cannot be written to, but for ``predict``.
        """
        if trainer.loggers or self._opened:
            return
        stage = str(getattr(trainer.state.fn, 'value', trainer.state.fn))
        if trainer.ckpt_path:
            path = run_of_checkpoint(trainer.ckpt_path)
        elif self.path is not None:
            path = self.path
        elif getattr(pl_module, 'is_trained', False):
            path = self.path = self._next_version(trainer)
        else:
            runs = self._runs(trainer)
            newest = newest_checkpoint(runs)
            hint = f'the newest is {newest}' if newest else f'there is none in {runs}'
            raise ValueError(
                f'{stage}: no checkpoint was given, and random weights are not worth a '
                f'score; pass --ckpt_path FILE ({hint})'
            )
        self._opened = True
        try:
            for folder in (path, path / stage):
                check_writable(folder)
        except OSError as error:
            if stage != 'predict':
                raise
            rank_zero_warn(f'predict keeps no log and no configuration: {error}')
            return
        trainer.loggers = [_stage_logger(path, stage)]
        for callback in _config_savers(trainer):
            callback.already_saved = False
            callback.setup(trainer, pl_module, stage)

    def _runs(self, trainer: Trainer) -> Path:
        """Return the folder of the runs of this name."""
        return Path(trainer.default_root_dir).absolute() / self.root / self.name

    def _next_version(self, trainer: Trainer) -> Path:
        """Create the folder of a new run, the same one on all processes."""
        path = ''
        if trainer.is_global_zero:
            runs = self._runs(trainer)
            taken = [_version(folder) for folder in runs.glob('version_*')]
            path = str(_create_first(runs, max(taken, default=-1) + 1))
        return Path(trainer.strategy.broadcast(path))

    def _loggers(self, path: Path) -> list[Logger]:
        """Create the loggers of a run."""
        where: dict[str, Any] = {
            'save_dir': str(path.parent.parent),
            'name': path.parent.name,
            'version': _version(path),
        }
        csv = _open(CSVLogger(**where))
        return [csv, TensorBoardLogger(**where)] if self.tensorboard else [csv]


def _create_first(runs: Path, number: int) -> Path:
    """Create the first version that no other process has created meanwhile.

    Args:
        runs: Folder of the runs.
        number: Version to begin with.

    Returns:
        The folder, which belongs to the caller alone.
    """
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        path = runs / f'version_{number}'
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _stage_logger(path: Path, stage: str) -> CSVLogger:
    """Log a stage other than ``fit`` as CSV in a folder of its name in the run.

    Args:
        path: Folder of the run.
        stage: Name of the stage.

    Returns:
        The logger; what an earlier call of the stage logged is replaced.
    """
    return _open(CSVLogger(save_dir=str(path), name='', version=stage))


def _open(logger: CSVLogger) -> CSVLogger:
    """Create the folder of a logger, without Lightning's warning that it exists."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _ = logger.experiment
    return logger


def _config_savers(trainer: Trainer) -> list[SaveConfigCallback]:
    """Return the callbacks by which the command line saves its configuration."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [item for item in callbacks if isinstance(item, SaveConfigCallback)]
