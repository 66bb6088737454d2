# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the synthetic scene."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter
from sklearn.svm import SVC

from torchgeo_ekgnet.datasets import BandSelection, SyntheticScene, synthetic_scene
from torchgeo_ekgnet.datasets.synthetic import _brightness


class TestSyntheticScene:
    def test_it_says_that_it_is_synthetic(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        dataset = SyntheticScene(rows=20, cols=20, num_bands=8)
        assert 'SYNTHETIC SCENE' in caplog.text
        assert dataset.scene.synthetic
        assert dataset.scene.metadata()['synthetic'] is True
        assert 'synthetic' in dataset.scene.source
        title = dataset.plot_scene().get_suptitle()
        assert 'synthetic' in title.lower()

    def test_same_seed_same_scene(self) -> None:
        first = synthetic_scene(24, 31, 12, 5, seed=3)
        np.random.seed(99)
        np.random.uniform(size=7)
        second = synthetic_scene(24, 31, 12, 5, seed=3)
        assert np.array_equal(first.cube, second.cube)
        assert np.array_equal(first.label_map, second.label_map)
        other = synthetic_scene(24, 31, 12, 5, seed=4)
        assert not np.array_equal(first.label_map, other.label_map)

    def test_global_random_state_is_left_alone(self) -> None:
        np.random.seed(5)
        expected = np.random.uniform(size=3)
        np.random.seed(5)
        synthetic_scene(20, 20, 8, 4)
        assert np.array_equal(np.random.uniform(size=3), expected)

    @pytest.mark.parametrize(
        ('rows', 'cols', 'bands', 'classes'),
        [(100, 100, 100, 8), (8, 8, 1, 2), (61, 34, 103, 9), (33, 120, 2, 16)],
    )
    def test_sizes(self, rows: int, cols: int, bands: int, classes: int) -> None:
        scene = synthetic_scene(rows, cols, bands, classes)
        assert scene.shape == (rows, cols, bands)
        assert scene.cube.dtype == np.int16
        assert scene.num_classes == classes
        assert min(scene.class_counts) > 0
        assert 0.2 < (scene.label_map > 0).mean() < 0.95
        assert scene.wavelengths is not None and len(scene.wavelengths) == bands

    def test_bands(self) -> None:
        whole = synthetic_scene(20, 20, 10, 3)
        part = SyntheticScene(
            rows=20,
            cols=20,
            num_bands=10,
            num_classes=3,
            bands=BandSelection(exclude=[0, 4]),
        )
        assert np.array_equal(part.scene.cube, np.delete(whole.cube, [0, 4], axis=2))

    @pytest.mark.parametrize(
        ('changes', 'match'),
        [
            ({'rows': 7}, 'rows is 7, expected a whole number from 8'),
            ({'cols': 'many'}, "cols is 'many', expected"),
            ({'num_bands': 0}, 'num_bands is 0, expected'),
            ({'num_classes': 1}, 'num_classes is 1, expected'),
            ({'seed': None}, 'seed is None, expected'),
            ({'mixing': 1.5}, 'mixing is 1.5, expected'),
            ({'noise': -1.0}, 'noise is -1.0, expected'),
            ({'noise': math.nan}, 'noise is nan, expected'),
        ],
    )
    def test_errors(self, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            SyntheticScene(**changes)

    @pytest.mark.parametrize('size', [(8, 8), (16, 18), (20, 20), (8, 100)])
    @pytest.mark.parametrize('seed', [1, 5, 6])
    def test_small_scenes_are_lit(self, size: tuple[int, int], seed: int) -> None:
        cube = synthetic_scene(*size, 12, 3, seed=seed).read(0, size[0], 0, size[1])
        assert (cube.max(axis=2) > 0).mean() > 0.99
        assert 500 < np.median(cube) < 10000 and cube.max() < 20000

    def test_large_scenes_keep_their_light(self) -> None:
        random = np.random.RandomState(3)
        relief = gaussian_filter(random.standard_normal((60, 50)), 12.0)
        relief /= relief.std()
        expected = 1 + 0.08 * relief + 0.04 * random.standard_normal((60, 50))
        found = _brightness(np.random.RandomState(3), 60, 50)[:, :, 0]
        np.testing.assert_array_equal(found, expected.astype(np.float32))

    def test_easy_settings_are_easy(self) -> None:
        scene = synthetic_scene(60, 60, 20, 4, mixing=0.0, noise=0.0)
        assert accuracy(scene.cube, scene.label_map) > 0.97


def accuracy(cube: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of an RBF-SVM that sees 1,200 pixels, on 1,200 others."""
    position = np.flatnonzero(labels.ravel())
    spectra = cube.reshape(-1, cube.shape[2])[position, ::2].astype(np.float64)
    truth = labels.ravel()[position]
    spectra = (spectra - spectra.mean(axis=0)) / spectra.std(axis=0)
    order = np.random.RandomState(0).permutation(len(position))
    train, test = order[:1200], order[1200:2400]
    model = SVC(C=10).fit(spectra[train], truth[train])
    return float((model.predict(spectra[test]) == truth[test]).mean())


@pytest.mark.parametrize('seed', [0, 1])
def test_spectra_alone_do_not_solve_it(seed: int) -> None:
    scene = synthetic_scene(seed=seed)
    cube = scene.cube.astype(np.float64)
    alone = accuracy(cube, scene.label_map)
    neighbourhood = accuracy(uniform_filter(cube, (5, 5, 0)), scene.label_map)
    assert 0.4 < alone < 0.65
    assert neighbourhood > 0.9
    assert neighbourhood - alone > 0.3
