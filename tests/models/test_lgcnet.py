# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""LGCNet: sizes, learnt masks and their gradients."""

from typing import Any, cast

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from torchgeo_ekgnet.models.lgcnet import LearnedGroupConv3d, hard_assignment


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ('name', 'kwargs', 'parameters'),
    [
        ('lgcnet', {}, 598_240),
        ('lgcnet_large', {}, 1_050_336),
        ('lgcnet', {'block_config': (14, 14, 14)}, 1_834_848),
    ],
)
def test_parameters(name: str, kwargs: dict[str, Any], parameters: int) -> None:
    assert count(timm.create_model(name, **kwargs)) == parameters


def test_hard_assignment() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    one_hot = hard_assignment(logits)
    assert one_hot.equal(F.one_hot(logits.argmax(1), 4).double())
    weight = torch.randn(6, 4, dtype=torch.double)
    (gradient,) = torch.autograd.grad((one_hot * weight).sum(), logits)
    # As if the softmax were multiplied by the constant one-hot matrix.
    soft = (logits.softmax(1) * one_hot.detach() * weight).sum()
    (expected,) = torch.autograd.grad(soft, logits)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().sum() > 0


def test_layer_equals_loops_over_channels() -> None:
    torch.manual_seed(0)
    layer = LearnedGroupConv3d(5, 6, num_groups=3).double()
    x = torch.randn(2, 5, 3, 2, 2, dtype=torch.double)
    inputs = layer.input_groups.argmax(1).tolist()
    outputs = layer.output_groups.argmax(1).tolist()
    expected = torch.zeros(2, 6, 3, 2, 2, dtype=torch.double)
    for o, group in enumerate(outputs):
        expected[:, o] += layer.bias[o]
        for i, other in enumerate(inputs):
            if group == other:
                expected[:, o] += layer.weight[o, i, 0, 0, 0] * x[:, i]
    torch.testing.assert_close(layer(x), expected)
    kernel = layer.weight * layer.mask()[:, :, None, None, None]
    torch.testing.assert_close(layer(x), F.conv3d(x, kernel, layer.bias))


def test_assignments_learn() -> None:
    torch.manual_seed(0)
    layer = LearnedGroupConv3d(8, 8)
    x, target = torch.randn(4, 8, 3, 3, 3), torch.randn(4, 8, 3, 3, 3)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    before = layer.mask().detach()
    losses = []
    for _ in range(30):
        loss: Any = F.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        for parameter in layer.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not layer.mask().equal(before)


def test_every_bottleneck_is_learnt() -> None:
    model: Any = timm.create_model('lgcnet', in_chans=16, num_groups=2)
    layers = [m for m in model.modules() if isinstance(m, LearnedGroupConv3d)]
    assert len(layers) == 18
    assert all(layer.input_groups.shape[1] == 2 for layer in layers)
    first = cast(Any, model).stages[0].layers[0]
    assert isinstance(first.bottleneck, LearnedGroupConv3d)
    assert first.conv.groups == 4
    assert 'num_groups=2' in repr(layers[0])


def test_wrong_groups() -> None:
    with pytest.raises(ValueError, match='num_groups must be at least 1'):
        timm.create_model('lgcnet', num_groups=0)
