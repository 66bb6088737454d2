# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The rule chooses among the strategies, or the caller does."""

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from torchgeo_ekgnet.layers import (
    STRATEGIES,
    GroupedConv3d,
    conv_strategy,
    direct,
    expert_conv3d,
    grouped_conv3d,
    rule,
    unrolled,
)
from torchgeo_ekgnet.layers.geometry import geometry_of
from torchgeo_ekgnet.layers.rule import (
    asked_strategy,
    choose_conv_strategy,
    choose_expert_strategy,
    dense_passes,
)
from torchgeo_ekgnet.layers.static_gpu import tunes

from ..graphs import CountingBackend


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    thin = GroupedConv3d(32, 8, 3, padding=1, groups=4, bias=False)
    x = torch.randn(2, 32, 10, 8, 8)
    geometry = geometry_of(thin.weight, 1, 1, 1, 4)
    # A kernel of our own where there is one for this processor.
    monkeypatch.setattr(direct, 'kernels', lambda: direct)
    assert choose_conv_strategy(x, thin.weight, geometry) == ('direct', None)
    monkeypatch.setattr(direct, 'kernels', lambda: None)
    assert choose_conv_strategy(x, thin.weight, geometry)[0] == 'unrolled'
    double = x.double()
    assert choose_conv_strategy(double, thin.weight, geometry)[0] == 'grouped'
    wide = torch.empty(64, 16, 3, 3, 3)
    x64 = torch.empty(2, 64, 40, 32, 32)
    geometry = geometry_of(wide, 1, 1, 1, 4)
    assert choose_conv_strategy(x64, wide, geometry)[0] == 'grouped'
    torch.testing.assert_close(
        thin(x), F.conv3d(x, thin.weight, padding=1, groups=4), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ('shape', 'channels', 'expected'),
    [
        ((1, 1, 1), 64, 'experts'),
        ((4, 1, 1), 64, 'experts'),
        ((2, 3, 2), 64, 'experts'),
        ((2, 7, 1), 64, 'pointwise'),
        ((1, 1, 1), 16, 'pointwise'),
    ],
)
def test_kernels_are_not_mixed_for_maps_that_are_smaller(
    shape: tuple[int, int, int], channels: int, expected: str
) -> None:
    x = torch.randn(3, channels, *shape, dtype=torch.float64, requires_grad=True)
    attention = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 64, channels, 1, 1, 1, dtype=torch.float64)
    bias = torch.randn(2, 64, dtype=torch.float64)
    geometry = geometry_of(weight, 1, 0, 1, 1)
    assert choose_expert_strategy(x, weight, geometry) == expected
    results = []
    for strategy in (None, 'grouped'):
        y = expert_conv3d(x, attention, weight, bias, strategy=strategy)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, attention))))
    for result, plain in zip(*results, strict=True):
        torch.testing.assert_close(result, plain)


def test_forced_strategy() -> None:
    x, attention = torch.randn(2, 4, 3, 3, 3), torch.rand(2, 2)
    weight = torch.randn(2, 4, 4, 3, 3, 3)
    expected = expert_conv3d(x, attention, weight, padding=1)
    for strategy in (*STRATEGIES, None):
        with conv_strategy(strategy):
            y = expert_conv3d(x, attention, weight, padding=1)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="found 'fast'"), conv_strategy('fast'):
        pass
    with pytest.raises(ValueError, match="'pointwise' needs 1x1x1 kernels"):
        expert_conv3d(x, attention, weight, strategy='pointwise')
    with pytest.raises(ValueError, match="found 'experts'"):
        grouped_conv3d(x, weight[0], strategy='experts')


def test_interleaved_blocks_of_two_threads() -> None:
    first, second, left = (threading.Event() for _ in range(3))
    seen: dict[str, str | None] = {}

    def one() -> None:
        with conv_strategy('grouped'):
            first.set()
            second.wait(5)
            seen['one'] = asked_strategy()
        left.set()

    def two() -> None:
        first.wait(5)
        seen['before'] = asked_strategy()
        with conv_strategy('unrolled'):
            second.set()
            left.wait(5)
            seen['two'] = asked_strategy()
        seen['after'] = asked_strategy()

    threads = [threading.Thread(target=one), threading.Thread(target=two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {'one': 'grouped', 'before': None, 'two': 'unrolled', 'after': None}
    assert asked_strategy() is None


def test_blocks_nest_and_end_with_an_error() -> None:
    with conv_strategy('grouped'):
        with pytest.raises(RuntimeError), conv_strategy('experts'):
            assert asked_strategy() == 'experts'
            raise RuntimeError
        assert asked_strategy() == 'grouped'
        with conv_strategy(None):
            assert asked_strategy() is None
    assert asked_strategy() is None


def test_compiled_graphs_follow_the_strategy() -> None:
    torch.compiler.reset()
    backend = CountingBackend()
    layer = GroupedConv3d(32, 8, 3, padding=1, groups=4)
    compiled: Any = torch.compile(layer, backend=backend)
    x = torch.randn(2, 32, 10, 8, 8)
    with torch.no_grad():
        ruled = compiled(x)
        with conv_strategy('grouped'):
            assert compiled(x).equal(layer(x))
        graphs = backend.graphs
        assert compiled(x).equal(ruled)
    # PyTorch 2.8 to 2.11 compile the rule's graph once more.
    older = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 12)
    assert graphs == 2 and backend.graphs == 2 + older


@pytest.mark.parametrize(
    ('cin', 'cout', 'expected'),
    [(8, 2, 'both'), (16, 4, 'forward'), (32, 8, 'both'), (4, 4, None)],
)
def test_where_dense_kernels_were_faster(
    cin: int, cout: int, expected: str | None
) -> None:
    weight = torch.empty(4 * cout, cin, 3, 3, 3)
    geometry = geometry_of(weight, 1, 1, 1, 4)
    for dtype in (torch.bfloat16, torch.float16):
        assert dense_passes(dtype, weight, geometry) == expected
    assert dense_passes(torch.float32, weight, geometry) is None
    strided = geometry_of(weight, 2, 1, 1, 4)
    assert dense_passes(torch.bfloat16, weight, strided) is None


def test_the_rule_on_cuda() -> None:
    with FakeTensorMode():  # needs no card, and nothing can be measured
        x = torch.empty(2, 32, 10, 4, 4, device='cuda')
        weight = torch.empty(8, 8, 3, 3, 3, device='cuda')
        geometry = geometry_of(weight, 1, 1, 1, 4)
        assert choose_conv_strategy(x, weight, geometry) == ('grouped', None)
        assert not tunes(x, weight, geometry)


def test_dense_is_exact() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {'dtype': torch.float64, 'requires_grad': True}
    x, weight = (
        torch.randn(2, 8, 5, 4, 3, **options),
        torch.randn(4, 2, 3, 3, 1, **options),
    )
    bias = torch.randn(4, **options)
    geometry: dict[str, Any] = {'stride': (1, 2, 1), 'padding': (1, 1, 0), 'groups': 4}
    found = grouped_conv3d(x, weight, bias, strategy='dense', **geometry)
    expected = F.conv3d(x, weight, bias, **geometry)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
    seen = torch.randn_like(expected)
    inputs = (x, weight, bias)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, seen),
        torch.autograd.grad(expected, inputs, seen),
    )


@pytest.mark.parametrize('last', [False, True])
def test_experts_by_position_are_exact(last: bool) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {'dtype': torch.float64, 'requires_grad': True}
    x = torch.randn(3, 8, 2, 3, 2, **options)
    attention, bias = torch.rand(3, 4, **options), torch.randn(4, 6, **options)
    weight = torch.randn(4, 6, 8, 1, 1, 1, **options)
    inputs = (x, attention, weight, bias)
    image = x.to(memory_format=torch.channels_last_3d) if last else x
    found = expert_conv3d(image, *inputs[1:], strategy='experts')
    expected = expert_conv3d(*inputs, strategy='grouped')
    torch.testing.assert_close(found, expected)
    seen = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, seen),
        torch.autograd.grad(expected, inputs, seen),
    )


@pytest.mark.parametrize('fast', [False, True])
def test_bfloat16_on_a_cpu(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unrolled without gradients only, and the same to the digits of the type."""
    monkeypatch.setattr(rule, 'multiplies_bfloat16', lambda: fast)
    calls: list[int] = []
    original = unrolled.unrolled_in_pieces

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(unrolled, 'unrolled_in_pieces', counted)
    torch.manual_seed(0)
    layer = GroupedConv3d(32, 8, 3, padding=1, groups=4)
    assert layer.bias is not None
    x = torch.randn(2, 32, 10, 8, 8, requires_grad=True)
    expected = F.conv3d(x, layer.weight, layer.bias, padding=1, groups=4)
    with torch.autocast('cpu', torch.bfloat16):
        found = layer(x)
        assert not calls
        with torch.no_grad():
            quick = layer(x)
    assert len(calls) == fast
    for one in (found, quick):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), expected, rtol=0.02, atol=0.02)
    inputs = (x, layer.weight, layer.bias)
    seen = torch.randn_like(expected)
    grads = torch.autograd.grad(found, inputs, seen.bfloat16())
    reference = torch.autograd.grad(expected, inputs, seen)
    for one, other in zip(grads, reference, strict=True):
        assert one.dtype == torch.float32
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * scale)
