# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pictures of scenes: false colour, label map, spectra."""

import io
import math
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from numpy.typing import NDArray

from .._fonts import find_letters
from .bands import nearest_bands
from .scene import HyperspectralScene

#: Longest side of a picture in pixels; larger scenes are thinned out.
MAX_SIDE = 1500


class ShownFigure(Figure):
    """A figure of pyplot that a notebook shows once, as the last line of a cell too."""

    def _ipython_display_(self) -> None:
        """Show the figure, and take it from the list that a cell shows at its end."""
        from IPython.display import Image, display

        if 'inline' not in matplotlib.get_backend():
            sys.stdout.write(f'{self!r}\n')
            return
        from matplotlib import pyplot

        buffer = io.BytesIO()
        self.savefig(buffer, format='png', dpi=100)
        display(Image(buffer.getvalue()))  # type: ignore[no-untyped-call]
        pyplot.close(self)


def new_figure(width: float, height: float, managed: bool = False) -> Figure:
    """Make an empty figure.

    Args:
        width: Width in inches.
        height: Height in inches.
        managed: Whether it is one of pyplot's, for a user who calls ``plt.show()`` or
            works in a notebook. Others are for files, and open no window.

    Returns:
        The figure.
    """
    size = (width, height)
    if not managed:
        return Figure(figsize=size, layout='constrained')
    from matplotlib import pyplot

    return pyplot.figure(FigureClass=ShownFigure, figsize=size, layout='constrained')


def _shown_bands(
    scene: HyperspectralScene, wavelengths: Sequence[float] | None
) -> tuple[int, int, int]:
    """Choose the bands of a false colour image: the scene's own, or by wavelength."""
    if wavelengths is None:
        return scene.rgb_bands
    if scene.wavelengths is None:
        raise ValueError(
            f'{scene.name} has no wavelengths; false colour by wavelength needs them'
        )
    return nearest_bands(scene.wavelengths, wavelengths)


def stretch(values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Stretch each channel from its 2nd to its 98th percentile to 0..1.

    Args:
        values: Array of shape (rows, cols, channels).
        valid: Pixels that count, shape (rows, cols); others become 0.

    Returns:
        float32 (rows, cols, channels).
    """
    picture = np.zeros(values.shape, dtype=np.float32)
    if not valid.any():
        return picture
    inside = values[valid].astype(np.float32)
    low, high = np.percentile(inside, (2, 98), axis=0)
    span = np.where(high > low, high - low, 1)
    picture[valid] = np.clip((inside - low) / span, 0, 1)
    return picture


def thinning(shape: Sequence[int], max_side: int = MAX_SIDE) -> int:
    """Say which rows and columns a picture shows so that no side is longer: every nth."""
    return max(1, math.ceil(max(shape[:2]) / max_side))


def false_colour(
    scene: HyperspectralScene,
    rgb_wavelengths: Sequence[float] | None = None,
    max_side: int = MAX_SIDE,
) -> NDArray[np.float32]:
    """Make a false colour image.

    Args:
        scene: Scene to show.
        rgb_wavelengths: Wavelengths in nm shown as red, green and blue; the scene's own
            bands if None.
        max_side: Longest side; larger scenes are thinned out evenly.

    Returns:
        float32 (rows, cols, 3), 0..1.
    """
    step = thinning(scene.shape, max_side)
    values = scene.read_bands(_shown_bands(scene, rgb_wavelengths), step)
    return stretch(values, scene.valid[::step, ::step])


def colour_labels(
    label_map: NDArray[Any], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Colour a label map; 0 becomes black.

    Args:
        label_map: Labels (rows, cols), 0..C.
        palette: Colours (C, 3).

    Returns:
        uint8 (rows, cols, 3).
    """
    table = np.concatenate([np.zeros((1, 3), dtype=np.uint8), palette])
    coloured: NDArray[np.uint8] = table[label_map]
    return coloured


def label_picture(
    scene: HyperspectralScene, max_side: int = MAX_SIDE
) -> NDArray[np.uint8]:
    """Colour the labels of a scene, thinned out as :func:`false_colour` thins it out."""
    step = thinning(scene.shape, max_side)
    return colour_labels(scene.label_map[::step, ::step], scene.palette)


def legend_label(name: str) -> str:
    """Give a class name as a legend shows it; Matplotlib hides those that begin with _."""
    return f' {name}' if name.startswith('_') else name


def as_written(figure: Figure) -> Figure:
    """Show all text of a figure as it is written: a $ in a name is no mathematics.

    Letters that Matplotlib's font lacks are of another font.
    """
    texts = figure.findobj(Text)
    for text in texts:
        text.set_parse_math(False)
    find_letters(texts)
    return figure


def legend_patches(scene: HyperspectralScene, counts: bool = True) -> list[Patch]:
    """Return one legend entry a class.

    Args:
        scene: Scene with class names and palette.
        counts: Add the number of labelled pixels.

    Returns:
        Coloured patches with names.
    """
    return [
        Patch(
            facecolor=tuple(colour / 255),
            edgecolor='0.3',
            label=legend_label(f'{name} ({number:,})' if counts else name),
        )
        for name, number, colour in zip(
            scene.class_names, scene.class_counts, scene.palette, strict=True
        )
    ]


def plot_scene(
    scene: HyperspectralScene,
    show_titles: bool = True,
    suptitle: str | None = None,
    rgb_wavelengths: Sequence[float] | None = None,
    managed: bool = False,
) -> Figure:
    """Plot the false colour image beside the label map with its legend.

    Args:
        scene: Scene to show.
        show_titles: Show a title above each image.
        suptitle: Title of the figure; the scene's name if None.
        rgb_wavelengths: Wavelengths in nm shown as red, green and blue.
        managed: Whether the figure is one of pyplot's, see :func:`new_figure`.

    Returns:
        The figure.
    """
    rows, cols, _ = scene.shape
    panel = 4.6 * min(1.5, max(0.6, cols / rows))
    height = min(9.0, max(3.2, panel * rows / cols + 0.8))
    across, down = (2, 1)
    if cols > 2.2 * rows:  # wide panels lie one below the other, as in pictures of maps
        across, down = (1, 2)
        height = max(3.2, 4 * panel * rows / cols + 1.2)
    patches = legend_patches(scene)
    columns = math.ceil(0.2 * len(patches) / (height - 0.4))
    longest = max((len(str(patch.get_label())) for patch in patches), default=0)
    width = max(3.2, columns * (0.6 + 0.065 * longest))
    figure = new_figure(2 * panel + width, height, managed)
    left, right = figure.subplots(down, across).flat
    picture = false_colour(scene, rgb_wavelengths)
    left.imshow(picture, interpolation='nearest')
    right.imshow(label_picture(scene), interpolation='nearest')
    for axes in (left, right):
        axes.set_axis_off()
    if show_titles:
        bands = _shown_bands(scene, rgb_wavelengths)
        left.set_title(f'False colour ({_band_text(scene, bands)})', fontsize=9)
        labelled = int((scene.label_map > 0).sum())
        right.set_title(f'Labels ({labelled:,} pixels)', fontsize=9)
    if patches:
        figure.legend(
            handles=patches,
            loc='outside right center',
            ncols=columns,
            fontsize=8,
            frameon=False,
        )
    figure.suptitle(_title(scene) if suptitle is None else suptitle)
    return as_written(figure)


def plot_spectra(
    scene: HyperspectralScene, suptitle: str | None = None, managed: bool = False
) -> Figure:
    """Plot mean and spread (one standard deviation) of the spectra of each class.

    Args:
        scene: Scene to show.
        suptitle: Title of the figure; the scene's name if None.
        managed: Whether the figure is one of pyplot's, see :func:`new_figure`.

    Returns:
        The figure.

    Raises:
        ValueError: If the scene has no labelled pixel.
    """
    means, spreads, counts = class_spectra(scene)
    shown = [number for number in range(scene.num_classes) if counts[number]]
    if not shown:
        raise ValueError(f'{scene.name} has no labelled pixel, so no class spectra')
    columns = min(4, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = new_figure(3.1 * columns, 2.1 * lines + 0.7, managed)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    low = min(float((means[i] - spreads[i]).min()) for i in shown)
    high = max(float((means[i] + spreads[i]).max()) for i in shown)
    for position, axes in enumerate(grid.flat):
        if position >= len(shown):
            axes.set_visible(False)
            continue
        number = shown[position]
        colour = tuple(np.minimum(scene.palette[number] / 255, 0.85))
        _draw_spectrum(axes, scene, means[number], spreads[number], colour)
        title = f'{scene.class_names[number]} ({counts[number]:,})'
        axes.set_title(textwrap.fill(title, 36), fontsize=8)
        axes.set_ylim(low, high)
        axes.tick_params(labelsize=7, labelbottom=position + columns >= len(shown))
    figure.supxlabel('Band' if scene.wavelengths is None else 'Wavelength (nm)')
    figure.supylabel('Value as stored')
    figure.suptitle(_title(scene) if suptitle is None else suptitle)
    return as_written(figure)


def class_spectra(
    scene: HyperspectralScene,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Compute mean and standard deviation of the spectra of each class.

    Args:
        scene: Scene; a lazy one is read in row blocks.

    Returns:
        Means (C, bands), standard deviations (C, bands) and pixel counts (C,).
    """
    classes = scene.num_classes
    counts = np.zeros(classes, dtype=np.int64)
    sums = np.zeros((classes, scene.num_bands))
    squares = np.zeros((classes, scene.num_bands))
    offset: NDArray[np.float64] | None = None
    for start, stop in scene.iter_blocks():
        labels = scene.label_map[start:stop]
        inside = labels > 0
        if not inside.any():
            continue
        block = scene.read(start, stop, 0, scene.shape[1])
        spectra = block[inside].astype(np.float64)
        if offset is None:  # keeps the sums of squares well conditioned
            offset = spectra.mean(axis=0)
        spectra -= offset
        owner = labels[inside] - 1
        for number in np.unique(owner):
            own = spectra[owner == number]
            counts[number] += len(own)
            sums[number] += own.sum(axis=0)
            squares[number] += (own**2).sum(axis=0)
    total = np.maximum(counts, 1)[:, None]
    means = sums / total
    spreads = np.sqrt(np.maximum(squares / total - means**2, 0))
    if offset is not None:
        means = means + offset
    return means, spreads, counts


def plot_sample(
    scene: HyperspectralScene,
    sample: dict[str, Any],
    show_titles: bool = True,
    suptitle: str | None = None,
    managed: bool = False,
) -> Figure:
    """Plot one sample: false colour and the spectrum of the centre pixel.

    Args:
        scene: Scene of the sample, for names and wavelengths.
        sample: ``image`` (bands, P, P), optionally ``label`` and ``prediction``.
        show_titles: Show label and prediction above the patch.
        suptitle: Title of the figure.
        managed: Whether the figure is one of pyplot's, see :func:`new_figure`.

    Returns:
        The figure.

    Raises:
        ValueError: If it is not one patch, or names none of the classes.
    """
    if 'image' not in sample:
        raise ValueError(
            f'plot: found a sample of {", ".join(sample)}, expected an image; patches '
            'of a data module are gathered when a batch reaches the device'
        )
    image = torch.as_tensor(sample['image']).detach().cpu().float().numpy()
    if image.ndim != 3:
        raise ValueError(
            f'plot: found an image of shape {image.shape}, expected one patch of shape '
            '(bands, rows, cols); torchgeo.datasets.utils.unbind_samples parts a batch'
        )
    patch = np.moveaxis(image, 0, -1)
    bands = scene.rgb_bands
    if patch.shape[2] != scene.num_bands:  # principal components, for instance
        bands = (0, min(1, patch.shape[2] - 1), min(2, patch.shape[2] - 1))
    figure = new_figure(7.5, 3.2, managed)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    everywhere = np.ones(patch.shape[:2], dtype=bool)
    left.imshow(stretch(patch[:, :, list(bands)], everywhere), interpolation='nearest')
    centre = patch.shape[0] // 2
    left.plot(centre, centre, marker='+', color='white', markersize=9)
    left.set_axis_off()
    spectrum = patch[centre, centre]
    if patch.shape[2] == scene.num_bands:
        _draw_spectrum(right, scene, spectrum, None, '0.2')
        right.set_xlabel('Band' if scene.wavelengths is None else 'Wavelength (nm)')
    else:
        right.plot(spectrum, color='0.2')
        right.set_xlabel('Channel')
    right.set_title('Centre pixel', fontsize=9)
    if show_titles:
        lines = [
            f'{key.capitalize()}: {_class_name(scene, key, sample[key])}'
            for key in ('label', 'prediction')
            if key in sample
        ]
        left.set_title('\n'.join(lines), fontsize=9)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return as_written(figure)


def _class_name(scene: HyperspectralScene, key: str, value: Any) -> str:
    """Name the class of a sample's label or prediction."""
    numbers = torch.as_tensor(value)
    if numbers.numel() != 1 or numbers.item() not in range(scene.num_classes):
        found = (
            f'{numbers.item():g}'
            if numbers.numel() == 1
            else f'the shape {tuple(numbers.shape)}'
        )
        raise ValueError(
            f'plot: {key}: found {found}, expected the number of one class, 0 to '
            f'{scene.num_classes - 1} (of logits their argmax)'
        )
    return scene.class_names[int(numbers)]


def _draw_spectrum(
    axes: Axes,
    scene: HyperspectralScene,
    mean: NDArray[Any],
    spread: NDArray[Any] | None,
    colour: Any,
) -> None:
    """Draw a spectrum in ascending wavelength, open where bands were removed."""
    position = (
        np.arange(scene.num_bands, dtype=np.float64)
        if scene.wavelengths is None
        else scene.wavelengths
    )
    order = np.argsort(position, kind='stable')
    position = position[order]
    steps = np.diff(position)
    wide = 4 * np.median(steps) if len(steps) else 0
    gaps = np.flatnonzero(steps > wide) + 1
    for part in np.split(np.arange(len(position)), gaps):
        values = mean[order][part]
        axes.plot(position[part], values, color=colour, linewidth=1.2)
        if spread is not None:
            width = spread[order][part]
            axes.fill_between(
                position[part],
                values - width,
                values + width,
                color=colour,
                alpha=0.25,
                linewidth=0,
            )


def _band_text(scene: HyperspectralScene, bands: Sequence[int]) -> str:
    """Name bands, by wavelength where it is known."""
    if scene.wavelengths is None:
        return 'bands ' + ', '.join(str(int(scene.band_indices[b])) for b in bands)
    return ', '.join(f'{scene.wavelengths[b]:.0f}' for b in bands) + ' nm'


def _title(scene: HyperspectralScene) -> str:
    """Name a scene; a synthetic one says so."""
    if scene.synthetic and 'synthetic' not in scene.name.lower():
        return f'{scene.name} (synthetic)'
    return scene.name
