# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the command line chooses by itself."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torchgeo_ekgnet.cli import CommandLine


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
