# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Read checkpoints and weights from local files, without running what they hold."""

import os
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from .._reading import FileError, reading

_NAMES_FILES = frozenset(
    (
        'cache_dir',
        'checkpoint_path',
        'pretrained',
        'pretrained_cfg',
        'pretrained_cfg_overlay',
    )
)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint; nothing that it names is imported, opened or fetched.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file, or it is an address.
        FileError: If it is not a checkpoint, or names what it must not.
    """
    content = read_tensors(path, 'checkpoint')
    if not isinstance(content.get('state_dict'), Mapping):
        raise FileError(
            f'{path} is not a Lightning checkpoint: found no entry state_dict, expected '
            'a file that fit wrote, such as RUN/checkpoints/best.ckpt'
        )
    _check_names(path, content)
    return content


def read_tensors(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """Read a file of tensors and plain values.

    Args:
        path: The file.
        what: What it is, for messages.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file, or it is an address.
        FileError: If it is damaged, empty, of another kind, or names classes.
    """
    file = local_file(path, what)
    with reading(file, f'a {what}'):
        try:
            if file.suffix == '.safetensors':
                content: Any = load_file(file)
            else:
                content = torch.load(file, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError as error:
            # PyTorch's own message advises to unpickle without limits.
            named = re.search(r'GLOBAL ([\w.]+)', str(error))
            if named is None:
                raise ValueError('it is no file of torch.save') from error
            raise FileError(
                f'{file} names {named[1]}, expected tensors and plain values only: '
                'such a file can run code when it is read, and is not read; save the '
                'state_dict of its network'
            ) from error
    if not isinstance(content, dict) or not content:
        raise FileError(
            f'{file} holds no {what}: found {type(content).__name__} of '
            f'{len(content) if hasattr(content, "__len__") else 1} entries, expected '
            'tensors by name'
        )
    return content


def local_file(path: str | os.PathLike[str], what: str) -> Path:
    """Find a local file; an address is none, whatever scheme it has.

    Args:
        path: The file.
        what: What it is, for messages.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: If there is no such file, or it is an address.
    """
    text = os.fspath(path)
    try:
        file = Path(text)
        if file.is_file():
            return file
        folder = file.is_dir()
    except (OSError, ValueError):
        folder = False
    if folder:
        raise FileNotFoundError(f'{what}: {text} is a folder, expected a file')
    scheme = re.match(r'[A-Za-z][\w+.-]+:', text)
    if scheme:
        raise FileNotFoundError(
            f'{what}: found an address ({scheme[0]}...), expected the path of a local '
            'file: download it from a source that you trust, and give its path'
        )
    raise FileNotFoundError(
        f'there is no {what} {text}; fit writes checkpoints/best.ckpt (or last.ckpt) '
        'into its run folder'
    )


class LocalCheckpointIO(CheckpointIO):
    """Reads checkpoints with :func:`read_checkpoint`, and writes them as before.

    Lightning's own reader takes addresses, and unpickles what comes from them.
    """

    def __init__(self, writer: CheckpointIO) -> None:
        """Initialize.

        Args:
            writer: What writes and removes checkpoints.
        """
        self.writer = writer

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        return read_checkpoint(path)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        self.writer.save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        self.writer.remove_checkpoint(path)

    def teardown(self) -> None:
        """End what the writer has begun."""
        self.writer.teardown()


def _check_names(path: Any, content: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that name an address, a file, or a class to be imported.

    Lightning's command line builds the task from them.
    """
    settings = content.get('hyper_parameters') or {}
    found = None
    if not isinstance(settings, Mapping):
        found = f'hyper_parameters of type {type(settings).__name__}'
    elif not _is_plain(settings):
        found = 'hyper_parameters that are no plain values'
    else:
        options = settings.get('model_options') or {}
        files = _NAMES_FILES & (set(options) if isinstance(options, Mapping) else set())
        name, task = settings.get('model'), settings.get('_class_path')
        if settings.get('weights'):
            found = f'weights {settings["weights"]!r}'
        elif files:
            found = f'model_options {sorted(files)}'
        elif isinstance(name, str) and re.search(r'[:/\\]', name):
            found = f'the model {name!r}'
        elif task is not None and not _is_imported(task):
            found = f'the class {task!r}'
    if found is not None:
        raise FileError(
            f'{path}: found {found}, expected a checkpoint that names a registered '
            'network and its options only; a checkpoint must not tell what is opened, '
            'fetched or imported'
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(
            isinstance(key, str) and _is_plain(item) for key, item in value.items()
        )
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _is_imported(name: Any) -> bool:
    """Tell whether a task's class is there already; what is not is not imported."""
    module, _, attribute = str(name).rpartition('.')
    found = getattr(sys.modules.get(module), attribute, None)
    return isinstance(found, type) and issubclass(found, LightningModule)
