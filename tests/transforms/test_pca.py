# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from torchgeo_ekgnet.datasets import HyperspectralScene
from torchgeo_ekgnet.transforms import SpectralNormalizer, SpectralPCA, normalization

from .scenes import make_cube, make_scene


@pytest.mark.parametrize('method', ['zscore', 'minmax'])
@pytest.mark.parametrize('whiten', [False, True])
def test_against_sklearn(whiten: bool, method: Any) -> None:
    scene, cube = make_scene(), make_cube()
    normalizer = SpectralNormalizer(method).fit(scene)
    spectra = normalizer(torch.from_numpy(cube)).reshape(-1, 6)
    pca = SpectralPCA(3, whiten).fit(scene, None, normalizer)
    oracle = PCA(3, whiten=whiten, svd_solver='full').fit(spectra.numpy())
    expected = np.abs(oracle.transform(spectra.numpy()))
    if whiten:  # scikit-learn divides by N - 1
        expected *= np.sqrt(len(spectra) / (len(spectra) - 1))
    found = pca(spectra).numpy()
    np.testing.assert_allclose(np.abs(found), expected, rtol=2e-3, atol=2e-4)
    assert pca.variance_ratio == pytest.approx(
        float(oracle.explained_variance_ratio_.sum()), abs=1e-5
    )


def test_fitted_on_training_pixels_only() -> None:
    positions = np.argwhere(np.ones((4, 11), dtype=bool))
    scene = make_scene()
    first = SpectralPCA(2).fit(scene, positions)
    changed = make_scene()
    changed.cube[4:] *= 7
    second = SpectralPCA(2).fit(changed, positions)
    assert first.components is not None and second.components is not None
    torch.testing.assert_close(first.components, second.components)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SpectralPCA(3).fit(make_scene())
    monkeypatch.setattr(normalization, '_BLOCK_VALUES', 1)
    blocks = SpectralPCA(3).fit(make_scene())
    torch.testing.assert_close(whole.state_dict(), blocks.state_dict())


@pytest.mark.parametrize('offset', [1e9, -1e12])
def test_values_far_from_zero(offset: float) -> None:
    """Their components are those of the same values near 0."""
    far = np.random.default_rng(0).normal(0, [9, 3, 1], (9, 11, 3)) + offset
    near = far - offset  # what is left of the digits
    found, expected = (
        SpectralPCA(2).fit(scene, None, SpectralNormalizer('minmax').fit(scene))
        for scene in (HyperspectralScene(cube, None) for cube in (far, near))
    )
    torch.testing.assert_close(
        found.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5
    )


def test_signs_are_fixed() -> None:
    pca = SpectralPCA(4).fit(make_scene())
    assert pca.components is not None
    largest = pca.components.abs().argmax(dim=0)
    assert (pca.components[largest, torch.arange(4)] > 0).all()


def test_state() -> None:
    pca = SpectralPCA(2, whiten=True).fit(make_scene())
    again = SpectralPCA.from_state(pca.state_dict())
    cube = torch.from_numpy(make_cube())
    assert torch.equal(pca(cube), again(cube))
    assert again.variance_ratio == pca.variance_ratio
    with pytest.raises(ValueError, match='pca state has the entries'):
        SpectralPCA.from_state({'num_components': 2})


def test_errors() -> None:
    with pytest.raises(ValueError, match='num_components is 0'):
        SpectralPCA(0)
    with pytest.raises(ValueError, match='at most the 6 bands'):
        SpectralPCA(7).fit(make_scene())
    with pytest.raises(ValueError, match='fewer than the 2'):
        SpectralPCA(2).fit(make_scene(), np.array([[0, 0], [1, 1]]))
    with pytest.raises(RuntimeError, match='call fit first'):
        SpectralPCA(2)(torch.zeros(3, 6))
    scene = make_scene()
    scene.cube[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match='NaN or infinite'):
        SpectralPCA(2).fit(scene)


def test_rounding_is_not_whitened() -> None:
    cube = make_cube(bands=6)
    cube[:, :, 4:] = cube[:, :, :2]  # six bands of rank 4
    scene = HyperspectralScene(cube, None)
    normalizer = SpectralNormalizer().fit(scene)
    found = SpectralPCA(6, whiten=True).fit(scene, None, normalizer)
    values = found(normalizer(torch.from_numpy(cube)))
    np.testing.assert_allclose(values[..., :4].std((0, 1), correction=0), 1, rtol=1e-4)
    assert values[..., 4:].abs().max() < 1e-3
    # Rounding may leave a little of either sign, which is kept as no variance.
    assert found.variance is not None and found.variance.min() >= 0
    found.variance[4:] = 1e-16
    assert found(normalizer(torch.from_numpy(cube)))[..., 4:].abs().max() < 1e-3
