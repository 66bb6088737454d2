# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The engine for thin groups is exact."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from torchgeo_ekgnet.layers import grouped_conv3d, unrolled
from torchgeo_ekgnet.layers.geometry import geometry_of

GEOMETRIES: list[dict[str, Any]] = [
    {'padding': 1},
    {'padding': (2, 1, 0), 'stride': (1, 2, 1)},
    {'padding': 1, 'dilation': (1, 2, 1)},
    {'stride': 2},
]


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
@pytest.mark.parametrize('size', [(5, 4, 4), (18, 3, 5), (40, 6, 6)], ids=str)
@pytest.mark.parametrize(('cin', 'cout'), [(8, 4), (2, 6)])
@pytest.mark.parametrize(('samples', 'pieces'), [(3, 1), (3, 3), (1, 2)])
def test_every_unrolling_is_exact(
    geometry: dict[str, Any],
    size: tuple[int, int, int],
    cin: int,
    cout: int,
    samples: int,
    pieces: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    if pieces > 1:  # as many as there are samples, or groups of one sample
        monkeypatch.setattr(unrolled, '_PIECE', 1)
    double = {'dtype': torch.float64, 'requires_grad': True}
    x = torch.randn(samples, cin, *size, **double)  # type: ignore[call-overload]
    weight = torch.randn(cout, cin // 2, 3, 2, 3, **double)  # type: ignore[call-overload]
    bias = torch.randn(cout, **double)  # type: ignore[call-overload]
    inputs = (x, weight, bias)
    expected = F.conv3d(x, weight, bias, groups=2, **geometry)
    seen = torch.randn_like(expected)
    reference = torch.autograd.grad(expected, inputs, seen)
    full = geometry_of(
        weight,
        geometry.get('stride', 1),
        geometry.get('padding', 0),
        geometry.get('dilation', 1),
        2,
    )
    found = unrolled.candidates(size, full, cin // 2, cout // 2)
    assert found
    for unrolling in found:
        assert len(unrolled.pieces_of(x, weight, unrolling)) == pieces
        y = unrolled.UnrolledConv.apply(x, weight, bias, unrolling)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
        for second in (False, True):
            grads = torch.autograd.grad(
                y, inputs, seen, retain_graph=True, create_graph=second
            )
            for one, other in zip(grads, reference, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize('batch', [1, 5])
def test_output_is_written_where_it_is_wanted(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unrolled, '_PIECE', 1 << 16)
    x, weight = torch.randn(batch, 32, 8, 20, 8), torch.randn(8, 8, 3, 3, 3)
    expected = F.conv3d(x, weight, None, 1, 1, 1, 4)
    with torch.no_grad():
        for strategy in ('unrolled', 'grouped', None):
            buffer = torch.zeros(batch, 12, 8, 20, 8)
            place = buffer[:, 2:10]
            found = grouped_conv3d(
                x, weight, None, 1, 1, 1, 4, strategy=strategy, out=place
            )
            assert found.data_ptr() == place.data_ptr()
            torch.testing.assert_close(place, expected, rtol=1e-4, atol=1e-4)
            assert not buffer[:, :2].any() and not buffer[:, 10:].any()


def test_gathered_kernel_is_the_composed_one() -> None:
    for size, kernel in (((8, 20, 8), (3, 3, 3)), ((20, 4, 4), (3, 3, 3))):
        weight = torch.randn(8, 8, *kernel)
        geometry = geometry_of(weight, 1, 1, 1, 4)
        for way in unrolled.candidates(size, geometry, 8, 2):
            with FakeTensorMode(allow_non_fake_inputs=True):  # nothing of it stays
                unrolled._place_kernel(torch.empty_like(weight), way)
            for context in (torch.inference_mode(), torch.device('meta')):
                unrolled._places.cache_clear()
                with context:
                    found = unrolled._place_kernel(weight, way)
                assert found.equal(unrolled._unroll_kernel(weight, way))
