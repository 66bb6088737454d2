# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Damaged MATLAB files of version 5 are refused before SciPy's reader sees them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from tests.robustness.isolation import trials
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.datasets.sources.matlab import check_elements

VALUES: dict[str, Any] = {
    'cube': np.arange(24.0).reshape(2, 3, 4),
    'complex': np.array([[1 + 2j]]),
    'struct': {'x': np.ones((3, 3), 'uint8'), 'y': 'text', 'z': {'q': np.float32(1)}},
    'cell': np.array([1, 'a', np.ones(2)], dtype=object),
    'flag': np.array([True]),
    'text': 'hello',
    'sparse': scipy.sparse.eye(3).tocsc(),
    'empty': np.zeros((0, 0)),
}


@pytest.mark.parametrize('compressed', [True, False])
def test_whole_files_pass(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / 'whole.mat'
    scipy.io.savemat(path, VALUES, do_compression=compressed)
    check_elements(path)


def test_version_4_has_no_elements(tmp_path: Path) -> None:
    path = tmp_path / 'old.mat'
    scipy.io.savemat(path, {'a': np.ones((2, 2))}, format='4')
    check_elements(path)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='trials run in forked processes')
def test_no_damage_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / 'labels.mat'
    scipy.io.savemat(path, {'labels': np.ones((12, 10), 'uint8'), 's': {'x': 1.0}})
    content = path.read_bytes()
    damaged = [
        content[:at] + fill * 8 + content[at + 8 :]
        for at in range(128, len(content) - 8, 8)
        for fill in (b'\0', b'\x13', b'\xff')
    ]

    def read(changed: bytes) -> Callable[[], str]:
        def work() -> str:
            path.write_bytes(changed)
            try:
                check_elements(path)
            except FileError:
                return 'refused'
            try:
                scipy.io.loadmat(path)
            except Exception as error:  # noqa: BLE001  (reading() turns it into one)
                return type(error).__name__
            return 'read'

        return work

    ends = [end for _, end in trials([read(changed) for changed in damaged])]
    assert not [end for end in ends if end.startswith(('death', 'hang'))]
    assert ends.count('refused') > 10


def test_cells_of_version_7_3(tmp_path: Path) -> None:
    """Written with h5py as MATLAB writes them: references, axes in reverse."""
    cube = np.arange(24, dtype='int16').reshape(2, 3, 4)
    path = tmp_path / 'cells.mat'
    with h5py.File(path, 'w', userblock_size=512) as file:
        inner = file.create_group('#refs#')
        cells = file.create_dataset('c', (3, 1), dtype=h5py.ref_dtype)
        cells.attrs['MATLAB_class'] = np.bytes_('cell')
        text = inner.create_dataset('a', data=np.array([[104]], 'uint16'))
        text.attrs['MATLAB_class'] = np.bytes_('char')
        for place, data in ((0, text), (1, inner.create_dataset('b', data=cube.T))):
            cells[place, 0] = data.ref
        cells[2, 0] = inner.create_dataset('d', data=cube[:, :, 0].T).ref
    for lazy in (True, False):
        for name in (None, 'c.2', 'c/2'):
            scene = open_scene(path, cube_variable=name, lazy=lazy)
            assert (scene.read(0, 2, 0, 3) == cube).all()
    with pytest.raises(ValueError, match=r'c\.5'):
        open_scene(path, cube_variable='c.5')
