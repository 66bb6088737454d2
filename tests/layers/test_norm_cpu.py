# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Training batches through experts, batch normalization and ReLU in one call."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import DynamicExpertConv3d, conv_strategy
from torchgeo_ekgnet.layers.norm import conv_norm
from torchgeo_ekgnet.layers.norm_cpu import experts_norm_act

from .mappings import spread
from .marks import expert_kernels


class Known(nn.Module):
    """A mapping network that gives each sample weights of its own."""

    def __init__(self, batch: int, experts: int) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.randn(batch, experts))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.shares


def parts(
    cin: int, cout: int, experts: int = 3, bias: bool = True, batch: int = 4
) -> tuple[Any, Any]:
    """Make experts and a normalization with parameters that are not 0 and 1."""
    torch.manual_seed(0)
    mapping = Known(batch, experts)
    conv = DynamicExpertConv3d(
        cin, cout, 1, num_experts=experts, mapping=mapping, bias=bias
    )
    norm = nn.BatchNorm3d(cout)
    for parameter in (conv.bias, norm.weight, norm.bias):
        if parameter is not None:
            nn.init.uniform_(parameter, -2, 2)
    return conv, norm


def maps(batch: int, channels: int, size: Sequence[int], offset: float = 0.0) -> Tensor:
    """Maps that are some channels of larger ones."""
    whole = torch.randn(batch, channels + 3, *size) + offset
    return whole[:, 2:-1]


def graded(modules: Any, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Output and gradients of a training batch, and the statistics after it."""
    conv, norm = modules
    x = x.detach().requires_grad_()
    z = conv_norm(conv, norm, x, act=nn.ReLU())
    wanted = [x, *conv.parameters(), *norm.parameters()]
    found = torch.autograd.grad(z, wanted, grad)
    return [z.detach(), *found, norm.running_mean, norm.running_var]


SIZES = [(1, 1, 13), (2, 2, 26), (4, 4, 50), (3, 1, 1), (1, 2, 3), (8, 8, 100)]


@expert_kernels
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize(
    ('batch', 'cin', 'cout', 'experts', 'bias', 'threads'),
    [
        (3, 6, 8, 3, True, 1),
        (9, 97, 12, 4, True, 2),  # more panels of inputs than two a thread
        (9, 50, 5, 5, False, 1),
        (2, 17, 33, 1, True, 3),
        (41, 25, 4, 2, True, 2),  # more samples than are taken at a time
    ],
)
def test_all_gradients_are_exact(
    size: Sequence[int],
    batch: int,
    cin: int,
    cout: int,
    experts: int,
    bias: bool,
    threads: int,
    use_threads: Callable[[int], None],
) -> None:
    if batch > 9 and size[0] > 4:
        size = (5, 3, 11)
    ours = parts(cin, cout, experts, bias, batch)
    oracle: Any = [copy.deepcopy(module).double() for module in ours]
    use_threads(threads)
    x = maps(batch, cin, size, offset=1.0)
    with torch.no_grad():
        conv, norm = copy.deepcopy(oracle)
        seen = conv_norm(conv, norm, x.double(), act=nn.ReLU())
    # A value next to 0 may be on the other side of it in the other precision.
    grad = torch.randn(seen.shape) * ((seen == 0) | (seen > 1e-4))
    conv, norm = copy.deepcopy(ours)
    assert experts_norm_act(conv, norm, nn.ReLU(), x) is not None
    found = graded(ours, x, grad)
    expected = graded(oracle, x.double(), grad.double())
    names = ['z', 'x', *dict(ours[0].named_parameters())]
    names += [*dict(ours[1].named_parameters()), 'mean', 'variance']
    scale = max(float(t.abs().max()) for t in expected[1:-2])
    for name, one, other in zip(names, found, expected, strict=True):
        # Biases before a normalization have gradients of rounding alone.
        largest = max(float(other.abs().max()), 1e-3 * scale)
        error = float((one.double() - other).abs().max())
        assert error < 5e-5 * largest, name
    assert ours[1].num_batches_tracked == 1


@expert_kernels
def test_a_large_mean_takes_no_digits() -> None:
    ours = parts(4, 8, batch=6)
    oracle = [copy.deepcopy(module).double() for module in ours]
    x = maps(6, 4, (4, 4, 50), offset=300.0)
    graded(ours, x, torch.ones(6, 8, 4, 4, 50))
    graded(oracle, x.double(), torch.ones(6, 8, 4, 4, 50).double())
    torch.testing.assert_close(
        ours[1].running_var.double(), oracle[1].running_var, rtol=1e-3, atol=0
    )


@expert_kernels
def test_statistics_without_momentum() -> None:
    conv, norm = parts(4, 8)
    norm.momentum = None
    other = copy.deepcopy(norm)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(4, 4, 2, 3, 9) + seed
        with torch.no_grad():
            other(copy.deepcopy(conv)(x))
        conv_norm(conv, norm, x, act=nn.ReLU())
    torch.testing.assert_close(
        norm.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-4
    )
    assert norm.num_batches_tracked == 3


@expert_kernels
def test_second_derivatives() -> None:
    x = torch.randn(4, 5, 2, 3, 9)

    def penalty(modules: Any) -> tuple[Tensor, ...]:
        conv, norm = modules
        values = x.to(conv.weight.dtype).requires_grad_()
        z = conv_norm(conv, norm, values, act=nn.ReLU())
        inputs = values, conv.weight, conv.bias, norm.weight
        first = torch.autograd.grad(z.pow(3).mean(), inputs, create_graph=True)
        total = sum((g.square().sum() for g in first), torch.zeros(()))
        return torch.autograd.grad(total, (values, conv.weight, norm.weight))

    ours = parts(5, 8)
    oracle = [copy.deepcopy(module).double() for module in ours]
    for found, expected in zip(penalty(ours), penalty(oracle), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3 * scale)


@expert_kernels
def test_what_is_saved_may_lie_in_another_order() -> None:
    ours = parts(5, 8)
    x, grad = torch.randn(4, 5, 2, 3, 9), torch.randn(4, 8, 2, 3, 9)
    expected = graded(copy.deepcopy(ours), x, grad)
    with torch.autograd.graph.saved_tensors_hooks(torch.detach, spread):
        found = graded(ours, x, grad)
    torch.testing.assert_close(found, expected)


@expert_kernels
def test_what_is_not_learnt_gets_no_gradient() -> None:
    conv, norm = parts(5, 8)
    norm.requires_grad_(False)
    conv.weight.requires_grad_(False)
    x = torch.randn(4, 5, 2, 3, 9)
    conv_norm(conv, norm, x, act=nn.ReLU()).sum().backward()
    assert conv.weight.grad is None and norm.weight.grad is None
    assert conv.bias.grad is not None and x.grad is None


@expert_kernels
def test_what_is_no_number_stays_so() -> None:
    conv, norm = parts(5, 8)
    x = torch.randn(4, 5, 2, 3, 9)
    x[1, 2, 0, 0, 0] = float('nan')
    assert conv_norm(conv, norm, x, act=nn.ReLU()).isnan().all()


@expert_kernels
def test_pytorch_knows_the_operators() -> None:
    torch.manual_seed(0)
    x, shares, experts = (
        torch.randn(2, 5, 1, 2, 9),
        torch.rand(2, 3),
        torch.rand(3, 8, 5),
    )
    bias, scale, shift = torch.rand(3, 8), torch.rand(8), torch.rand(8)
    y, z = torch.empty(2, 8, 1, 2, 9), torch.empty(2, 8, 1, 2, 9)
    mean, variance = torch.empty(8), torch.empty(8)
    given = x, shares, experts, bias, scale, shift, 1e-5, y, z, mean, variance
    known = torch.ops.torchgeo_ekgnet
    known.direct_experts_norm(*given)
    back = (
        *(z, x, y, shares, experts, experts.transpose(1, 2).contiguous(), bias),
        *(scale, shift, mean, variance, 1e-5, torch.empty_like(x)),
        *(torch.empty_like(t) for t in (shares, experts, bias, scale, shift)),
    )
    for operator, arguments in (
        (known.direct_experts_norm, given),
        (known.direct_experts_norm_grad, back),
    ):
        torch.library.opcheck(
            operator, arguments, test_utils=('test_schema', 'test_faketensor')
        )


@expert_kernels
def test_when_the_parts_are_computed() -> None:
    x = torch.randn(4, 6, 4, 5, 17)

    def taken(
        conv: nn.Module | None = None,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        maps: Tensor = x,
    ) -> bool:
        usual = parts(6, 8)
        given = conv or usual[0], norm or usual[1], act or nn.ReLU()
        return experts_norm_act(*given, maps) is not None

    assert taken()
    assert not taken(act=nn.GELU())
    assert not taken(nn.Conv3d(6, 8, 1))
    assert not taken(norm=nn.BatchNorm3d(8).eval())
    assert not taken(norm=nn.BatchNorm3d(8, affine=False))
    assert not taken(norm=nn.BatchNorm3d(8, track_running_stats=False))
    assert not taken(norm=nn.BatchNorm3d(9))
    assert not taken(DynamicExpertConv3d(6, 8, 1, groups=2))
    assert not taken(DynamicExpertConv3d(6, 8, 3))
    assert not taken(DynamicExpertConv3d(6, 8, 1, padding=1, padding_mode='circular'))
    assert not taken(DynamicExpertConv3d(7, 8, 1))
    assert not taken(maps=x[:1, :, :1, :1, :1])  # no statistics of one value
    assert not taken(maps=x.permute(0, 1, 3, 2, 4))
    assert not taken(maps=x.double())
    heard = nn.BatchNorm3d(8)
    heard.register_forward_hook(lambda *_: None)
    assert not taken(norm=heard)
    with torch.no_grad():
        assert not taken()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert not taken()
    with conv_strategy('pointwise'):
        assert not taken()


@expert_kernels
def test_a_mapping_of_another_shape_is_asked_once() -> None:
    conv, norm = parts(6, 8, experts=2)

    conv.mapping = Known(4, 1)
    with pytest.raises(ValueError, match='attention has shape'):
        conv_norm(conv, norm, torch.randn(4, 6, 4, 5, 17), act=nn.ReLU())
    assert conv.mapping.calls == 1
