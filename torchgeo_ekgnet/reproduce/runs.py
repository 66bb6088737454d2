# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The files that a sweep resumes from: one JSON file a run.

A run is known by the hash of its settings. Its file appears in one step when the run
has finished, so a file that exists is a run that is complete, whenever the sweep was
killed, and two processes that share a folder cannot spoil each other's files.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from .._files import acquire, remove_lock, write_json

logger = logging.getLogger(__name__)

FORMAT = 3
"""Version of the file's layout; runs of another version are not reused."""

Settings = Mapping[str, Any]
"""All that a run's result depends on, apart from where files lie: JSON values only."""

Result = dict[str, Any]
"""What a run leaves behind: JSON values."""

_WORK, _LOCK = '.work', '.lock'
"""Suffixes of folders of unfinished runs, and of the file by which a process is alive."""

_NOT_FINITE = {'nan': math.nan, 'inf': math.inf, '-inf': -math.inf}
"""Names of the floats that JSON has no number for."""


def encode_floats(value: Any) -> Any:
    """Replace floats that JSON cannot write by their names.

    Args:
        value: JSON value that may hold NaN or infinite numbers.

    Returns:
        The value with ``'nan'``, ``'inf'`` and ``'-inf'`` in their place.
    """
    if isinstance(value, Mapping):
        return {name: encode_floats(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode_floats(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def decode_floats(value: Any) -> Any:
    """Undo :func:`encode_floats`.

    Args:
        value: JSON value.

    Returns:
        The value with numbers where their names stood.
    """
    if isinstance(value, Mapping):
        return {name: decode_floats(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [decode_floats(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def canonical_json(value: Any) -> str:
    """Write JSON that is the same text for equal values.

    Args:
        value: JSON value; tuples count as lists.

    Returns:
        The text, with sorted keys and no spaces.

    Raises:
        TypeError: If the value holds something that JSON cannot write.
        ValueError: If the value holds NaN or an infinite number.
    """
    return json.dumps(value, sort_keys=True, separators=(',', ':'), allow_nan=False)


def settings_key(settings: Settings) -> str:
    """Name a run by its settings.

    Args:
        settings: Settings of the run.

    Returns:
        The first 20 hexadecimal digits of the SHA-256 of the canonical JSON.
    """
    text = canonical_json({'format': FORMAT, 'settings': settings})
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _digest(settings: Settings, result: Mapping[str, Any]) -> str:
    """Give the SHA-256 of what a run file says."""
    text = canonical_json({'settings': settings, 'result': result})
    return hashlib.sha256(text.encode()).hexdigest()


class RunStore:
    """Folder of finished runs.

    Args:
        folder: Where the files lie; made when the first run is saved.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open the folder."""
        self.folder = Path(folder)

    def path(self, settings: Settings) -> Path:
        """File of a run.

        Args:
            settings: Settings of the run.

        Returns:
            The path, whether or not the run has finished.
        """
        return self.folder / f'{settings_key(settings)}.json'

    def load(self, settings: Settings) -> dict[str, Any] | None:
        """Read a finished run.

        Args:
            settings: Settings of the run.

        Returns:
            The result that was saved, or None if the run has not finished. A file
            that cannot be read as this run's is reported and counts as not finished.
        """
        path = self.path(settings)
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            same = canonical_json(content['settings']) == canonical_json(settings)
            result: dict[str, Any] = content['result']
            whole = content['digest'] == _digest(content['settings'], result)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning(
                '%s is not a run file (%s): the run is repeated', path, error
            )
            return None
        if not same:
            logger.warning('%s holds other settings: the run is repeated', path)
            return None
        if not whole:
            logger.warning(
                '%s was changed after its run (found another digest): the run is '
                'repeated',
                path,
            )
            return None
        return result

    def save(self, settings: Settings, result: Mapping[str, Any]) -> Path:
        """Write a finished run.

        Args:
            settings: Settings of the run.
            result: JSON values.

        Returns:
            The file.
        """
        path = self.path(settings)
        content = {
            'format': FORMAT,
            'key': settings_key(settings),
            'settings': settings,
            'result': result,
            'digest': _digest(settings, result),
        }
        return write_json(path, content, indent=1)

    @contextmanager
    def work(self) -> Iterator[Path]:
        """Make a folder for the files of one run beside the run files.

        What killed processes have left there is deleted, what others use is not.

        Yields:
            The folder, which is deleted in the end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f'.*{_WORK}'):
            lock_file = left.with_suffix(_LOCK)
            # Where there are no locks nobody knows whether it is in use.
            with suppress(OSError, NotImplementedError), FileLock(lock_file, timeout=0):
                shutil.rmtree(left, ignore_errors=True)
                remove_lock(lock_file)
        folder = self.folder / f'.{uuid.uuid4().hex}{_WORK}'
        place, lock_file = folder / 'run', folder.with_suffix(_LOCK)
        lock = FileLock(lock_file)
        # Before the folder is there: who starts at the same moment would delete it.
        acquire(lock)
        try:
            place.mkdir(parents=True)
            yield place
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            remove_lock(lock_file)
            lock.release()
