# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Options of the command, and results before an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from torchgeo_ekgnet.bench import cli, main
from torchgeo_ekgnet.bench.arms import Setting
from torchgeo_ekgnet.bench.sections import SECTIONS

from .conftest import run


def test_sections_before_an_error_are_kept(
    floor: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def late(setting: Setting) -> None:
        raise RuntimeError('late')

    monkeypatch.setitem(SECTIONS, 'models', (late, str))
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
    ],
)
def test_options_are_checked_before_measuring(
    monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    def measure(*args: Any) -> None:
        raise AssertionError('measured')

    monkeypatch.setattr(cli, 'machine_floor', measure)
    sections = [] if '--sections' in args else ['--sections', 'layers']
    with pytest.raises(ValueError, match=message):
        run(*sections, *args)


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--batch must be at least 1'):
        main(['--batch', '0'])
    with pytest.raises(IsADirectoryError, match='expected the name of a file'):
        main(['--output', str(tmp_path)])
    with pytest.raises(SystemExit):
        main(['--sections', 'nothing'])
