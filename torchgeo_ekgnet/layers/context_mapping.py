# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The context mapping network (Section 2.2.1)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE_FLOOR = 0.01


class ContextMapping(nn.Module):
    """Map pooled features to softmax weights over K experts.

    Args:
        in_channels: Channels of the input.
        num_experts: Number of experts K.
        num_blocks: Residual blocks N.
        units_per_block: BN-GELU-convolution units in a block.
        learnable_residual: Whether the residual weight alpha is learnt.
        temperature: Initial temperature.
    """

    def __init__(
        self,
        in_channels: int,
        num_experts: int = 4,
        num_blocks: int = 2,
        *,
        units_per_block: int = 1,
        learnable_residual: bool = True,
        temperature: float = 34.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Initialize."""
        super().__init__()
        self.in_channels = in_channels
        self.num_experts = num_experts
        self.blocks = nn.ModuleList(
            MappingBlock(in_channels, units_per_block, learnable_residual)
            for _ in range(num_blocks)
        )
        self.norm = nn.BatchNorm3d(in_channels)
        self.project = nn.Conv3d(in_channels, num_experts, 1)
        self.raw_temperature = nn.Parameter(torch.zeros(()))
        self.set_temperature(temperature)
        self.to(device=device, dtype=dtype)

    @property
    def temperature(self) -> Tensor:
        """The temperature tau."""
        return TEMPERATURE_FLOOR + F.softplus(self.raw_temperature)

    def set_temperature(self, value: float) -> None:
        """Set the temperature."""
        rest = max(value - TEMPERATURE_FLOOR, 1e-6)
        with torch.no_grad():
            self.raw_temperature.fill_(rest + math.log(-math.expm1(-rest)))

    def update_temperature(self, step: float = 3.0, end: float = 1.0) -> None:
        """Lower the temperature by one step."""
        self.set_temperature(max(float(self.temperature) - step, end))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K) weights."""
        g = x.mean(dim=(2, 3, 4), keepdim=True)
        for block in self.blocks:
            g = block(g)
        logits = self.project(self.norm(g)).flatten(1)
        tau = TEMPERATURE_FLOOR + F.softplus(self.raw_temperature)
        return torch.softmax(logits / tau, dim=1)


class MappingBlock(nn.Module):
    """Residual block of BN, GELU and 1x1x1 convolution."""

    def __init__(self, channels: int, units: int, learnable: bool) -> None:
        """Initialize."""
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(units):
            layers += [
                nn.BatchNorm3d(channels),
                nn.GELU(),
                nn.Conv3d(channels, channels, 1),
            ]
        self.units = nn.Sequential(*layers)
        self.residual_weight = nn.Parameter(torch.ones(1))
        self.learnable = learnable

    def forward(self, g: Tensor) -> Tensor:
        """Apply the block."""
        alpha = self.residual_weight
        if not self.learnable:
            alpha = 1 + 0 * alpha
        return alpha * self.units(g) + g
