# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The command line, in process, on a small synthetic scene."""

import csv
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torchgeo.main import main as torchgeo_main

from torchgeo_ekgnet import main as command_line
from torchgeo_ekgnet._runs import RUN_NAME
from torchgeo_ekgnet.commands import (
    COMMANDS,
    TORCHGEO_COMMANDS,
    resolve_config,
    shipped_configs,
)
from torchgeo_ekgnet.main import main

CONF = Path(__file__).with_name('conf')


EKGNET = str(CONF / 'ekgnet.yaml')


BEST = 'runs/small/version_0/checkpoints/best.ckpt'


@pytest.fixture(scope='module')
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which plain ``torchgeo fit`` ran once."""
    folder = tmp_path_factory.mktemp('fitted')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, 'argv', ['torchgeo'])
        torchgeo_main(['fit', '--config', EKGNET])
    yield folder


@pytest.fixture
def in_fitted(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder of the fitted run."""
    monkeypatch.chdir(fitted)
    return fitted


def test_fit_leaves_one_run_folder(fitted: Path) -> None:
    assert sorted(path.name for path in fitted.iterdir()) == ['runs']
    run = fitted / 'runs' / 'small' / 'version_0'
    assert (run / 'checkpoints' / 'best.ckpt').is_file()
    assert (run / 'checkpoints' / 'last.ckpt').is_file()
    assert (run / 'config.yaml').is_file()
    assert (run / 'split.npz').is_file()
    assert list(run.glob('events.out.tfevents.*'))
    with (run / 'metrics.csv').open(encoding='utf-8') as file:
        columns = set(next(csv.reader(file)))
    assert {'train_loss', 'train_OA', 'val_loss', 'val_OA', 'val_AA', 'val_kappa'} <= (
        columns
    )


def test_test_writes_beside_its_checkpoint(
    in_fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torchgeo_main(['test', '--config', EKGNET, '--ckpt_path', BEST])
    run = in_fitted / 'runs' / 'small' / 'version_0'
    report = json.loads((run / 'test.json').read_text(encoding='utf-8'))
    confusion = np.array(report['confusion_matrix'])
    assert confusion.shape == (3, 3)
    assert report['overall_accuracy'] == pytest.approx(
        np.trace(confusion) / confusion.sum()
    )
    assert report['protocol'] == 'random'
    assert report['seed'] == 0
    assert report['epochs'] in (1, 2)
    assert report['synthetic'] is True
    assert report['versions']['torch'] == torch.__version__.split('+')[0] or (
        report['versions']['torch'] == torch.__version__
    )
    assert set(report['overlap']) == {
        'contains_training_centre',
        'shares_training_pixel',
    }
    assert report['counts'] == report['split']['counts']['test']
    assert sum(report['counts']) == confusion.sum()
    printed = capsys.readouterr().out
    for text in ('overall accuracy', 'average accuracy', 'kappa', 'SYNTHETIC'):
        assert text in printed
    assert (run / 'test' / 'metrics.csv').is_file()
    assert not (in_fitted / 'lightning_logs').exists()
    assert not (in_fitted / 'config.yaml').exists()
    assert not (in_fitted / 'checkpoints').exists()


def test_test_keeps_the_configuration_of_the_run(in_fitted: Path) -> None:
    config = in_fitted / 'runs' / 'small' / 'version_0' / 'config.yaml'
    before = config.read_bytes()
    main(['test', '--config', EKGNET, '--ckpt_path', BEST])
    assert config.read_bytes() == before


def test_a_command_leaves_nothing_to_the_next(
    in_fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> tuple[Any, ...]:
        # Lightning leaves its seed to processes that it starts.
        apart = ('PYTEST', 'PL_GLOBAL_SEED')
        kept = {k: v for k, v in os.environ.items() if not k.startswith(apart)}
        return kept, signal.getsignal(signal.SIGTERM), sys.argv

    args = ['fit', '--config', EKGNET, '--trainer.fast_dev_run=true', '--name=other']
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', *args])
    before = state()
    main()
    assert state() == before
    assert RUN_NAME.get() is None


def test_validate_with_a_checkpoint(in_fitted: Path) -> None:
    main(['validate', '--config', EKGNET, '--ckpt_path', BEST])
    run = in_fitted / 'runs' / 'small' / 'version_0'
    assert (run / 'validate' / 'metrics.csv').is_file()


@pytest.mark.parametrize('stage', ['validate', 'test', 'predict'])
def test_random_weights_are_refused(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf'{stage}: no checkpoint.*--ckpt_path'):
        torchgeo_main([stage, '--config', EKGNET])
    assert list(tmp_path.iterdir()) == []


def test_random_weights_are_refused_without_our_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(Path(EKGNET).read_text(encoding='utf-8'))
    del config['trainer']['callbacks']
    Path('bare.yaml').write_text(yaml.safe_dump(config), encoding='utf-8')
    with pytest.raises(ValueError, match='test: no checkpoint'):
        torchgeo_main(['test', '--config', 'bare.yaml'])


def test_refusal_names_the_newest_checkpoint(in_fitted: Path) -> None:
    with pytest.raises(ValueError, match=r'the newest is .*version_0.*best\.ckpt'):
        torchgeo_main(['test', '--config', EKGNET])


def test_checkpoint_of_another_split_is_refused(in_fitted: Path) -> None:
    other = ['--data.split.init_args.seed', '8']
    args = ['test', '--config', EKGNET, '--ckpt_path', BEST, *other]
    with pytest.raises(ValueError, match='split'):
        torchgeo_main(args)
    with pytest.warns(UserWarning, match='allow_other_split'):
        torchgeo_main([*args, '--data.allow_other_split', 'true'])


def test_scores_on_another_cube_are_refused(in_fitted: Path) -> None:
    args = ['test', '--config', EKGNET, '--ckpt_path', BEST, '--data.num_classes', '4']
    with pytest.raises(ValueError, match=r'trained on another cube.*allow_other_split'):
        main(args)


def test_options_of_the_checkpoint_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network with options reloads without repeating them."""
    monkeypatch.chdir(tmp_path)
    options = '{"num_experts": 3, "conv_layer": "dynamic", "block_config": [1]}'
    args = ['--config', EKGNET, '--trainer.max_epochs', '1']
    main(['fit', *args, '--model.init_args.model_options', options])
    main(['test', *args, '--ckpt_path', BEST])
    run = tmp_path / 'runs' / 'small' / 'version_0'
    report = json.loads((run / 'test.json').read_text(encoding='utf-8'))
    assert report['model_options']['num_experts'] == 3


def test_resume_opens_a_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(['fit', '--config', EKGNET, '--trainer.max_epochs', '1'])
    last = 'runs/small/version_0/checkpoints/last.ckpt'
    resume = ['fit', '--config', EKGNET, '--ckpt_path', last]
    with pytest.warns(UserWarning, match=r'checkpoint says .* replaces lr 0\.5 by'):
        main([*resume, '--model.on_nonfinite', 'skip', '--model.lr', '0.5'])
    first, second = (tmp_path / 'runs' / 'small' / f'version_{i}' for i in (0, 1))
    assert (second / 'checkpoints' / 'last.ckpt').is_file()
    epochs = [
        torch.load(run / 'checkpoints' / 'last.ckpt', weights_only=True)['epoch']
        for run in (first, second)
    ]
    assert epochs == [0, 1]
    config = yaml.safe_load((second / 'config.yaml').read_text(encoding='utf-8'))
    assert config['model']['init_args']['on_nonfinite'] == 'skip'


def test_optimizer_and_schedule_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning creates them before the network's sizes are known."""
    monkeypatch.chdir(tmp_path)
    args = ['fit', '--config', EKGNET, '--optimizer', 'SGD', '--optimizer.lr', '0.05']
    args += ['--lr_scheduler', 'StepLR', '--lr_scheduler.step_size', '1']
    main(args)
    path = tmp_path / 'runs/small/version_0/checkpoints/last.ckpt'
    checkpoint = torch.load(path, weights_only=True)
    (group,) = checkpoint['optimizer_states'][0]['param_groups']
    names = [name for name in checkpoint['state_dict'] if name.startswith('model.')]
    assert len(group['params']) > 10
    assert len(group['params']) <= len(names)
    # The last checkpoint is that of the last epoch that improved.
    assert group['lr'] == pytest.approx(0.05 * 0.1 ** (checkpoint['epoch'] + 1))


def test_default_root_dir_moves_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    there = tmp_path / 'there'
    one = ['--trainer.max_epochs', '1', '--trainer.default_root_dir', str(there)]
    main(['fit', '--config', EKGNET, *one])
    assert (there / BEST).is_file()
    assert list((tmp_path / 'here').iterdir()) == []


def test_fast_dev_run_opens_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torchgeo_main(['fit', '--config', EKGNET, '--trainer.fast_dev_run', 'true'])
    assert not (tmp_path / 'runs').exists()


def test_plain_torchgeo_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ['--config', str(CONF / 'plain_task.yaml'), '--data.patch_size', '3']
    torchgeo_main(['fit', *config])
    (checkpoint,) = tmp_path.glob('lightning_logs/version_0/checkpoints/*.ckpt')
    torchgeo_main(['test', *config, '--ckpt_path', str(checkpoint)])


def test_short_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    task, data = 'HyperspectralClassificationTask', 'SyntheticSceneDataModule'
    sizes = [f'--data.{name}=20' for name in ('rows', 'cols', 'num_bands')]
    trainer = ['--trainer.fast_dev_run=true', '--trainer.accelerator=cpu']
    chosen = ['--model.model=ssrn', '--data.patch_size=7']
    main(['fit', f'--model={task}', f'--data={data}', *chosen, *sizes, *trainer])
    with pytest.raises(SystemExit):  # one of torchgeo's, as its own command takes it
        main(['fit', '--model=ClassificationTask', '--print_config'])
    assert 'class_path: torchgeo.trainers.' in capsys.readouterr().out


@pytest.mark.parametrize('name', sorted(shipped_configs()))
def test_shipped_configs_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        torchgeo_main(['fit', '--config', resolve_config(name), '--print_config'])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config['model']['class_path'].startswith('torchgeo_ekgnet.tasks.')


@pytest.mark.usefixtures('windows_files')
def test_shipped_config_from_fit_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {'rows': 20, 'cols': 16, 'num_bands': 8, 'num_classes': 3, 'patch_size': 3}
    args = ['--config', 'quickstart', '--trainer.max_epochs', '1']
    args += ['--trainer.accelerator', 'cpu', '--trainer.enable_progress_bar', 'false']
    args += [f'--data.{name}={size}' for name, size in sizes.items()]
    args += ['--model.model_options.block_config', '[1, 1]']
    run = Path('runs/quickstart/version_0')
    best = ['--ckpt_path', str(run / 'checkpoints' / 'best.ckpt')]
    main(['fit', *args])
    # As the documentation has it: a second ExpertUse that measures more.
    worth = ['--trainer.callbacks+=torchgeo_ekgnet.callbacks.ExpertUse']
    main(['test', *args, *best, *worth, '--trainer.callbacks.measure_worth=true'])
    assert 'accuracy' in json.loads((run / 'expert_use.json').read_text())
    main(['predict', *args, *best])
    for name in ('map.tif', 'map.tif.aux.xml', 'confidence.tif', 'map.png'):
        assert (run / name).is_file()
    page = (run / 'report.html').read_text(encoding='utf-8')
    headings = re.findall(r'<h2[^>]*>([^<]*)', page)
    sections = ['Map', 'Accuracies', 'Split', 'Learning curves', 'Experts', 'Settings']
    assert headings == sections
    assert 'The expert that counts most for each class' in page


def test_configs_by_name() -> None:
    assert {
        'indian_pines',
        'ksc',
        'pavia_university',
        'quickstart',
        'salinas_a',
    } <= set(shipped_configs())
    assert resolve_config('ksc') == resolve_config('ksc.yaml')
    assert resolve_config(EKGNET) == EKGNET
    with pytest.raises(FileNotFoundError, match=r"'kcs'.*indian_pines.*mean 'ksc'"):
        resolve_config('kcs')


def test_home_behind_equals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.yaml').write_text('')
    args = ['fit', '--config=~/a.yaml', '--data.root=~', '--name=a~b', 'b=~/c']
    assert command_line.resolve_args(args[1:]) == [
        f'--config={tmp_path}/a.yaml',
        f'--data.root={tmp_path}',
        '--name=a~b',
        'b=~/c',
    ]


def test_config_names_are_replaced() -> None:
    path = resolve_config('ksc')
    args = ['fit', '--config', 'ksc', '-c', 'ksc', '--config=ksc', '--data.root', 'ksc']
    assert command_line.resolve_args(args) == [
        'fit',
        '--config',
        path,
        '-c',
        path,
        f'--config={path}',
        '--data.root',
        'ksc',
    ]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(['--help'])
    text = capsys.readouterr().out
    for name in (*TORCHGEO_COMMANDS, *COMMANDS, 'salinas_a'):
        assert name in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(['--version'])
    assert 'torchgeo_ekgnet' in capsys.readouterr().out


def test_unknown_command() -> None:
    with pytest.raises(SystemExit, match=r"unknown command 'fitt'; did you mean 'fit'"):
        main(['fitt'])


@pytest.mark.parametrize('name', [*TORCHGEO_COMMANDS, *COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, '--help'])
    assert stop.value.code == 0
    usage = rf'^usage: torchgeo-ekgnet {name} '
    text = capsys.readouterr().out
    assert re.match(usage, text)
    # What is mostly used fits on the first screen.
    first = '\n'.join(text.splitlines()[:24])
    mostly = '\n  --data.root DIR        folder of the scene' in first
    assert mostly == (name in TORCHGEO_COMMANDS)


@pytest.mark.parametrize('name', [*COMMANDS])
def test_errors_of_every_command_are_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, '--seeds', 'few', '--epochs', 'few'])
    assert stop.value.code == 2
    told = (
        rf'torchgeo-ekgnet {name}: [^\n]*\(torchgeo-ekgnet {name} --help tells more\)\n'
    )
    assert re.fullmatch(told, capsys.readouterr().err)
