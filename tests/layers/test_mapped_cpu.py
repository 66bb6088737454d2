# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mapping networks in one call on CPUs, against their modules in float64."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import context_mapping, conv_strategy, mapped_cpu

from . import mappings
from .marks import kernels

pytestmark = kernels


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of a mapping network was one of the kernels."""
    seen: list[bool] = []
    original = mapped_cpu.map_at_once

    def counted(*args: Any) -> Tensor | None:
        found = original(*args)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(context_mapping, 'map_at_once', counted)
    return seen


def make_mapping(channels: int = 5, **options: Any) -> Any:
    return mappings.make_mapping(channels, **{'temperature': 2.0, **options})


def contexts(samples: int, channels: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, channels, generator=generator) * 2 + 1


def maps(g: Tensor) -> Tensor:
    return g[:, :, None, None, None]


def step(mapping: Any, g: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Weights in training and evaluation, gradients, and statistics."""
    dtype = mapping.raw_temperature.dtype
    image = g.to(dtype).requires_grad_()
    weights = mapping.train()(maps(image))
    names, values = zip(*mapping.named_parameters(), strict=True)
    grads = torch.autograd.grad(weights, (image, *values), seen.to(dtype))
    with torch.no_grad():
        evaluated = mapping.eval()(maps(image))
    return {
        'weights': weights.detach(),
        'evaluated': evaluated,
        **dict(zip(('image', *names), grads, strict=True)),
        **{name: value.clone() for name, value in mapping.named_buffers()},
    }


@pytest.mark.parametrize(
    ('samples', 'channels'), [(7, 21), (3, 3), (80, 48), (33, 8), (8, 30)]
)
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'units_per_block': 2, 'learnable_residual': False},
        {'num_blocks': 0},
        {'num_blocks': 3, 'num_experts': 6},
    ],
    ids=str,
)
def test_values_gradients_and_statistics_are_exact(
    samples: int, channels: int, options: dict[str, Any], calls: list[bool]
) -> None:
    mapping = make_mapping(channels, **options)
    exact = copy.deepcopy(mapping).double()
    g = contexts(samples, channels)
    seen = torch.randn(samples, mapping.num_experts)
    for _ in range(2):
        found, expected = step(mapping, g, seen), step(exact, g, seen)
        assert calls == [True, True, False, False]
        calls.clear()
        scale = float(expected['project.weight'].abs().max())
        for name, value in expected.items():
            # What only shifts the input of a normalization has no gradient but rounding.
            torch.testing.assert_close(
                found[name].double(), value.double(), rtol=1e-3, atol=1e-4 * (1 + scale)
            )


@pytest.mark.parametrize('value', [0.0, 1e-4, -0.7, 3.0, -6.0, 20.0, -30.0])
def test_gelu_is_exact(value: float) -> None:
    """One channel, which a block hands on: g + gelu of the normalized."""
    mapping = make_mapping(1, num_blocks=1, num_experts=2).eval()
    with torch.no_grad():
        for norm in (mapping.blocks[0].units[0], mapping.norm):
            norm.weight.fill_(1.0)
            norm.bias.zero_()
        mapping.blocks[0].units[2].weight.fill_(1.0)
        exact = copy.deepcopy(mapping).double()
        g = torch.full((1, 1), value)
        torch.testing.assert_close(
            mapping(maps(g)).double(), exact(maps(g.double())), rtol=1e-6, atol=1e-6
        )


def test_what_is_no_number_stays_so(calls: list[bool]) -> None:
    mapping = make_mapping().eval()
    g = contexts(3)
    g[1, 2] = float('nan')
    with torch.no_grad():
        assert mapping(maps(g)).isnan().all(1).tolist() == [False, True, False]
    assert calls == [True]


def test_second_derivatives(calls: list[bool]) -> None:
    for options in ({}, {'learnable_residual': False}):
        mapping = make_mapping(**options).train()
        exact = copy.deepcopy(mapping).double()
        found = []
        for network in (mapping, exact):
            image = contexts(4).to(network.raw_temperature.dtype).requires_grad_()
            weights = network(maps(image)).square().sum()
            first = torch.autograd.grad(weights, image, create_graph=True)[0]
            parameters = list(network.parameters())
            second = torch.autograd.grad(first.square().sum(), [image, *parameters])
            found.append([t.double() for t in second])
        torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-3)
    assert calls == [True, False] * 2


def _hook(mapping: Any) -> None:
    mapping.blocks[0].units[1].register_forward_hook(lambda *_: None)


def _prune(mapping: Any) -> None:
    from torch.nn.utils import prune

    prune.l1_unstructured(mapping.project, 'weight', amount=1)


def _replace(mapping: Any) -> None:
    mapping.blocks[0].units[1] = nn.ReLU()


def _freeze(mapping: Any) -> None:
    mapping.norm.eval()


def _slow(mapping: Any) -> None:
    mapping.norm.momentum = None


def _use_no_statistics(mapping: Any) -> None:
    mapping.norm.track_running_stats = False


def _convert(mapping: Any) -> None:
    mapping.double()


def _lay(mapping: Any) -> None:
    turned = mapping.project.weight.data.transpose(0, 1).contiguous().transpose(0, 1)
    mapping.project.weight.data = turned


@pytest.mark.parametrize(
    'change',
    [_hook, _prune, _replace, _freeze, _slow, _use_no_statistics, _convert, _lay],
    ids=lambda c: c.__name__,
)
def test_others_are_computed_by_their_modules(
    change: Callable[[Any], None], calls: list[bool]
) -> None:
    mapping = make_mapping().train()
    change(mapping)
    g = maps(contexts(4)).to(mapping.raw_temperature.dtype)
    mapping(g)
    assert calls == [False]
    assert mapping.blocks[0].units[0].num_batches_tracked == 1  # not twice


def test_where_modules_are_asked_for(calls: list[bool]) -> None:
    mapping, g = make_mapping(), maps(contexts(4))
    with conv_strategy('grouped'):
        mapping(g)
    mapping(g[:1])  # has no variance
    mapping.eval()(g)  # with gradients, which evaluation seldom has
    assert calls == [False, False, False]
    with torch.no_grad():
        mapping(g[:1])
    assert calls[3:] == [True]


def test_units_with_something_added_are_computed_as_modules(calls: list[bool]) -> None:
    mapping = make_mapping()
    mapping.blocks[0].units.append(nn.Identity())
    mapping(maps(contexts(4)))
    assert calls == [False]


def test_large_batches_are_left_to_pytorch(calls: list[bool]) -> None:
    mapping = make_mapping()
    for samples in (512, 513):
        mapping(maps(contexts(samples)))
    assert calls == [True, False]


@pytest.mark.parametrize(
    ('samples', 'channels', 'options'),
    [
        (80, 130, {'num_experts': 4, 'num_blocks': 1, 'units_per_block': 2}),
        (61, 149, {'num_experts': 1, 'num_blocks': 2}),
        (3, 400, {'num_experts': 9, 'num_blocks': 0}),
    ],
    ids=str,
)
def test_threads_change_no_bit(
    samples: int,
    channels: int,
    options: dict[str, Any],
    calls: list[bool],
    use_threads: Callable[[int], None],
) -> None:
    """Networks that are large enough for several, which are exact as well."""
    g = contexts(samples, channels)
    results = []
    for threads in (1, 2, 3, 8):
        use_threads(threads)
        mapping = make_mapping(channels, **options)
        seen = torch.ones(samples, mapping.num_experts).cumsum(1)
        results.append(step(mapping, g, seen))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=0, atol=0)
    assert calls == [True, True] * 4
    expected = step(make_mapping(channels, **options).double(), g, seen)
    for name, value in expected.items():
        torch.testing.assert_close(
            results[0][name].double(), value.double(), rtol=1e-3, atol=1e-3
        )


def test_contexts_of_other_channels_are_refused_as_by_pytorch(
    calls: list[bool],
) -> None:
    """The kernels would read the memory behind them."""
    mapping = make_mapping()
    for training in (True, False):
        with torch.no_grad(), pytest.raises(RuntimeError, match='running_mean'):
            mapping.train(training)(maps(contexts(4, 6)))
    assert calls == [False, False]


def test_what_needs_no_gradient_gets_none(calls: list[bool]) -> None:
    mapping = make_mapping().train()
    mapping.norm.weight.requires_grad_(False)
    mapping(maps(contexts(4)))[:, 0].sum().backward()
    assert calls == [True] and mapping.norm.weight.grad is None
    assert all(p.grad is not None for p in mapping.parameters() if p.requires_grad)


def test_what_is_saved_may_move(calls: list[bool]) -> None:
    """Hooks on saved tensors and new memory of parameters between the passes."""
    mapping = make_mapping().train()
    g, seen = contexts(4), torch.randn(4, 3)
    expected = torch.autograd.grad(
        mapping(maps(g.requires_grad_())), (g, *mapping.parameters()), seen
    )
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, mappings.spread):
        weights = mapping(maps(g))
    for parameter in mapping.parameters():
        parameter.data = parameter.data.clone()
    found = torch.autograd.grad(weights, (g, *mapping.parameters()), seen)
    torch.testing.assert_close(found, expected)
    assert calls == [True, True]
