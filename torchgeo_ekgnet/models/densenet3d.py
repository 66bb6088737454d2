# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""3D-DenseNet and 3D-SE-DenseNet.

Paper: "Three-dimensional densely connected convolutional network for hyperspectral
remote sensing image classification", https://doi.org/10.1117/1.JRS.13.016519, and the
same group's 3D-SE-DenseNet, which recalibrates the channels of the first two blocks by
squeeze and excitation. The two differ by nothing else here.

The transition between two blocks subsamples (every second band, row and column), as
the released program does; it names the step an average pooling, of size 1.
"""

from typing import Any, cast

import torch
from timm.models import checkpoint_seq, generate_default_cfgs
from torch import Tensor, nn

from ._blocks import MaxPool3d
from ._contract import SpectralSpatialNet, feature_levels, leaf_module
from ._registration import create_spectral_model, register_network, spectral_cfg

__all__ = ['DenseNet3d', 'SqueezeExcitation3d']

_EPS = 1.001e-5


class SqueezeExcitation3d(nn.Module):
    """Rescale channels by a gate computed from their means.

    Args:
        channels: Channels of input and output.
        reduction: Division of the width of the hidden layer.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the gate."""
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Linear(channels, hidden, bias=False, **dd)
        self.act = nn.ReLU()
        self.excite = nn.Linear(hidden, channels, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Rescale the channels: (B, C, D, H, W) to the same shape."""
        gate: Tensor = self.excite(self.act(self.squeeze(x.mean((2, 3, 4)))))
        gate = gate.sigmoid()
        return x * gate.unsqueeze(2).unsqueeze(3).unsqueeze(4)


class BottleneckDenseLayer(nn.Module):
    """BN, ReLU, 1x1x1 convolution, BN, ReLU, 3x3x3 convolution, concatenation.

    Args:
        in_channels: Channels of the input.
        growth_rate: Channels that the layer adds.
        expansion: Width of the bottleneck in growth rates.
    """

    def __init__(
        self,
        in_channels: int,
        growth_rate: int,
        expansion: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layer."""
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        width = expansion * growth_rate
        self.norm1 = nn.BatchNorm3d(in_channels, eps=_EPS, **dd)
        self.conv1 = nn.Conv3d(in_channels, width, 1, bias=False, **dd)
        self.norm2 = nn.BatchNorm3d(width, eps=_EPS, **dd)
        self.conv2 = nn.Conv3d(width, growth_rate, 3, padding=1, bias=False, **dd)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Append new channels: (B, C, D, H, W) to (B, C + growth_rate, D, H, W)."""
        out = self.conv1(self.act(self.norm1(x)))
        return torch.cat([x, self.conv2(self.act(self.norm2(out)))], 1)


@leaf_module
class Transition(nn.Module):
    """BN, ReLU, 1x1x1 convolution to half of the channels, subsampling.

    Args:
        in_channels: Channels of the input.
        subsample: Keep every second band, row and column; or all of them.
    """

    def __init__(
        self,
        in_channels: int,
        subsample: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layers."""
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.norm = nn.BatchNorm3d(in_channels, eps=_EPS, **dd)
        self.act = nn.ReLU()
        self.conv = nn.Conv3d(in_channels, in_channels // 2, 1, bias=False, **dd)
        self.subsample = subsample

    def forward(self, x: Tensor) -> Tensor:
        """Halve the channels and, usually, the axes.

        (B, C, D, H, W) to (B, C // 2, ceil(D / 2), ceil(H / 2), ceil(W / 2)).
        """
        x = self.act(self.norm(x))
        # A convolution of 1x1x1 sees no neighbours: drop them before it.
        if self.subsample:
            x = x[:, :, ::2, ::2, ::2]
        out: Tensor = self.conv(x)
        return out


class DenseSequence(nn.Sequential):
    """A stage: pooling or transition, dense layers, squeeze and excitation."""

    @torch.jit.unused
    def recompute(self, x: Tensor) -> Tensor:
        """Compute the stage, each layer anew in the backward pass."""
        return cast(Tensor, checkpoint_seq(self, x))


class DenseNet3d(SpectralSpatialNet):
    """3D-DenseNet with bottlenecks, with or without squeeze and excitation.

    Shape: patches (B, in_chans, P, P) to logits (B, num_classes). Any number of bands
    and any patch size: the pooling behind the stem leaves an axis shorter than three
    alone.

    Args:
        block_config: Number of dense layers of each block.
        growth_rate: Channels that each dense layer adds.
        stem_channels: Channels of the stem.
        expansion: Width of the bottlenecks in growth rates.
        se_reduction: Reduction of the squeeze and excitation behind every block but
            the last; None for the plain network.
        subsample: Subsample in the transitions; the released network for Pavia
            University does not.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        global_pool: str = 'avg',
        block_config: tuple[int, ...] = (3, 3, 3),
        growth_rate: int = 32,
        stem_channels: int = 64,
        expansion: int = 4,
        se_reduction: int | None = None,
        subsample: bool = True,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the network."""
        super().__init__(num_classes, in_chans)
        if not block_config or min(block_config) < 1:
            raise ValueError(
                'block_config must hold at least one layer a block, '
                f'found {tuple(block_config)}'
            )
        if min(growth_rate, stem_channels, expansion) < 1:
            raise ValueError(
                'growth_rate, stem_channels and expansion must be at least 1, found '
                f'{growth_rate}, {stem_channels} and {expansion}'
            )
        if se_reduction is not None and se_reduction < 1:
            raise ValueError(f'se_reduction must be at least 1, found {se_reduction}')
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.stem = nn.Conv3d(1, stem_channels, 3, padding=1, **dd)
        self.stages = nn.ModuleList()
        channels, reduction = stem_channels, 2
        widths, reductions = [], []
        for index, num_layers in enumerate(block_config):
            layers: list[nn.Module] = []
            if index == 0:
                layers.append(MaxPool3d(stride=2))
            else:
                layers.append(Transition(channels, subsample, **dd))
                channels //= 2
                reduction *= 2 if subsample else 1
            for _ in range(num_layers):
                layers.append(
                    BottleneckDenseLayer(channels, growth_rate, expansion, **dd)
                )
                channels += growth_rate
            if se_reduction is not None and index < len(block_config) - 1:
                layers.append(SqueezeExcitation3d(channels, se_reduction, **dd))
            self.stages.append(DenseSequence(*layers))
            widths.append(channels)
            reductions.append(reduction)
        self.feature_info = feature_levels(widths, reductions)
        self.make_head(channels, global_pool, drop_rate, **dd)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.classifier, nn.Linear):
            nn.init.kaiming_normal_(self.classifier.weight, nonlinearity='relu')


default_cfgs = generate_default_cfgs(
    {
        'densenet3d': spectral_cfg(
            pool_size=(2, 2),
            min_input_size=(200, 7, 7),
            paper_ids='10.1117/1.JRS.13.016519',
            paper_name='Three-dimensional densely connected convolutional network for '
            'hyperspectral remote sensing image classification',
        ),
        'se_densenet3d': spectral_cfg(pool_size=(2, 2), min_input_size=(200, 7, 7)),
    }
)


@register_network(DenseNet3d)
def densenet3d(pretrained: bool = False, **kwargs: Any) -> Any:
    """3D-DenseNet: three blocks of three layers, growth 32."""
    model_args: dict[str, Any] = {'block_config': (3, 3, 3)}
    return create_spectral_model(
        DenseNet3d, 'densenet3d', pretrained, **{**model_args, **kwargs}
    )


@register_network(DenseNet3d)
def se_densenet3d(pretrained: bool = False, **kwargs: Any) -> Any:
    """3D-SE-DenseNet: the same with squeeze and excitation behind two blocks."""
    model_args: dict[str, Any] = {'block_config': (3, 3, 3), 'se_reduction': 16}
    return create_spectral_model(
        DenseNet3d, 'se_densenet3d', pretrained, **{**model_args, **kwargs}
    )
