# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the command line tests do not see of the run folder."""

import errno
import json
import shutil
import signal
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from tests.processes import needs_posix
from tests.small import make_datamodule, make_task, make_trainer
from torchgeo_ekgnet._runs import newest_checkpoint
from torchgeo_ekgnet.callbacks import AccuracyReport, ClassificationMap, RunFolder
from torchgeo_ekgnet.callbacks.run_folder import run_path
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.datasets.splits import Split


def run_trainer(
    folder: Path,
    tensorboard: bool = True,
    monitor: str | None = 'val_loss',
    **options: Any,
) -> Trainer:
    return make_trainer(
        folder,
        RunFolder('small', tensorboard=tensorboard),
        ModelCheckpoint(filename='best', monitor=monitor),
        AccuracyReport(table=False),
        log_every_n_steps=1,
        **options,
    )


def test_loggers_share_the_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datamodule = make_datamodule()
    for version in range(2):
        trainer = run_trainer(tmp_path)
        trainer.fit(make_task(), datamodule)
        csv, board = trainer.loggers
        assert isinstance(csv, CSVLogger)
        assert isinstance(board, TensorBoardLogger)
        folder = tmp_path / 'runs' / 'small' / f'version_{version}'
        assert Path(csv.log_dir) == Path(board.log_dir) == folder
        assert Path(trainer.checkpoint_callback.best_model_path).parent == (  # type: ignore[union-attr]
            folder / 'checkpoints'
        )
        assert run_path(trainer) == folder
        assert Split.load(folder / 'split.npz') == datamodule.split
        # Without a configuration no command knows the data.
        last = capsys.readouterr().out.splitlines()[-2:]
        assert last[0].startswith('next   trainer.test(task, datamodule, ckpt_path=')
        assert last[1].startswith('       trainer.predict(task, datamodule, ckpt_path=')
    newest = newest_checkpoint(tmp_path / 'runs' / 'small')
    assert newest is not None
    assert newest.parent.parent.name == 'version_1'


@pytest.mark.parametrize('replaced', [False, True])
def test_the_folder_of_a_run_that_goes_while_it_trains(
    replaced: bool, tmp_path: Path
) -> None:
    """Nothing is written into the folder of another run, nor into half a new one."""
    path = tmp_path / 'runs' / 'small' / 'version_0'
    other = tmp_path / 'other'

    class Moving(Callback):
        def on_validation_end(self, trainer: Trainer, module: Any) -> None:
            if trainer.current_epoch == 1:
                path.rename(tmp_path / 'moved')
                if replaced:
                    run_trainer(tmp_path).fit(make_task(), make_datamodule())
                    shutil.copytree(path, other)

    trainer = run_trainer(tmp_path, max_epochs=3, num_sanity_val_steps=0)
    trainer.callbacks.insert(0, Moving())  # type: ignore[attr-defined]
    listening = signal.getsignal(signal.SIGTERM)
    with pytest.raises(FileNotFoundError, match='version_0') as caught:
        trainer.fit(make_task(), make_datamodule())
    assert 'moved or deleted while it trained' in str(caught.value)
    # Loggers of a folder that is no more did not keep the trainer from its end.
    assert signal.getsignal(signal.SIGTERM) == listening
    assert list((tmp_path / 'moved').glob('checkpoints/*.ckpt'))
    if replaced:
        for file in ('checkpoints', 'run.json'):
            assert (path / file).exists()
        kept = next((other / 'checkpoints').iterdir())
        assert (path / 'checkpoints' / kept.name).read_bytes() == kept.read_bytes()
        assert len(list((path / 'checkpoints').iterdir())) == 1
    else:
        assert not (path / 'checkpoints').exists()


def test_a_note_that_was_deleted_ends_no_training(tmp_path: Path) -> None:
    class Deleting(Callback):
        def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
            (tmp_path / 'runs/small/version_0/run.json').unlink()

    trainer = run_trainer(tmp_path)
    trainer.callbacks.append(Deleting())  # type: ignore[attr-defined]
    trainer.fit(make_task(), make_datamodule())
    assert (tmp_path / 'runs/small/version_0/checkpoints').is_dir()


def test_runs_that_start_together_have_folders_of_their_own(tmp_path: Path) -> None:
    trainer = run_trainer(tmp_path)
    paths = [RunFolder('small')._next_version(trainer) for _ in range(2)]
    assert [path.name for path in paths] == ['version_0', 'version_1']


def test_other_processes_are_told_the_folder(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        is_global_zero=False,
        default_root_dir=tmp_path,
        strategy=SimpleNamespace(broadcast=lambda path: path or 'told'),
    )
    assert RunFolder('small')._next_version(trainer) == Path('told')
    assert list(tmp_path.iterdir()) == []


def test_no_validation_pixels(tmp_path: Path) -> None:
    datamodule = make_datamodule(split=RandomSplit(0.3, 0.0, 3))
    task = make_task()
    for sanity in (0, 2):
        trainer = run_trainer(tmp_path, num_sanity_val_steps=sanity)
        with pytest.raises(ValueError, match="ModelCheckpoint monitors 'val_loss'"):
            trainer.fit(task, datamodule)
        assert trainer.global_step == 0
    plateau = make_task(lr_schedule='plateau')
    with pytest.raises(ValueError, match=r'ReduceLROnPlateau .* val > 0'):
        run_trainer(tmp_path, monitor=None).fit(plateau, datamodule)
    trainer = run_trainer(tmp_path, monitor='train_loss')
    trainer.fit(task, datamodule)
    assert Path(trainer.checkpoint_callback.best_model_path).is_file()  # type: ignore[union-attr]


def test_a_trainer_that_tested_another_run_trains_in_its_own_folder(
    tmp_path: Path,
) -> None:
    task, datamodule = make_task(), make_datamodule()
    trainer = run_trainer(tmp_path, tensorboard=False)
    trainer.fit(task, datamodule)
    (first,) = tmp_path.rglob('*.ckpt')
    before = first.read_bytes()
    trainer = run_trainer(tmp_path, tensorboard=False)
    trainer.test(task, datamodule, ckpt_path=first, verbose=False)
    trainer.fit(task, datamodule)
    assert first.read_bytes() == before
    second = tmp_path / 'runs/small/version_1/checkpoints/best.ckpt'
    assert set(tmp_path.rglob('*.ckpt')) == {first, second}
    assert Path(trainer.checkpoint_callback.best_model_path) == second  # type: ignore[union-attr]


def test_a_training_after_one_that_failed_keeps_its_checkpoints(tmp_path: Path) -> None:
    class Failing(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise RuntimeError('no memory')

    trainer = run_trainer(tmp_path, tensorboard=False)
    failing = Failing()
    trainer.callbacks.insert(0, failing)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match='no memory'):
        trainer.fit(make_task(), make_datamodule())
    trainer.callbacks.remove(failing)  # type: ignore[attr-defined]
    trainer.fit(make_task(), make_datamodule())
    (kept,) = tmp_path.rglob('*.ckpt')
    assert kept == tmp_path / 'runs/small/version_1/checkpoints/best.ckpt'


def test_same_process_tests_into_its_run(tmp_path: Path) -> None:
    trainer = run_trainer(tmp_path, tensorboard=False)
    task, datamodule = make_task(), make_datamodule()
    trainer.fit(task, datamodule)
    folder = tmp_path / 'runs' / 'small' / 'version_0'
    assert not list(folder.glob('events*'))
    trainer.test(task, datamodule, verbose=False)
    assert (folder / 'test.json').is_file()
    assert (folder / 'test' / 'metrics.csv').is_file()
    assert (folder / 'metrics.csv').is_file()


def test_best_checkpoint_of_the_same_process(tmp_path: Path) -> None:
    trainer = run_trainer(tmp_path)
    task, datamodule = make_task(), make_datamodule()
    trainer.fit(task, datamodule)
    trainer.test(task, datamodule, ckpt_path='best', verbose=False)
    assert (tmp_path / 'runs' / 'small' / 'version_0' / 'test.json').is_file()


def test_run_that_cannot_be_written_to(tmp_path: Path) -> None:
    """``test`` stops before any work, ``predict`` can write its map elsewhere."""
    trainer = run_trainer(tmp_path, tensorboard=False)
    datamodule = make_datamodule()
    trainer.fit(make_task(), datamodule)
    run = tmp_path / 'runs' / 'small' / 'version_0'
    for stage in ('test', 'predict'):
        (run / stage).write_text('in the way')
    before = sorted(run.iterdir())
    options: dict[str, Any] = {'ckpt_path': run / 'checkpoints' / 'best.ckpt'}
    task = make_task()
    with pytest.raises(NotADirectoryError, match=r"file has its name.*version_0/test'"):
        run_trainer(tmp_path).test(task, datamodule, **options)
    trainer = run_trainer(tmp_path)
    mapper = ClassificationMap(output=str(tmp_path / 'out'), report=False)
    trainer.callbacks.append(mapper)  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match='predict keeps no log') as warned:
        trainer.predict(task, datamodule, **options)
    assert sum('keeps no log' in str(item.message) for item in warned) == 1
    assert (tmp_path / 'out' / 'map.tif').is_file()
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize('name', ['', 'a/b', '..'])
def test_bad_name(name: str) -> None:
    with pytest.raises(ValueError, match='name: found'):
        RunFolder(name)


def test_moved_run_takes_its_results_along(tmp_path: Path) -> None:
    trainer = run_trainer(tmp_path)
    datamodule = make_datamodule()
    trainer.fit(make_task(), datamodule)
    moved = tmp_path / 'elsewhere'
    (tmp_path / 'runs' / 'small' / 'version_0').rename(moved)
    task = make_task()
    run_trainer(tmp_path).test(
        task,
        datamodule,
        ckpt_path=str(moved / 'checkpoints' / 'best.ckpt'),
        verbose=False,
    )
    assert (moved / 'test.json').is_file()
    assert not (tmp_path / 'runs' / 'small' / 'version_0').exists()
    assert torch.isfinite(torch.tensor(task.accuracies['test'].overall))


class _Remote(Logger):
    """A logger that sends its metrics somewhere else, as Weights & Biases does."""

    def __init__(self, project: str = 'p') -> None:
        super().__init__()
        self.metrics: dict[str, float] = {}
        self.closed = 0

    @property
    def name(self) -> str:
        return 'remote'

    @property
    def version(self) -> str:
        return 'x1'

    @property
    def save_dir(self) -> str:
        return 'remote'

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.update(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def finalize(self, status: str) -> None:
        self.closed += 1


def _fit(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    best = ModelCheckpoint(filename='best', monitor='val_loss')
    own = (RunFolder('small'), *callbacks, best)
    options = {'logger': None, 'log_every_n_steps': 1, **options}
    trainer = make_trainer(folder, *own, **options)
    trainer.fit(make_task(), make_datamodule())
    return trainer


@pytest.mark.parametrize('kind', ['remote', 'csv', 'tensorboard', 'two'])
def test_loggers_of_others_stay(tmp_path: Path, kind: str) -> None:
    elsewhere = str(tmp_path / 'elsewhere')
    given: dict[str, list[Logger]] = {
        'remote': [_Remote()],
        'csv': [CSVLogger(elsewhere)],
        'tensorboard': [TensorBoardLogger(elsewhere, name='mine')],
        'two': [_Remote(), CSVLogger(elsewhere, name='mine')],
    }
    trainer = _fit(tmp_path, logger=given[kind])
    own, *others = trainer.loggers
    run = tmp_path / 'runs' / 'small' / 'version_0'
    assert Path(str(own.log_dir)) == run and others == given[kind]
    names = {'metrics.csv', 'run.json', 'split.npz', 'checkpoints'}
    assert names <= {path.name for path in run.iterdir()}
    assert not list(run.glob('events*'))
    for logger in others:
        if isinstance(logger, _Remote):
            assert {'train_loss', 'val_OA', 'val_loss'} <= set(logger.metrics)
        else:
            assert any(Path(str(logger.log_dir)).iterdir())
    trainer.test(datamodule=make_datamodule(), ckpt_path='best', verbose=False)
    assert trainer.loggers[1:] == given[kind]
    if isinstance(given[kind][0], _Remote):
        assert 'test_OA' in others[0].metrics  # type: ignore[attr-defined]
    assert (run / 'test' / 'metrics.csv').is_file()


@pytest.mark.parametrize('logger', [False, True, None])
def test_ours_where_none_is_given(tmp_path: Path, logger: bool | None) -> None:
    trainer = _fit(tmp_path, logger=logger)
    table, events = trainer.loggers
    assert isinstance(table, CSVLogger) and isinstance(events, TensorBoardLogger)
    assert (tmp_path / 'runs/small/version_0/checkpoints/best.ckpt').is_file()


def test_a_run_says_what_it_is_of(tmp_path: Path) -> None:
    trainer = _fit(tmp_path)
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    about = json.loads((tmp_path / 'runs/small/version_0/run.json').read_text())
    assert about['scene'] == datamodule.scene.name
    assert about['cube'] == datamodule.scene.digest()
    assert about['split'] == datamodule.split.identity()


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_before_its_first_step_leaves_nothing(
    tmp_path: Path, error: type[BaseException]
) -> None:
    class Broken(Callback):
        def on_fit_start(self, *args: Any) -> None:
            raise error('no')

    with suppress(error, SystemExit):
        _fit(tmp_path, Broken())
    assert not list((tmp_path / 'runs' / 'small').iterdir())
    _fit(tmp_path)
    assert (tmp_path / 'runs/small/version_0/checkpoints/best.ckpt').is_file()


def test_a_run_that_fails_later_is_kept(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_train_epoch_end(self, *args: Any) -> None:
            raise ValueError('no')

    with pytest.raises(ValueError, match='no'):
        _fit(tmp_path, Broken())
    assert (tmp_path / 'runs/small/version_0/metrics.csv').is_file()


def test_a_second_fit_takes_nothing_from_the_first(tmp_path: Path) -> None:
    task, datamodule = make_task(), make_datamodule()
    trainer = run_trainer(tmp_path)
    trainer.fit(task, datamodule)
    folder = tmp_path / 'runs/small/version_0'
    rows = (folder / 'metrics.csv').read_text()
    trainer.fit(task, datamodule)  # all epochs are done
    assert (folder / 'metrics.csv').read_text() == rows
    with pytest.raises(ValueError, match='in_channels: the network has 12 bands'):
        trainer.fit(task, make_datamodule(num_bands=14))
    assert (folder / 'checkpoints/best.ckpt').is_file()
    assert [path.name for path in folder.parent.iterdir()] == ['version_0']


def test_another_trainer_opens_a_run_of_its_own(tmp_path: Path) -> None:
    callback = RunFolder('small')
    for number in range(2):
        trainer = run_trainer(tmp_path)
        trainer.callbacks = [callback]  # type: ignore[attr-defined]
        trainer.fit(make_task(), make_datamodule())
        assert callback.path == tmp_path / f'runs/small/version_{number}'
        assert (callback.path / 'metrics.csv').is_file()
    callback.path.rename(tmp_path / 'moved')  # type: ignore[union-attr]
    with pytest.raises(FileNotFoundError, match='moved or deleted'):
        callback.on_validation_end(trainer, make_task())


def test_a_folder_that_cannot_be_made_stops_fit_at_once(tmp_path: Path) -> None:
    (tmp_path / 'runs').write_text('in the way')
    with pytest.raises(NotADirectoryError, match='a file has its name'):
        _fit(tmp_path)


@needs_posix
def test_links_in_a_run_are_not_followed(tmp_path: Path) -> None:
    trainer = _fit(tmp_path, AccuracyReport(table=False))
    run = tmp_path / 'runs' / 'small' / 'version_0'
    precious = tmp_path / 'precious.txt'
    precious.write_text('precious')
    (run / 'test').mkdir()
    for name in ('test.json', 'report.html', 'test/metrics.csv', 'test/config.yaml'):
        (run / name).symlink_to(precious)
    trainer.test(datamodule=make_datamodule(), ckpt_path='best', verbose=False)
    assert precious.read_text() == 'precious'
    assert json.loads((run / 'test.json').read_text())['scene']
    (run / 'test' / 'metrics.csv').unlink()
    (run / 'test').rename(run / 'old')
    (run / 'test').symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError, match='found a link'):
        trainer.test(datamodule=make_datamodule(), ckpt_path='best', verbose=False)


def test_checkpoints_are_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_bytes

    def full(self: Path, data: Any) -> int:
        if self.suffix != '.ckpt':
            return written(self, data)
        written(self, bytes(data)[:100])
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match=r'best\.ckpt could not be written.*No space'):
        _fit(tmp_path)
    checkpoints = tmp_path / 'runs/small/version_0/checkpoints'
    assert not list(checkpoints.iterdir())


def test_results_on_another_scene_have_a_folder_of_their_own(tmp_path: Path) -> None:
    trainer = _fit(tmp_path)
    run = tmp_path / 'runs' / 'small' / 'version_0'
    best = run / 'checkpoints' / 'best.ckpt'
    first = run_trainer(tmp_path)
    task = make_task()
    first.test(task, make_datamodule(), ckpt_path=best, verbose=False)
    before = (run / 'test.json').read_bytes()
    other = make_datamodule(seed=1, allow_other_split=True)
    task = make_task()
    with pytest.warns(UserWarning, match='allow_other_split'):
        run_trainer(tmp_path).test(task, other, ckpt_path=best, verbose=False)
    assert (run / 'test.json').read_bytes() == before
    (folder,) = [path for path in (run / 'test').iterdir() if path.is_dir()]
    report = json.loads((folder / 'test.json').read_text())
    assert report['cube'] == other.scene.digest()
    assert 'not on this scene' in (folder / 'report.html').read_text()
    assert trainer.current_epoch == 1


def test_scores_of_another_checkpoint_are_replaced_with_a_word(tmp_path: Path) -> None:
    trainer = _fit(tmp_path)
    run = tmp_path / 'runs' / 'small' / 'version_0'
    last = run / 'checkpoints' / 'last.ckpt'
    content = torch.load(run / 'checkpoints' / 'best.ckpt', weights_only=True)
    torch.save(content | {'epoch': 7}, last)
    for path, replaced in (('best', 0), ('best', 0), ('last', 1)):
        checkpoint = run / 'checkpoints' / f'{path}.ckpt'
        task = make_task()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            run_trainer(tmp_path).test(
                task, make_datamodule(), ckpt_path=checkpoint, verbose=False
            )
        said = [item for item in caught if 'are replaced by' in str(item.message)]
        assert len(said) == replaced
    assert trainer.current_epoch == 1
