# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The dynamic convolution against a loop over samples, and its edges."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchgeo_ekgnet.layers import (
    ContextMapping,
    DynamicExpertConv3d,
    expert_convs,
    grouped_conv3d,
)

GRID: list[dict[str, Any]] = [
    {'kernel_size': 1},
    {'kernel_size': 1, 'bias': False},
    {'kernel_size': 1, 'groups': 2},
    {'kernel_size': 1, 'groups': 2, 'bias': False},
    {'kernel_size': 1, 'stride': 2},
    {'kernel_size': 1, 'padding': 1},
    {'kernel_size': 3},
    {'kernel_size': 3, 'padding': 1},
    {'kernel_size': 3, 'padding': 1, 'groups': 2},
    {'kernel_size': 3, 'padding': 1, 'groups': 2, 'bias': False},
    {'kernel_size': 3, 'padding': 2, 'dilation': 2, 'groups': 2},
    {'kernel_size': 3, 'padding': 1, 'stride': 2},
    {'kernel_size': (3, 1, 2), 'padding': (1, 0, 1), 'stride': (1, 2, 1)},
    {'kernel_size': (2, 3, 1), 'dilation': (1, 2, 1), 'bias': False},
    {'kernel_size': 3, 'padding': 'same'},
    {'kernel_size': (2, 3, 4), 'padding': 'same', 'groups': 2},
    {'kernel_size': 2, 'padding': 'same', 'dilation': (1, 2, 3)},
    {'kernel_size': 3, 'padding': 'valid'},
    {'kernel_size': 3, 'padding': 1, 'padding_mode': 'reflect'},
    {'kernel_size': 3, 'padding': (1, 2, 1), 'padding_mode': 'replicate'},
    {'kernel_size': 3, 'padding': 'same', 'padding_mode': 'circular', 'groups': 2},
    {'kernel_size': 2, 'padding': 'same', 'padding_mode': 'reflect', 'bias': False},
]


def layer_of(options: dict[str, Any], dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    layer = DynamicExpertConv3d(
        4, 6, num_experts=3, temperature=1.5, dtype=dtype, **options
    )
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def mapping_oracle(mapping: ContextMapping, x: Tensor) -> Tensor:
    """The paper's formulas, written from scratch on (B, C) vectors."""

    def norm(h: Tensor, bn: nn.BatchNorm3d) -> Tensor:
        mean, var = h.mean(0), h.var(0, unbiased=False)
        return (h - mean) / (var + bn.eps).sqrt() * bn.weight + bn.bias

    def linear(h: Tensor, conv: nn.Conv3d) -> Tensor:
        assert conv.bias is not None
        return h @ conv.weight[:, :, 0, 0, 0].T + conv.bias

    h = x.mean((2, 3, 4))
    for block in mapping.blocks:
        inner: Any = block
        f = h
        for i in range(0, len(inner.units), 3):
            f = norm(f, inner.units[i])
            f = 0.5 * f * (1 + torch.erf(f / 2**0.5))
            f = linear(f, inner.units[i + 2])
        h = inner.residual_weight * f + h
    logits = linear(norm(h, mapping.norm), mapping.project)
    tau = 0.01 + torch.log1p(torch.exp(mapping.raw_temperature))
    scores = torch.exp(logits / tau)
    return scores / scores.sum(1, keepdim=True)


def conv_oracle(layer: Any, x: Tensor, attention: Tensor, options: Any) -> Tensor:
    """nn.Conv3d on one sample after the other, with that sample's own kernel."""
    outputs = []
    for sample, shares in zip(x, attention, strict=True):
        conv = nn.Conv3d(4, 6, dtype=x.dtype, **options)
        kernel = sum(a * w for a, w in zip(shares, layer.weight, strict=True))
        tensors = {'weight': kernel}
        if layer.bias is not None:
            tensors['bias'] = sum(
                a * b for a, b in zip(shares, layer.bias, strict=True)
            )
        outputs.append(
            torch.func.functional_call(conv, tensors, (sample.unsqueeze(0),))
        )
    return torch.cat(outputs)


@pytest.mark.filterwarnings('ignore:Using padding=.same.')
@pytest.mark.parametrize('options', GRID, ids=str)
def test_equals_a_loop_over_samples(options: dict[str, Any]) -> None:
    layer = layer_of(options)
    x = torch.randn(3, 4, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    attention = mapping_oracle(layer.mapping, x)
    expected = conv_oracle(layer, x, attention, options)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    inputs = {'x': x, **dict(layer.named_parameters())}
    seen = torch.randn_like(y)
    ours = torch.autograd.grad(y, list(inputs.values()), seen)
    theirs = torch.autograd.grad(expected, list(inputs.values()), seen)
    for name, one, other in zip(inputs, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    'options',
    [
        {'kernel_size': 1},
        {'kernel_size': (2, 1, 3), 'padding': (1, 0, 1), 'groups': 2, 'stride': 2},
    ],
    ids=str,
)
def test_gradcheck(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer: Any = DynamicExpertConv3d(
        2,
        2,
        num_experts=2,
        num_mapping_blocks=1,
        temperature=1.2,
        dtype=torch.float64,
        **options,
    ).eval()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(2, 2, 3, 2, 3, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *values: Tensor) -> Any:
        tensors = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, tensors, (x,))

    arguments = (x, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


def test_signature_and_attributes_of_conv3d() -> None:
    arguments = (4, 6, (3, 1, 2), 2, (1, 0, 1), 1, 2, False, 'zeros')
    ours, theirs = DynamicExpertConv3d(*arguments), nn.Conv3d(*arguments)  # type: ignore[arg-type]
    for name in (
        'in_channels',
        'out_channels',
        'kernel_size',
        'stride',
        'padding',
        'dilation',
        'transposed',
        'output_padding',
        'groups',
        'padding_mode',
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.bias is None
    assert ours.weight.shape == (4, *theirs.weight.shape)
    text = repr(DynamicExpertConv3d(4, 6, 3, padding='same', groups=2, dilation=2))
    assert 'padding=same' in text and 'num_experts=4' in text and 'groups=2' in text


def test_experts_start_truncated_normal() -> None:
    torch.manual_seed(0)
    layer = DynamicExpertConv3d(64, 64, 3)
    std = (64 * 27) ** -0.5
    weight = layer.weight.detach()
    assert float(weight.abs().max()) <= 2 * std
    # A normal distribution cut at two deviations keeps 0.88 of its own.
    assert float(weight.std()) == pytest.approx(0.88 * std, rel=0.02)
    assert layer.bias is not None and not layer.bias.detach().any()
    before = weight.clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.weight)


def test_attention_weights() -> None:
    torch.manual_seed(0)
    layer = DynamicExpertConv3d(4, 6, 3, num_experts=5).eval()
    x = torch.randn(7, 4, 3, 4, 5)
    weights = layer.attention_weights(x)
    assert weights.shape == (7, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(7))
    torch.testing.assert_close(layer.attention_weights(x[2]), weights[2])


def test_known_context_gives_the_same_output() -> None:
    layer = layer_of({'kernel_size': 3, 'padding': 1}).eval()
    x = torch.randn(2, 4, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(
        layer(x, x.mean((2, 3, 4), keepdim=True)), layer(x), rtol=0, atol=1e-12
    )


def test_unbatched_input() -> None:
    layer = layer_of({'kernel_size': 3, 'padding': 1})
    x = torch.randn(4, 3, 4, 5, dtype=torch.float64)
    before = copy.deepcopy(layer.state_dict())
    y = layer(x)
    assert y.shape == (6, 3, 4, 5)
    torch.testing.assert_close(y, layer.eval()(x.unsqueeze(0))[0])
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('groups', [1, 2])
def test_empty_batch(kernel_size: int, groups: int) -> None:
    layer = layer_of({'kernel_size': kernel_size, 'padding': 1, 'groups': groups})
    x = torch.randn(0, 4, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    grown = 3 - kernel_size
    assert y.shape == (0, 6, 3 + grown, 4 + grown, 5 + grown)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert not layer.weight.grad.any()
    assert torch.isfinite(layer.mapping.norm.running_var).all()


def test_bad_input() -> None:
    layer = DynamicExpertConv3d(4, 6, 3)
    with pytest.raises(ValueError, match='5 channels, expected in_channels=4'):
        layer(torch.randn(1, 5, 4, 4, 4))
    with pytest.raises(ValueError, match=r'expected \(B, 4, D, H, W\)'):
        layer(torch.randn(4, 4))
    with pytest.raises(TypeError, match=r'torch.int64.*\.float\(\)'):
        layer(torch.zeros(1, 4, 4, 4, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match=r'float64, expected torch.float32 as the w'):
        layer(torch.zeros(1, 4, 4, 4, 4, dtype=torch.float64))
    for context in (None, torch.randn(2, 4, 1, 1, 1)):
        with pytest.raises(ValueError, match=r'\(2, 4, 0, 5, 5\) has an empty axis'):
            layer(torch.randn(2, 4, 0, 5, 5), context)
    with pytest.raises(ValueError, match='5 channels'):
        layer.attention_weights(torch.randn(5, 4, 4, 4))
    x = torch.randn(2, 4, 5, 5, 5)
    for context in (x.mean((2, 3, 4)), torch.randn(3, 4, 1, 1, 1)):
        with pytest.raises(ValueError, match=r'context .* expected \(2, 4, 1, 1, 1\)'):
            layer(x, context)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'in_channels': 0}, 'in_channels must be a whole number of at least 1'),
        ({'num_experts': 0}, 'num_experts must be a whole number of at least 1'),
        ({'groups': 3}, 'in_channels=4 must be a multiple of groups=3'),
        ({'groups': 4}, 'out_channels=6 must be a multiple of groups=4'),
        ({'padding_mode': 'mirror'}, "found 'mirror'"),
        ({'padding': 'full'}, "found 'full'"),
        ({'padding': 'same', 'stride': 2}, "padding='same' needs stride 1"),
        ({'kernel_size': (3, 3)}, 'kernel_size must be an int or 3 ints'),
        ({'kernel_size': 1.5}, 'kernel_size must be an int or 3 ints'),
        ({'kernel_size': 0}, r'kernel_size must be at least 1, found \(0, 0, 0\)'),
        ({'stride': (1, 0, 1)}, r'stride must be at least 1, found \(1, 0, 1\)'),
        ({'dilation': 0}, 'dilation must be at least 1'),
        ({'padding': -1}, 'padding must be at least 0'),
        ({'num_experts': 2.0}, 'num_experts must be a whole number .*found 2.0'),
        ({'temperature': 0.0}, 'temperature must be a finite number above 0.01'),
        ({'num_mapping_blocks': -1}, 'num_blocks must be at least 0'),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 3}
    with pytest.raises(ValueError, match=message):
        DynamicExpertConv3d(**{**arguments, **options})


def test_sizes_from_numpy() -> None:
    one: Any = np.int64(1)
    layer = DynamicExpertConv3d(4, 6, 3 * one, padding=(3 * one, one, 0))
    assert layer.kernel_size == (3, 3, 3) and layer.padding == (3, 1, 0)
    x = torch.randn(2, 4, 3, 3, 3)
    assert layer(x).shape == nn.Conv3d(4, 6, 3, padding=(3, 1, 0))(x).shape
    halved = grouped_conv3d(x, torch.randn(4, 4, 1, 1, 1), stride=2 * one)
    assert halved.shape == (2, 4, 2, 2, 2)


def test_own_mapping() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.softmax(x.mean((2, 3, 4))[:, :3], 1)

    layer = DynamicExpertConv3d(4, 6, 1, num_experts=3, mapping=Mean())
    assert layer(torch.randn(2, 4, 3, 3, 3)).shape == (2, 6, 3, 3, 3)
    with pytest.raises(ValueError, match=r'expected \(B, K\) = \(2, 2\)'):
        DynamicExpertConv3d(4, 6, 1, num_experts=2, mapping=Mean())(
            torch.randn(2, 4, 3, 3, 3)
        )


def test_copy_pickle_and_state_dict() -> None:
    layer = layer_of({'kernel_size': 3, 'padding': 'same'}).eval()
    x = torch.randn(2, 4, 3, 4, 5, dtype=torch.float64)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = DynamicExpertConv3d(
        4, 6, 3, padding='same', num_experts=3, dtype=torch.float64
    ).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


def test_expert_convs() -> None:
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.Sequential(DynamicExpertConv3d(4, 4, 1)), nn.ReLU()
    )
    assert [name for name, _ in expert_convs(model)] == ['1.0']


def test_update_temperature() -> None:
    layer = DynamicExpertConv3d(4, 4, 1)
    assert float(layer.temperature.detach()) == pytest.approx(34)
    layer.update_temperature()
    assert float(layer.temperature.detach()) == pytest.approx(31)
    for _ in range(20):
        layer.update_temperature()
    assert float(layer.temperature.detach()) == pytest.approx(1)
