# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""torchgeo_ekgnet datasets."""

from .base import MatSceneDataset, SceneDataset
from .indian_pines import IndianPines
from .salinas import Salinas, SalinasA
from .scene import BandSelection, HyperspectralScene
from .splits import RandomSplit, Split, SplitProtocol
from .synthetic import SyntheticScene, synthetic_scene

__all__ = (
    'BandSelection',
    'HyperspectralScene',
    'IndianPines',
    'MatSceneDataset',
    'RandomSplit',
    'Salinas',
    'SalinasA',
    'SceneDataset',
    'Split',
    'SplitProtocol',
    'SyntheticScene',
    'synthetic_scene',
)
