# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The one definition of every score: all derive from a confusion matrix.

The released code of the paper hands its predictions and labels to scikit-learn in
swapped order, so what its tables call "average accuracy" is the mean of the
*precisions*. :class:`Accuracies` reports the standard figure, the mean of recalls, and
beside it the reference's as :attr:`Accuracies.average_precision`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from . import _html

__all__ = ('SCORES', 'Accuracies', 'ConfusionCounts', 'Score', 'not_finite')


@dataclass(frozen=True, eq=False)
class Accuracies:
    """Scores of one confusion matrix.

    Attributes:
        confusion: Counts of shape (C, C), true class in rows, predicted in columns.
        overall: Overall accuracy (OA), in [0, 1].
        average: Average accuracy (AA): mean recall over the classes that occur.
        kappa: Cohen's kappa; NaN where it is undefined (a single class, all right).
        per_class: Recall of every class, shape (C,); NaN for a class that does not
            occur.
        precision: Precision of every class, shape (C,); 0 for a class that occurs but
            is never predicted, NaN for one that neither occurs nor is predicted.
        average_precision: Mean of :attr:`precision`: the score that the reference
            code of arXiv 2504.13045 reports as average accuracy.
        counts: Number of scored samples of every class, shape (C,).
    """

    confusion: NDArray[np.int64]
    overall: float
    average: float
    kappa: float
    per_class: NDArray[np.float64]
    precision: NDArray[np.float64]
    average_precision: float
    counts: NDArray[np.int64]

    @classmethod
    def from_confusion(cls, confusion: ArrayLike) -> 'Accuracies':
        """Derive every score from a confusion matrix.

        Args:
            confusion: Counts of shape (C, C): ``confusion[true, predicted]``.

        Returns:
            The scores.

        Raises:
            ValueError: If the matrix is not square, holds negative or fractional
                counts, or is empty.
        """
        matrix = np.asarray(confusion)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                f'confusion: expected shape (classes, classes), found {matrix.shape}'
            )
        counts = matrix.astype(np.int64)
        if not np.array_equal(counts, matrix) or (counts < 0).any():
            raise ValueError('confusion: expected whole, non-negative counts')
        total = int(counts.sum())
        if total == 0:
            raise ValueError('confusion: no sample was scored, all counts are zero')

        right = np.diag(counts).astype(np.float64)
        true = counts.sum(axis=1)
        predicted = counts.sum(axis=0)
        known = (true > 0) | (predicted > 0)

        nothing = np.full(len(counts), np.nan)
        per_class = np.divide(right, true, out=nothing.copy(), where=true > 0)
        precision = np.divide(
            right, predicted, out=np.where(known, 0.0, np.nan), where=predicted > 0
        )
        overall = float(right.sum() / total)
        chance = float((true / total) @ (predicted / total))
        kappa = (overall - chance) / (1.0 - chance) if chance < 1.0 else math.nan
        return cls(
            confusion=counts,
            overall=overall,
            average=float(per_class[true > 0].mean()),
            kappa=kappa,
            per_class=per_class,
            precision=precision,
            average_precision=float(precision[known].mean()),
            counts=true,
        )

    def __repr__(self) -> str:
        """Return the scores in per cent."""
        scores = ', '.join(
            f'{score.name} {100 * score.of(self):.2f}' for score in SCORES[:3]
        )
        return f'{type(self).__name__}({scores}; {int(self.counts.sum()):,} samples)'

    def _repr_html_(self) -> str:
        """Show scores, and recall and precision of each class, in a notebook."""
        rows = [
            (number, f'{count:,}', f'{100 * recall:.2f}', f'{100 * precision:.2f}')
            for number, (count, recall, precision) in enumerate(
                zip(self.counts, self.per_class, self.precision, strict=True), start=1
            )
        ]
        return _html.summary(
            'Accuracies',
            {score.title: f'{100 * score.of(self):.2f} %' for score in SCORES},
            _html.table(('class', 'samples', 'recall, %', 'precision, %'), rows),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON-able values, with None for what is undefined.

        Returns:
            Scores by their :attr:`Score.key`, then 'per_class' (recalls), 'precision',
            'counts' and 'confusion_matrix', as they are written to ``test.json``.
        """
        return {
            **{score.key: _or_none(score.of(self)) for score in SCORES},
            'per_class': [_or_none(value) for value in self.per_class],
            'precision': [_or_none(value) for value in self.precision],
            'counts': self.counts.tolist(),
            'confusion_matrix': self.confusion.tolist(),
        }


@dataclass(frozen=True)
class Score:
    """One overall score, as it is computed, stored and shown.

    Attributes:
        key: Name in ``test.json``.
        name: Short name in logs (``val_OA``), tables and files of tables.
        title: Name in reports, where 1 is shown as 100.
        of: Its value, from 0 to 1, for :class:`Accuracies`.
    """

    key: str
    name: str
    title: str
    of: Callable[[Accuracies], float]

    def shown(self, report: Mapping[str, Any]) -> str:
        """Format the score of a ``test.json`` times 100, or a dash if undefined."""
        value = report.get(self.key)
        return '-' if value is None else f'{100 * value:.2f}'


SCORES = (
    Score('overall_accuracy', 'OA', 'overall accuracy', attrgetter('overall')),
    Score('average_accuracy', 'AA', 'average accuracy', attrgetter('average')),
    Score('kappa', 'kappa', 'kappa x 100', attrgetter('kappa')),
    Score(
        'precision_average',
        'AA_precision',
        'precision average',
        attrgetter('average_precision'),
    ),
)
"""Every overall score: whoever logs, stores or shows scores reads this table."""


class ConfusionCounts(MulticlassConfusionMatrix):
    """A confusion matrix that is counted on the device without waiting for it.

    torchmetrics counts with ``torch.bincount``, which makes the host wait for a GPU at
    every step. The counts here are equal; 1-D ``scatter_add_`` also is deterministic.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            preds: Logits of shape (B, C), or predicted classes of shape (B,).
            target: True classes of shape (B,).
        """
        if preds.ndim == target.ndim + 1:
            preds = preds.argmax(dim=1)
        # Products of labels of 8 bits would wrap round.
        cells = (target.long() * self.num_classes + preds).flatten()
        counts = self.confmat.flatten()
        self.confmat = counts.scatter_add(
            0, cells, torch.ones_like(cells, dtype=counts.dtype)
        ).reshape(self.num_classes, self.num_classes)


def not_finite(stage: str) -> str:
    """Say that a network's values are no numbers, in the words of every stage.

    Args:
        stage: 'fit', 'validate', 'test' or 'predict'.

    Returns:
        One line, with a remedy.
    """
    what, remedy = (
        ('the loss is', 'lower lr, or skip such steps with on_nonfinite=skip')
        if stage == 'fit'
        else ('logits are', 'use another checkpoint')
    )
    return (
        f'{stage}: {what} NaN or infinite, expected numbers: nothing of it is a score; '
        f'look for NaN in the data, {remedy}'
    )


def _or_none(value: float) -> float | None:
    """Return the value as a float, or None for NaN, which JSON does not know."""
    return None if math.isnan(value) else float(value)
