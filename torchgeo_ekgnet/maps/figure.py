# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The picture of a map: map, false colour and labels side by side, with a legend."""

import csv
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from .._files import replaced
from ..datasets.plotting import (
    as_written,
    colour_labels,
    false_colour,
    label_picture,
    legend_label,
    thinning,
)
from ..datasets.scene import HyperspectralScene
from ..metrics import SCORES
from .raster import Legend

__all__ = (
    'confidence_figure',
    'learning_curves',
    'map_figure',
    'read_labels',
    'reliability_figure',
    'save_map_figure',
)

#: Width of a picture that fills a page, in inches.
PAGE_WIDTH = 7.2

#: Resolution of the saved picture; 7.2 inches become 2160 pixels.
DPI = 300

#: Points; stays readable when the picture fills a page.
_FONT_SIZE = 7.5


def _thinned(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read the first band of a raster, thinned out if it is large."""
    with (
        warnings.catch_warnings(action='ignore', category=NotGeoreferencedWarning),
        rasterio.open(path) as file,
    ):
        step = thinning(file.shape)
        shape = (math.ceil(file.height / step), math.ceil(file.width / step))
        values: NDArray[np.float32] = file.read(
            1, out_shape=shape, resampling=Resampling.nearest
        )
    return values


def read_labels(path: str | os.PathLike[str], legend: Legend) -> NDArray[np.int64]:
    """Read the classes of a map, thinned out if it is large.

    Args:
        path: ``map.tif``.
        legend: Classes of the map.

    Returns:
        Class numbers 1..C, 0 where nothing was classified.
    """
    values = _thinned(path).astype(np.int64)
    table = np.zeros(max(legend.values) + 1, dtype=np.int64)
    table[list(legend.values)] = np.arange(1, len(legend.values) + 1)
    labels: NDArray[np.int64] = table[values]
    return labels


def map_figure(
    labels: NDArray[np.int64], scene: HyperspectralScene, legend: Legend
) -> Figure:
    """Draw map, false colour and labels side by side above a legend.

    Args:
        labels: Classes of the map, 1..C, 0 where nothing was classified; it may be
            thinned out.
        scene: The scene; panels of wide scenes are put one below the other.
        legend: Classes of the map.

    Returns:
        The figure, as wide as a page.
    """
    rows, cols, _ = scene.shape
    panels = [
        ('Map', colour_labels(labels, legend.palette)),
        ('False colour', false_colour(scene)),
    ]
    if scene.label_map.any():
        panels.append(('Labels', label_picture(scene)))
    stacked = cols > 2.2 * rows
    across, down = (1, len(panels)) if stacked else (len(panels), 1)
    panel_height = PAGE_WIDTH / across * rows / cols
    scale = min(1.0, 8.0 / (panel_height * down))
    longest = max(len(name) for name in legend.names)
    columns = max(1, min(6, int(PAGE_WIDTH / (0.45 + 0.058 * longest))))
    entries = len(legend.names) + 1
    legend_height = 0.17 * math.ceil(entries / columns) + 0.15
    height = panel_height * scale * down + 0.25 * down + legend_height + 0.1
    figure = Figure(figsize=(PAGE_WIDTH, height), layout='constrained', dpi=DPI)
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    for axes, (title, picture) in zip(grid.flat, panels, strict=True):
        axes.imshow(
            picture, interpolation='nearest', extent=(0, cols, rows, 0), aspect='equal'
        )
        axes.set_title(title, fontsize=_FONT_SIZE + 1)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_linewidth(0.4)
    handles = [
        Patch(
            facecolor=tuple(colour / 255),
            edgecolor='0.3',
            lw=0.4,
            label=legend_label(name),
        )
        for name, colour in zip(legend.names, legend.palette, strict=True)
    ]
    if (labels == 0).any() or (scene.label_map == 0).any():
        handles.append(Patch(facecolor='black', edgecolor='0.3', lw=0.4, label='none'))
    legend_box = figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=columns,
        fontsize=_FONT_SIZE,
        frameon=False,
        handlelength=1.1,
        handleheight=1.1,
        columnspacing=1.2,
        labelspacing=0.35,
    )
    as_written(figure)
    _trim(figure, [*grid[:, 0], legend_box])
    return figure


def _trim(figure: Figure, parts: Sequence[Artist]) -> None:
    """Make a figure as high as its parts, one below the other, need.

    Gaps between panels make these narrower, and so lower, than their share of the page:
    what is left over would be a blank strip above the legend.
    """
    figure.draw_without_rendering()
    needed = 0.0
    for part in parts:
        box = part.get_tightbbox()
        needed += 0.1 + (0.0 if box is None else box.height / figure.dpi)
    figure.set_figheight(min(figure.get_figheight(), needed))


def save_map_figure(
    classes: str | os.PathLike[str],
    scene: HyperspectralScene,
    legend: Legend,
    path: str | os.PathLike[str],
) -> Path:
    """Draw the picture of a map that lies on the disk.

    Args:
        classes: ``map.tif``.
        scene: The scene.
        legend: Classes of the map.
        path: PNG file to write.

    Returns:
        The file.
    """
    figure = map_figure(read_labels(classes, legend), scene, legend)
    with replaced(path) as part:
        figure.savefig(part, format='png', metadata={'Software': None})
    return Path(path)


def confidence_figure(path: Path) -> Figure:
    """Draw the top probability as a picture and a histogram."""
    values = _thinned(path)
    figure = Figure(figsize=(7.2, 3.0), layout='constrained')
    left, right = figure.subplots(1, 2)
    picture = left.imshow(values, vmin=0, vmax=1, cmap='viridis', aspect='equal')
    left.set_axis_off()
    left.set_title('Top probability', fontsize=9)
    figure.colorbar(picture, ax=left, shrink=0.9).ax.tick_params(labelsize=8)
    known = values[np.isfinite(values)]
    right.hist(known, bins=np.linspace(0, 1, 41).tolist(), color='#1d5f8a')
    right.set_xlabel('top probability', fontsize=8)
    right.set_ylabel('pixels', fontsize=8)
    right.set_xlim(0, 1)
    right.tick_params(labelsize=8)
    right.set_title('Histogram', fontsize=9)
    return as_written(figure)


def reliability_figure(bins: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw accuracy over confidence, and how many pixels have which.

    Args:
        bins: 'pixels', 'confidence' and 'accuracy' of each bin, see
            :meth:`~torchgeo_ekgnet.calibration.Reliability.compute`.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(7.2, 3.0), layout='constrained')
    left, right = figure.subplots(1, 2)
    number = len(bins['pixels'])
    filled = [index for index in range(number) if bins['pixels'][index]]
    said, found = (
        [100 * bins[name][index] for index in filled]
        for name in ('confidence', 'accuracy')
    )
    left.plot([0, 100], [0, 100], color='#76808c', lw=0.8)
    left.plot(said, found, 'o-', color='#1d5f8a', ms=4)
    left.set_ylabel('right, per cent', fontsize=8)
    left.set_title('Reliability', fontsize=9)
    width = 100 / number
    places = [width * (index + 0.5) for index in range(number)]
    right.bar(places, bins['pixels'], width=0.9 * width, color='#1d5f8a')
    right.set_ylabel('pixels', fontsize=8)
    right.set_title('Test pixels', fontsize=9)
    for axes in (left, right):
        axes.set_xlim(0, 100)
        axes.set_xlabel('top probability, per cent', fontsize=8)
        axes.tick_params(labelsize=8)
    left.set_ylim(0, 100)
    return as_written(figure)


def learning_curves(path: str | os.PathLike[str]) -> Figure | None:
    """Draw losses and accuracies by epoch.

    Args:
        path: ``metrics.csv`` of Lightning's CSV logger; what is no number is left out.

    Returns:
        The figure, or None if the file has no epoch.
    """
    series = _read_epochs(path)
    losses = [
        (name, label)
        for name, label in (
            ('train_loss_epoch', 'training'),
            ('train_loss', 'training'),
            ('val_loss', 'validation'),
        )
        if name in series
    ]
    scores = [
        (name, label)
        for name, label in (
            ('train_OA', 'OA, training'),
            *(
                (f'val_{score.name}', f'{score.name.replace("_", " ")}, validation')
                for score in SCORES
            ),
        )
        if name in series
    ]
    if not losses and not scores:
        return None
    figure = Figure(figsize=(7.2, 2.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    for axes, names, factor, unit in (
        (left, losses, 1.0, 'loss'),
        (right, scores, 100.0, 'per cent'),
    ):
        for name, label in names:
            points = sorted(series[name].items())
            marker = 'o' if len(points) < 3 else None
            axes.plot(
                [epoch + 1 for epoch, _ in points],
                [factor * value for _, value in points],
                label=label,
                marker=marker,
                markersize=3,
                linewidth=1.3,
            )
        axes.set_xlabel('epoch', fontsize=8)
        axes.set_ylabel(unit, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        if names:
            axes.legend(
                fontsize=8,
                frameon=False,
                loc='lower center',
                bbox_to_anchor=(0.5, 1.0),
                ncols=2,
            )
    return as_written(figure)


def _read_epochs(path: str | os.PathLike[str]) -> dict[str, dict[int, float]]:
    """Read the last value of each epoch by the name of what was logged."""
    series: dict[str, dict[int, float]] = {}
    with Path(path).open(newline='', encoding='utf-8') as file:
        for line in csv.DictReader(file):
            epoch = _float(line.get('epoch'))
            if epoch is None or not math.isfinite(epoch):
                continue
            for name, text in line.items():
                value = _float(text)
                if value is not None and name not in ('epoch', 'step'):
                    series.setdefault(name, {})[int(epoch)] = value
    return series


def _float(text: object) -> float | None:
    """Read a cell of a CSV file; None if it holds no number."""
    try:
        return float(str(text))
    except ValueError:
        return None
