# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The rasters of a map, made of the results in its journal."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from .._version import __version__
from ..datasets.scene import HyperspectralScene
from ..datasets.windows import SceneWindows
from .journal import Journal, Layout
from .raster import Legend, RasterSpec, attribute_table, stage_raster
from .smoothing import Smoothing

__all__ = ('Assembly',)


@dataclass(frozen=True)
class Assembly:
    """Puts the results of all batches together, tile by tile.

    Attributes:
        scene: The scene.
        legend: Names, raster values and colours of the classes.
        windows: Batches of the map.
        layout: What is kept of a pixel.
        journal: Results of the batches; they are complete.
        probabilities: Whether every class's probability is written.
        smoothing: How the second map is smoothed; None for no second one.
    """

    scene: HyperspectralScene
    legend: Legend
    windows: SceneWindows
    layout: Layout
    journal: Journal
    probabilities: bool = False
    smoothing: Smoothing | None = None

    @property
    def disk_bytes(self) -> int:
        """Upper bound of the room that the files take, in bytes."""
        return sum(spec.disk_bytes for spec in self.specs().values())

    def specs(self) -> dict[str, RasterSpec]:
        """Describe the rasters by file name."""
        rows, cols, _ = self.scene.shape
        common: dict[str, Any] = {
            'shape': (rows, cols),
            'crs': self.scene.crs,
            'transform': self.scene.transform,
        }
        tags = {
            'TIFFTAG_SOFTWARE': f'torchgeo_ekgnet {__version__}',
            'SCENE': self.scene.name,
            'SYNTHETIC': 'yes' if self.scene.synthetic else 'no',
        }
        measures: tuple[str, ...] = ('top probability',)
        if self.layout.entropy:
            measures += ('entropy (nats)',)
        names = dict(zip(self.legend.values, self.legend.names, strict=True))
        classes = RasterSpec(
            dtype=self.legend.dtype,
            bands=('class',),
            nodata=0,
            colormap=self.legend.colormap,
            tags=tags | {f'CLASS_{value}': name for value, name in names.items()},
            **common,
        )
        specs = {
            'map.tif': classes,
            'confidence.tif': RasterSpec(
                dtype='float32', bands=measures, nodata=np.nan, tags=tags, **common
            ),
        }
        if self.smoothing is not None:
            specs['smoothed.tif'] = classes
        if self.probabilities:
            specs['probabilities.tif'] = RasterSpec(
                dtype='float32',
                bands=self.legend.names,
                nodata=np.nan,
                tags=tags,
                **common,
            )
        return specs

    def stage(self, folder: Path) -> tuple[list[Path], dict[str, tuple[int, ...]]]:
        """Write the rasters into a staging folder.

        Returns:
            The staged files in the order in which they must appear, and the number of
            pixels of each class by class raster.

        Raises:
            OSError: If the disk is full.
        """
        lookup = self.legend.lookup()
        smooth = self._smoother()
        counts: dict[str, NDArray[np.int64]] = {
            name: np.zeros(len(lookup), dtype=np.int64)
            for name in ('map.tif', *(() if smooth is None else ('smoothed.tif',)))
        }

        def count(name: str, labels: NDArray[Any]) -> NDArray[Any]:
            counts[name] += np.bincount(labels.ravel(), minlength=len(lookup))
            return np.asarray(lookup[labels][None])

        def classes(window: Window) -> NDArray[Any]:
            return count('map.tif', self._tile(window)['label'])

        def smoothed(window: Window) -> NDArray[Any]:
            assert smooth is not None
            return count('smoothed.tif', smooth(window))

        def measures(window: Window) -> NDArray[Any]:
            tile = self._tile(window)
            bands = [tile['confidence']]
            if self.layout.entropy:
                bands.append(tile['entropy'])
            return np.stack(bands)

        def probabilities(window: Window) -> NDArray[Any]:
            return np.moveaxis(self._tile(window)['probabilities'], -1, 0)

        readers = {
            'map.tif': classes,
            'smoothed.tif': smoothed,
            'confidence.tif': measures,
            'probabilities.tif': probabilities,
        }
        staged = {
            name: stage_raster(folder, name, spec, readers[name])
            for name, spec in self.specs().items()
        }
        tables = []
        pixels = {name: tuple(number[1:].tolist()) for name, number in counts.items()}
        for name, number in pixels.items():
            tables.append(folder / f'{name}.aux.xml')
            tables[-1].write_bytes(attribute_table(self.legend, number))
        main = staged.pop('map.tif')
        return [*staged.values(), *tables, main], pixels

    def _smoother(self) -> Callable[[Window], NDArray[Any]] | None:
        """Make what gives the smoothed classes of a tile, 0 where there is none."""
        smoothing = self.smoothing
        if smoothing is None:
            return None
        guidance = smoothing.guidance(self.scene)
        rows, cols, _ = self.scene.shape

        def smooth(window: Window) -> NDArray[Any]:
            row, col = int(window.row_off), int(window.col_off)
            bottom, right = row + int(window.height), col + int(window.width)
            top, left = max(0, row - smoothing.reach), max(0, col - smoothing.reach)
            below = min(rows, bottom + smoothing.reach)
            beside = min(cols, right + smoothing.reach)
            around = Window(left, top, beside - left, below - top)
            labels = smoothing.classes(
                self._tile(around), guidance(top, below, left, beside)
            )
            return labels[row - top : bottom - top, col - left : right - left]

        return smooth

    def _tile(self, window: Window) -> NDArray[Any]:
        """Read the results of a tile, (rows, cols) of the layout's type."""
        row, col = int(window.row_off), int(window.col_off)
        height, width = int(window.height), int(window.width)
        tile = self.layout.empty(height, width)
        for batch in self.windows.batches_in(row, row + height, col, col + width):
            local = self.windows.positions(batch) - (row, col)
            results = self.journal.results(self.layout, batch)
            inside = ((local >= 0) & (local < (height, width))).all(axis=1)
            tile[local[inside, 0], local[inside, 1]] = results[inside]
        return tile
