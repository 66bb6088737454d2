# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.datasets.synthetic import synthetic_scene
from torchgeo_ekgnet.maps import load_classifier, predict_map, write_map
from torchgeo_ekgnet.transforms.normalization import SpectralNormalizer
from torchgeo_ekgnet.transforms.patches import PatchSource

from ..graphs import CountingBackend
from .conftest import BANDS, PATCH, Network, make_scene

Patches = Callable[[HyperspectralScene], PatchSource]

OPTIONS: dict[str, Any] = {'window_size': 6, 'batch_size': 10}


def read_raster(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        values: NDArray[Any] = file.read()
    return values


def _one_by_one(
    network: nn.Module, scene: HyperspectralScene, source: PatchSource
) -> NDArray[np.float32]:
    """Cut every patch by hand, and classify it alone."""
    rows, cols, bands = scene.shape
    half = PATCH // 2
    cube = source.normalizer(torch.from_numpy(scene.read(0, rows, 0, cols)))
    cube[torch.from_numpy(~scene.valid)] = 0
    padded = torch.zeros(rows + 2 * half, cols + 2 * half, bands)
    padded[half : half + rows, half : half + cols] = cube
    result = np.full((3, rows, cols), np.nan, dtype=np.float32)
    with torch.inference_mode():
        for row, col in np.argwhere(scene.valid):
            patch = padded[row : row + PATCH, col : col + PATCH].permute(2, 0, 1)
            result[:, row, col] = network(patch[None]).softmax(1)[0].numpy()
    return result


def test_compiled_map_is_the_map(
    scene: HyperspectralScene,
    network: nn.Module,
    patches_of: Patches,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The graph that is captured is what matters; no compiler is needed to run it.
    backend = CountingBackend()
    torch.compiler.reset()
    monkeypatch.setattr(
        torch, 'compile', functools.partial(torch.compile, backend=backend)
    )
    source = patches_of(scene)
    plain = predict_map(network, scene, patches=source, **OPTIONS)
    compiled = predict_map(network, scene, patches=source, compile=True, **OPTIONS)
    assert 1 <= backend.graphs <= 2
    np.testing.assert_array_equal(compiled.labels, plain.labels)
    np.testing.assert_allclose(compiled.confidence, plain.confidence, atol=1e-6)


def test_map_equals_single_patches(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches
) -> None:
    source = patches_of(scene)
    made = predict_map(
        network, scene, patches=source, entropy=True, probabilities=True, **OPTIONS
    )
    expected = _one_by_one(network, scene, source)
    valid = scene.valid
    assert made.probabilities is not None and made.entropy is not None
    assert np.allclose(made.probabilities, expected, atol=1e-5, equal_nan=True)
    assert (made.labels[~valid] == 0).all()
    assert (made.labels[valid] == expected[:, valid].argmax(0) + 1).all()
    assert np.isnan(made.confidence[~valid]).all()
    top = made.probabilities.max(0)
    assert np.array_equal(made.confidence, top, equal_nan=True)
    assert (made.colours()[~valid] == 0).all()
    assert made.entropy[valid].max() <= np.log(3) + 1e-6


def test_map_of_ekgnet_equals_single_patches() -> None:
    """1000 pixels anywhere, corners included, cut by hand and classified alone."""
    torch.manual_seed(0)
    rows, cols, half = 40, 36, 3
    scene = synthetic_scene(rows, cols, 8, 4)
    network = timm.create_model(
        'ekgnet_tiny', in_chans=8, num_classes=4, block_config=(1, 1)
    ).eval()
    normalizer = SpectralNormalizer('zscore').fit(scene)
    source = PatchSource(scene, normalizer, 2 * half + 1)
    made = predict_map(network, scene, patches=source, probabilities=True)
    assert made.probabilities is not None
    corners = [0, cols - 1, (rows - 1) * cols, rows * cols - 1]
    random = np.random.default_rng(0).permutation(rows * cols)[:996]
    chosen = np.union1d(corners, random)
    cube = normalizer(torch.from_numpy(scene.read(0, rows, 0, cols))).numpy()
    padded = np.pad(cube, ((half, half), (half, half), (0, 0)))
    with torch.inference_mode():
        for row, col in zip(*np.divmod(chosen, cols), strict=True):
            patch = padded[row : row + 7, col : col + 7].transpose(2, 0, 1)
            alone = network(torch.from_numpy(patch[None].copy())).softmax(1)[0]
            found = made.probabilities[:, row, col]
            np.testing.assert_allclose(found, alone.numpy(), atol=1e-5, rtol=0)


def test_files_hold_the_same(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    source = patches_of(scene)
    made = predict_map(network, scene, patches=source, probabilities=True, **OPTIONS)
    files = write_map(
        network,
        scene,
        tmp_path / 'out',
        patches=source,
        entropy=True,
        probabilities=True,
        **OPTIONS,
    )
    values = np.array((0, 2, 5, 9))[made.labels]
    assert (read_raster(files.classes)[0] == values).all()
    confidence = read_raster(files.confidence)
    assert confidence.shape[0] == 2
    assert np.array_equal(confidence[0], made.confidence, equal_nan=True)
    assert files.probabilities is not None and made.probabilities is not None
    assert np.array_equal(
        read_raster(files.probabilities), made.probabilities, equal_nan=True
    )
    assert files.counts == tuple(np.bincount(made.labels.ravel())[1:])
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == [
        '.torchgeo_ekgnet',
        'confidence.tif',
        'map.json',
        'map.png',
        'map.tif',
        'map.tif.aux.xml',
        'probabilities.tif',
    ]


def test_window_and_batch_sizes_do_not_matter(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches
) -> None:
    source = patches_of(scene)
    whole = predict_map(network, scene, patches=source)
    for window, batch in ((1, 1), (4, 3), (7, 100)):
        made = predict_map(
            network, scene, patches=source, window_size=window, batch_size=batch
        )
        assert np.allclose(made.confidence, whole.confidence, equal_nan=True)
        assert (made.labels == whole.labels).all()


def test_lazy_scene_gives_the_same(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    np.save(tmp_path / 'cube.npy', scene.read(0, 21, 0, 17))
    cube = np.load(tmp_path / 'cube.npy', mmap_mode='r')
    lazy = HyperspectralScene(cube, scene.label_map, name='tiny', valid=scene.valid)
    assert not lazy.in_memory
    one = predict_map(network, scene, patches=patches_of(scene), **OPTIONS)
    two = predict_map(network, lazy, patches=patches_of(lazy), **OPTIONS)
    assert np.array_equal(one.confidence, two.confidence, equal_nan=True)


def test_lower_precision(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches
) -> None:
    source = patches_of(scene)
    full = predict_map(network, scene, patches=source)
    half = predict_map(network, scene, patches=source, precision='bf16')
    assert not np.array_equal(half.confidence, full.confidence, equal_nan=True)
    assert np.allclose(half.confidence, full.confidence, atol=0.03, equal_nan=True)


def test_labelled_scope(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches
) -> None:
    source = patches_of(scene)
    made = predict_map(network, scene, patches=source, scope='labelled', **OPTIONS)
    assert ((made.labels > 0) == (scene.label_map > 0)).all()


def test_network_needs_patches(scene: HyperspectralScene, network: nn.Module) -> None:
    with pytest.raises(TypeError, match='pass patches=PatchSource'):
        predict_map(network, scene)


def test_network_keeps_its_mode(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    network.train()
    network.get_submodule('first').eval()
    source = patches_of(scene)
    predict_map(network, scene, patches=source)
    write_map(network, scene, tmp_path, patches=source, picture=False)
    assert [module.training for module in network.modules()] == [True, False, True]


def test_maps_of_several_threads(patches_of: Patches) -> None:
    """The thread that ends first leaves the network in evaluation mode for the others."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(BANDS), Network())
    scenes = [make_scene(side, side, valid=None) for side in (9, 21, 33)]
    sources = [patches_of(scene) for scene in scenes]
    network.eval()
    expected = [
        predict_map(network, scene, patches=source).labels
        for scene, source in zip(scenes, sources, strict=True)
    ]
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with ThreadPoolExecutor(3) as pool:
        made = [
            pool.submit(predict_map, network, scene, patches=source, batch_size=10)
            for scene, source in zip(scenes, sources, strict=True)
        ]
        for future, labels in zip(made, expected, strict=True):
            np.testing.assert_array_equal(future.result().labels, labels)
    assert all(module.training for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_map_that_fails_leaves_the_mode(
    scene: HyperspectralScene, patches_of: Patches
) -> None:
    network = Network(bands=4).train()
    with pytest.raises(RuntimeError):
        predict_map(network, scene, patches=patches_of(scene))
    assert all(module.training for module in network.modules())


def test_wrong_arguments(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    source: Any = patches_of(scene)
    wrong: Any = '16'
    with pytest.raises(ValueError, match="precision: found '16', expected '32' or 'bf"):
        predict_map(network, scene, patches=source, precision=wrong)
    with pytest.raises(ValueError, match='precision'):
        write_map(network, scene, tmp_path / 'o', patches=source, precision=wrong)
    assert not (tmp_path / 'o').exists()
    for where in ('nowhere', 'cuda:99'):
        told = rf"device: found '{where}', expected one .* here: cpu"
        with pytest.raises(ValueError, match=told):
            predict_map(network, scene, patches=source, device=where)
        with pytest.raises(ValueError, match=told):
            load_classifier('no.ckpt', where)
    bare = HyperspectralScene(scene.cube, None, name='bare')
    with pytest.raises(ValueError, match=r'bare has no labels.*class_names='):
        predict_map(network, bare, patches=source)
    others: list[Any] = [scene.cube, source]
    for other in others:
        with pytest.raises(TypeError, match=rf'found {type(other).__name__}, expected'):
            predict_map(network, other, patches=source)


def test_scene_smaller_than_the_patch(patches_of: Patches) -> None:
    with pytest.raises(ValueError, match='the scene has 3 x 9 pixels'):
        patches_of(make_scene(3, 9, valid=None))
