# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from tests.maps.test_predict import read_raster
from tests.small import make_task, make_trainer
from torchgeo_ekgnet._files import file_digest
from torchgeo_ekgnet._runs import CLAIMS_FILE
from torchgeo_ekgnet.callbacks import (
    AccuracyReport,
    ClassificationMap,
    classification_map,
)
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.maps import load_classifier, predict_map, write_map
from torchgeo_ekgnet.maps.job import STAGING
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask
from torchgeo_ekgnet.transforms import SpectralNormalizer, SpectralPCA

OPTIONS: dict[str, Any] = {'window_size': 8, 'batch_size': 48}
FILES = {
    'map.tif',
    'map.tif.aux.xml',
    'map.json',
    'map.png',
    'confidence.tif',
    'report.html',
}
UNFINISHED = {'checkpoints', CLAIMS_FILE, STAGING}
FINISHED = {'checkpoints', CLAIMS_FILE, *FILES}


def _data(**options: Any) -> SyntheticSceneDataModule:
    settings = {
        'rows': 20,
        'cols': 18,
        'num_bands': 9,
        'num_classes': 3,
        'patch_size': 3,
    }
    return SyntheticSceneDataModule(**(settings | options))


def _trainer(*callbacks: Callback, **options: Any) -> Trainer:
    return make_trainer(None, *callbacks, **options)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of one epoch, in a run folder that ``test`` has seen."""
    run = tmp_path_factory.mktemp('run')
    path = run / 'checkpoints' / 'best.ckpt'
    torch.manual_seed(0)
    trainer = _trainer(AccuracyReport(table=False), max_epochs=1)
    data, task = _data(), make_task()
    trainer.fit(task, data)
    trainer.save_checkpoint(path)
    trainer.test(make_task(), _data(), ckpt_path=path, verbose=False)
    return path


def _copy(checkpoint: Path, run: Path) -> Path:
    """Put a checkpoint into another run folder."""
    path = run / 'checkpoints' / 'best.ckpt'
    path.parent.mkdir(parents=True)
    path.write_bytes(checkpoint.read_bytes())
    return path


def _predict(path: Path, *others: Callback, report: bool = True, **options: Any) -> Any:
    mapper = ClassificationMap(report=report, **OPTIONS)
    trainer = _trainer(mapper, *others, **options)
    return trainer.predict(make_task(), _data(), ckpt_path=path)


@pytest.fixture(scope='module')
def mapped(checkpoint: Path) -> Path:
    """The run folder with a map of the whole scene."""
    with pytest.MonkeyPatch.context() as patch:
        # The checkpoint brings its statistics: no pass over the scene takes others.
        patch.setattr(SpectralNormalizer, 'fit', None)
        assert _predict(checkpoint) is None
    return checkpoint.parents[1]


def test_files_in_the_run_folder(mapped: Path) -> None:
    names = {path.name for path in mapped.iterdir()}
    assert names == FINISHED | {'test.json'}
    text = (mapped / 'report.html').read_text(encoding='utf-8')
    assert 'Accuracies' in text and 'Split' in text and 'synthetic' in text
    digest = file_digest(mapped / 'checkpoints' / 'best.ckpt')
    assert json.loads((mapped / 'test.json').read_text())['checkpoint_digest'] == digest
    assert text.count(digest) == 2 and 'two checkpoints' not in text
    about = json.loads((mapped / 'map.json').read_text())
    data = _data()
    data.setup('test')
    assert about['scene'] == data.scene.name and about['cube'] == data.scene.digest()
    assert about['checkpoint'] == 'best.ckpt'
    assert about['checkpoint_digest'] == digest
    assert sum(row['pixels'] for row in about['classes']) == 360


def test_a_device_is_ahead_of_the_disk_by_one_batch(
    mapped: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def begin(*tensors: Tensor) -> tuple[list[Tensor], Callable[[], object]]:
        number = int(tensors[0])
        events.append(f'queued {number}')
        return list(tensors), lambda: events.append(f'waited {number}')

    monkeypatch.setattr(classification_map, '_begin_copy', begin)
    run = _copy(checkpoint, tmp_path / 'run')
    _predict(run, report=False)
    assert events[:4] == ['queued 0', 'queued 1', 'waited 0', 'queued 2']
    last = len(events) // 2 - 1
    assert events[-2:] == [f'waited {last - 1}', f'waited {last}']
    found, expected = (
        read_raster(path / 'map.tif') for path in (run.parents[1], mapped)
    )
    assert np.array_equal(found, expected)


def test_report_tells_checkpoints_apart(mapped: Path, tmp_path: Path) -> None:
    """Accuracies of one checkpoint beside the map of another are pointed out."""
    other = tmp_path / 'checkpoints' / 'last.ckpt'
    other.parent.mkdir()
    content = torch.load(mapped / 'checkpoints' / 'best.ckpt', weights_only=True)
    torch.save(content | {'epoch': 7}, other)
    test = (mapped / 'test.json').read_text()
    (tmp_path / 'test.json').write_text(test)
    _predict(other)
    text = (tmp_path / 'report.html').read_text(encoding='utf-8')
    for name, path in (('best', mapped / 'checkpoints/best.ckpt'), ('last', other)):
        assert f'{name}.ckpt ({file_digest(path)[:12]})' in text


def test_map_agrees_with_the_test_stage(mapped: Path) -> None:
    """The confusion matrix from map.tif is that of ``test``, count for count."""
    test = json.loads((mapped / 'test.json').read_text())
    data = _data()
    data.setup('test')
    positions = data.split.positions('test')
    truth = data.split.labels(data.scene.label_map, 'test')
    labels = read_raster(mapped / 'map.tif')[0][positions[:, 0], positions[:, 1]]
    confusion = np.zeros((3, 3), dtype=int)
    np.add.at(confusion, (truth - 1, labels.astype(int) - 1), 1)
    assert confusion.tolist() == test['confusion_matrix']


@pytest.mark.parametrize('pca', [None, 4, 9])
def test_python_gives_the_same_map(tmp_path: Path, pca: int | None) -> None:
    """A checkpoint brings all its preprocessing, as few components or as many."""
    path = tmp_path / 'checkpoints' / 'best.ckpt'
    trainer = _trainer(ClassificationMap(report=False, **OPTIONS), max_epochs=1)
    preprocessing = {} if pca is None else {'pca': SpectralPCA(pca)}
    trainer.fit(make_task(), _data(**preprocessing))
    trainer.save_checkpoint(path)
    trainer.predict(make_task(), _data(**preprocessing), ckpt_path=path)
    classifier = load_classifier(path)
    data = _data()
    data.setup('predict')
    assert classifier.patch_size == 3
    assert classifier.class_names == data.scene.class_names
    made = predict_map(classifier, data.scene, **OPTIONS)
    assert (read_raster(tmp_path / 'map.tif')[0] == made.labels).all()
    assert (read_raster(tmp_path / 'confidence.tif')[0] == made.confidence).all()


def test_killed_run_goes_on(
    mapped: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _copy(checkpoint, tmp_path)
    said: list[str] = []
    monkeypatch.setattr('torchgeo_ekgnet.maps.job.rank_zero_info', said.append)

    class Stop(Callback):
        def on_predict_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if args[3] == 3:
                raise MemoryError

    with pytest.raises(MemoryError):
        _predict(path, Stop())
    assert {item.name for item in tmp_path.iterdir()} == UNFINISHED

    class Count(Callback):
        batches = 0

        def on_predict_batch_end(self, *args: Any) -> None:
            self.batches += 1

    count = Count()
    assert said == []
    _predict(path, count)
    (line,) = said
    assert re.fullmatch(r'going on with a map .* \d+ of 360 pixels are done', line)
    assert {item.name for item in tmp_path.iterdir()} == FINISHED
    for name in ('map.tif', 'confidence.tif'):
        assert (tmp_path / name).read_bytes() == (mapped / name).read_bytes()
    full = Count()
    _predict(path, full, report=False)
    assert count.batches == full.batches - 4


@pytest.mark.skipif(os.name != 'posix', reason='signals are those of POSIX')
def test_terminated_run_goes_on(mapped: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = _copy(checkpoint, tmp_path)

    class Terminate(Callback):
        batches = 0

        def on_predict_batch_start(self, *args: Any) -> None:
            self.batches += 1
            if self.batches == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    terminate = Terminate()
    with (
        pytest.warns(UserWarning, match='the same command goes on'),
        pytest.raises(SystemExit) as stop,
    ):
        _predict(path, terminate)
    assert stop.value.code == 128 + signal.SIGTERM
    assert terminate.batches == 3
    assert {item.name for item in tmp_path.iterdir()} == UNFINISHED
    _predict(path, report=False)
    assert (tmp_path / 'map.tif').read_bytes() == (mapped / 'map.tif').read_bytes()


def test_two_processes(
    mapped: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _copy(checkpoint, tmp_path)
    # Forked processes start fast, and must not use threads of their parent.
    strategy = 'ddp_fork' if sys.platform == 'linux' else 'ddp_spawn'
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    _predict(path, devices=2, strategy=strategy)
    for name in ('map.tif', 'confidence.tif'):
        assert (tmp_path / name).read_bytes() == (mapped / name).read_bytes()
    assert {item.name for item in tmp_path.iterdir()} == FINISHED


@pytest.mark.parametrize('limit', [1, 2, 0.3])
def test_part_of_the_batches_makes_no_map(
    checkpoint: Path, tmp_path: Path, limit: float
) -> None:
    path = _copy(checkpoint, tmp_path)
    with pytest.warns(UserWarning, match='batches of the map out'):
        _predict(path, limit_predict_batches=limit)
    assert {item.name for item in tmp_path.iterdir()} == UNFINISHED


def test_report_that_fails_does_not_cost_the_map(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _copy(checkpoint, tmp_path)
    (tmp_path / 'test.json').write_text('{"counts": ["many"]}')
    (tmp_path / 'report.html').write_text('of an older map')
    (tmp_path / CLAIMS_FILE).write_text('report.html\n')
    with pytest.warns(UserWarning, match=r'report\.html is left out.*TypeError'):
        _predict(path)
    names = {item.name for item in tmp_path.iterdir()}
    assert names >= {'checkpoints', 'test.json', *FILES} - {'report.html'}

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('torchgeo_ekgnet.maps.job.save_map_figure', full)
    with pytest.raises(OSError, match='No space left'):
        _predict(path)
    assert all(item.suffix == '.journal' for item in (tmp_path / STAGING).iterdir())


def test_fast_dev_run_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    path = _copy(checkpoint, tmp_path)
    _predict(path, fast_dev_run=True)
    assert [item.name for item in tmp_path.iterdir()] == ['checkpoints']


def test_network_of_this_process(tmp_path: Path) -> None:
    task, data = make_task(), _data()
    mapper = ClassificationMap(
        scope='labelled', output=str(tmp_path / 'out'), report=False, **OPTIONS
    )
    trainer = _trainer(mapper, max_epochs=1, limit_train_batches=1)
    trainer.fit(task, data)
    trainer.predict(task, data)
    labels = read_raster(tmp_path / 'out' / 'map.tif')[0]
    assert ((labels > 0) == (data.scene.label_map > 0)).all()
    assert not (tmp_path / 'out' / 'report.html').exists()


def test_no_checkpoint_and_no_folder() -> None:
    task, data = make_task(), _data()
    trainer = _trainer(
        ClassificationMap(**OPTIONS), max_epochs=1, limit_train_batches=1
    )
    trainer.fit(task, data)
    with pytest.raises(ValueError, match='no checkpoint was given'):
        trainer.predict(task, data)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'none\.ckpt'):
        _predict(tmp_path / 'none.ckpt')
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        load_classifier(tmp_path / 'none.ckpt')


def test_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / 'best.ckpt'
    path.write_bytes(b'nothing of the kind')
    with pytest.raises(ValueError, match='cannot be read as a checkpoint'):
        load_classifier(path)
    torch.save({'weights': 1}, path)
    with pytest.raises(ValueError, match='no entry state_dict'):
        load_classifier(path)
    torch.save({'state_dict': {}, 'hyper_parameters': {'model': 'x'}}, path)
    with pytest.raises(ValueError, match='no state of a datamodule'):
        load_classifier(path)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_bands': 8}, 'checkpoint was trained with in_channels 9, .* has 8'),
        ({'num_classes': 4}, 'was trained on the 3 classes .* has the 4 classes'),
    ],
)
def test_checkpoint_of_another_scene(
    checkpoint: Path, tmp_path: Path, options: dict[str, int], message: str
) -> None:
    """Other bands or classes are refused before anything is written."""
    path = _copy(checkpoint, tmp_path)
    trainer = _trainer(ClassificationMap(**OPTIONS))
    with pytest.raises(ValueError, match=message):
        trainer.predict(make_task(), _data(**options), ckpt_path=path)
    assert [item.name for item in tmp_path.iterdir()] == ['checkpoints']


def test_checkpoint_of_as_many_other_classes(checkpoint: Path, tmp_path: Path) -> None:
    path = _copy(checkpoint, tmp_path)
    data = _data()
    data.setup('predict')
    data.scene.class_names = ('Grass', 'Wood', 'Water')
    with pytest.raises(ValueError, match=r"3 classes \[.*the 3 classes \['Grass', 'W"):
        _trainer(ClassificationMap(**OPTIONS)).predict(
            make_task(), data, ckpt_path=path
        )
    assert [item.name for item in tmp_path.iterdir()] == ['checkpoints']


def test_other_classes_without_the_callback(checkpoint: Path) -> None:
    data = _data()
    data.setup('predict')
    data.scene.class_names = ('Grass', 'Wood', 'Water')
    with pytest.raises(ValueError, match=r"'Grass', 'Wood'.*--data.labels null"):
        _trainer().predict(make_task(), data, ckpt_path=checkpoint)


def test_a_log_that_nobody_watches_has_no_bar(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _predict(_copy(checkpoint, tmp_path), report=False, enable_progress_bar=True)
    assert 'px/s' not in ''.join(capsys.readouterr())


def test_checkpoint_of_another_network(checkpoint: Path) -> None:
    task = HyperspectralClassificationTask('ssrn')
    with pytest.raises(ValueError, match="model 'ekgnet_tiny', this task has 'ssrn'"):
        _trainer().test(task, _data(), ckpt_path=checkpoint)


def test_unwritable_folder(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / 'taken').write_text('')
    mapper = ClassificationMap(output=str(tmp_path / 'taken' / 'out'), **OPTIONS)
    with pytest.raises(NotADirectoryError, match='choose another output folder'):
        _trainer(mapper).predict(make_task(), _data(), ckpt_path=checkpoint)


def test_other_datamodule(checkpoint: Path) -> None:
    class Bare(LightningModule):
        def forward(self, x: int) -> int:
            return x

        def predict_dataloader(self) -> list[int]:
            return [1]

    with pytest.raises(TypeError, match='needs a datamodule of torchgeo_ekgnet'):
        _trainer(ClassificationMap(**OPTIONS)).predict(Bare())


def _scene(wavelengths: NDArray[np.float64] | None, bands: int) -> HyperspectralScene:
    cube = np.random.default_rng(0).random((6, 7, bands)).astype(np.float32)
    return HyperspectralScene(cube, None, name='new', wavelengths=wavelengths)


def test_new_scene_with_the_same_bands(checkpoint: Path, tmp_path: Path) -> None:
    classifier = load_classifier(checkpoint)
    assert classifier.wavelengths is not None
    scene = _scene(classifier.wavelengths, 9)
    made = predict_map(classifier, scene)
    assert made.labels.min() >= 1
    files = write_map(str(checkpoint), scene, tmp_path)
    assert (read_raster(files.classes)[0] == made.labels).all()
    assert (tmp_path / 'map.png').is_file()


def test_bands_are_matched_by_wavelength_when_asked(checkpoint: Path) -> None:
    classifier = load_classifier(checkpoint)
    assert classifier.wavelengths is not None
    same = _scene(classifier.wavelengths, 9)
    finer = np.repeat(classifier.wavelengths, 2)
    finer[1::2] += 0.4 * np.diff(classifier.wavelengths).min()
    cube = np.repeat(same.read(0, 6, 0, 7), 2, axis=2)
    cube[:, :, 1::2] = 99
    other = HyperspectralScene(cube, None, name='fine', wavelengths=finer)
    with pytest.raises(ValueError, match=r'9 bands there, 18 here.*match_wavelengths'):
        predict_map(classifier, other)
    matched = predict_map(classifier, other, match_wavelengths=True)
    expected = predict_map(classifier, same)
    assert np.array_equal(matched.confidence, expected.confidence)


def test_bands_that_cannot_be_matched(checkpoint: Path) -> None:
    classifier = load_classifier(checkpoint)
    assert classifier.wavelengths is not None
    shifted = _scene(classifier.wavelengths + 900, 9)
    with pytest.raises(ValueError, match='was trained on other bands'):
        predict_map(classifier, shifted)
    with pytest.raises(ValueError, match='has no band near'):
        predict_map(classifier, shifted, match_wavelengths=True)
    unknown = _scene(None, 7)
    with pytest.raises(ValueError, match='reads 9 bands, the scene new has 7'):
        predict_map(classifier, unknown)
    with pytest.raises(ValueError, match='has no wavelengths'):
        predict_map(classifier, unknown, match_wavelengths=True)
    assert predict_map(classifier, _scene(None, 9)).labels.min() >= 1


def test_new_scene_smaller_than_a_patch(checkpoint: Path) -> None:
    classifier = load_classifier(checkpoint)
    scene = HyperspectralScene(np.ones((2, 9, 9), np.float32), None)
    with pytest.raises(ValueError, match='patch_size is 3'):
        predict_map(classifier, scene)
