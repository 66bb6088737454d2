# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which tests need kernels of our own for CPUs, and of which kind."""

import pytest
import torch

from torchgeo_ekgnet.layers import direct

kernels = pytest.mark.skipif(
    direct.kernels() is None, reason='no kernels of our own for this processor'
)
expert_kernels = pytest.mark.skipif(
    direct.kernels() is None or torch.backends.cpu.get_cpu_capability() != 'AVX2',
    reason='no kernels of our own for experts on this processor',
)
