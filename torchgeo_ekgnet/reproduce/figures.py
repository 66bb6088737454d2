# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The paper's figures 5 to 8: scenes, maps of all systems, training curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .._files import replaced
from ..datasets.plotting import as_written, colour_labels, false_colour, legend_patches
from .classical import fit_classical, scene_spectra, training_data

if TYPE_CHECKING:
    from ..datasets.scene import HyperspectralScene
    from ..datasets.splits import Split
    from .summary import Summary

PANELS_ACROSS = 4
PANEL_INCHES = 2.6


def map_panels(
    scene: 'HyperspectralScene', maps: Sequence[tuple[str, NDArray[np.int64]]]
) -> Figure:
    """Draw false colour, labels and the maps of all systems.

    Args:
        scene: The scene.
        maps: Name and classes of each map, 1..C, 0 where nothing was classified,
            int64 (rows, cols).

    Returns:
        The figure, with a legend.
    """
    panels = [
        ('False colour', false_colour(scene)),
        ('Labels', colour_labels(scene.label_map, scene.palette)),
        *((name, colour_labels(labels, scene.palette)) for name, labels in maps),
    ]
    rows, cols, _ = scene.shape
    across = min(PANELS_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    height = PANEL_INCHES * min(2.0, rows / cols) + 0.3
    figure = Figure((PANEL_INCHES * across, height * down + 1), layout='constrained')
    for axis in (axes := figure.subplots(down, across, squeeze=False)).flat:
        axis.set_axis_off()
    for axis, (name, picture) in zip(axes.flat, panels, strict=False):
        axis.imshow(picture, interpolation='nearest')
        axis.set_title(name, fontsize=9)
    figure.legend(
        handles=legend_patches(scene, counts=False),
        loc='outside lower center',
        ncols=across,
        fontsize=7,
    )
    return figure


def classical_map(
    name: str, scene: 'HyperspectralScene', split: 'Split', seed: int
) -> NDArray[np.int64]:
    """Classify the labelled pixels of a scene with a classical baseline.

    Args:
        name: Name of the baseline.
        scene: The scene.
        split: Training pixels.
        seed: Seed of the classifier.

    Returns:
        Classes 1..C, 0 where there is no label, int64 (rows, cols).
    """
    estimator = fit_classical(name, *training_data(scene, split), seed)
    labelled = np.flatnonzero(scene.label_map)
    classes = np.zeros(scene.label_map.shape, dtype=np.int64)
    classes.flat[labelled] = estimator.predict(scene_spectra(scene, labelled)) + 1
    return classes


def curve_panels(summaries: Sequence['Summary']) -> Figure:
    """Draw loss and overall accuracy of training and validation against epochs.

    Args:
        summaries: Rows with curves; each gets two panels.

    Returns:
        The figure: one thin line a seed, a thick one for the mean.
    """
    figure = Figure((8, 3 * len(summaries)), layout='constrained')
    axes = figure.subplots(len(summaries), 2, squeeze=False)
    for (left, right), summary in zip(axes, summaries, strict=True):
        curves = [result['curves'] for result in summary.results]
        _draw(
            left, curves, 'loss', {'train_loss': 'training', 'val_loss': 'validation'}
        )
        _draw(
            right,
            curves,
            'overall accuracy (%)',
            {'train_OA': 'training', 'val_OA': 'validation'},
            100,
        )
        left.set_title(summary.label, loc='left', fontsize=10)
    return figure


def draw_curves(summaries: Sequence['Summary'], folder: Path) -> list[tuple[Path, str]]:
    """Write the training curves of a report.

    Args:
        summaries: Its rows.
        folder: Its folder.

    Returns:
        The picture with its caption; nothing if no network was trained.
    """
    shown = [s for s in summaries if s.results[0]['curves'] and not s.is_smoothed]
    if not shown:
        return []
    file = save(curve_panels(shown), folder / 'curves.png')
    return [(file, 'Training and validation, one thin line a seed')]


def _draw(
    axis: Any,
    curves: Sequence[Mapping[str, Sequence[float | None]]],
    title: str,
    names: Mapping[str, str],
    scale: float = 1,
) -> None:
    """Draw the curves of one panel; an overflowing validation loss leaves it."""
    reference = 0.0
    for colour, (name, label) in zip(
        ('tab:blue', 'tab:orange'), names.items(), strict=True
    ):
        lines = [
            scale * np.array(curve[name], dtype=np.float64)
            for curve in curves
            if curve.get(name)
        ]
        if not lines:
            continue
        length = min(map(len, lines))
        stage = f'{name.partition("_")[0]}_epoch'
        known = next((curve[stage] for curve in curves if curve.get(stage)), None)
        epochs = np.array(known or range(1, length + 1), dtype=np.float64)[:length]
        for line in lines:
            axis.plot(epochs, line[:length], color=colour, alpha=0.35, linewidth=0.8)
        mean = np.mean([line[:length] for line in lines], axis=0)
        axis.plot(epochs, mean, color=colour, label=label)
        largest = max(float(np.nanmax(line, initial=0)) for line in lines)
        reference = reference or largest
        if largest > 3 * reference:
            axis.set_ylim(0, 3 * reference)
    axis.set_xlabel('epoch')
    axis.set_ylabel(title)
    axis.legend(fontsize=8)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure.

    Args:
        figure: The figure.
        path: PNG file; its folder is made.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as part:
        as_written(figure).savefig(part, dpi=150)
    return path
