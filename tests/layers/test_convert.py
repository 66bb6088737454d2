# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Swapping the convolutions of other people's networks."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.prune import l1_unstructured
from torchvision.models.video import r3d_18

import torchgeo_ekgnet.models  # noqa: F401
from torchgeo_ekgnet.layers import (
    DynamicExpertConv3d,
    GroupedConv3d,
    convert_conv3d,
    expert_conv_from,
    expert_convs,
)


class UNet(nn.Module):
    """Two levels, a transposed convolution and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, 4, 3, padding='same', padding_mode='replicate')
        self.inner = nn.Sequential(
            nn.Conv3d(4, 8, 3, stride=2, padding=1, bias=False), nn.ReLU()
        )
        self.up = nn.ConvTranspose3d(8, 4, 2, stride=2)
        self.out = nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(x))
        y: Tensor = self.out(torch.cat([x, self.up(self.inner(x))], 1))
        return y


def test_r3d_18_keeps_its_logits() -> None:
    torch.manual_seed(0)
    model: Any = r3d_18(num_classes=3).eval()
    x = torch.randn(3, 3, 2, 12, 12)
    with torch.no_grad():
        expected = model(x)
    assert convert_conv3d(model, num_experts=2, temperature=0.1) is model
    assert len(dict(expert_convs(model))) == 20
    assert not any(isinstance(m, nn.Conv3d) for m in _outside_mappings(model))
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)


def test_training_moves_experts_and_mappings() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU()),
        *(nn.Conv3d(8, 16, 3, stride=2, padding=1), nn.BatchNorm3d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 3)),
    )
    # One bright channel a class and a low temperature: attention can tell the samples
    # apart from the second step on.
    x = torch.randn(3, 3, 2, 12, 12) + 2 * torch.eye(3).view(3, 3, 1, 1, 1)
    convert_conv3d(model, num_experts=2, temperature=0.1)
    layers: dict[str, Any] = dict(expert_convs(model))
    mappings = {
        name: layer.mapping.project.weight.detach().clone()
        for name, layer in layers.items()
    }
    differences = {name: pairwise(layer) for name, layer in layers.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), torch.tensor([0, 1, 2]))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    for name, layer in layers.items():
        # They differ by the initial spread alone unless training moves them apart.
        moved = (pairwise(layer) - differences[name]).abs().flatten(1).amax(1)
        assert float(moved.min()) > 1e-4, name
        moved = (layer.mapping.project.weight.detach() - mappings[name]).abs()
        assert float(moved.max()) > 1e-4, name


def pairwise(layer: DynamicExpertConv3d) -> Tensor:
    """Subtract the experts of each pair."""
    pairs = itertools.combinations(layer.weight.detach(), 2)
    return torch.stack([one - other for one, other in pairs])


def _outside_mappings(model: nn.Module) -> list[nn.Module]:
    return [m for name, m in model.named_modules() if '.mapping.' not in f'{name}.']


def test_experts_get_gradients_of_their_own_after_one_step() -> None:
    torch.manual_seed(0)
    layer = expert_conv_from(nn.Conv3d(3, 4, 3), temperature=1.0)
    x = torch.randn(8, 3, 4, 4, 4)
    weights = layer.attention_weights(x)
    assert torch.equal(weights, torch.full((8, 4), 0.25))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for step in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        assert layer.weight.grad is not None
        same = torch.allclose(layer.weight.grad[0], layer.weight.grad[1], rtol=1e-4)
        assert same == (step == 0)
        optimizer.step()


@pytest.mark.parametrize('num_experts', [1, 3, 4])
def test_unet(num_experts: int) -> None:
    torch.manual_seed(0)
    model = UNet()
    x = torch.randn(2, 1, 4, 6, 8)
    expected = model(x)
    convert_conv3d(model, num_experts)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)
    assert isinstance(model.up, nn.ConvTranspose3d)
    assert [name for name, _ in expert_convs(model)] == ['down', 'inner.0', 'out']
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('name', ['ekgnet_tiny', 'ssrn'])
def test_own_networks(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, in_chans=24, num_classes=3).double().eval()
    x = torch.randn(2, 24, 7, 7, dtype=torch.float64)
    # Running statistics that fit keep the activations within range.
    with torch.no_grad():
        model.train()(x + torch.randn_like(x))
        expected = model.eval()(x)
        before = len(dict(expert_convs(model)))
        convert_conv3d(model)
        assert len(dict(expert_convs(model))) > before
        torch.testing.assert_close(model(x), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ('include', 'exclude', 'expected'),
    [
        ('inner', None, ['inner.0']),
        (None, 'inner', ['down', 'out']),
        (['^down', 'out$'], None, ['down', 'out']),
        (lambda name, conv: conv.stride != (1, 1, 1), None, ['inner.0']),
        (None, lambda name, conv: conv.kernel_size == (1, 1, 1), ['down', 'inner.0']),
        ('n', ['down'], ['inner.0']),
    ],
)
def test_include_exclude(include: Any, exclude: Any, expected: list[str]) -> None:
    model = convert_conv3d(UNet(), include=include, exclude=exclude)
    assert [name for name, _ in expert_convs(model)] == expected


def test_nothing_selected() -> None:
    with pytest.raises(ValueError, match=r"UNet was selected.*3 nn.Conv3d.*'nowhere'"):
        convert_conv3d(UNet(), include='nowhere')
    with pytest.raises(ValueError, match='has 0 nn'):
        convert_conv3d(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match='spread must not be negative'):
        expert_conv_from(nn.Conv3d(1, 1, 1), spread=-1)


def test_single_layer_shared_layer_and_custom_layer() -> None:
    assert isinstance(convert_conv3d(nn.Conv3d(2, 2, 1)), DynamicExpertConv3d)
    shared = nn.Conv3d(2, 2, 1)
    model: Any = convert_conv3d(nn.Sequential(shared, nn.Sequential(shared)))
    assert model[0] is model[1][0]

    twice: Any = convert_conv3d(nn.Sequential(shared, nn.ReLU(), shared))
    assert isinstance(twice[0], DynamicExpertConv3d) and twice[0] is twice[2]
    model = convert_conv3d(
        nn.Sequential(shared, nn.Conv3d(2, 2, 1), shared), exclude='0'
    )
    assert isinstance(model[0], DynamicExpertConv3d) and model[0] is model[2]

    class Scaled(nn.Conv3d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = convert_conv3d(nn.Sequential(Scaled(2, 2, 1), nn.Conv3d(2, 2, 1)))
    assert isinstance(model[0], Scaled)


def hooked(conv: nn.Conv3d) -> nn.Module:
    conv.register_forward_hook(lambda module, inputs, output: 2 * output)
    return conv


def prehooked(conv: nn.Conv3d) -> nn.Module:
    conv.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return conv


def pruned(conv: nn.Conv3d) -> nn.Module:
    module: nn.Module = l1_unstructured(conv, 'weight', amount=0.5)
    return module


def replaced(conv: nn.Conv3d) -> nn.Module:
    forward = conv.forward
    conv.forward = lambda input: 2 * forward(input)  # type: ignore[method-assign]
    return conv


def watched_backward(conv: nn.Conv3d) -> nn.Module:
    conv.register_full_backward_hook(lambda module, inputs, outputs: None)
    return conv


@pytest.mark.parametrize(
    'wrap',
    [
        hooked,
        prehooked,
        replaced,
        watched_backward,
        pruned,
        parametrizations.weight_norm,
    ],
)
def test_layers_with_hooks_or_parametrizations_stay(
    wrap: Callable[[nn.Conv3d], nn.Module],
) -> None:
    torch.manual_seed(0)
    layer = wrap(nn.Conv3d(2, 2, 3))
    model: Any = nn.Sequential(layer, nn.Conv3d(2, 2, 1))
    x = torch.randn(2, 2, 4, 4, 4)
    expected = model(x)
    convert_conv3d(model)
    assert model[0] is layer and isinstance(model[1], DynamicExpertConv3d)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)


def test_lazy_layers_need_weights() -> None:
    model: Any = nn.Sequential(nn.Conv3d(2, 2, 1), nn.LazyConv3d(3, 3))
    with pytest.raises(
        ValueError, match=r"in the lazy layer '1'.*run the network once"
    ):
        convert_conv3d(model)
    assert isinstance(model[0], nn.Conv3d)
    model(torch.randn(1, 2, 3, 3, 3))
    assert len(dict(expert_convs(convert_conv3d(model)))) == 2


def test_keeps_device_type_mode_and_requires_grad() -> None:
    conv = nn.Conv3d(2, 2, 1, dtype=torch.float64).eval().requires_grad_(False)
    layer = expert_conv_from(conv)
    assert layer.weight.dtype == torch.float64 and not layer.training
    assert not layer.weight.requires_grad
    assert layer.bias is not None and not layer.bias.requires_grad


def test_rows_first() -> None:
    torch.manual_seed(0)
    conv = GroupedConv3d(
        4, 4, (3, 1, 2), (2, 1, 1), (1, 0, 1), groups=2, rows_first=True
    )
    x = torch.randn(2, 4, 3, 6, 5)
    torch.testing.assert_close(expert_conv_from(conv)(x), conv(x))


def test_generator_makes_it_reproducible() -> None:
    conv = nn.Conv3d(2, 2, 3)
    one, other = (
        expert_conv_from(conv, generator=torch.Generator().manual_seed(1)).weight
        for _ in range(2)
    )
    assert torch.equal(one, other)
