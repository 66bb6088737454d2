# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Average pooling that is deterministic and never empties an axis."""

from torch import Tensor, nn

__all__ = ['AveragePool3d']


class AveragePool3d(nn.Module):
    """Mean over blocks of 2x2x2.

    Equal to ``nn.AvgPool3d(2)`` wherever that is defined: the last element of an axis
    of odd length is dropped. The one rule of its own: an axis of length 1 is left
    alone, so small patches and few bands pass. Written with reshapes and means, whose
    backward pass is deterministic on every device.

    Shape: (B, C, D, H, W) to (B, C, max(D // 2, 1), max(H // 2, 1), max(W // 2, 1)).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool.

        Args:
            x: Maps, (B, C, D, H, W).

        Returns:
            Pooled maps.
        """
        for axis in (4, 3, 2):
            half = x.shape[axis] // 2
            if half > 0:
                first = x.narrow(axis, 0, 2 * half).unflatten(axis, [half, 2])
                x = first.mean(axis + 1)
        return x
