# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``repeat`` runs what ``fit`` runs: the same configuration, the same weights."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from torchgeo_ekgnet.callbacks import RunFolder
from torchgeo_ekgnet.commands import shipped_configs
from torchgeo_ekgnet.main import main, resolve_args
from torchgeo_ekgnet.reproduce.build import build_data, built_run, content_of, placed
from torchgeo_ekgnet.reproduce.declarations import LAST_EPOCH
from torchgeo_ekgnet.reproduce.engine import checkpoint_path, run
from torchgeo_ekgnet.reproduce.settings import places, read_config, with_seed

PACKAGE = 'torchgeo_ekgnet'
TASK = f'{PACKAGE}.tasks.HyperspectralClassificationTask'
RANDOM = f'{PACKAGE}.datasets.RandomSplit'
SHOWN = {'AccuracyReport', 'ClassificationMap', 'ModelCheckpoint', 'RunFolder'}
NOT_COMPARED = {
    # Where files lie and what is shown; one device and no sanity check for repeat.
    'data': {'root', 'download', 'checksum', 'num_workers'},
    'trainer': {
        'default_root_dir',
        'devices',
        'enable_model_summary',
        'enable_progress_bar',
        'log_every_n_steps',
        'logger',
        'num_sanity_val_steps',
    },
}


class OwnFolder(RunFolder):
    """A callback of a user."""


class Parsed(Exception):
    """What the command line has understood."""


def parsed_by_fit(args: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The configuration that torchgeo's own ``fit`` would build."""

    def stop(cli: LightningCLI) -> None:
        raise Parsed(cli.config['fit'].as_dict())

    with monkeypatch.context() as patch:
        patch.setattr(LightningCLI, 'instantiate_classes', stop)
        patch.setattr(sys, 'argv', ['torchgeo-ekgnet'])
        with pytest.raises(Parsed) as caught:
            main(resolve_args(['fit', *args]))
    found: dict[str, Any] = caught.value.args[0]
    return found


def parsed_by_repeat(args: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration that ``repeat`` would build."""

    def stop(cli: LightningCLI) -> None:
        raise Parsed(cli.config.as_dict())

    found = read_config([args[1]], args[2:])
    places(found)
    with monkeypatch.context() as patch:
        patch.setattr(LightningCLI, 'instantiate_classes', stop)
        with pytest.raises(Parsed) as caught:
            built_run(placed(found, None, Path('work')))
    return caught.value.args[0]


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's result."""
    parts: dict[str, Any] = {}
    for name in ('data', 'model'):
        kept = dict(config[name]['init_args'])
        for argument in NOT_COMPARED.get(name, ()):
            kept.pop(argument, None)
        parts[name] = {**config[name], 'init_args': kept}
    trainer = dict(config['trainer'])
    for argument in NOT_COMPARED['trainer']:
        trainer.pop(argument, None)
    callbacks = trainer.pop('callbacks') or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    parts['callbacks'] = [
        callback
        for callback in callbacks
        if callback['class_path'].rpartition('.')[2] not in SHOWN
    ]
    chosen = {name: config.get(name) for name in ('optimizer', 'lr_scheduler')}
    return {**parts, **chosen, 'trainer': trainer}


OVERRIDES = [
    ['--trainer.max_epochs', '7', '--trainer.precision', 'bf16-true'],
    ['--trainer.callbacks', 'null'],
    ['--trainer.callbacks', f'{PACKAGE}.callbacks.TemperatureAnnealing'],
    [
        f'--trainer.callbacks+={PACKAGE}.callbacks.TemperatureAnnealing',
        '--trainer.callbacks.step=null',
        '--trainer.callbacks.decay=0.8',
    ],
    ['--trainer.callbacks+=EarlyStopping', '--trainer.callbacks.monitor=val_loss'],
    ['--trainer.gradient_clip_val', 'null', '--trainer.check_val_every_n_epoch', '2'],
    ['--trainer.limit_train_batches', 'null', '--trainer.accelerator', 'cpu'],
    ['--data.batch_size', '16', '--data.patch_size', '5'],
    ['--data.split', 'null'],
    ['--data.split', RANDOM, '--data.split.train', '0.3', '--data.split.val', '0.2'],
    ['--data.split.init_args.seed', '9'],
    [
        '--data.split',
        f'{PACKAGE}.datasets.MatchedSplit',
        f'--data.split.split={RANDOM}',
        '--data.split.split.train=0.2',
        f'--data.split.to={PACKAGE}.datasets.DisjointSplit',
        '--data.split.to.guard=patch',
    ],
    ['--model.model', 'ssrn', '--model.lr', '0.01', '--model.lr_schedule', 'plateau'],
    ['--model.model_options', '{"num_experts": 3, "drop_rate": null}'],
    ['--model.model_options.num_experts', '3'],
    ['--model.in_channels', 'null', '--model.num_classes', 'null'],
    ['--optimizer', 'SGD', '--optimizer.lr', '0.1', '--optimizer.momentum', '0.9'],
    [
        '--optimizer=AdamW',
        '--lr_scheduler=StepLR',
        '--lr_scheduler.step_size=2',
        '--optimizer.lr=0.1',
    ],
]


CONFIGS = sorted(shipped_configs())


@pytest.mark.parametrize('several', [False, True], ids=['as it is', 'overridden'])
@pytest.mark.parametrize('name', CONFIGS)
def test_same_configuration(
    name: str, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every override with one of the configurations, two or three at a time.
    chosen = OVERRIDES[CONFIGS.index(name) :: len(CONFIGS)] if several else []
    args = ['--config', name, *(word for words in chosen for word in words)]
    fitted = compared(parsed_by_fit(args, monkeypatch))
    assert compared(parsed_by_repeat(args, monkeypatch)) == fitted


def write(folder: Path, **changes: Any) -> Path:
    """A configuration of a small run; *changes* replace whole parts."""
    content: dict[str, Any] = {
        'seed_everything': 3,
        'trainer': {
            'max_epochs': 2,
            'accelerator': 'cpu',
            'callbacks': [
                {
                    'class_path': f'{PACKAGE}.callbacks.RunFolder',
                    'init_args': {'name': 'tiny'},
                },
                {
                    'class_path': f'{PACKAGE}.callbacks.TemperatureAnnealing',
                    'init_args': {'step': None},
                },
                {
                    'class_path': 'lightning.pytorch.callbacks.ModelCheckpoint',
                    'init_args': {
                        'filename': 'best',
                        'monitor': 'val_OA',
                        'mode': 'max',
                    },
                },
            ],
        },
        'model': {
            'class_path': TASK,
            'init_args': {
                'model': 'ekgnet_tiny',
                'model_options': {'block_config': [1]},
            },
        },
        'data': {
            'class_path': f'{PACKAGE}.datamodules.SyntheticSceneDataModule',
            'init_args': {
                'rows': 20,
                'cols': 20,
                'num_bands': 12,
                'num_classes': 3,
                'patch_size': 5,
                'batch_size': 32,
                'split': {
                    'class_path': RANDOM,
                    'init_args': {'train': 0.2, 'val': 0.1, 'seed': 3},
                },
            },
        },
    }
    path = folder / 'tiny.yaml'
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


@pytest.mark.parametrize(
    'overrides',
    [
        ['--data.bands.exclude', '[0, 1]'],
        ['--optimizer', 'SGD', '--optimizer.lr', '0.05'],
        ['--trainer.callbacks', 'null'],
    ],
    ids=' '.join,
)
def test_same_weights(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(write(tmp_path))
    main(['fit', '--config', config, *overrides])
    (fitted,) = tmp_path.glob('**/*.ckpt')
    repeated = with_seed(read_config([config], overrides), 3)
    places(repeated)
    run(repeated, threads=1, keep=tmp_path / 'kept')
    weights = [
        torch.load(path, weights_only=True)['state_dict']
        for path in (fitted, checkpoint_path(repeated, tmp_path / 'kept'))
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_explicit_null_reaches_the_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    # Lightning would warn of arguments beside those of the process.
    monkeypatch.setattr(sys, 'argv', given := ['torchgeo-ekgnet', 'repeat'])
    found = read_config([str(write(tmp_path))], [])
    built = built_run(placed(found, None, tmp_path))
    assert sys.argv == given
    assert not [item for item in recwarn if 'args parameter' in str(item.message)]
    callbacks: list[Any] = built.trainer.callbacks  # type: ignore[attr-defined]
    (annealing,) = (c for c in callbacks if hasattr(c, 'decay'))
    assert annealing.step is None


def test_checkpoint_is_chosen_as_fit_chooses_it(tmp_path: Path) -> None:
    found = read_config([str(write(tmp_path))], [])
    assert found['checkpoint'] == {'monitor': 'val_OA', 'mode': 'max'}
    last = read_config([str(write(tmp_path))], ['--trainer.callbacks', 'null'])
    assert last['checkpoint'] == LAST_EPOCH


def test_subclass_of_a_writer_writes_as_well(tmp_path: Path) -> None:
    chosen = {'class_path': f'{__name__}.OwnFolder', 'init_args': {'name': 'own'}}
    trainer = {'max_epochs': 1, 'callbacks': [chosen]}
    found = read_config([str(write(tmp_path, trainer=trainer))], [])
    assert found['trainer']['callbacks'] == []


def test_options_are_never_built(tmp_path: Path) -> None:
    """A class path where ``fit`` expects a dictionary stays a dictionary."""
    canary = tmp_path / 'canary'
    hostile = {
        'class_path': 'subprocess.Popen',
        'init_args': {'args': ['touch', str(canary)]},
    }
    for place in ('split', 'root', 'rows', 'bands'):
        data = {
            'class_path': f'{PACKAGE}.datamodules.SyntheticSceneDataModule',
            'init_args': {place: hostile},
        }
        with pytest.raises((Exception, SystemExit)):
            build_data({'data': data})
        with pytest.raises((Exception, SystemExit)):
            read_config([str(write(tmp_path, data=data))], [])
    assert not canary.exists()


def test_last_epoch_is_tested_though_it_was_not_validated(tmp_path: Path) -> None:
    more = ['--trainer.callbacks', 'null', '--trainer.max_epochs', '3']
    found = read_config(
        [str(write(tmp_path))], [*more, '--trainer.check_val_every_n_epoch', '2']
    )
    result = run(with_seed(found, 1), threads=1)
    assert result['epochs'] == result['tested_epoch'] == 3
    assert result['curves']['train_epoch'] == [1, 2, 3]
    assert result['curves']['val_epoch'] == [2]


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('devices', '2'),
        ('fast_dev_run', 'true'),
        ('limit_test_batches', '1'),
        ('overfit_batches', '1'),
    ],
)
def test_runs_that_are_no_results(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f'--trainer.{option}: found'):
        read_config([str(write(tmp_path))], [f'--trainer.{option}', value])


def test_weights_are_part_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / 'w.ckpt'
    contents = []
    for text in ('one', 'other', None):
        if text is not None:
            path.write_text(text)
        found = read_config([str(write(tmp_path))], [])
        if text is not None:
            found['model']['init_args']['weights'] = str(path)
        contents.append(content_of(found))
    assert contents[0]['weights'] != contents[1]['weights']
    assert 'weights' not in contents[2]
