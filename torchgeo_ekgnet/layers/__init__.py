# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""torchgeo_ekgnet layers."""

from .context_mapping import ContextMapping
from .dynamic_expert_conv import DynamicExpertConv3d, expert_convs
from .functional import expert_conv3d
from .grouped_conv import GroupedConv3d
from .pooling import AveragePool3d

__all__ = (
    'AveragePool3d',
    'ContextMapping',
    'DynamicExpertConv3d',
    'GroupedConv3d',
    'expert_conv3d',
    'expert_convs',
)
