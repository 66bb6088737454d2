# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest
import torch

from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import DisjointSplit, RandomSplit
from torchgeo_ekgnet.maps import predict_map
from torchgeo_ekgnet.maps.scoring import score_smoothed
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
        data = self._data(RandomSplit(0.2, 0.1))
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
        assert np.abs(found.confusion - expected.confusion).sum() <= 2
        assert 0.5 < share <= 1

    def test_windows_that_reach_no_training_pixel(self) -> None:
        data = self._data(DisjointSplit(guard='patch'))
        _, share = score_smoothed(Network().eval(), data, Smoothing(3))
        assert share == 0
