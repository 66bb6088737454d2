# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the command line tests do not see of the run folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from torchgeo_ekgnet.callbacks import AccuracyReport, ClassificationMap, RunFolder
from torchgeo_ekgnet.callbacks.run_folder import (
    newest_checkpoint,
    run_of_checkpoint,
    run_path,
)
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.datasets.splits import Split
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


def make_datamodule() -> SyntheticSceneDataModule:
    return SyntheticSceneDataModule(
        rows=20,
        cols=20,
        num_bands=12,
        num_classes=3,
        patch_size=5,
        split=RandomSplit(0.3, 0.2, 3),
    )


def make_trainer(folder: Path, **options: Any) -> Trainer:
    callbacks = [
        RunFolder('small', **options),
        ModelCheckpoint(filename='best', monitor='val_loss'),
        AccuracyReport(table=False),
    ]
    return Trainer(
        max_epochs=1,
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
