# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What tests of the kernels share."""

from collections.abc import Callable, Iterator

import pytest
import torch

from torchgeo_ekgnet.layers import trial

from .marks import DEVICE


@pytest.fixture
def fresh_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try ways on the CPU as well, in float32 as such, and forget what was chosen."""
    monkeypatch.setattr(trial, 'DEVICES', (DEVICE,))
    monkeypatch.setattr(trial, '_chosen', {})
    monkeypatch.setattr(trial, '_broken', set())
    monkeypatch.setattr(trial, '_doubted', set())
    # Also where there is TF32.
    monkeypatch.setattr(trial, 'rounds', lambda: (False, False))
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.fixture
def use_threads() -> Iterator[Callable[[int], None]]:
    """Choose the number of threads, for this test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
