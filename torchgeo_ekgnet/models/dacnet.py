# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""DACNet: a 3D-DenseNet whose 1x1x1 convolutions are mixed by plain attention.

Dynamic convolution ("Dynamic Convolution: Attention over Convolution Kernels",
https://arxiv.org/abs/1912.03458) in the skeleton of EKGNet, as EKGNet's authors use it.
The attention is a squeeze-and-excitation network in place of EKGNet's contextual
mapping. As released, two more things differ from EKGNet: kernels start with unit
variance instead of a truncated normal draw, and the temperature stays at 34. For an
ablation of the mapping alone pass ``expert_init='trunc_normal'`` and anneal both with
``TemperatureAnnealing``; what remains is that EKGNet goes on to learn its temperature.
"""

import math
from typing import Any, Literal

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from ..layers import DynamicExpertConv3d
from ._registration import create_spectral_model, register_network, spectral_cfg
from ._skeleton import DenseSkeleton

__all__ = ['DACNet', 'SqueezeAttention']


def _check_positive(name: str, value: float) -> None:
    """Refuse what is not a positive number: zero, infinity, NaN."""
    if not 0 < value < math.inf:
        raise ValueError(f'{name} must be positive and finite, found {value}')


class SqueezeAttention(nn.Module):
    """Attention over kernels from the channels' means: two linear maps and a softmax.

    Args:
        in_channels: Channels of the input.
        num_experts: Number K of kernels.
        ratio: Width of the hidden layer in input channels; one is added.
        temperature: Temperature tau of the softmax.

    Raises:
        ValueError: If ``ratio`` or ``temperature`` is not positive.
    """

    #: The attention of a map and of its mean over space are the same.
    needs_only_context = True

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        num_experts: int = 4,
        ratio: float = 0.25,
        temperature: float = 34.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layers."""
        super().__init__()
        _check_positive('ratio', ratio)
        _check_positive('temperature', temperature)
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        hidden = int(in_channels * ratio) + 1
        self.squeeze = nn.Linear(in_channels, hidden, bias=False, **dd)
        self.act = nn.ReLU()
        self.excite = nn.Linear(hidden, num_experts, bias=False, **dd)
        self.register_buffer(
            'temperature', torch.full((), float(temperature), device=device)
        )
        self._start = float(temperature)

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """Set the temperature to its start; what lies inside has methods of its own."""
        self.set_temperature(self._start)

    @torch.jit.ignore
    def set_temperature(self, value: float) -> None:
        """Set the temperature.

        Args:
            value: Temperature tau of the softmax.

        Raises:
            ValueError: If ``value`` is not positive.
        """
        _check_positive('temperature', value)
        self.temperature.fill_(value)

    @torch.jit.ignore
    def update_temperature(self, step: float = 3.0, end: float = 1.0) -> None:
        """Lower the temperature by a step; the released program never does.

        Args:
            step: How much to take off.
            end: Where to stop.
        """
        value = float(self.temperature)
        if value > end:
            self.set_temperature(max(value - step, end))

    def forward(self, x: Tensor) -> Tensor:
        """Weight the kernels: (B, C, D, H, W) to (B, K)."""
        logits: Tensor = self.excite(self.act(self.squeeze(x.mean((2, 3, 4)))))
        return (logits / self.temperature.to(logits.dtype)).softmax(1)


class DACNet(DenseSkeleton):
    """3D-DenseNet with dynamic convolutions as bottlenecks.

    Shape: patches (B, in_chans, P, P) to logits (B, num_classes).

    Args:
        num_classes: Number of classes.
        in_chans: Number of bands.
        num_experts: Number K of kernels.
        temperature: Temperature of the attention.
        attention_ratio: Width of the attention's hidden layer in input channels.
        expert_init: Draw of the kernels: ``'normal'``, of unit variance as released,
            or ``'trunc_normal'``, as EKGNet's experts.
        **kwargs: Further arguments of :class:`DenseSkeleton`.

    Raises:
        ValueError: If an argument is out of range.
    """

    has_experts = True

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        *,
        num_experts: int = 4,
        temperature: float = 34.0,
        attention_ratio: float = 0.25,
        expert_init: Literal['normal', 'trunc_normal'] = 'normal',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the network."""
        if expert_init not in ('normal', 'trunc_normal'):
            raise ValueError(
                f"expert_init must be 'normal' or 'trunc_normal', found {expert_init!r}"
            )

        def bottleneck(in_channels: int, out_channels: int) -> nn.Module:
            conv = DynamicExpertConv3d(
                in_channels,
                out_channels,
                1,
                num_experts=num_experts,
                mapping=SqueezeAttention(
                    in_channels,
                    num_experts,
                    attention_ratio,
                    temperature,
                    device,
                    dtype,
                ),
                device=device,
                dtype=dtype,
            )
            if expert_init == 'normal':
                nn.init.normal_(conv.weight)
            return conv

        super().__init__(
            bottleneck, num_classes, in_chans, device=device, dtype=dtype, **kwargs
        )


default_cfgs = generate_default_cfgs(
    {
        'dacnet': spectral_cfg(
            min_input_size=(200, 7, 7),
            paper_ids='arXiv:1912.03458',
            paper_name='Dynamic Convolution: Attention over Convolution Kernels',
        )
    }
)


@register_network(DACNet)
def dacnet(pretrained: bool = False, **kwargs: Any) -> Any:
    """DACNet in EKGNet-base's size: blocks of 4, 6 and 8 layers, growth 8-16-32."""
    model_args: dict[str, Any] = {'block_config': (4, 6, 8), 'growth_rate': 8}
    return create_spectral_model(
        DACNet, 'dacnet', pretrained, **{**model_args, **kwargs}
    )
