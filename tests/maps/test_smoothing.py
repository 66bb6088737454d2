# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from torch import nn

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.maps import predict_map, raster, write_map
from torchgeo_ekgnet.maps.smoothing import Smoothing, make_guidance
from torchgeo_ekgnet.transforms.patches import PatchSource

from .conftest import make_scene

Patches = Callable[[HyperspectralScene], PatchSource]


def _probabilities(rows: int = 9, cols: int = 11, classes: int = 3) -> NDArray[Any]:
    random = np.random.default_rng(0)
    values = random.dirichlet(np.ones(classes), size=(rows, cols))
    return np.moveaxis(values, -1, 0).astype(np.float32)


@pytest.mark.parametrize('window', [3, 5, 25])
def test_mean_over_the_window(window: int) -> None:
    """Every pixel alone, by hand; pixels without probabilities take no part."""
    values = _probabilities()
    values[:, 2:4, 5] = np.nan
    smooth = Smoothing(window)(values)
    half = window // 2
    for row, col in np.ndindex(values.shape[1:]):
        around = values[
            :, max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1
        ]
        expected = np.nanmean(around.reshape(3, -1), axis=1)
        if np.isnan(values[0, row, col]):
            assert np.isnan(smooth[:, row, col]).all()
        else:
            np.testing.assert_allclose(smooth[:, row, col], expected, rtol=1e-5)


@pytest.mark.parametrize('edges', [None, 0.1, 10.0])
def test_probabilities_stay_probabilities(edges: float | None) -> None:
    values = _probabilities()
    values = (values == values.max(axis=0)).astype(np.float32)
    guidance = np.random.default_rng(1).normal(size=(3, 9, 11)).astype(np.float32)
    smooth = Smoothing(5, edges)(values, None if edges is None else guidance)
    assert (smooth >= 0).all()
    np.testing.assert_allclose(smooth.sum(axis=0), 1, rtol=1e-5)


def test_edges_are_kept() -> None:
    """A step in the scene keeps the classes apart that a plain mean blends."""
    values = np.zeros((2, 12, 12), dtype=np.float32)
    values[0, :, :6], values[1, :, 6:] = 1, 1
    guidance = np.where(np.arange(12) < 6, -1.0, 1.0)
    planes = np.broadcast_to(guidance, (1, 12, 12)).astype(np.float32)
    plain = Smoothing(5)(values)
    along = Smoothing(5, 0.001)(values, planes)
    assert plain[0, 6, 5] < 0.7
    assert along[0, 6, 5] > 0.95 and along[1, 6, 6] > 0.95
    flat = np.zeros_like(planes)
    blurred = Smoothing(5, 0.001)(values, flat)
    assert blurred[0, 6, 5] < 0.7


def test_edges_beside_pixels_without_data_leave_something() -> None:
    """A pixel that is unlike all others with data keeps its class."""
    values = np.full((2, 15, 15), np.nan, dtype=np.float32)
    values[:, 5:10, 5:10] = np.array([0, 1]).reshape(2, 1, 1)
    guidance = np.zeros((1, 15, 15), dtype=np.float32)
    guidance[0, 5:10, 5:10] = 2
    guidance[0, 7, 7] = -1
    smooth = Smoothing(5, 0.01)(values, guidance)
    np.testing.assert_allclose(smooth, values)


@pytest.mark.parametrize(
    ('window', 'edges', 'reach'), [(3, None, 1), (5, None, 2), (3, 1.0, 2), (5, 1.0, 4)]
)
def test_reach_is_how_far_a_pixel_looks(
    window: int, edges: float | None, reach: int
) -> None:
    smoothing = Smoothing(window, edges)
    values = _probabilities(15, 17)
    other = values.copy()
    other[:, 7, 8] = np.roll(other[:, 7, 8], 1)
    random = np.random.default_rng(1).normal(size=(1, 15, 17)).astype(np.float32)
    guidance = None if edges is None else random
    changed = smoothing(values, guidance) != smoothing(other, guidance)
    distance = np.abs(np.argwhere(changed.any(axis=0)) - (7, 8)).max(axis=1)
    assert distance.max() == smoothing.reach == reach


def test_classes_are_the_most_probable_ones() -> None:
    results = np.zeros((4, 5), dtype=[('label', 'u1'), ('probabilities', 'f4', 3)])
    results['probabilities'] = (0.3, 0.1, 0.6)
    results['probabilities'][:, :2] = (0.2, 0.5, 0.3)
    results['label'] = 1
    results['label'][3, 4] = 0
    results['probabilities'][3, 4] = np.nan
    # Of the second column the neighbours think otherwise: 0.7, 1.1 and 1.2 in sum.
    expected = np.array([[2, 3, 3, 3, 3]] * 4)
    expected[3, 4] = 0
    np.testing.assert_array_equal(Smoothing(3).classes(results, None), expected)


@pytest.mark.parametrize(
    ('window', 'edges', 'message'),
    [
        (4, None, 'odd number'),
        (1, None, 'odd number'),
        (2, None, 'odd number'),
        (-3, None, 'odd number'),
        (5, 0.0, 'positive number'),
        (5, float('nan'), 'positive number'),
        (5, float('inf'), 'positive number'),
    ],
)
def test_bad_settings(window: int, edges: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Smoothing(window, edges)


def test_edges_need_a_window(scene: HyperspectralScene, network: nn.Module) -> None:
    with pytest.raises(ValueError, match='without a window'):
        predict_map(network, scene, smooth_edges=0.1)


@pytest.mark.parametrize('bands', [2, 6])
def test_guidance_of_few_bands(bands: int) -> None:
    cube = np.random.default_rng(0).normal(size=(8, 9, bands)).astype(np.float32)
    scene = HyperspectralScene(cube, None)
    read = make_guidance(scene)
    whole = read(0, 8, 0, 9)
    assert whole.shape == (1 if bands < 3 else 3, 8, 9)
    np.testing.assert_allclose(whole.std(axis=(1, 2)), 1, rtol=0.05)
    np.testing.assert_allclose(read(2, 5, 3, 7), whole[:, 2:5, 3:7], atol=1e-5)
    assert Smoothing(3).guidance(scene)(0, 8, 0, 9) is None
    guidance = Smoothing(3, 0.1).guidance(scene)(0, 8, 0, 9)
    assert guidance is not None and np.array_equal(guidance, whole)


def test_guidance_of_pixels_without_data_is_the_mean(scene: HyperspectralScene) -> None:
    planes = make_guidance(scene)(3, 9, 2, 17)
    invalid = ~scene.valid[3:9, 2:17]
    assert invalid.sum() == 9
    assert (planes[:, invalid] == 0).all() and (planes[:, ~invalid] != 0).all()


@pytest.mark.parametrize('edges', [None, 0.1])
def test_files_hold_the_same(
    network: nn.Module,
    patches_of: Patches,
    tmp_path: Path,
    edges: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second map lies beside the first, in tiles as in one piece."""
    monkeypatch.setattr(raster, 'TILE_SIZE', 16)
    scene = make_scene(45, 37)
    options: dict[str, Any] = {
        'patches': patches_of(scene),
        'smooth': 5,
        'smooth_edges': edges,
    }
    made = predict_map(network, scene, **options)
    files = write_map(network, scene, tmp_path, **options)
    plain = predict_map(network, scene, patches=options['patches'])
    np.testing.assert_array_equal(made.labels, plain.labels)
    assert files.smoothed is not None and made.smoothed is not None
    with rasterio.open(files.smoothed) as file:
        values = file.read(1)
    assert (values > 0).sum() == scene.valid.sum()
    table = np.array([0, *made.legend.values])
    assert (values != table[made.smoothed]).sum() <= (0 if edges is None else 2)
    assert (made.smoothed != made.labels).any()
    assert (tmp_path / 'smoothed.png').is_file()
    assert not (tmp_path / 'probabilities.tif').exists()
    write_map(network, scene, tmp_path, patches=options['patches'])
    assert not list(tmp_path.glob('smoothed*'))
