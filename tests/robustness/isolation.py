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
from typing import Any

from torchgeo_ekgnet.main import _own_error

LIMIT = 20.0
"""Seconds after which a trial counts as hanging."""


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
        limit: Seconds that one may take.

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
                ready, _, _ = select.select([answers], [], [], limit + 5)
                try:
                    end = pickle.load(answers) if ready else 'hang'
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


def killed(work: Callable[[], Any], seconds: float) -> bool:
    """Kill a work after a while.

    Args:
        work: What a forked process does.
        seconds: When it is killed.

    Returns:
        Whether it was killed; False if it had finished.
    """
    child = os.fork()
    if child == 0:
        _work([lambda: str(work())], os.open(os.devnull, os.O_WRONLY))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True
