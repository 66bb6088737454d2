# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Average pooling that is deterministic and never empties an axis."""

import torch
from torch import Tensor, nn

from .rule import leaf_call, symbolic

__all__ = ['AveragePool3d']


class AveragePool3d(nn.Module):
    """Mean over blocks of 2x2x2.

    Equal to ``nn.AvgPool3d(2)`` wherever that is defined: the last element of an axis
    of odd length is dropped. The one rule of its own: an axis of length 1 is left
    alone, so small patches and few bands pass. It is written with halves and sums in the
    order of memory: PyTorch's pooling is slower on a CPU, its backward pass is not
    deterministic on CUDA, and half types are missing there.

    Shape: (B, C, D, H, W) to (B, C, max(D // 2, 1), max(H // 2, 1), max(W // 2, 1)).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript would read both)
            if symbolic(x):
                return leaf_call(self, x)  # type: ignore[no-any-return]
        scale = 1.0
        for axis in (2, 3, 4):
            half = x.shape[axis] // 2
            if half > 0:
                if 2 * half < x.shape[axis]:
                    x = x.narrow(axis, 0, 2 * half)
                parts = x.unflatten(axis, [half, 2]).unbind(axis + 1)
                x = parts[0] + parts[1]
                scale *= 0.5
                if x.dtype == torch.float16:  # the sum of all eight may overflow
                    x = x * scale
                    scale = 1.0
        return x if scale == 1.0 else x * scale
