# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The section of the busy machine: the demo beside processes that keep cores busy."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .arms import Setting

__all__ = ('COMPETITORS', 'bench_busy')

#: Numbers of busy processes beside which the demo runs.
COMPETITORS = (0, 1, 2)

_PROGRAM = 'from torchgeo_ekgnet.main import main; main()'
_LOOP = (
    'import os, sys, threading\n'
    'threading.Thread(target=lambda: os._exit(len(sys.stdin.read()))).start()\n'
    'while True: pass'
)


@contextlib.contextmanager
def _competitors(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep cores busy with processes that only loop, and end if this one is killed."""
    command = [sys.executable, '-S', '-c', _LOOP]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _run_demo(epochs: int | None) -> tuple[float, int]:
    """Run the demo as a user does: seconds from start to end, and its threads."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-c', _PROGRAM, 'demo', '--quiet']
        command += ['--output', folder]
        if epochs is not None:
            command += ['--epochs', str(epochs)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        (report,) = Path(folder).rglob('demo.json')
        threads = json.loads(report.read_text(encoding='utf-8'))['threads']
        return seconds, int(threads)


def bench_busy(setting: Setting) -> list[dict[str, Any]]:
    """Time ``torchgeo-ekgnet demo`` alone and beside busy processes, in turn.

    Args:
        setting: Options, of which repeats and epochs count.

    Returns:
        One row a number of busy processes.
    """
    options = setting.options
    seconds: dict[int, list[float]] = {count: [] for count in COMPETITORS}
    threads: dict[int, list[int]] = {count: [] for count in COMPETITORS}
    for _ in range(options.repeats):
        for count in COMPETITORS:
            with _competitors(count):
                took, used = _run_demo(options.epochs)
            seconds[count].append(took)
            threads[count].append(used)
    quiet = statistics.median(seconds[0])
    return [
        {
            'busy processes': count,
            'threads': threads[count],
            'seconds': seconds[count],
            'times quiet': statistics.median(seconds[count]) / quiet,
        }
        for count in COMPETITORS
    ]
