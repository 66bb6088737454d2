# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""LGCNet: a 3D-DenseNet whose 1x1x1 convolutions learn their own groups.

Fully learnable group convolution ("Fully Learnable Group Convolution for Acceleration
of Deep Neural Networks", https://arxiv.org/abs/1904.00346) in the skeleton of EKGNet,
as EKGNet's authors use it in their comparison. Only the bottleneck differs.
"""

from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from ._contract import leaf_module
from ._registration import create_spectral_model, register_network, spectral_cfg
from ._skeleton import DenseSkeleton, init_conv3d

__all__ = ['LGCNet', 'LearnedGroupConv3d']


def hard_assignment(logits: Tensor) -> Tensor:
    """Assign each row to its most probable group.

    The gradient is that of the softmax, and reaches only the group that was chosen.

    Args:
        logits: Affinities, (channels, groups).

    Returns:
        One-hot rows, (channels, groups).
    """
    probability = logits.softmax(1)
    chosen = probability.argmax(1, keepdim=True)
    one_hot = torch.zeros_like(probability).scatter(1, chosen, 1.0)
    # Exactly one_hot in value: the bracket adds zero.
    return one_hot * (1.0 + (probability - probability.detach()))


@leaf_module
class LearnedGroupConv3d(nn.Module):
    """1x1x1 convolution that connects channels of the same learnt group only.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_groups: Number of groups to learn.

    Raises:
        ValueError: If ``num_groups`` is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_groups: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make kernel and assignments."""
        super().__init__()
        if num_groups < 1:
            raise ValueError(f'num_groups must be at least 1, found {num_groups}')
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels, 1, 1, 1, **dd)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, **dd))
        self.input_groups = nn.Parameter(torch.empty(in_channels, num_groups, **dd))
        self.output_groups = nn.Parameter(torch.empty(out_channels, num_groups, **dd))
        self.reset_parameters()

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """Draw kernel, bias and assignments."""
        init_conv3d(self)
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.bias, -bound, bound)
        nn.init.normal_(self.input_groups)
        nn.init.normal_(self.output_groups)

    def extra_repr(self) -> str:
        """Describe the layer."""
        out_channels, in_channels = self.weight.shape[:2]
        return f'{in_channels}, {out_channels}, num_groups={self.input_groups.shape[1]}'

    def mask(self) -> Tensor:
        """Tell which pairs of channels are connected.

        Returns:
            One where an output and an input channel share a group, (Cout, Cin).
        """
        outputs = hard_assignment(self.output_groups)
        inputs = hard_assignment(self.input_groups)
        return torch.matmul(outputs, inputs.transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve within the learnt groups.

        (B, in_channels, D, H, W) to (B, out_channels, D, H, W).
        """
        batch, _, bands, rows, cols = x.shape
        kernel = (self.weight.flatten(1) * self.mask()).expand(batch, -1, -1)
        # One product a patch keeps the channels in front: no copy of the maps.
        out = torch.baddbmm(self.bias.reshape(1, -1, 1), kernel, x.flatten(2))
        return out.reshape(batch, self.weight.shape[0], bands, rows, cols)


class LGCNet(DenseSkeleton):
    """3D-DenseNet with learned group convolutions as bottlenecks.

    Shape: patches (B, in_chans, P, P) to logits (B, num_classes).

    Args:
        num_classes: Number of classes.
        in_chans: Number of bands.
        num_groups: Number of groups that a bottleneck learns.
        **kwargs: Further arguments of :class:`DenseSkeleton`.

    Raises:
        ValueError: If a size is not valid.
    """

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        *,
        num_groups: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the network."""

        def bottleneck(in_channels: int, out_channels: int) -> nn.Module:
            return LearnedGroupConv3d(
                in_channels, out_channels, num_groups, device, dtype
            )

        super().__init__(
            bottleneck, num_classes, in_chans, device=device, dtype=dtype, **kwargs
        )


_PAPER: dict[str, Any] = {
    'paper_ids': 'arXiv:1904.00346',
    'paper_name': 'Fully Learnable Group Convolution for Acceleration of Deep Neural '
    'Networks',
}

default_cfgs = generate_default_cfgs(
    {
        'lgcnet': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
        'lgcnet_large': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
    }
)


@register_network(LGCNet)
def lgcnet(pretrained: bool = False, **kwargs: Any) -> Any:
    """LGCNet in EKGNet-base's size: blocks of 4, 6 and 8 layers, growth 8-16-32."""
    model_args: dict[str, Any] = {'block_config': (4, 6, 8), 'growth_rate': 8}
    return create_spectral_model(
        LGCNet, 'lgcnet', pretrained, **{**model_args, **kwargs}
    )


@register_network(LGCNet)
def lgcnet_large(pretrained: bool = False, **kwargs: Any) -> Any:
    """LGCNet in its authors' size: three blocks of 10 layers, growth 8-16-32."""
    model_args: dict[str, Any] = {'block_config': (10, 10, 10), 'growth_rate': 8}
    return create_spectral_model(
        LGCNet, 'lgcnet_large', pretrained, **{**model_args, **kwargs}
    )
