# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a stage leaves in the folder of its run that is refused before it begins."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.small import make_datamodule, make_task

from .test_run_folder import run_trainer


class Refusing(Callback):
    """Refuses every stage but training."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise ValueError('refused')

    on_predict_start = on_test_start

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == 'validate':
            raise ValueError('refused')


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a training."""
    task = make_task()
    run_trainer(tmp_path).fit(task, make_datamodule())
    return tmp_path / 'runs' / 'small' / 'version_0'


def refused(folder: Path, stage: str, **options: Any) -> None:
    """Begin a stage that is refused."""
    trainer = run_trainer(folder)
    trainer.callbacks.append(Refusing())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match='refused'):
        getattr(trainer, stage)(**options)


@pytest.mark.filterwarnings('ignore:.*allow_other_split')
@pytest.mark.parametrize('stage', ['validate', 'test', 'predict'])
@pytest.mark.parametrize('seed', [0, 1])
def test_nothing_stays(stage: str, seed: int, run: Path, tmp_path: Path) -> None:
    before = sorted(run.rglob('*'))
    refused(
        tmp_path,
        stage,
        model=make_task(),
        datamodule=make_datamodule(seed=seed, allow_other_split=True),
        ckpt_path=run / 'checkpoints' / 'best.ckpt',
    )
    assert sorted(run.rglob('*')) == before


def test_earlier_results_stay(run: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        'model': make_task(),
        'datamodule': make_datamodule(),
        'ckpt_path': run / 'checkpoints' / 'best.ckpt',
    }
    run_trainer(tmp_path).test(**given, verbose=False)
    before = sorted(run.glob('*')), (run / 'test.json').read_bytes()
    refused(tmp_path, 'test', **given)
    assert (sorted(run.glob('*')), (run / 'test.json').read_bytes()) == before


def test_loaded_weights_open_no_run(run: Path, tmp_path: Path) -> None:
    best = str(run / 'checkpoints' / 'best.ckpt')
    refused(
        tmp_path, 'test', model=make_task(weights=best), datamodule=make_datamodule()
    )
    assert [path.name for path in run.parent.iterdir()] == ['version_0']


def test_results_before_a_failure_stay_in_the_run_that_loaded_weights_open(
    tmp_path: Path,
) -> None:
    class Failing(Callback):
        def on_test_end(self, *_: Any) -> None:
            raise ValueError('late')

    task = make_task(in_channels=12, num_classes=3)
    task.load_state_dict(task.state_dict())
    trainer = run_trainer(tmp_path)
    trainer.callbacks.append(Failing())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match='late'):
        trainer.test(task, make_datamodule(), verbose=False)
    assert (tmp_path / 'runs' / 'small' / 'version_0' / 'test.json').is_file()
