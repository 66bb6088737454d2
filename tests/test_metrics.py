# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    precision_score,
    recall_score,
)
from torchmetrics.classification import MulticlassConfusionMatrix

from torchgeo_ekgnet.metrics import Accuracies, ConfusionCounts


@pytest.mark.parametrize('seed', range(4))
def test_equals_scikit_learn(seed: int) -> None:
    rng = np.random.RandomState(seed)
    true = rng.randint(0, 5, 200)
    predicted = np.where(rng.rand(200) < 0.7, true, rng.randint(0, 5, 200))
    # Two classes of a single sample: one is found, the other is not.
    true, predicted = np.append(true, [5, 6]), np.append(predicted, [5, 0])
    accuracies = Accuracies.from_confusion(confusion_matrix(true, predicted))

    recall = recall_score(true, predicted, average=None)
    np.testing.assert_allclose(accuracies.per_class, recall)
    assert accuracies.overall == pytest.approx(accuracy_score(true, predicted))
    assert accuracies.average == pytest.approx(balanced_accuracy_score(true, predicted))
    assert accuracies.kappa == pytest.approx(cohen_kappa_score(true, predicted))
    precision = precision_score(true, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(accuracies.precision, precision)
    assert accuracies.average_precision == pytest.approx(precision.mean())
    np.testing.assert_array_equal(accuracies.counts, np.bincount(true))


def test_average_precision_is_what_swapped_arguments_give() -> None:
    true = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 1])
    swapped = confusion_matrix(predicted, true).astype(float)
    rows = swapped.sum(axis=1, keepdims=True)
    per_row = np.diag(swapped / np.where(rows == 0, 1, rows))
    accuracies = Accuracies.from_confusion(confusion_matrix(true, predicted))
    assert accuracies.average_precision == pytest.approx(per_row.mean())
    assert accuracies.average_precision != pytest.approx(accuracies.average)


def test_absent_classes() -> None:
    accuracies = Accuracies.from_confusion([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    assert accuracies.average == pytest.approx(0.85)
    assert np.isnan(accuracies.per_class[2])
    assert np.isnan(accuracies.precision[2])
    content = accuracies.to_dict()
    assert content['per_class'][2] is None
    json.dumps(content, allow_nan=False)
    # Found once though it never occurs, or never found though it occurs once.
    for confusion in (
        [[8, 2, 0], [0, 9, 1], [0, 0, 0]],
        [[8, 2, 0], [0, 9, 0], [0, 1, 0]],
    ):
        accuracies = Accuracies.from_confusion(confusion)
        assert accuracies.precision[2] == 0
        assert accuracies.average_precision == pytest.approx(
            accuracies.precision[:2].sum() / 3
        )


def test_class_that_is_never_predicted_has_no_precision() -> None:
    accuracies = Accuracies.from_confusion([[5, 0], [5, 0]])
    assert accuracies.precision.tolist() == [0.5, 0.0]
    assert accuracies.average_precision == pytest.approx(0.25)
    assert accuracies.kappa == pytest.approx(0.0)


def test_one_class_has_no_kappa() -> None:
    accuracies = Accuracies.from_confusion([[7, 0], [0, 0]])
    assert accuracies.overall == 1.0
    assert np.isnan(accuracies.kappa)
    assert accuracies.to_dict()['kappa'] is None


@pytest.mark.parametrize(
    ('confusion', 'message'),
    [
        ([[1, 2, 3]], 'classes, classes'),
        ([1, 2], 'classes, classes'),
        ([[0, 0], [0, 0]], 'no sample'),
        ([[1, -1], [0, 1]], 'non-negative'),
        ([[0.5, 0.5], [0, 1]], 'whole'),
    ],
)
def test_bad_confusion(confusion: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Accuracies.from_confusion(confusion)


class TestConfusionCounts:
    def test_equals_torchmetrics(self) -> None:
        ours = ConfusionCounts(5, validate_args=False)
        theirs = MulticlassConfusionMatrix(5)
        for size in (7, 64, 1):
            logits, label = torch.randn(size, 5), torch.randint(0, 5, (size,))
            ours.update(logits, label)
            theirs.update(logits, label)
        torch.testing.assert_close(ours.compute(), theirs.compute())
        ours.reset()
        assert ours.compute().sum() == 0

    def test_takes_predicted_classes(self) -> None:
        counts = ConfusionCounts(2, validate_args=False)
        counts.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        assert counts.compute().tolist() == [[1, 1], [0, 1]]

    def test_labels_of_eight_bits(self) -> None:
        counts = ConfusionCounts(20, validate_args=False)
        label = torch.arange(20, dtype=torch.uint8)
        counts.update(label.long(), label)
        assert (counts.compute() == torch.eye(20)).all()

    def test_is_exact_under_autocast(self) -> None:
        counts = ConfusionCounts(2, validate_args=False)
        zeros = torch.zeros(3000, dtype=torch.int64)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            counts.update(zeros, zeros)
        assert counts.compute()[0, 0] == 3000
