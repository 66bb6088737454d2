# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Batch normalization behind a convolution: folded in evaluation, fast in training."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from torchgeo_ekgnet.layers import DynamicExpertConv3d, GroupedConv3d, conv_strategy
from torchgeo_ekgnet.layers.attention import mean_attention, record_attention
from torchgeo_ekgnet.layers.norm import (
    conv_norm,
    dense_layer,
    folded_evaluation,
    folds,
    normalize,
)

from .marks import expert_kernels

CONVS: dict[str, Callable[[], nn.Module]] = {
    'experts': lambda: DynamicExpertConv3d(4, 6, 1, num_experts=3, temperature=0.3),
    'experts 3x3x3': lambda: DynamicExpertConv3d(
        4, 6, 3, padding='same', groups=2, padding_mode='circular', bias=False
    ),
    'static': lambda: nn.Conv3d(4, 6, (3, 1, 3), stride=2),
    'grouped': lambda: GroupedConv3d(4, 6, 3, padding=1, groups=2, rows_first=True),
    'no bias': lambda: GroupedConv3d(4, 6, 3, groups=2, bias=False),
}


def settled(norm: Any) -> Any:
    """Give a normalization statistics and weights that are not 0 and 1."""
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.1, 3)
    if norm.affine:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -2, 2)
    return norm.eval()


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('name', CONVS)
def test_folding_is_exact(name: str, affine: bool) -> None:
    torch.manual_seed(0)
    conv = CONVS[name]().double().eval()
    norm = settled(nn.BatchNorm3d(6, affine=affine).double())
    x = torch.randn(3, 4, 5, 4, 6, dtype=torch.float64)
    state = copy.deepcopy(dict(conv.named_parameters()))
    with torch.no_grad():
        expected = norm(conv(x))
        assert folds(conv, norm)
        torch.testing.assert_close(conv_norm(conv, norm, x), expected)
        norm.running_var.mul_(2)
        for parameter in conv.parameters():
            parameter.mul_(1.1)
        expected = norm(conv(x))
        torch.testing.assert_close(conv_norm(conv, norm, x), expected)
        for key, value in conv.named_parameters():
            torch.testing.assert_close(value, state[key] * 1.1)


def test_known_context_is_used() -> None:
    torch.manual_seed(0)
    conv, norm = CONVS['experts']().eval(), settled(nn.BatchNorm3d(6))
    x, context = torch.randn(2, 4, 3, 3, 3), torch.randn(2, 4, 1, 1, 1)
    with torch.no_grad():
        found = conv_norm(conv, norm, x, context)
        torch.testing.assert_close(found, norm(conv(x, context)))


def test_backward_hooks_are_heard() -> None:
    norm = nn.BatchNorm3d(4)
    heard: list[nn.Module] = []
    norm.register_full_backward_hook(lambda module, *_: heard.append(module))
    normalize(norm, torch.randn(2, 4, 3, 3, 3, requires_grad=True)).sum().backward()
    assert heard == [norm]


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', CONVS)
def test_what_hooks_hold_is_not_changed(name: str, training: bool) -> None:
    modules = CONVS[name](), nn.BatchNorm3d(6), nn.ReLU()
    held: list[Tensor] = []
    for module in modules:
        module.train(training).register_forward_hook(lambda *args: held.append(args[2]))
        module.register_full_backward_hook(lambda *_: None)
    x = torch.randn(2, 4, 5, 3, 5, requires_grad=True)
    conv_norm(modules[0], modules[1], x, act=modules[2]).sum().backward()
    assert (held[1] < 0).any() and held[2].equal(held[1].relu())


def test_when_nothing_is_folded() -> None:
    conv, norm = CONVS['experts']().eval(), settled(nn.BatchNorm3d(6))
    assert not folds(conv, norm)  # gradients are wanted
    with torch.no_grad():
        assert folds(conv, norm)
        assert folds(nn.Conv3d(4, 6, 1), norm)
        assert not folds(nn.Sequential(nn.Conv3d(4, 6, 1)), norm)
        assert not folds(conv, nn.GroupNorm(2, 6))
        assert not folds(conv, nn.BatchNorm3d(6, track_running_stats=False).eval())
        with folded_evaluation(False):
            assert not folds(conv, norm)
        with conv_strategy('grouped'):  # the paper's formulation
            assert not folds(conv, norm)
        norm.train()
        assert not folds(conv, norm)
        assert folds(conv, norm.eval())


@pytest.mark.parametrize('watched', [0, 1])
def test_hooks_see_what_they_are_hooked_to(watched: int) -> None:
    modules = conv, norm = CONVS['static']().eval(), settled(nn.BatchNorm3d(6))
    x, seen = torch.randn(2, 4, 5, 3, 5), []
    handle = modules[watched].register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    with torch.no_grad():
        y = conv_norm(conv, norm, x)
        handle.remove()
        torch.testing.assert_close(seen[0], conv(x) if watched == 0 else y)
        conv_norm(conv, norm, x)
    assert len(seen) == 1


def test_attention_is_recorded_and_replaced() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(CONVS['experts'](), settled(nn.BatchNorm3d(6))).eval()
    x = torch.randn(2, 4, 3, 3, 3)
    # Not even a sum of 1 is asked for.
    means = {'0': torch.tensor([0.2, 0.9, 0.4])}
    with torch.no_grad():
        with record_attention(model) as recorded:
            conv_norm(model[0], model[1], x)
        assert recorded['0'].equal(model[0].attention_weights(x))
        with mean_attention(model, means):
            found = conv_norm(model[0], model[1], x)
            torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_folding_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv, norm = CONVS['experts']().eval(), settled(nn.BatchNorm3d(6))
    x = torch.randn(2, 4, 3, 3, 3)
    with torch.no_grad():
        expected = norm(conv(x))
        with torch.autocast('cpu', dtype):
            found = conv_norm(conv, norm, x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize('shape', [(5, 4, 6, 3, 2), (40, 3, 9, 9, 9), (2, 4, 1, 1, 1)])
@pytest.mark.parametrize('offset', [0.0, 100.0])
def test_training_is_that_of_batch_norm(shape: tuple[int, ...], offset: float) -> None:
    torch.manual_seed(0)
    channels = shape[1]
    theirs = nn.BatchNorm3d(channels)
    nn.init.uniform_(theirs.weight, 0.5, 2)
    ours = copy.deepcopy(theirs)
    oracle = copy.deepcopy(theirs).double()
    images = torch.randn(*shape) + offset
    seen = torch.randn(*shape)
    found = []
    for norm, x in (
        (ours, images.clone().requires_grad_()),
        (oracle, images.double().requires_grad_()),
    ):
        y = normalize(norm, x) if norm is ours else norm(x)
        grads = torch.autograd.grad(y, (x, *norm.parameters()), seen.to(y.dtype))
        found.append((y, *grads, norm.running_mean, norm.running_var))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-4)
    assert ours.num_batches_tracked == 1


def test_training_statistics_without_momentum() -> None:
    ours, theirs = (nn.BatchNorm3d(3, momentum=None) for _ in range(2))
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(4, 3, 5, 4, 3) + seed
        torch.testing.assert_close(normalize(ours, x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_one_value_a_channel_cannot_train() -> None:
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        normalize(nn.BatchNorm3d(3), torch.randn(1, 3, 1, 1, 1))


def test_second_derivatives_in_training() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 3, 2)

    def penalty(apply: Callable[[Any, Tensor], Tensor]) -> tuple[Tensor, ...]:
        norm, image = nn.BatchNorm3d(2), x.clone().requires_grad_()
        y = apply(norm, image).pow(3).sum()
        (grad,) = torch.autograd.grad(y, image, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (image, norm.weight))

    found = penalty(normalize)
    expected = penalty(lambda norm, image: norm(image))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_forward_mode_sees_batch_norm_itself() -> None:
    norm, x = nn.BatchNorm3d(2), torch.randn(3, 2, 4, 3, 2)
    with forward_ad.dual_level():
        y = normalize(norm, forward_ad.make_dual(x, torch.ones_like(x)))
        tangent = forward_ad.unpack_dual(y).tangent
    # A shift of all values changes nothing.
    assert tangent is not None and tangent.abs().max() < 1e-5


def dense_parts(bias: bool = True) -> tuple[Any, Any, nn.Module, GroupedConv3d]:
    torch.manual_seed(0)
    conv = DynamicExpertConv3d(6, 16, 1, num_experts=3, bias=bias).eval()
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    last = GroupedConv3d(16, 8, 3, padding=1, groups=4, bias=False, rows_first=True)
    return conv, settled(nn.BatchNorm3d(16)), nn.ReLU(), last


@expert_kernels
@pytest.mark.parametrize('bands_last', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_a_dense_layer_is_its_parts(bands_last: bool, bias: bool) -> None:
    conv, norm, act, last = dense_parts(bias)
    maps = torch.randn(3, 9, 4, 5, 17)
    x, out = maps[:, 1:7], torch.zeros(3, 10, 4, 5, 17)
    with torch.no_grad():
        expected = last(act(norm(conv(x))), bands_last)
        found = dense_layer(conv, norm, act, last, x, bands_last=bands_last)
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        context = x.mean((2, 3, 4), keepdim=True)
        place = out[:, 1:9]
        given = conv, norm, act, last, x, context, place, bands_last
        assert dense_layer(*given) is not None
        torch.testing.assert_close(place, expected, rtol=1e-4, atol=1e-4)
        assert not out[:, 0].any() and not out[:, 9].any()
        conv.double(), norm.double(), last.double()
        assert dense_layer(conv, norm, act, last, x.double()) is None


@expert_kernels
def test_when_the_parts_are_computed() -> None:
    conv, norm, act, last = dense_parts()
    x = torch.randn(3, 6, 4, 5, 17)
    assert dense_layer(conv, norm, act, last, x) is None  # with gradients
    with torch.no_grad():
        assert dense_layer(conv, norm, act, last, x) is not None
        others: Any
        for others in (
            (conv, norm, nn.GELU(), last),
            (conv, norm, act, GroupedConv3d(16, 8, 3, padding=1, groups=4)),
            (conv, norm, act, GroupedConv3d(16, 8, 3, groups=4, bias=False)),
            (conv, norm, act, GroupedConv3d(8, 8, 3, 1, 1, groups=4, bias=False)),
            (nn.Conv3d(6, 16, 1), norm, act, last),
            (DynamicExpertConv3d(6, 16, 1, groups=2), norm, act, last),
            (DynamicExpertConv3d(6, 16, 1, stride=2), norm, act, last),
            (DynamicExpertConv3d(7, 16, 1), norm, act, last),
        ):
            conv_, norm_, act_, last_ = others
            assert dense_layer(conv_, norm_, act_, last_, x) is None
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert dense_layer(conv, norm, act, last, x) is None
        with conv_strategy('pointwise'):
            assert dense_layer(conv, norm, act, last, x) is None
        with folded_evaluation(False):
            assert dense_layer(conv, norm, act, last, x) is None
        conv.mapping = nn.Sequential(conv.mapping, nn.Linear(3, 2))  # too few weights
        assert dense_layer(conv, norm, act, last, x) is None


class _Cubed(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) ** 3


class _Image(Tensor):
    """A subclass that results keep, as those of other libraries."""


def test_activations_of_a_class_derived_from_relu() -> None:
    conv, norm = CONVS['experts']().eval(), settled(nn.BatchNorm3d(6))
    x, act = torch.randn(2, 4, 3, 3, 3), _Cubed()
    with torch.no_grad():
        assert folds(conv, norm)
        found = conv_norm(conv, norm, x, act=act)
        torch.testing.assert_close(found, act(norm(conv(x))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', CONVS)
def test_subclasses_of_tensors(name: str, training: bool) -> None:
    torch.manual_seed(0)
    conv = CONVS[name]().train(training)
    norm, act = settled(nn.BatchNorm3d(6)).train(training), nn.ReLU()
    x = torch.randn(2, 4, 5, 3, 5)
    expected = act(norm(conv(x)))
    image = x.as_subclass(_Image).requires_grad_()
    found = conv_norm(conv, norm, image, act=act)
    torch.testing.assert_close(found.as_subclass(Tensor), expected)
    found.sum().backward()
    assert image.grad is not None


class _Dense(nn.Sequential):
    """A dense layer, as networks compute it."""

    def forward(self, input: Tensor) -> Tensor:
        conv, norm, act, last = self
        assert isinstance(last, GroupedConv3d)
        whole = dense_layer(conv, norm, act, last, input)
        if whole is not None:
            return whole
        return last(conv_norm(conv, norm, input, act=act))  # type: ignore[no-any-return]


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize(
    'name', ['0.weight', '0.mapping.raw_temperature', '1.weight', '3.weight']
)
def test_forward_mode_of_parameters(name: str, training: bool) -> None:
    network: Any = _Dense(*dense_parts()).train(training)
    network[0].mapping.set_temperature(0.5)
    exact, x = copy.deepcopy(network).double(), torch.randn(3, 6, 4, 5, 17)
    value = network.get_parameter(name).detach()
    ends = []
    with torch.no_grad():
        for step in (1e-5, -1e-5):
            moved = {name: value.double() + step}
            ends.append(functional_call(copy.deepcopy(exact), moved, (x.double(),)))
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(value, torch.ones_like(value))}
            tangent = forward_ad.unpack_dual(
                functional_call(network, dual, (x,))
            ).tangent
    assert tangent is not None
    expected = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close(tangent.double(), expected, rtol=1e-3, atol=1e-4)
