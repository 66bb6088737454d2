# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A benchmark command that takes no time."""

from typing import Any

import pytest

from torchgeo_ekgnet.bench import arms, build_parser, cli, measure, sections
from torchgeo_ekgnet.bench import run as run_bench

SMALL = ('--model', 'ekgnet_tiny', '--patches', '5', '--repeats', '1')


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare calls that only warm up, and the processes that measure memory."""
    monkeypatch.setattr(measure, 'WARM_UPS', 1)
    monkeypatch.setattr(
        sections,
        'peaks_apart',
        lambda setting, size, passes, arms: dict.fromkeys(arms, 1),
    )


@pytest.fixture
def floor(memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the measurements of the machine's floor and of memory."""
    monkeypatch.setattr(
        cli, 'machine_floor', lambda *args: {'flops': 1e11, 'bytes': 1e10}
    )
    monkeypatch.setattr(arms, 'peak_memory', lambda *args: 1 << 20)


def run(*args: str) -> dict[str, Any]:
    """Run the command at the small size."""
    return run_bench(build_parser().parse_args([*SMALL, *args]))
