# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The picture of a map: map, false colour and labels side by side, with a legend."""

import math
import os
import warnings
from pathlib import Path

import numpy as np
import rasterio
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from ..datasets.plotting import MAX_SIDE, colour_labels, false_colour
from ..datasets.scene import HyperspectralScene
from .raster import Legend, fsync_file

__all__ = ('map_figure', 'read_confidence', 'read_labels', 'save_map_figure')

#: Width of a picture that fills a page, in inches.
PAGE_WIDTH = 7.2

#: Resolution of the saved picture; 7.2 inches become 2160 pixels.
DPI = 300

#: Points; stays readable when the picture fills a page.
_FONT_SIZE = 7.5


def _thinned(path: Path, max_side: int) -> NDArray[np.float32]:
    """Read the first band of a raster, thinned out to a longest side."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            step = max(1, math.ceil(max(file.shape) / max_side))
            shape = (math.ceil(file.height / step), math.ceil(file.width / step))
            values: NDArray[np.float32] = file.read(
                1, out_shape=shape, resampling=Resampling.nearest
            )
    return values


def read_labels(
    path: str | os.PathLike[str], legend: Legend, max_side: int = MAX_SIDE
) -> NDArray[np.int64]:
    """Read the classes of a map, thinned out if it is large.

    Args:
        path: ``map.tif``.
        legend: Classes of the map.
        max_side: Longest side of the result.

    Returns:
        Class numbers 1..C, 0 where nothing was classified.
    """
    values = _thinned(Path(path), max_side).astype(np.int64)
    table = np.zeros(max(legend.values) + 1, dtype=np.int64)
    table[list(legend.values)] = np.arange(1, len(legend.values) + 1)
    labels: NDArray[np.int64] = table[values]
    return labels


def read_confidence(
    path: str | os.PathLike[str], max_side: int = MAX_SIDE
) -> NDArray[np.float32]:
    """Read the top probabilities of a map, thinned out if it is large.

    Args:
        path: ``confidence.tif``.
        max_side: Longest side of the result.

    Returns:
        Probabilities, NaN where nothing was classified.
    """
    return _thinned(Path(path), max_side)


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
    step = max(1, math.ceil(max(rows, cols) / MAX_SIDE))
    if scene.label_map.any():
        thin = scene.label_map[::step, ::step]
        panels.append(('Labels', colour_labels(thin, scene.palette)))
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
        Patch(facecolor=tuple(colour / 255), edgecolor='0.3', lw=0.4, label=name)
        for name, colour in zip(legend.names, legend.palette, strict=True)
    ]
    if (labels == 0).any() or (scene.label_map == 0).any():
        handles.append(Patch(facecolor='black', edgecolor='0.3', lw=0.4, label='none'))
    figure.legend(
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
    return figure


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
    path = Path(path)
    figure = map_figure(read_labels(classes, legend), scene, legend)
    figure.savefig(path, format='png', metadata={'Software': None})
    fsync_file(path)
    return path
