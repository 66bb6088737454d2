# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""torchgeo_ekgnet datasets."""

from .base import MatSceneDataset, SceneDataset
from .botswana import Botswana
from .custom import CustomScene, open_scene
from .houston2013 import Houston2013
from .indian_pines import IndianPines
from .ksc import KSC
from .pavia_centre import PaviaCentre
from .pavia_university import PaviaUniversity
from .salinas import Salinas, SalinasA
from .scene import BandSelection, HyperspectralScene
from .splits import RandomSplit, Split, SplitProtocol
from .synthetic import SyntheticScene, synthetic_scene

__all__ = (
    'KSC',
    'BandSelection',
    'Botswana',
    'CustomScene',
    'Houston2013',
    'HyperspectralScene',
    'IndianPines',
    'MatSceneDataset',
    'PaviaCentre',
    'PaviaUniversity',
    'RandomSplit',
    'Salinas',
    'SalinasA',
    'SceneDataset',
    'Split',
    'SplitProtocol',
    'SyntheticScene',
    'open_scene',
    'synthetic_scene',
)
