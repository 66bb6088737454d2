# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The networks; importing this subpackage registers them with timm."""

from ._contract import SpectralSpatialNet
from ._registration import network_class, own_models
from ._skeleton import DenseSkeleton
from .cnn3d import CNN3d
from .dacnet import DACNet
from .densenet3d import DenseNet3d
from .dgcnet import DGCNet
from .ekgnet import EKGNet
from .lgcnet import LGCNet
from .spectralformer import SpectralFormer
from .ssrn import SSRN

__all__ = (
    'SSRN',
    'CNN3d',
    'DACNet',
    'DGCNet',
    'DenseNet3d',
    'DenseSkeleton',
    'EKGNet',
    'LGCNet',
    'SpectralFormer',
    'SpectralSpatialNet',
    'network_class',
    'own_models',
)
