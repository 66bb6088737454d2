# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Static grouped convolution."""

from torch import nn


class GroupedConv3d(nn.Conv3d):
    """nn.Conv3d on the package's fast path."""
