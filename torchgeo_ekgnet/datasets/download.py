# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Download of scene files from several hosts, decided by a checksum."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from filelock import FileLock, Timeout

from .._files import (
    NO_ROOM,
    acquire,
    check_free_space,
    check_output_file,
    file_digest,
    move,
    no_room,
    remove_lock,
)

logger = logging.getLogger(__name__)

#: Folders of public scenes: of their publisher, and of repositories that pass them on.
GIC = 'http://www.ehu.eus/ccwintco/uploads'
_GITHUB = 'https://raw.githubusercontent.com'
DGCNET = f'{_GITHUB}/leeguandong/DGCNet-for-HSI/master/dataset'
HYBRIDSN = f'{_GITHUB}/gokriznastic/HybridSN/master/data'
SSTN = f'{_GITHUB}/zilongzhong/SSTN/master/datasets'

_CHUNK = 1 << 16
_TIMEOUT = (10, 60)  # seconds to connect, seconds between two chunks

#: Bytes that no file of a scene has, and the slowest host that is waited for: bytes a
#: second after so many seconds.
_LARGEST = 8 << 30
_SLOWEST, _PATIENCE = 1 << 10, 60.0

#: Seconds that another process is given to finish the same download.
_LOCK_TIMEOUT = 3600.0


@dataclass(frozen=True)
class SceneFile:
    """One public file of a scene.

    Args:
        name: File name.
        variable: Variable in the file.
        urls: Addresses in the order in which they are tried; behind one that ends in a
            slash the name follows.
        md5: Published or computed MD5 of the file, None if nobody has published one.
        git_blob: SHA-1 under which git stores the file, an independent check where no
            MD5 is known.
        sha256: SHA-256 of the file, where that is what is known.
        manual: What to do by hand if no address works.
    """

    name: str
    variable: str
    urls: tuple[str, ...] = ()
    md5: str | None = None
    git_blob: str | None = None
    sha256: str | None = None
    manual: str = ''

    def __post_init__(self) -> None:
        """Write the addresses in full."""
        urls = (url + self.name if url.endswith('/') else url for url in self.urls)
        object.__setattr__(self, 'urls', tuple(urls))

    @property
    def checkable(self) -> bool:
        """True if some checksum of the file is known."""
        return any((self.md5, self.sha256, self.git_blob))

    def mismatch(self, path: str | os.PathLike[str]) -> str | None:
        """Compare a file with the known checksum.

        Args:
            path: The file to check.

        Returns:
            None if it is the public file or no checksum is known, else a sentence.
        """
        if self.md5 is not None:
            kind, known, found = 'md5', self.md5, file_digest(path, 'md5')
        elif self.sha256 is not None:
            kind, known, found = 'sha256', self.sha256, file_digest(path)
        elif self.git_blob is not None:
            kind, known, found = 'git blob id', self.git_blob, git_blob_id(path)
        else:
            return None
        if found == known:
            return None
        return f'{kind} is {found}, the public file has {known}'


class DownloadError(RuntimeError):
    """No address gave the file."""


def git_blob_id(path: str | os.PathLike[str]) -> str:
    """Return the id that git gives to a file's content."""
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(f'blob {os.path.getsize(path)}\0'.encode())
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download_file(
    file: SceneFile,
    root: str | os.PathLike[str],
    check: Callable[[Path], str | None] | None = None,
) -> Path:
    """Download a file from the first address that gives the right content.

    The content grows in ``<name>.part`` and gets its name only when it is complete and
    has passed the check. An interrupted download is continued by the next attempt, from
    any address; one that sends a page instead does not cost what is there already.
    Processes that want the same file wait for the one that fetches it. A host that sends
    no end, or hardly anything, is given up.

    Args:
        file: What to download.
        root: Folder to write to, made if absent.
        check: Looks at the complete file and returns what is wrong with it, or None.
            The default compares the checksum.

    Returns:
        Path of the file.

    Raises:
        DownloadError: If no address gave the file; lists each address with its problem
            and the manual step.
        OSError: If the file cannot be written, or the disk has no room for it.
    """
    root = Path(root)
    target = root / file.name
    check_output_file(target)
    check = check or file.mismatch
    path = root / f'.{file.name}.lock'
    lock = FileLock(path, timeout=_LOCK_TIMEOUT)
    try:
        acquire(lock)
    except Timeout:
        raise DownloadError(
            f'{file.name} is being downloaded by another process, which does not end; '
            f'if there is none, delete {path}'
        ) from None
    try:
        # Another process may have brought it.
        if not (target.is_file() and check(target) is None):
            _from_any_host(file, target, check)
    finally:
        remove_lock(path)
        lock.release()
    return target


def _from_any_host(
    file: SceneFile, target: Path, check: Callable[[Path], str | None]
) -> None:
    """Try the addresses of a file, one after the other."""
    part = target.with_name(f'{file.name}.part')
    tried: list[str] = []
    for url in file.urls:
        logger.info('Downloading %s from %s', file.name, url)
        problem = _attempt(url, part, check)
        if problem is None:
            move(part, target)
            if not file.checkable:
                logger.warning(
                    '%s: nobody has published a checksum of this file, only its '
                    'content could be checked',
                    file.name,
                )
            return
        logger.warning('%s from %s: %s', file.name, url, problem)
        tried.append(f'{url}: {problem}')
    manual = file.manual or (
        'download it with a browser from one of these addresses or from a colleague'
    )
    raise DownloadError(
        f'{file.name} could not be downloaded (tried '
        f'{"; ".join(tried) or "nothing: no address is known"}). Do it by hand: '
        f'{manual}, and save it as {target}'
    )


def _attempt(url: str, part: Path, check: Callable[[Path], str | None]) -> str | None:
    """Fetch one address into ``part``; give the problem, None if it is right now.

    Nothing of this address stays if it is wrong, and a beginning that an earlier
    attempt has left is not lost to an address that sends something else, such as a
    page that asks for a browser.
    """
    whole = part.with_name(f'{part.name}.new')
    for path in (part, whole):
        if path.is_symlink():
            # What it leads to is somebody else's.
            path.unlink()
    # Of a process that was killed.
    _keep_longer(whole, part)
    have = _size(part)
    try:
        if _fetch(url, part, whole, have):
            if check(part) is None:
                return None
            # The beginning or what came behind it is wrong: once more, from zero.
            os.truncate(part, have)
            _fetch(url, part, whole, 0)
        problem = check(whole)
        if problem is None:
            move(whole, part)
        else:
            whole.unlink()
        return problem
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            if error.filename is not None:
                raise
            # No other address brings room.
            raise no_room(part, error.strerror or str(error)) from error
        return f'{type(error).__name__}: {" ".join(str(error).split())[:240]}'
    finally:
        # Also what came until the process was told to stop.
        _keep_longer(whole, part)
        whole.unlink(missing_ok=True)


def _keep_longer(whole: Path, part: Path) -> None:
    """Let the next attempt go on from what came, if that is more than was there."""
    if _size(whole) > _size(part):
        move(whole, part)


def _size(path: Path) -> int:
    """Size of a file in bytes, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def _fetch(url: str, part: Path, whole: Path, have: int) -> bool:
    """Ask for what follows the first ``have`` bytes."""
    headers = {'Accept-Encoding': 'identity'}
    if have:
        headers['Range'] = f'bytes={have}-'
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if have and answer.status_code == 416:  # nothing after what is already here
            return True
        answer.raise_for_status()
        begins = f'bytes {have}-'
        continues = (
            have > 0
            and answer.status_code == 206
            and answer.headers.get('Content-Range', '').startswith(begins)
        )
        start = have if continues else 0
        expected = _declared_size(answer)
        if expected is not None:
            check_free_space(part.parent, min(expected, _LARGEST), part.stem)
        path = part if continues else whole
        with open(path, 'ab' if continues else 'wb') as out:
            out.writelines(_bounded(answer, start))
            out.flush()
            os.fsync(out.fileno())
    size = _size(path)
    if expected is not None and size != start + expected:
        raise requests.ConnectionError(
            f'connection closed after {size} of {start + expected} bytes (kept, '
            'the next attempt continues)'
        )
    return continues


def _declared_size(answer: requests.Response) -> int | None:
    """Bytes that an answer says it has; None if it does not say, or says nonsense."""
    text = answer.headers.get('Content-Length', '').strip()
    packed = answer.headers.get('Content-Encoding', 'identity').strip().lower()
    if packed not in ('', 'identity') or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


def _bounded(answer: requests.Response, start: int) -> Iterator[bytes]:
    """Give the chunks of an answer, as long as it has an end and comes at all."""
    begin, received = time.monotonic(), 0
    for chunk in answer.iter_content(_CHUNK):
        received += len(chunk)
        seconds = time.monotonic() - begin
        if start + received > _LARGEST:
            raise requests.ConnectionError(
                f'more than {_LARGEST} bytes came, expected a file of a scene'
            )
        if seconds > _PATIENCE and received < _SLOWEST * seconds:
            raise requests.ConnectionError(
                f'{received} bytes came in {seconds:.0f} seconds, expected '
                f'{_SLOWEST} a second or more (kept, the next attempt continues)'
            )
        yield chunk
