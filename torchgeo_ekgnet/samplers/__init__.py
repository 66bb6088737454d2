# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Samplers over labelled pixels."""

from .labelled_pixels import CentreLabel, LabelledPixelSampler
from .pixels import ClassBalancedSampler, PerClassSampler, PixelSampler

__all__ = (
    'CentreLabel',
    'ClassBalancedSampler',
    'LabelledPixelSampler',
    'PerClassSampler',
    'PixelSampler',
)
