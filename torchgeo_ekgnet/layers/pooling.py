# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Average pooling that is deterministic and never empties an axis."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['AveragePool3d']


class AveragePool3d(nn.Module):
    """Mean over blocks of 2x2x2.

    Equal to ``nn.AvgPool3d(2)`` wherever that is defined: the last element of an axis
    of odd length is dropped. The one rule of its own: an axis of length 1 is left
    alone, so small patches and few bands pass. On a CPU it is PyTorch's pooling; elsewhere
    it is written with reshapes and means, because the backward pass of PyTorch's pooling
    is not deterministic on CUDA. Half types, which PyTorch's pooling lacks on a CPU, take
    the reshapes too.

    Shape: (B, C, D, H, W) to (B, C, max(D // 2, 1), max(H // 2, 1), max(W // 2, 1)).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        if x.is_cpu and (x.dtype == torch.float32 or x.dtype == torch.float64):
            depth, height, width = x.shape[2], x.shape[3], x.shape[4]
            return F.avg_pool3d(x, [min(2, depth), min(2, height), min(2, width)])
        return self._reshape_mean(x)

    def _reshape_mean(self, x: Tensor) -> Tensor:
        """Pool with reshapes and means."""
        for axis in (4, 3, 2):
            half = x.shape[axis] // 2
            if half > 0:
                first = x.narrow(axis, 0, 2 * half).unflatten(axis, [half, 2])
                x = first.mean(axis + 1)
        return x
