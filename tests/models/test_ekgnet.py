# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""EKGNet's variants, and the released network's computation."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from torchgeo_ekgnet.layers import DynamicExpertConv3d, expert_convs
from torchgeo_ekgnet.models.ekgnet import EKGNet

from .conftest import BANDS, small_input, small_model

BASE = (4, 6, 8)
GROWTH = (8, 16, 32)
STATISTICS = ('weight', 'bias', 'running_mean', 'running_var')

State = dict[str, Tensor]


def released_state(blocks: tuple[int, ...] = BASE, num_classes: int = 16) -> State:
    """Draw a checkpoint with the names, shapes and layout of the released code."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def norm(name: str, channels: int) -> None:
        state[f'{name}.weight'] = 1 + draw(channels, scale=0.2)
        state[f'{name}.bias'] = draw(channels, scale=0.2)
        state[f'{name}.running_mean'] = draw(channels, scale=0.3)
        state[f'{name}.running_var'] = 0.5 + draw(channels).square()
        state[f'{name}.num_batches_tracked'] = torch.tensor(7)

    def conv(name: str, out: int, channels: int) -> None:
        state[f'{name}.weight'] = draw(out, channels, 1, 1, 1, scale=channels**-0.5)
        state[f'{name}.bias'] = draw(out, scale=0.1)

    state['features.init_conv.weight'] = draw(16, 1, 3, 3, 3, scale=0.3)
    channels = 16
    for block, (layers, growth) in enumerate(zip(blocks, GROWTH, strict=True)):
        for layer in range(layers):
            name = f'features.denseblock_{block + 1}.denselayer_{layer + 1}'
            width = 4 * growth
            experts = draw(4, width, channels, 1, 1, 1, scale=channels**-0.5)
            state[f'{name}.conv_1.weight'] = experts
            state[f'{name}.conv_1.bias'] = draw(4, width)
            state[f'{name}.conv_1.temperature'] = torch.tensor(2.0 + layer)
            keys = f'{name}.conv_1.keys'
            norm(f'{keys}.0', channels)
            conv(f'{keys}.2', channels, channels)
            norm(f'{keys}.3', channels)
            conv(f'{keys}.5', channels, channels)
            state[f'{keys}.6.alpha'] = torch.ones(1)
            norm(f'{keys}.7', channels)
            conv(f'{keys}.8', 4, channels)
            norm(f'{name}.conv_2.norm', width)
            kernels = draw(growth, growth, 3, 3, 3, scale=(27 * growth) ** -0.5)
            state[f'{name}.conv_2.conv.weight'] = kernels
            channels += growth
    norm('bn_last', channels)
    state['classifier.weight'] = draw(num_classes, channels, scale=channels**-0.5)
    state['classifier.bias'] = draw(num_classes, scale=0.1)
    return state


def released_forward(state: State, x: Tensor, blocks: tuple[int, ...] = BASE) -> Tensor:
    """Compute what the released code computes, in its own layout.

    Bands are the last axis, and the kernels of a batch are folded into one grouped
    convolution.
    """

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias, mean, var = (state[f'{name}.{leaf}'] for leaf in STATISTICS)
        return F.batch_norm(x, mean, var, weight, bias)

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv3d(x, state[f'{name}.weight'], state[f'{name}.bias'])

    batch = x.shape[0]
    x = x.movedim(1, -1).unsqueeze(1)
    x = F.conv3d(x, state['features.init_conv.weight'], stride=2, padding=1)
    for block, layers in enumerate(blocks):
        if block:
            x = F.avg_pool3d(x, 2, 2)
        for layer in range(layers):
            name = f'features.denseblock_{block + 1}.denselayer_{layer + 1}'
            keys = f'{name}.conv_1.keys'
            pooled = F.adaptive_avg_pool3d(x, 1)
            hidden = conv(f'{keys}.2', F.gelu(norm(f'{keys}.0', pooled)))
            hidden = conv(f'{keys}.5', F.gelu(norm(f'{keys}.3', hidden)))
            hidden = state[f'{keys}.6.alpha'] * hidden + pooled
            scores = conv(f'{keys}.8', norm(f'{keys}.7', hidden)).flatten(1)
            attention = (scores / state[f'{name}.conv_1.temperature']).softmax(1)
            experts = state[f'{name}.conv_1.weight']
            kernels = attention.mm(experts.flatten(1))
            folded = F.conv3d(
                x.reshape(1, -1, *x.shape[2:]),
                kernels.reshape(-1, *experts.shape[2:]),
                attention.mm(state[f'{name}.conv_1.bias']).flatten(),
                groups=batch,
            )
            new = folded.reshape(batch, -1, *x.shape[2:])
            new = F.relu(norm(f'{name}.conv_2.norm', new))
            new = F.conv3d(
                new, state[f'{name}.conv_2.conv.weight'], padding=1, groups=4
            )
            x = torch.cat([x, new], 1)
    x = F.relu(norm('bn_last', x)).mean((2, 3, 4))
    return F.linear(x, state['classifier.weight'], state['classifier.bias'])


def reference(**kwargs: Any) -> Any:
    """Create the reference variant for small patches."""
    return timm.create_model('ekgnet_base_reference', in_chans=BANDS, **kwargs).eval()


@pytest.mark.parametrize(
    ('name', 'bands', 'classes', 'count'),
    [
        ('ekgnet_base_reference', 200, 16, 2_760_268),
        ('ekgnet_base_reference', 103, 9, 2_757_461),
        ('ekgnet_base_reference', 176, 13, 2_759_065),
        ('ekgnet_large_reference', 200, 16, 16_682_716),
        # Two residual weights a layer instead of one; all else is the same size.
        ('ekgnet_base', 200, 16, 2_760_268 + 18),
        ('ekgnet_large', 200, 16, 16_682_716 + 42),
    ],
)
def test_parameter_count(name: str, bands: int, classes: int, count: int) -> None:
    model = timm.create_model(name, in_chans=bands, num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ('patch', 'sizes'),
    [
        (7, [(100, 4, 4), (50, 2, 2), (25, 1, 1)]),
        (11, [(100, 6, 6), (50, 3, 3), (25, 1, 1)]),
        (15, [(100, 8, 8), (50, 4, 4), (25, 2, 2)]),
    ],
)
def test_sizes_of_the_maps(patch: int, sizes: list[tuple[int, int, int]]) -> None:
    model: Any = timm.create_model('ekgnet_base', block_config=(1, 1, 1)).eval()
    x = model.forward_stem(torch.zeros(1, 200, patch, patch))
    for stage, size in zip(model.stages, sizes, strict=True):
        x = stage(x)
        assert x.shape[2:] == size


@pytest.mark.parametrize('form', ['plain', 'parallel', 'safetensors', 'wrapped'])
def test_released_checkpoint(form: str, tmp_path: Path) -> None:
    state = released_state()
    x = small_input('ekgnet_base_reference', 3)
    expected = released_forward(state, x)
    path = tmp_path / ('net.safetensors' if form == 'safetensors' else 'net.pth')
    if form == 'safetensors':
        save_file(state, path)
    elif form == 'parallel':
        torch.save({f'module.{key}': value for key, value in state.items()}, path)
    elif form == 'wrapped':
        torch.save({'state_dict': state}, path)
    else:
        torch.save(state, path)
    model = reference(checkpoint_path=str(path))
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1
    assert (expected[0] - expected[1]).abs().max() > 1e-2


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_published_names_and_shapes(
    prefix: str, real_data_dir: Path, tmp_path: Path
) -> None:
    listing = real_data_dir.parent / 'paper' / 'reference_checkpoint_keys.json'
    if not listing.is_file():
        pytest.skip(f'no {listing}')
    shapes = json.loads(listing.read_text())
    generator = torch.Generator().manual_seed(0)
    state = {
        f'{prefix}{name}': torch.rand(shape, generator=generator) + 0.5
        for name, shape in shapes.items()
    }
    path = tmp_path / 'net.pth'
    torch.save(state, path)
    model = reference(checkpoint_path=str(path))
    loaded = model.state_dict()
    assert len(loaded) == len(shapes) == 566
    # Bands are last there and first here.
    theirs = state[f'{prefix}features.init_conv.weight']
    assert torch.equal(loaded['stem.weight'], theirs.permute(0, 1, 4, 2, 3))


def test_released_checkpoint_in_double_precision() -> None:
    state = {k: v.double() for k, v in released_state((2, 1, 1)).items()}
    model = reference(block_config=(2, 1, 1)).double()
    model.load_state_dict(state)
    x = small_input('ekgnet_base_reference', 2, BANDS).double()
    with torch.no_grad():
        torch.testing.assert_close(
            model(x), released_forward(state, x, (2, 1, 1)), rtol=1e-9, atol=1e-9
        )


def test_released_checkpoint_is_translated_once() -> None:
    model, again = reference(), reference()
    released = released_state()
    before = {key: value.clone() for key, value in released.items()}
    model.load_state_dict({f'module.{k}': v for k, v in released.items()})
    state = {key: value.clone() for key, value in model.state_dict().items()}
    again.load_state_dict(state)
    for key, value in again.state_dict().items():
        assert value.equal(state[key])
    for key, value in released.items():
        assert value.equal(before[key])
    nested = nn.ModuleDict({'network': reference()})
    nested.load_state_dict({f'network.{k}': v for k, v in released.items()})
    for key, value in nested['network'].state_dict().items():
        assert value.equal(state[key])


def test_released_temperature_is_kept() -> None:
    model = reference()
    model.load_state_dict(released_state())
    for name, conv in expert_convs(model):
        layer = int(name.split('.')[3])
        assert conv.temperature.item() == pytest.approx(2.0 + layer, abs=1e-5)


@pytest.mark.parametrize(
    'options',
    [
        {'num_mapping_blocks': 2},
        {'mapping_units_per_block': 1},
        {'conv_layer': 'conv3d'},
    ],
)
def test_released_checkpoint_in_another_variant(options: dict[str, Any]) -> None:
    model = reference(**options)
    with pytest.raises(ValueError, match='ekgnet_base_reference'):
        model.load_state_dict(released_state())


def test_released_checkpoint_of_another_size() -> None:
    with pytest.raises(RuntimeError, match=r'denseblock_3\.denselayer_8'):
        reference(block_config=(4, 6, 7)).load_state_dict(released_state())
    with pytest.raises(
        RuntimeError, match=r'do not fit EKGNet: .*classifier\.weight \(found'
    ):
        reference(num_classes=9).load_state_dict(released_state())


def test_reference_initialisation() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model('ekgnet_base_reference')
    layer = model.stages[2].layers[-1]
    assert float(layer.bottleneck.weight.detach().std()) == pytest.approx(1, abs=0.02)
    assert not layer.bottleneck.bias.detach().any()
    assert float(layer.conv.weight.detach().std()) == pytest.approx(
        (2 / (9 * 32)) ** 0.5, rel=0.05
    )
    convs = [m for m in layer.bottleneck.mapping.modules() if isinstance(m, nn.Conv3d)]
    channels = convs[0].in_channels
    assert float(convs[0].weight.detach().std()) == pytest.approx(
        (2 / channels) ** 0.5, rel=0.05
    )
    assert float(convs[-1].weight.detach().std()) == pytest.approx(0.5**0.5, rel=0.1)
    assert not model.classifier.bias.detach().any()
    # Nearly uniform at the start: the temperature is high.
    with torch.no_grad():
        attention = layer.bottleneck.attention_weights(
            torch.randn(8, channels, 3, 1, 1)
        )
    assert 0.05 < float(attention.min()) < float(attention.max()) < 0.6


def test_reference_residual_weight_stays_one() -> None:
    model = reference(block_config=(1, 1, 1)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(small_input('ekgnet_base_reference', 4)).square().mean().backward()
    optimizer.step()
    weights = [p for n, p in model.named_parameters() if n.endswith('residual_weight')]
    assert len(weights) == 3
    for weight in weights:
        assert weight.grad is not None
        assert not weight.grad.any()
        assert weight.detach().equal(torch.ones_like(weight))


def test_paper_variant_learns_residual_weights_and_temperature() -> None:
    model = small_model('ekgnet_base', block_config=(1, 1, 1)).train()
    model(small_input('ekgnet_base', 4)).square().mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for ending in ('residual_weight', 'raw_temperature'):
        grads = [g for n, g in gradients.items() if n.endswith(ending)]
        assert grads
        assert all(g is not None and g.any() for g in grads)


def test_options_reach_the_layers() -> None:
    model = small_model(
        'ekgnet_base',
        block_config=(1, 1),
        growth_rate=4,
        expansion=2,
        num_experts=3,
        temperature=5.0,
        num_mapping_blocks=1,
        proj_drop_rate=0.25,
        drop_rate=0.5,
    )
    convs = dict(expert_convs(model))
    assert len(convs) == 2
    for conv in convs.values():
        assert conv.weight.shape[0] == 3
        assert conv.temperature.item() == pytest.approx(5.0, rel=1e-5)
    assert model.stages[1].layers[0].bottleneck.weight.shape == (3, 16, 12, 1, 1, 1)
    assert model.stages[0].layers[0].drop.p == 0.25
    assert model.head_drop.p == 0.5
    assert [info['num_chs'] for info in model.feature_info] == [12, 20]
    assert model(small_input('ekgnet_base')).shape == (1, 16)


def test_static_twin() -> None:
    dynamic = small_model('ekgnet_base')
    static = small_model('ekgnet_base', conv_layer='conv3d')
    assert not list(expert_convs(static))
    assert len(list(expert_convs(dynamic))) == 18
    for twin, layer in zip(
        static.stages[1].layers, dynamic.stages[1].layers, strict=True
    ):
        assert twin.bottleneck.weight.shape == layer.bottleneck.weight.shape[1:]
    assert static(small_input('ekgnet_base')).shape == (1, 16)
    with pytest.raises(ValueError, match="found 'other'"):
        small_model('ekgnet_base', conv_layer='other')


@pytest.mark.parametrize('patch', [1, 2, 3, 5, 8])
@pytest.mark.parametrize('bands', [1, 2, 5, 12])
def test_short_axes(patch: int, bands: int) -> None:
    model = timm.create_model('ekgnet_tiny', in_chans=bands, num_classes=3)
    logits = model(torch.randn(2, bands, patch, patch))
    logits.sum().backward()
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'block_config': ()}, 'block_config'),
        ({'block_config': (1, 0)}, 'block_config'),
        ({'growth_rate': 6}, 'growth_rate must be a multiple of groups=4, found 6'),
        ({'num_classes': -1}, 'num_classes must not be negative'),
        ({'stem_stride': (2, 2, 1)}, 'stem_stride must be equal .* found 2 and 1'),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EKGNet(**options)


def test_paper() -> None:
    for name in timm.list_models(module='ekgnet'):
        cfg = timm.get_pretrained_cfg(name)
        assert cfg is not None and cfg.paper_ids == 'arXiv:2504.13045', name


def test_stated_sizes_of_the_variants() -> None:
    large: Any = timm.create_model('ekgnet_large')
    assert [len(stage.layers) for stage in large.stages] == [14, 14, 14]
    assert large.num_features == 800
    base: Any = timm.create_model('ekgnet_base')
    assert [info['num_chs'] for info in base.feature_info] == [48, 144, 400]
    assert [info['reduction'] for info in base.feature_info] == [2, 4, 8]
    tiny: Any = timm.create_model('ekgnet_tiny')
    assert sum(p.numel() for p in tiny.parameters()) < 300_000
    for model in (large, base, tiny):
        assert all(
            isinstance(layer.bottleneck, DynamicExpertConv3d)
            for stage in model.stages
            for layer in stage.layers
        )
