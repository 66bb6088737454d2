# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""SpectralFormer: sizes, tokens, fusion, and the wiring against a plain rewriting."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchgeo_ekgnet.models.spectralformer import CrossLayerFusion


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ('name', 'kwargs', 'parameters'),
    [
        ('spectralformer', {}, 355_577),
        ('spectralformer_pixel', {}, 346_361),
        (
            'spectralformer',
            {'in_chans': 103, 'num_classes': 9, 'near_bands': 7},
            183_657,
        ),
        ('spectralformer_pixel', {'in_chans': 103, 'num_classes': 9}, 161_897),
    ],
)
def test_parameters(name: str, kwargs: dict[str, Any], parameters: int) -> None:
    assert count(timm.create_model(name, **kwargs)) == parameters


def rewritten(model: Any, x: Tensor, near_bands: int) -> Tensor:
    """The network in evaluation mode, with loops over bands and heads."""
    bands = x.shape[1]
    pixels = x.flatten(2)
    kernel = model.stem.weight[:, 0].flatten(1)
    tokens = [model.class_token[0].expand(x.shape[0], -1)]
    for band in range(bands):
        near = [
            pixels[:, (band + shift) % bands]
            for shift in range(-(near_bands // 2), near_bands // 2 + 1)
        ]
        tokens.append(torch.cat(near, 1) @ kernel.T + model.stem.bias)
    y = torch.stack(tokens, 1) + model.position
    inputs: list[Tensor] = []
    for index, stage in enumerate(model.stages):
        inputs.append(y)
        if index > 1:
            mix = stage.fusion.mix
            pair = torch.stack([y, inputs[index - 2]], 3)
            kernel = mix.weight.unflatten(1, (2, -1)).transpose(1, 2).unsqueeze(2)
            y = F.conv2d(pair, kernel, mix.bias).squeeze(3)
        attention = stage.attention
        qkv = attention.qkv(F.layer_norm(y, (64,), *attention.norm.parameters()))
        query, key, value = qkv.split(64, 2)
        heads = []
        for head in range(4):
            part = slice(16 * head, 16 * head + 16)
            score = query[..., part] @ key[..., part].transpose(1, 2) / 4.0
            heads.append(score.softmax(2) @ value[..., part])
        y = y + attention.proj(torch.cat(heads, 2))
        norm, widen, _, _, narrow, _ = stage.perceptron
        y = y + narrow(F.gelu(widen(norm(y))))
    return torch.as_tensor(model.classifier(model.norm(y[:, 0])))


@pytest.mark.parametrize('near_bands', [1, 3, 7])
def test_equals_plain_rewriting(near_bands: int) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(
        'spectralformer', in_chans=12, num_classes=4, img_size=3, near_bands=near_bands
    ).eval()
    x = torch.randn(2, 12, 3, 3)
    with torch.no_grad():
        expected = rewritten(model, x, near_bands)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_fusion_starts_at_the_third_layer() -> None:
    model: Any = timm.create_model('spectralformer', in_chans=12)
    assert [stage.fusion is not None for stage in model.stages] == [False] * 2 + [
        True
    ] * 3


def test_fusion_gradient() -> None:
    torch.manual_seed(0)
    layer = CrossLayerFusion(4).double()
    x, earlier = (
        torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True) for _ in range(2)
    )
    assert torch.autograd.gradcheck(layer, (x, earlier))


def test_pixel_reads_the_centre_alone() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('spectralformer_pixel', in_chans=10).eval()
    x = torch.randn(2, 10, 5, 5)
    other = torch.randn(2, 10, 5, 5)
    other[:, :, 2, 2] = x[:, :, 2, 2]
    logits = model(x)
    torch.testing.assert_close(model(other), logits)
    torch.testing.assert_close(model(x[:, :, 2:3, 2:3]), logits)
    other[:, :, 2, 2] += 1
    assert not model(other).allclose(logits)


def test_dropout_is_on_in_training_only() -> None:
    model: Any = timm.create_model('spectralformer', in_chans=8, img_size=3)
    x = torch.randn(2, 8, 3, 3)
    assert not model(x).equal(model(x))
    model.eval()
    assert model(x).equal(model(x))
    off: Any = timm.create_model(
        'spectralformer', in_chans=8, img_size=3, proj_drop_rate=0.0
    )
    assert off(x).equal(off(x))


@pytest.mark.parametrize('bands', [1, 2, 3])
def test_few_bands(bands: int) -> None:
    model: Any = timm.create_model('spectralformer', in_chans=bands, img_size=1).eval()
    assert model(torch.randn(2, bands, 1, 1)).shape == (2, 16)


def test_features_are_the_class_token() -> None:
    model: Any = timm.create_model('spectralformer', in_chans=8, img_size=3).eval()
    features = model.forward_features(torch.randn(2, 8, 3, 3))
    assert features.shape == (2, 64, 1, 1)
    assert [info['reduction'] for info in model.feature_info] == [3] * 5


def test_depth_is_free() -> None:
    model: Any = timm.create_model(
        'spectralformer', in_chans=8, img_size=3, depth=2, features_only=True
    )
    assert len(model(torch.randn(1, 8, 3, 3))) == 2


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'near_bands': 2}, 'near_bands must be odd'),
        ({'near_bands': -1}, 'near_bands must be odd'),
        ({'depth': 0}, 'depth'),
        ({'img_size': 0}, 'img_size'),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model('spectralformer', **kwargs)


def test_another_patch_size_is_refused() -> None:
    model: Any = timm.create_model('spectralformer', in_chans=8)
    with pytest.raises(ValueError, match=r'9x9 pixels .*img_size=\(7, 7\)'):
        model(torch.randn(1, 8, 9, 9))
