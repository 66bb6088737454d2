# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How a command shares the cores with other processes; set before torch is loaded.

Threads that wait for each other at the end of every operation burn their cores while
they do. Beside another busy process that makes both slow: the last thread waits for a
core that the first one heats. The commands let their threads sleep instead, unless the
environment says how to wait. Importing the package sets nothing.
"""

import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

THREADS = 'TORCHGEO_EKGNET_THREADS'
"""Variable with the number of threads, or ``auto`` for as many as cores are free."""

_WAITING = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'KMP_LIBRARY')
_COUNTS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')

_WINDOW = 0.2
"""Seconds over which the cores are watched."""

Environment = MutableMapping[str, str]


def wait_passively(environment: Environment = os.environ) -> bool:
    """Let idle threads of OpenMP sleep, unless the user has chosen how they wait.

    Returns:
        Whether the variables were set; not where torch, which reads them, is loaded.
    """
    if 'torch' in sys.modules or any(name in environment for name in _WAITING):
        return False
    environment['OMP_WAIT_POLICY'] = 'PASSIVE'
    environment['KMP_BLOCKTIME'] = '0'
    return True


def choose_threads(
    environment: Environment = os.environ, default: str | None = None
) -> int | None:
    """Set the number of threads that the environment or the command asks for.

    The number decides in which order sums are taken, so results that must agree to the
    bit need the same one. That is why ``auto`` is the default of no training command.

    Args:
        environment: Variables of the process.
        default: What to do where the user has said nothing; None leaves it to torch.

    Returns:
        The number, None where it is left to torch.

    Raises:
        ValueError: If the variable is neither ``auto`` nor a positive number.
    """
    asked = environment.get(THREADS) or default
    if asked is None or any(name in environment for name in _COUNTS):
        return None
    if asked == 'auto':
        count = max(1, round(free_cores()))
    elif asked.isdecimal() and int(asked) > 0:
        count = int(asked)
    else:
        raise ValueError(
            f"{THREADS}: found {asked!r}, expected 'auto' or a positive number"
        )
    environment['OMP_NUM_THREADS'] = str(count)
    return count


def _idle_seconds(cores: set[int]) -> float:
    """Sum the time that cores have been idle since the system started."""
    ticks = 0
    for line in Path('/proc/stat').read_text(encoding='ascii').splitlines():
        name, *values = line.split()
        if name[:3] == 'cpu' and name[3:].isdecimal() and int(name[3:]) in cores:
            ticks += int(values[3]) + int(values[4])  # idle, and waiting for a disk
    return ticks / os.sysconf('SC_CLK_TCK')


def free_cores(
    seconds: float = _WINDOW, sleep: Callable[[float], None] = time.sleep
) -> float:
    """Watch how many of the cores that this process may use are idle.

    Args:
        seconds: How long to watch.
        sleep: What to wait with.

    Returns:
        Cores; all of them where the system does not tell.
    """
    try:
        cores = os.sched_getaffinity(0)
    except AttributeError:  # not on every system
        return float(os.cpu_count() or 1)
    try:
        before, start = _idle_seconds(cores), time.perf_counter()
        sleep(seconds)
        idle = _idle_seconds(cores) - before
        return min(float(len(cores)), idle / (time.perf_counter() - start))
    except (OSError, ValueError, IndexError):
        return float(len(cores))
