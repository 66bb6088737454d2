# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mapping networks by the kernels for a GPU: there, or in Triton's interpreter."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import ContextMapping, trial
from torchgeo_ekgnet.layers.context_mapping import (
    ContextNorm,
    MappingBlock,
    PooledConv3d,
)
from torchgeo_ekgnet.layers.mapped import map_fused
from torchgeo_ekgnet.layers.mapped_cpu import Kinds

from . import mappings
from .marks import DEVICE

pytest.importorskip('triton')

KINDS = Kinds(MappingBlock, ContextNorm, PooledConv3d)


@pytest.fixture(autouse=True)
def tried(fresh_trials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the kernels wherever they are tried."""
    monkeypatch.setattr(
        trial,
        '_times',
        lambda ways, good: {way: float(way != 'triton') for way in good},
    )


def make_mapping(channels: int, blocks: int = 2, temperature: float = 3.0) -> Any:
    mapping = mappings.make_mapping(
        channels, num_blocks=blocks, temperature=temperature
    )
    return mapping.to(DEVICE)


def run(mapping: Any, g: Tensor, seen: Tensor) -> list[Tensor]:
    image = g.to(mapping.raw_temperature.dtype).requires_grad_()
    weights = mapping(image[:, :, None, None, None])
    gradients = torch.autograd.grad(
        weights, (image, *mapping.parameters()), seen.to(weights.dtype)
    )
    return [weights.detach(), *gradients]


@pytest.mark.parametrize(
    ('samples', 'channels', 'blocks', 'temperature'), [(5, 21, 2, 3.0), (2, 3, 0, 34.0)]
)
def test_values_gradients_and_statistics_are_exact(
    samples: int, channels: int, blocks: int, temperature: float
) -> None:
    mapping = make_mapping(channels, blocks, temperature)
    exact = copy.deepcopy(mapping).double()
    for _ in range(2):
        g = torch.randn(samples, channels, device=DEVICE) + 3
        seen = torch.randn(samples, 3, device=DEVICE)
        for found, expected in zip(
            run(mapping, g, seen), run(exact, g, seen), strict=True
        ):
            torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert list(trial.choices().values()) == ['triton'] and not trial._broken
    for name, value in exact.named_buffers():
        torch.testing.assert_close(
            mapping.get_buffer(name).to(value.dtype), value, rtol=1e-4, atol=1e-4
        )


def test_second_derivatives() -> None:
    mapping = make_mapping(5)
    exact = copy.deepcopy(mapping).double()
    g = torch.randn(4, 5, device=DEVICE)
    found = []
    for network in (mapping, exact):
        image = g.to(network.raw_temperature.dtype).requires_grad_()
        weights = network(image[:, :, None, None, None])
        (first,) = torch.autograd.grad(weights.pow(3).sum(), image, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), image)[0].double())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    'why',
    [
        'evaluation',
        'one sample',
        'frozen alpha',
        'hook',
        'two units',
        'float64',
        'synchronized',
        'another end',
        'no statistics',
    ],
)
def test_others_are_pytorchs(why: str) -> None:
    options: dict[str, dict[str, Any]] = {
        'frozen alpha': {'learnable_residual': False},
        'two units': {'units_per_block': 2},
        'float64': {'dtype': torch.float64},
    }
    mapping = ContextMapping(4, **options.get(why, {})).to(DEVICE)
    if why == 'evaluation':
        mapping.eval()
    if why == 'hook':
        mapping.norm.register_forward_hook(lambda *args: None)
    if why == 'synchronized':
        mapping = nn.SyncBatchNorm.convert_sync_batchnorm(mapping)
    if why == 'another end':
        mapping.norm, mapping.project = nn.Identity(), nn.Linear(4, 4).to(DEVICE)  # type: ignore[assignment]
    if why == 'no statistics':
        mapping.norm.track_running_stats = False
    g = torch.randn(1 if why == 'one sample' else 3, 4, device=DEVICE)
    assert map_fused(mapping, g.to(mapping.raw_temperature.dtype), KINDS) is None


def test_kernels_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = make_mapping(5)
    plain, g = copy.deepcopy(mapping), torch.randn(4, 5, device=DEVICE)
    seen, kernels = torch.randn(4, 3, device=DEVICE), trial.kernels()
    map_fused(mapping, g, KINDS)

    def fail(*args: Any) -> Any:
        raise RuntimeError('out of resources')

    monkeypatch.setattr(kernels, 'shares_gradient', fail)
    found = run(mapping, g, seen)
    monkeypatch.setattr(trial, 'DEVICES', ())
    for ours, theirs in zip(found, run(plain, g, seen), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(trial, 'DEVICES', (DEVICE,))
    assert map_fused(mapping, g, KINDS) is None
