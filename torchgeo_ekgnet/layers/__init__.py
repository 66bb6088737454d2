# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Layers that any network can use; they need torch alone.

Importing them changes nothing in the process. The commands of this package call
:func:`keep_freed_memory` before they work; programs that train on a CPU may as well.

Where to find what, in the order in which a call comes through:

* what a network holds: ``dynamic_expert_conv``, ``context_mapping``, ``grouped_conv``,
  ``pooling``; networks call them through ``norm``, which joins a convolution with the
  normalization and activation behind it;
* ``functional``: the two functions that all convolutions go through, and the list of
  strategies; ``rule`` chooses one of them, ``compiled`` lets a compiled graph choose when
  it runs;
* one strategy a module: ``products`` (1x1x1 experts); of static kernels ``unrolled`` and
  ``direct`` on a CPU, ``static_gpu`` on a GPU;
* mapping networks in one call: ``mapped`` (GPU), ``mapped_cpu``; normalization of training
  batches: ``norm`` (GPU), ``norm_cpu``;
* kernels in Triton: ``kernels``, of which ``trial`` says whether they run here and are
  faster; kernels in C (``_direct.c``, ``_mapping.c``): ``operators`` and, for mapping
  networks, ``mapped_cpu`` call them;
* what several of them need: ``geometry`` (shapes and steps), ``derivatives`` (second
  derivatives beside gradients that are written out);
* for whole networks: ``convert``, ``attention``, ``modes``, ``memory``.
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
