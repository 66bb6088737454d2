# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""3D-DenseNet with and without squeeze and excitation."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchgeo_ekgnet.models.densenet3d import SqueezeExcitation3d


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters() -> None:
    plain: Any = timm.create_model('densenet3d')
    squeezed: Any = timm.create_model('se_densenet3d')
    assert count(plain) == 1_159_264
    # The released network's summary counts the batch statistics too: 1.171 million.
    statistics = sum(b.numel() for b in squeezed.buffers() if b.dim())
    assert count(squeezed) + statistics == 1_171_280
    # Two gates of 160 and 176 channels without biases.
    assert count(squeezed) - count(plain) == 2 * 160 * 10 + 2 * 176 * 11
    widths = [info['num_chs'] for info in squeezed.feature_info]
    assert widths == [160, 176, 184]


def rewritten(model: Any, x: Tensor) -> Tensor:
    """The network in evaluation mode, written down once more."""

    def norm_relu(x: Tensor, norm: nn.BatchNorm3d) -> Tensor:
        return F.relu(
            F.batch_norm(
                x,
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                eps=1.001e-5,
            )
        )

    x = F.conv3d(x.unsqueeze(1), model.stem.weight, model.stem.bias, padding=1)
    x = F.max_pool3d(x, 3, 2)
    for index, stage in enumerate(model.stages):
        layers = list(stage)[1:]
        if index:
            transition = stage[0]
            x = F.conv3d(norm_relu(x, transition.norm), transition.conv.weight)
            x = x[..., ::2, ::2, ::2]
        for layer in layers:
            if isinstance(layer, SqueezeExcitation3d):
                gate = F.adaptive_avg_pool3d(x, 1).flatten(1)
                gate = F.relu(gate @ layer.squeeze.weight.T) @ layer.excite.weight.T
                x = x * torch.sigmoid(gate)[..., None, None, None]
            else:
                y = F.conv3d(norm_relu(x, layer.norm1), layer.conv1.weight)
                y = F.conv3d(norm_relu(y, layer.norm2), layer.conv2.weight, padding=1)
                x = torch.cat([x, y], 1)
    return torch.as_tensor(model.classifier(F.adaptive_avg_pool3d(x, 1).flatten(1)))


@pytest.mark.parametrize('name', ['densenet3d', 'se_densenet3d'])
@pytest.mark.parametrize('size', [(9, 5), (14, 3)])
def test_equals_plain_rewriting(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    bands, patch = size
    model: Any = timm.create_model(name, in_chans=bands, num_classes=4)
    x = torch.randn(3, bands, patch, patch)
    model.train()(x)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), rewritten(model, x), rtol=1e-4, atol=1e-4)


def test_squeeze_excitation_gradient() -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation3d(8, 4).double()
    x = torch.randn(2, 8, 2, 1, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert all(p.dim() == 2 for p in layer.parameters())


@pytest.mark.parametrize('bands', [1, 2, 5])
@pytest.mark.parametrize('patch', [1, 2, 4])
def test_any_bands_and_patch(bands: int, patch: int) -> None:
    model: Any = timm.create_model('se_densenet3d', in_chans=bands).eval()
    assert model(torch.randn(1, bands, patch, patch)).shape == (1, 16)


def test_without_subsampling() -> None:
    model: Any = timm.create_model('se_densenet3d', in_chans=9, subsample=False).eval()
    assert model.forward_features(torch.randn(1, 9, 9, 9)).shape[2:] == (4, 4)
    assert [info['reduction'] for info in model.feature_info] == [2, 2, 2]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'block_config': (3, 0)}, 'block_config'),
        ({'growth_rate': 0}, 'growth_rate'),
        ({'se_reduction': 0}, 'se_reduction'),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model('densenet3d', **kwargs)
