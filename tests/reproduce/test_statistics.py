# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the statistics against values computed by hand."""

import math

import numpy as np
import pytest

from torchgeo_ekgnet.reproduce.statistics import (
    corrected_t_test,
    holm,
    last_quarter_rise,
    mean_and_std,
    not_converged,
    shown_from,
)


def test_mean_and_sample_deviation() -> None:
    # (1 + 2 + 6) / 3 = 3; squares 4 + 1 + 9 = 14, over n - 1 = 2: 7.
    assert mean_and_std([1, 2, 6]) == pytest.approx((3, math.sqrt(7)))


def test_one_value_has_no_deviation() -> None:
    mean, spread = mean_and_std([0.5])
    assert mean == 0.5
    assert math.isnan(spread)


def test_no_value_is_an_error() -> None:
    with pytest.raises(ValueError, match='values'):
        mean_and_std([])


def test_corrected_t_test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, variance 1. With 2/3 as many test as training pixels,
    # 1/3 + 2/3 is 1, so t = 2.
    # Student's t with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2).
    p_value = corrected_t_test([2, 4, 6], [1, 2, 3], test_to_train=2 / 3)
    assert p_value == pytest.approx(1 - 2 / math.sqrt(6))


def test_without_correction_it_is_the_paired_t_test() -> None:
    # t = 2 / (1 / sqrt(3)) = 2 sqrt(3): p = 1 - sqrt(12 / 14).
    p_value = corrected_t_test([2, 4, 6], [1, 2, 3], test_to_train=0)
    assert p_value == pytest.approx(1 - math.sqrt(12 / 14))


def test_equal_systems_and_single_seeds() -> None:
    assert corrected_t_test([0.5, 0.7], [0.5, 0.7], 0.5) == 1
    assert math.isnan(corrected_t_test([0.5], [0.7], 0.5))


@pytest.mark.parametrize('resolution', [0.0, 3.0])
def test_a_difference_shows_from_where_its_p_is_the_level(resolution: float) -> None:
    base = [70.0, 75.0, 72.0]
    other = [49.0, 52.0, 46.0]
    limit = shown_from(base, other, 125.0, resolution)
    lead = float(np.mean(base) - np.mean(other))
    at_limit = [value - lead + limit for value in base]
    p_value = corrected_t_test(at_limit, other, 125.0, resolution)
    assert p_value == pytest.approx(0.05)
    # 125 test pixels to a training pixel: more than any two systems can differ.
    assert limit > 100
    assert shown_from([0.5, 0.7], [0.5, 0.7], 0.5, resolution) == 0
    assert math.isnan(shown_from([0.5], [0.7], 0.5))


def test_t_test_bad_input() -> None:
    with pytest.raises(ValueError, match='expected 2 values'):
        corrected_t_test([1, 2], [1], 0.5)
    for quotient in (-0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match='test_to_train'):
            corrected_t_test([1, 2], [1, 3], quotient)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 -> 0.03, 0.06, max(0.06, 0.04) = 0.06.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]


def test_holm_leaves_unknown_p_values_out() -> None:
    adjusted = holm([0.02, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)


def test_rise_of_a_line() -> None:
    # 20 epochs, one point each: the last quarter of 5 epochs gains 5 points.
    assert last_quarter_rise([0.01 * i for i in range(20)]) == pytest.approx(5)


def test_rise_ignores_the_first_three_quarters() -> None:
    assert last_quarter_rise([0, 0.2, 0.4, 0.6, *[0.9] * 12]) == pytest.approx(0)


def test_rise_of_short_runs_is_that_of_three_epochs() -> None:
    assert last_quarter_rise([0.9, 0, 0.1, 0.5]) == pytest.approx(25)
    assert last_quarter_rise([0, 0.1, 0.5]) == pytest.approx(25)
    assert last_quarter_rise([0.1, 0.5]) == pytest.approx(40)


def test_rise_of_one_epoch_is_unknown() -> None:
    assert last_quarter_rise([0.9]) == math.inf


@pytest.mark.parametrize(
    ('accuracy', 'svm', 'rise', 'reason'),
    [
        (0.95, 0.9, 0.4, None),
        (0.95, 0.9, 0.5, None),
        (0.95, 0.9, -3.0, None),
        (0.95, 0.9, 0.6, 'rising +0.6 points'),
        (0.85, 0.9, 0.1, 'below RBF-SVM'),
        (0.85, 0.9, 2.0, 'below RBF-SVM, rising +2.0 points'),
        (0.95, None, math.inf, 'one validation shows no rise'),
        (0.95, None, 0.1, None),
        (0.85, 0.9, None, 'below RBF-SVM'),
        (0.9, 0.9, None, None),
    ],
)
def test_convergence_rule(
    accuracy: float, svm: float | None, rise: float | None, reason: str | None
) -> None:
    assert not_converged(accuracy, svm, rise) == reason


def test_one_pixel_in_every_seed_is_no_proof() -> None:
    pixel = 100 / 244
    assert corrected_t_test([100, 100], [100 - pixel] * 2, 1.0) == 0
    assert corrected_t_test([100, 100], [100 - pixel] * 2, 1.0, pixel) > 0.3
    assert corrected_t_test([99] * 5, [60] * 5, 1.0, pixel) < 1e-3
    assert corrected_t_test([99, 99], [99, 99], 1.0, pixel) == 1


def test_few_validation_pixels_know_no_small_rise() -> None:
    assert not_converged(0.9, None, 1.1, 100) is None
    assert not_converged(0.9, None, 2.1, 100) == 'rising +2.1 points'
    assert not_converged(0.9, None, 0.6, 10_000) == 'rising +0.6 points'
