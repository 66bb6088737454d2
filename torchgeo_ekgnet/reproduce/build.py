# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Build what settings say, through the parser that reads configurations of ``fit``."""

import copy
import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from .._files import StrPath, file_digest
from ..cli import CommandLine, built_data
from ..datamodules import HyperspectralDataModule
from ..datasets.scene import HyperspectralScene
from .runs import Result, Settings, decode_floats

_OWN = ('content', 'start_epoch', 'checkpoint', 'smooth')
"""Settings that the engine reads itself."""


def built_run(
    configuration: Mapping[str, Any], callbacks: Sequence[Callback] = ()
) -> CommandLine:
    """Build trainer, task and datamodule, with callbacks besides the configured ones."""
    return CommandLine(
        save_config_callback=None,
        trainer_defaults={'callbacks': list(callbacks)},
        run=False,
        args=dict(configuration),
    )


def placed(settings: Settings, root: StrPath | None, work: Path) -> dict[str, Any]:
    """Add to settings what does not belong to a run's identity: the places of files.

    One device, unless the settings say otherwise: several would train another way
    under the same name.

    Args:
        settings: Settings of a run.
        root: Folder of the scene's files; None: as configured.
        work: Folder for checkpoints.

    Returns:
        A configuration that can be built.
    """
    configuration: dict[str, Any] = decode_floats(settings)
    for name in _OWN:
        configuration.pop(name, None)
    if root is not None:
        configuration['data'].setdefault('init_args', {})['root'] = os.fspath(root)
    configuration['trainer'] = {
        'devices': 1,
        **configuration.get('trainer', {}),
        'default_root_dir': str(work),
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'log_every_n_steps': 1,
        'num_sanity_val_steps': 0,
    }
    return configuration


def build_data(
    settings: Settings, root: StrPath | None = None
) -> HyperspectralDataModule:
    """Build the datamodule of a run and read its scene.

    Args:
        settings: Settings of the run.
        root: Folder of the scene's files; None: as the settings say.

    Returns:
        The datamodule, with scene and split.
    """
    chosen = placed(settings, root, Path())['data']
    data: HyperspectralDataModule = built_data(chosen, HyperspectralDataModule)
    data.setup('test')
    return data


def content_of(
    settings: Settings, root: StrPath | None = None, split: bool = False
) -> dict[str, str]:
    """Identify the data that a run reads by what they hold, wherever they lie.

    Args:
        settings: Settings of the run.
        root: Folder of the scene's files; None: as the settings say.
        split: Whether the split may come from files, which are data as well.

    Returns:
        SHA-256 of the scene's values, labels, classes and mask of valid pixels, if
        wanted the identity of the split, and the digest of a file of weights that the
        training begins with.
    """
    data = build_data(settings, root)
    content = {'scene': _scene_content(data.scene)}
    if split:
        content['split'] = data.split.identity()
    return {**content, **_weights_content(settings)}


def check_content(settings: Settings, data: HyperspectralDataModule) -> None:
    """See that a run reads the data that its settings are of.

    Args:
        settings: Settings of the run.
        data: Its datamodule, set up.

    Raises:
        ValueError: If a file was changed since the sweep began.
    """
    known = settings.get('content') or {}
    found = {'scene': _scene_content(data.scene), **_weights_content(settings)}
    if not _draws(settings):
        found['split'] = data.split.identity()
    for name, digest in known.items():
        if found.get(name, digest) != digest:
            raise ValueError(
                f'found another {name} than at the beginning of this command '
                f'(SHA-256 {found[name][:12]}), expected the same one ({digest[:12]}): '
                'a file was changed meanwhile. What has finished is kept; give the '
                'command again for runs that are all of the new files'
            )


def _draws(settings: Settings) -> bool:
    """Tell whether every seed has a split of its own."""
    split = settings['data'].get('init_args', {}).get('split')
    return not isinstance(split, Mapping) or 'seed' in (split.get('init_args') or {})


def _weights_content(settings: Settings) -> dict[str, str]:
    """Identify the file of weights that a training begins with, if there is one."""
    weights = settings['model'].get('init_args', {}).get('weights')
    if isinstance(weights, str) and os.path.isfile(weights):
        return {'weights': file_digest(weights)}
    return {}


def _scene_content(scene: HyperspectralScene) -> str:
    """Identify values, labels, classes and valid pixels of a scene."""
    digest = hashlib.sha256(json.dumps([scene.digest(), scene.class_names]).encode())
    digest.update(scene.label_map.astype('<i8').tobytes())
    digest.update(scene.valid.tobytes())
    return digest.hexdigest()


def described(data: HyperspectralDataModule) -> Result:
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


def import_class(path: str) -> Any:
    """Import a class that the parser has accepted by its dotted path."""
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)
