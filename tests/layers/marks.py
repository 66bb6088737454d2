# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What tests of layers need: kernels of our own for CPUs, of which kind, or a GPU."""

import pytest
import torch

from torchgeo_ekgnet.layers import direct

#: Where tests of what a GPU does run: there, or on the CPU in its place.
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'

cuda = pytest.mark.skipif(DEVICE == 'cpu', reason='no CUDA device')
kernels = pytest.mark.skipif(
    direct.kernels() is None, reason='no kernels of our own for this processor'
)
expert_kernels = pytest.mark.skipif(
    direct.kernels() is None or torch.backends.cpu.get_cpu_capability() != 'AVX2',
    reason='no kernels of our own for experts on this processor',
)
