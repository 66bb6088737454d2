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


def test_bad_options() -> None:
    with pytest.raises(ValueError, match='--batch must be at least 1'):
        bench.main(['--batch', '0'])
    with pytest.raises(SystemExit):
        bench.main(['--sections', 'nothing'])
