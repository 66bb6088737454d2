# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The demo beside busy processes, without the demo."""

import subprocess
from typing import Any

import pytest

from torchgeo_ekgnet.bench import busy

from .conftest import run


def test_demo_runs_beside_as_many_processes_as_the_row_says(
    floor: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alive: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        alive.append(start(*args, **kwargs))
        return alive[-1]

    def demo(epochs: int | None) -> tuple[float, int]:
        running = sum(process.poll() is None for process in alive)
        assert epochs == 3
        return 2.0 + running, 1

    monkeypatch.setattr(subprocess, 'Popen', popen)
    monkeypatch.setattr(busy, '_run_demo', demo)
    rows = run('--sections', 'busy', '--epochs', '3')['busy']
    assert [row['busy processes'] for row in rows] == [0, 1, 2]
    assert [row['times quiet'] for row in rows] == [1.0, 1.5, 2.0]
    assert all(process.poll() is not None for process in alive)
    assert '| 2              | 1       | 4.0     | 2.00' in capsys.readouterr().out


def test_busy_processes_end_with_this_one() -> None:
    with busy._competitors(1) as (process,):
        assert process.stdin is not None
        # As the system does when this process is killed.
        process.stdin.close()
        assert process.wait(60) == 0


def test_demo_is_run_as_a_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        'import json, pathlib, sys\n'
        'folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])\n'
        'folder.joinpath("demo.json").write_text(json.dumps({"threads": 7}))\n'
        'sys.exit(sys.argv[1] != "demo" or "--epochs" in sys.argv)\n'
    )
    monkeypatch.setattr(busy, '_PROGRAM', program)
    seconds, threads = busy._run_demo(None)
    assert seconds > 0 and threads == 7
    with pytest.raises(subprocess.CalledProcessError):
        busy._run_demo(2)
