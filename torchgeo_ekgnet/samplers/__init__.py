# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Samplers over labelled pixels."""

from .centre_label import CentreLabel
from .class_balance import ClassBalancedSampler, PerClassSampler, PixelSampler
from .labelled_pixels import LabelledPixelSampler

__all__ = (
    'CentreLabel',
    'ClassBalancedSampler',
    'LabelledPixelSampler',
    'PerClassSampler',
    'PixelSampler',
)
