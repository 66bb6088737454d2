# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Average pooling."""

from torch import Tensor, nn


class AveragePool3d(nn.Module):
    """2x2x2 mean; an axis of length 1 is left alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, C, D, H, W)."""
        for axis in (2, 3, 4):
            length = x.shape[axis]
            if length > 1:
                half = length // 2
                even = x.narrow(axis, 0, 2 * half)
                x = even.unflatten(axis, [half, 2]).mean(axis + 1)
        return x
