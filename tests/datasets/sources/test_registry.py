# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests that a new format is one file and one line."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from torchgeo_ekgnet._reading import FileError, reading
from torchgeo_ekgnet.datasets import CustomScene, open_scene, sources
from torchgeo_ekgnet.datasets.sources import ArraySource, Request, Source


class ToySource(ArraySource):
    """Numbers as text, a row of pixels a line, bands joined by commas."""

    @property
    def nodata(self) -> float | None:
        return -1.0

    def wavelengths(self, unit: str | None = None) -> np.ndarray:
        return np.linspace(500, 600, self.shape[2])

    def bad_bands(self) -> np.ndarray:
        return np.asarray(np.arange(self.shape[2]) == 1)


def open_toy(path: Path, request: Request) -> Source:
    with reading(path, 'a toy file'):
        lines = path.read_text().splitlines()
        cube = [[item.split(',') for item in line.split()] for line in lines]
        return ToySource(np.array(cube, dtype=np.int16), path)


TOY = SimpleNamespace(claims=lambda path: path.suffix == '.toy', open_source=open_toy)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, 'FORMATS', [TOY, *sources.FORMATS])
    path = tmp_path / 'cube.toy'
    path.write_text('1,2,3 4,5,6\n7,8,9 -1,8,7\n1,1,1 2,2,2\n')
    return path


def test_scene_of_a_new_format(toy: Path) -> None:
    scene = open_scene(toy)
    assert scene.shape == (3, 2, 2)
    assert scene.wavelengths is not None
    assert scene.wavelengths.tolist() == [500, 600]
    assert (~scene.valid).sum() == 1 and not scene.valid[1, 1]
    assert scene.cube[0].tolist() == [[1, 3], [4, 6]]
    toy.with_name('more.toy').write_text(toy.read_text())
    again = CustomScene(toy.parent, 1, cube=['cube.toy', 'more.toy']).scene
    assert again.num_bands == 4


def test_labels_of_a_new_format(toy: Path) -> None:
    labels = toy.with_name('labels.toy')
    labels.write_text('0 3\n3 3\n0 -1\n')
    scene = open_scene(toy, labels)
    assert scene.class_values == (3,)
    assert scene.label_map.tolist() == [[0, 1], [1, 0], [0, 0]]


def test_damaged_file_of_a_new_format(toy: Path) -> None:
    toy.write_text('1,2 3\n')
    with pytest.raises(FileError, match='cannot be read as a toy file'):
        open_scene(toy)


@pytest.mark.parametrize('name', ['cube.npy', 'cube.hdr'])
def test_name_of_an_array_where_there_is_one(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / 'cube.npy', np.ones((4, 5, 3), np.uint8))
    (tmp_path / 'cube.img').write_bytes(bytes(60))
    (tmp_path / 'cube.hdr').write_text(
        'ENVI\nsamples = 5\nlines = 4\nbands = 3\ndata type = 1\ninterleave = bip\n'
    )
    assert open_scene(tmp_path / name).shape == (4, 5, 3)
    with pytest.raises(FileError, match="found cube_variable='hsi', expected none"):
        open_scene(tmp_path / name, cube_variable='hsi')
