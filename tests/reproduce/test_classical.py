# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the classical baselines."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from torchgeo_ekgnet.datasets.splits import Split
from torchgeo_ekgnet.reproduce.classical import (
    CLASSICAL_NAMES,
    classical_confusion,
    fit_classical,
    scene_spectra,
)


def three_classes(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.RandomState(3)
    labels = np.arange(count * 3) % 3
    spectra = generator.normal(size=(count * 3, 8)) + 3 * labels[:, None]
    return spectra.astype(np.float32), labels


def small_scene() -> Any:
    spectra, labels = three_classes()
    cube = spectra.reshape(10, 12, 8)
    return SimpleNamespace(
        label_map=(labels + 1).reshape(10, 12),
        shape=cube.shape,
        num_bands=8,
        num_classes=3,
        read=lambda top, bottom, left, right: cube[top:bottom, left:right],
    )


@pytest.mark.parametrize('name', CLASSICAL_NAMES)
def test_fits_and_repeats(name: str) -> None:
    spectra, labels = three_classes()
    first = fit_classical(name, spectra, labels, seed=1)
    second = fit_classical(name, spectra, labels, seed=1)
    predicted = first.predict(spectra)
    assert (predicted == labels).mean() > 0.95
    np.testing.assert_array_equal(predicted, second.predict(spectra))


@pytest.mark.filterwarnings('error')
def test_svm_accepts_a_class_of_one_pixel() -> None:
    spectra, labels = three_classes()
    labels = np.append(labels, 7)
    spectra = np.vstack([spectra, np.full((1, 8), 50, np.float32)])
    estimator = fit_classical('rbf_svm', spectra, labels, seed=0)
    assert 7 in estimator.predict(spectra)


@pytest.mark.parametrize('name', CLASSICAL_NAMES)
def test_fits_two_pixels(name: str) -> None:
    fit_classical(name, np.array([[0.0, 1.0], [5.0, 6.0]]), np.array([0, 1]))


@pytest.mark.parametrize(
    ('name', 'spectra', 'labels', 'message'),
    [
        ('svm', np.zeros((2, 3)), np.arange(2), "'svm'.*rbf_svm"),
        ('rbf_svm', np.zeros((2, 3, 1)), np.arange(2), r'spectra.*\(2, 3, 1\)'),
        ('rbf_svm', np.zeros((2, 3)), np.arange(3), r'labels.*\(2,\).*\(3,\)'),
        ('rbf_svm', np.zeros((2, 3)), np.zeros(2), 'two classes'),
    ],
)
def test_bad_input(
    name: str, spectra: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_classical(name, spectra, labels)


def test_scene_spectra_are_the_pixels() -> None:
    scene = small_scene()
    pixels = np.array([119, 0, 13, 14, 40])
    expected = three_classes()[0][pixels]
    np.testing.assert_array_equal(scene_spectra(scene, pixels), expected)


def test_classical_confusion_counts_test_pixels_only() -> None:
    split = Split(
        'given', {}, (10, 12), np.arange(80), np.arange(0), np.arange(90, 120)
    )
    counts = classical_confusion('random_forest', small_scene(), split, seed=0)
    assert counts.sum() == 30
    assert np.trace(counts) > 25
