# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""DGCNet: a 3D-DenseNet whose 1x1x1 convolutions choose input channels per patch.

Dynamic group convolution ("Dynamic Group Convolution for Accelerating Convolutional
Neural Networks", https://arxiv.org/abs/2007.04242) in the skeleton of EKGNet, as
EKGNet's authors use it in their comparison. Only the bottleneck differs.

The method prunes more channels as training proceeds. Something has to tell the network
how far it is: :meth:`DGCNet.set_progress`, which the callback ``PruningSchedule`` of
this package calls before every training step. The authors' 3D port never does, so its
gates stay soft and nothing is pruned; leave the callback out, or create the network
with ``gate_factor=1``, to compute the same.
"""

from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from ..layers.rule import exporting
from ._contract import leaf_module
from ._registration import create_spectral_model, register_network, spectral_cfg
from ._skeleton import DenseLayer, DenseSkeleton

__all__ = ['DGCNet', 'DynamicGroupConv3d', 'inactive_channels']

_START = 1.0 / 12.0

PRUNING_END = 3.0 / 4.0


def inactive_channels(progress: float, channels: int, gate_factor: float = 0.25) -> int:
    """Count the channels that are masked at a point of the training.

    None before a twelfth of the training, then linearly more until three quarters of
    it, from where on a share of ``1 - gate_factor`` is masked.

    Args:
        progress: Share of the training that is done, 0 to 1.
        channels: Number of input channels.
        gate_factor: Share of the channels that is kept at the end.

    Returns:
        The number of masked channels.

    Raises:
        ValueError: If ``progress`` is not within 0 and 1.
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f'progress must be between 0 and 1, found {progress}')
    share = min(max((progress - _START) / (PRUNING_END - _START), 0.0), 1.0)
    return round(channels * (1.0 - gate_factor) * share)


@leaf_module
class DynamicGroupConv3d(nn.Module):
    """BN, ReLU and a 1x1x1 convolution of several heads with their own input gates.

    A head computes a saliency of every input channel from the channels' means, masks
    the channels of lowest saliency, scales the others by it and makes its share of the
    output channels; the heads' channels are interleaved. Gating the input of a head is
    computed as gating the columns of its kernel.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of ``heads``.
        heads: Number of heads.
        squeeze_rate: Division of the width of the saliency networks' hidden layer;
            halved for fewer than 80 input channels.
        gate_factor: Share of the channels that is kept at the end of the training;
            1 never prunes.

    Raises:
        ValueError: If ``heads`` does not divide ``out_channels``, or another argument
            is out of range.
    """

    inactive: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 4,
        squeeze_rate: int = 16,
        gate_factor: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make kernel and saliency networks."""
        super().__init__()
        if heads < 1 or out_channels % heads:
            raise ValueError(
                f'heads must divide out_channels={out_channels}, found {heads}'
            )
        if squeeze_rate < 1:
            raise ValueError(f'squeeze_rate must be at least 1, found {squeeze_rate}')
        if not 0.0 < gate_factor <= 1.0:
            raise ValueError(
                f'gate_factor must be above 0 and at most 1, found {gate_factor}'
            )
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        if in_channels < 80:
            squeeze_rate = max(squeeze_rate // 2, 1)
        hidden = max(in_channels // squeeze_rate, 1)
        self.heads = heads
        self.gate_factor = gate_factor
        self.norm = nn.BatchNorm3d(in_channels, **dd)
        self.act = nn.ReLU()
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels, 1, 1, 1, **dd)
        )
        self.squeeze = nn.Linear(in_channels, heads * hidden, bias=False, **dd)
        self.excite_weight = nn.Parameter(torch.empty(heads, hidden, in_channels, **dd))
        self.excite_bias = nn.Parameter(torch.empty(heads, in_channels, **dd))
        # An integer, so that a change of the network's type leaves it exact; in the
        # state dict, so that a checkpoint is tested as it was trained.
        self.register_buffer(
            'inactive', torch.zeros(1, dtype=torch.long, device=device)
        )
        self.reset_parameters()

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """Draw kernel and saliency networks; every saliency starts around one.

        No channel is masked.
        """
        self.inactive.zero_()
        nn.init.kaiming_normal_(self.weight, nonlinearity='relu')
        nn.init.kaiming_normal_(self.squeeze.weight)
        bound = self.excite_weight.shape[1] ** -0.5
        nn.init.uniform_(self.excite_weight, -bound, bound)
        nn.init.ones_(self.excite_bias)

    @torch.jit.ignore
    def update_inactive(self, progress: float) -> None:
        """Set the number of masked channels for a point of the training.

        Args:
            progress: Share of the training that is done, 0 to 1.

        Raises:
            ValueError: If ``progress`` is not within 0 and 1.
        """
        channels = self.weight.shape[1]
        self.inactive.fill_(inactive_channels(progress, channels, self.gate_factor))

    def extra_repr(self) -> str:
        """Describe the layer."""
        out_channels, in_channels = self.weight.shape[:2]
        return (
            f'{in_channels}, {out_channels}, heads={self.heads}, '
            f'gate_factor={self.gate_factor}'
        )

    def gates(self, pooled: Tensor) -> Tensor:
        """Compute what each head scales the input channels by.

        Exactly ``inactive`` channels of a head are masked; of equal ones the first.

        Args:
            pooled: Means of the channels, (B, C).

        Returns:
            Gates, (B, heads, C); zero for masked channels.
        """
        hidden: Tensor = self.act(self.squeeze(pooled))
        width = hidden.shape[1] // self.heads
        hidden = hidden.reshape(pooled.shape[0], self.heads, 1, width)
        saliency = torch.matmul(hidden, self.excite_weight).squeeze(2)
        saliency = torch.relu(saliency + self.excite_bias)
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript needs the nesting)
            if exporting():  # ONNX has no stable sort
                return saliency * (_ranks(saliency) >= self.inactive).to(saliency.dtype)
        order = torch.sort(saliency.detach(), stable=True, dim=2)[1]
        position = torch.arange(order.shape[2], device=order.device)
        kept = (position >= self.inactive).to(saliency.dtype).expand_as(saliency)
        return saliency * torch.zeros_like(saliency).scatter(2, order, kept)

    def forward(self, x: Tensor) -> Tensor:
        """Gate and convolve.

        (B, in_channels, D, H, W) to (B, out_channels, D, H, W).
        """
        batch, _, bands, rows, cols = x.shape
        x = self.act(self.norm(x)).flatten(2)
        gates = self.gates(x.mean(2))
        kernel = self.weight.reshape(self.heads, -1, self.weight.shape[1])
        # (B, heads, Cout / heads, C); exchanging two axes interleaves the heads.
        kernel = (kernel * gates.unsqueeze(2)).transpose(1, 2).flatten(1, 2)
        out = torch.bmm(kernel, x)
        return out.reshape(batch, self.weight.shape[0], bands, rows, cols)


def _ranks(values: Tensor) -> Tensor:
    """Count how many values along the last axis are less, or equal and earlier."""
    number = torch.arange(values.shape[-1], device=values.device)
    own, others = values.unsqueeze(-1), values.unsqueeze(-2)
    earlier = number.unsqueeze(0) < number.unsqueeze(1)
    return ((others < own) | ((others == own) & earlier)).sum(-1)


class DGCNet(DenseSkeleton):
    """3D-DenseNet with dynamic group convolutions as bottlenecks.

    Shape: patches (B, in_chans, P, P) to logits (B, num_classes).

    Args:
        num_classes: Number of classes.
        in_chans: Number of bands.
        heads: Number of heads of a bottleneck.
        squeeze_rate: Division of the width of the saliency networks' hidden layer.
        gate_factor: Share of the channels that is kept at the end of the training; 1
            never prunes, like the authors' 3D port.
        **kwargs: Further arguments of :class:`DenseSkeleton`.

    Raises:
        ValueError: If an argument is out of range.
    """

    no_decay_suffixes = ('excite_bias',)
    settled_share = PRUNING_END

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        *,
        heads: int = 4,
        squeeze_rate: int = 16,
        gate_factor: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the network."""

        def bottleneck(in_channels: int, out_channels: int) -> nn.Module:
            return DynamicGroupConv3d(
                in_channels,
                out_channels,
                heads,
                squeeze_rate,
                gate_factor,
                device,
                dtype,
            )

        super().__init__(
            bottleneck, num_classes, in_chans, device=device, dtype=dtype, **kwargs
        )
        # The saliencies multiply what they are computed from: with the wide kernels of
        # its siblings, an untrained deep network in evaluation mode overflows.
        for module in self.modules():
            if isinstance(module, DenseLayer):
                nn.init.kaiming_normal_(module.conv.weight, nonlinearity='relu')

    @torch.jit.ignore
    def set_progress(self, progress: float) -> None:
        """Tell the network how much of its training is done.

        Args:
            progress: Share of the training that is done, 0 to 1.

        Raises:
            ValueError: If ``progress`` is not within 0 and 1.
        """
        for module in self.modules():
            if isinstance(module, DynamicGroupConv3d):
                module.update_inactive(progress)


_PAPER: dict[str, Any] = {
    'paper_ids': 'arXiv:2007.04242',
    'paper_name': 'Dynamic Group Convolution for Accelerating Convolutional Neural '
    'Networks',
}

default_cfgs = generate_default_cfgs(
    {
        'dgcnet': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
        'dgcnet_large': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
    }
)


@register_network(DGCNet)
def dgcnet(pretrained: bool = False, **kwargs: Any) -> Any:
    """DGCNet in EKGNet-base's size: blocks of 4, 6 and 8 layers, growth 8-16-32."""
    model_args: dict[str, Any] = {'block_config': (4, 6, 8), 'growth_rate': 8}
    return create_spectral_model(
        DGCNet, 'dgcnet', pretrained, **{**model_args, **kwargs}
    )


@register_network(DGCNet)
def dgcnet_large(pretrained: bool = False, **kwargs: Any) -> Any:
    """DGCNet in its authors' size: three blocks of 14 layers, growth 8-16-32."""
    model_args: dict[str, Any] = {'block_config': (14, 14, 14), 'growth_rate': 8}
    return create_spectral_model(
        DGCNet, 'dgcnet_large', pretrained, **{**model_args, **kwargs}
    )
