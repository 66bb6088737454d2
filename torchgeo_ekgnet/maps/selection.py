# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which pixels of a scene are mapped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from .._files import at_home
from .._reading import reading
from ..datasets.scene import HyperspectralScene
from ..datasets.sources.vector import read_features
from ..datasets.windows import SceneWindows
from .journal import Layout
from .smoothing import Smoothing

if TYPE_CHECKING:
    from affine import Affine

__all__ = ('MapOptions', 'map_windows', 'select_pixels')

Scope = Literal['all', 'labelled', 'polygon']


@dataclass(frozen=True)
class MapOptions:
    """What is mapped, and what is kept of it.

    Attributes:
        scope: 'all' classifies every pixel that has data, 'labelled' the pixels with a
            reference label, 'polygon' those inside :attr:`polygon`.
        polygon: File with one or more polygons that GDAL reads (GeoPackage, GeoJSON,
            Shapefile), in any reference system. For a scene without one, x is the
            column and y the row, counted from the upper left corner, or both are
            coordinates of the scene's transform if it lies there.
        entropy: Also write the entropy of the class probabilities, in nats.
        probabilities: Also write every class's probability.
        smooth: Also write a map of probabilities that were averaged over a window of so
            many pixels a side; 0 for none.
        smooth_edges: Epsilon of a filter that keeps edges of the scene
            (:class:`~torchgeo_ekgnet.maps.smoothing.Smoothing`); None for a plain mean.
        window_size: Side of the windows in pixels.
        batch_size: Largest number of patches in a batch.
    """

    scope: Scope = 'all'
    polygon: str | None = None
    entropy: bool = False
    probabilities: bool = False
    smooth: int = 0
    smooth_edges: float | None = None
    window_size: int = 64
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: If an option is unknown or misses another.
        """
        if self.scope not in ('all', 'labelled', 'polygon'):
            raise ValueError(
                f"scope must be 'all', 'labelled' or 'polygon', found {self.scope!r}"
            )
        if (self.scope == 'polygon') != (self.polygon is not None):
            raise ValueError(
                "scope='polygon' and polygon=FILE belong together, found "
                f'scope={self.scope!r} and polygon={self.polygon!r}'
            )
        if self.smooth_edges is not None and not self.smooth:
            raise ValueError(
                f'smooth_edges: found {self.smooth_edges} without a window, expected '
                'smooth=5 or the like beside it'
            )
        _ = self.smoothing

    @property
    def smoothing(self) -> Smoothing | None:
        """The smoothing that is asked for."""
        return Smoothing(self.smooth, self.smooth_edges) if self.smooth else None

    def layout(self, num_classes: int) -> Layout:
        """Say what is kept of a pixel; smoothing needs the probabilities, too."""
        probabilities = self.probabilities or self.smoothing is not None
        return Layout(num_classes, self.entropy, probabilities)


def map_windows(scene: HyperspectralScene, options: MapOptions) -> SceneWindows:
    """Cut the pixels that are to be classified into batches.

    Args:
        scene: The scene.
        options: What is mapped.

    Returns:
        The batches.

    Raises:
        ValueError: If no pixel is left.
        FileNotFoundError: If there is no file of polygons.
    """
    selected = select_pixels(scene, options)
    return SceneWindows(selected, options.window_size, options.batch_size)


def select_pixels(scene: HyperspectralScene, options: MapOptions) -> NDArray[np.bool_]:
    """Find the pixels that are to be classified.

    Args:
        scene: The scene.
        options: What is mapped.

    Returns:
        True for these pixels, (rows, cols). Pixels without data never are.

    Raises:
        ValueError: If no pixel is left.
        FileNotFoundError: If there is no file of polygons.
    """
    selected = scene.valid
    match options.scope:
        case 'labelled':
            selected = selected & (scene.label_map > 0)
        case 'polygon':
            selected = selected & _inside(scene, str(options.polygon))
        case _:
            pass
    if not selected.any():
        raise ValueError(
            f'{scene.name}: no pixel to classify (scope {options.scope!r}, '
            f'{int(scene.valid.sum())} pixels have data)'
        )
    return selected


def _inside(scene: HyperspectralScene, path: str) -> NDArray[np.bool_]:
    """Draw polygons onto the pixel grid; pixels whose centre is inside count."""
    from rasterio.features import geometry_mask

    file = at_home(path)
    if not file.exists():
        raise FileNotFoundError(f'polygon: there is no file {path}')
    frame = read_features(file).frame
    frame = frame[frame.geometry.notna()]
    kinds = sorted(set(frame.geometry.geom_type))
    if not kinds or not set(kinds) <= {'Polygon', 'MultiPolygon'}:
        raise ValueError(f'polygon: {path} must hold polygons, found {kinds}')
    if scene.crs is not None:
        if frame.crs is None:
            raise ValueError(
                f'polygon: {path} has no coordinate reference system, the scene '
                f'{scene.name} has one'
            )
        if scene.transform is None:
            raise ValueError(
                f'polygon: the scene {scene.name} has a coordinate reference system and '
                'no transform, so nothing can be placed in it; give transform='
            )
        with reading(file, 'polygons in the CRS of the scene'):
            frame = frame.to_crs(scene.crs.to_wkt())
    rows, cols, _ = scene.shape
    mask: NDArray[np.bool_] = geometry_mask(
        list(frame.geometry),
        out_shape=(rows, cols),
        transform=_grid(scene, frame.geometry, path),
        invert=True,
    )
    return mask


def _grid(scene: HyperspectralScene, polygons: Any, path: str) -> 'Affine':
    """Find the coordinates that polygons are drawn in: of the map, or of pixels.

    A scene with a transform and no reference system is drawn upon in a GIS in the
    coordinates of its transform, in a picture in pixels: where they lie tells which.
    """
    from affine import Affine
    from shapely import box
    from shapely.affinity import affine_transform

    pixels = Affine.identity()
    if scene.transform is None:
        return pixels
    if scene.crs is not None:
        return scene.transform
    rows, cols, _ = scene.shape
    whole = box(0, 0, cols, rows)
    in_pixels, on_map = (
        bool(polygons.intersects(affine_transform(whole, grid.to_shapely())).any())
        for grid in (pixels, scene.transform)
    )
    if in_pixels and on_map:
        rank_zero_warn(
            f'polygon: {path} meets the scene {scene.name}, which has no coordinate '
            'reference system, both in pixels and in the coordinates of its transform; '
            'taken as pixels (x column, y row)'
        )
    return scene.transform if on_map and not in_pixels else pixels
