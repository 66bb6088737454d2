# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""SSRN: sizes, and the wiring against a plain rewriting."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ('bands', 'classes', 'parameters'),
    [(200, 16, 364_168), (103, 9, 216_537), (176, 13, 327_229)],
)
def test_parameters(bands: int, classes: int, parameters: int) -> None:
    model: Any = timm.create_model('ssrn', in_chans=bands, num_classes=classes)
    assert count(model) == parameters


def plain(model: Any, x: Tensor) -> Tensor:
    """SSRN in evaluation mode with 2D and 1D operations, bands last."""

    def norm(x: Tensor, layer: nn.BatchNorm3d) -> Tensor:
        assert layer.running_mean is not None and layer.running_var is not None
        shape = (1, -1) + (1,) * (x.dim() - 2)
        x = x - layer.running_mean.reshape(shape)
        x = x / torch.sqrt(layer.running_var + layer.eps).reshape(shape)
        return x * layer.weight.reshape(shape) + layer.bias.reshape(shape)

    def block(x: Tensor, layer: Any, conv: Any) -> Tensor:
        out = F.relu(norm(F.relu(conv(x, layer.conv1)), layer.norm1))
        return F.relu(x + norm(conv(out, layer.conv2), layer.norm2))

    def spectral(x: Tensor, layer: nn.Conv3d) -> Tensor:
        return F.conv1d(x, layer.weight[..., 0, 0], layer.bias, padding=3)

    def spatial(x: Tensor, layer: nn.Conv3d) -> Tensor:
        return F.conv2d(x, layer.weight[:, :, 0], layer.bias, padding=1)

    batch, bands, size, _ = x.shape
    first, middle, last = model.stages
    pixels = x.permute(0, 2, 3, 1).reshape(-1, 1, bands)
    y = F.conv1d(pixels, model.stem.weight[..., 0, 0], model.stem.bias, stride=2)
    y = F.relu(norm(y, first.norm))
    for layer in first.blocks:
        y = block(y, layer, spectral)
    y = F.conv1d(y, middle.conv.weight[..., 0, 0], middle.conv.bias)
    assert y.shape[2] == 1
    y = F.relu(norm(y, middle.norm))
    y = y.reshape(batch, size, size, -1).permute(0, 3, 1, 2)
    y = F.conv2d(y, last.conv.weight[:, 0], last.conv.bias)
    y = F.relu(norm(y, last.norm))
    for layer in last.blocks:
        y = block(y, layer, spatial)
    return torch.as_tensor(model.classifier(y.mean((2, 3))))


@pytest.mark.parametrize(('bands', 'size'), [(31, 7), (20, 5), (7, 3)])
def test_equals_plain_rewriting(bands: int, size: int) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('ssrn', in_chans=bands, num_classes=4)
    x = torch.randn(3, bands, size, size)
    model.train()(x)  # move the statistics away from their start
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(model, x), rtol=1e-4, atol=1e-5)


def test_epsilons() -> None:
    model: Any = timm.create_model('ssrn', in_chans=20)
    wide = {n for n, m in model.named_modules() if getattr(m, 'eps', 0.0) == 1e-3}
    assert wide == {'stages.0.norm', 'stages.1.norm', 'stages.2.norm'}


@pytest.mark.parametrize('bands', [1, 2, 6, 7, 8])
def test_few_bands_and_any_patch(bands: int) -> None:
    model: Any = timm.create_model('ssrn', in_chans=bands).eval()
    assert model(torch.randn(2, bands, 3, 3)).shape == (2, 16)
    assert model(torch.randn(1, bands, 9, 9)).shape == (1, 16)
    assert model(torch.randn(1, bands, 2, 4)).shape == (1, 16)


def test_single_pixels_are_seen_by_the_kernels_centre() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('ssrn', in_chans=20).eval()
    x = torch.randn(3, 20, 1, 1)
    logits = model(x)
    for name, parameter in model.named_parameters():
        if name.endswith('weight') and parameter.shape[-2:] == (3, 3):
            with torch.no_grad():
                parameter[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 9.0
    torch.testing.assert_close(model(x), logits)


def test_wrong_sizes() -> None:
    with pytest.raises(ValueError, match='num_blocks must be at least 1'):
        timm.create_model('ssrn', num_blocks=0)
