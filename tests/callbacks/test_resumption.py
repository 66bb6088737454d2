# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.callbacks.test_run_folder import run_trainer
from tests.small import make_datamodule, make_task, make_trainer
from torchgeo_ekgnet.callbacks import RunFolder
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


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
        trainer = make_trainer(
            tmp_path,
            *(RunFolder('small'), best, last),
            max_epochs=epochs,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
        )
        task = make_task()
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
    trainer = run_trainer(tmp_path)
    trainer.fit(make_task(), make_datamodule())
    lone = tmp_path / 'lone.ckpt'
    path = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    Path(path).rename(lone)
    trainer = run_trainer(tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match='dirpath has changed'):
        trainer.fit(make_task(), make_datamodule(), ckpt_path=lone)
    assert (tmp_path / 'runs/small/version_1/checkpoints/best.ckpt').is_file()


def test_resume_beside_a_best_checkpoint_of_another_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one epoch do not become the best with the score of another one."""
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(
        HyperspectralClassificationTask,
        'on_validation_epoch_end',
        lambda self: self.log('known_loss', next(losses)),
    )

    def fit(epochs: int, checkpoint: Path | None = None) -> ModelCheckpoint:
        trainer = run_trainer(
            tmp_path, monitor='known_loss', max_epochs=epochs, num_sanity_val_steps=0
        )
        last = ModelCheckpoint(filename='last', enable_version_counter=False)
        trainer.callbacks.append(last)  # type: ignore[attr-defined]
        task = make_task()
        trainer.fit(task, make_datamodule(), ckpt_path=checkpoint)
        return trainer.checkpoint_callback  # type: ignore[return-value]

    copied = tmp_path / 'copied'
    copied.mkdir()
    # Copied while the training went on: the best file is older than the last.
    shutil.copy(fit(1).best_model_path, copied / 'best.ckpt')
    losses = iter([3.0, 1.0, 2.0])
    first = Path(fit(2).best_model_path).parent
    shutil.copy(first / 'last.ckpt', copied)
    with pytest.warns(UserWarning, match=r'best\.ckpt: found the score 3, expected 1'):
        best = fit(3, copied / 'last.ckpt')
    assert float(best.best_model_score or 0) == 2.0
    assert torch.load(best.best_model_path, weights_only=True)['epoch'] == 2


def test_resume_beside_a_damaged_best_checkpoint(tmp_path: Path) -> None:
    """It is as good as missing: only the checkpoint in use is needed to go on."""
    trainer = run_trainer(tmp_path)
    last = ModelCheckpoint(filename='last', enable_version_counter=False)
    trainer.callbacks.append(last)  # type: ignore[attr-defined]
    trainer.fit(make_task(), make_datamodule())
    path = Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    damaged = path.read_bytes()[:5000]
    path.write_bytes(damaged)
    trainer = run_trainer(tmp_path, max_epochs=2)
    with pytest.warns(
        UserWarning, match=r'best\.ckpt .*the best score so far is forgot'
    ):
        trainer.fit(make_task(), make_datamodule(), ckpt_path=last.best_model_path)
    best = Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    assert torch.load(best, weights_only=True)['epoch'] == 1
    assert path.read_bytes() == damaged
    assert best.parent == tmp_path / 'runs/small/version_1/checkpoints'


def test_a_trainer_that_has_trained_resumes_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own best weights are not taken for those of the other run's score."""
    losses = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr(
        HyperspectralClassificationTask,
        'on_validation_epoch_end',
        lambda self: self.log('known_loss', next(losses)),
    )
    last = []
    for _ in range(2):
        trainer = run_trainer(tmp_path, monitor='known_loss', num_sanity_val_steps=0)
        last.append(ModelCheckpoint(filename='last', enable_version_counter=False))
        trainer.callbacks.append(last[-1])  # type: ignore[attr-defined]
        trainer.fit(make_task(), make_datamodule())
    trainer.fit_loop.max_epochs = 2
    with pytest.warns(
        UserWarning, match=r'version_1/.*best\.ckpt: found a checkpoint of'
    ):
        trainer.fit(make_task(), make_datamodule(), ckpt_path=last[0].best_model_path)
    best = trainer.checkpoint_callback
    assert float(best.best_model_score) == 2.0  # type: ignore[union-attr]
    content = torch.load(best.best_model_path, weights_only=True)  # type: ignore[union-attr]
    assert content['epoch'] == 1


def test_a_checkpoint_names_no_other_file(tmp_path: Path) -> None:
    trainer = run_trainer(tmp_path)
    trainer.fit(make_task(), make_datamodule())
    path = Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    secret = tmp_path / 'secret.txt'
    secret.write_text('secret')
    content = torch.load(path, weights_only=True)
    for state in content['callbacks'].values():
        if 'best_model_path' in state:
            state.update(best_model_path=str(secret), last_model_path=str(secret))
    torch.save(content, path)
    trainer = run_trainer(tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match='dirpath has changed'):
        trainer.fit(make_task(), make_datamodule(), ckpt_path=path)
    assert secret.read_text() == 'secret'
    assert not list((tmp_path / 'runs').rglob('secret*'))
