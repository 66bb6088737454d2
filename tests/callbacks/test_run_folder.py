# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the command line tests do not see of the run folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from torchgeo_ekgnet.callbacks import AccuracyReport, ClassificationMap, RunFolder
from torchgeo_ekgnet.callbacks.run_folder import (
    _create_first,
    newest_checkpoint,
    run_of_checkpoint,
    run_path,
)
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.datasets.splits import Split
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


def make_datamodule(val: float = 0.2) -> SyntheticSceneDataModule:
    return SyntheticSceneDataModule(
        rows=20,
        cols=20,
        num_bands=12,
        num_classes=3,
        patch_size=5,
        split=RandomSplit(0.3, val, 3),
    )


def make_trainer(
    folder: Path,
    tensorboard: bool = True,
    monitor: str | None = 'val_loss',
    max_epochs: int = 1,
    num_sanity_val_steps: int = 2,
) -> Trainer:
    callbacks = [
        RunFolder('small', tensorboard=tensorboard),
        ModelCheckpoint(filename='best', monitor=monitor),
        AccuracyReport(table=False),
    ]
    return Trainer(
        max_epochs=max_epochs,
        num_sanity_val_steps=num_sanity_val_steps,
        accelerator='cpu',
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def test_loggers_share_the_version(tmp_path: Path) -> None:
    datamodule = make_datamodule()
    for version in range(2):
        trainer = make_trainer(tmp_path)
        trainer.fit(HyperspectralClassificationTask('ekgnet_tiny'), datamodule)
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
    newest = newest_checkpoint(tmp_path / 'runs' / 'small')
    assert newest is not None
    assert newest.parent.parent.name == 'version_1'


@pytest.mark.parametrize('moved', [False, True])
def test_resumed_run_keeps_the_best_epochs(
    moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the epochs after the resume one is second best and one is worse."""
    losses = iter([3.0, 1.0, 2.0, 5.0])
    monkeypatch.setattr(
        HyperspectralClassificationTask,
        'on_validation_epoch_end',
        lambda self: self.log('known_loss', next(losses)),
    )

    def fit(epochs: int, checkpoint: Path | None = None) -> ModelCheckpoint:
        best = ModelCheckpoint(filename='best', monitor='known_loss', save_top_k=2)
        last = ModelCheckpoint(filename='last', enable_version_counter=False)
        trainer = Trainer(
            max_epochs=epochs,
            accelerator='cpu',
            callbacks=[RunFolder('small'), best, last],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            num_sanity_val_steps=0,
        )
        task = HyperspectralClassificationTask('ekgnet_tiny')
        trainer.fit(task, make_datamodule(), ckpt_path=checkpoint)
        return best

    fit(2)
    first = tmp_path / 'runs' / 'small' / 'version_0'
    if moved:
        first = first.rename(tmp_path / 'elsewhere')
    before = {path: path.read_bytes() for path in first.glob('checkpoints/*')}
    best = fit(4, first / 'checkpoints' / 'last.ckpt')

    second = tmp_path / 'runs' / 'small' / f'version_{int(not moved)}' / 'checkpoints'
    assert float(best.best_model_score or 0) == 1.0
    scores = {
        torch.load(path, weights_only=True)['epoch']: float(score)
        for path, score in best.best_k_models.items()
    }
    assert scores == {1: 1.0, 2: 2.0}
    assert {Path(path).parent for path in best.best_k_models} == {second}
    kept = {Path(path) for path in best.best_k_models} | {second / 'last.ckpt'}
    assert set(second.iterdir()) == kept
    assert torch.load(best.best_model_path, weights_only=True)['epoch'] == 1
    assert {path: path.read_bytes() for path in before} == before


def test_resume_without_the_best_checkpoint(tmp_path: Path) -> None:
    """A checkpoint that came alone goes on alone."""
    trainer = make_trainer(tmp_path)
    trainer.fit(HyperspectralClassificationTask('ekgnet_tiny'), make_datamodule())
    lone = tmp_path / 'lone.ckpt'
    path = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    Path(path).rename(lone)
    trainer = make_trainer(tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match='dirpath has changed'):
        trainer.fit(
            HyperspectralClassificationTask('ekgnet_tiny'),
            make_datamodule(),
            ckpt_path=lone,
        )
    assert (tmp_path / 'runs/small/version_1/checkpoints/best.ckpt').is_file()


def test_runs_that_start_together_have_folders_of_their_own(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    paths = [RunFolder('small')._next_version(trainer) for _ in range(2)]
    assert [path.name for path in paths] == ['version_0', 'version_1']
    # Another process created the folder after this one had looked.
    assert _create_first(paths[0].parent, 0).name == 'version_2'


def test_other_processes_are_told_the_folder(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        is_global_zero=False,
        default_root_dir=tmp_path,
        strategy=SimpleNamespace(broadcast=lambda path: path or 'told'),
    )
    assert RunFolder('small')._next_version(trainer) == Path('told')
    assert list(tmp_path.iterdir()) == []


def test_no_validation_pixels(tmp_path: Path) -> None:
    datamodule = make_datamodule(val=0.0)
    task = HyperspectralClassificationTask('ekgnet_tiny')
    for sanity in (0, 2):
        trainer = make_trainer(tmp_path, num_sanity_val_steps=sanity)
        with pytest.raises(ValueError, match="ModelCheckpoint monitors 'val_loss'"):
            trainer.fit(task, datamodule)
        assert trainer.global_step == 0
    plateau = HyperspectralClassificationTask('ekgnet_tiny', lr_schedule='plateau')
    with pytest.raises(ValueError, match=r'ReduceLROnPlateau .* val > 0'):
        make_trainer(tmp_path, monitor=None).fit(plateau, datamodule)
    trainer = make_trainer(tmp_path, monitor='train_loss')
    trainer.fit(task, datamodule)
    assert Path(trainer.checkpoint_callback.best_model_path).is_file()  # type: ignore[union-attr]


def test_versions_are_numbers() -> None:
    names = [Path(f'runs/x/version_{n}/checkpoints/best.ckpt') for n in (9, 10)]
    assert [run_of_checkpoint(name).name for name in names] == [
        'version_9',
        'version_10',
    ]


def test_newest_run_is_the_highest_version(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for number in (2, 9, 10):
        path = tmp_path / f'version_{number}' / 'checkpoints' / 'best.ckpt'
        path.parent.mkdir(parents=True)
        path.touch()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.parents[1].name == 'version_10'


def test_moved_checkpoint_is_its_own_run(tmp_path: Path) -> None:
    assert run_of_checkpoint(tmp_path / 'model.ckpt') == tmp_path


def test_same_process_tests_into_its_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tensorboard=False)
    task, datamodule = HyperspectralClassificationTask('ekgnet_tiny'), make_datamodule()
    trainer.fit(task, datamodule)
    folder = tmp_path / 'runs' / 'small' / 'version_0'
    assert not list(folder.glob('events*'))
    trainer.test(task, datamodule, verbose=False)
    assert (folder / 'test.json').is_file()
    assert (folder / 'test' / 'metrics.csv').is_file()
    assert (folder / 'metrics.csv').is_file()


def test_best_checkpoint_of_the_same_process(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    task, datamodule = HyperspectralClassificationTask('ekgnet_tiny'), make_datamodule()
    trainer.fit(task, datamodule)
    trainer.test(task, datamodule, ckpt_path='best', verbose=False)
    assert (tmp_path / 'runs' / 'small' / 'version_0' / 'test.json').is_file()


def test_loaded_weights_open_a_run(tmp_path: Path) -> None:
    task = HyperspectralClassificationTask('ekgnet_tiny', in_channels=12, num_classes=3)
    task.load_state_dict(task.state_dict())
    make_trainer(tmp_path).test(task, make_datamodule(), verbose=False)
    assert (tmp_path / 'runs' / 'small' / 'version_0' / 'test.json').is_file()


def test_run_that_cannot_be_written_to(tmp_path: Path) -> None:
    """``test`` stops before any work, ``predict`` can write its map elsewhere."""
    trainer = make_trainer(tmp_path, tensorboard=False)
    datamodule = make_datamodule()
    trainer.fit(HyperspectralClassificationTask('ekgnet_tiny'), datamodule)
    run = tmp_path / 'runs' / 'small' / 'version_0'
    for stage in ('test', 'predict'):
        (run / stage).write_text('in the way')
    before = sorted(run.iterdir())
    options: dict[str, Any] = {'ckpt_path': run / 'checkpoints' / 'best.ckpt'}
    task = HyperspectralClassificationTask('ekgnet_tiny')
    with pytest.raises(NotADirectoryError, match=r"file has its name.*version_0/test'"):
        make_trainer(tmp_path).test(task, datamodule, **options)
    trainer = make_trainer(tmp_path)
    trainer.callbacks.append(ClassificationMap(output=str(tmp_path / 'out')))  # type: ignore[attr-defined]
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
    trainer = make_trainer(tmp_path)
    datamodule = make_datamodule()
    trainer.fit(HyperspectralClassificationTask('ekgnet_tiny'), datamodule)
    moved = tmp_path / 'elsewhere'
    (tmp_path / 'runs' / 'small' / 'version_0').rename(moved)
    task = HyperspectralClassificationTask('ekgnet_tiny')
    make_trainer(tmp_path).test(
        task,
        datamodule,
        ckpt_path=str(moved / 'checkpoints' / 'best.ckpt'),
        verbose=False,
    )
    assert (moved / 'test.json').is_file()
    assert not (tmp_path / 'runs' / 'small' / 'version_0').exists()
    assert torch.isfinite(torch.tensor(task.accuracies['test'].overall))
