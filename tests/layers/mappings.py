# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mapping networks whose parameters are all of some weight, and a network with two."""

from typing import Any

import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import ContextMapping, DynamicExpertConv3d


def make_mapping(channels: int, **options: Any) -> Any:
    """A mapping network of three experts, unless another number is asked for."""
    torch.manual_seed(0)
    mapping = ContextMapping(channels, **{'num_experts': 3, **options})
    for module in mapping.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    for block in mapping.blocks:
        nn.init.constant_(block.residual_weight, 0.7)  # type: ignore[arg-type]
    return mapping


def expert_network() -> Any:
    """Two expert convolutions of different K."""
    torch.manual_seed(0)
    return nn.Sequential(
        DynamicExpertConv3d(2, 4, 1, num_experts=3, temperature=0.5),
        nn.ReLU(),
        DynamicExpertConv3d(4, 5, 3, padding=1, num_experts=2, temperature=0.5),
    ).eval()


def spread(tensor: Tensor) -> Tensor:
    """Give the same values with gaps between them in memory."""
    return tensor.repeat_interleave(2).view(*tensor.shape, 2)[..., 0]
