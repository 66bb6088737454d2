# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A small scene and a small network for the tests of maps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.transforms.normalization import SpectralNormalizer
from torchgeo_ekgnet.transforms.patches import PatchSource

BANDS, PATCH = 6, 5


def make_scene(rows: int = 21, cols: int = 17, **options: Any) -> HyperspectralScene:
    """Make a scene with a few pixels without data or label."""
    random = np.random.default_rng(3)
    cube = random.normal(size=(rows, cols, BANDS)).astype(np.float32)
    labels = random.choice([0, 2, 5, 9], size=(rows, cols))
    valid = np.ones((rows, cols), dtype=bool)
    valid[4:7, 9:12] = False
    settings: dict[str, Any] = {
        'name': 'tiny',
        'class_names': {2: 'Grass', 5: 'Wood', 9: 'Water'},
        'wavelengths': np.linspace(450, 950, BANDS),
        'valid': valid,
        'synthetic': True,
        'source': 'made for tests',
    }
    return HyperspectralScene(cube, labels, **(settings | options))


class Network(nn.Module):
    """Two small layers that see the whole patch."""

    def __init__(self, bands: int = BANDS, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(bands, 8, PATCH)
        self.last = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(torch.relu(self.first(x)).flatten(1))
        return logits


@pytest.fixture
def scene() -> HyperspectralScene:
    return make_scene()


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture
def patches_of() -> Callable[[HyperspectralScene], PatchSource]:
    def make(scene: HyperspectralScene) -> PatchSource:
        return PatchSource(scene, SpectralNormalizer('zscore').fit(scene), PATCH)

    return make
