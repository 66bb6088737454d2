# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Clocks, turns and precision of the measurements."""

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchgeo_ekgnet.bench import measure

CPU = torch.device('cpu')


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = {'process_time': 0.0, 'perf_counter': 0.0}

    def clock(name: str, step: float) -> Callable[[], float]:
        def now() -> float:
            ticks[name] += step
            return ticks[name]

        return now

    monkeypatch.setattr(time, 'process_time', clock('process_time', 2.0))
    monkeypatch.setattr(time, 'perf_counter', clock('perf_counter', 3.0))
    calls = []
    arms = {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}
    assert measure.measure(arms, 2, CPU, 'cpu')['a']['median'] == 2.0
    # Every arm is warmed up, then they take turns.
    assert ''.join(calls) == 'aaabbb' + 'abab'
    assert measure.measure(arms, 2, CPU)['b']['median'] == 3.0


def test_precision_32_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'a card')
    try:
        for backend in backends:
            backend.allow_tf32 = True
        measure.forbid_tf32()
        facts = measure.machine_description(torch.device('cuda'))
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
    assert facts['TF32 of matrix products'] is facts['TF32 of convolutions'] is False


def test_peak_of_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: None) -> None:
        raise TypeError(f'{type(name)} is not iterable')  # as Windows has it

    monkeypatch.setattr(ctypes, 'CDLL', none)
    monkeypatch.setattr(sys, 'platform', 'win32')
    assert measure.peak_memory(list, CPU) is None
