# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What can be said of the task's arguments before the data are known."""

import math
import os
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, get_args

from .._options import known_word, whole_number
from .finite import OnNonfinite
from .losses import Loss
from .schedules import LRSchedule

#: Modes of ``torch.compile``.
Compile = Literal['default', 'reduce-overhead', 'max-autotune']
#: PyTorch's names of what products of float32 may round to.
Precision = Literal['highest', 'high', 'medium']

_WORDS = {
    'loss': get_args(Loss),
    'lr_schedule': get_args(LRSchedule),
    'on_nonfinite': get_args(OnNonfinite),
    'capture': ('auto', True, False),
    'compile': (*get_args(Compile), True, False),
    'matmul_precision': (*get_args(Precision), None),
}
_RESERVED = frozenset(
    (
        'checkpoint_path',
        'in_chans',
        'num_classes',
        'pretrained',
        'pretrained_cfg',
        'pretrained_cfg_overlay',
    )
)
_CE_ONLY = ('class_weights', 'label_smoothing', 'mixup')


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that have no meaning.

    Args:
        arguments: Arguments of the task by name.

    Raises:
        ValueError: If one has none; the message names it.
    """
    for name, least in (('in_channels', 1), ('num_classes', 2)):
        value = arguments[name]
        if value is not None and not _number(value) >= least:
            raise ValueError(f'{name}: found {value}, expected at least {least}')
    for name, known in _WORDS.items():
        known_word(name, arguments[name], known)
    whole_number('patience', arguments['patience'])
    _check_class_weights(arguments['class_weights'])
    for name in _CE_ONLY:
        if arguments[name] and arguments['loss'] != 'ce':
            raise ValueError(
                f'{name}: found it with loss {arguments["loss"]!r}, expected it with '
                "loss 'ce' only"
            )
    for name, low, high, words in (
        ('lr', 0.0, math.inf, 'a positive number'),
        ('weight_decay', 0.0, math.inf, 'None, 0 or a positive number'),
        ('warmup', 0.0, 1.0, 'a share from 0 to below 1'),
        ('label_smoothing', 0.0, 1.0, 'a share from 0 to below 1'),
        ('mixup', 0.0, math.inf, '0 or a positive number'),
    ):
        value = arguments[name]
        if value is None and name == 'weight_decay':
            continue
        # Written so that NaN fails.
        if not low <= _number(value) < high or (name == 'lr' and value == 0):
            raise ValueError(f'{name}: found {value}, expected {words}')
    _check_options(arguments['model_options'] or {})


def _number(value: Any) -> float:
    """Give a number as it is, NaN for what is none; checkpoints may say anything."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def plain_arguments(weights: Any, class_weights: Any) -> tuple[Any, Any]:
    """Turn arguments of Python, which checkpoints should not hold, into plain ones.

    Args:
        weights: Path, name or choice of weights.
        class_weights: Weights of the classes, a tensor or array too.

    Returns:
        The two: a path as text, an array as list.

    Raises:
        TypeError: If *weights* is nothing that names weights.
        ValueError: If *weights* is an empty text.
    """
    if isinstance(weights, os.PathLike):
        weights = os.fspath(weights)
    if not isinstance(weights, str | bool | None):
        raise TypeError(
            f'weights: found {type(weights).__name__}, expected the path of a '
            'checkpoint, True, False or None'
        )
    if weights == '':
        raise ValueError(
            'weights: found an empty text, expected a path, or null (None)'
        )
    if hasattr(class_weights, 'tolist'):
        class_weights = class_weights.tolist()
    return weights, class_weights


def _check_class_weights(weights: Any) -> None:
    """Refuse what are no weights of classes."""
    if isinstance(weights, str) and weights != 'balanced':
        raise ValueError(
            f"class_weights: found {weights!r}, expected 'balanced' or a list of "
            'numbers'
        )
    if weights is None or isinstance(weights, str):
        return
    listed = weights if isinstance(weights, list | tuple) else [weights]
    values = [_number(value) for value in listed]
    bad = [value for value in values if not 0 <= value < math.inf]
    if bad or not any(values):
        raise ValueError(
            f'class_weights: found {bad[0] if bad else values}, expected numbers from '
            '0 up, one of them positive'
        )


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of the network that the task has arguments for."""
    if not isinstance(options, Mapping):
        raise TypeError(f'model_options: found {options!r}, expected names and values')
    reserved = _RESERVED & set(options)
    if reserved:
        raise ValueError(
            f'model_options: {", ".join(sorted(reserved))} belongs to in_channels, '
            'num_classes and weights of the task'
        )
