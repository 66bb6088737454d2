# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""SSRN: residual learning along the spectrum, then across the pixels.

Paper: "Spectral-Spatial Residual Network for Hyperspectral Image Classification: A 3-D
Deep Learning Framework", IEEE TGRS 2018, https://doi.org/10.1109/TGRS.2017.2755542

The form is the one that EKGNet's authors compare with: two residual blocks in each
domain, biases everywhere, no dropout. Two things are free here. A global average in
place of the 5x5 pooling takes patches of any size (at 7x7 both are the same), and the
spectral kernels shrink for scenes of fewer than seven bands.
"""

from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional as F

from ._blocks import SpectralCollapse
from ._contract import SpectralSpatialNet, feature_levels, leaf_module
from ._registration import create_spectral_model, register_network, spectral_cfg

__all__ = ['SSRN']

# The released program widens batch normalisation's epsilon outside of the blocks.
_WIDE_EPS = 1e-3


@leaf_module
class NeighbourhoodConv3d(nn.Conv3d):
    """A convolution of 3x3 pixels without padding, unless there are fewer pixels.

    An axis of one or two pixels is padded with zeros to three, so that a single pixel
    is seen by the kernel's centre.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (B, C, D, H, W) to (B, C', D', max(H - 2, 1), max(W - 2, 1))."""
        rows, cols = max(3 - x.shape[3], 0), max(3 - x.shape[4], 0)
        if rows + cols > 0:
            x = F.pad(x, [(cols + 1) // 2, cols // 2, (rows + 1) // 2, rows // 2])
        return F.conv3d(x, self.weight, self.bias)


class ResidualBlock(nn.Module):
    """Convolution, ReLU, BN, ReLU, convolution, BN; sum with the input; ReLU.

    Args:
        channels: Channels of input and output.
        kernel: Kernel along bands, rows and columns; odd.
    """

    def __init__(
        self,
        channels: int,
        kernel: tuple[int, int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the block."""
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv1 = nn.Conv3d(channels, channels, kernel, padding=padding, **dd)
        self.norm1 = nn.BatchNorm3d(channels, **dd)
        self.conv2 = nn.Conv3d(channels, channels, kernel, padding=padding, **dd)
        self.norm2 = nn.BatchNorm3d(channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the block has learnt: (B, C, D, H, W) to the same shape."""
        out = F.relu(self.norm1(F.relu(self.conv1(x))))
        return F.relu(x + self.norm2(self.conv2(out)))


class SpectralStage(nn.Module):
    """Residual blocks with kernels along the spectrum.

    Args:
        channels: Channels of input and output.
        num_blocks: Number of residual blocks.
    """

    def __init__(
        self,
        channels: int,
        num_blocks: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the stage."""
        super().__init__()
        self.norm = nn.BatchNorm3d(channels, eps=_WIDE_EPS, device=device, dtype=dtype)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, (7, 1, 1), device, dtype) for _ in range(num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform the spectra: (B, C, D, H, W) to the same shape."""
        x = F.relu(self.norm(x))
        for block in self.blocks:
            x = block(x)
        return x


class CollapseStage(nn.Module):
    """Turn what is left of the spectrum into channels.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        length: Length of the spectral axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the stage."""
        super().__init__()
        self.conv = SpectralCollapse(
            in_channels, out_channels, length, device=device, dtype=dtype
        )
        self.norm = nn.BatchNorm3d(
            out_channels, eps=_WIDE_EPS, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Collapse the spectral axis.

        (B, C, length, H, W) to (B, out_channels, 1, H, W).
        """
        return F.relu(self.norm(self.conv(x)))


class SpatialStage(nn.Module):
    """Residual blocks with kernels across the pixels, behind a 3x3 convolution.

    The channels of the input become the spectral axis of one channel, and the first
    kernel spans it.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        num_blocks: Number of residual blocks.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_blocks: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the stage."""
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.conv = NeighbourhoodConv3d(1, channels, (in_channels, 3, 3), **dd)
        self.norm = nn.BatchNorm3d(channels, eps=_WIDE_EPS, **dd)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, (1, 3, 3), device, dtype) for _ in range(num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform the neighbourhood.

        (B, C, 1, H, W) to (B, channels, 1, H - 2, W - 2).
        """
        x = F.relu(self.norm(self.conv(x.transpose(1, 2))))
        for block in self.blocks:
            x = block(x)
        return x


class SSRN(SpectralSpatialNet):
    """Spectral-spatial residual network.

    The kernel that collapses the spectrum is as long as the spectrum is after the
    stem: the parameters depend on the number of bands, and a checkpoint fits scenes
    of the same number of bands only.

    Shape: patches (B, in_chans, P, P) to logits (B, num_classes).

    Args:
        channels: Channels of the residual blocks.
        collapsed_channels: Channels that the spectrum is collapsed into.
        num_blocks: Residual blocks of each domain.
        drop_rate: Dropout before the classifier; the original paper uses 0.5.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        global_pool: str = 'avg',
        channels: int = 24,
        collapsed_channels: int = 128,
        num_blocks: int = 2,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the network."""
        super().__init__(num_classes, in_chans)
        if min(channels, collapsed_channels, num_blocks) < 1:
            raise ValueError(
                'channels, collapsed_channels and num_blocks must be at least 1, found '
                f'{channels}, {collapsed_channels} and {num_blocks}'
            )
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        kernel = min(7, in_chans)
        length = (in_chans - kernel) // 2 + 1
        self.stem = nn.Conv3d(1, channels, (kernel, 1, 1), stride=(2, 1, 1), **dd)
        self.stages = nn.ModuleList(
            [
                SpectralStage(channels, num_blocks, **dd),
                CollapseStage(channels, collapsed_channels, length, **dd),
                SpatialStage(collapsed_channels, channels, num_blocks, **dd),
            ]
        )
        self.feature_info = feature_levels(
            (channels, collapsed_channels, channels), (1, 1, 1)
        )
        self.make_head(channels, global_pool, drop_rate, **dd)


default_cfgs = generate_default_cfgs(
    {
        'ssrn': spectral_cfg(
            input_size=(200, 7, 7),
            pool_size=(5, 5),
            min_input_size=(200, 7, 7),
            paper_ids='10.1109/TGRS.2017.2755542',
            paper_name='Spectral-Spatial Residual Network for Hyperspectral Image '
            'Classification: A 3-D Deep Learning Framework',
        )
    }
)


@register_network(SSRN)
def ssrn(pretrained: bool = False, **kwargs: Any) -> Any:
    """SSRN with two residual blocks in each domain."""
    return create_spectral_model(SSRN, 'ssrn', pretrained, **kwargs)
