# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The kernels of our own for CPUs, against PyTorch's in float64."""

import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from torchgeo_ekgnet.layers import (
    DynamicExpertConv3d,
    GroupedConv3d,
    conv_strategy,
    direct,
    expert_conv3d,
    grouped_conv3d,
)
from torchgeo_ekgnet.layers.geometry import geometry_of

from .marks import kernels

ONES = (1, 1, 1)


def test_they_are_there_where_they_can_be() -> None:
    """They are optional: nothing else tells of a compiler's error."""
    where = platform.system(), platform.machine()
    vectors = torch.backends.cpu.get_cpu_capability().startswith('AVX')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    compiler = shutil.which('gcc') is not None and header.exists()
    if where != ('Linux', 'x86_64') or not vectors or not compiler:
        pytest.skip('no processor or compiler for them')
    assert direct.kernels() is not None


def part(*size: int) -> Tensor:
    """Maps that are some channels of larger ones, at an address that vectors dislike."""
    whole = torch.randn(size[0], size[1] + 3, *size[2:])
    return whole[:, 2:-1]


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    expected = expected.detach()
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * scale)


SIZES = [
    (8, 8, 20),  # rows of whole and broken vectors, pairs of rows
    (3, 5, 9),  # an odd number of rows
    (1, 1, 13),
    (2, 1, 1),
    (1, 4, 50),  # three tiles of vectors
]


@kernels
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize(
    ('cin', 'cout', 'groups'),
    [(8, 2, 4), (2, 8, 4), (4, 4, 2), (3, 6, 1), (5, 1, 3), (1, 3, 2)],
)
def test_convolutions_are_exact(
    size: tuple[int, int, int], cin: int, cout: int, groups: int
) -> None:
    torch.manual_seed(0)
    x = part(3, cin * groups, *size).requires_grad_()
    weight = torch.randn(cout * groups, cin, 3, 3, 3, requires_grad=True)
    bias = torch.randn(cout * groups, requires_grad=True)
    inputs = x, weight, bias
    exact = tuple(t.detach().double().requires_grad_() for t in inputs)
    expected = F.conv3d(exact[0], exact[1], exact[2], 1, 1, 1, groups)
    found = grouped_conv3d(*inputs, 1, 1, 1, groups, strategy='direct')
    close(found, expected)
    seen = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad(found, inputs, seen),
        torch.autograd.grad(expected, exact, seen.double()),
        strict=True,
    ):
        close(one, other)


@kernels
def test_output_is_written_where_it_is_wanted() -> None:
    x, weight = torch.randn(5, 32, 4, 4, 20), torch.randn(8, 8, 3, 3, 3)
    expected = F.conv3d(x.double(), weight.double(), None, 1, 1, 1, 4)
    for turned in (False, True):
        buffer = torch.zeros(5, 12, 4, 4, 20)
        if turned:  # no sample of it is contiguous
            buffer = buffer.movedim(1, -1).contiguous().movedim(-1, 1)
        with torch.no_grad():
            found = grouped_conv3d(
                x, weight, None, 1, 1, 1, 4, strategy='direct', out=buffer[:, 2:10]
            )
        assert found.data_ptr() == buffer[:, 2:10].data_ptr()
        close(buffer[:, 2:10], expected)
        assert not buffer[:, :2].any() and not buffer[:, 10:].any()


@kernels
def test_threads_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 8, 4, 4, 20), torch.randn(4, 4, 3, 3, 3)
    shares, experts = torch.rand(5, 3), torch.randn(3, 6, 8)
    grad, made = torch.randn(5, 4, 4, 4, 20), torch.randn(5, 6, 4, 4, 20)

    def results(threads: int) -> list[Any]:
        monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
        wanted = True, True, True, True
        return [
            direct.direct_conv3d(x, weight, None, 2),
            direct.direct_products(x, shares, experts),
            *direct.direct_gradients(grad, x, weight, 2, wanted),
            *direct.direct_product_gradients(made, x, shares, experts, wanted),
        ]

    one = results(1)
    for threads in (2, 3, 8):
        torch.testing.assert_close(results(threads), one, rtol=1e-4, atol=1e-4)
        assert all(map(torch.equal, results(threads), results(threads)))


@kernels
def test_derivatives_of_derivatives() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3, 3, 9, requires_grad=True)
    weight = torch.randn(4, 4, 3, 3, 3, requires_grad=True)

    def second(strategy: str) -> tuple[Tensor, ...]:
        y = grouped_conv3d(x, weight, None, 1, 1, 1, 2, strategy=strategy)
        first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        total = first[0].square().sum() + first[1].square().sum()
        return torch.autograd.grad(total, (x, weight))

    torch.testing.assert_close(second('direct'), second('grouped'), rtol=1e-3, atol=10)
    y = grouped_conv3d(x, weight, None, 1, 1, 1, 2, strategy='direct')
    many = torch.randn(3, *y.shape)
    batched = torch.autograd.grad(y, (x, weight), many, is_grads_batched=True)
    y = grouped_conv3d(x, weight, None, 1, 1, 1, 2, strategy='direct')
    for at, seen in enumerate(many):
        single = torch.autograd.grad(y, (x, weight), seen, retain_graph=True)
        for one, other in zip(single, batched, strict=True):
            torch.testing.assert_close(one, other[at], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    'options',
    [{'stride': 2}, {'padding': 0}, {'dilation': 2}, {'padding': (1, 1, 0)}],
    ids=str,
)
def test_other_geometries_take_the_plain_form(options: dict[str, Any]) -> None:
    x, weight = torch.randn(2, 8, 6, 6, 6), torch.randn(4, 4, 3, 3, 3)
    geometry = {'stride': 1, 'padding': 1, 'dilation': 1, 'groups': 2, **options}
    expected = F.conv3d(x, weight, **geometry)
    found = grouped_conv3d(x, weight, **geometry, strategy='direct')
    torch.testing.assert_close(found, expected)
    # As do other types, and maps without positions.
    double = grouped_conv3d(x.double(), weight.double(), **geometry, strategy='direct')
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-4)
    none = grouped_conv3d(x[:0], weight, **geometry, strategy='direct')
    assert none.shape == (0, *expected.shape[1:])


@kernels
@pytest.mark.parametrize(
    'size', [(1, 1, 13), (1, 1, 32), (3, 5, 9), (8, 8, 100), (1, 1, 1)], ids=str
)
@pytest.mark.parametrize(('cin', 'cout'), [(16, 32), (40, 4), (7, 9), (1, 1), (25, 6)])
@pytest.mark.parametrize('batch', [1, 5])
def test_experts_are_exact(
    size: tuple[int, int, int], cin: int, cout: int, batch: int
) -> None:
    torch.manual_seed(0)
    x, shares = part(batch, cin, *size), torch.rand(batch, 3)
    weight, bias = torch.randn(3, cout, cin), torch.randn(batch, cout)
    mixed = torch.einsum('bk,koc->boc', shares.double(), weight.double())
    expected = torch.einsum('boc,bcdhw->bodhw', mixed, x.double())
    shifted = expected + bias[..., None, None, None]
    close(direct.direct_products(x, shares, weight), expected)
    close(direct.direct_products(x, shares, weight, bias), shifted)
    found = direct.direct_products(x, shares, weight, bias, relu=True)
    close(found, shifted.relu())
    grad = part(batch, cout, *size)
    gx, ga, gs, gb = direct.direct_product_gradients(
        grad, x, shares, weight, (True, True, True, True)
    )
    assert gx is not None and ga is not None and gs is not None and gb is not None
    kernels = torch.einsum('bodhw,bcdhw->boc', grad.double(), x.double())
    close(gx, torch.einsum('boc,bodhw->bcdhw', mixed, grad.double()))
    close(ga, torch.einsum('boc,koc->bk', kernels, weight.double()))
    close(gs, torch.einsum('boc,bk->koc', kernels, shares.double()))
    close(gb, grad.double().sum((2, 3, 4)))
    nothing = direct.direct_product_gradients(grad, x, shares, weight, [False] * 4)
    assert nothing == (None, None, None, None)


@kernels
def test_what_is_no_number_stays_so() -> None:
    x, shares = torch.ones(2, 4, 1, 1, 9), torch.ones(2, 1)
    x[0, 1, 0, 0, 3] = float('nan')
    x[1, 1, 0, 0, 8] = float('inf')
    found = direct.direct_products(x, shares, torch.ones(1, 4, 4), relu=True)
    assert found[0, :, 0, 0].isnan().sum(1).tolist() == [1] * 4
    assert found[1, :, 0, 0, 8].isinf().all() and found[1].isfinite().sum() == 32


@kernels
@pytest.mark.parametrize('batch', [1, 3])
def test_expert_layers_of_any_kernel(batch: int) -> None:
    """The batch as groups: as many groups as there are samples, times their own."""
    torch.manual_seed(0)
    layer = DynamicExpertConv3d(8, 4, 3, padding=1, groups=2, num_experts=2)
    x, shares = torch.randn(batch, 8, 4, 4, 20), torch.rand(batch, 2)
    assert layer.bias is not None
    given = x, shares, layer.weight, layer.bias, 1, 1, 1, 2
    expected = expert_conv3d(*given, strategy='grouped')
    found = expert_conv3d(*given, strategy='direct')
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@kernels
def test_pytorch_knows_the_operators() -> None:
    x, weight = torch.randn(2, 8, 3, 4, 5), torch.randn(4, 4, 3, 3, 3)
    shares, experts = torch.rand(2, 3), torch.randn(3, 6, 8)
    out, made = torch.empty(2, 4, 3, 4, 5), torch.empty(2, 6, 3, 4, 5)
    known = torch.ops.torchgeo_ekgnet
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (known.direct_convolve, (x, weight, None, 2, out)),
        (known.direct_convolve_grad, (x, out, 2, torch.empty_like(weight))),
        (known.direct_experts, (x, shares, experts, None, True, made)),
        (
            known.direct_experts_grad,
            (x, made, shares, experts, torch.empty(2, 3), torch.empty(3, 6, 8)),
        ),
    ]
    for operator, arguments in calls:
        torch.library.opcheck(
            operator, arguments, test_utils=('test_schema', 'test_faketensor')
        )


@kernels
def test_arithmetic_is_counted() -> None:
    x, weight = torch.randn(2, 8, 2, 1, 9), torch.randn(4, 4, 3, 3, 3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        grouped_conv3d(x, weight, None, 1, 1, 1, 2, strategy='direct')
    # Taps inside: 4 of 2 rows, 1 of one column, 25 of 9 bands.
    assert counter.get_total_flops() == 2 * 2 * 4 * 4 * 4 * 1 * 25
    with FlopCounterMode(display=False) as counter:
        direct.direct_products(x, torch.rand(2, 3), torch.randn(3, 6, 8))
    assert counter.get_total_flops() == 2 * 2 * 6 * 8 * (18 + 3)


@kernels
def test_tensors_without_values() -> None:
    layer = GroupedConv3d(32, 8, 3, padding=1, groups=4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 32, 4, 4, 20)
        assert layer(x).shape == (2, 8, 4, 4, 20)
        with conv_strategy('direct'), torch.no_grad():
            assert layer(x).shape == (2, 8, 4, 4, 20)


@kernels
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_types_are_refused_as_by_pytorch(dtype: torch.dtype) -> None:
    """The kernels would read the memory behind them."""
    x = torch.randn(2, 8, 4, 4, 20)
    for strategy in (None, 'direct'):
        layer = GroupedConv3d(8, 4, 3, padding=1, groups=2)
        layer.weight.data = layer.weight.data.to(dtype)
        with pytest.raises(RuntimeError, match=r'dtype|type'), conv_strategy(strategy):
            layer(x)
        layer = GroupedConv3d(8, 4, 3, padding=1, groups=2)
        layer.bias = nn.Parameter(torch.randn(4).to(dtype))
        with pytest.raises(RuntimeError, match=r'dtype|type'), conv_strategy(strategy):
            layer(x)
    shares, experts = torch.rand(2, 3), torch.randn(3, 6, 8, 1, 1, 1)
    for given in ((shares.to(dtype), experts), (shares, experts.to(dtype))):
        with pytest.raises(RuntimeError, match=r'dtype|type'):
            expert_conv3d(x, *given)


@kernels
def test_shapes_are_refused_as_by_pytorch() -> None:
    x, weight = torch.randn(2, 8, 4, 4, 20), torch.randn(4, 4, 3, 3, 3)
    with pytest.raises(RuntimeError, match='bias'):
        grouped_conv3d(x, weight, torch.randn(3), 1, 1, 1, 2, strategy='direct')
    with pytest.raises(RuntimeError, match='group'):
        grouped_conv3d(x, weight[:3], None, 1, 1, 1, 2, strategy='direct')
    with pytest.raises(RuntimeError, match=r'size|shape'):
        grouped_conv3d(
            x,
            weight,
            None,
            1,
            1,
            1,
            2,
            strategy='direct',
            out=torch.empty(2, 3, 4, 4, 20),
        )


@kernels
def test_large_maps_are_left_to_pytorch() -> None:
    weight = torch.empty(8, 8, 3, 3, 3)
    geometry = geometry_of(weight, 1, 1, 1, 4)
    assert direct.can_convolve((2, 32, 8, 8, 100), weight.shape, geometry)
    assert not direct.can_convolve((2, 32, 200, 200, 100), weight.shape, geometry)
    assert not direct.can_convolve((2, 32, 8, 8, 100), weight.shape, geometry_of(
        weight, 2, 1, 1, 4
    ))  # fmt: skip


CHECK = """
from torchgeo_ekgnet.layers import direct, grouped_conv3d
import torch
assert direct.kernels() is None
x, weight = torch.randn(2, 32, 4, 4, 20), torch.randn(8, 8, 3, 3, 3)
for strategy in (None, 'direct'):
    found = grouped_conv3d(x, weight, None, 1, 1, 1, 4, strategy=strategy)
    expected = torch.nn.functional.conv3d(x, weight, None, 1, 1, 1, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
"""


def test_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCHGEO_EKGNET_DIRECT', '0')
    direct.kernels.cache_clear()
    try:
        exec(CHECK, {})  # noqa: S102
    finally:
        direct.kernels.cache_clear()


def test_on_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ATEN_CPU_CAPABILITY', 'default')
    subprocess.run([sys.executable, '-c', CHECK], check=True)


FEWER = """
from torchgeo_ekgnet.layers import DynamicExpertConv3d, direct
from torchgeo_ekgnet.layers.norm import conv_norm
import torch

assert direct.kernels() is not None

def gradients(threads):
    torch.get_num_threads = lambda: threads
    y = conv_norm(conv, norm, x, act=torch.nn.ReLU())
    return torch.autograd.grad(y.square().sum(), [x, conv.weight, conv.bias])

for channels in (40, 200):  # threads part samples, panels of channels
    conv, norm = DynamicExpertConv3d(channels, 8, 1), torch.nn.BatchNorm3d(8)
    x = torch.randn(9, channels, 1, 1, 13, requires_grad=True)
    torch.testing.assert_close(gradients(4), gradients(1), rtol=1e-4, atol=1e-4)
"""


@kernels
def test_openmp_may_give_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('OMP_THREAD_LIMIT', '2')
    subprocess.run([sys.executable, '-c', FEWER], check=True)
