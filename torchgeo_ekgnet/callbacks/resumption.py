# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a training that goes on takes along from the run of its checkpoint."""

import copy
import filecmp
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from .._files import replaced
from .._reading import FileError
from ..checkpoint import read_checkpoint

__all__ = ('Saver', 'restore', 'savers_of', 'take_along')

Saver = tuple[ModelCheckpoint, dict[str, Any]]
"""What saves checkpoints, and its state: where it does, and what it has saved."""


def savers_of(trainer: Trainer) -> list[Saver]:
    """Note the states of the callbacks that save checkpoints."""
    return [
        (item, copy.deepcopy(ModelCheckpoint.state_dict(item)))
        for item in trainer.checkpoint_callbacks
        if isinstance(item, ModelCheckpoint)
    ]


def restore(savers: Sequence[Saver]) -> None:
    """Give callbacks that save checkpoints the states that were noted."""
    for saver, state in savers:
        vars(saver).update(state)


def take_along(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Copy the checkpoints that a resumed run has kept into its new folder.

    Lightning forgets the best score if the folder of the checkpoints is another one,
    and a worse epoch would become the best of the new run. Where a file is missing or
    damaged, or not the one that the score is of, the best score is forgotten on purpose.

    Args:
        trainer: The trainer, about to go on.
        checkpoint: Content of the checkpoint in use; the states of the callbacks are
            changed in place.
    """
    in_use = Path(str(trainer.ckpt_path)).absolute()
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
        # A run may have been moved, and a checkpoint must not name other files:
        # those of the run lie beside the one in use.
        sources = {path: in_use.parent / Path(path).name for path in kept - {''}}
        folder = Path(str(callback.dirpath))
        problem = _problem(sources, state, callback.state_key, in_use, folder)
        if problem:
            rank_zero_warn(
                f'{problem}: the best score so far is forgotten, and the best epoch '
                'from here on is kept'
            )
            states[callback.state_key] = {**state, 'dirpath': '', 'best_model_path': ''}
            continue
        moved = {'': ''}
        for path, source in sources.items():
            target = folder / source.name
            moved[path] = str(target)
            if trainer.is_global_zero and not target.exists():
                with replaced(target) as part:
                    shutil.copy2(source, part)
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


def _problem(
    sources: Mapping[str, Path],
    state: Mapping[str, Any],
    key: str,
    in_use: Path,
    folder: Path,
) -> str | None:
    """Say why the kept files of a callback cannot be taken along, None if they can.

    Files that were copied one by one, or while the training wrote them, may be of
    another moment or training than the checkpoint in use.
    """
    for path, source in sources.items():
        if not _is_own_file(source):
            return f'{in_use.name}: found no file {source}, which it has kept'
        target = folder / source.name
        # Of a trainer that has trained before; on another process, the copy may be there.
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            return f'{target}: found a checkpoint of another training, expected none'
        known = state['best_k_models'].get(path)
        if known is None or source == in_use:
            continue
        try:
            own = read_checkpoint(source).get('callbacks', {}).get(key, {})
        except FileError as error:
            return str(error)
        score = own.get('current_score')
        if score is None or float(score) != float(known):
            found = 'none' if score is None else f'{float(score):.6g}'
            return (
                f'{source}: found the score {found}, expected {float(known):.6g} as '
                f'{in_use.name} beside it says'
            )
    return None


def _is_own_file(path: Path) -> bool:
    """Tell whether a file lies in its folder, and is no link to another one."""
    return path.is_file() and path.resolve().parent == path.parent.resolve()
