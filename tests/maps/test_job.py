# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from torch import nn

from tests.processes import forked, needs_fork, needs_posix
from torchgeo_ekgnet._runs import CLAIMS_FILE
from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.datasets.windows import SceneWindows
from torchgeo_ekgnet.maps import write_map
from torchgeo_ekgnet.maps.job import STAGING, MapJob
from torchgeo_ekgnet.maps.predict import classify
from torchgeo_ekgnet.maps.raster import Legend
from torchgeo_ekgnet.maps.selection import MapOptions
from torchgeo_ekgnet.transforms.normalization import SpectralNormalizer
from torchgeo_ekgnet.transforms.patches import PatchSource

from .conftest import PATCH, make_scene

Patches = Callable[[HyperspectralScene], PatchSource]
UNFINISHED = {STAGING, CLAIMS_FILE}
OPTIONS: dict[str, Any] = {'window_size': 6, 'batch_size': 10}


def _job(folder: Path, scene: HyperspectralScene) -> MapJob:
    legend = Legend.from_classes(scene.class_names, scene.class_values, scene.palette)
    return MapJob(folder, scene, legend, MapOptions(**OPTIONS), {'weights': 'a'})


def _work(
    job: MapJob, part: SceneWindows, network: nn.Module, source: PatchSource
) -> None:
    for batch, values in classify(network, source, part):
        job.record(batch, values)
    job.close()


def _broadcaster() -> Callable[[Any], Any]:
    """What gives the value of the first process to all."""
    plan: list[Any] = []

    def broadcast(value: Any) -> Any:
        if value is not None:
            plan.append(value)
        return plan[0]

    return broadcast


def test_two_processes_write_the_same_bytes(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    source = patches_of(scene)
    alone = _job(tmp_path / 'one', scene)
    _work(alone, alone.prepare(), network, source)
    expected = alone.finish()
    jobs, broadcast = [_job(tmp_path / 'two', scene) for _ in range(2)], _broadcaster()
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
    jobs, broadcast = (
        [_job(tmp_path / 'taken', scene) for _ in range(2)],
        _broadcaster(),
    )
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
    assert {path.name for path in (tmp_path / 'two').iterdir()} == UNFINISHED

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
    assert {path.name for path in tmp_path.iterdir()} == UNFINISHED
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
        if Path(target).parent == tmp_path:
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


@needs_fork
def test_killed_process(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    """A process that is killed leaves no map; the next one ends up with the same."""

    class Deadly(PatchSource):
        calls = 0

        def gather(self, *args: Any, **options: Any) -> Any:
            Deadly.calls += 1
            if Deadly.calls == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().gather(*args, **options)

    def work() -> None:
        patches = Deadly(scene, patches_of(scene).normalizer, PATCH)
        write_map(network, scene, killed, patches=patches, **OPTIONS)

    killed = tmp_path / 'killed'
    assert forked(work, tmp_path / 'errors.txt').status() == -signal.SIGKILL
    assert {path.name for path in killed.iterdir()} == UNFINISHED

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


@pytest.mark.parametrize('kind', ['link', 'broken link', 'file'])
@needs_posix
def test_a_partial_folder_that_is_none_is_refused(
    scene: HyperspectralScene, tmp_path: Path, kind: str
) -> None:
    documents = tmp_path / 'documents'
    documents.mkdir()
    (documents / 'map.tif').write_text('precious')
    out = tmp_path / 'out'
    out.mkdir()
    match kind:
        case 'link':
            (out / STAGING).symlink_to(documents)
        case 'broken link':
            (out / STAGING).symlink_to(tmp_path / 'nowhere')
        case _:
            (out / STAGING).write_text('precious')
    job = _job(out, scene)
    with pytest.raises(NotADirectoryError, match=r'found a .*, expected the folder'):
        job.prepare()
    assert (documents / 'map.tif').read_text() == 'precious'
    assert kind != 'file' or (out / STAGING).read_text() == 'precious'


@needs_posix
def test_only_what_a_map_has_left_is_deleted(
    scene: HyperspectralScene, network: nn.Module, patches_of: Patches, tmp_path: Path
) -> None:
    staging = tmp_path / STAGING
    (staging / 'map.png').mkdir(parents=True)
    (staging / 'thesis.txt').write_text('precious')
    (staging / 'confidence.draft.tif').write_text('half')
    (staging / 'map.tif').symlink_to(staging / 'thesis.txt')
    write_map(
        network, scene, tmp_path, patches=patches_of(scene), picture=False, **OPTIONS
    )
    assert (tmp_path / 'map.tif').is_file()
    assert not (tmp_path / 'map.tif').is_symlink()
    assert {path.name for path in staging.iterdir()} == {'thesis.txt', 'map.png'}
    assert (staging / 'thesis.txt').read_text() == 'precious'


@pytest.mark.parametrize(
    ('name', 'error'),
    [('report.html', FileExistsError), ('confidence.tif', IsADirectoryError)],
)
def test_files_and_folders_of_others_are_named_before_the_work(
    scene: HyperspectralScene, tmp_path: Path, name: str, error: type[OSError]
) -> None:
    path = tmp_path / name
    if error is FileExistsError:
        path.write_text('mine')
    else:
        path.mkdir()
    job = _job(tmp_path, scene)
    with pytest.raises(error, match=name):
        job.prepare()
    job.close()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
