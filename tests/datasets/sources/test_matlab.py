# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Damaged MATLAB files of version 5 are refused before SciPy's reader sees them."""

import os
import zlib
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


def test_array_of_structs_of_version_7_3(tmp_path: Path) -> None:
    cube = np.arange(24, dtype='int16').reshape(2, 3, 4)
    path = tmp_path / 'structs.mat'
    with h5py.File(path, 'w', userblock_size=512) as file:
        structs, inner = file.create_group('s'), file.create_group('#refs#')
        structs.attrs['MATLAB_class'] = np.bytes_('struct')
        field = structs.create_dataset('cube', (2, 1), dtype=h5py.ref_dtype)
        field[0, 0] = inner.create_dataset('a', data=cube.T).ref
        nested = inner.create_group('b')
        nested['deep'] = cube.T + 1
        field[1, 0] = nested.ref
        # An object is a number of its own, and no array.
        made = file.create_dataset('gt', data=np.ones((1, 6), 'uint32'))
        made.attrs['MATLAB_object_decode'] = 3
    assert (open_scene(path, cube_variable='s/1/cube').cube == cube).all()
    assert (open_scene(path, cube_variable='s.2.cube.deep').cube == cube + 1).all()
    with pytest.raises(ValueError, match=r"no variable 'gt'.*categorical arrays of MA"):
        open_scene(path, path, cube_variable='s/1/cube', labels_variable='gt')


@pytest.mark.parametrize('compressed', [True, False])
def test_objects_beside_arrays(tmp_path: Path, compressed: bool) -> None:
    """SciPy lists no variable of a file that holds a table or a text in quotes."""
    path, cube = tmp_path / 'a.mat', np.arange(24.0).reshape(2, 3, 4)
    scipy.io.savemat(path, {'cube': cube}, do_compression=compressed)

    def element(kind: int, data: bytes) -> bytes:
        head = kind.to_bytes(4, 'little') + len(data).to_bytes(4, 'little')
        return head + data + bytes(0 if kind == 15 else -len(data) % 8)

    values = element(6, bytes([13, *bytes(7)])) + element(5, bytes([1, 0, 0, 0] * 2))
    values += element(1, b'') + element(6, bytes(4))
    names = b''.join(element(1, name) for name in (b'note', b'MCOS', b'string'))
    made = element(14, element(6, bytes([17, *bytes(7)])) + names + element(14, values))
    if compressed:
        made = element(15, zlib.compress(made))
    whole = path.read_bytes()
    path.write_bytes(whole[:128] + made + whole[128:])
    with pytest.raises(TypeError):
        scipy.io.whosmat(path)
    assert (open_scene(path).cube == cube).all()
