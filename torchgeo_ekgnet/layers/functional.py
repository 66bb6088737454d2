# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Convolution with kernels assembled per sample."""

import torch
import torch.nn.functional as F
from torch import Tensor


def expert_conv3d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int, int] = 1,
    padding: int | tuple[int, int, int] = 0,
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
    strategy: str | None = None,
) -> Tensor:
    """Convolve every sample with its own mixture of expert kernels (Section 2.2.2).

    Args:
        x: Input (B, Cin, D, H, W).
        attention: Mixing weights (B, K).
        weight: Expert kernels (K, Cout, Cin / groups, kD, kH, kW).
        bias: Expert biases (K, Cout).
        stride: Stride.
        padding: Zeros added on both sides.
        dilation: Spacing of kernel elements.
        groups: Channel groups.
        strategy: Unused here.

    Returns:
        Output (B, Cout, D', H', W').
    """
    batch, channels = x.shape[0], x.shape[1]
    out = weight.shape[1]
    mixed = (attention @ weight.flatten(1)).reshape(
        batch * out, weight.shape[2], weight.shape[3], weight.shape[4], weight.shape[5]
    )
    mixed_bias = None if bias is None else (attention @ bias).reshape(-1)
    y = F.conv3d(
        x.reshape(1, batch * channels, x.shape[2], x.shape[3], x.shape[4]),
        mixed,
        mixed_bias,
        stride,
        padding,
        dilation,
        groups * batch,
    )
    return y.reshape(batch, out, y.shape[2], y.shape[3], y.shape[4])
