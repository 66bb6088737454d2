# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Label rasters for torchgeo's georeferenced images."""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import rasterio
from torchgeo.datasets import RasterDataset


class LabelRaster(RasterDataset):
    """Label rasters in any folder, to be combined with images: ``EnMAP(...) & labels``.

    The first band holds class numbers, 0 or the nodata value of the file where there is no
    label. Without a date in the file name the labels hold for all times.
    """

    is_image = False

    def __init__(
        self,
        paths: str | list[str] = 'data',
        filename_glob: str = '*.tif',
        filename_regex: str = '.*',
        date_format: str = '%Y%m%d',
        class_names: Mapping[int, str] | None = None,
    ) -> None:
        """Initialize a new LabelRaster instance.

        Args:
            paths: Folders or files.
            filename_glob: Pattern of the file names.
            filename_regex: Regular expression of the file names; its group ``date``
                tells when the labels hold.
            date_format: Format of that date.
            class_names: Names by class number.

        Raises:
            DatasetNotFoundError: If no file is found.
        """
        self.filename_glob = filename_glob
        self.filename_regex = filename_regex
        self.date_format = date_format
        self.class_names = {int(k): str(v) for k, v in (class_names or {}).items()}
        found: str | Iterable[str] = paths
        if isinstance(paths, str | os.PathLike):
            found = os.fspath(paths)
        super().__init__(found)
        self.band_indexes = [1]

    def _no_labels(self) -> set[int]:
        """Read which values stand for missing labels in the files."""
        found = {0}
        for path in self.index['filepath']:
            with rasterio.open(path) as file:
                value = file.nodata
            if value is not None and math.isfinite(value):
                found.add(int(value))
        return found

    def plot(
        self,
        sample: dict[str, Any],
        show_titles: bool = True,
        suptitle: str | None = None,
    ) -> Any:
        """Plot the mask of a sample; what has no label is black.

        Args:
            sample: A sample with ``mask``.
            show_titles: Show a title above the mask.
            suptitle: Title of the figure.

        Returns:
            The figure.
        """
        from matplotlib.figure import Figure

        from .palette import class_palette
        from .plotting import colour_labels

        mask = sample['mask'].numpy()
        mask = mask.reshape(mask.shape[-2:])
        labelled = (mask > 0) & ~np.isin(mask, list(self._no_labels()))
        labels = np.where(labelled, mask, 0)
        figure = Figure(figsize=(4, 4), layout='constrained')
        axes = figure.subplots()
        palette = class_palette(max(1, int(labels.max())))
        axes.imshow(colour_labels(labels, palette), interpolation='nearest')
        axes.set_axis_off()
        if show_titles:
            axes.set_title('Mask')
        if suptitle is not None:
            figure.suptitle(suptitle)
        return figure
