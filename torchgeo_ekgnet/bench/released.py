# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The structure of the released program, as an arm of the benchmark.

What users of arXiv 2504.13045 run today: bands on the last axis, every context pooled
anew, the batch folded into groups, plain grouped convolutions, each concatenation a
copy. Parameters have the names of the released checkpoints, so that
``ekgnet_base_reference`` loads a state dict of this network and computes the same.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ('ReleasedNet',)


class _Residual(nn.Module):
    """Add the pooled maps; alpha is stored and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, mapped: Tensor, pooled: Tensor) -> Tensor:
        return mapped + pooled


class _ExpertConv(nn.Module):
    """1x1x1 experts, mixed per sample and applied with the batch as groups."""

    def __init__(self, channels: int, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, width, channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(experts, width))
        self.temperature = nn.Parameter(torch.tensor(34.0))
        units: list[nn.Module] = []
        for _ in range(2):
            units += [
                nn.BatchNorm3d(channels),
                nn.GELU(),
                nn.Conv3d(channels, channels, 1),
            ]
        self.keys = nn.Sequential(
            *units,
            _Residual(),
            nn.BatchNorm3d(channels),
            nn.Conv3d(channels, experts, 1),
        )

    def _attention(self, x: Tensor) -> Tensor:
        """Weigh the experts by the mean of the maps."""
        pooled = F.adaptive_avg_pool3d(x, 1)
        keys = pooled
        for module in self.keys:
            if isinstance(module, _Residual):
                keys = module(keys, pooled)
            else:
                keys = module(keys)
        return F.softmax(keys.flatten(1) / self.temperature, 1)

    def forward(self, x: Tensor) -> Tensor:
        attention = self._attention(x)
        batch, channels = x.shape[:2]
        experts, width = self.bias.shape
        mixed = attention @ self.weight.view(experts, -1)
        y = F.conv3d(
            x.reshape(1, batch * channels, *x.shape[2:]),
            mixed.view(batch * width, channels, 1, 1, 1),
            (attention @ self.bias).view(-1),
            groups=batch,
        )
        return y.view(batch, width, *x.shape[2:])


class _DenseLayer(nn.Module):
    """Experts, BN, ReLU, 3x3x3 in four groups; the input is copied in front."""

    def __init__(self, channels: int, growth: int, experts: int) -> None:
        super().__init__()
        width = 4 * growth
        conv = nn.Conv3d(width, growth, 3, padding=1, groups=4, bias=False)
        self.conv_1 = _ExpertConv(channels, width, experts)
        self.conv_2 = nn.Sequential(
            OrderedDict(
                norm=nn.BatchNorm3d(width), relu=nn.ReLU(inplace=True), conv=conv
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv_2(self.conv_1(x))], 1)


class ReleasedNet(nn.Module):
    """EKGNet as the released program lays it out.

    Args:
        num_classes: Number of classes.
        block_config: Dense layers of each block.
        growth_rate: Channels that a layer of the first block adds.
        num_experts: Experts of a layer.
    """

    def __init__(
        self,
        num_classes: int,
        block_config: Sequence[int] = (4, 6, 8),
        growth_rate: int = 8,
        num_experts: int = 4,
    ) -> None:
        """Make the network."""
        super().__init__()
        channels = 2 * growth_rate
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts['init_conv'] = nn.Conv3d(1, channels, 3, 2, 1, bias=False)
        for block, layers in enumerate(block_config):
            growth = growth_rate * 2**block
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for layer in range(layers):
                name = f'denselayer_{layer + 1}'
                stage[name] = _DenseLayer(channels, growth, num_experts)
                channels += growth
            parts[f'denseblock_{block + 1}'] = nn.Sequential(stage)
            if block < len(block_config) - 1:
                parts[f'transition_{block + 1}'] = nn.AvgPool3d(2, 2)
        self.features = nn.Sequential(parts)
        self.bn_last = nn.BatchNorm3d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def kernels(self) -> list[int]:
        """Give the numbers of weights of stem, experts and convolutions, in order."""
        return [
            module.weight.numel()
            for module in self.features.modules()
            if (isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3))
            or isinstance(module, _ExpertConv)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Classify patches (B, bands, P, P)."""
        x = self.features(x.permute(0, 2, 3, 1).unsqueeze(1))
        x = F.adaptive_avg_pool3d(F.relu(self.bn_last(x)), 1)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits
