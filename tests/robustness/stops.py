# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Killed commands, resumed trainings, and deaths while results are published."""

import copy
import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import yaml

from .commands import CHECKPOINTS, COMMANDS, CONFIG, run_command, write_config
from .isolation import killed, trials


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
            # Bytes: NaN equals itself, and 0 is not -0.
            return {name: value.numpy().tobytes() for name, value in state.items()}
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
        config: What is trained.
    """

    def __init__(self, folder: Path, config: Any = CONFIG) -> None:
        """Prepare nothing yet."""
        self.folder = folder
        self.config = config
        self.expected: dict[str, tuple[Any, float]] = {}
        self.number = 0

    def prepare(self, place: Path, command: str) -> None:
        """Make a folder in which a command can run.

        Args:
            place: The folder, which is not there yet.
            command: One of :data:`COMMANDS`; what needs a training gets that of
                :meth:`reference`.
        """
        if command in ('test', 'predict'):
            self.reference('fit')
            shutil.copytree(self.folder / 'fit_whole', place)
        else:
            write_config(place, self.config)

    def reference(self, command: str) -> tuple[Any, float]:
        """Run a command undisturbed, once.

        Args:
            command: One of :data:`COMMANDS`.

        Returns:
            What it leaves, and its seconds.
        """
        if command not in self.expected:
            place = self.folder / f'{command}_whole'
            self.prepare(place, command)
            began = time.perf_counter()
            end = _do(lambda: run_command(place, *COMMANDS[command]))
            assert end == 'None', f'{command}: {end}'
            seconds = time.perf_counter() - began
            self.expected[command] = (_state(place, command), seconds)
        return self.expected[command]

    def stopped(
        self, command: str, stop: Callable[[Callable[[], Any], Path], bool]
    ) -> str:
        """Stop a command, look at its files, run it again and compare.

        Args:
            command: One of :data:`COMMANDS`.
            stop: Runs a work in a folder and stops it; tells whether it was stopped.

        Returns:
            ``'same'`` or ``'finished'``, or what was wrong.
        """
        expected, _ = self.reference(command)
        self.number += 1
        place = self.folder / f'{command}_{self.number}'
        self.prepare(place, command)
        was = stop(lambda: run_command(place, *COMMANDS[command]), place)
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


def kills(
    count: int, folder: Path, seed: int = 0, campaign: Campaign | None = None
) -> dict[str, int]:
    """Kill fit, predict, repeat and compare at random moments.

    Args:
        count: Number of kills.
        folder: Place for runs.
        seed: Seed of the moments.
        campaign: Has undisturbed runs already; a new one by default.

    Returns:
        How often each end was seen, by ``'command: end'``.
    """
    chance = random.Random(seed)
    campaign = campaign or Campaign(folder)
    seen: dict[str, int] = {}
    commands = itertools.cycle(('fit', 'predict', 'repeat', 'compare'))
    for command in itertools.islice(commands, count):
        _, seconds = campaign.reference(command)
        moment = chance.uniform(0, seconds)
        end = campaign.stopped(command, lambda work, _, at=moment: killed(work, at))  # type: ignore[misc]
        name = f'{command}: {end}'
        seen[name] = seen.get(name, 0) + 1
    return seen


def resumes(count: int, folder: Path, seed: int = 0) -> dict[str, int]:
    """Kill ``fit`` once it has a checkpoint, go on from there, and compare weights.

    Args:
        count: Number of kills; a training that ends before its moment is not counted.
        folder: Place for runs.
        seed: Seed of the moments.

    Returns:
        How often each end was seen; ``'same'`` are weights that equal those of an
        uninterrupted training to the bit.
    """
    chance = random.Random(seed)
    config = copy.deepcopy(CONFIG)
    config['trainer']['max_epochs'] = 6
    campaign = Campaign(folder, config)
    _, seconds = campaign.reference('fit')
    seen: dict[str, int] = {}
    while sum(seen.values()) < count:
        moment = chance.uniform(0, seconds)
        end = campaign.stopped(
            'fit',
            lambda work, place, at=moment: killed(  # type: ignore[misc]
                work, at, lambda: (place / CHECKPOINTS / 'last.ckpt').is_file()
            ),
        )
        if end == 'finished':
            # Training and evaluation take less than the whole command.
            seconds = max(0.1, 0.8 * seconds)
            continue
        name = f'fit: {end}'
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


def deaths(
    count: int, folder: Path, campaign: Campaign | None = None
) -> dict[str, int]:
    """Let commands die while they give a finished file its name.

    Args:
        count: Number of deaths.
        folder: Place for runs.
        campaign: Has undisturbed runs already; a new one by default.

    Returns:
        How often each end was seen, by ``'command: end'``.
    """
    campaign = campaign or Campaign(folder)
    seen: dict[str, int] = {}
    steps = [
        (command, call, after)
        for call in range(1, 100)
        for after in (False, True)
        for command in ('predict', 'repeat', 'test', 'compare')
    ]
    died = 0
    over: set[str] = set()
    for command, call, after in steps:
        if died == count or len(over) == 4:
            break
        if command in over:
            continue
        end = campaign.stopped(
            command,
            lambda work, _, n=call, late=after: _dying(work, n, late),  # type: ignore[misc]
        )
        if end == 'finished':
            # It replaces no more files than that.
            over.add(command)
            continue
        died += 1
        name = f'{command}: {end}'
        seen[name] = seen.get(name, 0) + 1
    return seen
