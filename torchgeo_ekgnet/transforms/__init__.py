# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Normalisation, components, augmentation and patches of spectra."""

from .augmentation import PatchAugmentation, orient
from .normalization import SpectralNormalizer
from .patches import PatchSource, gather_patches
from .pca import SpectralPCA

__all__ = (
    'PatchAugmentation',
    'PatchSource',
    'SpectralNormalizer',
    'SpectralPCA',
    'gather_patches',
    'orient',
)
