# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import scale

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.transforms import SpectralNormalizer, normalization

from .scenes import make_cube, make_scene


def apply(normalizer: SpectralNormalizer, cube: NDArray[Any]) -> NDArray[np.float32]:
    return normalizer(torch.from_numpy(cube)).numpy()


@pytest.mark.parametrize('lazy', [False, True])
def test_zscore_is_sklearn_scale(lazy: bool) -> None:
    cube = make_cube()
    expected = scale(cube.reshape(-1, cube.shape[2]).astype(np.float64))
    normalizer = SpectralNormalizer('zscore').fit(make_scene(lazy=lazy))
    found = apply(normalizer, cube).reshape(-1, cube.shape[2])
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SpectralNormalizer('zscore').fit(make_scene())
    monkeypatch.setattr(normalization, '_BLOCK_VALUES', 1)
    blocks = SpectralNormalizer('zscore').fit(make_scene())
    assert whole.offset is not None and blocks.offset is not None
    assert whole.scale is not None and blocks.scale is not None
    torch.testing.assert_close(whole.offset, blocks.offset, rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.scale, blocks.scale, rtol=1e-12, atol=0)


def test_training_pixels_only() -> None:
    cube = make_cube()
    positions = np.array([[0, 0], [3, 4], [8, 10], [5, 5]])
    normalizer = SpectralNormalizer('zscore').fit(make_scene(), positions)
    chosen = cube[positions[:, 0], positions[:, 1]]
    found = apply(normalizer, chosen)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-5)


def test_nodata_is_left_out() -> None:
    cube = make_cube()
    valid = np.ones(cube.shape[:2], dtype=bool)
    valid[2:5, 3:9] = False
    poisoned = cube.copy()
    poisoned[~valid] = 1e30
    scene = HyperspectralScene(poisoned, None, valid=valid)
    normalizer = SpectralNormalizer('minmax').fit(scene)
    found = apply(normalizer, cube)[valid]
    np.testing.assert_allclose(found.min(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found.max(axis=0), 1, atol=1e-6)


def test_pixel_methods() -> None:
    cube = make_cube()
    snv = apply(SpectralNormalizer('snv'), cube)
    np.testing.assert_allclose(snv.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(snv.std(axis=2), 1, atol=1e-5)
    l2 = apply(SpectralNormalizer('l2'), cube)
    np.testing.assert_allclose(np.linalg.norm(l2, axis=2), 1, atol=1e-5)
    assert np.array_equal(apply(SpectralNormalizer('none'), cube), cube)


@pytest.mark.parametrize('method', ['zscore', 'minmax', 'snv', 'l2'])
def test_no_spread(method: Any) -> None:
    cube = np.zeros((3, 4, 5), dtype=np.float32)
    if method != 'l2':
        cube += 3.3
    scene = HyperspectralScene(cube, None)
    found = apply(SpectralNormalizer(method).fit(scene), cube)
    assert np.array_equal(found, np.zeros_like(cube))


def test_integers_and_devices() -> None:
    cube = (make_cube() / 20).astype(np.uint16)
    scene = HyperspectralScene(cube, None)
    normalizer = SpectralNormalizer().fit(scene)
    found = normalizer(torch.from_numpy(cube.astype(np.int32)))
    assert found.dtype == torch.float32
    assert abs(float(found.mean())) < 1e-4


@pytest.mark.parametrize('method', ['zscore', 'minmax', 'snv', 'l2', 'none'])
def test_state(method: Any) -> None:
    normalizer = SpectralNormalizer(method).fit(make_scene())
    again = SpectralNormalizer.from_state(normalizer.state_dict())
    assert np.array_equal(apply(normalizer, make_cube()), apply(again, make_cube()))
    assert again.fitted
    with pytest.raises(ValueError, match='expected method, over, offset and scale'):
        SpectralNormalizer.from_state({'method': method})


def test_state_of_lists() -> None:
    normalizer = SpectralNormalizer().fit(make_scene())
    state = normalizer.state_dict()
    lists = {k: v.tolist() if torch.is_tensor(v) else v for k, v in state.items()}
    again = SpectralNormalizer.from_state(lists)
    assert np.array_equal(apply(normalizer, make_cube()), apply(again, make_cube()))


def test_errors() -> None:
    with pytest.raises(ValueError, match="method is 'log', expected one of"):
        SpectralNormalizer('log')  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="over is 'test', expected one of"):
        SpectralNormalizer(over='test')  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match='call fit first'):
        apply(SpectralNormalizer(), make_cube())
    normalizer = SpectralNormalizer().fit(make_scene())
    with pytest.raises(ValueError, match='statistics of 6 bands'):
        apply(normalizer, make_cube(bands=5))
    invalid = make_scene()
    invalid.valid = np.zeros_like(invalid.valid)
    with pytest.raises(ValueError, match='no pixel with data'):
        SpectralNormalizer().fit(invalid)


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('method', ['zscore', 'minmax'])
def test_nan_outside_nodata(value: float, method: Any) -> None:
    scene = make_scene()
    scene.cube[4, 4, 2] = value
    with pytest.raises(ValueError, match=r'bands \[2\] hold NaN or infinite'):
        SpectralNormalizer(method).fit(scene)
