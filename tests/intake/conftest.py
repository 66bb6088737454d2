# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The files of a small scene of one's own."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data.public_scenes.data import save_mat

ROWS, COLS, BANDS = 30, 36, 8

#: Label values, and where they lie: fields apart from each other.
VALUES = (2, 5, 9)


def own_labels() -> NDArray[np.uint8]:
    """Three classes in stripes, twice each."""
    labels = np.zeros((ROWS, COLS), dtype=np.uint8)
    for index in range(6):
        labels[1:-1, 6 * index : 6 * index + 5] = VALUES[index % 3]
    return labels


def own_cube() -> NDArray[np.float64]:
    """Spectra that differ by class, with some noise."""
    random = np.random.RandomState(0)
    means = random.uniform(1000, 3000, (10, BANDS))
    return means[own_labels()] + random.normal(0, 150, (ROWS, COLS, BANDS))


@pytest.fixture
def mat_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A pair of MATLAB files in the working directory."""
    monkeypatch.chdir(tmp_path)
    cube, labels = Path('fields.mat'), Path('fields_gt.mat')
    save_mat(cube, '5', reflectance=own_cube())
    save_mat(labels, '7.3', truth=own_labels())
    return cube, labels
