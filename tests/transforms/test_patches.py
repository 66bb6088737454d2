# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.datasets.windows import SceneWindows
from torchgeo_ekgnet.transforms import (
    PatchSource,
    SpectralNormalizer,
    SpectralPCA,
    gather_patches,
    orient,
    patches,
)

from .scenes import ArrayWindows, make_cube, make_scene

ALL = torch.cartesian_prod(torch.arange(9), torch.arange(11))


def source(
    scene: HyperspectralScene | None = None, size: int = 5, **kwargs: Any
) -> PatchSource:
    scene = scene or make_scene()
    return PatchSource(scene, SpectralNormalizer().fit(scene), size, **kwargs)


def oracle(
    scene: HyperspectralScene, size: int, mode: str, row_col: Tensor
) -> NDArray[np.float32]:
    """Patches by numpy: normalise, pad, slice."""
    normalizer = SpectralNormalizer().fit(scene)
    rows, cols, _ = scene.shape
    cube = normalizer(torch.from_numpy(scene.read(0, rows, 0, cols))).numpy().copy()
    cube[~scene.valid] = 0
    half = size // 2
    modes: dict[str, Any] = {'zeros': 'constant', 'reflect': 'reflect'}
    padded = np.pad(cube, ((half, half), (half, half), (0, 0)), mode=modes[mode])
    return np.stack(
        [padded[r : r + size, c : c + size].transpose(2, 0, 1) for r, c in row_col]
    )


@pytest.mark.parametrize('lazy', [False, True])
@pytest.mark.parametrize('mode', ['zeros', 'reflect'])
@pytest.mark.parametrize('size', [1, 3, 5, 9])
def test_gather_every_pixel(lazy: bool, mode: Any, size: int) -> None:
    """Borders included, each patch is what numpy's padding gives."""
    scene = make_scene(lazy=lazy)
    found = source(scene, size, padding_mode=mode).gather(ALL, 'cpu')
    assert found.shape == (99, 6, size, size)
    assert found.dtype == torch.float32 and found.is_contiguous()
    np.testing.assert_allclose(found.numpy(), oracle(scene, size, mode, ALL), atol=1e-6)


@pytest.mark.parametrize('lazy', [False, True])
def test_scattered_pixels(lazy: bool) -> None:
    scene = make_scene(40, 50, lazy=lazy)
    row_col = torch.tensor([[0, 0], [39, 49], [20, 3], [0, 49], [39, 0]])
    found = source(scene).gather(row_col, 'cpu')
    np.testing.assert_allclose(
        found.numpy(), oracle(scene, 5, 'zeros', row_col), atol=1e-6
    )


def test_centre_is_the_pixel() -> None:
    scene = make_scene()
    normalizer = SpectralNormalizer().fit(scene)
    spectra = normalizer(torch.from_numpy(scene.cube)).reshape(99, 6)
    assert torch.allclose(source(scene).gather(ALL, 'cpu')[:, :, 2, 2], spectra)


@pytest.mark.parametrize('lazy', [False, True])
@pytest.mark.parametrize('scattered', [False, True])
def test_orientation(lazy: bool, scattered: bool) -> None:
    scene = make_scene(40, 50, lazy=lazy)
    row_col = torch.tensor([[3 + 4 * i * scattered, 5 + i] for i in range(8)])
    plain = source(scene).gather(row_col, 'cpu')
    turned = source(scene).gather(row_col, 'cpu', torch.arange(8))
    for k in range(8):
        assert torch.equal(turned[k], orient(plain[k], k))


@pytest.mark.parametrize('lazy', [False, True])
def test_nodata_is_zero(lazy: bool) -> None:
    valid = np.ones((9, 11), dtype=bool)
    valid[4, 5] = valid[0, 0] = False
    scene = make_scene(lazy=lazy, valid=valid)
    found = source(scene).gather(torch.tensor([[4, 5], [4, 6]]), 'cpu')
    assert not found[0, :, 2, 2].any() and not found[1, :, 2, 1].any()
    assert found[1, :, 2, 2].all()


def test_nan_nodata() -> None:
    cube = make_cube()
    cube[2, 2] = np.nan
    scene = HyperspectralScene(cube, None, nodata=float('nan'))
    for method in ('zscore', 'snv', 'l2'):
        normalizer = SpectralNormalizer(method).fit(scene)
        found = PatchSource(scene, normalizer, 5).gather(ALL, 'cpu')
        assert found.isfinite().all()


@pytest.mark.parametrize('lazy', [False, True])
@pytest.mark.parametrize('mode', ['zeros', 'reflect'])
def test_window(lazy: bool, mode: Any) -> None:
    patch_source = source(make_scene(lazy=lazy), padding_mode=mode)
    whole = patch_source.gather(ALL, 'cpu')
    for bounds in ((0, 9, 0, 11), (0, 1, 0, 1), (3, 8, 2, 11), (8, 9, 10, 11)):
        top, bottom, left, right = bounds
        block = patch_source.read_block(*bounds)
        assert block.shape == (bottom - top + 4, right - left + 4, 6)
        inside = torch.cartesian_prod(
            torch.arange(bottom - top), torch.arange(right - left)
        )
        found = gather_patches(block, inside, 5)
        index = (inside[:, 0] + top) * 11 + inside[:, 1] + left
        torch.testing.assert_close(found, whole[index])


def test_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = source(padding_mode='reflect').gather(ALL, 'cpu')
    monkeypatch.setattr(patches, '_BLOCK_VALUES', 1)
    assert torch.equal(source(padding_mode='reflect').gather(ALL, 'cpu'), whole)


def test_lazy_neighbours_are_one_read() -> None:
    cube = ArrayWindows(make_cube(60, 60))
    scene = HyperspectralScene(cube, None)
    normalizer = SpectralNormalizer().fit(scene)
    patch_source = PatchSource(scene, normalizer, 5)
    assert patch_source.lazy
    cube.reads = 0
    block = torch.cartesian_prod(torch.arange(10, 26), torch.arange(30, 46))
    patch_source.gather(block, 'cpu')
    assert cube.reads == 1
    # Of large patches those that overlap: the window has no more pixels than they have.
    corners = torch.cartesian_prod(torch.tensor([10, 18]), torch.tensor([30, 38]))
    PatchSource(scene, normalizer, 9).gather(corners, 'cpu')
    assert cube.reads == 2


@pytest.mark.parametrize('size', [1, 3, 7])
@pytest.mark.parametrize('share', [1.0, 0.1])
def test_a_lazy_map_reads_each_window_once(size: int, share: float) -> None:
    cube = ArrayWindows(make_cube(70, 90))
    scene = HyperspectralScene(cube, None)
    patch_source = PatchSource(scene, SpectralNormalizer('none').fit(scene), size)
    selected = np.random.default_rng(0).random((70, 90)) < share
    windows = SceneWindows(selected, window_size=32, batch_size=100)
    whole = make_scene(70, 90)
    expected = PatchSource(whole, patch_source.normalizer, size)
    cube.reads = 0
    for index in range(len(windows)):
        item = windows[index]
        found = patch_source.gather(item['row_col'], 'cpu', within=item['bounds'])
        assert torch.equal(found, expected.gather(item['row_col'], 'cpu'))
    assert cube.reads == 9
    patch_source.clear()
    assert patch_source._last_window is None


def test_cube_that_does_not_fit_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (100, 900))
    assert patches._room(torch.device('cuda')) == 50
    expected = source().gather(ALL, 'cpu')
    size = 4 * (9 + 4) * (11 + 4) * 6
    for room, cubes in ((size, 1), (size - 1, 0)):
        monkeypatch.setattr(patches, '_room', lambda device, room=room: room)
        patch_source = source()
        assert torch.equal(patch_source.gather(ALL, 'cpu'), expected)
        assert len(patch_source._cubes) == cubes


def test_empty_batch() -> None:
    for lazy in (False, True):
        none = torch.empty(0, 2, dtype=torch.int64)
        found = source(make_scene(lazy=lazy)).gather(none, 'cpu')
        assert found.shape == (0, 6, 5, 5)


def test_cube_is_kept_and_freed() -> None:
    patch_source = source()
    cube = patch_source.cube('cpu')
    assert cube.shape == (13, 15, 6) and cube.is_contiguous()
    assert patch_source.cube('cpu') is cube
    assert len(pickle.dumps(patch_source)) < len(pickle.dumps(cube)) * 3
    patch_source._last_window = (None, cube)
    again = pickle.loads(pickle.dumps(patch_source))
    assert again._cubes == {} and again._last_window is None
    patch_source.clear()
    assert patch_source.cube('cpu') is not cube


@pytest.mark.parametrize('lazy', [False, True])
def test_pca(lazy: bool) -> None:
    scene = make_scene(lazy=lazy)
    normalizer = SpectralNormalizer().fit(scene)
    pca = SpectralPCA(2).fit(scene, None, normalizer)
    patch_source = PatchSource(scene, normalizer, 3, pca=pca)
    found = patch_source.gather(ALL, 'cpu')
    assert patch_source.num_bands == 2 and found.shape == (99, 2, 3, 3)
    expected = pca(normalizer(torch.from_numpy(make_cube()))).reshape(99, 2)
    torch.testing.assert_close(found[:, :, 1, 1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('components', [None, 2])
def test_from_state(components: int | None) -> None:
    scene = make_scene()
    # Without statistics of its own the number of bands is that of the components.
    normalizer = SpectralNormalizer('zscore' if components is None else 'snv')
    normalizer.fit(scene)
    pca = None
    if components is not None:
        pca = SpectralPCA(components).fit(scene, None, normalizer)
    first = PatchSource(scene, normalizer, 5, 'reflect', pca)
    state = {
        'normalizer': normalizer.state_dict(),
        'pca': None if pca is None else pca.state_dict(),
        'patch_size': 5,
        'padding_mode': 'reflect',
    }
    again = PatchSource.from_state(scene, state)
    assert torch.equal(first.gather(ALL, 'cpu'), again.gather(ALL, 'cpu'))
    with pytest.raises(ValueError, match='statistics are those of 6 bands'):
        PatchSource.from_state(make_scene(bands=5), state)
    del state['patch_size']
    with pytest.raises(ValueError, match='data state has the entries'):
        PatchSource.from_state(scene, state)


@pytest.mark.parametrize('method', ['zscore', 'minmax'])
@pytest.mark.parametrize(
    ('factor', 'offset', 'doubted'),
    [(1e-4, 0, True), (1e4, 0, True), (1, 1e9, True), (1, 0, False), (1.3, 40, False)],
)
def test_a_scene_in_other_units_is_questioned(
    method: Any,
    factor: float,
    offset: float,
    doubted: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    normalizer = SpectralNormalizer(method).fit(make_scene())
    state = {
        'normalizer': normalizer.state_dict(),
        'pca': None,
        'patch_size': 3,
        'padding_mode': 'zeros',
    }
    cube = make_cube().astype(np.float64) * factor + offset
    PatchSource.from_state(HyperspectralScene(cube, None, name='new'), state)
    assert ('new: its values run from' in caplog.text) is doubted
    assert ('are they in other units?' in caplog.text) is doubted
    for cols, known in ((9, False), (10, doubted)):  # 27 pixels tell nothing, 30 do
        caplog.clear()
        part = HyperspectralScene(cube[:3, :cols], None, name='new')
        PatchSource.from_state(part, state)
        assert ('new: its values run from' in caplog.text) is known


@pytest.mark.parametrize(
    ('scale', 'doubted'), [(1e-4, False), (2e-5, True), (None, False)]
)
def test_another_declared_scale_is_questioned(
    scale: float | None, doubted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bands = make_cube().shape[2]
    trained = HyperspectralScene(make_cube(), None, scaling=[(1e-4, 0.0)] * bands)
    state = {
        'normalizer': SpectralNormalizer().fit(trained).state_dict(),
        'pca': None,
        'patch_size': 3,
        'padding_mode': 'zeros',
        'scene': trained.metadata(),
    }
    scaling = [] if scale is None else [(scale, 0.0)] * bands
    scene = HyperspectralScene(make_cube(), None, name='new', scaling=scaling)
    PatchSource.from_state(scene, state)
    assert ('new: its file declares factor 2e-05' in caplog.text) is doubted


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'size': 4}, 'patch_size is 4, expected a positive odd'),
        ({'size': 0}, 'patch_size is 0'),
        ({'size': 11}, 'expected at most 9: the scene has 9 x 11'),
        ({'padding_mode': 'wrap'}, 'padding_mode is'),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(**kwargs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda() -> None:
    patch_source = source()
    expected = patch_source.gather(ALL, 'cpu', torch.arange(99) % 8)
    found = patch_source.gather(ALL, 'cuda', torch.arange(99, device='cuda') % 8)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected)
