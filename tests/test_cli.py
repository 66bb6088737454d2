# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the command line chooses by itself, and what it says of checkpoints."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import rasterio
import torch
from lightning.pytorch.cli import LightningCLI
from rasterio.env import get_gdal_config

from torchgeo_ekgnet import cli
from torchgeo_ekgnet._compat import BaseTask
from torchgeo_ekgnet._messages import imported
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.checkpoint import read_checkpoint
from torchgeo_ekgnet.cli import CommandLine, Parser
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


@pytest.mark.parametrize(
    ('trainer', 'model', 'card', 'expected'),
    [
        ({}, 'ekgnet_base', 9, 'bf16-mixed'),
        ({'accelerator': 'gpu', 'precision': None}, 'ekgnet_tiny', 8, 'bf16-mixed'),
        ({}, 'ekgnet_base', 7, None),
        ({}, 'ekgnet_base', None, None),
        ({'accelerator': 'cpu'}, 'ekgnet_base', 9, None),
        ({'precision': '32-true'}, 'ekgnet_base', 9, None),
        ({'plugins': ['some']}, 'ekgnet_base', 9, None),
        ({}, 'ekgnet_large_reference', 9, None),
        ({}, 'dacnet', 9, None),
        ({}, 'resnet18', 9, None),
        ({}, None, 9, None),
    ],
)
def test_precision_follows_card_and_network(
    trainer: dict[str, Any],
    model: str | None,
    card: int | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: card is not None)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (card, 0))
    command = CommandLine.__new__(CommandLine)
    task = SimpleNamespace(hparams={} if model is None else {'model': model})
    command.config = SimpleNamespace(subcommand=None)
    command.config_init = {'trainer': trainer, 'model': task}
    monkeypatch.setattr(
        CommandLine, '_get', lambda self, config, key, default=None: config[key]
    )
    assert command._precision() == expected


@pytest.mark.parametrize(
    ('trainer', 'mps', 'expected'),
    [
        ({}, True, 'cpu'),
        ({'accelerator': 'auto'}, True, 'cpu'),
        ({'accelerator': 'mps'}, True, None),
        ({}, False, None),
    ],
)
def test_mps_is_taken_only_where_it_is_asked_for(
    trainer: dict[str, Any],
    mps: bool,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)
    monkeypatch.setattr(CommandLine, '_precision', lambda self: None)
    monkeypatch.setattr(
        CommandLine, '_get', lambda self, config, key, default=None: config[key]
    )
    monkeypatch.setattr(
        LightningCLI, 'instantiate_trainer', lambda self, **given: given
    )
    command = CommandLine.__new__(CommandLine)
    command.config_init = {'trainer': trainer}
    given: Any = command.instantiate_trainer()
    assert given.get('accelerator') == expected


def _step_with_odd_state() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    optimizer.state[weight]['exp_avg'] = 'odd'
    optimizer.step()


@pytest.mark.parametrize(
    ('path', 'stage', 'error', 'message'),
    [
        (
            'run/last.ckpt',
            _step_with_odd_state,
            FileError,
            r'run/last\.ckpt: the state of the .* \(AttributeError: .*\), expected what',
        ),
        (None, _step_with_odd_state, AttributeError, "'str' object has no attribute"),
        ('run/last.ckpt', lambda: os.environ['no such variable'], KeyError, 'such'),
        ('no.ckpt', lambda: read_checkpoint('no.ckpt'), FileNotFoundError, 'no.ckpt'),
    ],
    ids=['state', 'no checkpoint', 'another cause', 'ours'],
)
def test_checkpoint_whose_training_cannot_go_on_is_named(
    path: str | None,
    stage: Callable[[], Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LightningCLI, '_run_subcommand', lambda self, name: stage())
    command = CommandLine.__new__(CommandLine)
    command.config = {'fit': {'ckpt_path': path}}
    with pytest.raises(error) as raised:
        command._run_subcommand('fit')
    assert type(raised.value) is error
    assert re.search(message, str(raised.value)) and '\n' not in str(raised.value)


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (['test', '--help'], ['test']),
        (['--config', 'all.yaml', 'fit'], ['fit', 'validate', 'test', 'predict']),
        ({'fit': {}}, ['fit', 'validate', 'test', 'predict']),
        ([], ['fit', 'validate', 'test', 'predict']),
    ],
    ids=str,
)
def test_only_the_parser_that_is_needed_is_built(
    given: Any, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[str]] = []

    def setup(self: CommandLine, *others: Any) -> None:
        found.append(list(self.subcommands()))
        raise InterruptedError

    monkeypatch.setattr(CommandLine, 'setup_parser', setup)
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', *given])
    for options in (
        ({'args': given}, {}) if isinstance(given, list) else ({'args': given},)
    ):
        with pytest.raises(InterruptedError):
            CommandLine(**options)
    assert found == [expected] * len(found) and found


def test_hyperparameters_without_a_class_are_of_the_class_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a training in Python leaves those of torchgeo's tasks."""
    stage, command = Parser(), CommandLine.__new__(CommandLine)
    stage.add_argument('--ckpt_path')
    stage.add_subclass_arguments(BaseTask, 'model')
    command.parser = Parser()
    command.parser.add_subcommands().add_subcommand('test', stage)
    given = '--model=HyperspectralClassificationTask --model.lr=1 --ckpt_path=a.ckpt'
    command.config = command.parser.parse_args(['test', *given.split()])
    command._saved = {'model': 'ssrn', 'lr': 0.5}
    with pytest.warns(UserWarning, match='replaces .*lr 1.0 by 0.5; '):
        command._parse_ckpt_path()
    model = command.config.test.model
    assert imported(model.class_path) is HyperspectralClassificationTask
    assert (model.init_args.model, model.init_args.lr) == ('ssrn', 0.5)

    command._saved = {'model': 'ssrn', 'bonus': 1}
    match = r'^a\.ckpt: .* not accepted \(.* takes no bonus\), .* that --model names$'
    with pytest.raises(FileError, match=match):
        command._parse_ckpt_path()
    monkeypatch.setattr(LightningCLI, '_parse_ckpt_path', Mock(side_effect=SystemExit))
    command._saved['_class_path'] = 'torchgeo_ekgnet.tasks.Own'
    with pytest.raises(FileError, match=r'^a\.ckpt: .* not accepted '):
        command._parse_ckpt_path()


def test_gdal_is_left_as_it_was() -> None:
    name = 'GDAL_DISABLE_READDIR_ON_OPEN'
    before = get_gdal_config(name, normalize=False)  # torchgeo's command leaves its own
    with cli._gdal_settings():
        assert get_gdal_config(name, normalize=False) == 'EMPTY_DIR'
        # As where a raster is opened.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=False):
            pass
        assert get_gdal_config(name, normalize=False) == 'EMPTY_DIR'
    assert get_gdal_config(name, normalize=False) == before


def test_configurations_are_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are parsed, not where they are written."""
    parser = Parser()
    parser.add_argument('--name', default='x')
    config = parser.parse_args([])
    check = Mock()
    monkeypatch.setattr(Parser, 'validate', check)
    parser.save(config, tmp_path / 'c.yaml', overwrite=True, multifile=False)
    text = parser.dump(config)
    assert (tmp_path / 'c.yaml').read_text(encoding='utf-8') == text == 'name: x\n'
    check.assert_not_called()
