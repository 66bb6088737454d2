# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The runs of every row, the convergence rule, and comparisons of rows in pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..maps.smoothing import Smoothing
from ..metrics import SCORES, Accuracies
from .statistics import (
    SIGNIFICANCE,
    corrected_t_test,
    holm,
    last_quarter_rise,
    not_converged,
    shown_from,
)


@dataclass(frozen=True)
class Summary:
    """All runs of one row.

    Attributes:
        key: Key of the row.
        label: Name as printed.
        results: One result a seed.
        accuracies: Accuracies of each seed.
        reason: Why the row does not count as converged, None if it does.
        rise: Mean gain of validation accuracy (training accuracy where no pixel
            validates) over the last quarter in points, None for a classical baseline.
        bar: Mean overall accuracy of the RBF support vector machine on the row's own
            splits in percent, None if it was not run on any of them.
    """

    key: str
    label: str
    results: tuple[Mapping[str, Any], ...]
    accuracies: tuple[Accuracies, ...]
    reason: str | None
    rise: float | None
    bar: float | None

    @property
    def validates(self) -> bool:
        """Whether pixels validated, so that the rise is one on pixels not trained on."""
        return _validates(self.results)

    def values(self, metric: str) -> list[float]:
        """One number a seed.

        Args:
            metric: ``'OA'``, ``'AA'`` (mean recall), ``'AA_precision'``,
                ``'Kappa'``, ``'class_1'`` ... (recall) or ``'class_1_precision'`` ...

        Returns:
            The accuracies in percent.
        """
        return [100 * _metric(accuracy, metric) for accuracy in self.accuracies]

    @property
    def splits(self) -> tuple[str, ...]:
        """Identity of each seed's split, and of the smoothing if there was one."""
        return tuple(
            result['split']['identity'] + _smoothing_name(result)
            for result in self.results
        )

    @property
    def is_smoothed(self) -> bool:
        """Whether the scores are those of smoothed probabilities."""
        return 'smoothed_over' in self.results[0]

    @property
    def test_to_train(self) -> float:
        """Test pixels over training pixels, mean over seeds."""
        sizes = [result['split']['sizes'] for result in self.results]
        return float(np.mean([test / train for train, _, test in sizes]))

    @property
    def tested(self) -> float:
        """Test pixels, mean over seeds."""
        return float(np.mean([accuracy.counts.sum() for accuracy in self.accuracies]))

    @property
    def status(self) -> str:
        """Whether the row may enter a claim of order, and why not."""
        if self.reason is None:
            words = ['ok'] if self.bar is not None else ['ok', 'bar not run']
            if self.rise is not None and not self.validates:
                words.append('no pixel validates')
            return ', '.join(words)
        # A classical baseline has nothing to converge.
        return self.reason if self.rise is None else f'not converged: {self.reason}'


@dataclass(frozen=True)
class Comparison:
    """Two converged systems on the same splits.

    Attributes:
        better: The system with the higher mean overall accuracy.
        worse: The other one.
        difference: Mean difference of overall accuracy in points, from 0.
        shown_from: The difference from which on the test would show it, before Holm.
        p_value: Corrected resampled t-test, NaN with one seed.
        adjusted: The same adjusted by Holm's method over all pairs.
    """

    better: Summary
    worse: Summary
    difference: float
    shown_from: float
    p_value: float
    adjusted: float

    @property
    def significant(self) -> bool:
        """Whether an order may be claimed."""
        return self.adjusted < SIGNIFICANCE


_SCORES = {score.name.lower(): score for score in SCORES}


def _metric(accuracy: Accuracies, metric: str) -> float:
    """Look one score up by its name in the tables."""
    score = _SCORES.get(metric.lower())
    if score is not None:
        return score.of(accuracy)
    match metric.split('_'):
        case ['class', number, *precision]:
            shares = accuracy.precision if precision else accuracy.per_class
            return float(shares[int(number) - 1])
        case _:
            raise ValueError(f'metric: unknown {metric!r}')


def _validates(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether pixels validated in every run."""
    return all(result['curves'].get('val_OA') for result in results)


def summarise(
    rows: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]],
    bars: Sequence[Mapping[str, Any]] = (),
) -> list[Summary]:
    """Gather the runs of every row and apply the convergence rule.

    The bar of a row is the RBF support vector machine on the row's own splits.

    Args:
        rows: Key, label and results (one a seed) of each row.
        bars: Results of the RBF support vector machine, one a split and seed.

    Returns:
        One summary a row, rows without results left out.
    """
    reached: dict[str, list[float]] = {}
    for result in bars:
        overall = Accuracies.from_confusion(result['confusion']).overall
        reached.setdefault(result['split']['identity'], []).append(overall)
    # A split that is the same for all seeds has a bar for each of them.
    heights = {identity: float(np.mean(each)) for identity, each in reached.items()}
    summaries = []
    for key, label, results in [*rows, *_smoothed_rows(rows)]:
        if not results:
            continue
        rise = None
        if results[0]['epochs'] is not None:
            curves = [result['curves'] for result in results]
            # Of training where no pixel validates.
            seen = [each.get('val_OA') or each.get('train_OA') or [] for each in curves]
            rise = float(np.mean([last_quarter_rise(each) for each in seen]))
        # Training accuracy always rises while the learning rate falls: it tells nothing
        # of pixels that were not trained on, and disqualifies nobody.
        known = rise if _validates(results) else None
        # Where none validates their number decides nothing.
        pixels = min(r['split']['sizes'][1] or math.inf for r in results)
        accuracies = tuple(Accuracies.from_confusion(r['confusion']) for r in results)
        # An unfinished sweep may have the bar of some seeds only.
        pairs = [
            (accuracy.overall, heights[result['split']['identity']])
            for accuracy, result in zip(accuracies, results, strict=True)
            if heights and result['split']['identity'] in heights
        ]
        overall, bar = np.mean(pairs, axis=0).tolist() if pairs else (math.nan, None)
        summaries.append(
            Summary(
                key,
                label,
                tuple(results),
                accuracies,
                not_converged(overall, bar, known, pixels),
                rise,
                None if bar is None else 100 * bar,
            )
        )
    return summaries


def runs_of(summaries: Sequence[Summary]) -> list[Mapping[str, Any]]:
    """List the results of all rows."""
    return [result for summary in summaries for result in summary.results]


def _smoothed_rows(
    rows: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]],
) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """Make a row of its own of the smoothed scores of each row that has them."""
    found = []
    for key, label, results in rows:
        smoothed: list[Mapping[str, Any]] = [
            {
                **result,
                'confusion': result['smoothed']['confusion'],
                'smoothed_over': result['smoothed'],
            }
            for result in results
            if 'smoothed' in result
        ]
        if smoothed:
            name = _smoothing_name(smoothed[0])
            found.append((f'{key}_smoothed', f'{label} ({name})', smoothed))
    return found


def _smoothing_name(result: Mapping[str, Any]) -> str:
    """Name the smoothing of a result; nothing without one."""
    over = result.get('smoothed_over')
    return '' if over is None else f'smoothed {Smoothing.name(over)}'


def compare(summaries: Sequence[Summary]) -> list[Comparison]:
    """Compare every pair of converged rows that share their splits.

    Args:
        summaries: The rows.

    Returns:
        One comparison a pair, the largest difference first.
    """
    found = []
    converged = [summary for summary in summaries if summary.reason is None]
    for first, second in combinations(converged, 2):
        if first.splits != second.splits:
            continue
        one, other = first.values('OA'), second.values('OA')
        difference = float(np.mean(one) - np.mean(other))
        better, worse = (first, second) if difference >= 0 else (second, first)
        terms = one, other, first.test_to_train, 100 / first.tested
        limit, p_value = shown_from(*terms), corrected_t_test(*terms)
        found.append((better, worse, abs(difference), limit, p_value))
    adjusted = holm([p_value for *_, p_value in found])
    comparisons = [
        Comparison(*pair, q) for pair, q in zip(found, adjusted, strict=True)
    ]
    return sorted(comparisons, key=lambda pair: -pair.difference)


def conclusion(summaries: Sequence[Summary], comparisons: Sequence[Comparison]) -> str:
    """Say what may be concluded of a comparison, and what may not.

    Args:
        summaries: All rows, at least one.
        comparisons: Their pairs, of :func:`compare`.

    Returns:
        A few sentences.
    """
    return f'{_order(summaries, comparisons)} {_ground(summaries)}'


def _order(summaries: Sequence[Summary], comparisons: Sequence[Comparison]) -> str:
    """Say which system is the best one, or why none is called so."""
    plain = [summary for summary in summaries if not summary.is_smoothed]
    fair = [summary for summary in plain if summary.reason is None]
    seeds = min(len(summary.results) for summary in summaries)
    if len({summary.splits for summary in plain}) > 1:
        return (
            'The rows were tested on different pixels, or some of their runs are '
            'missing: no order is claimed among those.'
        )
    if len(fair) < 2:
        return 'Fewer than two systems count as converged: no order may be claimed.'
    if seeds < 2:
        return 'One seed shows no scatter: no order may be claimed; use --seeds 3.'
    best = max(fair, key=lambda summary: float(np.mean(summary.values('OA'))))
    pairs = [pair for pair in comparisons if pair.better is best]
    beaten = [pair.worse.label for pair in pairs if pair.significant]
    level = [pair for pair in pairs if not pair.significant]
    order = f'{best.label} has the highest mean overall accuracy'
    if beaten:
        order += f', significantly higher than {", ".join(beaten)}'
    if level:
        names = ', '.join(pair.worse.label for pair in level)
        order += f'; between it and {names} no difference is shown'
    order += f' (over {seeds} seeds).'
    needed = [
        f'{pair.shown_from:.1f} ({pair.worse.label}, found {pair.difference:.1f})'
        for pair in level
        if pair.shown_from > pair.difference
    ]
    if needed:
        order += (
            f' With {best.test_to_train:.3g} test pixels to a training pixel and '
            f'this scatter a difference shows from so many points on: '
            f'{", ".join(needed)}.'
        )
    return order


def _ground(summaries: Sequence[Summary]) -> str:
    """Say for which ground that holds."""
    shared = max(run['split']['shares_training_pixel'] for run in runs_of(summaries))
    if shared > 0:
        ground = (
            f'Up to {100 * shared:.0f} % of the test patches share a pixel with a '
            'training patch: this orders systems within the fields that they were '
            'trained on, not on new ground; a DisjointSplit does.'
        )
    else:
        ground = (
            'No test patch shares a pixel with a training patch: this holds for ground '
            'of this scene that was not trained on, not for other scenes.'
        )
    smoothed = [summary for summary in summaries if summary.is_smoothed]
    reached = [run['smoothed_over']['reaches_training'] for run in runs_of(smoothed)]
    if max(reached, default=0):
        ground += (
            f' The windows of up to {100 * max(reached):.0f} % of the test pixels hold a '
            'training pixel: there, smoothed rows count what was taught.'
        )
    return ground
