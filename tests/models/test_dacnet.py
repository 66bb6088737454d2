# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""DACNet: sizes, attention, and the layer against a loop over patches."""

import math
from typing import Any, cast

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from torchgeo_ekgnet.layers import expert_convs
from torchgeo_ekgnet.models.dacnet import SqueezeAttention

from .conftest import settled, small_input, small_model


def test_parameters() -> None:
    model: Any = timm.create_model('dacnet')
    assert sum(p.numel() for p in model.parameters()) == 1_645_384


def test_attention() -> None:
    torch.manual_seed(0)
    mapping = SqueezeAttention(10, 3, temperature=2.0).double()
    assert mapping.squeeze.weight.shape == (3, 10)
    x = torch.randn(4, 10, 3, 2, 2, dtype=torch.double)
    pooled = F.adaptive_avg_pool3d(x, 1).flatten(1)
    hidden = F.relu(pooled @ mapping.squeeze.weight.T)
    expected = torch.softmax(hidden @ mapping.excite.weight.T / 2.0, 1)
    torch.testing.assert_close(mapping(x), expected)
    torch.testing.assert_close(mapping(x.mean((2, 3, 4), keepdim=True)), expected)
    torch.testing.assert_close(mapping(x).sum(1), torch.ones(4, dtype=torch.double))


def test_temperature() -> None:
    mapping = SqueezeAttention(10)
    assert float(mapping.temperature) == 34.0
    assert 'temperature' in mapping.state_dict()
    steps = 0
    while float(mapping.temperature) > 1.0:
        mapping.update_temperature()
        steps += 1
    assert steps == 11
    mapping.update_temperature()
    assert float(mapping.temperature) == 1.0
    mapping.set_temperature(0.5)
    mapping.update_temperature()
    assert float(mapping.temperature) == 0.5
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match='temperature must be positive and finite'):
            mapping.set_temperature(value)
    assert float(mapping.temperature) == 0.5


def test_layers_are_mixed_from_experts() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('dacnet', in_chans=16, num_experts=3).eval()
    layers = dict(expert_convs(model))
    assert len(layers) == 18
    layer = cast(Any, layers['stages.0.layers.1.bottleneck'])
    assert type(layer.mapping) is SqueezeAttention
    assert layer.weight.shape[0] == 3
    x = torch.randn(2, 24, 5, 3, 3)
    attention = layer.mapping(x)
    expected = []
    for patch, share in zip(x, attention, strict=True):
        kernel = torch.stack([a * w for a, w in zip(share, layer.weight, strict=True)])
        bias = torch.stack([a * b for a, b in zip(share, layer.bias, strict=True)])
        expected.append(F.conv3d(patch.unsqueeze(0), kernel.sum(0), bias.sum(0)))
    torch.testing.assert_close(layer(x), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_experts_have_unit_variance() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('dacnet', in_chans=16)
    _, layer = list(expert_convs(model))[-1]
    assert abs(float(layer.weight.detach().std()) - 1.0) < 0.01
    assert isinstance(layer.bias, nn.Parameter)
    assert not layer.bias.any()


def test_experts_may_start_as_those_of_ekgnet() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('dacnet', in_chans=16, expert_init='trunc_normal')
    _, layer = list(expert_convs(model))[-1]
    std = layer.weight[0, 0].numel() ** -0.5
    assert 0 < float(layer.weight.detach().abs().max()) <= 2 * std
    with pytest.raises(ValueError, match="expert_init must be 'normal'"):
        timm.create_model('dacnet', expert_init='uniform')


def test_bfloat16_is_exact_where_attention_is_not_one_hot() -> None:
    # With initial statistics kernels of unit variance make attention one-hot, and
    # rounding chooses another kernel; with the statistics of a batch it does not.
    model = small_model('dacnet', block_config=(4, 4))
    x = small_input('dacnet', 16)
    model = settled(model, x)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            result = model(x).float()
    assert float((result - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'temperature': 0.0}, 'temperature'),
        ({'temperature': math.nan}, 'temperature'),
        ({'attention_ratio': 0.0}, 'ratio'),
        ({'attention_ratio': math.inf}, 'ratio'),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f'{message} must be positive'):
        timm.create_model('dacnet', **kwargs)
