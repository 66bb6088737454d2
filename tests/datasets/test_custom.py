# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of own scenes: ENVI, rasters, arrays; raster and vector labels."""

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchgeo.datasets import DatasetNotFoundError

from tests.data.arrays import data as arrays
from tests.data.envi import data as envi
from tests.processes import needs_posix
from torchgeo_ekgnet.datamodules import CustomSceneDataModule
from torchgeo_ekgnet.datasets import (
    BandSelection,
    CustomScene,
    SceneOptions,
    open_scene,
)


@pytest.mark.parametrize(
    'function', [open_scene, CustomScene.__init__, CustomSceneDataModule.__init__]
)
def test_every_option_is_described(function: Callable[..., Any]) -> None:
    # From here the command line's help takes its words, too.
    text = inspect.getdoc(function) or ''
    options = set(inspect.signature(SceneOptions).parameters)
    assert options <= set(inspect.signature(function).parameters)
    described = re.findall(r'^    (\w+): ', text, re.MULTILINE)
    assert options <= set(described) and 'options' not in described


class TestCustomScene:
    def test_relative_paths(self, tmp_path: Path) -> None:
        root = arrays.make(tmp_path)
        (root / 'centres.txt').write_text('0.45 0.5\n0.55,0.6\n0.65\n0.7\n0.75\n')
        dataset = CustomScene(
            root,
            patch_size=5,
            cube='cube.npy',
            labels='labels.npy',
            wavelengths='centres.txt',
            wavelength_unit='um',
            bands=BandSelection(wavelengths=[(500, 700)]),
            name='mine',
        )
        assert dataset[0]['image'].shape == (5, 5, 5)
        assert dataset.scene.name == 'mine'
        assert dataset.wavelengths is not None
        np.testing.assert_allclose(dataset.wavelengths, [500, 550, 600, 650, 700])
        assert dataset.classes == ('class 2', 'class 5')

    def test_lazy_patches_equal_those_in_memory(self, tmp_path: Path) -> None:
        envi.make(tmp_path)
        envi.polygons(tmp_path / 'f.gpkg')
        options: dict[str, Any] = {
            'cube': 'scene.hdr',
            'labels': 'f.gpkg',
            'attribute': 'crop',
            'patch_size': 7,
            'padding_mode': 'reflect',
        }
        lazy = CustomScene(tmp_path, lazy=True, **options)
        memory = CustomScene(tmp_path, lazy=False, **options)
        assert len(lazy) == len(memory) > 0
        for index in (0, len(lazy) - 1):
            assert (lazy[index]['image'] == memory[index]['image']).all()

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No shell has read the paths of a YAML file."""
        arrays.make(tmp_path)
        (tmp_path / 'centres.txt').write_text('450 500 550 600 650 700 750')
        monkeypatch.setenv('HOME', str(tmp_path))
        options: dict[str, Any] = {'patch_size': 5, 'wavelengths': '~/centres.txt'}
        there = CustomScene('~', cube='cube.npy', labels='labels.npy', **options)
        elsewhere = CustomScene(
            tmp_path.parent, cube='~/cube.npy', labels='~/labels.npy', **options
        )
        assert len(there) == len(elsewhere) > 0

    def test_no_root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whole paths need none, and those of the folder one is in are pointed out."""
        root, nowhere = arrays.make(tmp_path), tmp_path / 'nowhere'
        cube, labels = str(root / 'cube.npy'), str(root / 'labels.npy')
        assert len(CustomScene(nowhere, 5, cube=cube, labels=labels)) > 0
        monkeypatch.chdir(root)
        with pytest.raises(
            DatasetNotFoundError, match=r"holds cube\.npy \(it is in '\.'"
        ):
            CustomScene(nowhere, 5, cube='cube.npy')

    @needs_posix
    def test_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / 'pipe.npy')
        with pytest.raises(FileNotFoundError, match='is a pipe or a device, expected'):
            CustomScene(tmp_path, cube='pipe.npy', patch_size=5)

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='cube is missing'):
            CustomScene(tmp_path)
        with pytest.raises(
            DatasetNotFoundError,
            match=r'^root: there is no folder .*nowhere, .* a\.tif',
        ):
            CustomScene(tmp_path / 'nowhere', cube='a.tif')
        with pytest.raises(FileNotFoundError, match='there is no file'):
            CustomScene(tmp_path, cube='a.tif')
        (tmp_path / 'flat.npy').touch()
        with pytest.raises(
            NotADirectoryError, match=r'^root: found the file .*flat\.npy'
        ):
            CustomScene(tmp_path / 'flat.npy', cube='flat.npy')
        with pytest.raises(TypeError, match=r'^root: found None, expected the folder'):
            CustomScene(None, cube='flat.npy')
        with pytest.raises(
            TypeError, match='cube: found ndarray, expected the name of'
        ):
            CustomScene(tmp_path, cube=np.zeros((3, 3, 2)))
        root = arrays.make(tmp_path)
        with pytest.raises(FileNotFoundError, match='labels: there is no file'):
            CustomScene(root, cube='cube.npy', labels='absent.npy')
        with pytest.raises(ValueError, match='patch_size is 17, expected at most'):
            CustomScene(root, cube='cube.npy', patch_size=17)
        with pytest.raises(ValueError, match='labels: found an empty name, expected'):
            CustomScene(root, cube='cube.npy', labels='', patch_size=5)
        with pytest.raises(ValueError, match='cube: found an empty name, expected'):
            CustomScene(root, cube=['cube.npy', ''], patch_size=5)
        np.save(root / 'empty.npy', np.zeros((0, 4, 3)))
        with pytest.raises(ValueError, match=r'empty array of shape \(0, 4, 3\)'):
            CustomScene(root, cube='empty.npy', patch_size=5)
        with pytest.raises(TypeError, match=r"the text 'ab' as class names"):
            CustomScene(root, 5, cube='cube.npy', labels='labels.npy', class_names='ab')
        (root / 'centres.txt').write_text('450 nm and 500')
        with pytest.raises(ValueError, match='expected one wavelength a band'):
            CustomScene(root, cube='cube.npy', patch_size=5, wavelengths='centres.txt')
