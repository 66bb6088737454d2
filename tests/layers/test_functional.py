# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The strategies compute the same."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from torchgeo_ekgnet.layers import (
    STRATEGIES,
    GroupedConv3d,
    direct,
    expert_conv3d,
    grouped_conv3d,
    products,
)


def small(**options: Any) -> tuple[Tensor, Tensor]:
    """An image and kernels for two groups, which require gradients."""
    torch.manual_seed(0)
    options = {'requires_grad': True, **options}
    x, weight = (2, 8, 6, 4, 4), (4, 4, 3, 3, 3)
    return torch.randn(x, **options), torch.randn(weight, **options)


def unrolled(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return grouped_conv3d(x, weight, bias, padding=1, groups=2, strategy='unrolled')


def plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv3d(x, weight, bias, padding=1, groups=2)


@pytest.mark.parametrize('create_graph', [False, True])
def test_kernels_that_depend_on_the_image(create_graph: bool) -> None:
    x, base = small(dtype=torch.float64)
    found = []
    for conv in (unrolled, plain):
        kernels = base * x.mean() * 10
        y = conv(x, kernels, kernels.sum((1, 2, 3, 4))).square().sum()
        found.append(torch.autograd.grad(y, (x, base), create_graph=create_graph))
    torch.testing.assert_close(found[0], found[1])


def test_second_derivatives() -> None:
    torch.manual_seed(0)
    double: dict[str, Any] = {'dtype': torch.float64, 'requires_grad': True}
    x, bias = torch.randn(1, 4, 4, 3, 3, **double), torch.randn(2, **double)
    weight = torch.randn(2, 2, 3, 2, 2, **double)
    assert torch.autograd.gradgradcheck(unrolled, (x, weight, bias), fast_mode=True)


def test_backward_inside_autocast() -> None:
    x, weight = small()
    y = unrolled(x, weight).square().sum()
    expected = torch.autograd.grad(y, (x, weight), retain_graph=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(y, (x, weight))
    torch.testing.assert_close(found, expected)


def test_many_gradients_at_once() -> None:
    x, weight = small()
    seen = torch.randn(3, 2, 4, 6, 4, 4)
    found, expected = (
        torch.autograd.grad(conv(x, weight), (x, weight), seen, is_grads_batched=True)
        for conv in (unrolled, plain)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('strategy', ['unrolled', 'direct', None])
def test_forward_mode(strategy: str | None) -> None:
    # Large enough for the rule to unroll as well.
    x, weight = torch.randn(2, 32, 10, 8, 8), torch.randn(8, 8, 3, 3, 3)
    direction = torch.randn_like(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        y = grouped_conv3d(dual, weight, groups=4, strategy=strategy)
        tangent = forward_ad.unpack_dual(y).tangent
    expected = F.conv3d(direction, weight, groups=4)
    torch.testing.assert_close(tangent, expected, rtol=1e-4, atol=1e-4)


def test_meta_device() -> None:
    x, weight = small(device='meta')
    y = unrolled(x, weight)
    assert y.shape == (2, 4, 6, 4, 4)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize('strategy', [*STRATEGIES, None])
def test_empty_batch(strategy: str | None) -> None:
    x, attention = torch.randn(0, 4, 3, 3, 3), torch.rand(0, 2)
    weight = torch.randn(2, 6, 4, 1, 1, 1)
    assert expert_conv3d(x, attention, weight, strategy=strategy).shape[1] == 6


@pytest.mark.parametrize('strategy', ['grouped', 'experts', 'unrolled', None])
def test_expert_strategies_agree(strategy: str | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8, 6, 4, 4, dtype=torch.float64)
    attention = torch.rand(3, 2, dtype=torch.float64)
    weight = torch.randn(2, 4, 4, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(2, 4, dtype=torch.float64)
    kernels = torch.einsum('bk,k...->b...', attention, weight)
    expected = torch.cat(
        [
            F.conv3d(s[None], w, padding=1, groups=2)
            for s, w in zip(x, kernels, strict=True)
        ]
    )
    expected = expected + (attention @ bias)[:, :, None, None, None]
    y = expert_conv3d(
        x, attention, weight, bias, padding=1, groups=2, strategy=strategy
    )
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)


def test_pointwise_in_channels_last() -> None:
    torch.manual_seed(0)
    x, attention = torch.randn(3, 8, 6, 4, 4), torch.rand(3, 2)
    weight, bias = torch.randn(2, 4, 8, 1, 1, 1), torch.randn(2, 4)
    expected = expert_conv3d(x, attention, weight, bias, strategy='grouped')
    last = x.to(memory_format=torch.channels_last_3d)
    for b, y in (
        (bias, expected),
        (None, expected - expert_conv3d(torch.zeros_like(x), attention, weight, bias)),
    ):
        ours = expert_conv3d(last, attention, weight, b)
        torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-5)
        assert ours.is_contiguous(memory_format=torch.channels_last_3d)


def pointwise(groups: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An image, mixing weights, 1x1x1 experts and their biases, in float64."""
    torch.manual_seed(0)
    options: dict[str, Any] = {'dtype': torch.float64, 'requires_grad': True}
    return (
        torch.randn(3, 4, 3, 2, 2, **options),
        torch.rand(3, 2, **options),
        torch.randn(2, 6, 4 // groups, 1, 1, 1, **options),
        torch.randn(2, 6, **options),
    )


@pytest.mark.parametrize('create_graph', [False, True])
@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('groups', [1, 2])
def test_gradients_of_pointwise_experts(
    groups: int, last: bool, create_graph: bool
) -> None:
    leaves = x, attention, weight, bias = pointwise(groups)
    if last:
        x = x.to(memory_format=torch.channels_last_3d)
    # The experts and their weights may have been computed from the image.
    inputs = (attention + x.mean(), weight * x.std(), bias)
    expected, found = (
        expert_conv3d(x, *inputs, groups=groups, strategy=strategy)
        for strategy in ('grouped', None)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    seen = torch.randn_like(expected)
    for chosen in (leaves, *([leaf] for leaf in leaves)):
        grads, reference = (
            torch.autograd.grad(
                y, chosen, seen, retain_graph=True, create_graph=create_graph
            )
            for y in (found, expected)
        )
        torch.testing.assert_close(grads, reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize('fixed', range(4))
def test_pointwise_experts_partly_frozen(fixed: int) -> None:
    inputs = pointwise()
    expected = torch.autograd.grad(
        expert_conv3d(*inputs, strategy='grouped').square().sum(), inputs
    )
    inputs[fixed].requires_grad_(False)
    expert_conv3d(*inputs).square().sum().backward()
    assert inputs[fixed].grad is None
    for i, (leaf, grad) in enumerate(zip(inputs, expected, strict=True)):
        if i != fixed:
            torch.testing.assert_close(leaf.grad, grad, rtol=0, atol=1e-10)


def test_second_derivatives_of_pointwise_experts() -> None:
    assert torch.autograd.gradgradcheck(expert_conv3d, pointwise(), fast_mode=True)


def test_many_gradients_of_pointwise_experts_at_once() -> None:
    inputs = pointwise()
    seen = torch.randn(5, 3, 6, 3, 2, 2, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad(
            expert_conv3d(*inputs, strategy=strategy),
            inputs,
            seen,
            is_grads_batched=True,
        )
        for strategy in (None, 'grouped')
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_backward_of_pointwise_experts_inside_autocast() -> None:
    x, attention, weight = (
        t.detach().float().requires_grad_() for t in pointwise()[:3]
    )
    y = expert_conv3d(x, attention, weight).square().sum()
    expected = torch.autograd.grad(y, (x, attention, weight), retain_graph=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(y, (x, attention, weight))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_mixed_pointwise_kernels_are_not_kept_for_backward() -> None:
    x, attention, weight, bias = pointwise()
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    mixed = 3 * 6 * 4
    for strategy in ('grouped', None):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            expert_conv3d(x, attention, weight, bias, strategy=strategy)
        assert (mixed in kept) == (strategy == 'grouped')
        assert x.numel() in kept


def test_bad_shapes() -> None:
    x, weight = torch.randn(2, 4, 3, 3, 3), torch.randn(2, 4, 4, 1, 1, 1)
    with pytest.raises(ValueError, match='weight has shape'):
        expert_conv3d(x, torch.rand(2, 2), weight[0])
    with pytest.raises(ValueError, match='attention has shape'):
        expert_conv3d(x, torch.rand(2, 3), weight)
    with pytest.raises(ValueError, match=r'expected \(B, K\) = \(2, 2\)'):
        expert_conv3d(x, torch.rand(1, 2), weight)
    with pytest.raises(ValueError, match=r'expected \(B, K\) = \(1, 2\)'):
        expert_conv3d(x[:1], torch.rand(3, 2), weight, strategy='experts')
    with pytest.raises(
        ValueError, match=r'bias has .* expected \(K, Cout\) = \(2, 4\)'
    ):
        expert_conv3d(x, torch.rand(2, 2), weight, torch.randn(4))
    with pytest.raises(ValueError, match='the input has 4 channels, expected 8'):
        expert_conv3d(x, torch.rand(2, 2), weight, groups=2)
    with pytest.raises(ValueError, match='weight has shape'):
        grouped_conv3d(x, weight)
    with pytest.raises(ValueError, match='stride must be an int or 3 ints'):
        grouped_conv3d(x, weight[0], stride=(1, 2))
    with pytest.raises(TypeError, match=r'convert it with \.float'):
        grouped_conv3d(x.long(), weight[0])


@pytest.mark.parametrize(
    'options',
    [{'padding': 1}, {'padding': 'same'}, {'padding': 1, 'padding_mode': 'circular'}],
    ids=str,
)
def test_grouped_layer_is_conv3d(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = nn.Conv3d(8, 4, (3, 1, 3), groups=4, **options)
    ours = GroupedConv3d(8, 4, (3, 1, 3), groups=4, **options)
    turned = GroupedConv3d(8, 4, (3, 1, 3), groups=4, rows_first=True, **options)
    ours.load_state_dict(theirs.state_dict())
    turned.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, 7, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))
    torch.testing.assert_close(turned(x.transpose(2, 3)).transpose(2, 3), theirs(x))
    for layer in (ours, turned):
        last = layer(x.movedim(2, 4), bands_last=True).movedim(4, 2)
        torch.testing.assert_close(last, theirs(x))


@pytest.mark.parametrize(('threads', 'expected'), [(1, 1), (2, 16), (4, 32)])
def test_pieces_have_work_for_all_threads(
    threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    large, stacked = torch.empty(40, 8, 100, 64, 8), torch.empty(4, 8, 8)
    pieces = products._pieces(large, stacked)
    assert [i for piece in pieces for i in range(40)[piece]] == list(range(40))
    assert pieces[0] == slice(0, expected)
    assert products._pieces(large[:, :, :1, :1, :1], stacked) == [slice(0, 40)]


@pytest.mark.parametrize('positions', [(1, 5, 2), (4, 10, 4)])
@pytest.mark.parametrize('groups', [1, 2])
def test_pieces_of_a_batch_are_the_batch(
    positions: tuple[int, int, int], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(direct, 'kernels', lambda: None)
    buffer = torch.randn(5, 20, *positions)
    attention = torch.softmax(torch.randn(5, 3), 1).requires_grad_()
    weight = torch.randn(3, 6, 16 // groups, 1, 1, 1, requires_grad=True)
    bias = torch.randn(3, 6, requires_grad=True)
    results = []
    for strategy, piece in (
        ('grouped', 1 << 20),
        ('pointwise', 1),
        ('pointwise', 4000),
    ):
        monkeypatch.setattr(products, '_PIECE', piece)
        monkeypatch.setattr(products, '_SAMPLES', 1)
        x = buffer[:, :16].requires_grad_()
        y = expert_conv3d(x, attention, weight, bias, groups=groups, strategy=strategy)
        given = (x, attention, weight, bias)
        results.append((y, *torch.autograd.grad(y.square().sum(), given)))
        with torch.no_grad():
            rectified = expert_conv3d(
                x, attention, weight, bias, groups=groups, strategy=strategy, relu=True
            )
        torch.testing.assert_close(rectified, y.relu())
    for result in results[1:]:
        for found, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
