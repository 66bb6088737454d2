# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Samplers over labelled pixels."""

from .centre_label import CentreLabel
from .labelled_pixels import LabelledPixelSampler
from .pixels import ClassBalancedSampler, PerClassSampler, PixelSampler

__all__ = (
    'CentreLabel',
    'ClassBalancedSampler',
    'LabelledPixelSampler',
    'PerClassSampler',
    'PixelSampler',
)
