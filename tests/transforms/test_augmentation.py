# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_ekgnet.transforms import RandomOrientation, SpectralJitter, orient

CPU = torch.device('cpu')


def test_orientations_are_the_eight_of_a_square() -> None:
    patch = torch.arange(9.0).reshape(3, 3)
    oriented = [orient(patch, k) for k in range(8)]
    assert len({tuple(p.flatten().tolist()) for p in oriented}) == 8
    assert all(p[1, 1] == 4 for p in oriented)
    assert torch.equal(oriented[1], torch.rot90(patch))
    assert torch.equal(oriented[4], patch.flip(1))
    assert torch.equal(oriented[6], patch.flip(0))
    assert torch.equal(oriented[2], patch.flip(0, 1))


@pytest.mark.parametrize(
    ('flips', 'turns', 'expected'),
    [
        (False, False, set()),
        (True, False, {0, 2, 4, 6}),
        (False, True, {0, 1, 2, 3}),
        (True, True, set(range(8))),
    ],
)
def test_drawn(flips: bool, turns: bool, expected: set[int]) -> None:
    draw = RandomOrientation(flips, turns)
    assert draw.active == bool(expected)
    torch.manual_seed(0)
    drawn = draw(400, CPU)
    assert (set() if drawn is None else set(drawn.tolist())) == expected
    if drawn is not None:
        share = drawn.bincount().max() / 400
        assert share < 1.6 / len(expected)
        torch.manual_seed(0)
        again = draw(400, CPU)
        assert again is not None and torch.equal(drawn, again)


def test_jitter_of_nothing_changes_nothing() -> None:
    batch = {'image': torch.randn(2, 3, 5, 5), 'label': torch.tensor([0, 1])}
    after = SpectralJitter()(batch)
    assert torch.equal(after['image'], batch['image'])
    assert after['label'] is batch['label']


def test_gain_is_one_factor_per_band() -> None:
    torch.manual_seed(0)
    image = torch.rand(4, 6, 5, 5) + 1
    after = SpectralJitter(gain=0.1)({'image': image})['image']
    factor = after / image
    assert torch.allclose(factor, factor[:, :, :1, :1].expand_as(factor), atol=1e-6)
    assert factor[:, :, 0, 0].unique().numel() == 24


def test_offset_is_one_value_per_patch() -> None:
    torch.manual_seed(0)
    image = torch.zeros(4, 6, 5, 5)
    after = SpectralJitter(offset=0.5)({'image': image})['image']
    assert torch.equal(after, after[:, :1, :1, :1].expand_as(after))
    assert after[:, 0, 0, 0].unique().numel() == 4


def test_noise_has_the_wanted_spread() -> None:
    torch.manual_seed(0)
    batch = {'image': torch.zeros(8, 16, 11, 11)}
    after = SpectralJitter(noise=0.2)(batch)['image']
    assert float(after.std()) == pytest.approx(0.2, rel=0.05)
    assert not batch['image'].any()


@pytest.mark.parametrize('name', ['gain', 'offset', 'noise'])
def test_negative(name: str) -> None:
    with pytest.raises(ValueError, match=f'spectral {name} is -1'):
        SpectralJitter(**{name: -1.0})
    assert f'{name}=0.5' in repr(SpectralJitter(**{name: 0.5}))
