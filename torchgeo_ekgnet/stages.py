# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What ``validate``, ``test`` and ``predict`` take from the run of their checkpoint.

A checkpoint lies in the folder of its run, beside the configuration of the training. So
``--ckpt_path`` alone is enough, or the ``--name`` of a run; ``--data.cube`` maps another
scene with all else as it was.
"""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ._reading import FileError, reading, require_file
from ._runs import RUN_FILE, RUN_NAME, newest_checkpoint, read_result, run_of_checkpoint

__all__ = ('complete_arguments', 'configurations')

_CUSTOM = 'torchgeo_ekgnet.datamodules.CustomSceneDataModule'

#: Options that belong to the files of one scene, and not to another one.
_OF_THE_SCENE = (
    *('labels', 'labels_variable', 'name', 'crs', 'transform', 'mask'),
    *('wavelengths', 'wavelength_unit'),
)

#: Options that mean nothing without labels: a list of names is one of their values. The
#: network knows its classes.
_OF_LABELS = ('class_names', 'labels')


class _Part(NamedTuple):
    """What a configuration says of data or model: a class and its arguments."""

    class_path: str
    arguments: Mapping[str, Any]


def complete_arguments(args: Sequence[str]) -> list[list[str]]:
    """Add what the run of a checkpoint knows to a command line.

    Args:
        args: Command and options, as they were typed.

    Returns:
        One command line for every scene that ``--data.cube`` of ``predict`` names.

    Raises:
        FileNotFoundError: If there is no run of that name, or a checkpoint without
            configuration beside it.
        ValueError: If two options contradict each other.
    """
    command, options = args[0], list(args[1:])
    name = _value(options, '--name')
    _take(options, '--name')
    if name == '':
        raise ValueError('--name: found nothing, expected the name of runs')
    if command == 'fit':
        return [[command, *options, *_named(name, options)]]
    if command not in ('validate', 'test', 'predict'):
        return [list(args)]
    checkpoint = _value(options, '--ckpt_path')
    if name is not None:
        if checkpoint is not None:
            raise ValueError(
                f'--name {name} and --ckpt_path {checkpoint}: expected one of them'
            )
        checkpoint = str(_newest(name, options))
        options += ['--ckpt_path', checkpoint]
    given = any(
        item in ('-c', '--config', '--model', '--data')
        or item.startswith(('--config=', '--model=', '--data='))
        for item in options
    )
    if checkpoint is None or given or '://' in checkpoint:
        return [[command, *options, *_without_labels(command, options)]]
    config = _config_of(checkpoint)
    data, model = _parts_of(config)
    begin = [command, '--config', str(config)]
    if model.arguments.get('weights'):
        # The file that the training began with: the checkpoint has all weights.
        begin.append('--model.weights=null')
    begin += _root(config, data, options)
    cubes = _take(options, '--data.cube')
    if not cubes:
        return [[*begin, *_split_files(config, data, options), *options]]
    for file in ('--data.labels', '--data.wavelengths'):
        options += [f'{file}={_from_here(value)}' for value in _take(options, file)]
    return [[*begin, *_other_scene(data, cube, options), *options] for cube in cubes]


def _named(name: str | None, options: Sequence[str]) -> list[str]:
    """Name a training run; a configuration without run folder gets one."""
    if name is None:
        return []
    RUN_NAME.set(name)
    # What is no UTF-8 is refused where configurations are read.
    texts = [
        path.read_text(encoding='utf-8', errors='replace')
        for path in map(Path, configurations(options))
        if path.is_file()
    ]
    if any('RunFolder' in re.sub(r'#.*', '', text) for text in [*options, *texts]):
        return []
    folder = 'torchgeo_ekgnet.callbacks.RunFolder'
    return [f'--trainer.callbacks+={folder}', f'--trainer.callbacks.name={name}']


def _newest(name: str, options: Sequence[str]) -> Path:
    """Find the checkpoint of the newest run of a name."""
    root = _value(options, '--trainer.default_root_dir') or '.'
    runs = Path(root) / 'runs'
    found = newest_checkpoint(runs / name)
    if found is None:
        others = [item.name for item in runs.glob('*') if newest_checkpoint(item)]
        known = f'; there are {", ".join(sorted(others))}' if others else ''
        raise FileNotFoundError(
            f'--name: found no checkpoint of a run in {os.path.abspath(runs / name)}{known}'
        )
    return found


def _config_of(checkpoint: str) -> Path:
    """Find the configuration of the training that a checkpoint comes from."""
    config = run_of_checkpoint(checkpoint) / 'config.yaml'
    if Path(checkpoint).exists():
        require_file(checkpoint, '--ckpt_path')
    else:
        raise FileNotFoundError(
            f'--ckpt_path: there is no checkpoint {checkpoint}; fit writes '
            'checkpoints/best.ckpt (or last.ckpt) into its run folder'
        )
    if not config.is_file():
        raise FileNotFoundError(
            f'--ckpt_path {checkpoint}: there is no {config} of its training; pass '
            '--config FILE_OR_NAME'
        )
    return config


def _parts_of(config: Path) -> tuple[_Part, _Part]:
    """Read what a configuration says of data and of the model.

    Raises:
        FileError: If it cannot be read.
    """
    import yaml

    with reading(config, 'a configuration'):
        content = yaml.safe_load(config.read_text(encoding='utf-8'))

    def part(name: str) -> _Part:
        found = content.get(name) if isinstance(content, Mapping) else None
        found = found if isinstance(found, Mapping) else {}
        arguments = found.get('init_args')
        if not isinstance(arguments, Mapping | None):
            raise FileError(
                f'{config}: found a {type(arguments).__name__} as init_args of {name}, '
                'expected names and values'
            )
        return _Part(str(found.get('class_path', '')), arguments or {})

    return part('data'), part('model')


def _without_labels(command: str, options: Sequence[str]) -> list[str]:
    """Leave out the labels of a configuration whose cube is replaced."""
    if command != 'predict' or _value(options, '--data.cube') is None:
        return []
    if _value(options, '--data.labels') is not None:
        return []
    files = [path for path in map(Path, configurations(options)) if path.is_file()]
    known = {
        name
        for data, _ in map(_parts_of, files)
        for name in _OF_LABELS
        if data.arguments.get(name)
    }
    return [
        f'--data.{name}=null'
        for name in sorted(known)
        if _value(options, f'--data.{name}') is None
    ]


def _root(config: Path, data: _Part, options: Sequence[str]) -> list[str]:
    """Find the folder of the training's files from wherever the command is typed."""
    root = str(data.arguments.get('root') or '')
    if not root or os.path.isabs(root) or _value(options, '--data.root'):
        return []
    then = _begun(config, root)
    return ['--data.root', str(then)] if then is not None and then.is_dir() else []


def _split_files(config: Path, data: _Part, options: Sequence[str]) -> list[str]:
    """Find the files of the training's split from wherever the command is typed."""
    split = data.arguments.get('split')
    arguments = split.get('init_args') if isinstance(split, Mapping) else None
    if not isinstance(arguments, Mapping):
        return []
    if any(option.startswith('--data.split') for option in options):
        return []
    # Other texts are words, such as 'drop'.
    places = {
        name: _begun(config, text)
        for name, text in arguments.items()
        if isinstance(text, str) and Path(text).suffix and not os.path.isabs(text)
    }
    # A file as it is named goes before one below the root, as for the training.
    return [
        f'--data.split.init_args.{name}={place}'
        for name, place in places.items()
        if place is not None and place.is_file()
    ]


def _begun(config: Path, path: str) -> Path | None:
    """Return where a path led when the training began, None if that is unknown."""
    begun = read_result(config.parent / RUN_FILE).get('started_in')
    return Path(begun) / path if isinstance(begun, str) else None


def _other_scene(data: _Part, cube: str, options: Sequence[str]) -> list[str]:
    """Replace the scene of the training by another one, and keep all else."""
    added = []
    if not data.class_path.endswith('CustomSceneDataModule'):
        # A scene of its own has other options; what both know, such as the size of the
        # patches, is kept.
        added += [f'--data={_CUSTOM}', '--data.dataset_options=null']
    known = set(data.arguments) | {'labels'}
    unlabelled = _value(options, '--data.labels') is None
    others = (*_OF_THE_SCENE, 'class_names') if unlabelled else _OF_THE_SCENE
    added += [
        f'--data.{name}=null'
        for name in others
        if name in known and _value(options, f'--data.{name}') is None
    ]
    return [*added, f'--data.cube={_from_here(cube)}']


def _from_here(cube: str) -> str:
    """Make paths absolute that exist where the command is typed.

    A data module reads them from its root, a folder of the training. Lists and patterns
    are those of the data module.
    """
    import yaml

    # A name may have what lists and patterns are made of.
    if not os.path.exists(cube) and cube.startswith('['):
        try:
            found = yaml.safe_load(cube)
        except yaml.YAMLError as error:
            raise ValueError(
                f'{cube}: found neither a file of this name nor a list, expected FILE or '
                '[FILE, FILE, ...]'
            ) from error
        if isinstance(found, list):
            items = [_from_here(str(item)) for item in found]
            return str(yaml.safe_dump(items, default_flow_style=True)).strip()
    return os.path.abspath(cube) if os.path.exists(cube) or glob.glob(cube) else cube


def configurations(options: Sequence[str]) -> list[str]:
    """List the configurations that options name.

    Args:
        options: Options of a command.

    Returns:
        What stands behind each ``--config`` and ``-c``.
    """
    return [value for name in ('--config', '-c') for value in _take([*options], name)]


def _value(options: Sequence[str], name: str) -> str | None:
    """Read the last value of an option."""
    values = _take([*options], name)
    return values[-1] if values else None


def _take(options: list[str], name: str) -> list[str]:
    """Read every value of an option, and remove them."""
    values, index = [], 0
    while index < len(options):
        if options[index] == name and index + 1 < len(options):
            values.append(options[index + 1])
            del options[index : index + 2]
        elif options[index].startswith(f'{name}='):
            values.append(options.pop(index).partition('=')[2])
        else:
            index += 1
    return values
