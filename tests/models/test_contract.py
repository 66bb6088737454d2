# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What timm's own suite asks, for every registered model."""

import math
from collections import Counter
from typing import Any

import pytest
import timm
import torch
from timm.models import FeatureInfo
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchgeo_ekgnet.layers import expert_convs
from torchgeo_ekgnet.models import SSRN, network_class
from torchgeo_ekgnet.models._registration import register_network

from .conftest import BANDS, MODELS, SIZES, shallow_model, small_input, small_model


def assert_pyramid(
    x: Tensor, maps: list[Tensor], channels: list[int], reductions: list[int]
) -> None:
    """Maps have the announced channels and are no larger than announced."""
    assert len(maps) == len(channels)
    for feature, width, reduction in zip(maps, channels, reductions, strict=True):
        assert feature.dim() == 4
        assert feature.shape[:2] == (x.shape[0], width)
        for size, full in zip(feature.shape[2:], x.shape[2:], strict=True):
            assert size <= math.ceil(full / reduction) + 1
        assert torch.isfinite(feature).all()


def test_models_are_registered() -> None:
    assert {
        'ekgnet_base',
        'ekgnet_large',
        'ekgnet_tiny',
        'ekgnet_spectral',
        'ekgnet_spatial',
        'ekgnet_base_reference',
        'ekgnet_large_reference',
    } <= set(MODELS)
    assert set(timm.list_models(module='ekgnet')) <= set(MODELS)


@pytest.mark.parametrize('name', MODELS)
def test_traits_are_those_of_the_network(name: str) -> None:
    network, model = network_class(name), shallow_model(name)
    assert network is type(model)
    assert network.has_experts == any(True for _ in expert_convs(model))
    assert bool(network.settled_share) == hasattr(model, 'set_progress')
    if network.static_options is not None:
        twin = shallow_model(name, **network.static_options)
        assert not any(True for _ in expert_convs(twin))


def test_traits_of_other_models() -> None:
    assert network_class('resnet18') is None
    assert network_class('no_such_model') is None
    assert network_class('ssrn.some_tag') is SSRN


@pytest.mark.parametrize('name', SIZES)
def test_unknown_argument(name: str) -> None:
    with pytest.raises(TypeError, match="'no_such_option'"):
        timm.create_model(name, no_such_option=1)


def test_a_name_of_another_package_stays_its_own() -> None:
    def resnet18(pretrained: bool = False) -> None:
        """A network of this package whose name is taken."""

    resnet18.__module__ = 'torchgeo_ekgnet.models.resnet'
    theirs = timm.model_entrypoint('resnet18')
    with pytest.warns(UserWarning, match=r"'resnet18' of timm\.models\.resnet"):
        assert register_network(SSRN)(resnet18) is resnet18
    assert timm.model_entrypoint('resnet18') is theirs


@pytest.mark.parametrize('name', MODELS)
def test_forward(name: str) -> None:
    model, x = small_model(name), small_input(name)
    logits = model(x)
    assert logits.shape == (1, model.num_classes)
    assert torch.isfinite(logits).all()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-5)
    model.set_grad_checkpointing(False)
    assert not model.grad_checkpointing


@pytest.mark.parametrize('name', MODELS)
def test_empty_batch(name: str) -> None:
    model = shallow_model(name)
    logits = model(small_input(name, 2)[:0])
    assert logits.shape == (0, model.num_classes)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'groups': 0}, 'groups must be at least 1, found 0'),
        ({'stem_stride': 2}, 'stem_stride must be a list of 3 numbers, found 2'),
        ({'stem_stride': (2, 2)}, 'stem_stride must be a list of 3 numbers'),
        ({'stem_kernel': 3}, 'stem_kernel must be a list of 3 numbers, found 3'),
        ({'stem_stride': (0, 0, 0)}, 'must be at least 1'),
        ({'block_config': 2}, 'block_config must be a list of whole numbers, found 2'),
    ],
)
def test_sizes_of_dense_networks(options: dict[str, Any], message: str) -> None:
    for name in ('ekgnet_tiny', 'lgcnet'):
        with pytest.raises(ValueError, match=message):
            timm.create_model(name, in_chans=8, num_classes=3, **options)


@pytest.mark.parametrize('name', MODELS)
def test_backward(name: str) -> None:
    model = small_model(name).train()
    model.reset_classifier(42)
    logits = model(small_input(name, 2))
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert torch.isfinite(logits).all()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize('name', SIZES)
def test_backward_with_recomputation(name: str) -> None:
    x, gradients = small_input(name, 3), []
    for enable in (False, True):
        model = shallow_model(name).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        model(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-5)


class LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that live, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                ref = StorageWeakRef(tensor.untyped_storage())
                self.alive[ref.cdata] = ref, tensor.untyped_storage().nbytes()
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize('name', ['ekgnet_base', 'dacnet', 'densenet3d'])
def test_recomputation_saves_memory(name: str) -> None:
    # One stage: recomputed as a whole it would save nothing at the peak.
    x, peaks = torch.randn(4, BANDS, 13, 13), []
    for enable in (False, True):
        model = small_model(name, block_config=(6,)).train()
        model.set_grad_checkpointing(enable)
        with LiveBytes() as live:
            model(x).square().mean().backward()
        peaks.append(live.peak)
    assert peaks[1] < 0.7 * peaks[0]


@pytest.mark.parametrize('name', MODELS)
def test_default_cfg(name: str) -> None:
    model: Any = timm.create_model(name).eval()
    cfg = model.default_cfg
    x = torch.zeros(1, *cfg['input_size'])
    pool = tuple(cfg['pool_size'])
    features = model.forward_features(x)
    assert features.shape == (1, model.num_features, *pool)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    state = model.state_dict()
    assert f'{cfg["first_conv"]}.weight' in state
    assert f'{cfg["classifier"]}.weight' in state
    assert cfg['num_classes'] == model.num_classes > 0
    assert model.in_chans == cfg['input_size'][0]
    assert len(cfg['mean']) in (1, model.in_chans)
    assert len(cfg['std']) in (1, model.in_chans)
    for key in ('license', 'interpolation', 'crop_pct', 'min_input_size'):
        assert cfg[key]


@pytest.mark.parametrize('name', SIZES)
def test_minimum_size_works_in_the_default_bands(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    size = cfg.input_size if cfg.fixed_input_size else cfg.min_input_size
    assert size is not None
    assert size[0] == cfg.input_size[0]
    with torch.inference_mode():
        assert timm.create_model(name).eval()(torch.zeros(1, *size)).shape[0] == 1


@pytest.mark.parametrize('name', SIZES)
def test_classifier(name: str) -> None:
    model, x = shallow_model(name), small_input(name, 2)
    assert model.get_classifier() is model.classifier
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    model.reset_classifier(5)
    assert model.num_classes == 5
    assert model(x).shape == (2, 5)
    model.reset_classifier(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, '')
    torch.testing.assert_close(model(x), features)
    model.reset_classifier(3, 'avg')
    assert model(x).shape == (2, 3)
    with pytest.raises(ValueError, match='num_classes must not be negative'):
        model.reset_classifier(-1)
    with pytest.raises(ValueError, match="global_pool is '' with num_classes=3"):
        model.reset_classifier(3, '')
    with pytest.raises(ValueError, match='expected num_classes=0 for maps'):
        shallow_model(name, num_classes=3, global_pool='')
    bare = shallow_model(name, num_classes=0, global_pool='')
    assert bare(x).shape == features.shape


@pytest.mark.parametrize('pool', ['avg', 'fast', 'max', 'avgmax', 'catavgmax'])
@pytest.mark.parametrize('name', SIZES)
def test_global_pool(name: str, pool: str) -> None:
    model, x = shallow_model(name, global_pool=pool), small_input(name)
    assert model(x).shape == (1, model.num_classes)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape[1] == model.head_hidden_size
    if pool == 'avg':
        torch.testing.assert_close(pooled, model.weigh(features).mean((2, 3)))
    if pool == 'max':
        torch.testing.assert_close(pooled, features.amax((2, 3)))


@pytest.mark.parametrize('name', SIZES)
def test_drop_rate(name: str) -> None:
    model = shallow_model(name, drop_rate=0.5)
    assert model.head_drop.p == 0.5
    features = model.forward_features(small_input(name))
    kept = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), kept)
    model.train()
    assert not model.forward_head(features, pre_logits=True).equal(kept)


@pytest.mark.parametrize('name', MODELS)
def test_features_only(name: str) -> None:
    x = small_input(name)
    model = shallow_model(name, features_only=True)
    channels = model.feature_info.channels()
    assert len(channels) >= 3
    with torch.inference_mode():
        maps = model(x)
        assert_pyramid(x, maps, channels, model.feature_info.reduction())
        last = shallow_model(name, features_only=True, out_indices=(-1,))
        torch.testing.assert_close(last(x), maps[-1:])
        first = shallow_model(name, features_only=True, out_indices=(0,))
        torch.testing.assert_close(first(x), maps[:1])
    sizes = [sum(p.numel() for p in net.parameters()) for net in (first, last, model)]
    assert sizes[0] < sizes[1] <= sizes[2]


def test_features_have_four_axes_or_are_refused() -> None:
    features = shallow_model('ekgnet_tiny', features_only=True, feature_cls='getter')
    assert [m.dim() for m in features(small_input('ekgnet_tiny'))] == [4, 4, 4]
    for feature_cls in ('fx', 'hook', 'list'):
        with pytest.raises(ValueError, match=f"feature_cls: found '{feature_cls}'"):
            shallow_model('ekgnet_tiny', features_only=True, feature_cls=feature_cls)


@pytest.mark.parametrize('name', MODELS)
def test_intermediates(name: str) -> None:
    model, x = shallow_model(name), small_input(name)
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        assert_pyramid(x, maps, info.channels(), info.reduction())
        torch.testing.assert_close(final, model.forward_features(x))
        model.set_grad_checkpointing()
        again, _ = model.forward_intermediates(x)
        torch.testing.assert_close(again, final, rtol=1e-4, atol=1e-5)
        model.set_grad_checkpointing(False)
        only = model.forward_intermediates(x, [0, -1], intermediates_only=True)
        assert len(only) == 2
        torch.testing.assert_close(only[1], maps[-1])
        early = model.forward_intermediates(
            x, [0], stop_early=True, intermediates_only=True
        )
        torch.testing.assert_close(early[0], maps[0])
        normed = model.forward_intermediates(x, 1, norm=True, intermediates_only=True)
        torch.testing.assert_close(normed[0], final)
    with pytest.raises(ValueError, match='output_fmt'):
        model.forward_intermediates(x, output_fmt='NLC')
    with pytest.raises(ValueError, match='indices: found none, expected at least one'):
        model.forward_intermediates(x, [])
    with pytest.raises(ValueError, match='indices'):
        model.forward_intermediates(x, [99])
    with pytest.raises(ValueError, match='indices'):
        model.forward_intermediates(x, 99)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', SIZES)
def test_hooks_are_heard(name: str, training: bool) -> None:
    model, x = shallow_model(name).train(training), small_input(name, 3)
    forward, backward = Counter[nn.Module](), Counter[nn.Module]()
    modules = {
        path: module
        for path, module in model.named_modules()
        # A check of patches that pixels do not need.
        if not isinstance(module, nn.ModuleList) and not path.endswith('expect_size')
    }
    for module in modules.values():
        module.register_forward_hook(lambda module, *_: forward.update([module]))
    with torch.no_grad():
        model(x)
    assert [path for path, module in modules.items() if not forward[module]] == []
    for module in modules.values():
        module.register_full_backward_hook(lambda module, *_: backward.update([module]))
    forward.clear()
    model(x.requires_grad_()).sum().backward()
    assert forward == backward


@pytest.mark.parametrize('name', SIZES)
def test_prune_intermediate_layers(name: str) -> None:
    x = small_input(name)
    with torch.no_grad():
        maps = shallow_model(name).forward_intermediates(x, intermediates_only=True)
        model = shallow_model(name)
        assert model.prune_intermediate_layers([-len(maps) + 1]) == [1]
        pruned = model.forward_intermediates(x, [1], intermediates_only=True)
        torch.testing.assert_close(pruned[0], maps[1])
        assert model.num_features == maps[1].shape[1]
        assert model(x).shape == maps[1].shape
        model = shallow_model(name)
        logits = model(x)
        model.prune_intermediate_layers([len(maps) - 1], prune_head=False)
        torch.testing.assert_close(model(x), logits)
        model.prune_intermediate_layers([len(maps) - 1], prune_norm=True)
        assert model(x).dim() == 4


@pytest.mark.parametrize('name', SIZES)
def test_order_of_the_ends(name: str) -> None:
    # torchgeo's weight loader looks at the first leaf and at the last child.
    model = shallow_model(name)
    names = [n for n, m in model.named_modules() if not list(m.children())]
    first = model.get_submodule(names[0])
    assert isinstance(first, nn.Conv3d)
    assert names[0] == model.default_cfg['first_conv']
    assert list(model._modules)[-1] == model.default_cfg['classifier']
    assert not [n for n, _ in model.named_modules() if n.endswith('model')]


@pytest.mark.parametrize('name', SIZES)
def test_parameter_groups(name: str) -> None:
    model: Any = shallow_model(name)
    parameters = {n for n, _ in model.named_parameters()}
    assert model.no_weight_decay() <= parameters
    for coarse in (True, False):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse))
        assert {n for group in groups.values() for n in group} == parameters
        assert set(groups[0]) == {n for n in parameters if n.startswith('stem')}
        assert len(groups) >= len(model.stages) + 2
    optimizer = create_optimizer_v2(
        model, opt='adamw', lr=1e-3, weight_decay=0.1, layer_decay=0.5
    )
    scales = {id(p): g['lr_scale'] for g in optimizer.param_groups for p in g['params']}
    decays = {
        id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']
    }
    assert len(scales) == len(parameters)
    assert scales[id(model.classifier.weight)] == 1.0
    assert scales[id(model.stem.weight)] == min(scales.values()) < 1.0
    for n, p in model.named_parameters():
        if n in model.no_weight_decay():
            assert decays[id(p)] == 0.0
    model.train()
    model(small_input(name, 2)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize('name', SIZES)
def test_wrong_input(name: str) -> None:
    model, x = shallow_model(name), small_input(name)
    with pytest.raises(ValueError, match=f'{BANDS - 1} bands .*in_chans={BANDS}'):
        model(x[:, 1:])
    with pytest.raises(ValueError, match='5 dimensions, expected 4'):
        model(x.unsqueeze(1))
    with pytest.raises(TypeError, match='floating point'):
        model(x.long())
    for call in (model, model.forward_intermediates):
        with pytest.raises(
            TypeError, match=r'float64, expected torch.float32 as the w'
        ):
            call(x.double())
    with pytest.raises(ValueError, match='in_chans must be at least 1'):
        shallow_model(name, in_chans=0)
