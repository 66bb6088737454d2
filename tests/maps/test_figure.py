# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from torchgeo_ekgnet.datasets.plotting import as_written, plot_scene, plot_spectra
from torchgeo_ekgnet.maps import Legend, map_figure, save_map_figure
from torchgeo_ekgnet.maps.figure import read_labels
from torchgeo_ekgnet.maps.raster import RasterSpec, stage_raster

from .conftest import make_scene


@pytest.mark.parametrize(
    ('shape', 'panels'), [((20, 30), (1, 3)), ((60, 20), (1, 3)), ((20, 90), (3, 1))]
)
def test_panels(shape: tuple[int, int], panels: tuple[int, int]) -> None:
    scene = make_scene(*shape)
    legend = Legend.from_classes(scene.class_names, scene.class_values, scene.palette)
    figure = map_figure(scene.label_map, scene, legend)
    assert [axes.get_title() for axes in figure.axes] == [
        'Map',
        'False colour',
        'Labels',
    ]
    grid = figure.axes[0].get_gridspec()
    assert grid is not None and grid.get_geometry() == panels
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ['Grass', 'Wood', 'Water', 'none']
    assert figure.get_size_inches()[1] < 11
    figure.draw_without_rendering()
    legend_box = figure.legends[0].get_window_extent()
    strip = figure.axes[-1].get_window_extent().y0 - legend_box.y1
    assert 0 < strip / figure.dpi < 0.2


def test_scene_without_labels() -> None:
    scene = make_scene()
    legend = Legend.from_classes(scene.class_names, scene.class_values, scene.palette)
    bare = make_scene()
    bare.label_map[:] = 0
    figure = map_figure(scene.label_map, bare, legend)
    assert len(figure.axes) == 2


def test_saved_picture(tmp_path: Path) -> None:
    scene = make_scene()
    legend = Legend.from_classes(scene.class_names, scene.class_values, scene.palette)
    labels = np.where(scene.valid, 2, 0)
    values = legend.lookup()[labels]
    spec = RasterSpec((21, 17), 'uint8', ('class',), 0)
    raster = stage_raster(
        tmp_path, 'map.tif', spec, lambda window: values[None][:, *window.toslices()]
    )
    assert (read_labels(raster, legend) == labels).all()
    path = save_map_figure(raster, scene, legend, tmp_path / 'map.png')
    picture = matplotlib.image.imread(path)
    assert picture.shape[1] == 2160
    wood = scene.palette[1] / 255
    assert (np.abs(picture[..., :3] - wood).max(-1) < 0.01).mean() > 0.02


ODD_NAMES = [('$\\frac{1}$', '_hidden', '$'), ('a_b^{', 'Röte & <Wiese>', 'Water')]


@pytest.mark.parametrize('names', ODD_NAMES)
def test_names_are_no_mathematics(names: tuple[str, ...], tmp_path: Path) -> None:
    """Every figure shows class names as they are written, and none hides one."""
    scene = make_scene(class_names=dict(zip((2, 5, 9), names, strict=True)), valid=None)
    legend = Legend.from_classes(scene.class_names, scene.class_values, scene.palette)
    labels = scene.label_map.astype(np.int64)
    for number, figure in enumerate(
        (
            map_figure(labels, scene, legend),
            plot_scene(scene),
            plot_spectra(scene),
            as_written(Figure()),
        )
    ):
        figure.savefig(tmp_path / f'{number}.png', dpi=40)
        texts = [text.get_text().strip() for text in figure.findobj(Text)]
        for name in names:
            assert number > 1 or any(text.startswith(name) for text in texts)
