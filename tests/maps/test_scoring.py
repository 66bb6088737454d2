# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import DisjointSplit, RandomSplit
from torchgeo_ekgnet.datasets.splits.split import dilate
from torchgeo_ekgnet.maps import predict_map
from torchgeo_ekgnet.maps.scoring import Found, count_smoothed, score_smoothed
from torchgeo_ekgnet.maps.smoothing import Smoothing
from torchgeo_ekgnet.metrics import Accuracies

from .conftest import Network


class TestScores:
    def _data(self, split: Any) -> SyntheticSceneDataModule:
        data = SyntheticSceneDataModule(
            rows=30, cols=30, num_bands=6, num_classes=3, patch_size=5, split=split
        )
        data.setup('test')
        return data

    @pytest.mark.parametrize('edges', [None, 0.1])
    def test_scores_are_those_of_the_smoothed_map(self, edges: float | None) -> None:
        data = self._data(RandomSplit(0.05, 0.1))
        torch.manual_seed(0)
        network = Network().eval()
        found, share = score_smoothed(network, data, Smoothing(3, edges))
        made = predict_map(
            network, data.scene, patches=data.patch_source, smooth=3, smooth_edges=edges
        )
        assert made.smoothed is not None
        positions = data.split.positions('test')
        truth = data.split.labels(data.scene.label_map, 'test') - 1
        predicted = made.smoothed[positions[:, 0], positions[:, 1]] - 1
        confusion = np.zeros((3, 3), dtype=int)
        np.add.at(confusion, (truth, predicted), 1)
        expected = Accuracies.from_confusion(confusion)
        assert np.abs(found.confusion - expected.confusion).sum() <= (
            0 if edges is None else 2
        )
        # A guided filter averages twice: it looks twice as far.
        near = KDTree(data.split.positions('train')).query(positions, p=np.inf)[0]
        assert share == pytest.approx((near <= (1 if edges is None else 2)).mean())

    def test_windows_that_reach_no_training_pixel(self) -> None:
        data = self._data(DisjointSplit(guard='patch'))
        _, share = score_smoothed(Network().eval(), data, Smoothing(3))
        assert share == 0

    def test_pixels_that_are_classified(self) -> None:
        """Those that a test pixel looks at, where they have data."""
        data = self._data(RandomSplit(0.2, 0.7))
        data.scene.valid = data.scene.valid & ~data.split.mask('val')
        masks = []

        def classified(wanted: NDArray[np.bool_]) -> Iterator[Found]:
            masks.append(wanted)
            places = np.argwhere(wanted)
            yield places, np.full((len(places), 3), 1 / 3, dtype=np.float32)

        count_smoothed(data, Smoothing(5), classified)
        expected = dilate(data.split.mask('test'), 2) & data.scene.valid
        assert np.array_equal(masks[0], expected)
