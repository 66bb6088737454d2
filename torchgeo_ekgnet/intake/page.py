# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The overview of a scene as one page for a browser."""

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..datasets import HyperspectralScene
from ..datasets.plotting import class_spectra, false_colour, label_picture, plot_spectra
from ..maps import Page
from .overview import Overview

__all__ = ('write_overview',)

#: Longest side of the pictures in pixels.
_MAX_SIDE = 900

_Table = tuple[list[str], list[list[object]]]


def write_overview(overview: Overview, path: str | os.PathLike[str]) -> Path:
    """Write the overview of a scene as HTML, pictures included.

    Args:
        overview: The overview.
        path: File to write; it appears in full or not at all.

    Returns:
        The file.
    """
    scene = overview.scene
    rows, cols, bands = scene.shape
    page = Page(f'Scene {scene.name}', f'{rows:,} x {cols:,} pixels, {bands} bands')
    if scene.synthetic:
        page.notice('This scene is synthetic: a program made it.')
    for remark in overview.remarks:
        page.notice(remark)
    page.section('Facts')
    page.table(('fact', 'value'), list(overview.facts().items()))
    page.section('Picture')
    page.figure(
        _picture(scene),
        'The scene in false colour and its labels.',
        f'{scene.name} in false colour beside its labels',
    )
    if scene.num_classes:
        page.section('Classes')
        page.table(*_shown(overview.class_table()), swatches=scene.palette.tolist())
    if overview.previews:
        page.section('Splits')
        page.paragraph(
            'What a split would be like before anything is trained. The larger the '
            'share of test patches that overlap training patches, the less a score says '
            'about ground that the network has not seen.'
        )
        page.table(*_shown(overview.split_table()))
        for reason in overview.reasons():
            page.paragraph(reason)
    if any(scene.class_counts):
        page.section('Spectra')
        page.figure(
            _mean_spectra(scene),
            'Mean spectra of the classes; colours are those of the table.',
        )
        page.figure(
            plot_spectra(scene),
            'Mean and standard deviation of the spectra of each class, as stored.',
        )
    page.section('Bands')
    seen = overview.statistics
    centres = scene.wavelengths
    page.table(
        ('band in the file', 'nm', 'smallest', 'mean', 'largest'),
        [
            (
                int(band),
                None if centres is None else f'{centres[index]:.1f}',
                f'{seen.low[index]:g}',
                f'{seen.mean[index]:.6g}',
                f'{seen.high[index]:g}',
            )
            for index, band in enumerate(scene.band_indices)
        ],
        'Bands that are used, counted from 0; values of pixels with data.',
    )
    return page.write(path)


def _shown(table: _Table) -> _Table:
    """Write the numbers of a table as readers want them."""
    head, rows = table
    return head, [
        [f'{cell:,}' if isinstance(cell, int) else cell for cell in row] for row in rows
    ]


def _picture(scene: HyperspectralScene) -> Figure:
    """Draw false colour beside labels, large enough for a telephone."""
    rows, cols, _ = scene.shape
    stacked = cols > 2 * rows
    across, down = (1, 2) if stacked else (2, 1)
    height = min(9.0, down * 7.2 / across * rows / cols + 0.5 * down)
    figure = Figure(figsize=(7.2, height), layout='constrained')
    first, second = figure.subplots(down, across)
    first.imshow(false_colour(scene, max_side=_MAX_SIDE), interpolation='nearest')
    second.imshow(label_picture(scene, _MAX_SIDE), interpolation='nearest')
    for axes, title in ((first, 'False colour'), (second, 'Labels')):
        axes.set_axis_off()
        axes.set_title(title, fontsize=14)
    return figure


def _mean_spectra(scene: HyperspectralScene) -> Figure:
    """Draw the mean spectra of all classes in one diagram."""
    means, _, counts = class_spectra(scene)
    centres = scene.wavelengths
    position = np.arange(scene.num_bands) if centres is None else centres
    order = np.argsort(position, kind='stable')
    figure = Figure(figsize=(6.4, 3.8), layout='constrained')
    axes = figure.subplots()
    for number in np.flatnonzero(counts):
        colour = tuple(np.minimum(scene.palette[number] / 255, 0.85))
        axes.plot(position[order], means[number][order], color=colour, linewidth=1.5)
    axes.set_xlabel('Band' if centres is None else 'Wavelength (nm)', fontsize=12)
    axes.set_ylabel('Value as stored', fontsize=12)
    axes.tick_params(labelsize=11)
    return figure
