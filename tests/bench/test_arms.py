# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What is compared, and its memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnProcess
from typing import Any

import pytest
import torch
from torch import nn

from torchgeo_ekgnet.bench import arms as bench_arms
from torchgeo_ekgnet.bench import build_parser
from torchgeo_ekgnet.bench.count import create_model
from torchgeo_ekgnet.bench.measure import WARM_UPS

from .conftest import SMALL

CPU = torch.device('cpu')


@pytest.mark.parametrize(
    ('args', 'arms'),
    [
        ([], {}),
        (['--compile'], {'compiled': 'default'}),
        (
            ['--compile', 'default', 'reduce-overhead'],
            {'compiled': 'default', 'captured': 'reduce-overhead'},
        ),
    ],
)
def test_arms(
    monkeypatch: pytest.MonkeyPatch, args: list[str], arms: dict[str, str]
) -> None:
    compiled: list[tuple[nn.Module, str]] = []

    def compile_model(model: nn.Module, mode: str) -> nn.Module:
        compiled.append((model, mode))
        return model

    monkeypatch.setattr(torch, 'compile', compile_model)
    options = build_parser().parse_args([*SMALL, *args])
    networks = bench_arms.arms_of(bench_arms.Setting(options, CPU, {}), 5, 16, False)
    # The released program cannot pool so small a patch.
    names = ['ours', 'unfolded', 'paper', 'static', 'checkpointed']
    assert list(networks) == [*names, *arms]
    ours, paper = networks['ours'], networks['paper']
    assert ours.network is paper.network is networks['unfolded'].network
    assert (ours.strategy, paper.strategy) == (None, 'grouped')
    assert ours.folded and not networks['unfolded'].folded
    assert compiled == [(ours.network, mode) for mode in arms.values()]
    assert [
        name
        for name, arm in networks.items()
        if getattr(arm.network, 'grad_checkpointing', False)
    ] == ['checkpointed']


def test_the_released_program_has_an_arm_where_it_runs() -> None:
    options = build_parser().parse_args([*SMALL, '--model', 'ekgnet_base'])
    calls = bench_arms.model_calls(bench_arms.Setting(options, CPU, {}), 7, 16, 2)
    assert set(calls['training']) == {
        *('ours', 'paper', 'released', 'static', 'checkpointed')
    }
    assert set(calls['inference']) == {
        *('ours', 'unfolded', 'paper', 'released', 'static')
    }
    calls['training']['released']()
    calls['inference']['unfolded']()


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('ekgnet_base', True), ('ekgnet_spectral', False), ('ekgnet_spatial', False)],
)
def test_the_released_program_is_one_network(name: str, expected: bool) -> None:
    network = create_model(name, 7, 16)
    assert (bench_arms._released(network, 7, 16) is not None) == expected


def test_training_step_is_whole() -> None:
    options = build_parser().parse_args(SMALL)
    setting = bench_arms.Setting(options, CPU, {})
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 9))
    before = [parameter.clone() for parameter in network.parameters()]
    step = bench_arms.training_step(
        setting, bench_arms.Arm(network), bench_arms.random_batch(setting, 2, 1, 3)
    )
    step()
    for old, parameter in zip(before, network.parameters(), strict=True):
        assert not torch.equal(old, parameter)


def test_peaks_of_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    options = build_parser().parse_args([*SMALL, '--threads', '1'])
    setting = bench_arms.Setting(options, CPU, {})

    def here() -> None:
        raise AssertionError('called in this process')

    started: list[SpawnProcess] = []
    start = SpawnProcess.start

    def noted(process: SpawnProcess) -> None:
        started.append(process)
        start(process)

    monkeypatch.setattr(SpawnProcess, 'start', noted)
    # Patches of 9 pixels and 40 bands: 12,960 bytes a patch for the image alone, and
    # less than that of a process for all maps together.
    size = (9, 40, 402)
    found = bench_arms.peaks_apart(setting, size, 'inference', {'ours': here})['ours']
    # None: the system does not tell.
    assert found is None or 402 * 12_960 < found < 40 * 402 * 12_960
    assert len(started) == 1  # each imports torch, which takes seconds


def test_peak_alone_measures_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    options = build_parser().parse_args(['--repeats', '3'])
    called: list[tuple[int, ...]] = []

    def calls(setting: bench_arms.Setting, *size: int) -> dict[str, Any]:
        arms = {'ours': called.clear, 'paper': lambda: called.append(size)}
        return {'training': arms}

    def peak(call: Callable[[], Any], device: torch.device) -> int:
        call()
        return len(called)

    monkeypatch.setattr(bench_arms, 'model_calls', calls)
    monkeypatch.setattr(bench_arms, 'peak_memory', peak)
    # The median of what three calls after the warm-up give: 4, 5 and 6.
    assert WARM_UPS == 3
    assert bench_arms.peak_alone(options, (5, 16, 2), 'training', 'paper') == 5
    assert called == 6 * [(5, 16, 2)]
    monkeypatch.setattr(bench_arms, 'peak_memory', lambda *args: None)
    assert bench_arms.peak_alone(options, (5, 16, 2), 'training', 'paper') is None


def test_a_process_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = bench_arms.Setting(build_parser().parse_args([]), torch.device('cpu'), {})

    def killed(*args: Any) -> None:
        raise BrokenProcessPool

    pool = ThreadPoolExecutor(1)
    monkeypatch.setattr(bench_arms, 'ProcessPoolExecutor', lambda *args: pool)
    monkeypatch.setattr(bench_arms, 'peak_alone', killed)
    with pytest.raises(RuntimeError, match=r'ours in training: .* --no-memory leaves'):
        bench_arms.peaks_apart(setting, (5, 16, 2), 'training', {'ours': lambda: None})


def test_peaks_on_cuda_are_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    options = build_parser().parse_args([])
    setting = bench_arms.Setting(options, torch.device('cuda'), {})
    monkeypatch.setattr(bench_arms, 'peak_memory', lambda call, device: call())
    arms: dict[str, Callable[[], Any]] = {'ours': lambda: 5, 'paper': lambda: 7}
    found = bench_arms.peaks_apart(setting, (5, 16, 2), 'training', arms)
    assert found == {'ours': 5, 'paper': 7}
