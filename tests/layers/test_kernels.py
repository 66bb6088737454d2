# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Kernels for a GPU against float64: there, or in Triton's interpreter."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv3d_weight

from .marks import DEVICE

pytestmark = pytest.mark.usefixtures('fresh_trials')


@pytest.fixture(scope='module')
def kernels() -> Any:
    """The kernels."""
    pytest.importorskip('triton')
    from torchgeo_ekgnet.layers import kernels

    return kernels


NORM_SHAPES = [(3, 5, 7, 3, 2), (2, 1, 5, 1, 3), (40, 2, 3, 3, 3)]


@pytest.mark.parametrize(
    ('shape', 'relu'),
    [(shape, True) for shape in NORM_SHAPES] + [(NORM_SHAPES[1], False)],
)
def test_norm_is_exact(kernels: Any, shape: tuple[int, ...], relu: bool) -> None:
    torch.manual_seed(0)
    norm: Any = nn.BatchNorm3d(shape[1])
    for value in (norm.weight, norm.running_var):
        nn.init.uniform_(value, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm, x, seen = norm.to(DEVICE), torch.randn(shape) * 2 + 30, torch.randn(shape)
    exact, image = copy.deepcopy(norm).double(), x.double().to(DEVICE).requires_grad_()
    y = exact(image)
    y = F.relu(y) if relu else y
    expected = torch.autograd.grad(
        y, (image, exact.weight, exact.bias), seen.double().to(DEVICE)
    )
    x, seen = x.to(DEVICE), seen.to(DEVICE)
    state = norm.weight.detach(), norm.bias.detach()
    running = norm.running_mean, norm.running_var
    found, mean, inverse = kernels.norm_forward(
        x, *state, (*running, norm.num_batches_tracked), 0.1, 1e-5, relu
    )
    assert norm.num_batches_tracked == 1
    gradients = kernels.norm_backward(seen, x, *state, mean, inverse, relu)
    for one, other in zip(
        (found, *gradients, *running),
        (y, *expected, exact.running_mean, exact.running_var),
        strict=True,
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter multiply bfloat16: it takes their bits for whole numbers."""
    if DEVICE == 'cuda':
        return
    interpreter = pytest.importorskip('triton.runtime.interpreter')
    builder, low = interpreter.InterpreterBuilder, interpreter.tl.bfloat16
    multiply = builder.create_dot

    def widened(values: Any) -> Any:
        if values.dtype.scalar != low:
            return values
        bits = values.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), interpreter.tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return multiply(self, widened(a), widened(b), *others)

    monkeypatch.setattr(builder, 'create_dot', create_dot)


# Batch, groups, channels, outputs and size. Lines as in the blocks of EKGNet-base; of a
# number of places that is no power of two; of one; of so many channels that a product
# takes them piece by piece.
CONVOLUTIONS = [
    (1, 2, 8, 2, (1, 3, 8)),
    (1, 2, 16, 4, (2, 1, 4)),
    (2, 1, 32, 8, (1, 2, 2)),
    (2, 2, 3, 1, (2, 1, 3)),
    (2, 1, 1, 5, (3, 2, 1)),
    (1, 1, 5, 6, (1, 2, 9)),
]
# The interpreter takes seconds, and nothing of it but loads and stores depends on both
# the type and the shape; a GPU compiles kernels for each.
IN_BFLOAT16 = CONVOLUTIONS if DEVICE == 'cuda' else CONVOLUTIONS[2:4]


@pytest.mark.usefixtures('bfloat16_products')
@pytest.mark.parametrize(
    ('batch', 'groups', 'channels', 'outputs', 'size', 'dtype'),
    [
        *((*sizes, torch.float32) for sizes in CONVOLUTIONS),
        *((*sizes, torch.bfloat16) for sizes in IN_BFLOAT16),
    ],
)
def test_convolution_is_exact(
    kernels: Any,
    batch: int,
    groups: int,
    channels: int,
    outputs: int,
    size: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    options: Any = {'device': DEVICE, 'dtype': dtype}
    x = torch.randn(batch, groups * channels, *size, **options)
    weight = torch.randn(groups * outputs, channels, 3, 3, 3, **options)
    image, exact = (t.double().requires_grad_() for t in (x, weight))
    y = F.conv3d(image, exact, padding=1, groups=groups)
    seen = torch.randn(y.shape, **options)
    of_maps, of_kernels = torch.autograd.grad(y, (image, exact), seen.double())
    digits = 1e-5 if dtype == torch.float32 else 8e-3  # what bfloat16 rounds off
    for found, expected, share in (
        (kernels.conv_forward(x, weight, groups), y, digits),
        (kernels.conv_forward(seen, weight, groups, turned=True), of_maps, digits),
        (kernels.conv_weight_gradient(seen, x, groups), of_kernels, 1e-5),
    ):
        assert found.dtype == (dtype if share == digits else torch.float32)
        apart = (found.double() - expected).abs().max()
        assert apart < share * expected.abs().max()


def test_a_convolution_adds_all_tiles_and_pieces(kernels: Any) -> None:
    torch.manual_seed(0)
    x, seen = torch.randn(2, 3, 1, 13, 5, 2, device=DEVICE)
    weight = torch.randn(1, 1, 3, 3, 3, device=DEVICE)
    buffer = torch.zeros(3, 3, 13, 5, 2, device=DEVICE)
    place = buffer[:, 1:2]
    for found, expected in (
        (kernels.conv_forward(x, weight, 1, out=place), F.conv3d(x, weight, padding=1)),
        (
            kernels.conv_weight_gradient(seen, x, 1),
            conv3d_weight(x, weight.shape, seen, padding=1),
        ),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not buffer[:, ::2].any()


@pytest.mark.parametrize('relu', [False, True])
def test_products_are_exact(kernels: Any, relu: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 40, 3, 5, 2, device=DEVICE)[:, :37]  # part of larger maps
    mixed = torch.randn(2, 3, 37, device=DEVICE)
    bias = torch.randn(2, 3, device=DEVICE) if relu else None
    expected = (mixed.double() @ x.double().flatten(2)).view(2, 3, 3, 5, 2)
    if bias is not None:
        expected = F.relu(expected + bias[:, :, None, None, None])
    found = kernels.products(x, mixed, bias, relu)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
