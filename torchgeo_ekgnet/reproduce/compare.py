# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The commands ``compare`` and ``repeat``: own configurations, run over seeds."""

import argparse
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from lightning.pytorch.utilities import rank_zero_info

from .._files import named_path
from ..commands import CommandParser, did_you_mean
from ..models import network_class
from .build import content_of, import_class
from .classical import CLASSICAL_NAMES
from .declarations import whole_patches
from .engine import TWIN, Sweep, classical_settings
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
_LABELS = {'rbf_svm': 'RBF-SVM', 'random_forest': 'Random forest'}


def _parser(
    command: str, description: str, config: str, seeds: int, scope: str = ''
) -> CommandParser:
    """Make the parser of a command that runs one configuration over seeds."""
    parser = CommandParser(
        prog=f'torchgeo-ekgnet {command}',
        allow_abbrev=False,
        description=f'{description} An interrupted command continues where it was; '
        'finished runs are not repeated.',
        epilog='Any argument of "torchgeo-ekgnet fit" may follow and overrides the '
        f'configuration{scope}, for example --trainer.max_epochs 20 or --data.split '
        'DisjointSplit.',
    )
    parser.add_argument(
        '--config', required=True, action='append', metavar='YAML', help=config
    )
    parser.add_argument(
        '--seeds',
        type=at_least_one,
        default=seeds,
        metavar='N',
        help='number of seeds; each changes split and training (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        type=named_path,
        help=f'folder of runs and report (default: runs/{command}/<name of the config>)',
    )
    shared_arguments(parser)
    return parser


def repeat_parser() -> argparse.ArgumentParser:
    """Parser of ``torchgeo-ekgnet repeat``."""
    return _parser(
        'repeat',
        'Train and test one configuration with several seeds and report mean and '
        'standard deviation.',
        'configuration as for fit: a file, or the name of a shipped one',
        seeds=10,
    )


def compare_parser() -> argparse.ArgumentParser:
    """Parser of ``torchgeo-ekgnet compare``."""
    parser = _parser(
        'compare',
        'Train and test several networks and classical baselines on the scene and the '
        'split of one configuration, over several seeds, and report means, deviations, '
        'significance, times and what may be concluded.',
        'configuration as for fit: scene, split and recipe of all networks',
        seeds=3,
        scope=' for all networks',
    )
    parser.add_argument(
        '--models',
        metavar='NAME,NAME',
        help='names of timm, and rbf_svm or random_forest; NAME:static for the twin of a '
        'network with experts that has one kernel in their place (default: the network '
        'of the configuration, ssrn, rbf_svm, random_forest)',
    )
    return parser


def main_repeat(args: Sequence[str] | None = None) -> None:
    """Run ``torchgeo-ekgnet repeat``: one configuration with several seeds.

    Args:
        args: Arguments after the command's name; None: those of the process.
    """
    options, overrides = repeat_parser().parse_known_args(args)
    settings = configured(options, overrides)
    name = Path(options.config[-1]).stem
    folder = options.out or Path('runs', 'repeat', name)
    _report_on(options, settings, folder, {name: name}, f'{name}, repeated')


def main_compare(args: Sequence[str] | None = None) -> None:
    """Run ``torchgeo-ekgnet compare``: several systems on one scene and split.

    Args:
        args: Arguments after the command's name; None: those of the process.
    """
    options, overrides = compare_parser().parse_known_args(args)
    settings = configured(options, overrides)
    systems = {
        name: _LABELS.get(name, name.replace(TWIN, ' (static twin)'))
        for name in _systems(settings, options.models)
    }
    name = Path(options.config[-1]).stem
    folder = options.out or Path('runs', 'compare', name)
    title = f'{name}: {len(systems)} systems'
    _report_on(options, settings, folder, systems, title, system_settings)


def _report_on(
    options: argparse.Namespace,
    settings: dict[str, Any],
    folder: Path,
    systems: Mapping[str, str],
    title: str,
    settings_of: Callable[[dict[str, Any], str], dict[str, Any]] = lambda own, _: own,
) -> None:
    """Run all systems, names by key, with every seed, and write the report."""
    settings['content'] = content_of(settings, options.root, split=True)
    runs = {
        (key, seed): settings_of(with_seed(settings, seed), key)
        # All systems with one seed before the next seed: an early report is balanced.
        for seed in seeds_of(options, options.seeds)
        for key in systems
    }
    store = RunStore(folder / 'runs')
    sweep = Sweep(store, options.root, options.threads, report=rank_zero_info)
    wanted = smoothed_too(runs, options)
    summaries, done = summaries_of(systems, wanted, sweep, folder, options.report_only)
    finish(folder, build_report(title, summaries, done))


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
        network = name.removesuffix(TWIN)
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
    network_name = name.removesuffix(TWIN)
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
