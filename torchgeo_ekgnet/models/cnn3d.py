# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""3D-CNN: two valid 3D convolutions and two fully connected layers.

The paper's tables name a "3D-CNN" without a reference. This is the small network that
the same group released beside its 3D-SE-DenseNet: kernels of 10 bands by 3x3 pixels
with strides 5 and 2 along the bands, a 3x3x3 maximum after each. Its fully connected
layers depend on bands and patch size, hence ``img_size``. Kernels are cut to what is
left of an axis, so that few bands and small patches pass as well.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from ._blocks import ExpectSize, FullExtentConv3d, MaxPool3d, rows_and_columns
from ._contract import SpectralSpatialNet, feature_levels
from ._registration import create_spectral_model, register_network, spectral_cfg

__all__ = ['CNN3d']


class CNN3d(SpectralSpatialNet):
    """Two convolutions, two fully connected layers.

    The fully connected layers are convolutions that span the whole map, so the last
    two feature levels have one row and one column.

    Shape: patches (B, in_chans, rows, columns) to logits (B, num_classes).

    Args:
        img_size: Rows and columns of the patches.
        channels: Channels of the two convolutions.
        hidden_features: Width of the fully connected layers.
        proj_drop_rate: Dropout after each fully connected layer.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        global_pool: str = 'avg',
        img_size: int | Sequence[int] = 11,
        channels: Sequence[int] = (4, 16),
        hidden_features: int = 200,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the network."""
        super().__init__(num_classes, in_chans)
        widths = tuple(channels)
        if len(widths) != 2 or min(*widths, hidden_features) < 1:
            raise ValueError(
                'channels must hold two positive numbers and hidden_features one, '
                f'found {widths} and {hidden_features}'
            )
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.img_size = rows_and_columns(img_size)
        size = (in_chans, *self.img_size)
        kernel = _fit(size)
        self.stem = nn.Conv3d(1, widths[0], kernel, stride=(5, 1, 1), **dd)
        self.expect_size = ExpectSize(*self.img_size)
        size = _after(size, kernel, 5)
        kernel = _fit(size)
        second = nn.Conv3d(widths[0], widths[1], kernel, stride=(2, 1, 1), **dd)
        size = _after(size, kernel, 2)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.ReLU(), MaxPool3d(), second, nn.ReLU(), MaxPool3d()),
                nn.Sequential(
                    FullExtentConv3d(widths[1], hidden_features, size, **dd),
                    nn.ReLU(),
                    nn.Dropout(proj_drop_rate),
                ),
                nn.Sequential(
                    FullExtentConv3d(hidden_features, hidden_features, (1, 1, 1), **dd),
                    nn.ReLU(),
                    nn.Dropout(proj_drop_rate),
                ),
            ]
        )
        whole = max(self.img_size)
        self.feature_info = feature_levels(
            (widths[1], hidden_features, hidden_features), (1, whole, whole)
        )
        self.make_head(hidden_features, global_pool, drop_rate, **dd)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Check the patch size and take the first convolution."""
        out: Tensor = self.stem(self.expect_size(x).unsqueeze(1))
        return out


def _fit(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Cut the kernel of 10 bands by 3x3 pixels to a map."""
    return min(10, size[0]), min(3, size[1]), min(3, size[2])


def _after(
    size: tuple[int, int, int], kernel: tuple[int, int, int], stride: int
) -> tuple[int, int, int]:
    """Compute the size of a map behind a valid convolution."""
    return (
        (size[0] - kernel[0]) // stride + 1,
        size[1] - kernel[1] + 1,
        size[2] - kernel[2] + 1,
    )


default_cfgs = generate_default_cfgs(
    {'cnn3d': spectral_cfg(pool_size=(1, 1), fixed_input_size=True)}
)


@register_network(CNN3d)
def cnn3d(pretrained: bool = False, **kwargs: Any) -> Any:
    """3D-CNN with 4 and 16 feature maps and 200 hidden units."""
    return create_spectral_model(CNN3d, 'cnn3d', pretrained, **kwargs)
