# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data modules: one for every scene, over one that does the work."""

from .indian_pines import IndianPinesDataModule
from .salinas import SalinasADataModule
from .scene import HyperspectralDataModule
from .synthetic import SyntheticSceneDataModule

__all__ = (
    'HyperspectralDataModule',
    'IndianPinesDataModule',
    'SalinasADataModule',
    'SyntheticSceneDataModule',
)
