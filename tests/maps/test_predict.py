# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import errno
import functools
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import timm
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry import Point, box
from torch import nn

from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.datasets.synthetic import synthetic_scene
from torchgeo_ekgnet.datasets.windows import SceneWindows
from torchgeo_ekgnet.maps import predict_map, write_map
from torchgeo_ekgnet.maps.job import STAGING, MapJob
from torchgeo_ekgnet.maps.predict import classify
from torchgeo_ekgnet.maps.raster import Legend
from torchgeo_ekgnet.maps.selection import MapOptions, select_pixels
from torchgeo_ekgnet.transforms.normalization import SpectralNormalizer
from torchgeo_ekgnet.transforms.patches import PatchSource

from ..graphs import CountingBackend
from .conftest import PATCH, make_scene

Patches = Callable[[HyperspectralScene], PatchSource]

OPTIONS: dict[str, Any] = {'window_size': 6, 'batch_size': 10}


def _read(path: Path) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
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
    network = timm.create_model('ekgnet_tiny', in_chans=8, num_classes=4).eval()
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
    assert (_read(files.classes)[0] == values).all()
    confidence = _read(files.confidence)
    assert confidence.shape[0] == 2
    assert np.array_equal(confidence[0], made.confidence, equal_nan=True)
    assert files.probabilities is not None and made.probabilities is not None
    assert np.array_equal(
        _read(files.probabilities), made.probabilities, equal_nan=True
    )
    assert files.counts == tuple(np.bincount(made.labels.ravel())[1:])
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == [
        'confidence.tif',
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


def test_polygon_in_pixels(scene: HyperspectralScene, tmp_path: Path) -> None:
    path = tmp_path / 'field.geojson'
    frame = geopandas.GeoDataFrame(geometry=[box(2, 3, 10, 8), box(12, 15, 14, 20)])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        frame.to_file(path)
    selected = select_pixels(scene, MapOptions('polygon', str(path)))
    expected = np.zeros((21, 17), dtype=bool)
    expected[3:8, 2:10] = True
    expected[15:20, 12:14] = True
    assert (selected == (expected & scene.valid)).all()


def test_polygon_of_another_reference_system(tmp_path: Path) -> None:
    utm = rasterio.crs.CRS.from_epsg(32616)
    scene = make_scene(crs=utm, transform=Affine(20, 0, 500000, 0, -20, 4400000))
    corner = box(500000, 4400000 - 100, 500000 + 60, 4400000)
    frame = geopandas.GeoDataFrame(geometry=[corner], crs=32616).to_crs(4326)
    frame.to_file(tmp_path / 'corner.gpkg')
    options = MapOptions('polygon', str(tmp_path / 'corner.gpkg'))
    selected = select_pixels(scene, options)
    assert selected[:5, :3].all()
    assert selected.sum() == 15


def test_polygon_errors(scene: HyperspectralScene, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='belong together'):
        MapOptions('polygon')
    with pytest.raises(ValueError, match="found 'somewhere'"):
        MapOptions('somewhere')  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match='there is no file'):
        select_pixels(scene, MapOptions('polygon', str(tmp_path / 'x.gpkg')))
    points = tmp_path / 'points.gpkg'
    geopandas.GeoDataFrame(geometry=[Point(1, 1)], crs=4326).to_file(points)
    with pytest.raises(ValueError, match=r"must hold polygons, found \['Point'\]"):
        select_pixels(scene, MapOptions('polygon', str(points)))
    outside = tmp_path / 'outside.gpkg'
    geopandas.GeoDataFrame(geometry=[box(90, 90, 99, 99)], crs=4326).to_file(outside)
    with pytest.raises(ValueError, match='no pixel to classify'):
        select_pixels(scene, MapOptions('polygon', str(outside)))


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


def _job(folder: Path, scene: HyperspectralScene) -> MapJob:
    legend = Legend.from_classes(scene.class_names, scene.class_values, scene.palette)
    return MapJob(folder, scene, legend, MapOptions(**OPTIONS), {'weights': 'a'})


def _work(
    job: MapJob, part: SceneWindows, network: nn.Module, source: PatchSource
) -> None:
    for batch, values in classify(network, source, part):
        job.record(batch, values)
    job.close()


def test_two_processes_write_the_same_bytes(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    source = patches_of(scene)
    alone = _job(tmp_path / 'one', scene)
    _work(alone, alone.prepare(), network, source)
    expected = alone.finish()
    jobs = [_job(tmp_path / 'two', scene) for _ in range(2)]
    plan: list[Any] = []

    def broadcast(value: Any) -> Any:
        if value is not None:
            plan.append(value)
        return plan[0]

    parts = [job.prepare(rank, 2, broadcast) for rank, job in enumerate(jobs)]
    assert (parts[0].batches == parts[1].batches).all()
    for rank, job in enumerate(jobs):
        mine = parts[rank].subset(parts[rank].batches[rank::2])
        _work(job, mine, network, source)
    files = jobs[0].finish()
    for one, two in (
        (expected.classes, files.classes),
        (expected.confidence, files.confidence),
    ):
        assert one.read_bytes() == two.read_bytes()
    assert expected.counts == files.counts


def test_failure_of_the_first_process_reaches_all(
    scene: HyperspectralScene, tmp_path: Path
) -> None:
    (tmp_path / 'taken').write_text('')
    jobs = [_job(tmp_path / 'taken', scene) for _ in range(2)]
    plan: list[Any] = []

    def broadcast(value: Any) -> Any:
        if value is not None:
            plan.append(value)
        return plan[0]

    for rank, job in enumerate(jobs):
        with pytest.raises(NotADirectoryError):
            job.prepare(rank, 2, broadcast)


def test_interrupted_map_goes_on(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    source = patches_of(scene)
    alone = _job(tmp_path / 'one', scene)
    _work(alone, alone.prepare(), network, source)
    expected = alone.finish()

    first = _job(tmp_path / 'two', scene)
    part = first.prepare()
    _work(first, part.subset(part.batches[:7]), network, source)
    with pytest.raises(RuntimeError, match='the map is not complete'):
        first.finish()
    assert [path.name for path in (tmp_path / 'two').iterdir()] == [STAGING]

    second = _job(tmp_path / 'two', scene)
    left = second.prepare()
    assert sorted(left.batches) == list(range(7, part.num_batches))
    assert second.pixels_done == sum(part.size(batch) for batch in range(7))
    _work(second, left, network, source)
    files = second.finish()
    assert files.classes.read_bytes() == expected.classes.read_bytes()
    assert files.confidence.read_bytes() == expected.confidence.read_bytes()
    assert not (tmp_path / 'two' / STAGING).exists()


def test_every_process_gets_something_to_do(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    job = _job(tmp_path, scene)
    _work(job, job.prepare(), network, patches_of(scene))
    again = _job(tmp_path, scene)
    left = again.prepare(world_size=3)
    assert len(left) == 3
    _work(again, left, network, patches_of(scene))
    assert again.missing() == 0
    again.finish()


def test_disk_full_while_assembling(
    scene: HyperspectralScene,
    network: nn.Module,
    patches_of: Patches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = patches_of(scene)
    real = rasterio.shutil.copy

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(rasterio.shutil, 'copy', full)
    with pytest.raises(OSError, match='No space left'):
        write_map(network, scene, tmp_path, patches=source, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == [STAGING]
    assert all(path.suffix == '.journal' for path in (tmp_path / STAGING).iterdir())
    monkeypatch.setattr(rasterio.shutil, 'copy', real)
    write_map(network, scene, tmp_path, patches=source, **OPTIONS)
    assert (tmp_path / 'map.tif').is_file()


@pytest.mark.skipif(os.name != 'posix', reason='locks of POSIX')
def test_two_calls_on_one_folder(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    """The second is refused, and the first goes on."""
    refused: list[Any] = []

    class Twice(PatchSource):
        def gather(self, *args: Any, **options: Any) -> torch.Tensor:
            if not refused:
                with pytest.raises(BlockingIOError, match='another process') as info:
                    write_map(network, scene, tmp_path, patches=plain, window_size=9)
                refused.append(info.value.filename)
            return super().gather(*args, **options)

    plain = patches_of(scene)
    source = Twice(scene, plain.normalizer, PATCH)
    write_map(network, scene, tmp_path, patches=source, picture=False, **OPTIONS)
    assert refused == [str(tmp_path)]
    assert (tmp_path / 'map.tif').is_file() and not (tmp_path / STAGING).exists()
    write_map(network, scene, tmp_path, patches=plain, picture=False, window_size=9)


@pytest.mark.parametrize('moved', range(3))
def test_stopped_while_publishing(
    scene: HyperspectralScene,
    network: nn.Module,
    patches_of: Patches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moved: int,
) -> None:
    """No file of an older map stands beside one of the new map."""
    source = patches_of(scene)
    options: dict[str, Any] = {'patches': source, 'picture': False, **OPTIONS}
    write_map(network, scene, tmp_path, scope='labelled', **options)
    old = (tmp_path / 'map.tif').read_bytes()
    real, left = os.replace, [moved]

    def replace(source: Path, target: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(KeyboardInterrupt):
        write_map(network, scene, tmp_path, **options)
    assert not {path.name for path in tmp_path.iterdir()} & {'map.tif', 'report.html'}
    monkeypatch.setattr(os, 'replace', real)
    files = write_map(network, scene, tmp_path, **options)
    assert files.classes.read_bytes() != old
    whole = write_map(network, scene, tmp_path / 'whole', **options)
    assert files.classes.read_bytes() == whole.classes.read_bytes()
    assert not (tmp_path / STAGING).exists()


def test_other_weights_start_anew(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    job = _job(tmp_path, scene)
    part = job.prepare()
    _work(job, part.subset(part.batches[:3]), network, patches_of(scene))
    other = MapJob(tmp_path, scene, job.legend, MapOptions(**OPTIONS), {'weights': 'b'})
    assert len(other.prepare()) == part.num_batches
    other.close()


@pytest.mark.parametrize('change', ['values', 'file'])
def test_other_values_start_anew(
    network: nn.Module, tmp_path: Path, change: str
) -> None:
    """Two scenes of the same name and size are not one."""
    path = tmp_path / 'cube.npy'
    np.save(path, make_scene(40, 50, valid=None).cube)

    def read() -> HyperspectralScene:
        cube: NDArray[Any] = np.load(path, mmap_mode='r' if change == 'file' else None)
        return HyperspectralScene(cube, None, class_names={1: 'a', 2: 'b', 3: 'c'})

    scene = read()
    job = _job(tmp_path / 'out', scene)
    source = PatchSource(scene, SpectralNormalizer('none').fit(scene), PATCH)
    part = job.prepare()
    _work(job, part.subset(part.batches[:3]), network, source)
    again = _job(tmp_path / 'out', read())
    assert len(again.prepare()) == part.num_batches - 3
    again.close()
    other = np.load(path)
    other[30, 5] += 1  # no window that a digest of a lazy cube looks at
    np.save(path, other)
    if change == 'file':
        os.utime(path, ns=(0, 0))
    changed = _job(tmp_path / 'out', read())
    assert len(changed.prepare()) == part.num_batches
    changed.close()


def test_record_refuses_wrong_results(
    scene: HyperspectralScene, tmp_path: Path
) -> None:
    job = _job(tmp_path, scene)
    with pytest.raises(ValueError, match='not prepared'):
        job.record(0, np.ones((10, 3), np.float32))
    job.prepare()
    with pytest.raises(ValueError, match='batch 0 has 10 pixels'):
        job.record(0, np.ones((9, 3), np.float32))
    with pytest.raises(ValueError, match=r'expected \(pixels, 3\)'):
        job.record(0, np.ones((10, 4), np.float32))
    job.close()


@pytest.mark.skipif(os.name != 'posix', reason='SIGKILL is a POSIX signal')
def test_killed_process(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    """A process that is killed leaves no map; the next one ends up with the same."""
    program = textwrap.dedent(
        """
        import os, signal, sys, torch
        from tests.maps.conftest import Network, PATCH, make_scene
        from torchgeo_ekgnet.maps.predict import write_map
        from torchgeo_ekgnet.transforms.normalization import SpectralNormalizer
        from torchgeo_ekgnet.transforms.patches import PatchSource

        class Deadly(PatchSource):
            calls = 0

            def gather(self, *args, **options):
                Deadly.calls += 1
                if Deadly.calls == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().gather(*args, **options)

        torch.manual_seed(0)
        torch.set_num_threads(1)
        scene = make_scene()
        patches = Deadly(scene, SpectralNormalizer('zscore').fit(scene), PATCH)
        write_map(Network().eval(), scene, sys.argv[1], patches=patches,
                  window_size=6, batch_size=10)
        """
    )
    killed = tmp_path / 'killed'
    done = subprocess.run(
        [sys.executable, '-c', program, str(killed)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in killed.iterdir()] == [STAGING]

    calls = []

    class Counting(PatchSource):
        def gather(self, *args: Any, **options: Any) -> torch.Tensor:
            calls.append(1)
            return super().gather(*args, **options)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = patches_of(scene)
        source = Counting(scene, plain.normalizer, PATCH)
        files = write_map(network, scene, killed, patches=source, **OPTIONS)
        whole = write_map(network, scene, tmp_path / 'w', patches=plain, **OPTIONS)
    finally:
        torch.set_num_threads(threads)
    total = SceneWindows(scene.valid, 6, 10).num_batches
    assert len(calls) == total - 19
    assert files.classes.read_bytes() == whole.classes.read_bytes()
    assert files.confidence.read_bytes() == whole.confidence.read_bytes()
