# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of temperatures, of who keeps to them, and of the calibration error."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassCalibrationError

from tests.small import make_datamodule, make_trainer
from torchgeo_ekgnet.calibration import (
    Calibrated,
    Reliability,
    ValidationLogits,
    calibrated,
)
from torchgeo_ekgnet.callbacks import AccuracyReport, ClassificationMap
from torchgeo_ekgnet.checkpoint import Provenance
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.export import RawClassifier
from torchgeo_ekgnet.maps import load_classifier, predict_map
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask


def drawn(pixels: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Logits, and classes drawn from their softmax at another temperature."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(pixels, 4)
    target = torch.multinomial(logits.softmax(1), 1)[:, 0]
    return sharpness * logits, target


def fitted(logits: Tensor, target: Tensor) -> float:
    kept = ValidationLogits()
    for part in torch.arange(len(target)).split(7):
        batch = logits[part], target[part]
        kept.update(*batch)
        for values in batch:  # as a captured network writes its next logits there
            values.zero_()
    return kept.compute()


class TestTemperature:
    @pytest.mark.parametrize('sharpness', [0.3, 1.0, 4.0])
    def test_mends_what_was_said_too_loud(self, sharpness: float) -> None:
        logits, target = drawn(20000, sharpness)
        assert fitted(logits, target) == pytest.approx(sharpness, rel=0.05)

    @pytest.mark.parametrize('pixels', [1, 12, 300])
    def test_is_the_best(self, pixels: int) -> None:
        logits, target = drawn(pixels, 3.0)

        def loss(exponent: float) -> float:
            return float(
                functional.cross_entropy(
                    logits.double() / np.exp(exponent),
                    target,
                    label_smoothing=1 / (pixels + 1),
                )
            )

        best = minimize_scalar(loss, bounds=(-4.6, 4.6), method='bounded')
        found = float(np.log(fitted(logits, target)))
        assert loss(found) == pytest.approx(best.fun, rel=1e-4)

    def test_of_pixels_that_are_all_right(self) -> None:
        target = torch.arange(40) % 4
        logits = functional.one_hot(target).float()
        temperature = fitted(logits, target)
        said = (logits / temperature).softmax(1).max(1).values
        assert said.mean() == pytest.approx(1 - 0.75 / 41, abs=1e-3)

    @pytest.mark.parametrize(('said', 'bound'), [(1e-4, 0.01), (-1.0, 100.0)])
    def test_has_bounds(self, said: float, bound: float) -> None:
        target = torch.arange(40) % 4
        assert fitted(said * functional.one_hot(target), target) == bound

    def test_in_inference_mode(self) -> None:
        with torch.inference_mode():
            assert fitted(*drawn(500, 2.0)) > 1

    @pytest.mark.parametrize('value', [0, -1.0, float('nan'), float('inf'), 'warm'])
    def test_no_temperature(self, value: Any) -> None:
        with pytest.raises(
            ValueError, match=r'temperature: found .* in the checkpoint'
        ):
            Provenance.from_dict({'temperature': value})


class TestReliability:
    def test_many_pixels(self) -> None:
        """Sums of float32 stand still after some million."""
        reliability = Reliability()
        reliability.pixels[13] = reliability.right[13] = 1 << 25
        reliability.confidence[13] = round(0.9 * (1 << 24)) * (1 << 25)
        probabilities = torch.tensor([[0.9, 0.1]]).expand(1000, 2)
        reliability.update(probabilities, torch.zeros(1000, dtype=torch.long))
        bins = reliability.compute()['bins']
        assert bins['pixels'][13] == (1 << 25) + 1000
        assert bins['confidence'][13] == pytest.approx(0.9, abs=1e-6)
        assert bins['accuracy'][13] == 1.0

    @pytest.mark.parametrize('sharpness', [0.3, 1.0, 4.0])
    def test_error_is_that_of_torchmetrics(self, sharpness: float) -> None:
        logits, target = drawn(2000, sharpness)
        ours, theirs = Reliability(), MulticlassCalibrationError(4, n_bins=15)
        for part in torch.arange(2000).split(300):
            probabilities = logits[part].softmax(1)
            ours.update(probabilities, target[part])
            theirs.update(probabilities, target[part])
        found = ours.compute()
        expected = float(theirs.compute())
        assert found['expected_calibration_error'] == pytest.approx(expected, abs=1e-5)
        assert sum(found['bins']['pixels']) == 2000
        json.dumps(found)

    def test_processes_count_together(self) -> None:
        counts = Reliability()
        counts.update(torch.tensor([[0.3, 0.7]]), torch.tensor([1]))
        counts.distributed_available_fn = lambda: True
        counts.dist_sync_fn = lambda value, group: [value, value]
        assert counts.compute()['bins']['pixels'][10] == 2

    def test_bins_by_hand(self) -> None:
        counts = Reliability()
        probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.45, 0.55], [1.0, 0.0]])
        counts.update(probabilities, torch.tensor([0, 0, 1, 0]))
        found = counts.compute()
        bins = found['bins']
        assert (bins['pixels'][8], bins['pixels'][13], bins['pixels'][14]) == (1, 2, 1)
        assert (bins['accuracy'][13], bins['accuracy'][0]) == (0.5, None)
        assert bins['confidence'][13] == pytest.approx(0.9)
        assert found['expected_calibration_error'] == pytest.approx(
            (0.45 + 2 * 0.4 + 0.0) / 4
        )
        # What is no number stops nothing before the task refuses it.
        counts.update(torch.full((2, 2), torch.nan), torch.tensor([0, 1]))
        assert counts.compute()['bins']['pixels'][0] == 2


def test_around_a_network() -> None:
    network = nn.Linear(3, 2).eval()
    assert calibrated(network, None) is network
    around = calibrated(network, 2.0)
    assert isinstance(around, Calibrated) and not around.training
    x = torch.randn(5, 3)
    assert torch.equal(around(x), network(x) / 2)
    elsewhere = calibrated(nn.Linear(3, 2, device='meta'), 2.0)
    assert elsewhere.training and next(elsewhere.buffers()).is_meta
    assert calibrated(nn.Flatten(), 2.0)(x).equal(x / 2)


def make_data(val: float = 0.3) -> SyntheticSceneDataModule:
    split = RandomSplit(0.3, val, 3)
    return make_datamodule(rows=24, cols=24, num_bands=10, patch_size=3, split=split)


def train(
    folder: Path, calibrate: bool, val: float = 0.3, *callbacks: Any
) -> tuple[Trainer, HyperspectralClassificationTask]:
    torch.manual_seed(0)
    last = ModelCheckpoint(folder / 'checkpoints', 'last', save_on_train_epoch_end=True)
    trainer = make_trainer(folder, last, *callbacks, max_epochs=2)
    task = HyperspectralClassificationTask('cnn3d', lr=3e-3, calibrate=calibrate)
    trainer.fit(task, make_data(val))
    return trainer, task


def test_everyone_keeps_to_the_temperature(tmp_path: Path) -> None:
    """Weights and classes are those without it; test, map, export share it."""
    _, plain = train(tmp_path / 'plain', False)
    report = AccuracyReport(table=False)
    mapper = ClassificationMap()
    trainer, task = train(tmp_path / 'own', True, 0.3, report, mapper)
    assert all(
        torch.equal(task.state_dict()[name], value)
        for name, value in plain.state_dict().items()
    )
    assert plain.temperature is None
    assert task.temperature is not None and task.temperature != 1
    path = tmp_path / 'own' / 'checkpoints' / 'last.ckpt'
    data = make_data()
    other = HyperspectralClassificationTask('cnn3d')
    (scores,) = trainer.test(other, data, ckpt_path=path, verbose=False)
    assert other.temperature == task.temperature
    written = json.loads(next(tmp_path.rglob('test.json')).read_text())
    calibration = written['calibration']
    assert calibration['temperature'] == task.temperature
    assert scores['test_OA'] == pytest.approx(written['overall_accuracy'])

    classifier = load_classifier(path)
    assert classifier.temperature == task.temperature
    row_col = torch.from_numpy(data.split.positions('test').astype(np.int64))
    patches = classifier.patches(data.scene).gather(row_col, 'cpu')
    with torch.no_grad():
        raw = task.model.eval()(patches)
        expected = (raw / task.temperature).softmax(1)
        assert torch.allclose(classifier.model(patches).softmax(1), expected, atol=1e-6)
        stored = RawClassifier(classifier).eval()
        assert isinstance(stored.network, Calibrated)
    counts = Reliability()
    truth = torch.from_numpy(data.split.labels(data.scene.label_map, 'test') - 1)
    counts.update(expected, truth)
    assert calibration['expected_calibration_error'] == pytest.approx(
        counts.compute()['expected_calibration_error'], abs=1e-4
    )
    made = predict_map(classifier, data.scene, probabilities=True)
    assert made.probabilities is not None
    at = row_col.numpy()
    np.testing.assert_allclose(
        made.probabilities[:, at[:, 0], at[:, 1]].T, expected, atol=1e-5
    )
    trainer.predict(other, make_data(), ckpt_path=path)
    facts = json.loads(next(tmp_path.rglob('map.json')).read_text())
    assert facts['temperature'] == task.temperature
    page = next(tmp_path.rglob('report.html')).read_text()
    assert '(calibrated).' in page
    assert f'calibrated by a temperature of {task.temperature:.3g}' in page


def test_without_validation_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer, task = train(tmp_path, True, 0.0)
    assert task.temperature is None
    assert 'calibrate: no pixel was validated' in caplog.text
    trainer.test(task, make_data(0.0), verbose=False)
    assert task.reliability is not None
    path = tmp_path / 'checkpoints' / 'last.ckpt'
    assert load_classifier(path).temperature is None


def test_weights_that_change_lose_it(tmp_path: Path) -> None:
    _, task = train(tmp_path / 'one', True)
    assert task.temperature is not None
    again = make_trainer(limit_val_batches=0)
    again.fit(task, make_data())
    assert task.temperature is None
