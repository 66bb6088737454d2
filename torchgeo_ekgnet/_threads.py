# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How a command shares the cores with other processes; set before torch is loaded.

Threads that wait for each other at the end of every operation burn their cores while
they do. Beside another busy process that makes both slow: the last thread waits for a
core that the first one heats. Threads that sleep at once lose as much to waking up, up to
half of the time where operations are small. The commands let their threads wait for a
moment and sleep then, unless the environment says how to wait. Importing the package
sets nothing.
"""

import os
import sys
import time
from pathlib import Path

THREADS = 'TORCHGEO_EKGNET_THREADS'
"""Variable with the number of threads, or ``auto`` for what suits a busy machine."""

_WAITING = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'KMP_LIBRARY')
_SPINS = 2000
"""Turns of libgomp's loop before a thread sleeps, some tens of microseconds."""

_COUNTS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')

_WINDOW = 0.2
"""Seconds over which other processes are counted."""

_LOOKS = 20
"""How often they are counted in that time."""


def wait_briefly() -> bool:
    """Let idle threads of OpenMP sleep soon, unless the user has chosen how they wait.

    Returns:
        Whether the variables were set; not where torch, which reads them, is loaded.
    """
    if 'torch' in sys.modules or any(name in os.environ for name in _WAITING):
        return False
    os.environ['GOMP_SPINCOUNT'] = str(_SPINS)
    os.environ['KMP_BLOCKTIME'] = '0'  # Intel's and LLVM's library count milliseconds
    return True


def choose_threads(default: str | None = None) -> int | None:
    """Set the number of threads that the environment or the command asks for.

    The number decides in which order sums are taken, so results that must agree to the
    bit need the same one. That is why ``auto`` is the default of no training command.

    Args:
        default: What to do where the user has said nothing; None leaves it to torch.

    Returns:
        The number, None where it is left to torch.

    Raises:
        ValueError: If the variable is neither ``auto`` nor a positive number.
    """
    asked = os.environ.get(THREADS) or default
    if asked is None or any(name in os.environ for name in _COUNTS):
        return None
    if asked == 'auto':
        count = fitting_threads(_cores(), running_processes())
    elif asked.isdecimal() and int(asked) > 0:
        count = int(asked)
    else:
        raise ValueError(
            f"{THREADS}: found {asked!r}, expected 'auto' or a positive number"
        )
    os.environ['OMP_NUM_THREADS'] = str(count)
    return count


def _cores() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def fitting_threads(cores: int, others: float) -> int:
    """Say how many threads suit a machine on which other processes run.

    Beside one busy process a core, threads that sleep where they wait still gain: they
    get half of every core. Beside more of them they wait for each other's turn.

    Args:
        cores: Cores of the machine.
        others: Other processes that run at the same time.
    """
    if others <= cores:
        return cores
    return max(1, round(cores * cores / others))


def running_processes() -> float:
    """Count the other processes and threads that run or wait for a core, on average.

    Returns:
        Their number; 0 where the system does not tell.
    """
    total = 0
    try:
        for _ in range(_LOOKS):
            time.sleep(_WINDOW / _LOOKS)
            load = Path('/proc/loadavg').read_text(encoding='ascii')
            total += int(load.split()[3].partition('/')[0]) - 1  # this process runs too
    except (OSError, ValueError, IndexError):
        return 0.0
    return total / _LOOKS
