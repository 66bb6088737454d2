# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The command ``torchgeo-ekgnet compare``: several systems on one scene and split."""

import argparse
import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm

from .._files import named_path
from ..commands import CommandParser, did_you_mean
from ..models import network_class
from .build import content_of, import_class
from .classical import CLASSICAL_NAMES
from .declarations import whole_patches
from .engine import classical_settings
from .figures import draw_curves
from .report import build_report
from .runs import RunStore
from .settings import with_seed
from .sweeping import (
    at_least_one,
    configured,
    finish,
    seeds_of,
    shared_arguments,
    smoothed_too,
    summaries_of,
)

_PRUNING = {'class_path': 'torchgeo_ekgnet.callbacks.PruningSchedule'}
_TWIN = ':static'
"""Behind the name of a network with experts: its static twin."""

_LABELS = {'rbf_svm': 'RBF-SVM', 'random_forest': 'Random forest'}


def compare_parser() -> argparse.ArgumentParser:
    """Parser of ``torchgeo-ekgnet compare``."""
    parser = CommandParser(
        prog='torchgeo-ekgnet compare',
        allow_abbrev=False,
        description=(
            'Train and test several networks and classical baselines on the scene and '
            'the split of one configuration, over several seeds, and report means, '
            'deviations, significance, times and what may be concluded. An interrupted '
            'command continues where it was; finished runs are not repeated.'
        ),
        epilog=(
            'Any argument of "torchgeo-ekgnet fit" may follow and overrides the '
            'configuration for all networks, for example --trainer.max_epochs 20 or '
            '--data.split DisjointSplit.'
        ),
    )
    parser.add_argument(
        '--config',
        required=True,
        action='append',
        metavar='YAML',
        help='configuration as for fit: scene, split and recipe of all networks',
    )
    parser.add_argument(
        '--models',
        metavar='NAME,NAME',
        help='names of timm, and rbf_svm or random_forest; NAME:static for the twin of a '
        'network with experts that has one kernel in their place (default: the network '
        'of the configuration, ssrn, rbf_svm, random_forest)',
    )
    parser.add_argument(
        '--seeds',
        type=at_least_one,
        default=3,
        metavar='N',
        help='number of seeds; each changes split and training (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        type=named_path,
        help='folder of runs and report (default: runs/compare/<name of the config>)',
    )
    shared_arguments(parser)
    return parser


def main_compare(args: Sequence[str] | None = None) -> None:
    """Run ``torchgeo-ekgnet compare``.

    Args:
        args: Arguments after the command's name; None: those of the process.
    """
    options, overrides = compare_parser().parse_known_args(args)
    settings = configured(options, overrides)
    systems = _systems(settings, options.models)
    title = Path(options.config[-1]).stem
    folder = options.out or Path('runs', 'compare', title)
    settings['content'] = content_of(settings, options.root, split=True)
    seeds = seeds_of(options, options.seeds)
    runs = {
        (name, seed): system_settings(with_seed(settings, seed), name)
        # All systems with one seed before the next seed: an early report is balanced.
        for seed in seeds
        for name in systems
    }
    labelled = [
        (name, _LABELS.get(name, name.replace(_TWIN, ' (static twin)')))
        for name in systems
    ]
    summaries, done = summaries_of(
        labelled,
        smoothed_too(runs, options),
        RunStore(folder / 'runs'),
        options,
        folder,
    )
    report = build_report(f'{title}: {len(systems)} systems', summaries, done)
    finish(folder, report, summaries, {}, draw_curves(summaries, folder))


def _configured(settings: Mapping[str, Any]) -> str:
    """Name of a configuration's network, which is left out where it is the default."""
    task = import_class(settings['model']['class_path'])
    default = inspect.signature(task).parameters['model'].default
    name: str = settings['model'].get('init_args', {}).get('model', default)
    return name


def _systems(settings: dict[str, Any], names: str | None) -> list[str]:
    """Names of the systems that are compared, each once."""
    own = _configured(settings)
    if names is None:
        return list(dict.fromkeys([own, 'ssrn', *CLASSICAL_NAMES]))
    systems = list(dict.fromkeys(name.strip() for name in names.split(',')))
    for name in systems:
        network = name.removesuffix(_TWIN)
        if name != network and timm.is_model(network):
            if getattr(network_class(network), 'static_options', None) is None:
                raise ValueError(
                    f'--models: found {name!r}, but {network} has no static twin; '
                    'expected a network with experts, such as ekgnet_spectral:static'
                )
        elif name not in CLASSICAL_NAMES and not timm.is_model(name):
            known = [*CLASSICAL_NAMES, *timm.list_models()]
            raise ValueError(
                f'--models: found {name!r}, expected names of timm, rbf_svm or '
                f'random_forest{did_you_mean(name, known)}'
            )
    return systems


def system_settings(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Settings of one system: those of a configuration with another network.

    Args:
        settings: Settings of one run.
        name: A network of timm, its static twin or a classical baseline.

    Returns:
        Settings of another run. Weights of the configured network are not handed to
        others, its twin included, whose kernels they lack. Nor are its options, but to its
        twin, or crops of the patches, which others might not be made for: they see whole
        patches, flipped and turned. A network that prunes itself is told how far the
        training is.
    """
    if name in CLASSICAL_NAMES:
        return classical_settings(settings, name)
    changed = copy.deepcopy(settings)
    arguments = changed['model'].setdefault('init_args', {})
    network_name = name.removesuffix(_TWIN)
    configured_name = _configured(changed)
    if name != configured_name:
        for option in ('weights', 'freeze_backbone'):
            arguments.pop(option, None)
    if network_name != configured_name:
        arguments.pop('model_options', None)
        arguments['model'] = network_name
        augmentation = changed['data'].get('init_args', {}).get('augmentation') or {}
        if augmentation.get('init_args', {}).get('crop') is not None:
            augmentation['init_args'] = whole_patches(augmentation['init_args'])
    callbacks = changed['trainer'].setdefault('callbacks', [])
    network = network_class(network_name)
    if name != network_name:
        options = arguments.get('model_options') or {}
        static = getattr(network, 'static_options', None) or {}
        arguments['model_options'] = {**options, **static}
    if getattr(network, 'settled_share', 0) and not any(
        callback['class_path'].endswith('PruningSchedule') for callback in callbacks
    ):
        callbacks.append(_PRUNING)
    return changed
