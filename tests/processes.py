# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Processes of their own: forks, which need not import anything again, and commands."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

needs_fork = pytest.mark.skipif(
    not hasattr(os, 'fork'), reason='what is stopped runs in a forked process'
)


needs_posix = pytest.mark.skipif(
    os.name != 'posix', reason='needs links, pipes, permissions or signals of POSIX'
)

_kept: list[bool] = []


def _keep_open_files(event: str, args: tuple[Any, ...]) -> None:
    """Refuse to delete or rename a file that this process has open or mapped."""
    if event not in ('os.remove', 'os.rename') or not _kept or not _kept.pop():
        return
    try:
        paths = args[:1] if event == 'os.remove' else args[:2]
        folder = args[1] if event == 'os.remove' else -1
        base = Path(f'/proc/self/fd/{folder}').resolve() if folder >= 0 else Path()
        wanted = [base / os.fsdecode(path) for path in paths]
        wanted = [path.parent.resolve() / path.name for path in wanted]
        opened = [
            Path(os.path.realpath(link)) for link in Path('/proc/self/fd').iterdir()
        ]
        mapped = Path('/proc/self/maps').read_text(encoding='utf-8').splitlines()
        opened += [Path(line[line.index('/') :]) for line in mapped if '/' in line]
        for path in set(wanted) & set(opened):
            raise PermissionError(13, 'found a file that is open', str(path))
    finally:
        _kept.append(True)


@contextmanager
def open_files_are_kept() -> Iterator[None]:
    """Let no file be deleted or replaced that this process has open, as on Windows.

    Raises:
        Skipped: Where the system does not tell which files are open.
    """
    if not Path('/proc/self/maps').exists():
        pytest.skip('needs the list of open files in /proc')
    if not hasattr(_keep_open_files, 'installed'):
        sys.addaudithook(_keep_open_files)
        _keep_open_files.installed = True  # type: ignore[attr-defined]
    _kept[:] = [True]
    try:
        yield
    finally:
        _kept.clear()


class Fork(NamedTuple):
    """A forked process, and the file with what it wrote to stderr."""

    child: int
    errors: Path

    def status(self) -> int:
        """Wait until the process has ended, and give its exit status."""
        _, status = os.waitpid(self.child, 0)
        return os.waitstatus_to_exitcode(status)

    def wait(self) -> None:
        """Wait until the process has ended as it should."""
        assert self.status() == 0, self.errors.read_text()

    def stop_when(self, ready: Callable[[], Any], number: signal.Signals) -> int:
        """Wait until something is ready, send a signal, and give the exit status."""
        ended = 0
        while not ready() and not ended:
            time.sleep(0.01)
            ended, _ = os.waitpid(self.child, os.WNOHANG)
        assert not ended, self.errors.read_text()
        os.kill(self.child, number)
        return self.status()


def forked(work: Callable[[], Any], errors: Path) -> Fork:
    """Run a work in a fork of this process, which ends as a command does."""
    child = os.fork()
    if child:
        return Fork(child, errors)
    status = 1
    try:
        # A suite in the background ignores Ctrl-C, one under nohup the closing of its
        # terminal, and so would its forks.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        # Of a trainer that never came to its end in this process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stdout = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
        sys.stderr = errors.open('w', encoding='utf-8')
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001  (the child must end here)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def command(
    *args: str, cwd: Path, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, as its script does."""
    code = 'from torchgeo_ekgnet.main import main; main()'
    arguments = ', '.join(map(repr, ('torchgeo-ekgnet', *args)))
    return subprocess.Popen(
        [sys.executable, '-c', f'import sys; sys.argv = [{arguments}]; {code}'],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1]), **environment},
        text=True,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
