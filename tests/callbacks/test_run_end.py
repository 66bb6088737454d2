# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a training run says at its end."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.small import make_datamodule, make_task
from torchgeo_ekgnet._files import write_text

from .test_run_folder import _fit, run_trainer


def test_the_end_of_a_run_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    last = ModelCheckpoint(filename='last')  # has no score to watch
    trainer = _fit(tmp_path, last, max_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines if line)
    assert shown['run'] == 'runs/small/version_0'
    best = torch.load(
        tmp_path / 'runs/small/version_0/checkpoints/best.ckpt', weights_only=True
    )
    assert shown['best'].startswith(f'epoch {best["epoch"] + 1} of 2, validation: OA ')
    where = "ckpt_path='runs/small/version_0/checkpoints/best.ckpt'"
    assert shown['next'] == f'trainer.test(task, datamodule, {where})'
    assert trainer.current_epoch == 2


def test_without_a_score_to_watch_the_last_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = run_trainer(tmp_path, monitor=None, max_epochs=2)
    trainer.checkpoint_callback.filename = 'last'  # type: ignore[union-attr]
    trainer.fit(make_task(), make_datamodule())
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines if line)
    assert shown['last'].startswith('epoch 2 of 2, validation: OA ')
    assert shown['next'].endswith("='runs/small/version_0/checkpoints/last.ckpt')")


@pytest.mark.parametrize('save_last', [True, None])
def test_a_score_that_was_never_computed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    save_last: bool | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = run_trainer(tmp_path, max_epochs=1, check_val_every_n_epoch=2)
    trainer.checkpoint_callback.save_last = save_last  # type: ignore[union-attr]
    trainer.fit(make_task(), make_datamodule())
    shown = capsys.readouterr().out
    assert ('last   epoch 1 of 1\nnext   trainer.test(' in shown) is bool(save_last)
    said = [str(warning.message) for warning in recwarn]
    assert any('is lost; was the score' in text for text in said) is (not save_last)


def test_a_validation_on_some_pixels_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = run_trainer(tmp_path, max_epochs=1, limit_val_batches=1)
    trainer.fit(make_task(), make_datamodule(batch_size=2))
    assert ', validation on 1 of ' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['torchgeo.datamodules.X', 'mine.Task', 'torch.hub.x'])
def test_what_the_run_is_tested_with_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """A configuration beside the checkpoint is not taken for classes of others."""
    monkeypatch.chdir(tmp_path)
    trainer = run_trainer(tmp_path, max_epochs=1)
    config = Path('runs/small/version_0/config.yaml')

    class Saved(Callback):
        def on_fit_start(self, *_: object) -> None:
            write_text(config, f'data: {{split: [{{class_path: {name}}}]}}')

    trainer.callbacks.append(Saved())  # type: ignore[attr-defined]
    trainer.fit(make_task(), make_datamodule())
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith('next'))
    other = '' if name.startswith('torchgeo.') else f' --config {config}'
    checkpoint = config.parent / 'checkpoints' / 'best.ckpt'
    command = f'torchgeo-ekgnet test --ckpt_path {checkpoint}{other}'
    assert line == f'next   {command}'
