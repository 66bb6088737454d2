# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How commands share the cores with other processes."""

import os
import subprocess
import sys
import time

import pytest

from torchgeo_ekgnet import _threads


def test_waiting_is_set_before_torch_alone() -> None:
    environment: dict[str, str] = {}
    assert 'torch' in sys.modules
    assert not _threads.wait_passively(environment) and not environment


@pytest.mark.parametrize('name', ['', 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'])
def test_the_user_chooses_how_to_wait(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, 'torch')
    environment = {name: '7'} if name else {}
    assert _threads.wait_passively(environment) == (not name)
    assert environment.get('OMP_WAIT_POLICY') == {
        '': 'PASSIVE',
        'OMP_WAIT_POLICY': '7',
    }.get(name)


def test_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, 'free_cores', lambda: 0.3)
    environment: dict[str, str] = {}
    assert _threads.choose_threads(environment) is None and not environment
    assert _threads.choose_threads(environment, 'auto') == 1
    assert environment == {'OMP_NUM_THREADS': '1'}
    assert _threads.choose_threads({'OMP_NUM_THREADS': '5'}, 'auto') is None
    assert _threads.choose_threads({_threads.THREADS: '3'}, 'auto') == 3
    monkeypatch.setattr(_threads, 'free_cores', lambda: 3.6)
    assert _threads.choose_threads({_threads.THREADS: 'auto'}) == 4
    for wrong in ('0', 'all', '-1', '1.5'):
        with pytest.raises(ValueError, match=f"THREADS: found '{wrong}', expected"):
            _threads.choose_threads({_threads.THREADS: wrong})


def test_busy_cores_are_not_free() -> None:
    most = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1

    def work(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    assert 0 <= _threads.free_cores(0.05) <= max(most, os.cpu_count() or 1)
    if hasattr(os, 'sched_getaffinity') and os.path.exists('/proc/stat'):
        # This process keeps a core busy while it watches.
        assert _threads.free_cores(0.3, work) < most - 0.3


def test_commands_set_it_before_they_load_torch() -> None:
    code = (
        'import os, sys\n'
        'class Watch:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name == "torch":\n'
        '            print(before, os.environ["OMP_WAIT_POLICY"])\n'
        '            raise SystemExit\n'
        'sys.argv[0] = "torchgeo-ekgnet"\n'
        'from torchgeo_ekgnet import main\n'
        'before = os.environ.get("OMP_WAIT_POLICY")\n'
        'sys.meta_path.insert(0, Watch())\n'
        'main.run(["bench", "--help"])\n'
    )
    unset = {k: v for k, v in os.environ.items() if k not in _threads._WAITING}
    found = subprocess.run(
        [sys.executable, '-c', code],
        env=unset,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == 'None PASSIVE\n'
