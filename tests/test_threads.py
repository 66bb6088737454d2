# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How commands share the cores with other processes."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from torchgeo_ekgnet import _threads


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of the process: none."""
    variables: dict[str, str] = {}
    monkeypatch.setattr(_threads, 'os', SimpleNamespace(environ=variables))
    return variables


def test_waiting_is_set_before_torch_alone(environment: dict[str, str]) -> None:
    assert 'torch' in sys.modules
    assert not _threads.wait_briefly() and not environment


@pytest.mark.parametrize('name', ['', 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'])
def test_the_user_chooses_how_to_wait(
    name: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, 'torch')
    given = {name: '7'} if name else {}
    environment.update(given)
    assert _threads.wait_briefly() == (not name)
    assert environment == (given or {'GOMP_SPINCOUNT': '2000', 'KMP_BLOCKTIME': '0'})


def test_number_of_threads(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, '_cores', lambda: 4)
    monkeypatch.setattr(_threads, 'running_processes', lambda: 17.0)
    assert _threads.choose_threads() is None and not environment
    assert _threads.choose_threads('auto') == 1
    assert environment == {'OMP_NUM_THREADS': '1'}
    # The number is the user's from here on.
    assert _threads.choose_threads('auto') is None
    del environment['OMP_NUM_THREADS']
    environment[_threads.THREADS] = '3'
    assert _threads.choose_threads('auto') == 3
    monkeypatch.setattr(_threads, 'running_processes', lambda: 1.6)
    del environment['OMP_NUM_THREADS']
    environment[_threads.THREADS] = 'auto'
    assert _threads.choose_threads() == 4
    del environment['OMP_NUM_THREADS']
    for wrong in ('0', 'all', '-1', '1.5'):
        environment[_threads.THREADS] = wrong
        with pytest.raises(ValueError, match=f"THREADS: found '{wrong}', expected"):
            _threads.choose_threads()


@pytest.mark.parametrize(
    ('cores', 'others', 'threads'),
    [(2, 0, 2), (2, 2, 2), (2, 3, 1), (2, 12, 1), (8, 8, 8), (8, 16, 4), (1, 0, 1)],
)
def test_more_than_one_process_a_core_leaves_fewer_threads(
    cores: int, others: float, threads: int
) -> None:
    assert _threads.fitting_threads(cores, others) == threads


@pytest.mark.skipif(not os.path.exists('/proc/loadavg'), reason='Linux counts them')
def test_running_processes_are_counted() -> None:
    code = 'print(flush=True)\nwhile True: pass'
    busy = [
        subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    try:
        for process in busy:
            assert process.stdout is not None
            process.stdout.readline()
        assert _threads.running_processes() >= 2
    finally:
        for process in busy:
            process.kill()
            process.communicate()


def test_commands_set_it_before_they_load_torch() -> None:
    code = (
        'import os, sys\n'
        'class Watch:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name == "torch":\n'
        '            print(before, os.environ["GOMP_SPINCOUNT"])\n'
        '            raise SystemExit\n'
        'sys.argv[0] = "torchgeo-ekgnet"\n'
        'from torchgeo_ekgnet import main\n'
        'before = os.environ.get("GOMP_SPINCOUNT")\n'
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
    assert found.stdout == 'None 2000\n'
