# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Commands that are tried, and mutated configurations."""

import copy
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from torchgeo_ekgnet import main

from . import good
from .isolation import trials

PACKAGE = 'torchgeo_ekgnet'
CONFIG: dict[str, Any] = {
    'seed_everything': 0,
    'trainer': {
        'max_epochs': 2,
        'accelerator': 'cpu',
        'devices': 1,
        'logger': False,
        'log_every_n_steps': 1,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'callbacks': [
            {
                'class_path': f'{PACKAGE}.callbacks.RunFolder',
                'init_args': {'name': 'tiny'},
            },
            {
                'class_path': f'{PACKAGE}.callbacks.TemperatureAnnealing',
                'init_args': {'start': 34.0, 'end': 1.0, 'step': 3.0},
            },
            {
                'class_path': 'lightning.pytorch.callbacks.ModelCheckpoint',
                'init_args': {
                    'filename': 'best',
                    'monitor': 'val_loss',
                    'enable_version_counter': False,
                },
            },
            {
                'class_path': 'lightning.pytorch.callbacks.ModelCheckpoint',
                'init_args': {'filename': 'last', 'enable_version_counter': False},
            },
            {'class_path': f'{PACKAGE}.callbacks.AccuracyReport'},
            {'class_path': f'{PACKAGE}.callbacks.ClassificationMap'},
        ],
    },
    'model': {
        'class_path': f'{PACKAGE}.tasks.HyperspectralClassificationTask',
        'init_args': {
            'model': 'ekgnet_tiny',
            'model_options': {'block_config': [1]},
            'lr': 2e-3,
            'lr_schedule': 'cosine',
        },
    },
    'data': {
        'class_path': f'{PACKAGE}.datamodules.SyntheticSceneDataModule',
        'init_args': {
            'rows': 24,
            'cols': 20,
            'num_bands': 12,
            'num_classes': 3,
            'patch_size': 5,
            'batch_size': 32,
            'split': {
                'class_path': f'{PACKAGE}.datasets.RandomSplit',
                'init_args': {'train': 0.2, 'val': 0.1, 'seed': 3},
            },
        },
    },
}
CHECKPOINTS = Path('runs', 'tiny', 'version_0', 'checkpoints')
_SWEEP = ('--seeds', '2', '--threads', '1', '--out', 'out')
COMMANDS: dict[str, tuple[str, ...]] = {
    'fit': ('fit', '--config', 'tiny.yaml'),
    'test': (
        'test',
        '--config',
        'tiny.yaml',
        '--ckpt_path',
        str(CHECKPOINTS / 'best.ckpt'),
    ),
    'predict': (
        'predict',
        '--config',
        'tiny.yaml',
        '--ckpt_path',
        str(CHECKPOINTS / 'best.ckpt'),
    ),
    'repeat': ('repeat', '--config', 'tiny.yaml', *_SWEEP),
    'compare': (
        'compare',
        '--config',
        'tiny.yaml',
        '--models',
        'cnn3d,rbf_svm',
        *_SWEEP,
    ),
}
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e30,
    float('nan'),
    float('inf'),
    '',
    'words',
    [],
    [1, 'two'],
    {},
    {'class_path': 'subprocess.Popen', 'init_args': {'args': ['true']}},
    {'class_path': f'{PACKAGE}.datasets.RandomSplit'},
    'http://localhost/file',
    10**25,
)


def run_command(folder: Path, *args: str) -> None:
    """Run a command in a folder, as the process would."""
    os.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        main.run(list(args))


def write_config(folder: Path, config: Any = CONFIG) -> None:
    """Write a configuration.

    Args:
        folder: Where to.
        config: What it says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'tiny.yaml').write_text(yaml.safe_dump(config))


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values of a tree."""
    keys = (
        (tree if isinstance(tree, dict) else range(len(tree)))
        if isinstance(tree, dict | list)
        else ()
    )
    found = [(*path, key) for key in keys]
    for key in keys:
        found += nodes(tree[key], (*path, key))
    return found


def mutate_config(chance: random.Random) -> Any:
    """Change a configuration in one to three places.

    Args:
        chance: Source of the changes.

    Returns:
        The configuration.
    """
    config = copy.deepcopy(CONFIG)
    for _ in range(chance.choice((1, 1, 2, 3))):
        *path, key = chance.choice(nodes(config))
        parent = config
        for name in path:
            parent = parent[name]
        change = chance.choice(('value', 'value', 'gone', 'name', 'type'))
        if change == 'gone':
            del parent[key]
        elif change == 'name' and isinstance(parent, dict):
            parent[f'{key}x'] = parent.pop(key)
        elif change == 'type':
            parent[key] = str(parent[key])
        else:
            parent[key] = copy.deepcopy(chance.choice(ODD))
        if not config:
            break
    config.setdefault('trainer', {})
    if isinstance(config['trainer'], dict):
        # What a user may well mean, but nobody wants to wait for.
        epochs = config['trainer'].get('max_epochs')
        if isinstance(epochs, int) and not isinstance(epochs, bool) and abs(epochs) > 2:
            config['trainer']['max_epochs'] = 1
        config['trainer'].setdefault('limit_train_batches', 2)
        if epochs in (None, -1) or isinstance(epochs, float | bool | dict | list | str):
            config['trainer']['max_steps'] = 2
    return config


def mutated_configurations(count: int, folder: Path, seed: int = 0) -> dict[str, int]:
    """Train with damaged configurations.

    Args:
        count: Number of configurations.
        folder: Place for runs.
        seed: Seed of the damage.

    Returns:
        How often each end was seen.
    """
    chance = random.Random(seed)
    configs = [mutate_config(chance) for _ in range(count)]

    def work(number: int) -> Callable[[], str]:
        def fit() -> str:
            place = folder / str(number)
            write_config(place, configs[number])
            os.environ.pop('TORCHGEO_EKGNET_DEBUG', None)
            try:
                run_command(place, 'fit', '--config', 'tiny.yaml')
            except BaseException as error:  # noqa: BLE001
                # What the process would print, and its status.
                line = main._end(error)
                if '\n' in str(line):
                    return f'several lines: {line}'
                foreign = 'shows where it was raised' in str(line)
                return "refused in a library's words" if foreign else 'refused'
            finally:
                shutil.rmtree(place, ignore_errors=True)
            return 'runs'

        return fit

    seen: dict[str, int] = {}
    for number, end in trials([work(number) for number in range(count)]):
        if not good(end):
            end += f' (number {number})'
        seen[end] = seen.get(end, 0) + 1
    return seen
