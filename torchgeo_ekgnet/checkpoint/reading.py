# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Read checkpoints and weights from local files, without running what they hold."""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from .._files import at_home, file_digest
from .._reading import FileError, reading, require_file
from .contents import check_archive, check_content, check_size, check_whole


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
    check_content(path, content)
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
    with reading(file, f'a {_file_of(what)}'):
        try:
            check_archive(file)
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
    check_size(file, content)
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
        file = at_home(text)
        if file.is_file():
            return file
        there = file.exists()
    except (OSError, ValueError):
        there = False
    if there:
        return require_file(file, what)
    scheme = re.match(r'[A-Za-z][\w+.-]+:', text)
    if scheme:
        raise FileNotFoundError(
            f'{what}: found an address ({scheme[0]}...), expected the path of a local '
            'file: download it from a source that you trust, and give its path'
        )
    raise FileNotFoundError(
        f'there is no {_file_of(what)} {text}; fit writes checkpoints/best.ckpt (or last.ckpt) '
        'into its run folder'
    )


def _file_of(what: str) -> str:
    """Say what a file holds."""
    return 'file of weights' if what == 'weights' else what


if TYPE_CHECKING:
    _class_method = classmethod
else:
    # Lightning's own kind: calls on an object of the class are refused.
    _class_method = type(vars(LightningModule)['load_from_checkpoint'])


class ReadsLocally:
    """Part of a task or data module whose ``load_from_checkpoint`` is as safe.

    Lightning's own unpickles what comes from an address, takes a file of that name which
    it fetched before, and calls every path an address that begins with ``http``.
    """

    @_class_method
    def load_from_checkpoint(
        cls, checkpoint_path: Any, *args: Any, **kwargs: Any
    ) -> Self:
        """Build an object from a local checkpoint, as Lightning does.

        Args:
            checkpoint_path: The file, or what it is read from.
            *args: Further arguments of Lightning's.
            **kwargs: Those that have names.

        Returns:
            The object.

        Raises:
            FileNotFoundError: If there is no such file, or it is an address.
            FileError: If it is not a checkpoint, or names what it must not.
        """
        if isinstance(checkpoint_path, str | os.PathLike):
            read_checkpoint(checkpoint_path)
            checkpoint_path = at_home(checkpoint_path).absolute()
        inherited: Any = super()
        loaded: Self = inherited.load_from_checkpoint(
            checkpoint_path, *args, **{'weights_only': True, **kwargs}
        )
        return loaded


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
        self._read: tuple[str, str] | None = None

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, and note its digest."""
        content: dict[str, Any] = {}
        digest = None
        # A training that still runs may replace the file between two looks at it.
        while digest != (now := file_digest(local_file(path, 'checkpoint'))):
            digest, content = now, read_checkpoint(path)
        check_whole(path, content)
        self._read = (str(path), now)
        return content

    def digest(self, path: str | os.PathLike[str]) -> str | None:
        """Give the SHA-256 of the file as it was read; None if another one was."""
        known, digest = self._read or (None, None)
        return digest if known == str(path) else None

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
