# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Read configurations of ``fit`` into settings of runs."""

import copy
import inspect
import json
import warnings
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
)

from .._configurations import check_yaml
from ..cli import CommandLine
from ..commands import resolve_config
from ..datamodules import HyperspectralDataModule
from ..tasks import HyperspectralClassificationTask
from .build import import_class
from .declarations import LAST_EPOCH, split_settings
from .runs import encode_floats

_PARTS = ('data', 'model', 'trainer', 'optimizer', 'lr_scheduler')
"""Parts of a configuration that a run's result depends on."""

_PLACES = {
    'data': ('root', 'download', 'checksum', 'num_workers'),
    'trainer': (
        'default_root_dir',
        'logger',
        'enable_progress_bar',
        'enable_model_summary',
        'log_every_n_steps',
    ),
}
"""Arguments that tell where files lie or what is shown: they change no result."""

_SHOWS = (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
)
"""Callbacks of Lightning that only write or show; the engine has its own checkpoint.
Ours say so themselves: ``only_writes``."""

_CHOICE = ('monitor', 'mode', 'every_n_epochs', 'save_on_train_epoch_end')
"""Arguments of ``ModelCheckpoint`` that decide which epoch's weights remain."""


class _Reader(CommandLine):
    """The command line's parser; neither builds nor runs anything."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def read_config(configs: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Read a configuration of ``fit`` into settings of the repeat engine.

    Where files lie, and callbacks that only write files, do not belong to a run's
    settings and are left out. The first ``ModelCheckpoint`` that monitors something
    decides which weights are tested, as it decides which ones ``fit`` calls best;
    without one they are those of the last epoch.

    Args:
        configs: YAML files or names of shipped configurations; later ones override
            earlier ones.
        overrides: Further arguments of ``fit``.

    Returns:
        Settings in JSON values; what equals a default is left out.

    Raises:
        FileNotFoundError: If there is no such configuration.
        TypeError: If data or model are not of this package.
        ValueError: If data or model are missing.
        UsageError: If an argument is unknown or wrong.
    """
    arguments = ['fit']
    for config in configs:
        path = resolve_config(config)
        check_yaml(path)
        arguments += ['--config', path]
    with warnings.catch_warnings():
        reader = _Reader(seed_everything_default=False, args=[*arguments, *overrides])
    parser = reader._parser('fit')
    found = reader.config['fit'].clone()
    for name in ('config', 'ckpt_path', 'weights_only'):
        found.pop(name, None)
    # In order: format, null values are not skipped, values equal to defaults are, no
    # validation. The second one's name differs between releases of jsonargparse.
    text = parser.dump(found, 'json', False, True, True)
    settings = {
        name: value
        for name, value in encode_floats(json.loads(text)).items()
        if name in _PARTS and value
    }
    for name, base in (
        ('data', HyperspectralDataModule),
        ('model', HyperspectralClassificationTask),
    ):
        if name not in settings:
            raise ValueError(
                f'--config: {configs[-1]} has no {name!r}, which fit needs'
            )
        path = settings[name]['class_path']
        if not issubclass(import_class(path), base):
            raise TypeError(
                f'--config: found {path} for {name}, expected {base.__name__} or a '
                'subclass'
            )
    _keep_what_counts(settings)
    return settings


def _keep_what_counts(settings: dict[str, Any]) -> None:
    """Take out what only shows or writes, and note which weights are tested."""
    trainer = settings.setdefault('trainer', {})
    _refuse_parts_of_runs(trainer)
    for name in _PLACES['trainer']:
        trainer.pop(name, None)
    callbacks = trainer.pop('callbacks', None) or []
    callbacks = [callbacks] if isinstance(callbacks, dict) else callbacks
    classes = [import_class(callback['class_path']) for callback in callbacks]
    settings['checkpoint'] = dict(LAST_EPOCH)
    for callback, of in reversed(list(zip(callbacks, classes, strict=True))):
        given = callback.get('init_args') or {}
        if issubclass(of, ModelCheckpoint) and given.get('monitor') is not None:
            settings['checkpoint'] = {
                name: given[name] for name in _CHOICE if given.get(name) is not None
            }
    trainer['callbacks'] = [
        callback
        for callback, of in zip(callbacks, classes, strict=True)
        if not (issubclass(of, _SHOWS) or getattr(of, 'only_writes', False))
    ]


def _refuse_parts_of_runs(trainer: dict[str, Any]) -> None:
    """Refuse a trainer whose runs are no results of a sweep."""
    devices = trainer.get('devices', 1)
    several = len(devices) > 1 if isinstance(devices, list) else devices not in (1, '1')
    if several or trainer.get('num_nodes', 1) != 1:
        raise ValueError(
            f'--trainer.devices: found {devices}, expected 1: the runs of a sweep train '
            'on one device each'
        )
    for name in ('fast_dev_run', 'limit_test_batches', 'overfit_batches'):
        if trainer.get(name):
            raise ValueError(
                f'--trainer.{name}: found {trainer[name]}, expected nothing: the runs '
                'of a sweep are tested on all test pixels'
            )


def places(settings: dict[str, Any]) -> str | None:
    """Take the folder of the scene's files out of the settings.

    Args:
        settings: Settings of :func:`read_config`, changed in place.

    Returns:
        The folder, None if the configuration does not say.
    """
    arguments = settings['data'].setdefault('init_args', {})
    root: str | None = arguments.get('root')
    for name in _PLACES['data']:
        arguments.pop(name, None)
    return root


def with_seed(settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Settings of one repetition.

    Args:
        settings: Settings of :func:`read_config`.
        seed: Seed of the split (if its protocol has one), of a sampler and of the
            training.

    Returns:
        Settings of one run.
    """
    seeded = copy.deepcopy(settings)
    seeded['seed_everything'] = seed
    datamodule = import_class(seeded['data']['class_path'])
    arguments = seeded['data'].setdefault('init_args', {})
    split = arguments.get('split')
    # A scene with a protocol of its own, such as official masks, keeps it as in fit.
    own = datamodule._default_protocol is not HyperspectralDataModule._default_protocol
    if split is None and not own:
        train, val = datamodule.default_split
        split = split_settings('random', train, val, seed)
    if isinstance(split, str):
        # A published split by its name.
        split = {
            'class_path': 'torchgeo_ekgnet.datasets.splits.CommunitySplit',
            'init_args': {'masks': split},
        }
    if split is not None:
        if 'seed' in inspect.signature(import_class(split['class_path'])).parameters:
            split.setdefault('init_args', {})['seed'] = seed
        arguments['split'] = split
    if arguments.get('sampler') is not None:
        arguments['sampler'].setdefault('init_args', {})['seed'] = seed
    return seeded
