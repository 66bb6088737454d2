# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests that values which look like noise in one order of bytes only are doubted."""

import contextlib
import logging
from pathlib import Path

import numpy as np
import pytest

from torchgeo_ekgnet.datasets import open_scene

ROWS, COLS, BANDS = 30, 24, 6
MESSAGE = 'read with byte order {}, as it says or leaves out, neighbouring pixels'


def write(root: Path, cube: np.ndarray, order: int | None, code: int) -> Path:
    """Write a band-sequential cube (bands, rows, cols) whose header gives an order."""
    cube.tofile(root / 'a.img')
    bands, rows, cols = cube.shape
    entries = [
        f'lines = {rows}',
        f'samples = {cols}',
        f'bands = {bands}',
        f'data type = {code}',
        'interleave = bsq',
    ]
    if order is not None:
        entries.append(f'byte order = {order}')
    (root / 'a.hdr').write_text('\n'.join(['ENVI', *entries, '']))
    return root / 'a.hdr'


def smooth(kind: str) -> np.ndarray:
    """Give a scene that changes slowly, with a little noise."""
    rows, cols = np.mgrid[:ROWS, :COLS]
    shape = 3000 + 900 * np.sin(rows / 9) * np.cos(cols / 7)
    noise = np.random.default_rng(1).normal(0, 40, (BANDS, ROWS, COLS))
    cube: np.ndarray = (shape + noise).astype(kind)
    return cube


@pytest.mark.parametrize(
    ('kind', 'code'), [('i2', 2), ('u2', 12), ('f4', 4), ('f8', 5)]
)
class TestOrder:
    def test_wrong_order_warns(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, code: int
    ) -> None:
        header = write(tmp_path, smooth(f'>{kind}'), None, code)
        # Floats whose bytes are turned may hold NaN, which is refused after the warning.
        with caplog.at_level(logging.WARNING), contextlib.suppress(ValueError):
            open_scene(header)
        assert MESSAGE.format(0) in caplog.text
        assert str(header) in caplog.text

    def test_right_order_is_quiet(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, code: int
    ) -> None:
        header = write(tmp_path, smooth(f'>{kind}'), 1, code)
        scene = open_scene(header)
        assert 'byte order' not in caplog.text
        assert scene.shape == (ROWS, COLS, BANDS)


def test_noise_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.random.default_rng(2).integers(0, 9000, (BANDS, ROWS, COLS))
    header = write(tmp_path, values.astype('>i2'), 0, 2)
    open_scene(header)
    assert 'byte order' not in caplog.text
