# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The script for a GPU, as far as a CPU goes; captured arms where there is a card."""

import importlib.util
import json
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchgeo_ekgnet.bench import build_parser
from torchgeo_ekgnet.bench.arms import Setting, arms_of, random_batch, training_step
from torchgeo_ekgnet.bench.exact import compare
from torchgeo_ekgnet.bench.graphs import graphed_inference, graphed_training, kernels_of
from torchgeo_ekgnet.datasets import open_scene

from .conftest import SMALL

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'gpu.py'


@pytest.fixture(scope='module')
def gpu() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location('gpu', SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('part', ['correct', 'steps', 'inference'])
def test_parts_say_rows(
    gpu: ModuleType,
    part: str,
    memory: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, 'TOGETHER', 1)  # steps of a measurement
    gpu.main(['--device', 'cpu', '--small', '--part', part])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if part == 'correct':
        assert all(row['outputs'] < 1e-4 and row['gradients'] < 1e-4 for row in rows)
    elif part == 'steps':
        assert {row['precision'] for row in rows} == {'32', 'tf32', 'bf16'}
        assert {'ours', 'paper', 'static'} <= {row['arm'] for row in rows}
        assert all(row['ms'] > 0 for row in rows if 'ms' in row)
        # What the targets are about is known first.
        arms = [row['arm'] for row in rows if 'ms' in row]
        assert arms[:3] == ['ours'] * 3 and 'ours' not in arms[3:]
    else:
        assert all(row['patches/s'] > 0 for row in rows)
    assert gpu.table(rows).count('\n') >= 3


SPEAKER = """
import json, subprocess, sys, time
print(json.dumps({'what': 'first', 'seconds': 1.5}), flush=True)
print('a library writes here')
print(json.dumps({'what': 'second', 'outputs': float('nan')}), flush=True)
print(json.dumps({'chosen': 'convolution: dense'}), flush=True)
print('experts: triton is not usable here (RuntimeError: no compiler)', file=sys.stderr)
if 'hang' in sys.argv:
    hold = 'import fcntl, time; file = open("held", "w")'
    hold += '; fcntl.flock(file, fcntl.LOCK_EX); time.sleep(60)'
    subprocess.run([sys.executable, '-S', '-c', hold])
if 'fail' in sys.argv:
    raise RuntimeError('out of luck')
"""


def is_free(path: Path) -> bool:
    """Tell whether no process holds the lock of a file; a short while where one does."""
    fcntl = pytest.importorskip('fcntl')
    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
            return False
    return True


@pytest.mark.parametrize(
    ('behaviour', 'state'),
    [
        ('', 'done'),
        ('hang', 'stopped after 2 s'),
        ('fail', 'failed: RuntimeError: out'),
    ],
)
def test_what_a_part_has_said_is_kept(
    gpu: ModuleType,
    behaviour: str,
    state: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = tmp_path / 'speaker.py'
    script.write_text(SPEAKER)
    monkeypatch.setattr(gpu, '__file__', str(script))
    monkeypatch.chdir(tmp_path)
    found = gpu.run_apart('steps', [behaviour], 2 if behaviour == 'hang' else 30)
    assert found['state'].startswith(state)
    assert found['rows'] == [
        {'what': 'first', 'seconds': 1.5},
        {'what': 'second', 'outputs': 'NaN'},  # which strict JSON holds as a text
    ]
    assert gpu.table(found['rows']).index('second') < gpu.table(found['rows']).index(
        'first'
    )
    assert found['chosen'] == ['convolution: dense']
    assert found['told'] == [
        'experts: triton is not usable here (RuntimeError: no compiler)'
    ]
    if behaviour == 'hang':  # the commands of a part end with it
        assert any(is_free(tmp_path / 'held') for _ in range(50))


def test_an_arm_that_fails_is_said(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = []
    assert not gpu.runs('released', lambda: 1 / 0, rows.append)
    assert rows == [
        {'arm': 'released', 'failed': 'ZeroDivisionError: division by zero'}
    ]
    assert gpu.runs('ours', lambda: None, rows.append) and len(rows) == 1


def test_a_network_that_fails_is_said_and_stands_first(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = gpu.compare
    rows: list[dict[str, Any]] = []

    def fail(network: nn.Module, *others: Any) -> Any:
        if type(network).__name__ == 'EKGNet':
            raise RuntimeError('an illegal memory access')
        return compare(network, *others)

    monkeypatch.setattr(gpu, 'compare', fail)
    options = gpu.build_parser().parse_args(['--device', 'cpu', '--small'])
    gpu.part_correct(options, rows.append)
    failed = [row for row in rows if 'failed' in row]
    assert [row['arm'] for row in failed] == ['ekgnet_tiny', 'ekgnet_tiny, training']
    assert len(rows) == 8 and 'illegal' in gpu.table(rows).splitlines()[2]


def test_gradients_that_are_no_numbers_are_the_worst() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight
            if x.dtype == torch.float32 and torch.is_grad_enabled():
                weight = weight * 1
                weight.register_hook(lambda grad: grad * math.nan)
            return F.linear(x, weight, self.bias)

    network = nn.Sequential(nn.Linear(2, 3), Broken(3, 2), nn.Linear(2, 2))
    found = compare(network, torch.randn(4, 2), torch.device('cpu'))
    assert found['outputs'] < 1e-5 and math.isnan(found['gradients'])


def test_a_scene_is_written(gpu: ModuleType, tmp_path: Path) -> None:
    gpu.write_scene(tmp_path, 40, 30, 6, 4)
    scene = open_scene(
        str(tmp_path / 'cube.npy'), labels=str(tmp_path / 'labels.npy'), axes='yxb'
    )
    assert scene.shape == (40, 30, 6) and len(scene.class_names) == 4


def test_results_are_written_after_every_part(
    gpu: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / 'gpu.json'
    known: list[list[str]] = []

    def run_apart(name: str, args: list[str], limit: float) -> dict[str, object]:
        written = json.loads(output.read_text())['parts'] if output.exists() else {}
        known.append(list(written))
        return {'state': 'done', 'seconds': 1.0, 'rows': [{'part': name}]}

    monkeypatch.setattr(gpu, 'run_apart', run_apart)
    parts = ['correct', 'map', 'protocol']
    gpu.main(['--device', 'cpu', '--small', '--output', str(output), '--parts', *parts])
    assert known == [[], parts[:1], parts[:2]]
    assert 'protocol: done, 1 s' in capsys.readouterr().out


def test_no_more_than_six_minutes(gpu: ModuleType) -> None:
    assert sum(gpu.LIMITS.values()) <= 360


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a card')
def test_no_card_is_said(gpu: ModuleType) -> None:
    with pytest.raises(SystemExit, match='found no CUDA device'):
        gpu.main([])


def test_no_kernels_on_a_cpu() -> None:
    found = kernels_of(lambda: torch.ones(3) + 1, torch.device('cpu'))
    assert found == {'kernels': 0, 'seconds': 0.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('precision', ['32', 'bf16'])
def test_captured_arms_compute_what_eager_does(precision: str) -> None:
    device = torch.device('cuda')
    options = build_parser().parse_args(
        [*SMALL, '--device', 'cuda', '--precision', precision]
    )
    setting = Setting(options, device, {})
    torch.manual_seed(0)
    x, labels = random_batch(setting, 9, 16, 4)
    ours = arms_of(setting, 9, 16, True)['ours']
    captured = graphed_training(setting, ours.network, x)
    for arm in (ours, captured):
        training_step(setting, arm, (x, labels))()
    assert captured.network.capture._graphs  # type: ignore[union-attr]
    pairs = zip(
        ours.network.state_dict().items(),
        captured.network.network.state_dict().items(),  # type: ignore[union-attr]
        strict=True,
    )
    tolerance = 1e-3 if precision == '32' else 2e-2
    for (name, one), (_, other) in pairs:
        if 'num_batches' not in name and 'running' not in name:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    ours.network.eval()
    with torch.no_grad(), ours.applied(setting):
        expected = ours.network(x)
    found = graphed_inference(setting, ours.network, x)()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert kernels_of(found.clone, device)['kernels'] > 0
