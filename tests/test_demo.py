# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from torchgeo_ekgnet.demo import main

SMALL = [
    '--quiet',
    '--epochs',
    '1',
    '--',
    '--trainer.accelerator=cpu',
    '--trainer.enable_model_summary=false',
    '--data.rows=30',
    '--data.cols=30',
    '--data.num_bands=20',
    '--data.num_classes=3',
    '--data.patch_size=3',
    '--model.model_options.block_config=[1]',
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'runs' / 'quickstart' / 'version_0'


def test_demo_compares_and_draws(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(['--output', str(tmp_path), *SMALL])
    printed = capsys.readouterr().out
    for text in ('SYNTHETIC', 'EKGNet', 'RBF-SVM', 'kappa', 'difference in OA'):
        assert text in printed
    report = json.loads((folder / 'demo.json').read_text(encoding='utf-8'))
    counts = [
        np.array(report[name]['confusion_matrix']).sum(axis=1).tolist()
        for name in ('ekgnet', 'rbf_svm')
    ]
    assert counts[0] == counts[1]
    assert report['shuffled_labels'] is False
    assert (folder / 'demo.png').stat().st_size > 5000
    assert (folder / 'checkpoints' / 'best.ckpt').is_file()


def test_nothing_is_said_of_the_arguments_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(*args: object, **kwargs: object) -> None:
        raise Stop

    monkeypatch.setattr(Trainer, 'fit', stop)
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', 'demo', '--quiet'])
    with warnings.catch_warnings(), pytest.raises(Stop):
        warnings.filterwarnings('error', '.*intended to run from within Python')
        main(['--output', str(tmp_path), *SMALL])


def test_shuffled_labels_train_on_the_same_pixels(
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, bool] = {}

    def spy(columns: dict[str, torch.Tensor]) -> None:
        before = columns['label'].clone()
        shuffle(columns)
        seen['moved'] = bool((columns['label'] != before).any())
        seen['same'] = torch.equal(columns['label'].sort()[0], before.sort()[0])

    from torchgeo_ekgnet import demo

    shuffle = demo._shuffle
    monkeypatch.setattr(demo, '_shuffle', spy)
    main(['--output', str(tmp_path), '--shuffle-labels', *SMALL])
    assert seen == {'moved': True, 'same': True}
    assert 'SHUFFLED' in capsys.readouterr().out
    report = json.loads((folder / 'demo.json').read_text(encoding='utf-8'))
    assert report['shuffled_labels'] is True


def test_bad_number_of_epochs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--epochs: found 0'):
        main(['--output', str(tmp_path), '--epochs', '0'])
