# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a checkpoint may say: plain values of known types, and no name of a file."""

import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from .._reading import FileError, check_memory
from .._wording import shortened
from .provenance import KEY, is_data_state

__all__ = ('check_archive', 'check_content', 'check_size', 'check_whole')

# Options of timm.create_model that make it open files, or fetch them.
_NAMES_FILES = frozenset(
    (
        'cache_dir',
        'checkpoint_path',
        'pretrained',
        'pretrained_cfg',
        'pretrained_cfg_overlay',
    )
)

_TASKS = ('torchgeo_ekgnet.tasks', 'torchgeo.trainers')
"""Where tasks lie that a checkpoint may name before they are imported."""

_MOST = 200_000
"""Most values of a checkpoint: a list that holds itself has no end."""

_FOLDER = 0x10
"""Attribute of a folder in the list of an archive."""

_NUMBER = int | float
_STATISTICS: Any = Tensor | list | tuple | None

# Types by entry; one that ends in ? may be missing or None. A list holds any number of
# its type, a tuple as many as it has.
_ENTRIES: dict[str, Any] = {
    'state_dict': {str: Tensor},
    'epoch?': int,
    'global_step?': int,
    'loops?': Mapping,
    'callbacks?': {str: Mapping},
    'optimizer_states?': [{'state': {object: Mapping}, 'param_groups': [Mapping]}],
    'lr_schedulers?': [{'base_lrs?': [_NUMBER], 'last_epoch?': int}],
    'hyper_parameters?': {str: object},
    f'{KEY}?': {
        'data?': Mapping,
        'epochs?': int,
        'seed?': int,
        'versions?': {str: str},
        'temperature?': _NUMBER,
    },
}
_CALLBACK: dict[str, Any] = {
    **dict.fromkeys(
        ('best_model_path?', 'dirpath?', 'kth_best_model_path?', 'last_model_path?'),
        str,
    ),
    'best_k_models?': {str: object},
    'stopped_epoch?': int,
    'wait_count?': int,
}
_DATA: dict[str, Any] = {
    'scene': {
        'name': str,
        'class_names': [str],
        'class_values?': [int],
        'palette?': [(int, int, int)],
        'shape?': (int, int, int),
        'wavelengths?': [_NUMBER],
        'band_indices?': [int],
        'nodata?': _NUMBER | str,
        'synthetic?': bool,
        'source?': str,
        'cube?': str,
    },
    'split': {
        'protocol?': str,
        'settings?': Mapping,
        'identity': str,
        'pixels?': str,
        'counts?': {str: [int]},
    },
    'patch_size': int,
    'padding_mode': str,
    'num_bands': int,
    'normalization?': object,
    'normalizer?': {
        'method': str,
        'over': str,
        'offset': _STATISTICS,
        'scale': _STATISTICS,
    },
    'pca?': {
        'num_components': int,
        'whiten': bool,
        'mean': _STATISTICS,
        'components': _STATISTICS,
        'variance': _STATISTICS,
    },
}

#: What the files of PyTorch and other archives begin with.
_ARCHIVE = b'PK\x03\x04'


def check_archive(path: Path) -> None:
    """Look at the sums of an archive, which PyTorch does not, before it is read.

    Raises:
        FileError: If its end is missing, a part has another sum, or is larger unpacked
            than the memory.
    """
    if not zipfile.is_zipfile(path):
        with path.open('rb') as file:
            begins = file.read(4) == _ARCHIVE
        if begins:
            raise FileError(
                f'{path} is cut off: found the beginning of an archive without its end, '
                'expected a complete file; copy it again from where it was made'
            )
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        packed = [item for item in parts if item.compress_type]
        if packed:
            needed = sum(item.file_size for item in packed)
            check_memory(needed, path, 'its packed tensors', 'take it as fit wrote it')
        # PyTorch reads nothing of a folder, and takes memory as it is for its values.
        folders = [item.filename for item in parts if item.external_attr & _FOLDER]
        damaged = archive.testzip() or next(iter(folders), None)
    if damaged is not None:
        raise FileError(
            f'{path} is damaged: found other bytes in its part {damaged} than it was '
            'written with; copy it again from where it was made'
        )


def check_size(path: Any, content: Any) -> None:
    """Refuse values that are few in the file and without end for who reads them all.

    Raises:
        FileError: If there are more than 200,000.
    """
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        if count + len(waiting) > _MOST:
            raise FileError(
                f'{path}: found more than {_MOST:,} values that hold one another, '
                'expected those of a network and its training'
            )


def check_content(path: Any, content: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose entries are of other types, or name files or classes.

    Raises:
        FileError: If there is one; names the entry.
    """
    _check_types(path, '', content, _ENTRIES)
    own = content.get(KEY) or {}
    for name, value in (*content.items(), (f'{KEY}.data', own.get('data'))):
        if is_data_state(value):
            _check_types(path, name, value, _DATA)
    for name, state in (content.get('callbacks') or {}).items():
        _check_callback(path, name, state)
    _check_names(path, content.get('hyper_parameters') or {})


def _check_callback(path: Any, name: str, state: Mapping[str, Any]) -> None:
    """Refuse the state of a callback that could name files to be deleted elsewhere."""
    _check_types(path, name, state, _CALLBACK)
    for file in state.get('best_k_models') or {}:
        if '..' in Path(file).parts or '://' in file:
            raise FileError(
                f'{path}: found {_shown(file)} among the checkpoints of {name}, expected '
                'files in the folder of the run'
            )


def check_whole(path: Any, content: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that Lightning cannot go on from.

    Raises:
        FileError: If it does not say which Lightning wrote it.
    """
    version = content.get('pytorch-lightning_version')
    if not isinstance(version, str) or not re.match(r'\d+(\.\d+)+', version):
        raise FileError(
            f'{path} is not a whole checkpoint: found pytorch-lightning_version '
            f'{_shown(version)}, expected the version that wrote it; weights alone '
            'start a network with --model.weights'
        )


def _check_types(path: Any, place: str, value: Any, wanted: Any) -> None:
    """Compare a value, and what it holds, with the types that are wanted."""
    if isinstance(wanted, dict):
        _require(path, place, value, Mapping)
        (first, inner), *_ = wanted.items()
        if isinstance(first, type):
            for key, item in value.items():
                _require(path, f'a key of {place}', key, first)
                _check_types(path, f'{place}.{key}', item, inner)
            return
        for name, inner in wanted.items():
            key = name.removesuffix('?')
            item = value.get(key)
            if item is not None or key == name:
                _check_types(path, f'{place}.{key}'.lstrip('.'), item, inner)
    elif isinstance(wanted, list):
        _require(path, place, value, list | tuple)
        for item in value:
            _check_types(path, place, item, wanted[0])
    elif isinstance(wanted, tuple):
        _require(path, place, value, list | tuple)
        if len(value) != len(wanted):
            raise FileError(
                f'{path}: found {len(value)} values for {place}, expected '
                f'{len(wanted)}; take the checkpoint as fit wrote it'
            )
        for item, inner in zip(value, wanted, strict=True):
            _check_types(path, place, item, inner)
    else:
        _require(path, place, value, wanted)


def _require(path: Any, place: str, value: Any, kind: Any) -> None:
    """Refuse a value of another type; True is no number."""
    number = kind is int or kind is _NUMBER
    if not isinstance(value, kind) or (number and isinstance(value, bool)):
        name = getattr(kind, '__name__', str(kind))
        raise FileError(
            f'{path}: found {_shown(value)} for {place}, expected {name}; take the '
            'checkpoint as fit wrote it'
        )


def _shown(value: Any) -> str:
    """Write a value in few characters; what holds others by its type."""
    if value is None or isinstance(value, str | int | float | bool):
        return shortened(repr(value), 60)
    return f'a {type(value).__name__}'


def _check_names(path: Any, settings: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that name an address, a file, or a class to be imported.

    Lightning's command line builds the task from them.
    """
    options = settings.get('model_options') or {}
    files = _NAMES_FILES & (set(options) if isinstance(options, Mapping) else set())
    name, task = settings.get('model'), settings.get('_class_path')
    found = None
    if not _is_plain(settings):
        found = 'hyper_parameters that are no plain values'
    elif settings.get('weights'):
        found = f'weights {_shown(settings["weights"])}'
    elif files:
        found = f'model_options {sorted(files)}'
    elif isinstance(name, str) and re.search(r'[:/\\]', name):
        found = f'the model {_shown(name)}'
    elif task is not None and not _is_task(task):
        found = f'the class {_shown(task)}'
    if found is not None:
        raise FileError(
            f'{path}: found {found}, expected a checkpoint that names a registered '
            'network and its options only; a checkpoint must not tell what is opened, '
            'fetched or imported'
        )


def _is_plain(value: Any) -> bool:
    """Tell whether a value holds plain values only; recursion has a limit."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            if 'class_path' in item or not all(isinstance(key, str) for key in item):
                return False
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
        elif item is not None and not isinstance(item, str | int | float | bool):
            return False
    return True


def _is_task(name: Any) -> bool:
    """Tell whether a class is a task that is known; what is not is not imported.

    Who only wants the network has not imported its task, and need not.
    """
    module, _, attribute = str(name).rpartition('.')
    if module in _TASKS and module not in sys.modules:
        return True
    found = getattr(sys.modules.get(module), attribute, None)
    return isinstance(found, type) and issubclass(found, LightningModule)
