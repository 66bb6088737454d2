# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Sizes of a network that data or a checkpoint tell."""

from collections.abc import Mapping, MutableMapping
from typing import Any

from ..checkpoint import UNITS, check_sizes
from .networks import needs_img_size


def settle_sizes(
    settings: MutableMapping[str, Any],
    data: Mapping[str, Any],
    checkpoint_may_tell: bool,
) -> set[str]:
    """Take sizes from the data, or compare them with those that were given.

    Args:
        settings: 'model', 'in_channels', 'num_classes' and 'model_options' of the task,
            changed in place.
        data: 'in_channels', 'num_classes' and 'img_size' of the data, None if unknown.
        checkpoint_may_tell: Whether sizes may stay unknown.

    Returns:
        Those of 'in_channels' and 'num_classes' that the data have told.

    Raises:
        ValueError: If two sizes differ, or nothing tells one.
    """
    options = dict(settings['model_options'] or {})
    given = options.get('img_size')
    fixed = needs_img_size(settings['model'])
    network = {
        'in_channels': settings['in_channels'],
        'num_classes': settings['num_classes'],
        'img_size': given[0] if isinstance(given, list | tuple) else given,
    }
    check_sizes(network, data if fixed else {**data, 'img_size': None})
    who = None if checkpoint_may_tell else 'the datamodule does not tell'
    filled = fill_sizes(settings, data, who)
    if fixed and given is None and data['img_size'] is not None:
        settings['model_options'] = {**options, 'img_size': int(data['img_size'])}
    return filled


def fill_sizes(
    settings: MutableMapping[str, Any], known: Mapping[str, Any], who: str | None
) -> set[str]:
    """Fill in bands and classes where they are not given.

    Args:
        settings: 'in_channels' and 'num_classes' of the task, changed in place.
        known: The same, None or absent if unknown.
        who: Who should have told them, for the message; None if they may stay unknown.

    Returns:
        The names of those that were filled in.

    Raises:
        ValueError: If one stays unknown.
    """
    filled = set()
    for name, unit in UNITS.items():
        if settings[name] is not None:
            continue
        if known.get(name) is not None:
            settings[name] = int(known[name])
            filled.add(name)
        elif who is not None:
            raise ValueError(
                f'{name}: not given, and {who} its number of {unit}; pass {name} to '
                'the task'
            )
    return filled
