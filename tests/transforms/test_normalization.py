# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import scale

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.transforms import PatchSource, SpectralNormalizer, normalization

from .scenes import ArrayWindows, make_cube, make_scene


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
    # Those of a mask may be among the pixels that are asked for.
    for positions in (None, np.argwhere(valid | ~valid)):
        normalizer = SpectralNormalizer('minmax').fit(scene, positions)
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
    """Of a constant scene nothing would be left; a constant pixel becomes 0."""
    cube = np.full((3, 4, 7), 3.3, dtype=np.float32)  # a pixel's mean is rounded
    with pytest.raises(ValueError, match=r'one value|nothing'):
        SpectralNormalizer(method).fit(HyperspectralScene(cube, None))
    if method in ('zscore', 'minmax'):
        return
    cube[1, 1] = np.arange(7) + 1
    if method == 'l2':
        cube[0] = 0
    found = apply(SpectralNormalizer(method).fit(HyperspectralScene(cube, None)), cube)
    assert not found[0].any() and found[1, 1].any()


@pytest.mark.parametrize('method', ['zscore', 'minmax'])
def test_bands_without_spread_are_named(
    method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cube = make_cube(bands=30).astype(np.float64)
    cube[:, :, [3, *range(8, 25)]] = 0.7  # whose mean over the pixels is rounded
    SpectralNormalizer(method).fit(HyperspectralScene(cube, None))
    assert '18 of 30 bands hold one value and become 0: 3, 8, 9' in caplog.text
    assert '17, ...; leave them out' not in caplog.text
    caplog.clear()
    SpectralNormalizer(method).fit(make_scene())
    assert not caplog.records


@pytest.mark.parametrize('method', ['zscore', 'minmax'])
def test_bands_without_spread_become_0_everywhere(method: Any) -> None:
    """Also where they vary: outside the training pixels, in another scene."""
    cube = make_cube()
    rows = cube.shape[0] // 2
    cube[:rows, :, 2] = 7
    cube[rows:, :, 2] = 5000
    positions = np.argwhere(np.ones((rows, cube.shape[1]), dtype=bool))
    fitted = SpectralNormalizer(method).fit(HyperspectralScene(cube, None), positions)
    again = SpectralNormalizer.from_state(fitted.state_dict())
    for normalizer in (fitted, again):
        found = apply(normalizer, cube)
        assert np.isfinite(found).all()
        assert not found[:, :, 2].any() and found[:, :, 1].any()


@pytest.mark.parametrize('method', ['snv', 'l2'])
def test_one_band_is_refused_where_nothing_is_left(method: Any) -> None:
    with pytest.raises(ValueError, match='nothing of a single band'):
        SpectralNormalizer(method).fit(make_scene(bands=1))
    SpectralNormalizer('none').fit(make_scene(bands=1))


def test_spectra_of_one_brightness_each_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every pixel has another value, but snv takes the pixel's mean away."""
    cube = np.arange(30, dtype=np.float32).reshape(5, 6, 1).repeat(4, axis=2)
    with pytest.raises(ValueError, match='would leave nothing'):
        SpectralNormalizer('snv').fit(HyperspectralScene(cube, None))
    # For l2 the rows differ, though each block, of one pixel, holds one spectrum.
    monkeypatch.setattr(normalization, '_BLOCK_VALUES', 1)
    SpectralNormalizer('l2').fit(HyperspectralScene(cube[:, :1], None))


@pytest.mark.parametrize('lazy', [False, True])
@pytest.mark.parametrize('method', ['zscore', 'minmax', 'snv'])
@pytest.mark.parametrize('offset', [1e6, -1e9, 1e12])
def test_values_far_from_zero(offset: float, method: Any, lazy: bool) -> None:
    """Patches of values far from 0 are those of the same values near 0."""
    near = np.random.default_rng(0).normal(0, 1, (9, 11, 6))
    far = near + offset
    near = far - offset  # what is left of the digits
    found, expected = (
        PatchSource(scene, SpectralNormalizer(method).fit(scene), 3).gather(
            torch.tensor([[4, 4], [0, 10]]), 'cpu'
        )
        for scene in (
            HyperspectralScene(ArrayWindows(cube) if lazy else cube, None)
            for cube in (far, near)
        )
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_single_precision_far_from_zero() -> None:
    cube = (np.arange(99 * 6) % 17 * 4 + 1e8).reshape(9, 11, 6).astype(np.float32)
    scene = HyperspectralScene(cube, None)
    found = apply(SpectralNormalizer().fit(scene), cube)
    exact = cube.astype(np.float64).reshape(-1, 6)
    exact = (exact - exact.mean(0)) / exact.std(0)
    np.testing.assert_allclose(found.reshape(-1, 6), exact, atol=1e-6)


def test_spread_below_single_precision() -> None:
    cube = make_cube().astype(np.float64) * 1e-40
    scene = HyperspectralScene(cube, None)
    source = PatchSource(scene, SpectralNormalizer().fit(scene), 1)
    found = source.gather(
        torch.cartesian_prod(torch.arange(9), torch.arange(11)), 'cpu'
    )
    assert found.isfinite().all() and 0.9 < float(found.std()) < 1.1


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
    with pytest.raises(ValueError, match='bands 2 hold NaN or infinite'):
        SpectralNormalizer(method).fit(scene)
