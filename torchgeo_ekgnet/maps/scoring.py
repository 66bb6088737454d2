# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Scores of smoothed probabilities on the test pixels of a scene."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from ..datasets.windows import SceneWindows
from ..metrics import Accuracies
from .predict import classify
from .smoothing import Smoothing

__all__ = ('count_smoothed', 'score_smoothed')

#: Positions of pixels (n, 2) and their class probabilities (n, classes).
Found = tuple[NDArray[np.int64], NDArray[np.float32]]


def score_smoothed(
    network: nn.Module,
    datamodule: Any,
    smoothing: Smoothing,
    device: torch.device | str = 'cpu',
    numbers: Tensor | None = None,
) -> tuple[Accuracies, float]:
    """Score the test pixels with smoothed probabilities.

    Args:
        network: Network from patches to logits, in evaluation mode.
        datamodule: Datamodule of the scene, after setup.
        smoothing: The smoothing.
        device: Device of the network.
        numbers: Class of the network for each class of the scene; the same by default.

    Returns:
        The scores, and the share of the test pixels whose window holds a training pixel:
        what the network was taught there has a part in their class.
    """

    def shown(wanted: NDArray[np.bool_]) -> Iterator[Found]:
        windows = SceneWindows(wanted, batch_size=datamodule.predict_batch_size or 256)
        source = datamodule.patch_source
        for batch, found in classify(network, source, windows, device):
            yield windows.positions(batch), found

    confusion, share = count_smoothed(datamodule, smoothing, shown, numbers)
    return Accuracies.from_confusion(confusion), share


def count_smoothed(
    datamodule: Any,
    smoothing: Smoothing,
    classified: Callable[[NDArray[np.bool_]], Iterable[Found]],
    numbers: Tensor | None = None,
) -> tuple[NDArray[np.int64], float]:
    """Count true and smoothed classes of the test pixels, whoever gave probabilities.

    Args:
        datamodule: Datamodule of the scene, after setup.
        smoothing: The smoothing.
        classified: Gives positions (n, 2) and probabilities (n, classes) of the pixels
            of a mask (rows, cols), in parts.
        numbers: Column of each class of the scene; the same by default.

    Returns:
        Confusion counts, and the share of the test pixels whose window holds a training
        pixel.
    """
    scene, split = datamodule.scene, datamodule.split
    rows, cols, _ = scene.shape
    side = 2 * smoothing.reach + 1
    positions = split.positions('test')
    around = ndimage.maximum_filter(split.mask('test'), side) & scene.valid
    values: NDArray[np.float32] | None = None
    for places, found in classified(around):
        if values is None:
            values = np.full((found.shape[1], rows, cols), np.nan, dtype=np.float32)
        values[:, places[:, 0], places[:, 1]] = found.T
    assert values is not None
    guidance = smoothing.guidance(scene)(0, rows, 0, cols)
    smooth = smoothing(values, guidance)[:, positions[:, 0], positions[:, 1]]
    truth = split.labels(scene.label_map, 'test') - 1
    if numbers is not None:
        truth = numbers.cpu().numpy()[truth]
    confusion = np.zeros((len(smooth), len(smooth)), dtype=np.int64)
    np.add.at(confusion, (truth, smooth.argmax(axis=0)), 1)
    taught = ndimage.maximum_filter(split.mask('train'), side)
    return confusion, float(taught[positions[:, 0], positions[:, 1]].mean())
