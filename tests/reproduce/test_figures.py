# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the figures of a report."""

from typing import Any

from torchgeo_ekgnet.reproduce.figures import curve_panels
from torchgeo_ekgnet.reproduce.summary import summarise


def curves(val_loss: list[float | None]) -> dict[str, Any]:
    return {
        'train_loss': [1.5, 0.5, 0.25],
        'train_OA': [0.5, 0.8, 0.9],
        'val_loss': val_loss,
        'val_OA': [0.4, 0.7, 0.8],
    }


def panels(*runs: dict[str, Any]) -> Any:
    common = {'confusion': [[3, 1], [0, 4]], 'epochs': 3, 'split': {'sizes': (8, 2, 8)}}
    results = [{**common, 'curves': run} for run in runs]
    return curve_panels(summarise([('ssrn', 'SSRN', results)])).axes


def test_one_thin_line_a_seed_and_a_mean() -> None:
    loss, accuracy = panels(curves([1.0, 0.6, 0.4]), curves([2.0, 0.8, 0.6]))
    lines = [line.get_ydata().tolist() for line in loss.lines]
    assert len(lines) == len(accuracy.lines) == 6
    assert lines[5] == [1.5, 0.7, 0.5]
    assert accuracy.lines[0].get_ydata().tolist() == [50, 80, 90]


def test_values_stand_at_their_epochs() -> None:
    run = curves([1.0])
    run |= {'train_epoch': [1, 2, 3], 'val_epoch': [2], 'val_OA': [0.5]}
    loss, _ = panels(run)
    places = [line.get_xdata().tolist() for line in loss.lines]
    assert places == [[1, 2, 3], [1, 2, 3], [2], [2]]


def test_an_overflowing_loss_does_not_hide_the_others() -> None:
    (loss, _) = panels(curves([1.0, 1e31, None]))
    assert loss.get_ylim() == (0, 4.5)
    (loss, _) = panels(curves([None, None, None]))
    assert loss.get_ylim()[1] < 2
