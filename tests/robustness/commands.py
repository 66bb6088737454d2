# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mutated configurations, killed commands, and deaths while results are published."""

import copy
import itertools
import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import yaml

from torchgeo_ekgnet import main

from . import good
from .isolation import killed, trials

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
        'init_args': {'model': 'ekgnet_tiny', 'lr': 2e-3, 'lr_schedule': 'cosine'},
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


def incomplete(folder: Path) -> list[str]:
    """List the files with a final name that cannot be read to their end.

    Args:
        folder: A folder of runs, maps or reports.

    Returns:
        Names and what is wrong.
    """
    wrong = []
    for path in sorted(folder.rglob('*')):
        parts = path.relative_to(folder).parts
        aside = any(part.startswith('.') or '.part' in part for part in parts)
        if not path.is_file() or aside or 'events.out' in path.name:
            continue
        try:
            match path.suffix:
                case '.json':
                    json.loads(path.read_text())
                case '.yaml':
                    yaml.safe_load(path.read_text())
                case '.ckpt':
                    torch.load(path, weights_only=True)
                case '.npz':
                    with np.load(path) as file:
                        [file[name] for name in file.files]
                case '.tif':
                    with rasterio.open(path) as raster:
                        raster.read()
                case '.html':
                    assert path.read_text().rstrip().endswith('</html>')
        except Exception as error:  # noqa: BLE001  (whatever a reader raises)
            wrong.append(f'{path.name}: {type(error).__name__}: {error}')
    return wrong


def _state(folder: Path, command: str) -> Any:
    """What a command has left that must be the same whatever happened before."""
    match command:
        case 'fit':
            runs = sorted((folder / 'runs' / 'tiny').glob('version_*'))
            path = runs[-1] / 'checkpoints' / 'last.ckpt'
            state = torch.load(path, weights_only=True)['state_dict']
            return {name: value.tolist() for name, value in state.items()}
        case 'predict':
            (path,) = folder.rglob('map.tif')
            with rasterio.open(path) as raster:
                return raster.read().tolist()
        case 'test':
            (path,) = folder.rglob('test.json')
            return json.loads(path.read_text())['confusion_matrix']
        case _:
            lines = (folder / 'out' / 'results.csv').read_text()
            return lines


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


def _prepare(folder: Path, command: str) -> None:
    """Make the place in which a command runs: a trained network for some."""
    write_config(folder)
    if command in ('test', 'predict'):
        _do(lambda: run_command(folder, *COMMANDS['fit']))


def _do(work: Callable[[], Any]) -> str:
    """Do a work in a process of its own."""
    ((_, end),) = trials([lambda: str(work())], limit=600)
    return end


def _continued(folder: Path, command: str) -> str:
    """Run a command again after it was stopped."""
    args = COMMANDS[command]
    if command == 'fit':
        found = sorted(folder.glob('runs/tiny/version_*/checkpoints/last.ckpt'))
        last = ('--ckpt_path', str(found[-1])) if found else ()
        args = (*args, *last)
    return _do(lambda: run_command(folder, *args))


class Campaign:
    """Commands that are stopped in many ways, and what they leave.

    Args:
        folder: Place for all trials.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare nothing yet."""
        self.folder = folder
        self.expected: dict[str, tuple[Any, float]] = {}
        self.number = 0

    def reference(self, command: str) -> tuple[Any, float]:
        """Run a command undisturbed, once.

        Args:
            command: One of :data:`COMMANDS`.

        Returns:
            What it leaves, and its seconds.
        """
        if command not in self.expected:
            place = self.folder / f'{command}_whole'
            _prepare(place, command)
            shutil.copytree(place, self.folder / f'{command}_origin')
            began = time.perf_counter()
            end = _do(lambda: run_command(place, *COMMANDS[command]))
            assert end == 'None', f'{command}: {end}'
            seconds = time.perf_counter() - began
            self.expected[command] = (_state(place, command), seconds)
        return self.expected[command]

    def stopped(self, command: str, stop: Callable[[Callable[[], Any]], bool]) -> str:
        """Stop a command, look at its files, run it again and compare.

        Args:
            command: One of :data:`COMMANDS`.
            stop: Runs a work and stops it; tells whether it was stopped.

        Returns:
            ``'same'`` or ``'finished'``, or what was wrong.
        """
        expected, _ = self.reference(command)
        self.number += 1
        place = self.folder / f'{command}_{self.number}'
        origin = self.folder / f'{command}_origin'
        if command in ('test', 'predict'):
            shutil.copytree(origin, place)
        else:
            write_config(place)
        was = stop(lambda: run_command(place, *COMMANDS[command]))
        wrong = incomplete(place)
        if wrong:
            return f'half-written: {wrong[0]}'
        if was:
            end = _continued(place, command)
            if end != 'None':
                return f'does not continue: {end}'
        if _state(place, command) != expected:
            return 'other result'
        shutil.rmtree(place)
        return 'same' if was else 'finished'


def kills(count: int, folder: Path, seed: int = 0) -> dict[str, int]:
    """Kill fit, predict, repeat and compare at random moments.

    Args:
        count: Number of kills.
        folder: Place for runs.
        seed: Seed of the moments.

    Returns:
        How often each end was seen, by ``'command: end'``.
    """
    chance = random.Random(seed)
    campaign = Campaign(folder)
    seen: dict[str, int] = {}
    commands = itertools.cycle(('fit', 'predict', 'repeat', 'compare'))
    for command in itertools.islice(commands, count):
        _, seconds = campaign.reference(command)
        moment = chance.uniform(0, seconds)
        end = campaign.stopped(command, lambda work, at=moment: killed(work, at))  # type: ignore[misc]
        name = f'{command}: {end}'
        seen[name] = seen.get(name, 0) + 1
    return seen


def _dying(work: Callable[[], Any], call: int, after: bool) -> bool:
    """Run a work that dies before or after its n-th replacement of a file."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_RDWR)
        for number in (1, 2):
            os.dup2(silent, number)
        calls = itertools.count(1)
        replace = os.replace

        def dying(*args: Any, **kwargs: Any) -> None:
            last = next(calls) == call
            if last and not after:
                os._exit(9)
            replace(*args, **kwargs)
            if last:
                os._exit(9)

        os.replace = dying
        try:
            work()
        except BaseException:  # noqa: BLE001  (the child must end here)
            os._exit(7)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


def deaths(count: int, folder: Path) -> dict[str, int]:
    """Let commands die while they give a finished file its name.

    Args:
        count: Number of deaths.
        folder: Place for runs.

    Returns:
        How often each end was seen, by ``'command: end'``.
    """
    campaign = Campaign(folder)
    seen: dict[str, int] = {}
    steps = [
        (command, call, after)
        for call in range(1, 100)
        for after in (False, True)
        for command in ('predict', 'repeat', 'test')
    ]
    died = 0
    over: set[str] = set()
    for command, call, after in steps:
        if died == count or len(over) == 3:
            break
        if command in over:
            continue
        end = campaign.stopped(
            command,
            lambda work, n=call, late=after: _dying(work, n, late),  # type: ignore[misc]
        )
        if end == 'finished':
            # It replaces no more files than that.
            over.add(command)
            continue
        died += 1
        name = f'{command}: {end}'
        seen[name] = seen.get(name, 0) + 1
    return seen
