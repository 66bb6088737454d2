# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data modules: one for every scene, over one that does the work."""

from .batches import PixelDataset, collate_pixels
from .botswana import BotswanaDataModule
from .custom import CustomSceneDataModule
from .houston2013 import Houston2013DataModule
from .indian_pines import IndianPinesDataModule
from .ksc import KSCDataModule
from .labelled_pixels import LabelledPixelsDataModule
from .pavia_centre import PaviaCentreDataModule
from .pavia_university import PaviaUniversityDataModule
from .salinas import SalinasADataModule, SalinasDataModule
from .scene import HyperspectralDataModule
from .synthetic import SyntheticSceneDataModule

__all__ = (
    'BotswanaDataModule',
    'CustomSceneDataModule',
    'Houston2013DataModule',
    'HyperspectralDataModule',
    'IndianPinesDataModule',
    'KSCDataModule',
    'LabelledPixelsDataModule',
    'PaviaCentreDataModule',
    'PaviaUniversityDataModule',
    'PixelDataset',
    'SalinasADataModule',
    'SalinasDataModule',
    'SyntheticSceneDataModule',
    'collate_pixels',
)
