# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Layers that any network can use; they need torch alone.

Importing them changes nothing in the process. The commands of this package call
:func:`keep_freed_memory` before they work; programs that train on a CPU may as well.
"""

from .attention import mean_attention, record_attention
from .context_mapping import ContextMapping, pool_context
from .convert import convert_conv3d, expert_conv_from
from .dynamic_expert_conv import DynamicExpertConv3d, expert_convs
from .functional import STRATEGIES, conv_strategy, expert_conv3d, grouped_conv3d
from .grouped_conv import GroupedConv3d
from .memory import keep_freed_memory
from .pooling import AveragePool3d

__all__ = (
    'STRATEGIES',
    'AveragePool3d',
    'ContextMapping',
    'DynamicExpertConv3d',
    'GroupedConv3d',
    'conv_strategy',
    'convert_conv3d',
    'expert_conv3d',
    'expert_conv_from',
    'expert_convs',
    'grouped_conv3d',
    'keep_freed_memory',
    'mean_attention',
    'pool_context',
    'record_attention',
)
