# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The repeat engine: many runs of the package's own training, one file each.

A run's settings are a configuration of ``torchgeo-ekgnet fit`` (``data``, ``model``,
``trainer``, ``optimizer``, ``lr_scheduler``, ``seed_everything``) in JSON values. The
engine builds what they say, lets Lightning train, validate and test it, and writes the
result. It has no training loop and no metrics of its own. ``model`` may instead be
``{'classical': name}`` for a baseline of scikit-learn. Two settings are the engine's:
``content`` identifies the data that a run reads (:func:`content_of`), and
``start_epoch`` is the first epoch, from 0, whose weights may be tested.

The unit of resume is one run: a sweep that was killed repeats the run that it was
killed in from its beginning, and none that had finished. Every run seeds all random
generators itself, so on a CPU with a fixed number of threads a sweep that was killed
ends with the same results as one that was not.
"""

import copy
import hashlib
import importlib
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from .._environment import machine, versions
from ..callbacks import ExpertUse
from ..layers import expert_convs
from .classical import confusion_counts, fit_classical, scene_spectra
from .runs import RunStore, Settings, decode_floats, settings_key

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""What a run leaves behind: JSON values."""

MONITOR = 'val_loss'
"""What decides which epoch's weights are tested: the lowest validation loss."""

_OWN = ('content', 'start_epoch')
"""Settings that the engine reads itself."""

_CURVES = ('train_loss', 'train_OA', 'val_loss', 'val_OA')


class CurveLogger(Logger):
    """Keeps what is logged once an epoch in memory.

    Attributes:
        curves: Values by name of the logged quantity, one an epoch; None for a value
            that is not finite.
    """

    def __init__(self) -> None:
        """Start with empty curves."""
        super().__init__()
        self.curves: dict[str, list[float | None]] = {}

    @property
    def name(self) -> str:
        """Name of the logger."""
        return 'curves'

    @property
    def version(self) -> int:
        """Version of the logged run."""
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters: the settings of the run are known.

        Args:
            args: Anything.
            kwargs: Anything.
        """

    @rank_zero_only
    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None
    ) -> None:
        """Note the values of an epoch.

        Args:
            metrics: Values by name.
            step: Number of the optimizer's step.
        """
        for name in _CURVES:
            if name in metrics:
                value = float(metrics[name])
                known = value if math.isfinite(value) else None
                self.curves.setdefault(name, []).append(known)


class SettledCheckpoint(ModelCheckpoint):
    """Keeps the weights of the best epoch among those after a schedule has ended.

    A network in the middle of pruning or annealing is another one than the table
    means, however low its validation loss is.

    Args:
        start_epoch: First epoch, from 0, that may be kept.
        **kwargs: Arguments of Lightning's ``ModelCheckpoint``.
    """

    def __init__(self, start_epoch: int = 0, **kwargs: Any) -> None:
        """Note the first epoch."""
        super().__init__(**kwargs)
        self.start_epoch = start_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after an epoch, if it may be kept.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        if trainer.current_epoch >= self.start_epoch:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation, if the epoch may be kept.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        if trainer.current_epoch >= self.start_epoch:
            super().on_validation_end(trainer, pl_module)


class _Builder(LightningCLI):
    """LightningCLI that builds trainer, task and datamodule and stops there."""

    def __init__(self, settings: Settings, callbacks: Sequence[Callback]) -> None:
        """Build what the settings say.

        Args:
            settings: Configuration in JSON values.
            callbacks: Callbacks in addition to the configured ones.
        """
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={'callbacks': list(callbacks)},
            run=False,
            args=dict(settings),
        )


@contextmanager
def own_arguments() -> Iterator[None]:
    """Hide the process's arguments, which Lightning compares with those it is given."""
    before = sys.argv
    sys.argv = before[:1]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Fix the number of threads of PyTorch's operations for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _placed(settings: Settings, root: str | None, work: Path) -> dict[str, Any]:
    """Settings with what does not belong to a run's identity: the places of files.

    One device, unless the settings say otherwise: several would train another way
    under the same name.

    Args:
        settings: Settings of a run.
        root: Folder of the scene's files; None: as configured.
        work: Folder for checkpoints.

    Returns:
        A configuration that can be built.
    """
    placed: dict[str, Any] = decode_floats(settings)
    for name in _OWN:
        placed.pop(name, None)
    if root is not None:
        placed['data'].setdefault('init_args', {})['root'] = root
    placed['trainer'] = {
        'devices': 1,
        **placed.get('trainer', {}),
        'default_root_dir': str(work),
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'num_sanity_val_steps': 0,
    }
    return placed


def _train(settings: Settings, root: str | None, work: Path) -> Result:
    """Train and test a network.

    Args:
        settings: Settings of a run.
        root: Folder of the scene's files; None: as configured.
        work: Folder for checkpoints.

    Returns:
        The result.

    Raises:
        KeyboardInterrupt: If the user stopped the training.
    """
    curves, timer = CurveLogger(), Timer()
    checkpoint = SettledCheckpoint(
        settings.get('start_epoch', 0),
        dirpath=work,
        filename='best',
        monitor=MONITOR,
        mode='min',
        save_top_k=1,
    )
    with own_arguments():
        built = _Builder(_placed(settings, root, work), (timer, checkpoint))
    trainer: Any = built.trainer
    task, data = built.model, built.datamodule
    trainer.loggers = [curves]
    trainer.fit(task, datamodule=data)
    if trainer.interrupted:
        # Lightning turns Ctrl-C into a normal end; half a run is not a result.
        raise KeyboardInterrupt
    epochs = trainer.current_epoch
    best = work / 'best.ckpt'
    if not best.is_file():
        # Stopped before the schedule had ended: nothing but the last epoch is left.
        trainer.save_checkpoint(best)
    tested_epoch = torch.load(best, map_location='cpu', weights_only=False)['epoch'] + 1
    # Before the test: restoring a checkpoint restores its timer on top of this one.
    training = timer.time_elapsed('train')
    # Watching the experts takes time, which is no part of inference: a second pass.
    watching = [c for c in trainer.callbacks if isinstance(c, ExpertUse)]
    trainer.callbacks = [c for c in trainer.callbacks if c not in watching]
    trainer.test(task, datamodule=data, ckpt_path=best)
    confusion = task.accuracies['test'].confusion.tolist()
    inference = timer.time_elapsed('test')
    if watching:
        trainer.callbacks += watching
        trainer.test(task, datamodule=data)
    return {
        **_described(data),
        'confusion': confusion,
        'epochs': epochs,
        'tested_epoch': min(tested_epoch, epochs),
        'curves': curves.curves,
        'experts': _experts(task, work),
        'parameters': sum(p.numel() for p in task.parameters()),
        'seconds': {'training': training, 'inference': inference},
    }


def _experts(task: LightningModule, work: Path) -> Result | None:
    """Gather what the callback ``ExpertUse`` has written about the tested network.

    Args:
        task: The task.
        work: Folder of the run.

    Returns:
        Entropy of the attention over log K (mean and lowest over the layers), largest
        information about the class over log K, mean temperature and, if it was
        measured, the overall accuracy with mean attention; None if nothing was
        written.
    """
    path = work / 'expert_use.json'
    if not path.is_file():
        return None
    use = json.loads(path.read_text(encoding='utf-8'))
    layers = [layer for layer in use['layers'].values() if layer['experts'] > 1]
    if not layers:
        return None
    shares = [layer['entropy'] / layer['log_experts'] for layer in layers]
    told = [layer['class_information'] / layer['log_experts'] for layer in layers]
    mappings: list[Any] = [layer.mapping for _, layer in expert_convs(task)]
    temperatures = [
        float(mapping.temperature.detach())
        for mapping in mappings
        if hasattr(mapping, 'temperature')
    ]
    accuracy = use.get('accuracy', {}).get('mean', {}).get('overall_accuracy')
    return {
        'entropy': use['normalised_entropy'],
        'lowest_entropy': min(shares),
        'information': max(told),
        'temperature': float(np.mean(temperatures)) if temperatures else None,
        'accuracy_with_mean_attention': accuracy,
    }


def build_data(settings: Settings, root: str | os.PathLike[str] | None = None) -> Any:
    """Build the datamodule of a run and read its scene.

    Args:
        settings: Settings of the run.
        root: Folder of the scene's files; None: as the settings say.

    Returns:
        The datamodule, with scene and split.
    """
    place = None if root is None else os.fspath(root)
    data = _instance(_placed(settings, place, Path())['data'])
    data.setup('test')
    return data


def content_of(
    settings: Settings, root: str | os.PathLike[str] | None = None, split: bool = False
) -> dict[str, str]:
    """Identify the data that a run reads by what they hold, wherever they lie.

    Args:
        settings: Settings of the run.
        root: Folder of the scene's files; None: as the settings say.
        split: Whether the split may come from files, which are data as well.

    Returns:
        SHA-256 of the scene's values, labels, classes and mask of valid pixels, and,
        if wanted, the identity of the split.
    """
    data = build_data(settings, root)
    scene = data.scene
    digest = hashlib.sha256(json.dumps([scene.digest(), scene.class_names]).encode())
    digest.update(scene.label_map.astype('<i8').tobytes())
    digest.update(scene.valid.tobytes())
    content = {'scene': digest.hexdigest()}
    if split:
        content['split'] = data.split.identity()
    return content


def _instance(value: Any) -> Any:
    """Make the objects that class paths and arguments in settings stand for."""
    if not isinstance(value, Mapping) or 'class_path' not in value:
        return value
    arguments = value.get('init_args', {})
    made = {name: _instance(argument) for name, argument in arguments.items()}
    return import_class(value['class_path'])(**made)


def import_class(path: str) -> Any:
    """Import a class.

    Args:
        path: Dotted path, such as ``'torchgeo_ekgnet.datasets.RandomSplit'``.

    Returns:
        The class.
    """
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


def _fit_classical(settings: Settings, root: str | None) -> Result:
    """Fit and test a classical baseline.

    Args:
        settings: Settings of a run.
        root: Folder of the scene's files; None: as configured.

    Returns:
        The result.
    """
    data = build_data(settings, root)
    scene, split = data.scene, data.split
    truth = {
        subset: split.labels(scene.label_map, subset) - 1
        for subset in ('train', 'test')
    }
    start = time.perf_counter()
    estimator = fit_classical(
        settings['model']['classical'],
        scene_spectra(scene, split.train),
        truth['train'],
        settings['seed_everything'],
    )
    fitted = time.perf_counter()
    predicted = estimator.predict(scene_spectra(scene, split.test))
    tested = time.perf_counter()
    counts = confusion_counts(truth['test'], predicted, scene.num_classes)
    return {
        **_described(data),
        'confusion': counts.tolist(),
        'epochs': None,
        'tested_epoch': None,
        'curves': {},
        'parameters': None,
        'seconds': {'training': fitted - start, 'inference': tested - fitted},
    }


def _described(data: Any) -> Result:
    """What the datamodule says about scene and split.

    Args:
        data: A datamodule of this package that is set up.

    Returns:
        Scene, split and preprocessing in JSON values.
    """
    description = copy.deepcopy(data.describe())
    scene, split, patch_size = description['scene'], data.split, data.patch_size
    overlap = split.overlap(patch_size)
    return {
        'scene': {
            key: scene[key]
            for key in ('name', 'shape', 'class_names', 'synthetic', 'source')
        },
        'split': {
            'protocol': split.protocol,
            'settings': dict(split.settings),
            'identity': split.identity(),
            'sizes': [len(part) for part in (split.train, split.val, split.test)],
            'labelled': int((data.scene.label_map > 0).sum()),
            'dropped': list(split.dropped),
            'contains_training_centre': overlap.contains_training_centre,
            'shares_training_pixel': overlap.shares_training_pixel,
        },
        'patch_size': patch_size,
        'preprocessing': {
            key: value
            for key, value in description.items()
            if key not in ('scene', 'split')
        },
    }


def run(
    settings: Settings,
    root: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    keep: str | os.PathLike[str] | None = None,
) -> Result:
    """Do one run.

    Args:
        settings: Settings of the run, see the module's text.
        root: Folder of the scene's files; None: as the settings say.
        threads: Threads of PyTorch's operations; None: as they are.
        keep: Folder to which the tested checkpoint is copied; None: not kept.

    Returns:
        Confusion counts of the test pixels, curves, times, description of scene and
        split, versions and hardware, in JSON values.
    """
    place = None if root is None else os.fspath(root)
    with _threads(threads), tempfile.TemporaryDirectory() as folder:
        seed_everything(settings['seed_everything'], workers=True, verbose=False)
        if 'classical' in settings['model']:
            result = _fit_classical(settings, place)
        else:
            result = _train(settings, place, Path(folder))
            if keep is not None:
                Path(keep).mkdir(parents=True, exist_ok=True)
                kept = checkpoint_path(settings, keep)
                shutil.copy(Path(folder) / 'best.ckpt', kept.with_suffix('.part'))
                kept.with_suffix('.part').replace(kept)
        return {**result, 'environment': {**machine(), 'versions': versions()}}


def svm_settings(settings: Settings) -> dict[str, Any]:
    """Settings of the RBF support vector machine on a run's split.

    Args:
        settings: Settings of the run.

    Returns:
        Settings of another run, with the same data and seed.
    """
    bar = copy.deepcopy({name: settings[name] for name in ('data', 'seed_everything')})
    bar['data'].get('init_args', {}).pop('batch_size', None)
    if 'content' in settings:
        bar['content'] = settings['content']
    return {**bar, 'model': {'classical': 'rbf_svm'}, 'trainer': {}}


def sweep(
    runs: Iterable[Settings],
    store: RunStore,
    root: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    keep: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = logger.info,
    keep_seed: int | None = None,
) -> list[Result]:
    """Do all runs that have not finished yet, in order.

    Args:
        runs: Settings of every run.
        store: Folder of run files.
        root: Folder of the scene's files; None: as the settings say.
        threads: Threads of PyTorch's operations; None: as they are.
        keep: Folder to which tested checkpoints are copied; None: not kept.
        report: Called with one line a run.
        keep_seed: Seed of the runs whose checkpoints are kept; None: of all.

    Returns:
        The results, in the order of ``runs``.
    """
    wanted = list(runs)
    results = []
    for number, settings in enumerate(wanted, 1):
        result = store.load(settings)
        start = time.perf_counter()
        state = 'done before'
        place = keep if keep_seed in (None, settings['seed_everything']) else None
        if result is None:
            result = run(settings, root, threads, place)
            store.save(settings, result)
            state = f'{time.perf_counter() - start:.0f} s'
        elif _checkpoint_lacks(settings, place):
            # The finished result stands; this training is for its weights only.
            run(settings, root, threads, place)
            state = f'done before; checkpoint, {time.perf_counter() - start:.0f} s'
        results.append(result)
        report(
            f'[{number}/{len(wanted)}] {describe_run(settings)}: '
            f'overall accuracy {100 * _overall(result):.2f} % ({state})'
        )
    return results


def checkpoint_path(settings: Settings, keep: str | os.PathLike[str]) -> Path:
    """File of a run's kept checkpoint.

    Args:
        settings: Settings of the run.
        keep: Folder of checkpoints.

    Returns:
        The path, whether or not it exists.
    """
    return Path(keep) / f'{settings_key(settings)}.ckpt'


def _checkpoint_lacks(settings: Settings, keep: str | os.PathLike[str] | None) -> bool:
    """Whether a checkpoint is wanted that an earlier sweep did not keep."""
    if keep is None or 'classical' in settings['model']:
        return False
    return not checkpoint_path(settings, keep).is_file()


def _overall(result: Result) -> float:
    """Overall accuracy of a result, for the progress line."""
    counts = np.asarray(result['confusion'])
    return float(np.trace(counts) / counts.sum()) if counts.sum() else math.nan


def describe_run(settings: Settings) -> str:
    """Name a run for people.

    Args:
        settings: Settings of the run.

    Returns:
        Model and seed.
    """
    model = settings['model']
    arguments = model.get('init_args', {})
    name = model.get('classical') or arguments.get('model', model.get('class_path'))
    return f'{name}, seed {settings["seed_everything"]}'
