# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The networks; importing this room registers them with timm."""

from ._contract import SpectralSpatialNet
from ._dense import DenseNet3d
from .ekgnet import EKGNet

__all__ = ('DenseNet3d', 'EKGNet', 'SpectralSpatialNet')
