# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Normalisation, components, augmentation and patches of spectra."""

from .augmentation import RandomOrientation, SpectralJitter, orient
from .normalization import SpectralNormalizer
from .patches import PatchSource, gather_patches
from .pca import SpectralPCA

__all__ = (
    'PatchSource',
    'RandomOrientation',
    'SpectralJitter',
    'SpectralNormalizer',
    'SpectralPCA',
    'gather_patches',
    'orient',
)
