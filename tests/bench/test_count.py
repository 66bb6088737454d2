# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Work of networks, against formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.bench.count import count_work, create_model


def _by_modules(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a network that consists of modules alone."""
    total = 0

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal total
        channels = output.shape[-1 if isinstance(module, nn.Linear) else 1]
        total += module.weight.numel() * output.numel() // channels

    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(x)
    return total


@pytest.mark.parametrize(
    ('name', 'patch'), [('cnn3d', 11), ('se_densenet3d', 7), ('ssrn', 7)]
)
def test_work_of_networks_of_modules(name: str, patch: int) -> None:
    model = create_model(name, patch, 20)
    expected = _by_modules(model, torch.randn(1, 20, patch, patch))
    assert count_work(name, patch, 20, 1).multiply_adds == expected


def _ekgnet(cin: int, width: int) -> int:
    # Two blocks and the projection of the mapping, and 4 kernels with their biases.
    return 2 * cin**2 + 4 * cin + 4 * (cin + 1) * width


def _dacnet(cin: int, width: int) -> int:
    hidden = cin // 4 + 1
    return cin * hidden + 4 * hidden + 4 * (cin + 1) * width


def _dgcnet(cin: int, width: int) -> int:
    hidden = max(cin // (8 if cin < 80 else 16), 1)
    return 2 * cin * 4 * hidden


def _lgcnet(cin: int, width: int) -> int:
    return cin * 4 * width


@pytest.mark.parametrize(
    ('name', 'besides'),
    [
        ('ekgnet_base', _ekgnet),
        ('dacnet', _dacnet),
        ('dgcnet', _dgcnet),
        ('lgcnet', _lgcnet),
    ],
)
def test_work_of_dense_networks(name: str, besides: Callable[[int, int], int]) -> None:
    # 103 bands and 11 by 11 pixels, halved by the stem and between the blocks.
    expected = 16 * 27 * (52 * 6 * 6) + 400 * 9
    cin = 16
    for layers, growth, positions in (
        (4, 8, 52 * 6 * 6),
        (6, 16, 26 * 3 * 3),
        (8, 32, 13 * 1 * 1),
    ):
        width = 4 * growth
        for _ in range(layers):
            expected += (cin * width + width // 4 * growth * 27) * positions
            expected += besides(cin, width)
            cin += growth
    assert count_work(name, 11, 103, 1).multiply_adds == expected


def test_work_of_a_transformer() -> None:
    tokens, width, hidden = 104, 64, 8
    layer = tokens * width * (4 * width + 2 * hidden)  # projections and perceptron
    layer += 2 * tokens**2 * width  # attention
    fusion = 2 * tokens**2 * width  # of two states, from the third layer on
    expected = 103 * width * 3 * 7 * 7 + 5 * layer + 3 * fusion + width * 9
    assert count_work('spectralformer', 7, 103, 1).multiply_adds == expected


def test_work_of_a_batch() -> None:
    one, four = (count_work('cnn3d', 11, 20, batch) for batch in (1, 4))
    assert four.multiply_adds == 4 * one.multiply_adds
    # Activations grow with the batch, kernels do not.
    weights = (4 * one.values - four.values) / 3
    model = create_model('cnn3d', 11, 20)
    expected = sum(
        parameter.numel()
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv3d))
        for parameter in module.parameters()
    )
    assert weights == expected
