# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Label maps, and what must hold of a split of any of them."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import KDTree

from torchgeo_ekgnet.datasets.splits import Split, SplitProtocol, guard_distance

Labels = NDArray[np.int64]


quick = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def fields(rows: int = 40, cols: int = 48, side: int = 12) -> Labels:
    """A chequerboard of fields of four classes with unlabelled strips between."""
    row, col = np.indices((rows, cols))
    labels = (row // side + 2 * (col // side)) % 4 + 1
    gap = (row % side == 0) | (col % side == 0)
    return np.where(gap, 0, labels).astype(np.int64)


def write_masks(folder: Path) -> tuple[Labels, str, str]:
    """Write masks of the left columns to train and the others to test."""
    labels = fields()
    train = np.where(np.arange(labels.shape[1]) < 20, labels, 0)
    test = np.where(np.arange(labels.shape[1]) >= 20, labels, 0)
    scipy.io.savemat(folder / 'train.mat', {'TRLabel': train.astype(np.uint8)})
    np.save(folder / 'test.npy', test.astype(bool))
    return labels, str(folder / 'train.mat'), str(folder / 'test.npy')


def distances(split: Split, a: str, b: str) -> int:
    """Smallest Chebyshev distance between two subsets."""
    first, second = split.positions(a), split.positions(b)
    if not len(first) or not len(second):
        return 10**6
    return int(KDTree(second).query(first, p=np.inf)[0].min())


def indices_of(split: Split) -> list[list[int]]:
    return [split.train.tolist(), split.val.tolist(), split.test.tolist()]


def checked_split(
    protocol: SplitProtocol, labels: Labels, patch_size: int
) -> Split | None:
    """Draw a split that must part the pixels, keep its guard and serve its classes."""
    try:
        split = protocol(labels, patch_size)
    except ValueError as error:
        reasons = 'no class', 'nothing is left', 'no place for validation'
        assert any(reason in str(error) for reason in reasons)
        return None
    joined = np.concatenate([split.train, split.val, split.test])
    assert np.unique(joined).size == joined.size
    assert (labels.ravel()[joined] > 0).all()
    counts = split.counts(labels)
    total = np.sum(list(counts.values()), axis=0)
    assert total.tolist() == np.bincount(labels.ravel())[1:].tolist()
    for label in np.unique(labels[labels > 0]):
        served = label not in split.dropped
        assert (counts['train'][label - 1] > 0) == served
        assert (counts['test'][label - 1] > 0) == served
    # A matched split keeps the guard of the split that it thins.
    guard = split.settings.get('split', split.settings).get('guard', 'none')
    for a, b in (('train', 'test'), ('val', 'test'), ('train', 'val')):
        assert distances(split, a, b) > guard_distance(guard, patch_size)
    overlap = split.overlap(patch_size)
    assert overlap.contains_training_centre == 0 or guard == 'none'
    assert overlap.shares_training_pixel == 0 or guard != 'patch'
    assert split == protocol(labels, patch_size)
    return split


@st.composite
def label_maps(draw: Any) -> Labels:
    rows, cols = draw(st.integers(6, 24)), draw(st.integers(6, 24))
    seed = draw(st.integers(0, 1000))
    side = draw(st.integers(1, 8))
    classes = draw(st.integers(1, 5))
    generator = np.random.RandomState(seed)
    coarse = generator.randint(
        0, classes + 1, (-(-rows // side), -(-cols // side))
    ).astype(np.int64)
    labels = np.kron(coarse, np.ones((side, side), dtype=np.int64))[:rows, :cols]
    labels[0, 0] = 1
    return np.ascontiguousarray(labels)


def with_rare(*sizes: int) -> Labels:
    """Fields, and rare classes from 5 on of these sizes between them."""
    labels = fields()
    free = np.flatnonzero(labels.ravel() == 0)
    for i, size in enumerate(sizes):
        labels.flat[free[:size]] = 5 + i
        free = free[size:]
    return labels


GOLDEN: dict[str, list[list[int]]] = {
    'random': [[2, 3, 4, 5, 9, 12, 14], [10, 11], [0, 1, 7, 8]],
    'count': [
        [11, 30, 41, 47],
        [21, 26, 42, 46],
        [9, 10, 13, 14, 15, 17, 18, 19, 22, 23, 25, 27, 29, 31, 43, 45],
    ],
    'blocks': [
        [13, 18, 19, 22, 23, 26, 27, 30, 31, 42, 43, 46, 47],
        [9],
        [10, 11, 14, 15, 17, 21, 25, 29, 41, 45],
    ],
}
