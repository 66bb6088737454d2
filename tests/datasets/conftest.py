# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Files of a small scene that labels are read for."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.geotiff import data as geotiff

from .label_scene import CUBE


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    return geotiff.write(tmp_path / 'cube.tif', CUBE.transpose(2, 0, 1))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    np.save(tmp_path / 'plain.npy', CUBE)
    return tmp_path / 'plain.npy'
