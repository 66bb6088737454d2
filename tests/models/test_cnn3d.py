# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""3D-CNN: sizes, equality with a plain rewriting, img_size."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from torchgeo_ekgnet.models._blocks import (
    FullExtentConv3d,
    MaxPool3d,
    rows_and_columns,
    shifted_maximum,
)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(('patch', 'flat'), [(7, 2160), (15, 29_040)])
def test_parameters(patch: int, flat: int) -> None:
    model: Any = timm.create_model('cnn3d', img_size=patch)
    convolutions = 4 * 90 + 4 + 16 * 4 * 90 + 16
    dense = flat * 200 + 200 + 200 * 200 + 200 + 200 * 16 + 16
    assert count(model) == convolutions + dense
    assert (patch, count(model)) in {(7, 481_756), (15, 5_857_756)}


def test_equals_plain_rewriting() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model(
        'cnn3d', in_chans=100, num_classes=5, img_size=7
    ).eval()
    pool = nn.MaxPool3d(3, 1, 1)
    (stem, *convolutions) = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert [tuple(c.kernel_size) for c in (stem, convolutions[0])] == [(10, 3, 3)] * 2
    assert [tuple(c.stride) for c in (stem, convolutions[0])] == [(5, 1, 1), (2, 1, 1)]
    x = torch.randn(2, 100, 7, 7)
    y = pool(stem(x.unsqueeze(1)).relu())
    y = pool(convolutions[0](y).relu()).flatten(1)
    for layer in convolutions[1:]:
        y = (y @ layer.weight.flatten(1).T + layer.bias).relu()
    torch.testing.assert_close(model(x), model.classifier(y), rtol=1e-4, atol=1e-5)


def test_dropout() -> None:
    model: Any = timm.create_model('cnn3d', in_chans=30, img_size=5)
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.5, 0.5, 0.0]
    x = torch.randn(2, 30, 5, 5)
    assert not model(x).equal(model(x))
    off: Any = timm.create_model('cnn3d', in_chans=30, img_size=5, proj_drop_rate=0.0)
    assert off(x).equal(off(x))


@pytest.mark.parametrize('bands', [1, 9, 10, 54, 55])
@pytest.mark.parametrize('size', [(1, 1), (2, 4), (9, 9)])
def test_any_bands_and_patch(bands: int, size: tuple[int, int]) -> None:
    model: Any = timm.create_model('cnn3d', in_chans=bands, img_size=size).eval()
    assert model(torch.randn(2, bands, *size)).shape == (2, 16)


def test_another_patch_size_is_refused() -> None:
    model: Any = timm.create_model('cnn3d', in_chans=12, img_size=5)
    with pytest.raises(ValueError, match=r'7x7 pixels .*img_size=\(5, 5\)'):
        model(torch.randn(1, 12, 7, 7))
    with pytest.raises(ValueError, match='7x7 pixels'):
        model.forward_intermediates(torch.randn(1, 12, 7, 7))


@pytest.mark.parametrize('img_size', [0, (3,), (3, 4, 5), (3, 0)])
def test_wrong_img_size(img_size: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='img_size must be one or two positive'):
        timm.create_model('cnn3d', img_size=img_size)


def test_wrong_channels() -> None:
    with pytest.raises(ValueError, match='channels must hold two positive numbers'):
        timm.create_model('cnn3d', channels=(4,))


def test_rows_and_columns() -> None:
    assert rows_and_columns(7) == (7, 7)
    assert rows_and_columns([3, 5]) == (3, 5)


def test_full_extent_convolution_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer = FullExtentConv3d(3, 4, (5, 2, 2)).double()
    x = torch.randn(2, 3, 5, 2, 2, dtype=torch.double)
    expected = nn.functional.conv3d(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 3, 1), (4, 2, 5), (7, 6, 3)])
def test_max_pooling_keeps_the_size(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *shape, requires_grad=True)
    expected = nn.MaxPool3d(3, 1, 1)(x)
    assert MaxPool3d()(x).equal(expected)
    pooled = shifted_maximum(x, 1)
    assert pooled.equal(expected)
    weight = torch.randn_like(pooled)
    (ours,) = torch.autograd.grad((pooled * weight).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('shape', [(3, 3, 3), (4, 5, 6), (9, 3, 8)])
def test_max_pooling_halves(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *shape)
    expected = nn.MaxPool3d(3, 2)(x)
    assert MaxPool3d(stride=2)(x).equal(expected)
    assert shifted_maximum(x, 2).equal(expected)


def test_max_pooling_leaves_short_axes_alone() -> None:
    x = torch.randn(2, 3, 5, 2, 1)
    expected = nn.MaxPool3d((3, 1, 1), (2, 1, 1))(x)
    assert MaxPool3d(stride=2)(x).equal(expected)
    assert shifted_maximum(x, 2).equal(expected)


def test_max_pooling_stride() -> None:
    assert repr(MaxPool3d(2)) == 'MaxPool3d(stride=2)'
    with pytest.raises(ValueError, match='stride must be 1 or 2, found 3'):
        MaxPool3d(3)
