# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The one boundary to the libraries that read files."""

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._wording import shortened

__all__ = (
    'FileError',
    'check_memory',
    'decoded',
    'elsewhere',
    'raised_here',
    'reading',
    'require_file',
)

#: What files begin with that are taken for data by mistake, lower case.
_OTHERS = {
    b'<!doctype html': 'it is a web page, as a download leaves that failed',
    b'<html': 'it is a web page, as a download leaves that failed',
    b'version https://git-lfs': 'it is a pointer of Git LFS; fetch it with git lfs pull',
    b'pk\x03\x04': 'it is a ZIP archive (PyTorch files are, too); unpack or convert it',
    b'\x1f\x8b': 'it is compressed by gzip; unpack it',
    **{
        bytes((128, version)): 'it is a Python pickle; save the array as .npy'
        for version in range(2, 6)
    },
}
#: Endings of raw binaries, which no program reads without a header.
_RAW = ('.img', '.dat', '.raw', '.bsq', '.bil', '.bip', '.bin')

#: What to do about a cube that is larger than the memory.
_SMALLER = (
    'read it by window (lazy=True, not for .npz and older MATLAB files), cut it, or read '
    'it all the same with check_memory=False'
)


class FileError(ValueError):
    """A file is damaged, of another kind, or does not hold what was asked for."""


def raised_here(error: BaseException) -> bool:
    """Tell whether an error was raised by this package on purpose.

    Args:
        error: What was raised.

    Returns:
        Whether a ``raise`` of this package was the last that ran.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    inside = Path(last.filename).is_relative_to(Path(__file__).parent)
    return inside and (last.line or '').lstrip().startswith('raise ')


def require_file(path: str | os.PathLike[str], what: str = 'file') -> Path:
    """Return a path that is known to be a file.

    Args:
        path: File to look for.
        what: What the file holds, for the error.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f'{what}: {path} is a folder, expected a file')
    if path.exists() and not path.is_file():
        raise FileNotFoundError(
            f'{what}: {path} is a pipe or a device, expected a file: it is read in any '
            'order, and more than once'
        )
    if not path.is_file():
        raise FileNotFoundError(f'{what}: there is no file {path}{elsewhere(path)}')
    return path


def elsewhere(path: str | os.PathLike[str]) -> str:
    """Say of an address, or of a file in an archive, that such are not read.

    Args:
        path: What is no file.

    Returns:
        The end of a message, empty for other names.
    """
    if not re.match(r'([a-z\d+]{2,}:|/vsi[a-z\d]+)/', str(path), re.IGNORECASE):
        return ''
    return '; addresses and files in archives are not read: download or unpack it'


@contextmanager
def reading(
    path: str | os.PathLike[str], kind: str, error_class: type[FileError] = FileError
) -> Iterator[None]:
    """Turn whatever a library raises while it reads a file into one error of ours.

    What this package raises itself, a :class:`FileError`, passes unchanged.

    Args:
        path: The file, for the error.
        kind: What it is read as, such as ``'a MATLAB file'``.
        error_class: Class of the error.

    Yields:
        Nothing.

    Raises:
        FileError: If anything goes wrong inside.
    """
    try:
        yield
    except FileError:
        raise
    except MemoryError as error:
        raise error_class(
            f'{_sized(path)} cannot be read as {kind}: found that it needs more memory '
            f'than there is ({_line(error)}), expected less; read it by window '
            '(lazy=True), cut it, or take a larger machine'
        ) from error
    except ImportError as error:
        raise error_class(
            f'{path} cannot be read as {kind}: found that a library is missing '
            f'({_line(error)}), expected it to be installed'
        ) from error
    except UnicodeEncodeError as error:
        raise error_class(
            f'{path} cannot be read as {kind}: found letters in its path that are no '
            'UTF-8, which libraries that read such files do not take; rename it'
        ) from error
    except Exception as error:
        locked = os.path.exists(path) and not os.access(path, os.R_OK)
        if locked or isinstance(error, PermissionError):
            raise error_class(
                f'{path} cannot be read as {kind}: found that its permissions forbid it '
                f'({_line(error)}), expected permission to read it'
            ) from error
        raise error_class(
            f'{_sized(path)} cannot be read as {kind}: {_recognised(path)} (found '
            f'{type(error).__name__}: {_line(_told_by(error))}; expected a complete file '
            'of this kind); download or export it again'
        ) from error


def decoded(raw: bytes) -> str:
    """Decode a text that does not say how it is encoded.

    Args:
        raw: UTF-16 with its mark, as Excel and PowerShell write it, UTF-8, or else
            Latin-1 as Windows has it, with dashes and the sign of the euro.

    Returns:
        The text.
    """
    marked = raw.startswith((b'\xff\xfe', b'\xfe\xff'))
    for encoding in (*(['utf-16'] if marked else []), 'utf-8-sig', 'cp1252'):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode('latin-1')


def check_memory(
    needed: int, path: str | os.PathLike[str], what: str, advice: str = _SMALLER
) -> None:
    """Refuse to read what does not fit into the free memory.

    Args:
        needed: Bytes that the file says it holds.
        path: The file, for the error.
        what: Which array, for the error.
        advice: What to do.

    Raises:
        FileError: If there is less free memory.
    """
    free = _free_memory()
    if free is not None and needed > free:
        raise FileError(
            f'{path}: {what} needs {needed / 1e9:.3g} GB in memory, found '
            f'{free / 1e9:.3g} GB free; {advice}'
        )


def _free_memory() -> int | None:
    """Bytes of memory that are free; None where the system does not say."""
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            for line in file:
                if line.startswith('MemAvailable:'):
                    return int(line.split()[1]) * 1024
        return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _recognised(path: str | os.PathLike[str]) -> str:
    """Say what a file that cannot be read seems to be."""
    path = Path(path)
    try:
        with path.open('rb') as file:
            start = file.read(64).lstrip().lower()
    except OSError:
        start = b''
    for begin, text in _OTHERS.items():
        archive = path.suffix.lower() == '.npz' and begin.startswith(b'pk')
        if start.startswith(begin) and not archive:
            return text
    headers = (path.with_name(f'{path.name}.hdr'), path.with_suffix('.hdr'))
    if path.suffix.lower() in _RAW and not any(file.exists() for file in headers):
        return 'a raw binary such as ENVI writes needs its header (.hdr) beside it'
    return 'it is truncated, damaged or of another format'


def _sized(path: str | os.PathLike[str]) -> str:
    """Name a file and its size."""
    try:
        return f'{path} ({os.stat(path).st_size} bytes)'
    except (OSError, ValueError):
        return str(path)


def _told_by(error: BaseException) -> BaseException:
    """Return the error that tells what happened, where one only says that one did."""
    while 'previous exception' in str(error) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _line(error: BaseException) -> str:
    """Put an error's message into a line."""
    return shortened(' '.join(str(error).split())) or 'no message'
