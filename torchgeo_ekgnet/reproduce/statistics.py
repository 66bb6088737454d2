# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mean, standard deviation, the significance test and the convergence rule.

One significance test serves the whole package: the corrected resampled t-test of
Nadeau and Bengio (2003, doi:10.1023/A:1024068626366), paired over seeds. Each seed
draws its own split and trains every system on it, so differences between two systems
are paired, but the training sets of two seeds overlap; the ordinary paired t-test
takes such differences for independent and claims too much. The correction replaces
the variance factor 1 / n by 1 / n + n_test / n_train, the quotient of a split's test
and training pixels. McNemar's test was not chosen: it compares two trained networks on
one split and knows nothing of the scatter between trainings. Wilcoxon's signed-rank test
was not chosen: with three seeds its smallest possible p is 0.25. Many pairs are compared
in one table, so the p-values are adjusted by Holm's method.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

SIGNIFICANCE = 0.05
"""Holm-adjusted p below which an order of two systems is claimed."""

RISE_LIMIT = 0.5
"""Points of validation accuracy that a converged run may still gain in its last quarter."""

RISE_PIXELS = 2
"""The same in validation pixels, where so many are more: few pixels know no smaller rise."""


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof = 1).

    Args:
        values: One number a seed.

    Returns:
        Mean and standard deviation; the latter is NaN for a single value.

    Raises:
        ValueError: If there is no value.
    """
    if not len(values):
        raise ValueError('values: at least one value is needed, found none')
    array = np.asarray(values, dtype=np.float64)
    spread = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    return float(array.mean()), spread


def corrected_t_test(
    first: Sequence[float],
    second: Sequence[float],
    test_to_train: float,
    resolution: float = 0.0,
) -> float:
    r"""Two-sided p-value of the corrected resampled t-test.

    With the differences :math:`d_i` of n seeds,
    :math:`t = \bar d / \sqrt{(1 / n + n_{test} / n_{train}) s_d^2}` against Student's
    t with n - 1 degrees of freedom.

    Args:
        first: Accuracies of one system, one a seed.
        second: Accuracies of the other system on the same splits, same order.
        test_to_train: Number of test pixels over number of training pixels.
        resolution: What one test pixel changes of an accuracy, in its unit. Differences
            are taken to scatter by at least as much: that they are the same in two or
            three seeds is chance then, and no proof.

    Returns:
        The p-value; 1 if all differences are zero, NaN with fewer than two seeds.

    Raises:
        ValueError: If the lengths differ or the quotient is negative or not finite.
    """
    mean, error = _difference(first, second, test_to_train, resolution)
    if math.isnan(error):
        return math.nan
    # Equal differences of 1e-17 are rounding, not evidence.
    if error < 1e-12:
        return 1.0 if abs(mean) < 1e-12 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, len(first) - 1))


def shown_from(
    first: Sequence[float],
    second: Sequence[float],
    test_to_train: float,
    resolution: float = 0.0,
) -> float:
    """Smallest mean difference that :func:`corrected_t_test` would show.

    With few training and many test pixels it can be more than any two systems differ:
    then the test has nothing to say, which is no proof that they are alike.

    Args:
        first: Accuracies of one system, one a seed.
        second: Accuracies of the other system on the same splits, same order.
        test_to_train: Number of test pixels over number of training pixels.
        resolution: What one test pixel changes of an accuracy, in its unit.

    Returns:
        The difference in the accuracies' unit, for scatter as it was found and one
        comparison; NaN with fewer than two seeds.

    Raises:
        ValueError: If the lengths differ or the quotient is negative or not finite.
    """
    _, error = _difference(first, second, test_to_train, resolution)
    return error * float(stats.t.isf(SIGNIFICANCE / 2, max(len(first) - 1, 1)))


def _difference(
    first: Sequence[float],
    second: Sequence[float],
    test_to_train: float,
    resolution: float,
) -> tuple[float, float]:
    """Mean difference of two systems and its corrected standard error."""
    if len(first) != len(second):
        raise ValueError(
            f'second: expected {len(first)} values, one for each of the first '
            f"system's seeds, found {len(second)}"
        )
    if not 0 <= test_to_train < math.inf:
        raise ValueError(
            f'test_to_train: expected a finite number from 0, found {test_to_train}'
        )
    count = len(first)
    if count < 2:
        return math.nan, math.nan
    differences = np.subtract(first, second, dtype=np.float64)
    mean, spread = mean_and_std(differences.tolist())
    if abs(mean) > 1e-12:
        spread = max(spread, resolution)
    return mean, spread * math.sqrt(1 / count + test_to_train)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons by Holm's step-down method.

    Args:
        p_values: The p-values; NaNs are passed through and do not count.

    Returns:
        The adjusted p-values in the same order, none above 1.
    """
    adjusted = [math.nan] * len(p_values)
    order = [
        i for i in np.argsort(p_values, kind='stable') if p_values[i] == p_values[i]
    ]
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def last_quarter_rise(accuracies: Sequence[float]) -> float:
    """Points that validation accuracy gains over the last quarter of the epochs.

    The least-squares slope over the last quarter of the epochs (at least three of
    them, if there are as many) times the epochs of that quarter.

    Args:
        accuracies: Validation accuracy after each epoch, as a fraction.

    Returns:
        The gain in percentage points; infinite with fewer than two epochs, since
        nothing is known then.
    """
    if len(accuracies) < 2:
        return math.inf
    span = math.ceil(len(accuracies) / 4)
    tail = np.asarray(accuracies[-max(span, 3) :], dtype=np.float64)
    slope = np.polynomial.polynomial.polyfit(np.arange(len(tail)), tail, 1)[1]
    return float(100 * slope * span)


def not_converged(
    accuracy: float,
    svm_accuracy: float | None,
    rise: float | None,
    pixels: float = math.inf,
) -> str | None:
    """The rule that keeps undertrained systems out of ordering claims.

    Args:
        accuracy: Mean overall accuracy of the row, as a fraction.
        svm_accuracy: Mean overall accuracy of the RBF support vector machine on the
            same splits, or None if it was not run.
        rise: Mean gain of validation accuracy over the last quarter in points, or
            None for a classical baseline, which has no epochs.
        pixels: Validation pixels, of which the rise may be :data:`RISE_PIXELS`.

    Returns:
        None if the row counts as converged, else the reason.
    """
    reasons = []
    if svm_accuracy is not None and accuracy < svm_accuracy - 1e-9:
        reasons.append('below RBF-SVM')
    if rise is not None and math.isinf(rise):
        reasons.append('one validation shows no rise')
    elif rise is not None and not rise <= max(RISE_LIMIT, 100 * RISE_PIXELS / pixels):
        reasons.append(f'rising {rise:+.1f} points')
    return ', '.join(reasons) or None
