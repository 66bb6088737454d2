# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Checkpoints that are whole files and say odd things."""

import copy
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torchgeo_ekgnet.datasets.synthetic import synthetic_scene
from torchgeo_ekgnet.maps import load_classifier, write_map

from .commands import (
    CHECKPOINTS,
    COMMANDS,
    CONFIG,
    ODD,
    nodes,
    run_command,
    write_config,
)
from .isolation import said, trials


def _shared(depth: int = 60) -> list[Any]:
    """A list that is small in a file and without end for who walks through it."""
    value: list[Any] = [1]
    for _ in range(depth):
        value = [value, value]
    return value


def _circle() -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


def _train(folder: Path) -> str:
    """Train in a folder."""
    run_command(folder, *COMMANDS['fit'])
    return ''


STRANGE: tuple[Callable[[], Any], ...] = (
    *(lambda value=value: copy.deepcopy(value) for value in ODD),
    _shared,
    _circle,
    lambda: torch.tensor(float('nan')),
    lambda: torch.ones(3, 2),
    lambda: [10**9] * 3,
    lambda: 'x' * 100_000,
    lambda: {'state': {'a': [[]]}},
)


def mutate_content(checkpoint: Any, chance: random.Random) -> tuple[str, Any]:
    """Change what a checkpoint says in one place; its file is whole.

    Args:
        checkpoint: Content of the checkpoint; not changed.
        chance: Source of the change.

    Returns:
        Where and how, and the content.
    """
    content = copy.deepcopy(checkpoint)
    branch = chance.choice([*content, 'torchgeo_ekgnet', 'hyper_parameters'])
    inside = [(branch, *path) for path in nodes(content[branch])]
    *path, key = chance.choice([(branch,), *inside, *inside[:40]])
    parent = content
    for name in path:
        parent = parent[name]
    change = chance.choice(('value', 'value', 'value', 'gone', 'name'))
    if change == 'gone':
        del parent[key]
    elif change == 'name' and isinstance(parent, dict):
        parent[f'{key}x'] = parent.pop(key)
    else:
        parent[key] = chance.choice(STRANGE)()
    return '.'.join(map(str, (*path, key))), content


def _map(folder: Path, path: Path) -> None:
    """Map a scene with a checkpoint, from Python."""
    options: dict[str, Any] = {
        key: value
        for key, value in CONFIG['data']['init_args'].items()
        if key in ('rows', 'cols', 'num_bands', 'num_classes')
    }
    write_map(load_classifier(path), synthetic_scene(**options), folder / 'map')


def _resume(folder: Path, path: Path) -> None:
    """Go on training."""
    run_command(
        folder, *COMMANDS['fit'], '--ckpt_path', str(path), '--trainer.max_epochs', '3'
    )


USES: dict[str, Callable[[Path, Path], None]] = {
    'map': _map,
    'test': lambda at, path: run_command(
        at, 'test', '--config', 'tiny.yaml', '--ckpt_path', str(path)
    ),
    'resume': _resume,
    'weights': lambda at, path: run_command(
        at, *COMMANDS['fit'], '--model.weights', str(path)
    ),
}


def mutated_contents(
    count: int, folder: Path, seed: int = 0, origin: Path | None = None
) -> dict[str, int]:
    """Use checkpoints that say odd things.

    Args:
        count: Number of checkpoints.
        folder: Place for runs.
        seed: Seed of the changes.
        origin: Folder in which ``fit`` was run with :data:`CONFIG`; it is run by default.

    Returns:
        How often each end was seen, by ``'use: end'``.
    """
    if origin is None:
        origin = folder / 'origin'
        write_config(origin)
        list(trials([lambda: _train(folder / 'origin')], limit=600))
    checkpoint = torch.load(origin / CHECKPOINTS / 'last.ckpt', weights_only=True)
    chance = random.Random(seed)
    changes = [
        (chance.choice(list(USES)), *mutate_content(checkpoint, chance))
        for _ in range(count)
    ]

    def work(use: str, content: Any, number: int) -> Callable[[], str]:
        def used() -> str:
            place = folder / str(number)
            write_config(place)
            torch.save(content, place / 'odd.ckpt')
            os.chdir(place)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')
                    USES[use](place, place / 'odd.ckpt')
            except Exception as error:  # noqa: BLE001  (what escapes is counted)
                return said(error)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            return 'runs'

        return used

    works = [work(use, content, n) for n, (use, _, content) in enumerate(changes)]
    seen: dict[str, int] = {}
    for number, end in trials(works):
        use, where, _ = changes[number]
        name = f'{use}: {end}'
        if end not in ('runs', 'refused'):
            name += f' ({where})'
        seen[name] = seen.get(name, 0) + 1
    return seen
