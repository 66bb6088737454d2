# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The sections on sizes that take no time."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchgeo_ekgnet.bench import arms, layers, main, measure, sections
from torchgeo_ekgnet.layers import direct, expert_conv3d

from .conftest import run


def test_all_sections(
    memory: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = measure.measure

    def once(arms: Any, repeats: int, *others: Any) -> Any:
        return whole(arms, 1, *others)

    monkeypatch.setattr(measure, 'measure', once)  # of the machine's floor
    output = tmp_path / 'out' / 'bench.json'
    main(
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
        arms.add('checkpointed' if row['pass'] == 'training' else 'unfolded')
        assert set(row['seconds']) == set(row['peak bytes']) == arms
        assert row['paper / ours'] > 0 and row['patches per second'] > 0
    assert results['table'][0]['multiply-adds'] > 0
    text = capsys.readouterr().out
    assert 'GFLOP/s' in text and '| ekgnet_tiny' in text


def test_some_arms(floor: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def peaks(*args: Any) -> dict[str, int]:
        raise AssertionError('the memory was measured')

    monkeypatch.setattr(sections, 'peaks_apart', peaks)
    (row,) = run(
        *('--sections', 'models', '--bands', '16', '--batch', '2', '--no-memory'),
        *('--passes', 'inference', '--arms', 'paper'),
    )['models']
    assert row['pass'] == 'inference' and set(row['seconds']) == {'ours', 'paper'}
    assert row['ours / static'] is None and row['peak bytes']['ours'] is None


def test_profile(
    floor: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(direct, 'kernels', lambda: None)  # they multiply less
    output = tmp_path / 'bench.json'
    main(
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
    # Arithmetic belongs to convolutions and products, and none is lost: what a
    # strategy pads or unrolls comes on top of what the network needs.
    counted = {kind for kind, row in rows.items() if row['executed flops']}
    assert counted == {'convolutions and products'}
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

    monkeypatch.setattr(layers, 'expert_conv3d', layer)
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
    assert sections.growth_sizes(options) == [
        *((15, 50, 80), (15, 100, 80), (15, 200, 80)),
        *((7, 200, 80), (11, 200, 80), (15, 200, 10), (15, 200, 40)),
    ]
    options.batch = 6
    assert sections.growth_sizes(options)[-2:] == [(15, 200, 2), (15, 200, 3)]


def test_data(floor: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run('--sections', 'data', '--bands', '16', '--batch', '4')['data']
    assert len(rows) == 1 and rows[0]['batch'] == 4
    seconds = {arm: times['median'] for arm, times in rows[0]['seconds'].items()}
    assert rows[0]['data / training'] == seconds['data'] / seconds['training'] > 0
    assert 'data / training' in capsys.readouterr().out


def test_memory_of_the_table_is_a_slope(
    floor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = sections.TABLE_BATCHES
    # The first step makes the optimizer's state, which is not counted.
    least = [10 * small + 7, 10 * large + 7]
    peaks = iter([peak + more for peak in least for more in (50, 1, 0)])
    monkeypatch.setattr(arms, 'peak_memory', lambda *args: next(peaks))
    row = run(
        *('--sections', 'table', '--table-models', 'ekgnet_tiny'),
        *('--table-bands', '16'),
    )['table'][0]
    assert row['training bytes per patch'] == 10
    assert row['training bytes besides'] == 7
