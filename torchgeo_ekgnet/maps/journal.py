# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Results of a map on the disk while it is being computed.

Every process appends the results of its batches to a file of its own. A record says
which batch it is, how long it is, and its checksum, so a record that a killed process
or a lost power supply cut short is recognised and computed again. No order of writes
matters, and any number of processes can take up what any other number has left.
"""

import errno
import json
import logging
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from .._files import NO_ROOM, acquire, remove_lock
from ..metrics import not_finite

__all__ = ('FolderLock', 'Journal', 'JournalWriter', 'Layout')

logger = logging.getLogger(__name__)

#: Version of the files' layout.
FORMAT = 1

_MAGIC = b'EKGMAP01'
_RECORD = struct.Struct('<4sQIII')  # mark, batch, pixels, bytes, checksum
_MARK = b'BTCH'
_NAME = re.compile(r'\d{4,}-\d{4,}\.journal')

#: Seconds between two waits for the disk.
_SYNC_INTERVAL = 10.0


class FolderLock:
    """Keeps other jobs out of a folder, if system and disk know such locks.

    The system frees the lock of a process that ends, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        """Create the lock of a folder; nothing is written yet."""
        self.path = folder / 'lock'
        self._lock = FileLock(self.path, timeout=0, thread_local=False)

    def acquire(self) -> None:
        """Take the lock, unless it is held already.

        Raises:
            BlockingIOError: If another job has it.
        """
        if self._lock.is_locked:
            return
        try:
            acquire(self._lock)
        except Timeout:
            raise BlockingIOError(
                errno.EAGAIN,
                'another process is writing this map; wait for it, or choose another '
                'output folder',
                str(self.path.parent.parent),
            ) from None
        except PermissionError as error:
            # Another user's job may hold the lock: going on could spoil its map.
            raise PermissionError(
                errno.EACCES,
                'the lock of another user may not be opened; choose another output '
                'folder',
                str(self.path),
            ) from error

    def release(self) -> None:
        """Free the lock, and delete its file."""
        if self._lock.is_locked:
            remove_lock(self.path)
            self._lock.release()


@dataclass(frozen=True)
class Layout:
    """What is kept of a pixel.

    Attributes:
        num_classes: Number of classes.
        entropy: Also keep the entropy of the class probabilities.
        probabilities: Also keep every class's probability.
    """

    num_classes: int
    entropy: bool = False
    probabilities: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Structured type of one pixel's results."""
        fields: list[Any] = [('label', '<u2'), ('confidence', '<f4')]
        if self.entropy:
            fields.append(('entropy', '<f4'))
        if self.probabilities:
            fields.append(('probabilities', '<f4', (self.num_classes,)))
        return np.dtype(fields)

    def empty(self, rows: int, cols: int) -> NDArray[Any]:
        """Give results (rows, cols) of pixels that nothing has classified yet."""
        results = np.zeros((rows, cols), dtype=self.dtype)
        for name in self.dtype.names or ():
            if name != 'label':
                results[name] = np.nan
        return results

    def pack(self, probabilities: NDArray[np.float32]) -> NDArray[Any]:
        """Reduce class probabilities to what is kept.

        Args:
            probabilities: Of each pixel and class, (n, classes).

        Returns:
            Records (n,) of :attr:`dtype`; ``label`` counts classes from 1.

        Raises:
            ValueError: If the number of classes differs, or a value is not finite.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != self.num_classes:
            raise ValueError(
                f'the model returned probabilities of shape {probabilities.shape}, '
                f'expected (pixels, {self.num_classes}) for the classes of the map'
            )
        if not np.isfinite(probabilities).all():
            raise ValueError(not_finite('predict'))
        records = np.empty(len(probabilities), dtype=self.dtype)
        best = probabilities.argmax(axis=1)
        records['label'] = best + 1
        records['confidence'] = probabilities[np.arange(len(best)), best]
        if self.entropy:
            safe = np.where(probabilities > 0, probabilities, 1)
            records['entropy'] = -(probabilities * np.log(safe)).sum(axis=1)
        if self.probabilities:
            records['probabilities'] = probabilities
        return records


@dataclass(frozen=True)
class _Place:
    """Where a batch's results lie."""

    file: int
    offset: int
    length: int
    pixels: int


class JournalWriter:
    """One process's file."""

    def __init__(self, path: Path, identity: str) -> None:
        """Create a new file.

        Args:
            path: File to write; it must not exist.
            identity: What the results depend on.

        Raises:
            OSError: If the file cannot be written.
        """
        self.path = path
        self._file: BinaryIO | None = path.open('xb', buffering=0)
        header = identity.encode()
        self._end = 0
        self._write(_MAGIC + struct.pack('<I', len(header)) + header)
        self._synced = time.monotonic()

    def _write(self, data: bytes) -> None:
        """Append data in full, or leave the file as it was."""
        assert self._file is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            try:
                self._file.truncate(self._end)
                self._file.seek(self._end)
            except OSError:
                logger.debug('%s could not be cut back', self.path)
            if error.errno not in NO_ROOM:
                raise OSError(
                    error.errno,
                    f'the results could not be written ({error.strerror})',
                    str(self.path.parent),
                ) from error
            raise OSError(
                errno.ENOSPC,
                'the disk is full; what has been classified is kept. Free some room '
                'and run the same command again to go on',
                str(self.path.parent),
            ) from error
        self._end += len(data)

    def append(self, batch: int, records: NDArray[Any]) -> None:
        """Append the results of a batch.

        Args:
            batch: Number of the batch.
            records: Results of its pixels.

        Raises:
            OSError: If the disk is full.
        """
        if self._file is None:
            raise ValueError(f'{self.path} is closed')
        data = np.ascontiguousarray(records).tobytes()
        head = _RECORD.pack(
            _MARK, batch, len(records), len(data), zlib.crc32(data, batch & 0xFFFFFFFF)
        )
        self._write(head + data)
        if time.monotonic() - self._synced > _SYNC_INTERVAL:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Bring the results to the disk and close the file."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


class Journal:
    """The results of all processes and all runs in a folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Create a new Journal instance.

        Args:
            folder: Folder of the files; made when it does not exist.
            settings: All that the results depend on, JSON values. Results of other
                settings are never mixed in.
        """
        self.folder = folder
        self.identity = json.dumps(
            {'format': FORMAT, **settings}, sort_keys=True, separators=(',', ':')
        )
        self._files: list[Path] = []
        self._places: dict[int, _Place] = {}

    def _paths(self) -> list[Path]:
        """List the files that a journal wrote, of any settings."""
        return [
            path for path in sorted(self.folder.glob('*.journal')) if _is_journal(path)
        ]

    def read(self, discard_others: bool = False) -> None:
        """Find what has been computed.

        Args:
            discard_others: Delete files of other settings (one process only).
        """
        self._files, self._places = [], {}
        for path in self._paths():
            with path.open('rb') as file:
                ours = self._is_ours(file)
                if ours:
                    self._files.append(path)
                    for batch, place in self._scan(file, len(self._files) - 1):
                        self._places.setdefault(batch, place)
            if not ours and discard_others:
                logger.warning(
                    'discarding %s: it belongs to a map of other settings', path.name
                )
                path.unlink()

    def _is_ours(self, file: BinaryIO) -> bool:
        """Whether a journal is of this very work."""
        if file.read(len(_MAGIC)) != _MAGIC:
            return False
        size = file.read(4)
        if len(size) < 4:
            return False
        expected = self.identity.encode()
        length: int = struct.unpack('<I', size)[0]
        return length == len(expected) and file.read(length) == expected

    @staticmethod
    def _scan(file: BinaryIO, number: int) -> Iterator[tuple[int, _Place]]:
        """Find the whole records of a file, from its position on."""
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            mark, batch, pixels, length, checksum = _RECORD.unpack(head)
            offset = file.tell()
            if mark != _MARK:
                return
            data = file.read(length)
            if len(data) < length or zlib.crc32(data, batch & 0xFFFFFFFF) != checksum:
                return
            yield batch, _Place(number, offset, length, pixels)

    @property
    def batches(self) -> set[int]:
        """Numbers of the batches that have been computed."""
        return set(self._places)

    def pixels(self) -> int:
        """Count the pixels that have been computed."""
        return sum(place.pixels for place in self._places.values())

    def open_writer(self, attempt: int, rank: int) -> JournalWriter:
        """Start a process's file.

        Args:
            attempt: Number of this run, from :meth:`next_attempt`.
            rank: Number of the process.

        Returns:
            The writer.
        """
        return JournalWriter(
            self.folder / f'{attempt:04d}-{rank:04d}.journal', self.identity
        )

    def next_attempt(self) -> int:
        """Number the run that is about to start, so that its files are new.

        Returns:
            One more than the highest number in the folder.
        """
        names = (path.name for path in self.folder.glob('*.journal'))
        attempts = [name.partition('-')[0] for name in names]
        return max((int(item) for item in attempts if item.isdigit()), default=-1) + 1

    def results(self, layout: Layout, batch: int) -> NDArray[Any]:
        """Read the results of a batch.

        Args:
            layout: What is kept of a pixel.
            batch: Number of the batch.

        Returns:
            Records (n,).

        Raises:
            KeyError: If the batch has not been computed.
        """
        place = self._places[batch]
        with self._files[place.file].open('rb') as file:
            file.seek(place.offset)
            return np.frombuffer(file.read(place.length), dtype=layout.dtype)

    def discard(self) -> None:
        """Delete every file of the journal."""
        for path in self._paths():
            path.unlink()
        self._files, self._places = [], {}


def _is_journal(path: Path) -> bool:
    """Tell whether a file, perhaps cut short, was written by a :class:`JournalWriter`."""
    if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
        return False
    with path.open('rb') as file:
        start = file.read(len(_MAGIC))
    return _MAGIC.startswith(start)
