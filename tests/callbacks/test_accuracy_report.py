# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from tests.small import make_datamodule, make_task, make_trainer
from torchgeo_ekgnet._files import file_digest
from torchgeo_ekgnet.callbacks import AccuracyReport
from torchgeo_ekgnet.callbacks.accuracy_report import accuracy_table
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.metrics import Accuracies

from . import test_run_folder as runs


def make_report(**changes: Any) -> dict[str, Any]:
    figures = Accuracies.from_confusion([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    report = {
        'scene': 'Field',
        'synthetic': False,
        'model': 'ekgnet_tiny',
        'parameters': 12345,
        **figures.to_dict(),
        'class_names': ['Corn', 'Woods', 'Stone-Steel-Towers'],
        'protocol': 'random',
        'overlap': {'contains_training_centre': 0.5, 'shares_training_pixel': 1.0},
        'seed': 7,
        'epochs': 3,
    }
    return {**report, **changes}


def test_table() -> None:
    table = accuracy_table(make_report())
    lines = table.splitlines()
    assert lines[2].split() == ['Corn', '10', '80.00', '88.89']
    assert lines[4].split() == ['Stone-Steel-Towers', '0', '-', '-']
    for text in (
        'overall accuracy',
        '85.00',
        'kappa x 100',
        '70.00',
        '12,345 parameters',
        'protocol random, seed 7, 3 epochs',
        'training centre: 50.00 %',
        'training patch: 100.00 %',
    ):
        assert text in table
    assert 'SYNTHETIC' not in table
    assert 'SYNTHETIC' in accuracy_table(make_report(synthetic=True))


def test_table_without_overlap_or_kappa() -> None:
    table = accuracy_table(make_report(overlap=None, kappa=None))
    assert 'training centre' not in table
    assert table.splitlines()[8].split() == ['kappa', 'x', '100', '-']


def test_json_holds_what_is_needed_to_judge_it(tmp_path: Path) -> None:
    datamodule = make_datamodule()
    trainer = make_trainer(tmp_path, AccuracyReport('other.json', table=False))
    task = make_task()
    trainer.fit(task, datamodule)
    trainer.test(task, datamodule, verbose=False)
    report = json.loads((tmp_path / 'other.json').read_text(encoding='utf-8'))
    assert {
        'overall_accuracy',
        'average_accuracy',
        'kappa',
        'per_class',
        'confusion_matrix',
        'precision_average',
        'protocol',
        'overlap',
        'split',
        'seed',
        'model',
        'versions',
        'parameters',
        'epochs',
        'class_names',
        'patch_size',
        'normalization',
        'scene',
        'source',
    } <= set(report)
    assert report['split']['identity'] == datamodule.split.identity()
    assert report['split']['settings']['seed'] == 3
    assert report['class_names'] == list(datamodule.scene.class_names)
    parameters = sum(p.numel() for p in task.model.parameters())
    assert report['parameters'] == parameters
    assert report['overall_accuracy'] == task.accuracies['test'].overall


def test_a_part_of_the_test_pixels_is_said(tmp_path: Path) -> None:
    datamodule = make_datamodule(batch_size=8)
    trainer = make_trainer(tmp_path, AccuracyReport(table=False, page=False))
    task = make_task()
    trainer.fit(task, datamodule)
    trainer.limit_test_batches = 1
    with pytest.warns(UserWarning, match=r'test: 8 of \d+ test pixels were scored'):
        trainer.test(task, datamodule, verbose=False)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    class Other(LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            return None

    trainer = make_trainer(tmp_path, AccuracyReport())
    batches: Any = [0]
    loader: DataLoader[Any] = DataLoader(batches)
    with pytest.raises(TypeError, match='Other keeps no confusion matrix'):
        trainer.test(Other(), loader)


def test_a_page_that_fails_does_not_cost_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise MemoryError('no room for a picture')

    monkeypatch.setattr('torchgeo_ekgnet.maps.run_report.write_run_report', fail)
    datamodule = SyntheticSceneDataModule(
        rows=20, cols=20, num_bands=12, num_classes=3, patch_size=5
    )
    trainer = make_trainer(tmp_path, AccuracyReport(table=False))
    task = make_task()
    trainer.fit(task, datamodule)
    with pytest.warns(UserWarning, match=r'report\.html is left out.*MemoryError'):
        trainer.test(task, datamodule, verbose=False)
    assert json.loads((tmp_path / 'test.json').read_text())['cube']


@pytest.mark.parametrize('edges', [None, 0.1])
def test_smoothed_scores_are_a_row_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edges: float | None
) -> None:
    datamodule = make_datamodule()
    trainer = make_trainer(tmp_path, AccuracyReport(smooth=3, smooth_edges=edges))
    task = make_task()
    trainer.fit(task, datamodule)
    trainer.test(task, datamodule, verbose=False)
    report = json.loads((tmp_path / 'test.json').read_text())
    smoothed = report['smoothed']
    assert smoothed['window'] == 3 and smoothed['edges'] == edges
    assert sum(smoothed['counts']) == sum(report['counts'])
    assert smoothed['reaches_training'] > 0.5
    out = capsys.readouterr().out
    assert 'smoothed 3 x 3' in out and 'hold a training pixel' in out
    page = (tmp_path / 'report.html').read_text()
    assert 'every pixel alone' in page and 'holds a training pixel' in page


def test_smoothing_needs_neighbours() -> None:
    with pytest.raises(ValueError, match='odd number'):
        AccuracyReport(smooth=4)
    with pytest.raises(ValueError, match='odd number'):
        AccuracyReport(smooth_edges=0.1)


class _Overwrites(Callback):
    """Stands for a training that writes its checkpoint while another one is tested."""

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        path = Path(str(trainer.ckpt_path))
        torch.save(torch.load(path, weights_only=True) | {'epoch': 7}, path)


def test_results_name_the_checkpoint_that_was_read(tmp_path: Path) -> None:
    runs._fit(tmp_path)
    run = tmp_path / 'runs' / 'small' / 'version_0'
    best = run / 'checkpoints' / 'best.ckpt'
    read = file_digest(best)
    trainer = runs.run_trainer(tmp_path)
    trainer.callbacks = [*trainer.callbacks, _Overwrites()]  # type: ignore[attr-defined]
    task = make_task()
    trainer.test(task, make_datamodule(), ckpt_path=best, verbose=False)
    assert file_digest(best) != read
    report = json.loads((run / 'test.json').read_text())
    assert report['checkpoint_digest'] == read
