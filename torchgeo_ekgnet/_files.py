# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Result files: written aside and moved, so that a file with its name is complete."""

import argparse
import errno
import hashlib
import json
import logging
import os
import shlex
import shutil
import subprocess
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

logger = logging.getLogger(__name__)

#: Room left for headers and pictures, in bytes.
_DISK_MARGIN = 8 << 20

#: What a full disk, an exhausted quota and a file system's size limit are called.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Where ``stdout`` is a link to a file if it is redirected to one.
_DEVICES = Path('/dev')

StrPath = str | os.PathLike[str]

#: Whether files that somebody has open can neither be deleted nor replaced.
WINDOWS = os.name == 'nt'

#: Seconds between attempts to replace a file there: programs that look for viruses, or
#: index files, open every new one for a moment.
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)


def at_home(path: StrPath) -> Path:
    """Give a path whose ``~`` is the home folder: no shell has read it in a YAML file."""
    return Path(os.path.expanduser(path))


def named_path(text: str) -> Path:
    """Read an argument that names what is to be written, see :func:`at_home`.

    Raises:
        ArgumentTypeError: If it is empty, which would mean the working folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError('expected a path, found nothing')
    return at_home(text)


def as_argument(path: StrPath) -> str:
    """Write a path as it can be typed behind an option of a command."""
    text = os.fspath(path)
    text = f'./{text}' if text.startswith('-') else text
    # For the command prompt of Windows a single quote is a letter.
    return subprocess.list2cmdline([text]) if WINDOWS else shlex.quote(text)


def relative_path(path: StrPath, start: StrPath = os.curdir) -> str:
    """Write a path relative to a folder, with slashes; whole if on another drive."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        return Path(path).absolute().as_posix()


@contextmanager
def replaced(path: StrPath) -> Iterator[Path]:
    """Write a file that either gets its name as a whole or not at all.

    The file has the permissions that the process gives to new files. A link that has
    the name is replaced; what it leads to is not touched.

    Args:
        path: File to write, in a folder that is made if there is none.

    Yields:
        File beside it, of the same suffix, which does not exist yet. It is brought to
        the disk and moved when the block ends, deleted if the block raises.

    Raises:
        OSError: If the file cannot be written; names it and, on a full disk, the room
            that is left.
    """
    path = Path(path)
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: its files are for their owner's eyes only.
    part = path.with_name(f'.{uuid.uuid4().hex}.part{path.suffix}')
    try:
        yield part
        fsync(part)
        move(part, path)
        fsync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in NO_ROOM and error.filename != str(path):
            raise no_room(path, reason) from error
        if error.errno is None or error.filename not in (None, part, str(part)):
            raise
        # Nobody knows the file aside, and of a disk's errors none names a file.
        text = f'could not be written ({reason})'
        raise OSError(error.errno, text, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def move(source: StrPath, target: StrPath) -> None:
    """Give a file another name on the same disk; one that has the name is replaced.

    Args:
        source: The file.
        target: Its new name.

    Raises:
        OSError: If that cannot be; on Windows also if another program has it open.
    """
    for wait in (*_WAITS, None):
        try:
            os.replace(source, target)
        except PermissionError as error:
            if not WINDOWS:
                raise
            if wait is None:
                raise PermissionError(
                    errno.EACCES,
                    f'the file could not be replaced ({error.strerror}); close it in '
                    'other programs and start again',
                    os.fspath(target),
                ) from error
            time.sleep(wait)
        else:
            return


def remove_lock(path: Path) -> None:
    """Delete the file of a lock that is held, before others can lock that file.

    On Windows it is deleted when the lock is freed, by the lock itself.
    """
    with suppress(PermissionError):
        path.unlink(missing_ok=True)


def as_utf8(text: str) -> str:
    """Spell out what UTF-8 cannot write: bytes of a file's name that were no text."""
    return text.encode(errors='backslashreplace').decode()


def write_text(path: StrPath, text: str) -> Path:
    """Write a text file, UTF-8, as a whole or not at all (:func:`replaced`)."""
    with replaced(path) as part:
        part.write_text(as_utf8(text), encoding='utf-8')
    return Path(path)


def write_json(path: StrPath, value: Any, indent: int | None = 2) -> Path:
    """Write a JSON file as a whole or not at all (:func:`replaced`).

    Raises:
        ValueError: If the value holds NaN or an infinite number.
        TypeError: If the value holds something that JSON cannot write.
    """
    text = json.dumps(value, indent=indent, allow_nan=False, default=_plain)
    return write_text(path, text + '\n')


def _plain(value: Any) -> Any:
    """Give a number of NumPy as Python's; its floats alone are that already."""
    if type(value).__module__ != 'numpy' or getattr(value, 'shape', None) != ():
        raise TypeError(f'found {type(value).__name__}, expected what JSON can hold')
    return value.item()


def write_optional(path: StrPath, write: Callable[[Path], object]) -> bool:
    """Write a file that a result can do without.

    Args:
        path: The file.
        write: Writes it, given its path.

    Returns:
        Whether that went well; if not, a warning says why.
    """
    path = Path(path)
    try:
        write(path)
    except Exception as error:  # noqa: BLE001  (whatever a picture fails of)
        warnings.warn(
            f'{path.name} is left out, it could not be made ({type(error).__name__}: '
            f'{error})',
            stacklevel=2,
        )
        return False
    return True


def file_digest(path: StrPath, algorithm: str = 'sha256') -> str:
    """Give the digest of a file in hexadecimal digits, by any name hashlib knows."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def fsync(path: StrPath) -> None:
    """Bring a file's content to the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(folder: Path) -> None:
    """Bring a folder's list of files to the disk, where the system can."""
    if WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems do not know it for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def acquire(lock: BaseFileLock) -> None:
    """Take a lock, unless the system or the disk knows no locks.

    Args:
        lock: The lock, with its timeout.

    Raises:
        Timeout: If another process has it.
        PermissionError: If its file may not be opened, such as another user's.
    """
    try:
        lock.acquire()
    except (Timeout, PermissionError):
        raise
    except (OSError, NotImplementedError) as error:
        logger.debug('%s: no locks on this disk (%s)', lock.lock_file, error)


def no_room(path: Path, reason: str) -> OSError:
    """Make the error of a file for which the disk had no room."""
    free = shutil.disk_usage(path.parent).free
    return OSError(
        errno.ENOSPC,
        f'{path.name} could not be written ({reason}); {_megabytes(free)} are free on '
        'this disk. Free some room and start again',
        str(path),
    )


def check_free_space(folder: StrPath, needed: int, purpose: str) -> None:
    """Refuse work for which a disk has no room.

    Args:
        folder: Existing folder on the disk.
        needed: Bytes that are about to be written.
        purpose: What they are, for the message.

    Raises:
        OSError: With ``errno.ENOSPC`` if less room is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _DISK_MARGIN:
        raise OSError(
            errno.ENOSPC,
            f'not enough room for {purpose}: {_megabytes(needed + _DISK_MARGIN)} are '
            f'needed, {_megabytes(free)} are free; free some, or choose another output '
            'folder',
            str(folder),
        )


def _megabytes(count: float) -> str:
    """Write a number of bytes."""
    return f'{count / 1e6:,.1f} MB'


def check_output_file(path: StrPath, endings: Sequence[str] = ()) -> None:
    """See that a file that the user has named can be written, or replaced.

    Args:
        path: The file; its folder is made if there is none.
        endings: Those that it may have, so that it is no file of a scene; any if empty.

    Raises:
        ValueError: If it has another ending.
        OSError: If its folder cannot be written to, or it is a device or a pipe.
        IsADirectoryError: If it is a folder.
    """
    path = Path(path)
    check_replaceable(path)
    if endings and path.suffix.lower() not in endings:
        raise ValueError(
            f'{path}: found the ending {path.suffix!r}, expected {" or ".join(endings)}'
        )
    check_writable(path.parent)


def check_replaceable(path: StrPath) -> None:
    """Refuse what is no file where a file is going to be; a link to one is replaced.

    Args:
        path: The file.

    Raises:
        IsADirectoryError: If it is a folder.
        OSError: If it is a device or a pipe, or a link to one, such as ``/dev/stdout``.
    """
    path = Path(path)
    special = path.exists() and not path.is_file() and not path.is_dir()
    if special or path.absolute().parent == _DEVICES:
        # Whoever may move a file there would take the device away from all programs.
        raise OSError(
            errno.EINVAL,
            'found a device or a pipe, expected the name of a file',
            str(path),
        )
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(
            errno.EISDIR, 'found a folder, expected the name of a file', str(path)
        )


def check_writable(folder: StrPath) -> None:
    """Make a folder and see that files can be written there.

    Args:
        folder: The folder.

    Raises:
        OSError: If its path is no text in UTF-8.
        PermissionError: If the folder cannot be made or written to.
        NotADirectoryError: If the path, or a part of it, is a file.
    """
    folder = Path(folder)
    try:
        os.path.abspath(folder).encode()
    except UnicodeEncodeError as error:
        raise OSError(
            errno.EILSEQ,
            'found letters in the path of the output folder that are no UTF-8, which '
            'libraries that write there do not take; rename it, or choose another one',
            os.path.abspath(folder),
        ) from error
    probe = folder / f'.{uuid.uuid4().hex}.part'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b'')
        finally:
            probe.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            errno.ENOTDIR,
            'the output folder cannot be made because a file has its name; choose '
            'another output folder',
            str(folder),
        ) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise PermissionError(
            errno.EACCES,
            f'the output folder cannot be written to ({error.strerror}); choose '
            'another output folder, or change its permissions',
            str(folder),
        ) from error
