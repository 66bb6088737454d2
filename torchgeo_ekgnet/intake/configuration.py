# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A complete, commented configuration for the files of a scene."""

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .._files import as_argument
from .advice import Advice
from .discovery import SceneFiles

__all__ = ('write_configuration',)

_WIDTH = 88

#: Arguments of a scene that a user may want, shown as comments where they are unused.
_UNUSED = {
    'wavelengths': 'wavelengths.txt  # band centres in nm, one number a band',
    'nodata': '0  # value that means "no data" if the file does not say so',
}

#: Of a task, by the name of its recipe.
_RATE = {'custom': '    lr: 3.0e-3', 'custom_spatial': '    lr: 1.0e-3'}
_RECIPE_TASK = [
    '    warmup: 0.05',
    '    weight_decay: 0.05  # AdamW',
    '    label_smoothing: 0.1',
    '    calibrate: true  # a temperature for probabilities, where pixels validate',
]
_AUGMENTATION = '    augmentation:  # of training patches, at random'
_TURNS = ['      flips: true', '      turns: true']
_CROPS = [
    '      crop: 1  # one pixel of a patch, so that surroundings cannot be memorised',
    '      crop_within: 5  # from the middle: farther ones may be of another class',
]
_SPECTRAL_CHANGES = [
    '      band_gain: 0.05',
    '      smooth_offset: 0.1',
    '      noise: 0.05',
]


def write_configuration(
    found: SceneFiles, advice: Advice, name: str, path: Path
) -> str:
    """Write the configuration of a run.

    Args:
        found: The scene's files.
        advice: Network, recipe and split.
        name: Name of the run.
        path: Where it is going to lie; None: NAME.yaml.

    Returns:
        YAML that ``torchgeo fit`` runs as it is.
    """
    lines = [
        *_head(found, advice, name, path),
        'seed_everything: 0',
        *_trainer(advice, name),
        *_model(advice),
        *_data(found, advice),
    ]
    return '\n'.join(map(_printable, lines)) + '\n'


def _printable(line: str) -> str:
    """Spell out what YAML does not take in comments, such as ends of lines in names."""
    return ''.join(
        letter if letter.isprintable() else letter.encode('unicode_escape').decode()
        for letter in line
    )


def commands(name: str, path: Path) -> list[str]:
    """Say what to type with the configuration of a run.

    Args:
        name: Name of the run.
        path: The configuration.

    Returns:
        A command a line.
    """
    return [
        f'torchgeo-ekgnet fit --config {as_argument(path)}',
        f'torchgeo-ekgnet test --name {name}',
        f'torchgeo-ekgnet predict --name {name}',
    ]


def _scalar(value: object) -> str:
    """Write a value on one line of YAML."""
    text = str(yaml.safe_dump(value, default_flow_style=True, width=10_000))
    return text.strip().removesuffix('\n...').strip()


def _line(indent: int, key: str, value: object, comment: str = '') -> list[str]:
    """Write a key, its comment before it if the line would be too long."""
    text = f'{" " * indent}{key}: {_scalar(value)}'
    if not comment:
        return [text]
    if len(text) + len(comment) + 4 <= _WIDTH:
        return [f'{text}  # {comment}']
    return [*_comment(indent, comment), text]


def _comment(indent: int, text: str) -> list[str]:
    """Write a comment in lines that are not too long."""
    prefix = f'{" " * indent}# '
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _head(found: SceneFiles, advice: Advice, name: str, path: Path) -> list[str]:
    """Say what the file is, and what to type."""
    rows, cols, bands = found.scene.shape
    kept = (
        'averaged weights of the last epoch'
        if advice.recipe
        else 'weights of the epoch with the lowest validation loss'
    )
    pixels = sum(found.scene.class_counts)
    return [
        *_comment(
            0,
            f'{advice.model} on {found.scene.name}: {rows} x {cols} pixels, {bands} '
            f'bands, {found.scene.num_classes} classes, {pixels:,} labelled pixels.',
        ),
        '#',
        *(f'#   {command}' for command in commands(name, path)),
        '#',
        *_comment(
            0,
            f'fit keeps the {kept}, test scores them, predict classifies every pixel: '
            'map, confidence and report lie beside the checkpoint. Plain torchgeo runs '
            'this file as well. Every value can be given on the command line, too, such '
            'as --trainer.max_epochs 10.',
        ),
    ]


def _trainer(advice: Advice, name: str) -> list[str]:
    """Write the trainer with its callbacks."""
    lines = [
        'trainer:',
        *_line(2, 'max_epochs', advice.epochs, advice.reasons.get('max_epochs', '')),
        '  log_every_n_steps: 10',
        '  enable_model_summary: false  # the task says how many parameters there are',
        '  logger: false  # the run folder brings its own: CSV and TensorBoard',
        '  callbacks:',
        '    - class_path: torchgeo_ekgnet.callbacks.RunFolder',
        '      init_args:',
        *_line(8, 'name', name, 'results go to runs/NAME/version_N'),
    ]
    if advice.has_experts:
        lines += [
            '    - class_path: torchgeo_ekgnet.callbacks.TemperatureAnnealing',
            '      init_args:',
            '        share: 0.5  # the temperature falls to its end in half of the epochs',
        ]
    if advice.recipe:
        lines += [
            '    - class_path: torchgeo_ekgnet.callbacks.MovingAverage',
            '      init_args:',
            '        share: 0.1',
        ]
    else:
        lines += [
            '    - class_path: lightning.pytorch.callbacks.EarlyStopping',
            '      init_args:',
            '        monitor: val_loss',
            *_line(8, 'patience', advice.patience),
            '    - class_path: lightning.pytorch.callbacks.ModelCheckpoint',
            '      init_args:',
            '        filename: best',
            '        monitor: val_loss',
            '        enable_version_counter: false',
        ]
    return [
        *lines,
        '    # The state after each epoch, to resume from.',
        '    - class_path: lightning.pytorch.callbacks.ModelCheckpoint',
        '      init_args:',
        '        filename: last',
        '        enable_version_counter: false',
        '    - class_path: torchgeo_ekgnet.callbacks.AccuracyReport',
        '    - class_path: torchgeo_ekgnet.callbacks.ClassificationMap',
    ]


def _model(advice: Advice) -> list[str]:
    """Write the task."""
    recipe = advice.recipe
    return [
        'model:',
        '  class_path: torchgeo_ekgnet.tasks.HyperspectralClassificationTask',
        '  init_args:',
        *_line(4, 'model', advice.model, advice.reasons.get('model', '')),
        *([_RATE[recipe], *_RECIPE_TASK] if recipe else ['    lr: 1.0e-3']),
        '    lr_schedule: cosine',
    ]


def _data(found: SceneFiles, advice: Advice) -> list[str]:
    """Write the data module."""
    lines = [
        'data:',
        '  class_path: torchgeo_ekgnet.datamodules.CustomSceneDataModule',
        '  init_args:',
        *_line(4, 'root', _root(found.root), 'folder that the paths below start from'),
        *_line(4, 'cube', found.cube),
        *_line(4, 'labels', found.labels),
    ]
    for key, value in found.options.items():
        lines += _line(4, key, value, found.notes.get(key, ''))
    if 'axes' in found.notes and 'axes' not in found.options:
        lines += _line(4, 'axes', 'yxb', found.notes['axes'])
    for key, text in _UNUSED.items():
        if getattr(found.scene, key) is None and key not in found.options:
            lines.append(f'    # {key}: {text}')
    lines += _classes(found)
    lines += [
        *_line(
            4, 'patch_size', advice.patch_size, advice.reasons.get('patch_size', '')
        ),
        *_line(
            4, 'batch_size', advice.batch_size, advice.reasons.get('batch_size', '')
        ),
        *(['    padding_mode: reflect'] if advice.recipe else []),
        _AUGMENTATION,
        *(_CROPS if advice.recipe == 'custom' else _TURNS),
        *(_SPECTRAL_CHANGES if advice.recipe else []),
        *_comment(4, advice.reasons['split']),
        '    split:',
        f'      class_path: torchgeo_ekgnet.datasets.{type(advice.protocol).__name__}',
        '      init_args:',
    ]
    for key, value in advice.protocol.settings.items():
        if value is not None:
            lines += _line(8, key, value)
    return lines


def _classes(found: SceneFiles) -> list[str]:
    """Write the names of the classes, to be edited."""
    scene = found.scene
    names: Mapping[int, str] = dict(
        zip(scene.class_values, scene.class_names, strict=True)
    )
    if 'class_names' in found.options or 'attribute' in found.options:
        # Names come from the file.
        shown: Any = ', '.join(names.values())
        return _comment(4, f'classes: {shown}')
    counts = dict(zip(scene.class_values, scene.class_counts, strict=True))
    lines = [
        '    # Names by value of the label file: write your own.',
        '    class_names:',
    ]
    for value, text in names.items():
        lines += _line(6, str(value), text, f'{counts[value]:,} pixels')
    return lines


def _root(root: Path) -> str:
    """Write the folder relative to the working directory where it lies below it."""
    inside = root.is_relative_to(Path.cwd())
    return Path(os.path.relpath(root) if inside else root).as_posix()
