# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Choices among ways of a GPU, where programs use layers in ways of their own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchgeo_ekgnet.layers import (
    DynamicExpertConv3d,
    GroupedConv3d,
    conv_strategy,
    trial,
)
from torchgeo_ekgnet.layers.norm import normalize

from . import mappings
from .marks import DEVICE

pytest.importorskip('triton')
pytestmark = pytest.mark.usefixtures('fresh_trials')


def prefer(monkeypatch: pytest.MonkeyPatch, taken: str) -> None:
    """Let a way take the least time."""
    monkeypatch.setattr(
        trial, '_times', lambda ways, good: {way: float(way != taken) for way in good}
    )


@pytest.mark.parametrize('other', ['groups', 'padding'])
def test_choices_hold_for_one_geometry(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ways that one geometry has are unknown to another with kernels of its shape."""
    first = GroupedConv3d(1, 8, 3, padding=1).to(DEVICE)
    second = {
        'groups': GroupedConv3d(2, 8, 3, padding=1, groups=2),
        'padding': GroupedConv3d(1, 8, 3),
    }[other].to(DEVICE)
    prefer(monkeypatch, 'columns' if other == 'groups' else 'triton')
    first(torch.randn(2, 1, 4, 3, 5, device=DEVICE))
    x = torch.randn(2, second.in_channels, 4, 3, 5, device=DEVICE)
    found = second(x)
    torch.testing.assert_close(
        found, second._conv_forward(x, second.weight, second.bias)
    )


def test_drawn_values_lie_in_memory_as_the_maps_do() -> None:
    x = torch.empty(2, 3, 4, 5, 5, dtype=torch.bfloat16, device=DEVICE)
    x, state = x.to(memory_format=torch.channels_last_3d), torch.get_rng_state()
    values = trial.drawn(x)
    assert (values.dtype, values.stride()) == (x.dtype, x.stride())
    assert values.equal(trial.drawn(x)) and 0.8 < values.float().std() < 1.2
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize('part', ['norm', 'mapping'])
def test_batches_whose_samples_are_alike(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What normalizations leave of them is rounding, which says nothing of a way."""
    prefer(monkeypatch, 'triton')
    x = torch.randn(1, 3, 1, 1, 1, device=DEVICE)
    if part == 'norm':
        norm = nn.BatchNorm3d(3).to(DEVICE)
        normalize(norm, x.expand(5, 3, 2, 3, 3).contiguous(), nn.ReLU())
    else:
        mappings.make_mapping(3).to(DEVICE)(x.expand(5, -1, -1, -1, -1))
    assert list(trial.choices().values()) == ['triton'] and not trial._doubted


def test_experts_in_float64() -> None:
    conv = DynamicExpertConv3d(3, 5, 1, dtype=torch.float64).to(DEVICE)
    x = torch.randn(2, 3, 2, 3, 2, dtype=torch.float64, device=DEVICE)
    with conv_strategy('grouped'):
        expected = conv.eval()(x)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize('known', [False, True])
def test_checkpoints(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint recomputes saves as many tensors, whatever was tried before.

    It stops behind the last of them by an error, which is no failure of a kernel.
    """
    prefer(monkeypatch, 'triton')
    torch.manual_seed(0)
    norm = nn.BatchNorm3d(4).to(DEVICE)
    mapping = mappings.make_mapping(4).to(DEVICE)
    plain = copy.deepcopy((norm, mapping))
    x = torch.randn(3, 4, 2, 3, 2, device=DEVICE, requires_grad=True)

    def run(norm: nn.Module, mapping: nn.Module, kept: bool) -> list[Tensor]:
        def relu(x: Tensor) -> Tensor:
            return normalize(norm, x, nn.ReLU())

        parts = [
            checkpoint(part, x, use_reentrant=False) if kept else part(x)
            for part in (relu, mapping)
        ]
        parameters = *norm.parameters(), *mapping.parameters()
        loss = parts[0].square().mean() + parts[1].square().mean()
        return [loss, *torch.autograd.grad(loss, (x, *parameters))]

    if known:
        run(*copy.deepcopy(plain), False)
    found = run(norm, mapping, True)
    assert set(trial.choices().values()) == {'triton'} and not trial._broken
    monkeypatch.setattr(trial, 'DEVICES', ())
    for ours, theirs in zip(found, run(*plain, False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_tensors_of_inference_mode_in_training() -> None:
    with torch.inference_mode():
        x = torch.randn(3, 4, 2, 3, 2, device=DEVICE)
    norm = nn.BatchNorm3d(4).to(DEVICE)
    with torch.no_grad():
        found = normalize(norm, x)
    torch.testing.assert_close(found, nn.BatchNorm3d(4).to(DEVICE)(x.clone()))


@pytest.mark.parametrize(
    'buffers', [('running_mean', 'running_var'), ('num_batches_tracked',)]
)
@pytest.mark.parametrize('devices', [(), (DEVICE,)])
def test_statistics_that_were_taken_away(
    buffers: tuple[str, ...], devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A usual way to normalize by each batch, in evaluation as well."""
    monkeypatch.setattr(trial, 'DEVICES', devices)
    norm = nn.BatchNorm3d(4).to(DEVICE)
    for name in buffers:
        setattr(norm, name, None)
    x = torch.randn(3, 4, 2, 3, 2, device=DEVICE)
    torch.testing.assert_close(normalize(norm, x), copy.deepcopy(norm)(x))
    assert not trial._broken


def test_too_small_a_memory_says_nothing_of_a_way() -> None:
    x = torch.ones(2, device=DEVICE)
    full = [True]

    def ours() -> Tensor:
        if full:
            raise torch.OutOfMemoryError('full')
        return x * 2

    ways = {'plain': lambda: x + x, 'triton': ours}
    for key in ('large', 'small'):
        found = trial.run('doubling', key, ways, 0.0, 'triton')
        assert found.tolist() == [2.0, 2.0]
        full.clear()
    assert list(trial.choices()) == ['doubling large', 'doubling small']
    assert trial.choices()['doubling large'] == 'plain' and not trial._broken
    # A way that was taken before, and finds no memory once.
    trial._chosen['doubling', 'small'] = 'triton'
    full.append(True)
    assert trial.run('doubling', 'small', ways, 0.0).tolist() == [2.0, 2.0]
    assert trial.choices()['doubling small'] == 'triton'
