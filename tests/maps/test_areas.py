# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from torchgeo_ekgnet.maps.areas import estimate_areas, pixel_area

from .conftest import make_scene

#: The example of Olofsson et al. 2014, tables 8 and 9: mapped class in rows.
MAPPED = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = (200_000, 150_000, 3_200_000, 6_450_000)


def test_example_of_the_paper() -> None:
    """Areas of deforestation, gain, stable forest and other land, in hectares."""
    areas = estimate_areas(MAPPED.T, PIXELS, 0.09)
    assert areas.estimated.sum() == pytest.approx(900_000)
    assert areas.estimated[0] == pytest.approx(21_158, abs=1)
    assert areas.half_width[0] == pytest.approx(6_158, abs=1)
    assert areas.estimated[1] == pytest.approx(11_686, abs=1)
    assert areas.half_width[1] == pytest.approx(3_756, abs=1)
    assert areas.mapped[0] == pytest.approx(18_000)
    assert areas.unknown == ()


def test_a_map_without_errors_is_counted() -> None:
    areas = estimate_areas(np.diag([10, 20]), [300, 100], 2.0)
    np.testing.assert_allclose(areas.estimated, [600, 200])
    np.testing.assert_allclose(areas.half_width, 0)


def test_intervals_hold_the_truth() -> None:
    """Of maps with known errors, about 95 of 100 intervals hold the true area."""
    random = np.random.default_rng(0)
    truth = random.choice(3, size=60_000, p=[0.2, 0.3, 0.5])
    wrong = random.random(truth.size) < 0.2
    mapped = np.where(wrong, (truth + 1) % 3, truth)
    pixels = np.bincount(mapped, minlength=3)
    held = 0
    for _ in range(200):
        confusion = np.zeros((3, 3))
        for number in range(3):
            places = random.choice(np.flatnonzero(mapped == number), 80)
            confusion[:, number] += np.bincount(truth[places], minlength=3)
        areas = estimate_areas(confusion, pixels.tolist(), 1.0)
        held += abs(areas.estimated[0] - (truth == 0).sum()) <= areas.half_width[0]
    assert 180 <= held <= 199


def test_classes_that_were_not_tested_are_named() -> None:
    areas = estimate_areas([[5, 0, 0], [0, 5, 0], [0, 0, 1]], [10, 10, 1], 2.0)
    assert areas.unknown == (2,) and areas.untested == ()
    assert areas.mapped.tolist() == [20, 20, 2]
    assert np.isnan(areas.estimated).all()
    # Two test pixels of a mapped class suffice; of one that covers nothing, none is
    # needed and one is not counted.
    for few in (0, 1):
        areas = estimate_areas([[2, 0, few], [0, 5, 0], [0, 0, 0]], [10, 10, 0], 1.0)
        assert areas.unknown == () and areas.untested == (2,)
        assert areas.estimated.tolist() == [10, 10, 0]
        assert areas.half_width.tolist() == [0, 0, 0]


def test_rows_tell_only_what_the_test_tells() -> None:
    confusion = [[8, 2, 1], [2, 8, 1], [0, 0, 0]]
    areas = estimate_areas(confusion, [1000, 2000, 500], 1.5)
    assert areas.rows(['Grass', 'Wood', 'Water']) == [
        ('Grass', '1,500.00', '2,175.00', '± 1,143.92'),
        ('Wood', '3,000.00', '3,075.00', '± 1,143.92'),
        ('Water', '750.00', None, None),
    ]


@pytest.mark.parametrize(
    ('confusion', 'pixels', 'area', 'message'),
    [
        ([[1]], [1, 2], 1.0, r'confusion: found shape \(1, 1\), expected 2 classes'),
        ([[1]], [1], 0.0, r'area: found 0.0 and 1 pixels, expected positive numbers'),
        ([[1]], [0], 1.0, r'area: found 1.0 and 0 pixels, expected positive numbers'),
        ([[1]], [1], np.nan, r'area: found nan and 1 pixels, expected positive'),
    ],
)
def test_bad_arguments(
    confusion: list[list[int]], pixels: list[int], area: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_areas(confusion, pixels, area)


@pytest.mark.parametrize(
    ('crs', 'transform', 'expected'),
    [
        ('EPSG:32633', Affine(30, 0, 5e5, 0, -20, 5e6), 600.0),
        ('EPSG:32633', Affine(0, 3, 5e5, -2, 0, 5e6), 6.0),
        ('EPSG:2263', Affine(1, 0, 0, 0, -1, 0), 0.3048006096**2),
        ('EPSG:4326', Affine(0.1, 0, 0, 0, -0.1, 0), None),
        ('EPSG:3857', Affine(20, 0, 1e6, 0, -20, 8.4e6), None),
        ('EPSG:3857', Affine(0.5, 0, 1e6, 0, -0.5, 8.4e6), None),
        # Ten degrees from the equator it is 3 % too large there, four degrees 1 %.
        ('EPSG:3857', Affine(20, 0, 0, 0, -20, 1.12e6), None),
        ('EPSG:3857', Affine(20, 0, 0, 0, -20, 5e5), 400.0),
        # The middle pixel decides: it lies where the projection distorts least.
        ('EPSG:3857', Affine(5e5, 0, 0, 0, -5e5, 5.25e6), 2.5e11),
        ('EPSG:32633', Affine(5e5, 0, -3.75e6, 0, -2e4, 5e5), 1e10),
        ('EPSG:32633', Affine(0, 5e5, -4.75e6, -2e4, 0, 5e5), 1e10),
        # Nowhere on the ground: nothing speaks against the area of the map.
        ('EPSG:32633', Affine(30, 0, 1e12, 0, -30, 5e6), 900.0),
        ('EPSG:32633', Affine(0, 0, 5e5, 0, 0, 5e6), None),
        ('EPSG:32633', Affine(1e200, 0, 5e5, 0, -1e200, 5e6), None),
        (None, Affine(30, 0, 5e5, 0, -30, 5e6), None),
        ('EPSG:32633', None, None),
    ],
)
def test_pixel_area(
    crs: str | None, transform: Affine | None, expected: float | None
) -> None:
    scene = make_scene()
    scene.crs = None if crs is None else CRS.from_string(crs)
    scene.transform = transform
    assert pixel_area(scene) == (
        None if expected is None else pytest.approx(expected, rel=1e-6)
    )
