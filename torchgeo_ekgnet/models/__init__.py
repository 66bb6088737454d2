# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The networks; importing this room registers them with timm."""

from ._contract import SpectralSpatialNet
from ._dense import DenseNet3d
from .cnn3d import CNN3d
from .dacnet import DACNet
from .densenet3d import BottleneckDenseNet3d
from .dgcnet import DGCNet
from .ekgnet import EKGNet
from .lgcnet import LGCNet
from .spectralformer import SpectralFormer
from .ssrn import SSRN

__all__ = (
    'SSRN',
    'BottleneckDenseNet3d',
    'CNN3d',
    'DACNet',
    'DGCNet',
    'DenseNet3d',
    'EKGNet',
    'LGCNet',
    'SpectralFormer',
    'SpectralSpatialNet',
)
