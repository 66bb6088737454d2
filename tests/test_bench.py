# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The benchmark command on sizes that take no time."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchgeo_ekgnet import bench
from torchgeo_ekgnet.layers import expert_conv3d

CPU = torch.device('cpu')
SMALL = ('--model', 'ekgnet_tiny', '--patches', '5', '--repeats', '1')


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the new processes in which the memory of the arms is measured."""
    monkeypatch.setattr(
        bench, 'peaks_apart', lambda setting, size, passes, arms: dict.fromkeys(arms, 1)
    )


@pytest.fixture
def floor(memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the measurements of the machine's floor and of memory."""
    monkeypatch.setattr(
        bench, 'machine_floor', lambda *args: {'flops': 1e11, 'bytes': 1e10}
    )
    monkeypatch.setattr(bench, 'peak_memory', lambda *args: 1 << 20)


def run(*args: str) -> dict[str, Any]:
    """Run the command at the small size."""
    return bench.run(bench.build_parser().parse_args([*SMALL, *args]))


def test_all_sections(
    memory: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'out' / 'bench.json'
    bench.main(
        [
            *('--sections', 'layers', 'models', 'table'),
            *('--model', 'ekgnet_tiny', '--patches', '5', '--bands', '16'),
            *('--batch', '2', '--repeats', '1', '--output', str(output)),
            *('--table-models', 'ekgnet_tiny', '--table-bands', '16'),
        ]
    )
    results = json.loads(output.read_text())
    assert results['floor']['flops'] > 0 and results['machine']['torch']
    assert len(results['layers']) == 12
    assert {row['pass'] for row in results['models']} == {'training', 'inference'}
    for row in results['models']:
        arms = {'ours', 'paper', 'static'}
        if row['pass'] == 'training':
            arms.add('checkpointed')
        assert set(row['seconds']) == set(row['peak bytes']) == arms
        assert row['paper / ours'] > 0 and row['patches per second'] > 0
    assert results['table'][0]['multiply-adds'] > 0
    text = capsys.readouterr().out
    assert 'GFLOP/s' in text and '| ekgnet_tiny' in text


def test_profile(
    floor: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'bench.json'
    bench.main(
        [
            *('--sections', 'profile', '--model', 'ekgnet_tiny', '--patches', '5'),
            *('--bands', '16', '--batch', '2', '--repeats', '2'),
            *('--output', str(output)),
        ]
    )
    profile = json.loads(output.read_text())['profile']
    rows = {row['kind']: row for row in profile['rows']}
    # The rows account for the whole time, and only for it.
    assert sum(row['share'] for row in rows.values()) == pytest.approx(1)
    assert sum(row['seconds'] for row in rows.values()) == pytest.approx(
        profile['seconds']
    )
    assert rows['batch normalization']['seconds'] > 0
    # Arithmetic belongs to convolutions and matrix products, and none is lost: what a
    # strategy pads or unrolls comes on top of what the network needs.
    counted = {kind for kind, row in rows.items() if row['executed flops']}
    assert counted == {'convolutions', 'matrix products'}
    assert sum(row['executed flops'] for row in rows.values()) == pytest.approx(
        profile['executed flops']
    )
    assert profile['executed flops'] > profile['useful flops']
    text = capsys.readouterr().out
    assert '| convolutions' in text and 'GFLOP are executed' in text


@pytest.mark.parametrize('precision', ['32', 'bf16'])
def test_precision(
    floor: None, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    seen: set[tuple[bool, torch.dtype]] = set()

    def layer(*args: Any, **kwargs: Any) -> Tensor:
        out = expert_conv3d(*args, **kwargs)
        seen.add((torch.is_autocast_enabled('cpu'), out.dtype))
        return out

    monkeypatch.setattr('torchgeo_ekgnet.bench.expert_conv3d', layer)
    results = run(
        *('--sections', 'layers', '--bands', '16', '--batch', '2'),
        *('--precision', precision),
    )
    low = precision == 'bf16'
    assert seen == {(low, torch.bfloat16 if low else torch.float32)}
    # Values of two bytes need half the bandwidth of values of four.
    positions = 2 * (32 + 32) * 8 * 3 * 3
    row = results['layers'][0]
    moved = row['share of bandwidth'] * 1e10 * row['seconds']['ours']['median']
    assert moved == pytest.approx(positions * (2 if low else 4))
    assert row['share of floor'] == pytest.approx(
        max(row['share of peak'], row['share of bandwidth'])
    )


def test_models_train_in_the_asked_precision(
    floor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    cross_entropy = F.cross_entropy

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.add(logits.dtype)
        return cross_entropy(logits, labels)

    monkeypatch.setattr(F, 'cross_entropy', loss)
    # Stands for the compiler, which would take minutes.
    monkeypatch.setattr(torch, 'compile', lambda model, mode: model)
    rows = run(
        *('--sections', 'models', '--bands', '16', '--batch', '2'),
        *('--precision', 'bf16', '--compile', 'default', 'reduce-overhead'),
    )['models']
    assert seen == {torch.bfloat16}
    assert all({'compiled', 'captured'} < set(row['seconds']) for row in rows)


def test_precision_32_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'a card')
    try:
        for backend in backends:
            backend.allow_tf32 = True
        bench._forbid_tf32()
        facts = bench.machine_description(torch.device('cuda'))
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
    assert facts['TF32 of matrix products'] is facts['TF32 of convolutions'] is False


def _by_modules(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a network that consists of modules alone."""
    total = 0

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal total
        channels = output.shape[-1 if isinstance(module, nn.Linear) else 1]
        total += module.weight.numel() * output.numel() // channels

    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(x)
    return total


@pytest.mark.parametrize(
    ('name', 'patch'), [('cnn3d', 11), ('se_densenet3d', 7), ('ssrn', 7)]
)
def test_work_of_networks_of_modules(name: str, patch: int) -> None:
    model = bench.create_model(name, patch, 20)
    expected = _by_modules(model, torch.randn(1, 20, patch, patch))
    assert bench.count_work(name, patch, 20, 1).multiply_adds == expected


def _ekgnet(cin: int, width: int) -> int:
    # Two blocks and the projection of the mapping, and 4 kernels with their biases.
    return 2 * cin**2 + 4 * cin + 4 * (cin + 1) * width


def _dacnet(cin: int, width: int) -> int:
    hidden = cin // 4 + 1
    return cin * hidden + 4 * hidden + 4 * (cin + 1) * width


def _dgcnet(cin: int, width: int) -> int:
    hidden = max(cin // (8 if cin < 80 else 16), 1)
    return 2 * cin * 4 * hidden


def _lgcnet(cin: int, width: int) -> int:
    return cin * 4 * width


@pytest.mark.parametrize(
    ('name', 'besides'),
    [
        ('ekgnet_base', _ekgnet),
        ('dacnet', _dacnet),
        ('dgcnet', _dgcnet),
        ('lgcnet', _lgcnet),
    ],
)
def test_work_of_dense_networks(name: str, besides: Callable[[int, int], int]) -> None:
    # 103 bands and 11 by 11 pixels, halved by the stem and between the blocks.
    expected = 16 * 27 * (52 * 6 * 6) + 400 * 9
    cin = 16
    for layers, growth, positions in (
        (4, 8, 52 * 6 * 6),
        (6, 16, 26 * 3 * 3),
        (8, 32, 13 * 1 * 1),
    ):
        width = 4 * growth
        for _ in range(layers):
            expected += (cin * width + width // 4 * growth * 27) * positions
            expected += besides(cin, width)
            cin += growth
    assert bench.count_work(name, 11, 103, 1).multiply_adds == expected


def test_work_of_a_transformer() -> None:
    tokens, width, hidden = 104, 64, 8
    layer = tokens * width * (4 * width + 2 * hidden)  # projections and perceptron
    layer += 2 * tokens**2 * width  # attention
    fusion = 2 * tokens**2 * width  # of two states, from the third layer on
    expected = 103 * width * 3 * 7 * 7 + 5 * layer + 3 * fusion + width * 9
    assert bench.count_work('spectralformer', 7, 103, 1).multiply_adds == expected


def test_work_of_a_batch() -> None:
    one, four = (bench.count_work('cnn3d', 11, 20, batch) for batch in (1, 4))
    assert four.multiply_adds == 4 * one.multiply_adds
    # Activations grow with the batch, kernels do not.
    weights = (4 * one.values - four.values) / 3
    model = bench.create_model('cnn3d', 11, 20)
    expected = sum(
        parameter.numel()
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv3d))
        for parameter in module.parameters()
    )
    assert weights == expected


def test_growth(floor: None) -> None:
    rows = run('--sections', 'growth', '--bands', '3', '--batch', '2')['growth']
    sizes = [(row['patch'], row['bands'], row['batch']) for row in rows]
    # Each size once in training and once in inference, none below one band.
    assert sizes[::2] == sizes[1::2]
    assert sizes[::2] == [(5, 1, 2), (5, 3, 2), (7, 3, 2), (11, 3, 2), (15, 3, 2)]
    assert {row['pass'] for row in rows} == {'training', 'inference'}
    assert all(set(row['seconds']) == {'ours'} for row in rows)


def test_growth_keeps_batches_trainable() -> None:
    options = argparse.Namespace(patches=[15], bands=[200], batch=80)
    assert bench._growth_sizes(options) == [
        *((15, 50, 80), (15, 100, 80), (15, 200, 80)),
        *((7, 200, 80), (11, 200, 80), (15, 200, 10), (15, 200, 40)),
    ]
    options.batch = 6
    assert bench._growth_sizes(options)[-2:] == [(15, 200, 2), (15, 200, 3)]


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
    assert bench.measure(arms, 2, CPU, 'cpu')['a']['median'] == 2.0
    # Every arm is warmed up, then they take turns.
    assert ''.join(calls) == 'aaabbb' + 'abab'
    assert bench.measure(arms, 2, CPU)['b']['median'] == 3.0


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
    options = bench.build_parser().parse_args([*SMALL, *args])
    networks = bench._networks(bench.Setting(options, CPU, {}), 5, 16, False)
    assert list(networks) == ['ours', 'paper', 'static', 'checkpointed', *arms]
    ours, paper = networks['ours'], networks['paper']
    assert ours[0] is paper[0] and (ours[1], paper[1]) == (None, 'grouped')
    assert compiled == [(ours[0], mode) for mode in arms.values()]
    assert [
        name
        for name, (network, _) in networks.items()
        if getattr(network, 'grad_checkpointing', False)
    ] == ['checkpointed']


def test_training_step_is_whole() -> None:
    options = bench.build_parser().parse_args(SMALL)
    setting = bench.Setting(options, CPU, {})
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 9))
    before = [parameter.clone() for parameter in network.parameters()]
    step = bench._training_step(setting, network, bench._random_batch(setting, 2, 1, 3))
    step()
    for old, parameter in zip(before, network.parameters(), strict=True):
        assert not torch.equal(old, parameter)


def test_data(floor: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run('--sections', 'data', '--bands', '16', '--batch', '4')['data']
    assert len(rows) == 1 and rows[0]['batch'] == 4
    seconds = {arm: times['median'] for arm, times in rows[0]['seconds'].items()}
    assert rows[0]['data / training'] == seconds['data'] / seconds['training'] > 0
    assert 'data / training' in capsys.readouterr().out


def test_peaks_of_new_processes() -> None:
    options = bench.build_parser().parse_args([*SMALL, '--threads', '1'])
    setting = bench.Setting(options, CPU, {})

    def here() -> None:
        raise AssertionError('called in this process')

    # Patches of 9 pixels and 40 bands: 12,960 bytes a patch for the image alone.
    found = [
        bench.peaks_apart(setting, (9, 40, batch), 'inference', {'ours': here})['ours']
        for batch in (2, 402)
    ]
    if found[0] is None:  # the system does not tell
        assert found == [None, None]
    else:
        assert found[1] is not None and found[1] - found[0] > 400 * 12_960


def test_peak_alone_measures_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    options = bench.build_parser().parse_args(['--repeats', '3'])
    called: list[tuple[int, ...]] = []

    def calls(setting: bench.Setting, *size: int) -> dict[str, Any]:
        arms = {'ours': called.clear, 'paper': lambda: called.append(size)}
        return {'training': arms}

    def peak(call: Callable[[], Any], device: torch.device) -> int:
        call()
        return len(called)

    monkeypatch.setattr(bench, '_model_calls', calls)
    monkeypatch.setattr(bench, 'peak_memory', peak)
    # The median of what three calls after the warm-up give: 4, 5 and 6.
    assert bench._WARM_UPS == 3
    assert bench.peak_alone(options, (5, 16, 2), 'training', 'paper') == 5
    assert called == 6 * [(5, 16, 2)]
    monkeypatch.setattr(bench, 'peak_memory', lambda *args: None)
    assert bench.peak_alone(options, (5, 16, 2), 'training', 'paper') is None


def test_peaks_on_cuda_are_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    options = bench.build_parser().parse_args([])
    setting = bench.Setting(options, torch.device('cuda'), {})
    monkeypatch.setattr(bench, 'peak_memory', lambda call, device: call())
    arms: dict[str, Callable[[], Any]] = {'ours': lambda: 5, 'paper': lambda: 7}
    found = bench.peaks_apart(setting, (5, 16, 2), 'training', arms)
    assert found == {'ours': 5, 'paper': 7}


def test_memory_of_the_table_is_a_slope(
    floor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = bench._TABLE_BATCHES
    # The first step makes the optimizer's state, which is not counted.
    least = [10 * small + 7, 10 * large + 7]
    peaks = iter([peak + more for peak in least for more in (50, 1, 0)])
    monkeypatch.setattr(bench, 'peak_memory', lambda *args: next(peaks))
    row = run(
        *('--sections', 'table', '--table-models', 'ekgnet_tiny'),
        *('--table-bands', '16'),
    )['table'][0]
    assert row['training bytes per patch'] == 10
    assert row['training bytes besides'] == 7


def test_sections_before_an_error_are_kept(
    floor: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def late(setting: bench.Setting) -> None:
        raise RuntimeError('late')

    monkeypatch.setitem(bench._SECTIONS, 'models', (late, str))
    output = tmp_path / 'bench.json'
    with pytest.raises(RuntimeError, match='late'):
        run(
            *('--sections', 'models', 'layers', '--bands', '16', '--batch', '2'),
            *('--output', str(output)),
        )
    assert len(json.loads(output.read_text())['layers']) == 12
    assert '| block 3' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--threads', '-1'], '--threads must be at least 1, found -1'),
        (['--threads', '0'], '--threads must be at least 1, found 0'),
        (['--patches', '5', '0'], '--patches must be at least 1, found 0'),
        (['--bands', '0'], '--bands must be at least 1, found 0'),
        (['--table-bands', '-3'], '--table-bands must be at least 1, found -3'),
        (['--repeats', '0'], '--repeats must be at least 1, found 0'),
        (['--model', 'nope'], "--model: no model 'nope' in this package, expected one"),
        (['--table-models', 'nope'], "--table-models: no model 'nope'"),
        (['--device', 'meta'], "--device must be 'cpu' or 'cuda', found 'meta'"),
        (['--device', 'nope'], "--device must be 'cpu' or 'cuda', found 'nope'"),
        (['--device', 'cuda:99'], '--device cuda:99: no such CUDA device'),
        (['--device', 'cuda', '--clock', 'cpu'], '--clock cpu measures --device cpu'),
        (
            ['--sections', 'models', '--batch', '1', '--bands', '4'],
            'model ekgnet_tiny cannot train on a batch of 1 with patches of 5 pixels',
        ),
        (
            ['--sections', 'data', '--patches', '6'],
            r'--patches must be odd for the section data, found \[6\]',
        ),
        (['--output', '.'], '--output: cannot write this file: .*directory'),
    ],
)
def test_options_are_checked_before_measuring(
    monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    def measure(*args: Any) -> None:
        raise AssertionError('measured')

    monkeypatch.setattr(bench, 'machine_floor', measure)
    sections = [] if '--sections' in args else ['--sections', 'layers']
    with pytest.raises(ValueError, match=message):
        run(*sections, *args)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match='--batch must be at least 1'):
        bench.main(['--batch', '0'])
    with pytest.raises(SystemExit):
        bench.main(['--sections', 'nothing'])
