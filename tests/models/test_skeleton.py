# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Dense blocks: layers read slices of one buffer, as if they were concatenated."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import DynamicExpertConv3d, conv_strategy, direct
from torchgeo_ekgnet.layers.norm import folded_evaluation
from torchgeo_ekgnet.models import DACNet, DGCNet, EKGNet, LGCNet, _skeleton
from torchgeo_ekgnet.models._skeleton import CentreWeights, DenseStage

from .conftest import BANDS, settled, small_input, small_model


def make_stage(bottleneck: Callable[[int, int], nn.Module], pool: bool) -> DenseStage:
    """A block of three layers in float64, training."""
    torch.manual_seed(0)
    return DenseStage(4, 3, 4, bottleneck, pool, groups=2).double()


def experts(in_channels: int, out_channels: int) -> nn.Module:
    return DynamicExpertConv3d(in_channels, out_channels, 1, num_experts=2)


def static(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Conv3d(in_channels, out_channels, 1)


class _Wrapped(nn.Module):
    """A layer with something added, as adapters add it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.added = nn.Conv3d(layer.in_channels, layer.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + self.added(x)
        return y


class _Largest(nn.Module):
    """A mapping that needs more than the mean."""

    def forward(self, x: Tensor) -> Tensor:
        largest = x.amax((2, 3, 4))
        return torch.stack([largest.mean(1), largest.amax(1)], 1).softmax(1)


def _replace_bottlenecks(stage: Any) -> None:
    for layer in stage.layers:
        conv = layer.bottleneck
        layer.bottleneck = nn.Conv3d(conv.in_channels, conv.out_channels, 1)


def _wrap_bottlenecks(stage: Any) -> None:
    for layer in stage.layers:
        layer.bottleneck = _Wrapped(layer.bottleneck)


def _replace_mappings(stage: Any) -> None:
    for layer in stage.layers:
        layer.bottleneck.mapping = _Largest()


def maps(batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    options = {'dtype': torch.float64, 'generator': generator}
    x = torch.randn(batch, 4, 6, 4, 4, **options)  # type: ignore[call-overload]
    return x.requires_grad_()  # type: ignore[no-any-return]


def buffers_read(stage: DenseStage, x: Tensor, strategy: str | None = None) -> int:
    """In how many buffers the inputs of the layers lie."""
    # Kept until the end: freed memory would come again at the same address.
    read: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        for layer in stage.layers
    ]
    with conv_strategy(strategy):
        stage(x)
    for hook in hooks:
        hook.remove()
    return len({tensor.untyped_storage().data_ptr() for tensor in read})


@pytest.mark.parametrize(
    'change', [_replace_bottlenecks, _wrap_bottlenecks, _replace_mappings]
)
def test_parts_of_layers_may_be_replaced(change: Callable[[Any], None]) -> None:
    stage: Any = make_stage(experts, True)
    change(stage)
    stage.double().eval()
    pooled = x = stage.pool(maps())
    for layer in stage.layers:
        inner = layer.act(layer.norm(layer.bottleneck(x)))
        new = layer.conv(inner.transpose(2, 3)).transpose(2, 3)
        x = torch.cat([x, new], 1)
    assert x.shape[1] > pooled.shape[1]
    torch.testing.assert_close(stage(maps()), x)
    with torch.no_grad():
        torch.testing.assert_close(stage(maps()), x)
    torch.testing.assert_close(torch.jit.script(stage)(maps()), x)


@pytest.mark.parametrize('layer', [experts, static])
@pytest.mark.parametrize('gradients', [False, True])
def test_bands_may_come_last(
    layer: Callable[[int, int], nn.Module],
    gradients: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, x = make_stage(layer, True).train(gradients), maps()
    with torch.set_grad_enabled(gradients):
        expected = stage(x)
        monkeypatch.setattr(_skeleton, 'puts_bands_last', lambda *_: True)
        found = stage(x)
        torch.testing.assert_close(found, expected)
        assert _skeleton.lie_bands_last(found) and not _skeleton.lie_bands_last(
            expected
        )
    if gradients:
        seen, inputs = torch.randn_like(found), (x, *stage.parameters())
        again = torch.autograd.grad(stage.recompute(x), inputs, seen)
        reference = torch.autograd.grad(expected, inputs, seen)
        for one, two, three in zip(
            torch.autograd.grad(found, inputs, seen), again, reference, strict=True
        ):
            torch.testing.assert_close(one, three, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(two, three, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('vectors', ['AVX2', 'AVX512'])
def test_blocks_put_bands_last_where_that_is_faster(
    vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(rows: int, bands: int, width: int, growth: int) -> bool:
        x = torch.empty(2, 1, rows, bands, rows)
        return _skeleton.puts_bands_last(x, width, growth, 4)

    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: vectors)
    monkeypatch.setattr(direct, 'kernels', lambda: None)
    assert order(8, 100, 32, 8) == order(4, 50, 64, 16) == (vectors == 'AVX2')
    assert order(2, 25, 128, 32) and order(4, 52, 32, 8) and order(2, 26, 64, 16)
    monkeypatch.setattr(direct, 'kernels', lambda: direct)
    assert order(8, 100, 32, 8) and order(4, 52, 32, 8) and order(2, 26, 64, 16)
    assert order(4, 50, 64, 16) == (vectors == 'AVX2')
    with conv_strategy('grouped'):
        assert not order(2, 25, 128, 32)


@pytest.mark.parametrize('vectors', ['AVX2', 'AVX512'])
@pytest.mark.parametrize('name', ['ekgnet_base', 'lgcnet'])
def test_the_stem_leaves_its_maps_in_the_faster_order(
    name: str, vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: vectors)
    monkeypatch.setattr(direct, 'kernels', lambda: None)
    model, x = small_model(name), small_input(name, 2)
    found = model.forward_stem(x)
    expected = model.stem._conv_forward(x.unsqueeze(1), model.stem.weight, None)
    torch.testing.assert_close(found, expected)
    assert _skeleton.lie_bands_last(found) == (vectors == 'AVX2')
    grads, reference = (
        torch.autograd.grad(y.square().sum(), model.stem.weight)[0]
        for y in (found, expected)
    )
    torch.testing.assert_close(grads, reference)
    with torch.inference_mode():
        torch.testing.assert_close(model.forward_stem(x), expected)


@pytest.mark.parametrize('pool', [False, True])
@pytest.mark.parametrize('batch', [1, 3])
def test_one_buffer_computes_what_concatenation_does(pool: bool, batch: int) -> None:
    stage, x = make_stage(experts, pool), maps(batch)
    assert buffers_read(stage, x) == 1
    assert buffers_read(stage, x, 'grouped') == 3
    assert buffers_read(make_stage(static, pool), x) == 3
    found = stage(x)
    with conv_strategy('grouped'):
        expected = stage(x)
    assert found.shape == (batch, 16, *((3, 2, 2) if pool else (6, 4, 4)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    inputs = [x, *stage.parameters()]
    grads, reference = (
        torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected)
    )
    torch.testing.assert_close(grads, reference, rtol=0, atol=1e-10)


def test_second_derivatives_through_the_buffer() -> None:
    stage = make_stage(experts, False).eval()
    assert torch.autograd.gradgradcheck(stage, maps(1), fast_mode=True, atol=1e-4)


def test_maps_without_gradients() -> None:
    stage, x = make_stage(experts, False).eval(), maps()
    expected = stage(x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(stage(x), expected, rtol=0, atol=1e-12)
            with folded_evaluation(False):
                torch.testing.assert_close(stage(x), expected, rtol=0, atol=0)


def test_the_output_may_be_changed_in_place() -> None:
    stage, x = make_stage(experts, False).eval(), maps()
    expected = torch.autograd.grad((3 * stage(x)).square().sum(), x)
    found = torch.autograd.grad(stage(x).mul_(3).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_a_change_of_what_layers_read_is_noticed() -> None:
    stage, x = make_stage(experts, False).eval(), maps()
    read: list[Tensor] = []
    stage.layers[1].register_forward_pre_hook(lambda module, args: read.append(args[0]))
    y = stage(x).sum()
    with torch.no_grad():
        read[0].mul_(2)
    with pytest.raises(RuntimeError, match='modified inplace'):
        y.backward()


FAMILY = ['ekgnet_tiny', 'dacnet', 'lgcnet', 'dgcnet']


@pytest.mark.parametrize('name', FAMILY)
def test_whole_spectrum_knows_where_a_shape_lies(name: str) -> None:
    options = {'block_config': (1, 1, 1), 'stem_channels': 12}
    model = small_model(name, whole_spectrum=True, **options)
    x = small_input(name, 2)
    assert model.stem.weight.shape == (12, 1, BANDS, 1, 1)
    assert model.forward_stem(x).shape == (2, 12, 1, 7, 7)
    assert [info['reduction'] for info in model.feature_info] == [1, 2, 4]
    assert model(x).shape == (2, model.num_classes)
    twin = small_model(name, **options)
    assert {key.partition('.')[0] for key in model.state_dict()} - {
        key.partition('.')[0] for key in twin.state_dict()
    } == {'stem_act'}


@pytest.mark.parametrize('conv_layer', ['dynamic', 'conv3d'])
def test_pixelwise_features_are_the_mean_of_those_of_the_pixels(
    conv_layer: str,
) -> None:
    """Experts, too, are chosen for every pixel."""
    model = small_model(
        'ekgnet_tiny', whole_spectrum=True, pixelwise=True, conv_layer=conv_layer
    )
    x = small_input('ekgnet_tiny', 3)
    model = settled(model, x)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, BANDS, 1, 1)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(pixels), pre_logits=True)
        expected = model.classifier(features.reshape(3, 49, -1).mean(1))
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert [info['reduction'] for info in model.feature_info] == [1, 1, 1]


def test_without_pooling_each_block_sees_one_pixel_further() -> None:
    model = small_model('ekgnet_spatial', conv_layer='conv3d')
    x = small_input('ekgnet_tiny', 2)
    changed = x.clone()
    changed[:, :, 0, 0] += 1
    with torch.no_grad():
        features = model.forward_features(x)
        difference = (features - model.forward_features(changed)).abs().amax((0, 1))
    assert features.shape[2:] == x.shape[2:]
    assert difference[3, 3] > 0 and not difference[4:].any()
    assert [info['reduction'] for info in model.feature_info] == [1, 1, 1]


def test_recomputed_pixels_have_the_same_gradients() -> None:
    options = {'whole_spectrum': True, 'pixelwise': True, 'centred': True}
    model = small_model('ekgnet_tiny', **options).double()
    x = small_input('ekgnet_tiny', 3).double()
    found = []
    for recompute in (False, True):
        model.set_grad_checkpointing(recompute)
        model.zero_grad()
        model(x).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize('size', [1, 2, 5])
def test_middle_of_a_patch_counts_most(size: int) -> None:
    weigh = CentreWeights()
    maps = torch.ones(2, 3, size, size)
    weights = {1: [1.0], 2: [1.0, 1.0], 5: [5 / 9, 10 / 9, 15 / 9, 10 / 9, 5 / 9]}
    expected = torch.tensor(weights[size])
    torch.testing.assert_close(weigh(maps)[0, 0], expected[:, None] * expected)
    one = torch.randn(2, 3, 1, 1)
    assert torch.equal(weigh(one), one)


def test_centred_mean() -> None:
    options = {'whole_spectrum': True, 'pixelwise': True}
    centred = small_model('ekgnet_tiny', centred=True, **options)
    plain = small_model('ekgnet_tiny', **options)
    plain.load_state_dict(centred.state_dict())
    x = small_input('ekgnet_tiny', 2)
    with torch.no_grad():
        features = plain.eval().forward_features(x)
        expected = plain.forward_head(CentreWeights()(features))
        torch.testing.assert_close(centred.eval()(x), expected)
        assert not torch.allclose(centred(x), plain(x))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'pixelwise': True}, 'pixelwise: found True, expected whole_spectrum=True'),
        ({'stem_channels': 0}, 'stem_channels must be at least 1, found 0'),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model('ekgnet_tiny', **options)


@pytest.mark.parametrize('network', [DACNet, DGCNet, EKGNet, LGCNet])
def test_classes_and_bands_come_first(network: Any) -> None:
    model = network(5, 12, block_config=(1,), groups=2)
    assert model(torch.randn(2, 12, 3, 3)).shape == (2, 5)
    with pytest.raises(TypeError, match='positional'):
        network(5, 12, 2)
