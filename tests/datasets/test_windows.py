# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from torchgeo_ekgnet.datasets.windows import SceneWindows


def _cover(windows: SceneWindows) -> np.ndarray:
    """Count how often each pixel is listed."""
    count = np.zeros(windows.shape, dtype=int)
    for batch in range(windows.num_batches):
        positions = windows.positions(batch)
        assert len(positions) == windows.size(batch)
        assert 0 < len(positions) <= windows.batch_size
        np.add.at(count, (positions[:, 0], positions[:, 1]), 1)
        row0, row1, col0, col1 = windows.window(batch)
        assert ((positions >= (row0, col0)) & (positions < (row1, col1))).all()
    return count


@pytest.mark.parametrize('shape', [(1, 1), (5, 7), (16, 16), (33, 18)])
@pytest.mark.parametrize(('window', 'batch'), [(1, 1), (4, 3), (8, 64), (64, 10)])
def test_every_pixel_once(shape: tuple[int, int], window: int, batch: int) -> None:
    windows = SceneWindows(np.ones(shape, bool), window, batch)
    assert (_cover(windows) == 1).all()
    assert windows.num_pixels == shape[0] * shape[1]


def test_only_selected_pixels() -> None:
    selected = np.random.default_rng(0).random((23, 31)) < 0.2
    selected[:8] = False
    windows = SceneWindows(selected, 8, 5)
    assert (_cover(windows) == selected).all()
    assert windows.num_pixels == selected.sum()


@pytest.mark.parametrize(
    'part',
    [(5, 21, 9, 33), (8, 16, 0, 8), (15, 17, 15, 17), (39, 40, 49, 50), (0, 40, 0, 50)],
)
def test_batches_in_a_part_hold_all_its_pixels(part: tuple[int, int, int, int]) -> None:
    selected = np.random.default_rng(1).random((40, 50)) < 0.5
    windows = SceneWindows(selected, 8, 7)
    count = np.zeros(windows.shape, dtype=int)
    top, bottom, left, right = part
    batches = windows.batches_in(*part)
    bounds = [windows.window(batch) for batch in range(windows.num_batches)]
    assert batches == [
        batch
        for batch, (row0, row1, col0, col1) in enumerate(bounds)
        if row0 < bottom and row1 > top and col0 < right and col1 > left
    ]
    for batch in batches:
        positions = windows.positions(batch)
        count[positions[:, 0], positions[:, 1]] += 1
    inside = (slice(top, bottom), slice(left, right))
    assert (count[inside] == selected[inside]).all()


def test_loader_gives_whole_batches() -> None:
    windows = SceneWindows(np.ones((9, 10), bool), 4, 6)
    batches = list(DataLoader(windows, batch_size=None))
    assert [int(item['window']) for item in batches] == list(range(len(windows)))
    assert sum(len(item['row_col']) for item in batches) == 90
    assert batches[0]['row_col'].dtype == torch.int64


def test_subset_keeps_numbers_and_boundaries() -> None:
    windows = SceneWindows(np.ones((12, 12), bool), 5, 4)
    part = windows.subset([7, 2])
    assert len(part) == 2
    assert int(part[0]['window']) == 7
    assert torch.equal(part[1]['row_col'], windows[2]['row_col'])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match='batch_size is 0, expected a whole num'):
        SceneWindows(np.ones((3, 3), bool), batch_size=0)
    with pytest.raises(ValueError, match=r'found the shape \(3,\)'):
        SceneWindows(np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match='batches must lie in'):
        SceneWindows(np.ones((3, 3), bool), batches=[1])
    with pytest.raises(IndexError, match='not one of 1'):
        SceneWindows(np.ones((3, 3), bool)).positions(1)
