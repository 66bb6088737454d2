# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Layers that choose among ways of a GPU, and how they choose."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv3d_weight
from torch.utils._python_dispatch import TorchDispatchMode

from torchgeo_ekgnet.layers import DynamicExpertConv3d, grouped_conv3d, trial
from torchgeo_ekgnet.layers.geometry import geometry_of
from torchgeo_ekgnet.layers.norm import norm_act, normalize
from torchgeo_ekgnet.layers.static_gpu import _runs_triton

from .marks import DEVICE, cuda

pytestmark = pytest.mark.usefixtures('fresh_trials')


def prefer(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Let a way take the least time."""

    def times(ways: trial.Ways[Any], good: list[str]) -> dict[str, float]:
        return {name: float(name != way) for name in good}

    monkeypatch.setattr(trial, '_times', times)


def composed_forward(
    x: Tensor, weight: Tensor, bias: Tensor,
    statistics: tuple[Tensor, Tensor, Tensor], share: float, eps: float, relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Do what ``norm_forward`` does."""
    mean, var, tracked = statistics
    tracked += 1
    y = F.batch_norm(x, mean, var, weight, bias, True, share, eps)
    axes = (0, 2, 3, 4)
    inverse = torch.rsqrt(x.float().var(axes, unbiased=False) + eps)
    return (F.relu(y) if relu else y), x.float().mean(axes), inverse


def composed_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor,
    inverse: Tensor, relu: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Do what ``norm_backward`` does."""
    assert grad.is_contiguous()
    with torch.enable_grad():
        inputs = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
        y = F.batch_norm(inputs[0], None, None, inputs[1], inputs[2], True)
        return torch.autograd.grad(F.relu(y) if relu else y, inputs, grad)


def composed_conv(
    x: Tensor,
    weight: Tensor,
    groups: int,
    turned: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Do what ``conv_forward`` does."""
    if turned:
        return F.conv_transpose3d(x, weight, padding=1, groups=groups)
    y = F.conv3d(x, weight, padding=1, groups=groups)
    return y if out is None else out.copy_(y)


def composed_conv_gradient(grad: Tensor, x: Tensor, groups: int) -> Tensor:
    """Do what ``conv_weight_gradient`` does."""
    shape = (grad.shape[1], x.shape[1] // groups, 3, 3, 3)
    found: Tensor = conv3d_weight(
        x.float(), shape, grad.float(), padding=1, groups=groups
    )
    return found


def composed_products(
    x: Tensor, kernels: Tensor, bias: Tensor | None, relu: bool
) -> Tensor:
    """Do what ``products`` does."""
    assert kernels.is_contiguous() and x[:1].is_contiguous()
    y = (kernels @ x.flatten(2)).unflatten(2, x.shape[2:])
    y = y if bias is None else (y + bias[:, :, None, None, None]).to(x.dtype)
    return cast(Tensor, F.relu(y) if relu else y)


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Take PyTorch's operations for the kernels, and let them be fast."""
    found = SimpleNamespace(
        norm_forward=composed_forward,
        norm_backward=composed_backward,
        conv_forward=composed_conv,
        conv_weight_gradient=composed_conv_gradient,
        products=composed_products,
    )
    monkeypatch.setattr(trial, '_load_kernels', lambda: found)
    prefer(monkeypatch, 'triton')
    return found


@pytest.mark.usefixtures('standing_in')
@pytest.mark.parametrize('act', [None, nn.ReLU(inplace=True), nn.GELU()])
def test_normalization_is_that_of_pytorch(act: nn.Module | None) -> None:
    torch.manual_seed(0)
    ours: Any = nn.BatchNorm3d(4).to(DEVICE)
    theirs = copy.deepcopy(ours)
    for _ in range(2):
        x = torch.randn(3, 4, 5, 2, 3, device=DEVICE)
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        found = normalize(ours, one, act)
        expected = theirs(other) if act is None else act(theirs(other))
        torch.testing.assert_close(found, expected)
        # A gradient in another order, as one comes from a convolution channels-last.
        seen = torch.randn_like(x).to(memory_format=torch.channels_last_3d)
        for image, y in ((one, found), (other, expected)):
            (image.grad,) = torch.autograd.grad(y, image, seen, retain_graph=True)
            y.backward(seen)
        torch.testing.assert_close(one.grad, other.grad)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert set(trial.choices().values()) == {'triton'}


@pytest.mark.usefixtures('standing_in')
def test_second_derivatives() -> None:
    x = torch.randn(2, 3, 4, 2, 2, device=DEVICE, requires_grad=True)
    norm = nn.BatchNorm3d(3).to(DEVICE)
    weight = torch.randn(3, 1, 3, 3, 3, device=DEVICE, requires_grad=True)

    def penalty(apply: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        (grad,) = torch.autograd.grad(apply(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)

    for found, expected in (
        (
            penalty(lambda x: normalize(norm, x, nn.ReLU())),
            penalty(lambda x: F.relu(norm(x))),
        ),
        (
            penalty(lambda x: grouped_conv3d(x, weight, padding=1, groups=3)),
            penalty(lambda x: F.conv3d(x, weight, padding=1, groups=3)),
        ),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)


def test_batches_without_statistics_are_pytorchs() -> None:
    norm = nn.BatchNorm3d(3).to(DEVICE)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        norm_act(norm, torch.randn(1, 3, 1, 1, 1, device=DEVICE), nn.ReLU())
    empty = norm_act(norm, torch.randn(0, 3, 2, 2, 2, device=DEVICE), nn.ReLU())
    assert empty.shape == (0, 3, 2, 2, 2) and not trial.choices()


@pytest.mark.usefixtures('standing_in')
def test_maps_in_another_order_and_evaluation_are_pytorchs() -> None:
    norm, x = nn.BatchNorm3d(4).to(DEVICE), torch.randn(3, 4, 5, 2, 3, device=DEVICE)
    normalize(norm, x.to(memory_format=torch.channels_last_3d))
    normalize(norm.eval(), x)
    assert not trial.choices()


WAYS = {'grouped': 4, 'dense': 4, 'triton': 4, 'columns': 1}


@pytest.mark.usefixtures('standing_in')
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize(('way', 'groups'), WAYS.items())
def test_ways_of_a_convolution_agree(
    way: str, groups: int, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    prefer(monkeypatch, way)
    x = torch.randn(2, 2 * groups if groups > 1 else 1, 5, 4, 3, device=DEVICE)
    weight = torch.randn(8, x.shape[1] // groups, 3, 3, 3, device=DEVICE)
    bias = torch.randn(8, device=DEVICE, requires_grad=True)
    stride = 1 if groups > 1 else 2
    x.requires_grad_(), weight.requires_grad_()
    for _ in range(2):  # the first time all ways run
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            found = grouped_conv3d(x, weight, bias, stride, 1, 1, groups)
        expected = F.conv3d(
            x.double(), weight.double(), bias.double(), stride, 1, 1, groups
        )
        assert found.is_contiguous()
        assert found.dtype == (torch.bfloat16 if autocast else torch.float32)
        close: Any = {'rtol': 1e-4, 'atol': 1e-4}
        close = {'rtol': 0.1, 'atol': 0.2} if autocast else close
        torch.testing.assert_close(found.double(), expected, **close)
        seen = torch.randn(found.shape, device=DEVICE).bfloat16()
        gradients = torch.autograd.grad(found, (x, weight, bias), seen.to(found.dtype))
        right = torch.autograd.grad(expected, (x, weight, bias), seen.double())
        for one, other in zip(gradients, right, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, **close)
        if way == 'triton':  # which gives them in float32: nothing rounds them then
            assert not gradients[1].equal(gradients[1].bfloat16().float())
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        plain = grouped_conv3d(x, weight, None, stride, 1, 1, groups)
    assert not plain._is_view()  # of what was made inside: it may change in place
    chosen = trial.choices()
    assert [w for key, w in chosen.items() if "'forward'" in key] == [way]
    assert [w for key, w in chosen.items() if "'kernels'" in key] == [way]


@pytest.mark.usefixtures('standing_in')
@pytest.mark.parametrize('way', ['triton', 'dense'])
def test_outputs_lie_where_they_are_wanted(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    prefer(monkeypatch, way)
    seen: list[Tensor | None] = []
    kernels = trial.kernels()
    convolve = kernels.conv_forward

    def watched(*args: Any, out: Tensor | None = None, **others: Any) -> Tensor:
        seen.append(out)
        return cast(Tensor, convolve(*args, out=out, **others))

    monkeypatch.setattr(kernels, 'conv_forward', watched)
    x, weight = torch.randn(2, 8, 3, 4, 5), torch.randn(4, 2, 3, 3, 3)
    x, weight, bias = x.to(DEVICE), weight.to(DEVICE), torch.ones(4, device=DEVICE)
    place = torch.zeros(2, 6, 3, 4, 5, device=DEVICE)[:, 1:5]
    expected = F.conv3d(x, weight, None, 1, 1, 1, 4)
    for _ in range(2):  # the first time all ways run
        with torch.no_grad():
            found = grouped_conv3d(x, weight, None, 1, 1, 1, 4, out=place)
        assert found.data_ptr() == place.data_ptr()
        torch.testing.assert_close(place, expected, rtol=1e-4, atol=1e-4)
        place.zero_()
    assert seen and all(out is place for out in seen)
    seen.clear()
    with torch.no_grad():  # these are written elsewhere first
        grouped_conv3d(x, weight, bias, 1, 1, 1, 4, out=place)
        torch.testing.assert_close(place, expected + 1, rtol=1e-4, atol=1e-4)
        across = torch.zeros(2, 3, 4, 5, 4, device=DEVICE).movedim(4, 1)
        grouped_conv3d(x, weight, None, 1, 1, 1, 4, out=across)
        torch.testing.assert_close(across, expected, rtol=1e-4, atol=1e-4)
        exact = torch.zeros(2, 4, 3, 4, 5, dtype=torch.float64, device=DEVICE)
        grouped_conv3d(x, weight, None, 1, 1, 1, 4, out=exact)
        torch.testing.assert_close(exact.float(), expected, rtol=1e-4, atol=1e-4)
    assert not any(seen)


class HalfMapping(nn.Module):
    """Mixes two experts, with weights in the type of autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.project(x.mean((2, 3, 4))).sigmoid())


@pytest.mark.usefixtures('standing_in')
@pytest.mark.parametrize('grad', [False, True])
def test_a_mapping_of_ones_own_under_autocast(grad: bool) -> None:
    torch.manual_seed(0)
    layer = DynamicExpertConv3d(3, 4, 1, num_experts=2, mapping=HalfMapping())
    nn.init.normal_(cast(Tensor, layer.bias))
    layer, x = layer.to(DEVICE), torch.randn(2, 3, 5, 4, 3, device=DEVICE)
    with torch.set_grad_enabled(grad):
        with torch.autocast(DEVICE, torch.bfloat16):
            found = layer(x)
        expected = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures('standing_in')
@pytest.mark.parametrize('autocast', [False, True])
def test_a_network_is_as_exact_as_without_them(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model('ekgnet_tiny', in_chans=40, num_classes=3)
    network = network.to(DEVICE)
    x = torch.randn(4, 40, 9, 9, device=DEVICE)

    def run(model: nn.Module, low: bool = autocast) -> list[Tensor]:
        image = x.to(next(model.parameters()).dtype)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=low):
            logits = model.train()(image)
        gradients = torch.autograd.grad(
            logits.to(image.dtype).square().sum(), list(model.parameters())
        )
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, enabled=low):
            scores = model.eval()(image)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        return [value.detach().double() for value in (logits, scores, flat)]

    plain, exact = copy.deepcopy(network), copy.deepcopy(network).double()
    found = run(network)
    names = {key.split(' (')[0] for key in trial.choices()}
    assert names == {
        'batch normalization',
        'convolution',
        'experts',
        'mapping networks',
    }
    monkeypatch.setattr(trial, 'DEVICES', ())
    expected, usual = run(exact, False), run(plain)
    for ours, theirs, right in zip(found, usual, expected, strict=True):
        error, known = ((v - right).norm() / right.norm() for v in (ours, theirs))
        assert error < max(1.5 * known, 1e-4)
    close = 0.05 if autocast else 1e-4
    for name, value in exact.named_buffers():
        torch.testing.assert_close(
            network.get_buffer(name).to(value.dtype), value, rtol=close, atol=close
        )


# --------------------------------------------------------------------------------------
# Ways that fail


def test_a_way_that_fails_is_given_up_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> Any:
        raise RuntimeError('no\ncompiler')

    ways: Any = {
        'PyTorch': lambda: torch.ones(2),
        'broken': fail,
        'wrong': lambda: torch.full((2,), 1.5),
    }
    for key in range(3):
        assert trial.run('sum', key, ways, 1e-3).equal(torch.ones(2))
        assert trial.fastest('sum', key, ways, 1e-3) == 'PyTorch'
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and 'RuntimeError: no compiler' in lines[0]
    assert 'values differ by 0.5' in lines[1]


def test_a_way_that_fails_later_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, 'odd')
    calls: list[int] = []

    def odd() -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError
        return torch.ones(2)

    ways: Any = {'PyTorch': lambda: torch.ones(2), 'odd': odd}
    assert trial.fastest('sum', 0, ways, 1e-3) == 'odd'
    for _ in range(2):
        assert trial.run('sum', 0, ways, 1e-3).equal(torch.ones(2))
    assert len(calls) == 2


def test_nothing_is_timed_where_results_must_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefer(monkeypatch, 'quick')
    ways: Any = {name: lambda: torch.ones(2) for name in ('PyTorch', 'quick', 'usual')}
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    assert trial.fastest('sum', 0, ways, 1e-3, 'usual') == 'usual'
    assert trial.fastest('sum', 1, ways, 1e-3) == 'PyTorch'
    monkeypatch.undo()
    monkeypatch.setattr(trial, '_captures', lambda: True)
    # Nothing is known yet, and nothing is kept.
    assert trial.fastest('sum', 2, ways, 1e-3, 'usual') == 'PyTorch'
    assert 'sum 2' not in trial.choices()


def test_a_trial_copies_no_maps_of_half_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies in float32 were several times the memory of the ways themselves."""
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.numel() > 1:
                made.append(out.dtype)
            return out

    prefer(monkeypatch, 'other')
    y = torch.randn(9, dtype=torch.bfloat16)
    ways: Any = {'PyTorch': lambda: y, 'other': lambda: y + 0.001}
    with Watch():  # type: ignore[no-untyped-call]
        assert trial.fastest('sum', 0, ways, 0.05) == 'other'
    assert made and torch.float32 not in made


def test_values_that_are_no_numbers_prove_nothing() -> None:
    bad = torch.full((2,), float('nan'))
    ways: Any = {'PyTorch': lambda: bad, 'other': lambda: bad}
    assert trial.fastest('sum', 0, ways, 1e-3) == 'PyTorch'
    assert not trial.choices() and not trial._broken and not trial._doubted


def test_without_triton(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trial._load_kernels.cache_clear()
    x = torch.randn(2, 4, 3, 2, 2, device=DEVICE)
    try:
        monkeypatch.setattr(trial, '__package__', 'torchgeo_ekgnet.nowhere')
        normalize(nn.BatchNorm3d(4).to(DEVICE), x)
        normalize(nn.BatchNorm3d(4).to(DEVICE), x)
        assert len(caplog.records) == 1
        assert 'Triton is not usable here (ModuleNotFoundError' in caplog.text
        trial._load_kernels.cache_clear()
        monkeypatch.setenv('TORCHGEO_EKGNET_TRITON', '0')
        assert not trial.has_kernels(x) and len(caplog.records) == 1
    finally:
        trial._load_kernels.cache_clear()


def test_a_backward_kernel_that_fails(
    standing_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(3, 4, 5, 2, 3, device=DEVICE, requires_grad=True)
    norm = nn.BatchNorm3d(4).to(DEVICE)
    y = normalize(norm, x, nn.ReLU())

    def fail(*args: Any) -> Any:
        raise RuntimeError('out of resources')

    monkeypatch.setattr(standing_in, 'norm_backward', fail)
    seen = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, seen)
    (expected,) = torch.autograd.grad(F.relu(nn.BatchNorm3d(4).to(DEVICE)(x)), x, seen)
    torch.testing.assert_close(found, expected)
    normalize(norm, x)
    assert not set(trial.choices().values()) - {'PyTorch'}


@pytest.mark.usefixtures('standing_in')
@pytest.mark.parametrize(
    ('size', 'outputs', 'runs'),
    [
        ((9, 9, 9), 4, True),
        ((9, 9, 32), 4, True),
        ((9, 9, 33), 4, False),
        ((1024, 511, 32), 4, True),
        ((1024, 512, 32), 4, False),
        ((9, 9, 32), 36, True),
        ((9, 9, 32), 40, False),
        ((1024, 512, 2), 4, True),
        ((1024, 512, 2), 8, False),
        ((1024, 128, 16), 512, False),
    ],
)
def test_maps_too_large_for_the_kernels_are_pytorchs(
    size: tuple[int, ...], outputs: int, runs: bool
) -> None:
    weight = torch.empty(1).expand(outputs, 16, 3, 3, 3)
    geometry = geometry_of(weight, 1, 1, 1, 4)
    maps = torch.empty(1, device=DEVICE).expand(1, 64, *size)
    assert _runs_triton(maps, weight, geometry) == runs


@cuda
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ('channels', 'size'), [(8, (8, 100, 8)), (16, (4, 50, 4)), (32, (2, 25, 2))]
)
def test_all_ways_run_on_a_card(
    channels: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    x = torch.randn(80, 4 * channels, *size, device=DEVICE, dtype=dtype)
    weight = torch.randn(
        channels, channels, 3, 3, 3, device=DEVICE, dtype=dtype, requires_grad=True
    )
    y = normalize(
        nn.BatchNorm3d(4 * channels).to(DEVICE), x.requires_grad_(), nn.ReLU()
    )
    grouped_conv3d(y, weight, padding=1, groups=4).square().sum().backward()
    assert not trial._broken and len(trial.choices()) == 4
