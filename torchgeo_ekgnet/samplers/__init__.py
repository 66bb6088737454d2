# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Samplers over labelled pixels."""

from .pixels import ClassBalancedSampler, PerClassSampler

__all__ = ('ClassBalancedSampler', 'PerClassSampler')
