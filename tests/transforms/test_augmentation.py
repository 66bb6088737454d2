# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import math
from typing import Any

import numpy as np
import pytest
import torch

from torchgeo_ekgnet.transforms import PatchAugmentation, orient

CPU = torch.device('cpu')
DEVIATIONS = ['gain', 'band_gain', 'offset', 'smooth_offset', 'noise']


def make(**options: Any) -> PatchAugmentation:
    return PatchAugmentation(**options)


def test_orientations_are_the_eight_of_a_square() -> None:
    patch = torch.arange(9.0).reshape(3, 3)
    oriented = [orient(patch, k) for k in range(8)]
    assert len({tuple(p.flatten().tolist()) for p in oriented}) == 8
    assert all(p[1, 1] == 4 for p in oriented)
    assert torch.equal(oriented[1], torch.rot90(patch))
    assert torch.equal(oriented[4], patch.flip(1))
    assert torch.equal(oriented[6], patch.flip(0))
    assert torch.equal(oriented[2], patch.flip(0, 1))


@pytest.mark.parametrize('orientation', range(8))
def test_a_batch_is_oriented_patch_by_patch(orientation: int) -> None:
    patches = torch.arange(54.0).reshape(2, 3, 3, 3)
    oriented = orient(patches, orientation)
    for place in np.ndindex(2, 3):
        assert torch.equal(oriented[place], orient(patches[place], orientation))


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
    augmentation = PatchAugmentation(flips, turns)
    torch.manual_seed(0)
    drawn = augmentation.draw_orientations(400, CPU)
    assert (set() if drawn is None else set(drawn.tolist())) == expected
    if drawn is not None:
        share = drawn.bincount().max() / 400
        assert share < 1.6 / len(expected)
        torch.manual_seed(0)
        again = augmentation.draw_orientations(400, CPU)
        assert again is not None and torch.equal(drawn, again)


def test_nothing_changes_nothing_and_draws_nothing() -> None:
    batch = {'image': torch.randn(2, 3, 5, 5), 'label': torch.tensor([0, 1])}
    before = torch.get_rng_state()
    augmentation = PatchAugmentation()
    after = augmentation(batch)
    assert augmentation.draw_orientations(2, CPU) is None
    assert torch.equal(after['image'], batch['image'])
    assert after['label'] is batch['label']
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(('name', 'each'), [('gain', 1), ('band_gain', 6)])
def test_gain_is_one_factor_per_patch_or_band(name: str, each: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(4, 6, 5, 5) + 1
    after = make(**{name: 0.1})({'image': image})['image']
    factor = after / image
    assert torch.allclose(factor, factor[:, :, :1, :1].expand_as(factor), atol=1e-6)
    per_patch = factor[:, :, 0, 0].round(decimals=4)
    assert [row.unique().numel() for row in per_patch] == [each] * 4
    assert len({tuple(row.tolist()) for row in per_patch}) == 4


def test_offset_is_one_value_per_patch() -> None:
    torch.manual_seed(0)
    image = torch.zeros(4, 6, 5, 5)
    after = PatchAugmentation(offset=0.5)({'image': image})['image']
    assert torch.equal(after, after[:, :1, :1, :1].expand_as(after))
    assert after[:, 0, 0, 0].unique().numel() == 4


@pytest.mark.parametrize('bands', [1, 5, 200])
def test_smooth_offset_is_a_curve_over_the_bands(bands: int) -> None:
    torch.manual_seed(0)
    image = torch.zeros(3000, bands, 3, 3)
    after = PatchAugmentation(smooth_offset=0.5)({'image': image})['image']
    curves = after[:, :, 0, 0]
    assert torch.equal(after, curves[:, :, None, None].expand_as(after))
    assert not torch.equal(curves[0], curves[1])
    if bands == 200:
        assert float(curves.std()) == pytest.approx(0.5, rel=0.05)
        # Neighbours differ little, distant bands as if they were independent.
        assert float(curves.diff(dim=1).std()) < 0.05
        distant = torch.corrcoef(torch.stack([curves[:, 10], curves[:, 110]]))[0, 1]
        assert abs(float(distant)) < 0.4


def test_noise_has_the_wanted_spread() -> None:
    torch.manual_seed(0)
    batch = {'image': torch.zeros(8, 16, 11, 11)}
    after = PatchAugmentation(noise=0.2)(batch)['image']
    assert float(after.std()) == pytest.approx(0.2, rel=0.05)
    assert not batch['image'].any()


def test_the_formula() -> None:
    """All changes of the spectra, with the draws of the same seed, in their order."""
    image = torch.rand(4, 3, 5, 5, dtype=torch.float64) + 1
    options = dict(zip(DEVIATIONS, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    torch.manual_seed(0)
    after = make(**options)({'image': image})['image']
    torch.manual_seed(0)
    shapes = [(4, 1, 1, 1), (4, 3, 1, 1), (4, 1, 1, 1), (4, 6), image.shape]
    patch, band, offset, weights, noise = (
        torch.empty(shape, dtype=torch.float64).normal_() for shape in shapes
    )
    # Six cosines of the cosine transform, which is orthonormal, over three bands.
    places = (torch.arange(3, dtype=torch.float64) + 0.5) * math.pi / 3
    curve = torch.zeros(4, 3, dtype=torch.float64)
    for order in range(6):
        size = math.sqrt((2 if order else 1) / 6)
        curve += size * weights[:, order, None] * torch.cos(order * places)
    expected = image * (1 + 0.1 * patch) * (1 + 0.2 * band) + 0.3 * offset
    expected += 0.4 * curve[:, :, None, None] + 0.5 * noise
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', DEVIATIONS)
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_values_keep_their_type(name: str, dtype: torch.dtype) -> None:
    image = torch.ones(2, 3, 5, 5, dtype=dtype)
    after = make(**{name: 0.1})({'image': image})['image']
    assert after.dtype == dtype and not torch.equal(after, image)


@pytest.mark.parametrize('name', DEVIATIONS)
@pytest.mark.parametrize('value', [-1.0, math.nan, math.inf])
def test_no_standard_deviation(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f'{name} is {value}, expected a finite'):
        make(**{name: value})
    assert f'{name}=0.5' in repr(make(**{name: 0.5}))


@pytest.mark.parametrize('size', [1, 2, 3, 5])
def test_a_crop_is_a_part_of_its_patch(size: int) -> None:
    torch.manual_seed(0)
    patches = torch.arange(40.0 * 3 * 25).reshape(40, 3, 5, 5)
    parts = make(crop=size)({'image': patches})['image']
    assert parts.shape == (40, 3, size, size)
    corners = set()
    for patch, part in zip(patches, parts, strict=True):
        row, col = (patch[0] == part[0, 0, 0]).nonzero()[0].tolist()
        assert torch.equal(part, patch[:, row : row + size, col : col + size])
        corners.add((row, col))
    assert corners <= {(r, c) for r in range(6 - size) for c in range(6 - size)}
    assert len(corners) > (6 - size) ** 2 / 2


@pytest.mark.parametrize(('size', 'within'), [(1, 3), (1, 5), (3, 3), (3, 5), (1, 9)])
def test_crops_within_the_middle(size: int, within: int) -> None:
    torch.manual_seed(0)
    patches = torch.arange(300.0 * 49).reshape(300, 1, 7, 7)
    parts = make(crop=size, crop_within=within)({'image': patches})['image']
    corners = {divmod(int(part[0, 0, 0]) % 49, 7) for part in parts}
    places = min(within, 7) - size + 1
    edge = max(0, (7 - within) // 2)
    assert corners == {
        (edge + r, edge + c) for r in range(places) for c in range(places)
    }


@pytest.mark.parametrize(('size', 'within'), [(None, 3), (3, 1), (1, 4), (1, 0)])
def test_no_middle(size: int | None, within: int) -> None:
    with pytest.raises(ValueError, match=f'crop_within is {within} with crop {size}'):
        make(crop=size, crop_within=within)


def test_no_crop() -> None:
    with pytest.raises(ValueError, match='crop is 0, expected at least 1 pixel'):
        make(crop=0)
    with pytest.raises(ValueError, match='crop is 7, expected at most the patch size'):
        make(crop=7)({'image': torch.zeros(2, 3, 5, 5)})
