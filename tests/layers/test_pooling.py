# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Average pooling against PyTorch's."""

import pytest
import torch
from torch import nn

from torchgeo_ekgnet.layers import AveragePool3d


@pytest.mark.parametrize('size', [(4, 6, 2), (5, 3, 2), (7, 7, 7)])
def test_equals_avg_pool(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = nn.AvgPool3d(2)(x)
    seen = torch.randn_like(expected)
    (reference,) = torch.autograd.grad(expected, x, seen)
    y = AveragePool3d()(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, x, seen)[0], reference)


@pytest.mark.parametrize('size', [(1, 4, 5), (1, 1, 1), (3, 1, 1)])
def test_axis_of_one_is_left_alone(size: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *size)
    expected = tuple(max(n // 2, 1) for n in size)
    pool = AveragePool3d()
    assert pool(x).shape[2:] == expected
    if size == (1, 4, 5):
        pairs = x[:, :, :, :, :4].unflatten(4, (2, 2)).unflatten(3, (2, 2))
        torch.testing.assert_close(pool(x), pairs.mean((4, 6)))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_types(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 5, 4, 1).to(dtype).requires_grad_()
    y = AveragePool3d()(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), AveragePool3d()(x.float()), rtol=0, atol=2e-2)
    y.sum().backward()
    assert x.grad is not None
    large = torch.full((1, 1, 2, 2, 2), 3e4, dtype=dtype)
    assert AveragePool3d()(large).item() == large[0, 0, 0, 0, 0]


def test_empty_batch_and_deterministic_mode() -> None:
    assert AveragePool3d()(torch.randn(0, 3, 4, 4, 4)).shape == (0, 3, 2, 2, 2)
    torch.use_deterministic_algorithms(True)
    try:
        x = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
        AveragePool3d()(x).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
