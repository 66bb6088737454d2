# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The benchmark command on sizes that take no time."""

import json
from pathlib import Path

import pytest

from torchgeo_ekgnet import bench


def test_all_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
        assert set(row['seconds']) == {'ours', 'paper', 'static'}
        assert row['paper / ours'] > 0 and row['patches per second'] > 0
    assert results['table'][0]['multiply-adds'] > 0
    text = capsys.readouterr().out
    assert 'GFLOP/s' in text and '| ekgnet_tiny' in text


def test_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_bad_options() -> None:
    with pytest.raises(ValueError, match='--batch must be at least 1'):
        bench.main(['--batch', '0'])
    with pytest.raises(SystemExit):
        bench.main(['--sections', 'nothing'])
