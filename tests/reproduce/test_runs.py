# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the run files."""

import errno
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info

import torchgeo_ekgnet
from tests.datasets.splits.maps import fields
from torchgeo_ekgnet.datasets.splits import (
    BlockSplit,
    CountSplit,
    DisjointSplit,
    MaskSplit,
    MatchedSplit,
    RandomSplit,
)
from torchgeo_ekgnet.reproduce import engine
from torchgeo_ekgnet.reproduce.runs import (
    RunStore,
    canonical_json,
    decode_floats,
    encode_floats,
    settings_key,
)

SETTINGS = {'data': {'patch_size': 7, 'split': {'train': 0.1}}, 'seed': 1331}


def test_runs_tell_of_their_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(*args: Any) -> dict[str, Any]:
        rank_zero_info('classes of the scene')
        return {'confusion': [[1]]}

    monkeypatch.setattr(engine, 'run', run)
    model = {'init_args': {'model': 'ssrn'}}
    runs = [{**SETTINGS, 'model': model, 'seed_everything': seed} for seed in range(3)]
    with caplog.at_level(logging.INFO):
        engine.Sweep(RunStore(tmp_path), report=rank_zero_info).results(runs)
    assert caplog.text.count('classes of the scene') == 1
    assert caplog.text.count('overall accuracy 100.00 %') == 3


def test_key_ignores_order_and_knows_every_value() -> None:
    same = {'seed': 1331, 'data': {'split': {'train': 0.1}, 'patch_size': 7}}
    assert settings_key(SETTINGS) == settings_key(same)
    for other in (
        {**SETTINGS, 'seed': 1332},
        {**SETTINGS, 'data': {'patch_size': 9, 'split': {'train': 0.1}}},
        {**SETTINGS, 'data': {'patch_size': 7, 'split': {'train': 0.2}}},
    ):
        assert settings_key(SETTINGS) != settings_key(other)


def _bare_packages() -> list[tuple[str, str]]:
    """Packages around splits and runs, and where they lie."""
    packages = (torchgeo_ekgnet, torchgeo_ekgnet.datasets, torchgeo_ekgnet.reproduce)
    return [(package.__name__, package.__path__[0]) for package in packages]


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    """Settings have the same key, and splits the same pixels, whatever the hash seed."""
    train = str(tmp_path / 'train.npy')
    labels = fields()
    np.save(train, (labels > 0) & (np.arange(labels.shape[1]) % 3 == 0))
    # The subpackages alone: what the packages around them import takes ten seconds.
    code = (
        'import sys, types\n'
        f'for name, place in {_bare_packages()!r}:\n'
        '    sys.modules[name] = types.ModuleType(name)\n'
        '    sys.modules[name].__path__ = [place]\n'
        'import numpy as np\n'
        'from torchgeo_ekgnet.datasets.splits import *\n'
        'from torchgeo_ekgnet.reproduce.runs import settings_key\n'
        f'print(settings_key({SETTINGS!r}))\n'
        'row, col = np.indices((40, 48))\n'
        'labels = (row // 12 + 2 * (col // 12)) % 4 + 1\n'
        'labels = np.where((row % 12 == 0) | (col % 12 == 0), 0, labels)\n'
        'protocols = RandomSplit(), CountSplit(), BlockSplit(), DisjointSplit()\n'
        f'masks = MaskSplit({train!r}, val=0.2)\n'
        'for p in (*protocols, MatchedSplit(), masks):\n'
        '    print(p(labels, 5).identity())\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'PYTHONHASHSEED': '7'},
    )
    protocols = RandomSplit(), CountSplit(), BlockSplit(), DisjointSplit()
    masks = MaskSplit(train, val=0.2)
    splits = [p(labels, 5).identity() for p in (*protocols, MatchedSplit(), masks)]
    assert done.stdout.split() == [settings_key(SETTINGS), *splits]


@pytest.mark.parametrize('value', [float('nan'), Path('x')])
def test_key_refuses_what_json_cannot_write(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        settings_key({'value': value})


def test_floats_without_a_json_number() -> None:
    value = {'nodata': float('nan'), 'limits': [float('-inf'), 1.5, float('inf')]}
    encoded = encode_floats(value)
    assert canonical_json(encoded) == '{"limits":["-inf",1.5,"inf"],"nodata":"nan"}'
    decoded = decode_floats(encoded)
    assert math.isnan(decoded['nodata'])
    assert decoded['limits'] == value['limits']


def test_saved_runs_are_found_again(tmp_path: Path) -> None:
    store = RunStore(tmp_path / 'runs')
    assert store.load(SETTINGS) is None
    store.save(SETTINGS, {'confusion': [[1, 0], [0, 1]]})
    assert RunStore(tmp_path / 'runs').load(SETTINGS) == {'confusion': [[1, 0], [0, 1]]}
    assert store.load({**SETTINGS, 'seed': 2}) is None
    assert [file.name for file in store.folder.iterdir()] == [
        f'{settings_key(SETTINGS)}.json'
    ]


@pytest.mark.parametrize('text', ['', '{"settings": {}}', '[]', '{"settings": 1, "re'])
def test_spoilt_file_is_reported_and_repeated(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = RunStore(tmp_path)
    store.path(SETTINGS).write_text(text)
    assert store.load(SETTINGS) is None
    assert settings_key(SETTINGS) in caplog.text


@pytest.mark.parametrize(
    'damage',
    [
        lambda run: run.update(result=0),
        lambda run: run.update(result={}),
        lambda run: run.update(result={'confusion': 'x'}),
        lambda run: run['result'].update(confusion=[[1], [2, 3]]),
        lambda run: run['result']['confusion'][0].__setitem__(0, 501),
        lambda run: run['result'].pop('epochs'),
        lambda run: run.pop('digest'),
        lambda run: run.update(digest='0' * 64),
        lambda run: run['settings'].update(seed=7),
    ],
)
def test_changed_result_is_repeated(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = RunStore(tmp_path)
    path = store.save(SETTINGS, {'confusion': [[1, 2], [3, 4]], 'epochs': 3})
    content = json.loads(path.read_text())
    assert store.load(SETTINGS) == content['result']
    damage(content)
    path.write_text(json.dumps(content))
    assert store.load(SETTINGS) is None
    assert settings_key(SETTINGS) in caplog.text


@pytest.mark.parametrize('share', range(0, 100, 9))
def test_cut_run_file_is_repeated(tmp_path: Path, share: int) -> None:
    store = RunStore(tmp_path)
    path = store.save(SETTINGS, {'confusion': [[1, 2], [3, 4]], 'epochs': 3})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * share // 100])
    assert store.load(SETTINGS) is None


def test_work_of_killed_processes_is_deleted(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.work() as used:
        (used / 'best.ckpt').write_bytes(b'weights')
        left = tmp_path / '.left.work' / 'run'
        left.mkdir(parents=True)
        (left / 'best.ckpt').write_bytes(b'weights')
        with RunStore(tmp_path).work():
            assert not left.exists()
            assert (used / 'best.ckpt').is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures('windows_files')
def test_locks_whose_files_are_deleted_when_they_are_freed(tmp_path: Path) -> None:
    (tmp_path / '.left.work').mkdir()
    with RunStore(tmp_path).work() as used:
        assert used.is_dir()
    assert not list(tmp_path.glob('*.work'))


def test_work_is_never_there_without_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts while the folder is made does not take it for a left one."""
    make = Path.mkdir

    def made_beside_another(path: Path, *args: Any, **kwargs: Any) -> None:
        make(path, *args, **kwargs)
        if path.name == 'run':
            monkeypatch.undo()
            with RunStore(tmp_path).work():
                assert path.is_dir()

    monkeypatch.setattr(Path, 'mkdir', made_beside_another)
    with RunStore(tmp_path).work() as used:
        assert used.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_disks_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is done, and what might be another process's is left alone."""

    def no_lock(lock: FileLock, *args: Any, **kwargs: Any) -> None:
        if number == errno.ENOSYS:
            raise NotImplementedError
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, 'acquire', no_lock)
    left = tmp_path / '.left.work' / 'run'
    left.mkdir(parents=True)
    with RunStore(tmp_path).work() as used:
        assert used.is_dir()
    assert list(tmp_path.iterdir()) == [left.parent]


def test_work_that_another_user_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / '.left.work').mkdir()
    acquire = FileLock.acquire

    def refused(lock: FileLock, *args: Any, **kwargs: Any) -> Any:
        if Path(lock.lock_file).name == '.left.lock':
            raise PermissionError(errno.EACCES, 'Permission denied', lock.lock_file)
        return acquire(lock, *args, **kwargs)

    monkeypatch.setattr(FileLock, 'acquire', refused)
    with RunStore(tmp_path).work() as used:
        assert used.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ['.left.work']
