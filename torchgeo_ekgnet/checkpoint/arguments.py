# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Arguments of a model that were asked for, and those that a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_warn

from .._wording import shortened

#: Arguments of the task that say how it runs, not what it computes.
_HOW_IT_RUNS = ('capture', 'compile', 'matmul_precision', 'on_nonfinite')


def arguments_of(model: Any) -> dict[str, Any]:
    """Give the arguments of a model in a configuration."""
    arguments = getattr(model, 'init_args', None)
    found: dict[str, Any] = _plain(arguments) if arguments is not None else {}
    return found


def _plain(value: Any) -> Any:
    """Turn what parsers and checkpoints hold into values that can be compared."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return (
        [_plain(item) for item in value] if isinstance(value, tuple | list) else value
    )


def keep_asked(config: Any, asked: Mapping[str, Any]) -> None:
    """Keep what says how the network runs, and tell what the checkpoint replaced."""
    taken = arguments_of(config.get('model'))
    replaced = []
    for name, value in asked.items():
        if name not in taken or taken[name] == value:
            continue
        if name in _HOW_IT_RUNS:
            config.model.init_args[name] = value
        elif value is not None:
            replaced.append(f'{name} {shortened(str(value))} by {taken[name]}')
    if replaced:
        rank_zero_warn(
            f'--ckpt_path: what the checkpoint says of the model replaces '
            f'{", ".join(replaced)}; --model.weights begins a new training with its '
            'weights and your arguments'
        )
