# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Fixtures shared by the whole suite."""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# One thread a process, also in the processes that tests start: pytest-xdist keeps the
# cores busy, and two threads of one process would wait for each other.
os.environ['OMP_NUM_THREADS'] = '1'
# The compiler would start processes of its own, each of which imports torch.
os.environ['TORCHINDUCTOR_COMPILE_THREADS'] = '1'

import matplotlib
import pytest
import torch

from .processes import open_files_are_kept

# Kernels for a GPU run in Triton's interpreter where there is none. It reads this when
# it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

# What is imported is half a million objects, which collections of garbage look through.
gc.set_threshold(7_000)

matplotlib.use('agg')
torch.set_num_threads(1)
# The first backward pass settles which devices have threads of their own. After a trace
# by the compiler PyTorch believes in a GPU, and processes forked later cannot train.
torch.zeros((), requires_grad=True).backward()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the long form of the campaigns in tests/robustness."""
    parser.addoption(
        '--robustness',
        choices=('short', 'long'),
        default='short',
        help='campaigns of damaged files, configurations and kills (default: short)',
    )


@pytest.fixture(scope='session')
def real_data_dir() -> Path:
    """Folder of real scenes: ``TORCHGEO_EKGNET_DATA``, or ``../shared/data``."""
    default = Path(__file__).parents[2] / 'shared' / 'data'
    root = Path(os.environ.get('TORCHGEO_EKGNET_DATA', default))
    if not root.is_dir():
        pytest.skip(f'no real scenes at {root} (set TORCHGEO_EKGNET_DATA)')
    return root


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close the figures that a test leaves open."""
    yield
    from matplotlib import pyplot

    pyplot.close('all')


@pytest.fixture(autouse=True)
def lightning_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let caplog hear Lightning, which keeps to itself if no handler was there first."""
    monkeypatch.setattr(logging.getLogger('lightning.pytorch'), 'propagate', True)


@pytest.fixture(autouse=True)
def no_process_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide pytest's arguments, which Lightning would compare with ours."""
    monkeypatch.setattr(sys, 'argv', ['torchgeo'])


@pytest.fixture
def windows_files() -> Iterator[None]:
    """Files that this process has open can neither be deleted nor replaced."""
    with open_files_are_kept():
        yield
