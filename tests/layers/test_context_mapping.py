# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The mapping network: temperature, batches of one, frozen residual weights."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from torchgeo_ekgnet.layers import ContextMapping, pool_context
from torchgeo_ekgnet.layers.context_mapping import ContextNorm

from .marks import DEVICE


def test_parameter_count_of_the_released_layer() -> None:
    # facts.md: 2 c^2 + 6 c + 2 c + (4 c + 4) + 1 and the frozen residual weight
    c = 48
    mapping = ContextMapping(c, 4, 1, units_per_block=2, learnable_residual=False)
    count = sum(p.numel() for p in mapping.parameters())
    assert count == 2 * c * c + 8 * c + 4 * c + 4 + 1 + 1


@pytest.mark.parametrize('value', [0.011, 0.5, 1.0, 34.0, 500.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_temperature_round_trip(value: float, dtype: torch.dtype) -> None:
    mapping = ContextMapping(3, temperature=value, dtype=dtype)
    rel = 1e-5 if dtype == torch.float32 else 1e-12
    assert float(mapping.temperature.detach()) == pytest.approx(value, rel=rel)
    mapping.set_temperature(7.0)
    assert float(mapping.temperature.detach()) == pytest.approx(7, rel=rel)


def test_temperature_that_was_a_scalar() -> None:
    mapping = ContextMapping(3, temperature=5.0)
    older = {k: v.squeeze() for k, v in mapping.state_dict().items() if 'raw' in k}
    assert [v.dim() for v in older.values()] == [0]
    other = ContextMapping(3)
    other.load_state_dict({**other.state_dict(), **older})
    assert other.temperature.equal(mapping.temperature) and other.temperature.dim() == 0


@pytest.mark.parametrize('value', [0.01, 0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive(value: float) -> None:
    with pytest.raises(ValueError, match='temperature must be a finite number above'):
        ContextMapping(3).set_temperature(value)


def test_no_optimizer_makes_the_temperature_negative() -> None:
    torch.manual_seed(0)
    mapping = ContextMapping(3, temperature=0.5)
    optimizer = torch.optim.SGD(mapping.parameters(), lr=1e3)
    for _ in range(3):
        optimizer.zero_grad()
        mapping.temperature.backward()
        optimizer.step()
    assert float(mapping.raw_temperature.detach()) < -100
    assert float(mapping.temperature.detach()) == pytest.approx(0.01)
    weights = mapping(torch.randn(5, 3, 2, 2, 2) * 1e4)
    assert torch.isfinite(weights).all()
    weights[:, 0].sum().backward()
    assert all(
        torch.isfinite(p.grad).all() for p in mapping.parameters() if p.grad is not None
    )


def test_temperature_moves_like_a_plain_parameter_near_its_start() -> None:
    mapping = ContextMapping(3)
    plain = nn.Parameter(torch.tensor(34.0))
    ours = torch.optim.Adam([mapping.raw_temperature], lr=0.1)
    theirs = torch.optim.Adam([plain], lr=0.1)
    for _ in range(20):
        for optimizer, tau in ((ours, mapping.temperature), (theirs, plain)):
            optimizer.zero_grad()
            ((tau - 20) ** 2).backward()
            optimizer.step()
    torch.testing.assert_close(mapping.temperature, plain)


def test_annealing() -> None:
    mapping = ContextMapping(3)
    taus = []
    for _ in range(13):
        mapping.update_temperature()
        taus.append(float(mapping.temperature.detach()))
    assert taus == pytest.approx([31, 28, 25, 22, 19, 16, 13, 10, 7, 4, 1, 1, 1])
    mapping.set_temperature(0.3)
    mapping.update_temperature()
    assert float(mapping.temperature.detach()) == pytest.approx(0.3)
    mapping.set_temperature(10)
    mapping.update_temperature(step=4, end=8)
    assert float(mapping.temperature.detach()) == pytest.approx(8)
    with pytest.raises(ValueError, match='step must not be negative'):
        mapping.update_temperature(step=-1)
    with pytest.raises(ValueError, match=r'end must be above 0\.01'):
        mapping.update_temperature(end=0)


def test_training_on_one_sample_uses_running_statistics() -> None:
    torch.manual_seed(0)
    mapping = ContextMapping(3)
    mapping(torch.randn(16, 3, 2, 2, 2))
    state = copy.deepcopy(mapping.state_dict())
    x = torch.randn(1, 3, 2, 2, 2)
    weights = mapping(x)
    weights[0, 0].backward()
    for name, value in mapping.state_dict().items():
        assert torch.equal(value, state[name]), name
    torch.testing.assert_close(weights, mapping.eval()(x))


@pytest.mark.parametrize('momentum', [0.1, None])
def test_norm_is_batch_norm_otherwise(momentum: float | None) -> None:
    torch.manual_seed(0)
    ours, theirs = ContextNorm(3), nn.BatchNorm3d(3)
    ours.momentum = theirs.momentum = momentum
    for _ in range(3):
        x = torch.randn(4, 3, 1, 1, 1)
        torch.testing.assert_close(ours(x), theirs(x))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_statistics_that_are_not_tracked_stay() -> None:
    ours, theirs = ContextNorm(4), nn.BatchNorm3d(4)
    x = torch.randn(5, 4, 1, 1, 1)
    for norm in (ours, theirs):
        norm.track_running_stats = False  # how many programs keep what was learnt
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    mapping = ContextMapping(4)
    for module in mapping.modules():
        if isinstance(module, ContextNorm):
            module.track_running_stats = False
    mapping(x)
    for name, value in mapping.named_buffers():
        fresh = ContextMapping(4).get_buffer(name)
        assert torch.equal(value, fresh), name


def test_becomes_a_synchronized_norm() -> None:
    mapping = nn.SyncBatchNorm.convert_sync_batchnorm(ContextMapping(3))
    norms = [m for m in mapping.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 3


def test_frozen_residual_weight() -> None:
    torch.manual_seed(0)
    mapping = ContextMapping(3, learnable_residual=False)
    weights = [b.residual_weight for b in mapping.blocks]
    optimizer = torch.optim.AdamW(mapping.parameters(), lr=0.1, weight_decay=0.5)
    x = torch.randn(4, 3, 2, 2, 2)
    mapping(x)[:, 0].sum().backward()
    for weight in weights:
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None and not weight.grad.any()
    optimizer.step()
    # Weight decay moves the number, neither the output nor what is stored.
    mapping.eval()
    with torch.no_grad():
        before = mapping(x)
        for weight in weights:
            assert isinstance(weight, nn.Parameter)
            weight.fill_(0.3)
        assert torch.equal(mapping(x), before)
    state = mapping.state_dict()
    for name, value in state.items():
        if name.endswith('residual_weight'):
            assert torch.equal(value, torch.ones(1))


def test_learnt_residual_weight() -> None:
    torch.manual_seed(0)
    mapping = ContextMapping(3)
    mapping(torch.randn(4, 3, 2, 2, 2))[:, 0].sum().backward()
    for block in mapping.blocks:
        weight = block.residual_weight
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None and weight.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_context_of_a_large_map_in_half_precision(dtype: torch.dtype) -> None:
    x = torch.ones(1, 2, 64, 64, 64, dtype=dtype)
    context = pool_context(x)
    assert context.dtype == dtype and (context == 1).all()
    assert torch.isfinite(ContextMapping(2).to(dtype).eval()(x)).all()


def test_no_block() -> None:
    assert ContextMapping(3, num_blocks=0)(torch.randn(2, 3, 1, 1, 1)).shape == (2, 4)


def test_meta_device() -> None:
    mapping = ContextMapping(3, device='meta', dtype=torch.float16)
    assert all(p.is_meta and p.dtype == torch.float16 for p in mapping.parameters())


def test_drawn_anew() -> None:
    """Memory that was never written, and weights of an earlier training, are replaced."""
    mapping: Any = ContextMapping(3, temperature=5.0)
    with torch.no_grad():
        for value in mapping.parameters():
            value.fill_(math.nan)
    for module in mapping.modules():
        if hasattr(module, 'reset_parameters'):
            module.reset_parameters()
    assert float(mapping.temperature.detach()) == pytest.approx(5)
    assert all(float(block.residual_weight.detach()) == 1 for block in mapping.blocks)
    assert all(value.isfinite().all() for value in mapping.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_softmax_in_float32_at_the_floor(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mapping = ContextMapping(3, temperature=0.0100001).eval()
    with torch.no_grad():
        mapping.project.weight.mul_(1e3)
    x = torch.randn(6, 3, 2, 2, 2)
    with torch.autocast('cpu', dtype=dtype):
        weights = mapping(x)
    assert weights.dtype == torch.float32
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    half = mapping.to(dtype)
    weights = half(x.to(dtype))
    assert weights.dtype == dtype and torch.isfinite(weights).all()


def test_hooks_inside_are_heard() -> None:
    mapping = ContextMapping(3, num_blocks=1)
    heard: list[str] = []
    for name, module in mapping.named_modules():
        module.register_forward_hook(lambda *_, name=name: heard.append(name))
        module.register_full_backward_hook(lambda *_, name=name: heard.append(name))
    mapping(torch.randn(4, 3, 2, 2, 2, requires_grad=True)).sum().backward()
    # The list of the blocks is never called.
    names = [name for name, _ in mapping.named_modules() if name != 'blocks']
    assert sorted(heard) == sorted(2 * names)


@pytest.mark.parametrize('wrap', ['pruned', 'parametrized'])
@pytest.mark.parametrize('training', [False, True])
def test_weights_that_are_computed(wrap: str, training: bool) -> None:
    """PyTorch's tools put an attribute in the place of a parameter."""
    torch.manual_seed(0)
    mapping = ContextMapping(4, 3).train(training)
    for module in list(mapping.modules()):
        if not isinstance(module, nn.Conv3d | nn.BatchNorm3d):
            continue
        if wrap == 'pruned':
            prune.identity(module, 'weight')
        else:
            parametrize.register_parametrization(module, 'weight', nn.Identity())
    torch.manual_seed(0)
    plain = ContextMapping(4, 3).train(training)
    x = torch.randn(5, 4, 2, 3, 3)
    torch.testing.assert_close(mapping(x), plain(x))


@pytest.mark.usefixtures('fresh_trials')
def test_means_under_autocast_on_a_gpu_are_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, 6, device=DEVICE).bfloat16().requires_grad_()
    weight = torch.randn(2, 3, 1, 1, 1, device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        mean = pool_context(x)
        (gradient,) = torch.autograd.grad(
            (weight * mean**2).sum(), x, create_graph=True
        )
    assert mean.dtype == torch.float32
    exact = x.detach().double().mean((2, 3, 4), keepdim=True)
    torch.testing.assert_close(mean.double(), exact)
    # One value a channel, in the type of the maps, and no map of them.
    assert gradient.dtype == torch.bfloat16 and gradient.stride()[2:] == (0, 0, 0)
    expected = (2 * weight.double() * exact / 120).expand(x.shape)
    torch.testing.assert_close(gradient.double(), expected, rtol=8e-3, atol=0)
    (second,) = torch.autograd.grad(gradient.float().sum(), x)
    expected = (2 * weight.double() / 120).expand(x.shape)
    torch.testing.assert_close(second.double(), expected, rtol=8e-3, atol=0)
