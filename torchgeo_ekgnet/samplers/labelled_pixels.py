# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Windows centred on the labelled pixels of torchgeo's georeferenced datasets."""

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import GeoDataset, RasterDataset

from .. import _compat
from .._compat import SpatialSampler

if TYPE_CHECKING:
    from shapely import Polygon

logger = logging.getLogger(__name__)

#: Rows and columns of a block in which labels are looked for.
_BLOCK = 512


def label_dataset(dataset: GeoDataset) -> GeoDataset:
    """Find the dataset with the labels inside a combination such as ``EnMAP & labels``.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        The first part that holds a mask and no image, else the dataset itself.
    """
    if isinstance(dataset, RasterDataset) and not dataset.is_image:
        return dataset
    for part in getattr(dataset, 'datasets', ()):
        found = label_dataset(part)
        if isinstance(found, RasterDataset) and not found.is_image:
            return found
    return dataset


class LabelledPixelSampler(SpatialSampler):
    """Sample windows whose centre pixel has a label.

    Works with any torchgeo dataset whose samples hold a ``mask``, such as the
    combination ``EnMAP(...) & labels``, in torchgeo 0.8 (where it yields slices of x, y
    and time) and 0.10 (where it yields slices of x and y). Windows keep to the pixel
    grid of the first dataset, so no value is resampled; they may reach beyond its edge,
    where torchgeo fills in zeros. A pixel that several label files cover is sampled once
    (in torchgeo 0.8 once for each time). :class:`CentreLabel` makes a patch with one label of
    each sample.

    Attributes:
        positions: float64 (N, 2), x and y of the centre of each labelled pixel.
        labels: int64 (N,), value of the mask there.
    """

    def __init__(
        self,
        dataset: GeoDataset,
        size: int = 11,
        *,
        roi: 'Polygon | None' = None,
        labels: GeoDataset | None = None,
        unlabelled: Sequence[int] = (0,),
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        """Initialize a new LabelledPixelSampler instance.

        Args:
            dataset: Dataset that is going to be indexed.
            size: Rows and columns of a window in pixels, odd.
            roi: Region of interest; only pixels whose centre lies in it are sampled.
                Disjoint regions give disjoint training and test pixels.
            labels: Dataset with the masks, found in ``dataset`` if None.
            unlabelled: Mask values that mean "no label".
            shuffle: Change the order with every epoch.
            seed: Seed of the order.

        Raises:
            ValueError: If the size is not odd and positive, or no pixel is labelled.
        """
        if size < 1 or size % 2 == 0:
            raise ValueError(f'size must be odd and positive, got {size}')
        timed = isinstance(dataset.index.index, pd.IntervalIndex)
        if not timed:
            raise ValueError(
                'the dataset has no times, so torchgeo 0.8 cannot sample it '
                '(spatial_only=True); combine the datasets with & or use torchgeo 0.10'
            )
        super().__init__(dataset, roi=roi)
        self.size = size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.res = dataset.res
        self._intervals: list[Any] = []
        self._find(dataset, labels or label_dataset(dataset), roi, tuple(unlabelled))
        if not len(self):
            raise ValueError(
                'no labelled pixel: every mask value inside the dataset'
                f'{"" if roi is None else " and the roi"} is one of {tuple(unlabelled)}'
            )

    @property
    def strategy(self) -> Literal['random', 'sequential']:
        """Sampling strategy as torchgeo 0.10 names it."""
        return 'random' if self.shuffle else 'sequential'

    def subset(self, chosen: NDArray[Any], shuffle: bool) -> 'LabelledPixelSampler':
        """Return a sampler of some of the labelled pixels.

        Args:
            chosen: Numbers of the pixels, or a mask over all of them.
            shuffle: Change the order with every epoch.

        Returns:
            A new sampler.
        """
        part = copy.copy(self)
        part.positions = self.positions[chosen]
        part.labels = self.labels[chosen]
        part._interval_of = self._interval_of[chosen]
        part.shuffle = shuffle
        part.epoch = 0
        return part

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch.

        Args:
            epoch: Number of the epoch.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of labelled pixels.

        Returns:
            Windows in an epoch.
        """
        return len(self.labels)

    def __iter__(self) -> Iterator[Any]:
        """Yield one window a labelled pixel.

        Yields:
            Slices of x and y, and of time in torchgeo 0.8.
        """
        order = np.arange(len(self))
        if self.shuffle:
            np.random.RandomState(self.seed + self.epoch).shuffle(order)
            self.epoch += 1
        xres, yres = self.res
        width, height = self.size / 2 * xres, self.size / 2 * yres
        for number in order:
            x, y = self.positions[number].tolist()
            window = (
                slice(x - width, x + width, xres),
                slice(y - height, y + height, yres),
            )
            if _compat.HAS_SPATIAL_SAMPLERS:
                yield window
            else:
                interval = self._intervals[self._interval_of[number]]
                yield (*window, slice(interval.left, interval.right))

    def _find(
        self,
        dataset: GeoDataset,
        labels: GeoDataset,
        roi: 'Polygon | None',
        unlabelled: tuple[int, ...],
    ) -> None:
        """Look for labelled pixels, tile by tile and block by block."""
        parts = getattr(dataset, 'datasets', None)
        grid = dataset if parts is None else parts[0]
        tiles = grid.index.geometry.bounds.to_numpy()
        seen: set[tuple[int, int, int]] = set()
        rows: list[NDArray[np.float64]] = []
        values: list[NDArray[np.int64]] = []
        owners: list[NDArray[np.int64]] = []
        xres, yres = dataset.res
        for bounds, interval in zip(
            dataset.index.geometry.bounds.to_numpy(), dataset.index.index, strict=True
        ):
            owner = 0
            if not _compat.HAS_SPATIAL_SAMPLERS:
                if interval not in self._intervals:
                    self._intervals.append(interval)
                owner = self._intervals.index(interval)
            left, top = _anchor(bounds, tiles)
            for window in _blocks(bounds, left, top, xres, yres):
                mask = _read_mask(labels, window, (xres, yres), interval)
                found = ~np.isin(mask, unlabelled)
                if not found.any():
                    continue
                row, col = np.nonzero(found)
                x = window[0] + (col + 0.5) * xres
                y = window[3] - (row + 0.5) * yres
                keep = (x > bounds[0]) & (x < bounds[2])
                keep &= (y > bounds[1]) & (y < bounds[3])
                if roi is not None:
                    keep &= shapely.contains_xy(roi, x, y)
                keys = zip(
                    [owner] * len(x),
                    np.floor(x / xres).astype(np.int64).tolist(),
                    np.floor(y / yres).astype(np.int64).tolist(),
                    strict=True,
                )
                for number, key in enumerate(keys):
                    if keep[number] and key in seen:
                        keep[number] = False
                    elif keep[number]:
                        seen.add(key)
                rows.append(np.stack([x[keep], y[keep]], axis=1))
                values.append(mask[row, col][keep])
                owners.append(np.full(int(keep.sum()), owner, dtype=np.int64))
        self.positions = np.concatenate(rows) if rows else np.empty((0, 2))
        self.labels = np.concatenate(values) if values else np.empty(0, dtype=np.int64)
        self._interval_of = (
            np.concatenate(owners) if owners else np.empty(0, dtype=np.int64)
        )
        logger.info(
            'LabelledPixelSampler: %d labelled pixels of classes %s',
            len(self),
            np.unique(self.labels).tolist(),
        )


class CentreLabel:
    """Make a patch with one label of a window with a mask.

    Use it as ``transforms`` of the combined dataset. The mask is replaced by ``label``,
    the number of the centre pixel's class from 0.

    Args:
        class_values: Mask value of each class in the order of the labels.
    """

    def __init__(self, class_values: Sequence[int]) -> None:
        """Initialize a new CentreLabel instance.

        Args:
            class_values: Mask value of each class in the order of the labels.

        Raises:
            ValueError: If a value is listed twice or none is.
        """
        if not class_values or len(set(class_values)) != len(class_values):
            raise ValueError(
                f'class_values must list each class once, got {list(class_values)}'
            )
        self.class_values = tuple(int(value) for value in class_values)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Replace the mask by the label of its centre.

        Args:
            sample: Sample with ``mask`` (P, P) or (1, P, P).

        Returns:
            The same sample with ``label``, int64 scalar, and without ``mask``.

        Raises:
            ValueError: If the centre is not one of the classes.
        """
        mask: Tensor = sample.pop('mask')
        value = int(mask[..., mask.shape[-2] // 2, mask.shape[-1] // 2].reshape(()))
        if value not in self.class_values:
            raise ValueError(
                f'the centre of the window has mask value {value}, which is none of the '
                f'classes {self.class_values}'
            )
        sample['label'] = torch.tensor(self.class_values.index(value))
        return sample


def _anchor(
    bounds: NDArray[np.float64], tiles: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the upper left corner of the image tile that covers most of ``bounds``."""
    width = np.minimum(tiles[:, 2], bounds[2]) - np.maximum(tiles[:, 0], bounds[0])
    height = np.minimum(tiles[:, 3], bounds[3]) - np.maximum(tiles[:, 1], bounds[1])
    best = int(np.argmax(width.clip(min=0) * height.clip(min=0)))
    return float(tiles[best, 0]), float(tiles[best, 3])


def _blocks(
    bounds: NDArray[np.float64], left: float, top: float, xres: float, yres: float
) -> Iterator[tuple[float, float, float, float]]:
    """Yield blocks (xmin, ymin, xmax, ymax) on the pixel grid that cover ``bounds``."""
    first_col = math.floor((bounds[0] - left) / xres + 1e-6)
    last_col = math.ceil((bounds[2] - left) / xres - 1e-6)
    first_row = math.floor((top - bounds[3]) / yres + 1e-6)
    last_row = math.ceil((top - bounds[1]) / yres - 1e-6)
    for row in range(first_row, last_row, _BLOCK):
        for col in range(first_col, last_col, _BLOCK):
            yield (
                left + col * xres,
                top - min(row + _BLOCK, last_row) * yres,
                left + min(col + _BLOCK, last_col) * xres,
                top - row * yres,
            )


def _read_mask(
    labels: GeoDataset,
    window: tuple[float, float, float, float],
    res: tuple[float, float],
    interval: Any,
) -> NDArray[np.int64]:
    """Read the mask of a block; zeros where the labels have no file."""
    xmin, ymin, xmax, ymax = window
    index: Any = (slice(xmin, xmax, res[0]), slice(ymin, ymax, res[1]))
    if not _compat.HAS_SPATIAL_SAMPLERS:
        index = (*index, slice(interval.left, interval.right))
    try:
        mask = labels[index]['mask']
    except IndexError:
        rows, cols = round((ymax - ymin) / res[1]), round((xmax - xmin) / res[0])
        return np.zeros((rows, cols), dtype=np.int64)
    except KeyError:
        raise ValueError(
            f'{type(labels).__name__} gives no mask; combine the image with a dataset '
            'of labels, such as EnMAP(...) & labels'
        ) from None
    return np.asarray(mask.squeeze().long().numpy()).reshape(mask.shape[-2:])
