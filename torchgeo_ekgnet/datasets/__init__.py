# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Scenes, their labels and their splits.

The way of a file to a scene: ``custom`` (own scenes) and the modules of public scenes
(over ``base``) say which files there are; ``sources`` opens cubes, ``label_files`` and
``vector`` read labels, ``raster`` brings these to its grid; ``bands``, ``units``,
``nodata`` and ``labels`` settle what the values mean; ``scene`` holds the result.
``splits`` says which of its pixels train. ``windows`` cuts a scene for maps, ``plotting``
draws it, and ``label_raster`` stands apart: labels for torchgeo's own images.
"""

from .bands import BandSelection
from .base import MatSceneDataset, SceneDataset
from .botswana import Botswana
from .custom import CustomScene, open_scene
from .houston2013 import Houston2013
from .indian_pines import IndianPines
from .ksc import KSC
from .label_raster import LabelRaster
from .options import SceneOptions
from .pavia_centre import PaviaCentre
from .pavia_university import PaviaUniversity
from .salinas import Salinas, SalinasA
from .scene import HyperspectralScene
from .splits import (
    BlockSplit,
    CommunitySplit,
    CountSplit,
    DisjointSplit,
    DrawnSplit,
    FoldSplit,
    GroupSplit,
    MaskSplit,
    MatchedSplit,
    Overlap,
    ProtocolComparison,
    RandomSplit,
    SavedSplit,
    Split,
    SplitProtocol,
    compare_protocols,
    match_counts,
)
from .synthetic import SyntheticScene, synthetic_scene

__all__ = (
    'KSC',
    'BandSelection',
    'BlockSplit',
    'Botswana',
    'CommunitySplit',
    'CountSplit',
    'CustomScene',
    'DisjointSplit',
    'DrawnSplit',
    'FoldSplit',
    'GroupSplit',
    'Houston2013',
    'HyperspectralScene',
    'IndianPines',
    'LabelRaster',
    'MaskSplit',
    'MatSceneDataset',
    'MatchedSplit',
    'Overlap',
    'PaviaCentre',
    'PaviaUniversity',
    'ProtocolComparison',
    'RandomSplit',
    'Salinas',
    'SalinasA',
    'SavedSplit',
    'SceneDataset',
    'SceneOptions',
    'Split',
    'SplitProtocol',
    'SyntheticScene',
    'compare_protocols',
    'match_counts',
    'open_scene',
    'synthetic_scene',
)
