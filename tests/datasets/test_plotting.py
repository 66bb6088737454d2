# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the pictures of scenes."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from torchgeo_ekgnet.datasets import HyperspectralScene
from torchgeo_ekgnet.datasets.plotting import (
    class_spectra,
    colour_labels,
    false_colour,
    plot_sample,
    plot_scene,
    plot_spectra,
    stretch,
)
from torchgeo_ekgnet.datasets.sources import ArraySource


class Lazy(ArraySource):
    """A source that is not an array, as files are."""


@pytest.fixture(params=[False, True])
def scene(request: pytest.FixtureRequest) -> HyperspectralScene:
    random = np.random.RandomState(0)
    cube = random.uniform(0, 100, (40, 30, 6)).astype(np.float32)
    labels = random.randint(0, 4, (40, 30))
    cube[-1] = -9
    return HyperspectralScene(
        Lazy(cube) if request.param else cube,
        labels,
        wavelengths=[460, 550, 640, 800, 1600, 2200],
        nodata=-9,
    )


def pixels(figure: Figure) -> np.ndarray:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_false_colour(scene: HyperspectralScene) -> None:
    picture = false_colour(scene)
    assert picture.shape == (40, 30, 3)
    assert picture.min() == 0 and picture.max() == 1
    assert not picture[-1].any()  # no data is black
    assert false_colour(scene, max_side=20).shape == (20, 15, 3)
    expected = stretch(scene.read_bands([4, 1, 0]), scene.valid)
    assert np.array_equal(false_colour(scene, (1500, 560, 480)), expected)


def test_rgb_by_wavelength() -> None:
    without = HyperspectralScene(np.zeros((3, 3, 2), np.uint8), None)
    with pytest.raises(ValueError, match='has no wavelengths'):
        false_colour(without, (640, 550, 460))


def test_stretch_of_constant_and_empty_images() -> None:
    constant = np.full((3, 3, 3), 7.0)
    assert not stretch(constant, np.ones((3, 3), dtype=bool)).any()
    assert not stretch(constant, np.zeros((3, 3), dtype=bool)).any()


def test_colour_labels() -> None:
    palette = np.array([[255, 0, 0], [0, 0, 9]], dtype=np.uint8)
    coloured = colour_labels(np.array([[0, 1], [2, 1]]), palette)
    assert coloured.tolist() == [[[0, 0, 0], [255, 0, 0]], [[0, 0, 9], [255, 0, 0]]]


def test_plot_scene(scene: HyperspectralScene) -> None:
    figure = plot_scene(scene)
    assert len(figure.axes) == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    counts = scene.class_counts
    assert legend == [f'class {n} ({counts[n - 1]:,})' for n in (1, 2, 3)]
    assert '640, 550, 460 nm' in figure.axes[0].get_title()
    assert pixels(figure).std() > 0
    plain = plot_scene(scene, False, 'title', (1600, 800, 640))
    assert plain.get_suptitle() == 'title'
    assert plain.axes[0].get_title() == ''


@pytest.mark.parametrize('shape', [(30, 40), (6, 200)])
def test_long_legends_and_names_stay_inside(shape: tuple[int, int]) -> None:
    labels = np.arange(np.prod(shape)).reshape(shape) % 61
    names = ['class'] * 59 + [' '.join(['name'] * 20)]
    names = [f'{name} {number}' for number, name in enumerate(names)]
    cube = np.repeat(labels.astype(np.uint8)[..., None], 2, 2)
    scene = HyperspectralScene(cube, labels, class_names=names)
    figure = plot_scene(scene)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.y0 >= 0 and box.y1 <= figure.bbox.y1
    assert box.x0 >= figure.axes[1].get_window_extent().x1 and box.x1 <= figure.bbox.x1
    stacked = figure.axes[0].get_window_extent().y0 > figure.axes[1].bbox.y1
    assert stacked == (shape[1] > 2.2 * shape[0])
    two = HyperspectralScene(cube, labels % 2 + 1, class_names=names[-2:])
    wide = plot_spectra(two)
    wide.draw_without_rendering()
    for axes in wide.axes:
        assert axes.title.get_window_extent().width < 1.1 * axes.bbox.width


def test_plot_scene_without_labels_and_wavelengths() -> None:
    cube = np.random.RandomState(0).randint(0, 9, (5, 60, 2)).astype(np.uint8)
    figure = plot_scene(HyperspectralScene(cube, None, bands=[1]))
    assert not figure.legends
    assert 'bands 1, 1, 1' in figure.axes[0].get_title()
    pixels(figure)


def test_class_spectra(scene: HyperspectralScene) -> None:
    means, spreads, counts = class_spectra(scene)
    values = scene.read(0, 40, 0, 30).astype(np.float64)
    for number in range(3):
        own = values[scene.label_map == number + 1]
        assert counts[number] == len(own)
        np.testing.assert_allclose(means[number], own.mean(axis=0))
        np.testing.assert_allclose(spreads[number], own.std(axis=0))


def test_plot_spectra(scene: HyperspectralScene) -> None:
    figure = plot_spectra(scene)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 3
    pixels(figure)
    with pytest.raises(ValueError, match='has no labelled pixel'):
        plot_spectra(HyperspectralScene(np.zeros((3, 3, 2), np.uint8), None))


def test_plot_sample(scene: HyperspectralScene) -> None:
    sample = {
        'image': torch.rand(6, 5, 5),
        'label': torch.tensor(2),
        'prediction': torch.tensor(0),
    }
    figure = plot_sample(scene, sample)
    assert figure.axes[0].get_title() == 'Label: class 3\nPrediction: class 1'
    pixels(figure)
    components = plot_sample(scene, {'image': torch.rand(2, 5, 5)}, suptitle='two')
    assert components.get_suptitle() == 'two'
    assert components.axes[0].get_title() == ''
    pixels(components)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'image': torch.rand(2, 6, 5, 5)}, r'found an image of shape \(2, 6, 5, 5\)'),
        ({'prediction': torch.rand(3)}, r'prediction: found the shape \(3,\).*argmax'),
        ({'label': torch.tensor(-1)}, 'label: found -1, expected .* 0 to 2'),
        ({'label': 3}, 'label: found 3, expected .* 0 to 2'),
    ],
)
def test_samples_that_are_no_patch_of_one_class(
    change: dict[str, Any], message: str, scene: HyperspectralScene
) -> None:
    with pytest.raises(ValueError, match=message):
        plot_sample(scene, {'image': torch.rand(6, 5, 5), **change})


def test_sample_without_an_image(scene: HyperspectralScene) -> None:
    """As the data loaders ship it."""
    with pytest.raises(
        ValueError, match='found a sample of row_col, expected an image'
    ):
        plot_sample(scene, {'row_col': torch.tensor([1, 2])})
