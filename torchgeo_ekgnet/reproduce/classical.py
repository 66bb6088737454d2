# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Classical baselines on single spectra: an RBF support vector machine and a forest.

Both see one pixel at a time, so their accuracy does not profit from patches that
overlap between training and test pixels. A network that stays below the support
vector machine on the same split has not been trained to convergence.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

if TYPE_CHECKING:
    from ..datasets.scene import HyperspectralScene
    from ..datasets.splits import Split

CLASSICAL_NAMES = ('rbf_svm', 'random_forest')
"""Names of the classical baselines, as they are written in tables and configs."""

SVM_COSTS = (10.0, 100.0, 1000.0)
"""Values of C that the support vector machine is searched over."""

SVM_GAMMA_FACTORS = (0.1, 1.0)
"""Values of gamma that are searched over, in units of 1 / bands.

On standardised spectra 1 / bands is scikit-learn's ``gamma='scale'``.
"""

SEARCH_FOLDS = 3
SEARCH_PIXELS = 1500
FOREST_TREES = 300


def _check(name: str, spectra: NDArray[Any], labels: NDArray[Any]) -> None:
    """Check the arguments of :func:`fit_classical`."""
    if name not in CLASSICAL_NAMES:
        raise ValueError(
            f'name: unknown classical baseline {name!r}, expected one of '
            f'{", ".join(CLASSICAL_NAMES)}'
        )
    if spectra.ndim != 2 or not len(spectra):
        raise ValueError(
            f'spectra: expected shape (pixels, bands) with at least one pixel, found '
            f'{spectra.shape}'
        )
    if labels.shape != (len(spectra),):
        raise ValueError(
            f'labels: expected shape ({len(spectra)},), one a spectrum, found '
            f'{labels.shape}'
        )
    if len(np.unique(labels)) < 2:
        raise ValueError('labels: at least two classes are needed, found one')


def _stratified_folds(
    labels: NDArray[Any], folds: int, generator: np.random.RandomState
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Deal the pixels of every class to folds in turn, rare classes included."""
    fold = np.empty(len(labels), dtype=np.int64)
    start = 0
    for value in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == value))
        fold[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    for index in range(folds):
        yield np.flatnonzero(fold != index), np.flatnonzero(fold == index)


def _search_subset(
    labels: NDArray[Any], limit: int, generator: np.random.RandomState
) -> NDArray[np.int64]:
    """Draw the pixels that the hyperparameters are searched on."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    chosen = []
    for value in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == value))
        share = round(limit * len(members) / len(labels))
        chosen.append(members[: max(SEARCH_FOLDS, share)])
    return np.sort(np.concatenate(chosen))


def _fit_svm(spectra: NDArray[Any], labels: NDArray[Any], seed: int) -> Pipeline:
    """Fit the support vector machine with cross-validated C and gamma."""
    generator = np.random.RandomState(seed)
    pipeline = make_pipeline(StandardScaler(), SVC(kernel='rbf', cache_size=500))
    subset = _search_subset(labels, SEARCH_PIXELS, generator)
    grid = {
        'svc__C': list(SVM_COSTS),
        'svc__gamma': [factor / spectra.shape[1] for factor in SVM_GAMMA_FACTORS],
    }
    # A fold may leave a class of one pixel, or all classes but one, without pixels.
    folds = [
        (fit, held_out)
        for fit, held_out in _stratified_folds(labels[subset], SEARCH_FOLDS, generator)
        if len(held_out) and len(np.unique(labels[subset][fit])) > 1
    ]
    if folds:
        search = GridSearchCV(pipeline, grid, cv=folds, refit=False)
        search.fit(spectra[subset], labels[subset])
        pipeline.set_params(**search.best_params_)
    return pipeline.fit(spectra, labels)


def fit_classical(
    name: str, spectra: NDArray[Any], labels: NDArray[Any], seed: int = 0
) -> BaseEstimator:
    """Fit a classical baseline on single spectra.

    ``'rbf_svm'``: standardised spectra; C and gamma by three-fold cross-validation
    over training pixels (at most about 1500 of them, drawn class by class), then
    fitted on all of them. ``'random_forest'``: 300 trees on the spectra as they are.

    Args:
        name: One of :data:`CLASSICAL_NAMES`.
        spectra: Training spectra of shape (N, bands), any unit.
        labels: Labels of shape (N,).
        seed: Seed of the folds, the subset and the forest; the same seed gives the
            same classifier.

    Returns:
        The fitted scikit-learn estimator.

    Raises:
        ValueError: If the name is unknown, the shapes do not fit or fewer than two
            classes are given.
    """
    spectra, labels = np.asarray(spectra), np.asarray(labels)
    _check(name, spectra, labels)
    if name == 'rbf_svm':
        return _fit_svm(spectra, labels, seed)
    forest = RandomForestClassifier(FOREST_TREES, random_state=seed, n_jobs=1)
    return forest.fit(spectra, labels)


def with_probabilities(
    estimator: BaseEstimator, spectra: NDArray[Any], labels: NDArray[Any], seed: int = 0
) -> BaseEstimator:
    """Give a fitted baseline probabilities, if it has none.

    Args:
        estimator: What :func:`fit_classical` gave.
        spectra: Its training spectra, shape (N, bands).
        labels: Its labels, shape (N,).
        seed: Seed of the folds.

    Returns:
        An estimator with ``predict_proba``: the forest as it is; the support vector
        machine with sigmoids that are fitted to the scores of held-out folds (Platt).
    """
    if hasattr(estimator, 'predict_proba'):
        return estimator
    generator = np.random.RandomState(seed)
    folds = list(_stratified_folds(labels, SEARCH_FOLDS, generator))
    calibrated = CalibratedClassifierCV(clone(estimator), cv=folds, ensemble=False)
    return calibrated.fit(spectra, labels)


def scene_spectra(
    scene: 'HyperspectralScene', pixels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Read single spectra of a scene.

    Args:
        scene: The scene, in memory or lazy.
        pixels: Flat row-major pixel indices of shape (N,).

    Returns:
        Spectra of shape (N, bands) in the scene's units.
    """
    rows, cols = np.divmod(np.asarray(pixels, dtype=np.int64), scene.shape[1])
    spectra = np.empty((len(rows), scene.num_bands), dtype=np.float32)
    for row in np.unique(rows):
        on_row = rows == row
        first, last = int(cols[on_row].min()), int(cols[on_row].max()) + 1
        line = scene.read(int(row), int(row) + 1, first, last)[0]
        spectra[on_row] = line[cols[on_row] - first]
    return spectra


def training_data(
    scene: 'HyperspectralScene', split: 'Split'
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Give the training spectra of a split, (N, bands), and their classes from 0, (N,)."""
    labels = split.labels(scene.label_map, 'train') - 1
    return scene_spectra(scene, split.train), labels


def count_tested(
    estimator: Any, scene: 'HyperspectralScene', split: 'Split'
) -> NDArray[np.int64]:
    """Count true and predicted classes of a split's test pixels, (C, C)."""
    truth = split.labels(scene.label_map, 'test') - 1
    predicted = estimator.predict(scene_spectra(scene, split.test))
    labels = range(scene.num_classes)
    counts: NDArray[np.int64] = confusion_matrix(truth, predicted, labels=labels)
    return counts


def classical_confusion(
    name: str, scene: 'HyperspectralScene', split: 'Split', seed: int = 0
) -> NDArray[np.int64]:
    """Fit a classical baseline on a split's training pixels and test it.

    Args:
        name: One of :data:`CLASSICAL_NAMES`.
        scene: The scene.
        split: Training and test pixels.
        seed: Seed of the classifier.

    Returns:
        Confusion counts of the test pixels of shape (C, C), first axis true class;
        hand them to ``metrics.Accuracies.from_confusion``.
    """
    estimator = fit_classical(name, *training_data(scene, split), seed)
    return count_tested(estimator, scene, split)
