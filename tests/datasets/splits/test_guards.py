# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Distances between the pixels of different subsets."""

import numpy as np
import pytest

from torchgeo_ekgnet.datasets.splits import guard_distance
from torchgeo_ekgnet.datasets.splits.guards import drawn, guarded


@pytest.mark.parametrize(
    ('guard', 'patch_size', 'expected'),
    [
        ('none', 7, 0),
        ('centre', 7, 3),
        ('patch', 7, 6),
        ('centre', 1, 0),
        ('patch', 3, 2),
    ],
)
def test_guard_distance(guard: str, patch_size: int, expected: int) -> None:
    assert guard_distance(guard, patch_size) == expected


def test_words_and_sizes_without_meaning() -> None:
    with pytest.raises(
        ValueError, match=r"^guard is 'far', expected 'none', 'centre' or 'patch'$"
    ):
        guard_distance('far', 7)
    with pytest.raises(ValueError, match='patch_size is 4'):
        guard_distance('none', 4)


@pytest.mark.parametrize(
    ('distance', 'val', 'test'),
    [
        (0, [1, 2, 3], [4, 5, 6, 7, 9]),
        (1, [2, 3], [5, 6, 7]),
        (2, [3], [6, 7]),
        # What validates no more keeps no test pixel away.
        (3, [], [4, 5, 6]),
    ],
)
def test_guarded(distance: int, val: list[int], test: list[int]) -> None:
    subset_of = np.array([[0, 1, 1, 1, 2, 2, 2, 2, -1, 2, 0]])
    masks = guarded(subset_of, distance)
    assert [np.flatnonzero(mask).tolist() for mask in masks] == [[0, 10], val, test]


def test_drawn() -> None:
    labels = np.array([[0, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4]])
    subset = np.array([[0, 0, 0, 2, 2, 0, 1, 2, 2, 0, 0, 2, 1]])
    masks = [subset == number for number in range(3)]
    text = '4 pixels, of which {} could train and {} test, expected at least {} each'
    subsets, reasons = drawn(labels, masks)
    assert {name: found.tolist() for name, found in subsets.items()} == {
        'train': [0, 1, 2, 5, 9, 10],
        'val': [6, 12],
        'test': [3, 4, 7, 8, 11],
    }
    assert {found.dtype for found in subsets.values()} == {np.dtype(np.int64)}
    assert reasons == {}
    assert drawn(labels, masks, 2)[1] == {
        2: text.format(1, 2, 2),
        4: text.format(2, 1, 2),
    }
