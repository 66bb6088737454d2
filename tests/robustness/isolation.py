# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Run what may hang, crash or be killed in forked processes, and say how it went."""

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from torchgeo_ekgnet.main import _own_error

LIMIT = 20.0
"""Seconds of the processor after which a trial counts as hanging."""

_WAIT = 10
"""A trial that waits counts as hanging after so many times its limit: other processes
may leave it little of the machine."""


def said(error: BaseException) -> str:
    """Name the end of a trial by its error: ``'refused'``, or what escaped.

    Args:
        error: What was raised.

    Returns:
        ``'refused'`` for one line that this package raised on purpose, or that names
        a file as the operating system does; else ``'traceback: ...'``.
    """
    own = _own_error(error)
    named = isinstance(error, OSError) and error.filename is not None
    parser = type(error).__name__ == 'UsageError'
    if (own is not None and '\n' not in str(own)) or named or parser:
        return 'refused'
    text = ' '.join(str(error).split())[:160]
    return f'traceback: {type(error).__name__}: {text}'


def trials(
    works: Sequence[Callable[[], str]], limit: float = LIMIT
) -> Iterator[tuple[int, str]]:
    """Run works one after another in forked processes.

    A process goes on with the next work until one takes it down.

    Args:
        works: Functions that return how they ended.
        limit: Seconds of the processor that one may take.

    Yields:
        Index and end of each work: what it returned, ``'traceback: ...'`` for what it
        raised, ``'hang'``, or ``'death by signal N'``.
    """
    index = 0
    while index < len(works):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _work(works[index:], write)
        os.close(write)
        with os.fdopen(read, 'rb') as answers:
            while index < len(works):
                try:
                    end = (
                        pickle.load(answers)
                        if _comes(answers, child, limit)
                        else 'hang'
                    )
                except EOFError:
                    _, status = os.waitpid(child, 0)
                    child = 0
                    end = f'death by signal {status & 0x7F}'
                yield index, end
                index += 1
                if end == 'hang' or child == 0:
                    break
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _comes(answers: IO[bytes], child: int, limit: float) -> bool:
    """Wait for an answer of a child, or until it counts as hanging."""
    began, used = time.monotonic(), _seconds(child)
    while time.monotonic() - began < _WAIT * limit:
        if select.select([answers], [], [], min(1, limit))[0]:
            return True
        if _seconds(child) - used > limit:
            return False
    return False


def _seconds(process: int) -> float:
    """Give the processor time of a process, 0 where the system does not tell."""
    try:
        with open(f'/proc/{process}/stat', encoding='ascii') as file:
            values = file.read().rpartition(')')[2].split()
    except OSError:
        return 0.0
    return (int(values[11]) + int(values[12])) / os.sysconf('SC_CLK_TCK')


def _work(works: Sequence[Callable[[], str]], write: int) -> None:
    """Do works in the child, which never returns."""
    faulthandler.disable()
    silent = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(silent, number)
    sys.stdout = sys.stderr = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
    with os.fdopen(write, 'wb', buffering=0) as answers:
        for work in works:
            try:
                end = work()
            except BaseException as error:  # noqa: BLE001  (what escapes is counted)
                end = said(error)
            answers.write(pickle.dumps(end))
    os._exit(0)


def killed(
    work: Callable[[], Any], seconds: float, ready: Callable[[], Any] | None = None
) -> bool:
    """Kill a work after a while.

    Args:
        work: What a forked process does.
        seconds: When it is killed.
        ready: Tells when the seconds begin; at once by default.

    Returns:
        Whether it was killed; False if it had finished.
    """
    child = os.fork()
    if child == 0:
        _work([lambda: str(work())], os.open(os.devnull, os.O_WRONLY))
    end = None
    while end is None or time.monotonic() < end:
        if end is None and (ready is None or ready()):
            end = time.monotonic() + seconds
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True
