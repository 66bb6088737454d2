# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A static grouped convolution on the package's fast path."""

import torch
from torch import Tensor, nn

from .functional import grouped_conv3d

__all__ = ['GroupedConv3d']


class GroupedConv3d(nn.Conv3d):
    """:class:`torch.nn.Conv3d` computed by :func:`grouped_conv3d`.

    Same arguments, parameters, state dict and result; only the time differs, where
    groups are thin (the 3x3x3 convolutions of the dense layers). String paddings,
    padding modes other than zeros, unbatched input and TorchScript take the plain form.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve.

        Args:
            input: Maps, (B, C, D, H, W) or (C, D, H, W).

        Returns:
            Maps, (B, Cout, D', H', W') or (Cout, D', H', W').
        """
        if not torch.jit.is_scripting():
            if (
                input.dim() == 5
                and self.padding_mode == 'zeros'
                and not isinstance(self.padding, str)
            ):
                return grouped_conv3d(
                    input,
                    self.weight,
                    self.bias,
                    self.stride,
                    self.padding,
                    self.dilation,
                    self.groups,
                )
        return self._conv_forward(input, self.weight, self.bias)
