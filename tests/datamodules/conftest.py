# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Fixtures of data modules."""

from typing import Any

import pytest
import timm
from torch import nn
from torchgeo.trainers import ClassificationTask

from .small import Linear


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> ClassificationTask:
    def create_model(
        name: str, num_classes: int, in_chans: int, **kwargs: Any
    ) -> nn.Module:
        return Linear(num_classes, in_chans)

    monkeypatch.setattr(timm, 'create_model', create_model)
    return ClassificationTask(model='linear', in_channels=8, num_classes=3, lr=0.05)
