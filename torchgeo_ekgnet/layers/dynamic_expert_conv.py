# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A 3D convolution whose kernel is assembled per sample (Section 2.2.2)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _triple

from .context_mapping import ContextMapping
from .functional import expert_conv3d


class DynamicExpertConv3d(nn.Module):
    """Drop-in replacement of nn.Conv3d."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
        dilation: int | tuple[int, int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_experts: int = 4,
        temperature: float = 34.0,
        num_mapping_blocks: int = 2,
        mapping_units_per_block: int = 1,
        learnable_residual: bool = True,
        mapping: nn.Module | None = None,
    ) -> None:
        """Initialize."""
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _triple(kernel_size)
        self.stride = _triple(stride)
        self.padding = _triple(padding)
        self.dilation = _triple(dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        self.num_experts = num_experts
        self.weight = nn.Parameter(
            torch.empty(
                num_experts,
                out_channels,
                in_channels // groups,
                *self.kernel_size,
                device=device,
                dtype=dtype,
            )
        )
        self.bias = (
            nn.Parameter(
                torch.zeros(num_experts, out_channels, device=device, dtype=dtype)
            )
            if bias
            else None
        )
        self.mapping = (
            ContextMapping(
                in_channels,
                num_experts,
                num_mapping_blocks,
                units_per_block=mapping_units_per_block,
                learnable_residual=learnable_residual,
                temperature=temperature,
                device=device,
                dtype=dtype,
            )
            if mapping is None
            else mapping
        )
        fan_in = self.weight[0, 0].numel()
        std = fan_in**-0.5
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    @property
    def temperature(self) -> Tensor:
        """The temperature tau."""
        return self.mapping.temperature

    def update_temperature(self, step: float = 3.0, end: float = 1.0) -> None:
        """Lower the temperature."""
        self.mapping.update_temperature(step, end)

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return (B, K) weights."""
        return self.mapping(x)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return expert_conv3d(
            x,
            self.mapping(x),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


def expert_convs(module: nn.Module) -> Iterator[tuple[str, DynamicExpertConv3d]]:
    """Yield the dynamic convolutions of a network with their names."""
    for name, child in module.named_modules():
        if isinstance(child, DynamicExpertConv3d):
            yield name, child
