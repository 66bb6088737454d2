# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the repeat engine: whole runs on a tiny synthetic scene."""

import json
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from tests.data.public_scenes import data as public_scenes
from tests.processes import forked, needs_fork
from torchgeo_ekgnet.callbacks import ExpertUse
from torchgeo_ekgnet.cli import UsageError
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.layers import expert_convs
from torchgeo_ekgnet.reproduce import main_repeat
from torchgeo_ekgnet.reproduce.build import content_of, placed
from torchgeo_ekgnet.reproduce.engine import Sweep, describe_run, run
from torchgeo_ekgnet.reproduce.runs import RunStore, settings_key
from torchgeo_ekgnet.reproduce.settings import read_config, with_seed
from torchgeo_ekgnet.reproduce.training import CurveLogger, _experts
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask

DATA = {
    'class_path': 'torchgeo_ekgnet.datamodules.SyntheticSceneDataModule',
    'init_args': {
        'rows': 16,
        'cols': 16,
        'num_bands': 12,
        'num_classes': 3,
        'patch_size': 5,
        'batch_size': 16,
    },
}
TASK = 'torchgeo_ekgnet.tasks.HyperspectralClassificationTask'
SMALL: dict[str, Any] = {'model': 'ekgnet_tiny', 'model_options': {'block_config': [1]}}


def settings(seed: int = 1, model: str = 'ekgnet_tiny') -> dict[str, Any]:
    split = {
        'class_path': 'torchgeo_ekgnet.datasets.RandomSplit',
        'init_args': {'train': 0.3, 'val': 0.1, 'seed': seed},
    }
    data = {**DATA, 'init_args': {**DATA['init_args'], 'split': split}}  # type: ignore[dict-item]
    network = {'class_path': TASK, 'init_args': {**SMALL}}
    return {
        'data': data,
        'model': {'classical': model} if model == 'rbf_svm' else network,
        'trainer': {'max_epochs': 3},
        'seed_everything': seed,
    }


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what depends on the clock."""
    return {name: value for name, value in result.items() if name != 'seconds'}


@pytest.fixture(scope='module')
def uninterrupted() -> list[dict[str, Any]]:
    return [run(settings(seed), threads=1) for seed in (1, 2, 3)]


def test_a_run_leaves_all_that_a_table_needs(
    uninterrupted: list[dict[str, Any]],
) -> None:
    result = uninterrupted[0]
    json.dumps(result, allow_nan=False)
    split = result['split']
    assert sum(map(sum, result['confusion'])) == split['sizes'][2]
    assert split['protocol'] == 'random'
    assert split['settings']['seed'] == 1
    assert 0 < split['contains_training_centre'] <= split['shares_training_pixel'] <= 1
    assert result['scene']['synthetic'] is True
    assert len(result['scene']['class_names']) == 3
    assert result['epochs'] == 3
    assert {name: len(curve) for name, curve in result['curves'].items()} == {
        f'{stage}_{name}': 3
        for stage in ('train', 'val')
        for name in ('loss', 'OA', 'epoch')
    }
    assert result['curves']['val_epoch'] == [1, 2, 3]
    assert 1 <= result['tested_epoch'] <= 3
    assert result['parameters'] > 1000
    assert result['seconds']['training'] > 0
    assert result['seconds']['inference'] > 0
    assert result['environment']['versions']['torch']
    assert result['environment']['threads'] == '1'


def test_seeds_change_split_and_training(uninterrupted: list[dict[str, Any]]) -> None:
    first, second, _ = uninterrupted
    assert first['split']['identity'] != second['split']['identity']
    assert first['curves'] != second['curves']


def test_a_run_repeats_itself_whatever_ran_before(
    uninterrupted: list[dict[str, Any]],
) -> None:
    torch.rand(7)
    start = time.perf_counter()
    result = run(settings(2), threads=1)
    assert sum(result['seconds'].values()) < time.perf_counter() - start
    assert outcome(result) == outcome(uninterrupted[1])


def test_only_weights_after_the_schedule_are_tested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whatever the losses are, the first epoch has the lowest.
    monkeypatch.setattr(
        'torchgeo_ekgnet.tasks.HyperspectralClassificationTask.on_validation_epoch_end',
        lambda task: task.log('val_loss', float(task.current_epoch)),
    )
    assert run(settings(), threads=1)['tested_epoch'] == 1
    late = run({**settings(), 'start_epoch': 1}, threads=1)
    assert (late['tested_epoch'], late['epochs']) == (2, 3)
    # Stopped before the schedule has ended: the last epoch.
    never = run({**settings(), 'start_epoch': 7}, threads=1)
    assert never['tested_epoch'] == 3


def test_experts_are_watched_outside_the_timed_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched_passes, elapsed = [], []
    tested = Trainer.test

    def test(self: Any, *args: Any, **kwargs: Any) -> Any:
        watched_passes.append(any(isinstance(c, ExpertUse) for c in self.callbacks))
        scores = tested(self, *args, **kwargs)
        (timer,) = (c for c in self.callbacks if isinstance(c, Timer))
        elapsed.append(timer.time_elapsed('test'))
        return scores

    plain = run(settings(), threads=1)
    watched = settings()
    watched['trainer'] = {
        **watched['trainer'],
        'callbacks': [{'class_path': 'torchgeo_ekgnet.callbacks.expert_use.ExpertUse'}],
    }
    monkeypatch.setattr(Trainer, 'test', test)
    result = run(watched, threads=1)
    assert watched_passes == [False, True]
    assert result['seconds']['inference'] == elapsed[0]
    assert result['confusion'] == plain['confusion']
    assert 0 < result['experts']['entropy'] <= 1
    # A sweep says one line a run; Lightning's table would stand there twice.
    assert 'Test metric' not in capsys.readouterr().out


def test_learnt_temperature_is_read_without_a_warning(tmp_path: Path) -> None:
    layer = {
        'experts': 4,
        'entropy': 0.5,
        'class_information': 0.25,
        'log_experts': 1.0,
    }
    use = {'layers': {'a': layer}, 'normalised_entropy': 0.5}
    (tmp_path / 'expert_use.json').write_text(json.dumps(use))
    task = HyperspectralClassificationTask(**SMALL, in_channels=12, num_classes=3)
    temperatures = [conv.temperature for _, conv in expert_convs(task)]
    assert all(temperature.requires_grad for temperature in temperatures)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # PyTorch warns once a process otherwise.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            experts = _experts(task, tmp_path)
    finally:
        torch.set_warn_always(always)
    assert experts is not None
    assert experts['temperature'] == pytest.approx(34.0)
    assert (experts['lowest_entropy'], experts['information']) == (0.5, 0.25)


def test_one_device_unless_configured() -> None:
    assert placed(settings(), None, Path())['trainer']['devices'] == 1
    two = {**settings(), 'trainer': {'devices': 2}}
    assert placed(two, None, Path())['trainer']['devices'] == 2


def test_content_is_that_of_the_data() -> None:
    content = content_of(settings(1), split=True)
    assert content == content_of(settings(1), split=True)
    other = content_of(settings(2), split=True)
    assert other['scene'] == content['scene']
    assert other['split'] != content['split']


@pytest.mark.parametrize('model', ['rbf_svm', 'ekgnet_tiny'])
@pytest.mark.parametrize('changed', ['labels.npy', 'split.npz', 'weights.pt'])
def test_files_that_change_during_a_sweep_are_noticed(
    model: str, changed: str, tmp_path: Path
) -> None:
    """A table of runs of other labels under one name would be wrong without a word."""
    if model == 'rbf_svm' and changed == 'weights.pt':
        pytest.skip('has none')
    chance = np.random.default_rng(0)
    np.save(tmp_path / 'cube.npy', chance.normal(size=(16, 16, 12)).astype('f4'))
    labels = chance.integers(1, 4, (16, 16), dtype='u1')
    np.save(tmp_path / 'labels.npy', labels)
    RandomSplit(0.3, 0.1, 1)(labels.astype('i8')).save(tmp_path / 'split.npz')
    network = HyperspectralClassificationTask(**SMALL, in_channels=12, num_classes=3)
    torch.save(network.model.state_dict(), tmp_path / 'weights.pt')
    wanted = settings(model=model)
    wanted['data'] = {
        'class_path': 'torchgeo_ekgnet.datamodules.CustomSceneDataModule',
        'init_args': {
            'cube': 'cube.npy',
            'labels': 'labels.npy',
            'patch_size': 5,
            'split': {
                'class_path': 'torchgeo_ekgnet.datasets.SavedSplit',
                'init_args': {'path': str(tmp_path / 'split.npz')},
            },
        },
    }
    if model != 'rbf_svm':
        wanted['model']['init_args']['weights'] = str(tmp_path / 'weights.pt')
    wanted['trainer'] = {'max_epochs': 1}
    wanted['content'] = content_of(wanted, tmp_path, split=True)
    if changed == 'labels.npy':
        labels[0, 0] = labels[0, 0] % 3 + 1
        np.save(tmp_path / changed, labels)
    elif changed == 'split.npz':
        RandomSplit(0.3, 0.1, 2)(labels.astype('i8')).save(tmp_path / changed)
    else:
        next(network.model.parameters()).data.add_(1)
        torch.save(network.model.state_dict(), tmp_path / changed)
    store = RunStore(tmp_path / 'runs')
    name = {'labels.npy': 'scene', 'split.npz': 'split', 'weights.pt': 'weights'}[
        changed
    ]
    with pytest.raises(ValueError, match=f'found another {name} than at the beginning'):
        Sweep(store, tmp_path, threads=1).results([wanted])
    assert list(store.folder.iterdir()) == []


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    run(settings(model='rbf_svm'), threads=before + 1)
    assert torch.get_num_threads() == before


def test_classical_baseline_on_the_same_split(
    uninterrupted: list[dict[str, Any]],
) -> None:
    result = run(settings(model='rbf_svm'), threads=1)
    assert result['split'] == uninterrupted[0]['split']
    assert result['epochs'] is None
    assert sum(map(sum, result['confusion'])) == result['split']['sizes'][2]


def test_interrupted_sweep_ends_as_the_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: list[dict[str, Any]]
) -> None:
    store = RunStore(tmp_path / 'runs')
    logged = CurveLogger.log_metrics
    finished = []
    # Lightning ends the process on Ctrl-C; a killed process leaves nothing behind.
    for epochs in (2, 10, 5):
        left = [epochs]

        def log(*args: Any, left: list[int] = left, **kwargs: Any) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            logged(*args, **kwargs)

        monkeypatch.setattr(CurveLogger, 'log_metrics', log)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            Sweep(store, threads=1).results(map(settings, (1, 2, 3)))
        finished.append(len(list(tmp_path.glob('runs/*'))))
    monkeypatch.setattr(CurveLogger, 'log_metrics', logged)
    assert finished == [0, 1, 1]
    results = Sweep(store, threads=1).results(map(settings, (1, 2, 3)))
    assert list(map(outcome, results)) == list(map(outcome, uninterrupted))
    assert len(list(tmp_path.glob('runs/*'))) == 3


def test_finished_runs_are_not_repeated(
    tmp_path: Path, uninterrupted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path)
    store.save(settings(1), uninterrupted[0])
    monkeypatch.delattr('torchgeo_ekgnet.reproduce.engine.run')
    lines: list[str] = []
    (result,) = Sweep(store, report=lines.append).results([settings(1)])
    assert result == uninterrupted[0]
    assert lines[0].startswith(f'[1/1] {describe_run(settings())}: overall accuracy ')
    assert lines[0].endswith('(done before)')


def test_a_run_is_named_with_its_options() -> None:
    twin = settings(4)
    twin['model']['init_args']['model_options'] = {'conv_layer': 'conv3d', 'groups': 8}
    assert describe_run(twin) == 'ekgnet_tiny:static (groups=8), seed 4'
    ssrn = {'init_args': {'model': 'ssrn'}}
    assert describe_run({**twin, 'model': ssrn}) == 'ssrn, seed 4'
    assert describe_run(settings(4, 'rbf_svm')) == 'rbf_svm, seed 4'


def test_kept_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    from torchgeo_ekgnet.maps import load_classifier

    store = RunStore(tmp_path / 'runs')
    Sweep(store, keep=tmp_path / 'checkpoints').results([settings(1)])
    path = tmp_path / 'checkpoints' / f'{settings_key(settings(1))}.ckpt'
    assert load_classifier(path).patch_size == 5


def test_missing_checkpoint_leaves_the_result(tmp_path: Path) -> None:
    store = RunStore(tmp_path / 'runs')
    store.save(settings(1), {'confusion': [[1, 0], [0, 1]]})
    keep = tmp_path / 'checkpoints'
    (result, _) = Sweep(store, keep=keep, keep_seed=1).results(map(settings, (1, 2)))
    assert result == store.load(settings(1)) == {'confusion': [[1, 0], [0, 1]]}
    assert store.load(settings(2)) is not None
    assert [path.stem for path in keep.iterdir()] == [settings_key(settings(1))]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / 'tiny.yaml'
    content = {
        'trainer': {
            'max_epochs': 1,
            'callbacks': [
                {
                    'class_path': 'torchgeo_ekgnet.callbacks.RunFolder',
                    'init_args': {'name': 'tiny'},
                },
                {'class_path': 'torchgeo_ekgnet.callbacks.TemperatureAnnealing'},
            ],
        },
        'model': {'class_path': TASK, 'init_args': SMALL},
        'data': DATA,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_configuration_of_fit_becomes_settings(config: Path) -> None:
    found = read_config([str(config)], ['--trainer.max_epochs', '5'])
    assert found['trainer']['max_epochs'] == 5
    (callback,) = found['trainer']['callbacks']
    assert callback['class_path'].endswith('TemperatureAnnealing')
    assert found['data']['init_args']['patch_size'] == 5
    seeded = with_seed(found, 9)
    assert seeded['seed_everything'] == 9
    split = seeded['data']['init_args']['split']
    assert split['init_args'] == {'train': 0.05, 'val': 0.05, 'seed': 9}
    assert settings_key(with_seed(found, 8)) != settings_key(seeded)


def test_data_of_another_package_are_refused(config: Path) -> None:
    with pytest.raises(TypeError, match='expected HyperspectralDataModule'):
        read_config([str(config)], ['--data', 'torchgeo.datamodules.EuroSATDataModule'])
    with pytest.raises(UsageError, match='BaseDataModule'):
        read_config([str(config)], ['--data', 'lightning.pytorch.LightningDataModule'])


def test_fixed_splits_stay_fixed(config: Path) -> None:
    found = read_config([str(config)], [])
    found['data']['init_args']['split'] = {
        'class_path': 'torchgeo_ekgnet.datasets.SavedSplit',
        'init_args': {'path': 'split.npz'},
    }
    split = with_seed(found, 9)['data']['init_args']['split']
    assert split['init_args'] == {'path': 'split.npz'}


@needs_fork
def test_repeat_command_killed_and_continued(config: Path, tmp_path: Path) -> None:
    arguments = [
        '--config',
        str(config),
        '--seeds',
        '2',
        '--threads',
        '1',
        '--first-seed',
        '1',
        '--data.split.class_path',
        'torchgeo_ekgnet.datasets.RandomSplit',
        '--data.split.train',
        '0.3',
        '--data.split.val',
        '0.1',
    ]
    killed = tmp_path / 'killed'
    process = forked(
        lambda: main_repeat([*arguments, '--out', str(killed)]), tmp_path / 'errors.txt'
    )
    process.stop_when(lambda: list(killed.glob('runs/*.json')), signal.SIGKILL)
    done = {path.name: path.read_bytes() for path in killed.glob('runs/*.json')}
    assert len(done) == 1

    main_repeat([*arguments, '--out', str(killed)])
    for name, content in done.items():
        assert (killed / 'runs' / name).read_bytes() == content
    whole = tmp_path / 'whole'
    main_repeat([*arguments, '--out', str(whole)])
    for file in ('results.csv',):
        assert (killed / file).read_text() == (whole / file).read_text()
    text = (killed / 'report.md').read_text()
    assert '± ' in text
    assert 'bar not run' not in text
    assert '**seeds**: 1, 2' in text
    assert (killed / 'report.html').read_text().startswith('<!DOCTYPE html>')


def own_scene(folder: Path) -> Path:
    """A small scene of NumPy files with missing values, and its configuration."""
    folder.mkdir()
    random = np.random.RandomState(0)
    labels = np.repeat([1, 2, 3], 48).reshape(12, 12)
    cube = random.normal(size=(12, 12, 10)) + labels[:, :, None]
    cube[0, 0] = np.nan
    np.save(folder / 'cube.npy', cube)
    np.save(folder / 'labels.npy', labels)
    data = {
        'class_path': 'torchgeo_ekgnet.datamodules.CustomSceneDataModule',
        'init_args': {
            'cube': 'cube.npy',
            'labels': 'labels.npy',
            'nodata': float('nan'),
            'patch_size': 3,
            'batch_size': 64,
        },
    }
    model = {'class_path': TASK, 'init_args': SMALL}
    path = folder / 'own.yaml'
    content = {'trainer': {'max_epochs': 1}, 'model': model, 'data': data}
    path.write_text(yaml.safe_dump(content))
    return path


def test_repeat_of_other_data_is_another_run(tmp_path: Path) -> None:
    folder = tmp_path / 'scene'
    config = own_scene(folder)
    out = tmp_path / 'out'

    def repeat(root: Path) -> int:
        arguments = ['--config', str(config), '--root', str(root), '--seeds', '1']
        main_repeat([*arguments, '--out', str(out)])
        runs = [json.loads(path.read_text()) for path in out.glob('runs/*.json')]
        bars = [run for run in runs if 'classical' in run['settings']['model']]
        assert 2 * len(bars) == len(runs)
        return len(bars)

    assert repeat(folder) == 1
    folder = folder.rename(tmp_path / 'moved')
    config = folder / 'own.yaml'
    assert repeat(folder) == 1
    labels = np.load(folder / 'labels.npy')
    labels[5, 5] = 3
    np.save(folder / 'labels.npy', labels)
    assert repeat(folder) == 2
    cube = np.load(folder / 'cube.npy')
    np.save(folder / 'cube.npy', np.round(cube, 1))
    assert repeat(folder) == 3


def test_repeat_keeps_the_official_masks(tmp_path: Path) -> None:
    public_scenes.make(tmp_path / 'data', 'Houston2013')
    config = tmp_path / 'houston.yaml'
    content = {
        'trainer': {'max_epochs': 1},
        'model': {'class_path': TASK, 'init_args': SMALL},
        'data': {
            'class_path': 'torchgeo_ekgnet.datamodules.Houston2013DataModule',
            'init_args': {'root': str(tmp_path / 'data'), 'patch_size': 3},
        },
    }
    config.write_text(yaml.safe_dump(content))
    found = read_config([str(config)], [])
    assert 'split' not in with_seed(found, 9)['data']['init_args']
    out = tmp_path / 'out'
    main_repeat(['--config', str(config), '--seeds', '1', '--out', str(out)])
    runs = [json.loads(path.read_text()) for path in out.glob('runs/*.json')]
    assert [run['result']['split']['protocol'] for run in runs] == ['masks'] * 2


def test_report_only_trains_nothing(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no run has finished in .*out'):
        main_repeat(
            ['--config', str(config), '--report-only', '--out', str(tmp_path / 'out')]
        )
