# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Windows centred on the labelled pixels of torchgeo's georeferenced datasets."""

import copy
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import rasterio
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

#: Rows and columns of a block in which labels are looked for: the image there, with all
#: of its bands, must fit into memory.
_BLOCK = 256


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


def image_dataset(dataset: GeoDataset) -> GeoDataset:
    """Find the dataset with the images inside a combination such as ``EnMAP & labels``.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        The first part that holds no mask, else the dataset itself.
    """
    parts: Sequence[GeoDataset] = getattr(dataset, 'datasets', ())
    for part in parts:
        found = label_dataset(part)
        if not isinstance(found, RasterDataset) or found.is_image:
            return part
    return dataset


def declared_nodata(dataset: GeoDataset) -> list[float]:
    """Read which values stand for missing data in the files of a dataset.

    Args:
        dataset: A dataset or a combination of datasets.

    Returns:
        The different values, none if no file declares one.
    """
    parts = getattr(dataset, 'datasets', None)
    found: dict[str, float] = {}  # by their text, because NaN does not equal NaN
    if parts is not None:
        for part in parts:
            found.update({str(value): value for value in declared_nodata(part)})
    elif isinstance(dataset, RasterDataset):
        # From torchgeo 0.10 on a dataset may overrule its files.
        given: float | None = getattr(dataset, 'nodata', None)
        if given is not None:
            return [float(given)]
        for path in dataset.index['filepath']:
            with rasterio.open(path) as file:
                values = [float(v) for v in file.nodatavals if v is not None]
            found.update({str(value): value for value in values})
    return list(found.values())


def image_nodata(
    image: GeoDataset, nodata: float | Literal['file'] | None
) -> float | None:
    """Find the value that stands for missing data in images.

    Args:
        image: The images.
        nodata: The value, 'file' for the one that the image files declare, or None.

    Returns:
        The value, None if there is none.

    Raises:
        ValueError: If the files declare different values.
    """
    if nodata != 'file':
        return nodata
    found = declared_nodata(image)
    if len(found) > 1:
        raise ValueError(
            f'the images of {type(image).__name__} declare different nodata values '
            f'({sorted(map(str, found))}); name one with nodata='
        )
    return found[0] if found else None


def missing(image: Tensor, nodata: float | None) -> Tensor:
    """Tell which pixels have no data.

    One band without data is enough, as in
    :class:`~torchgeo_ekgnet.datasets.HyperspectralScene`. A pixel that is 0 in every band
    has none either: with zeros torchgeo fills what lies beyond images whose files declare
    no nodata value.

    Args:
        image: Values as torchgeo gives them, float32 (..., bands, rows, cols).
        nodata: Value that stands for missing data, None if there is none. Values that
            are not finite never are data.

    Returns:
        bool (..., 1, rows, cols).
    """
    absent = ~image.isfinite()
    if nodata is not None:
        # The value as the image has it: float32.
        absent |= image == torch.tensor(nodata, dtype=image.dtype)
    empty = (image == 0).all(dim=-3, keepdim=True)
    return absent.any(dim=-3, keepdim=True) | empty


class LabelledPixelSampler(SpatialSampler):
    """Sample windows whose centre pixel has a label and data.

    Works with any torchgeo dataset whose samples hold a ``mask``, such as the
    combination ``EnMAP(...) & labels``, in torchgeo 0.8 (where it yields slices of x, y
    and time) and 0.10 (where it yields slices of x and y). Windows keep to the pixel
    grid of the first dataset, so no value is resampled; they may reach beyond its edge,
    where torchgeo fills in the nodata value of the file, or zeros if it has none
    (:func:`missing` finds both). A pixel that several files cover is sampled once (in
    torchgeo 0.8 once for each time). :class:`CentreLabel` makes a patch with one label
    of each sample.

    Attributes:
        positions: float64 (N, 2), x and y of the centre of each labelled pixel.
        labels: int64 (N,), value of the mask there.
        places: int64 (N, 2), row and column of each on one grid of pixels. Stretches of
            rows or columns that no file covers are closed up to ``size`` pixels, so that
            images far apart make no huge grid and no two patches come to overlap.
        shape: Rows and columns of that grid.
        nodata: Value that stands for missing data in the images, None if there is none.
    """

    def __init__(
        self,
        dataset: GeoDataset,
        size: int = 11,
        *,
        roi: 'Polygon | None' = None,
        labels: GeoDataset | None = None,
        unlabelled: Sequence[int] = (0,),
        nodata: float | Literal['file'] | None = 'file',
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
            unlabelled: Mask values that mean "no label", besides the nodata values that
                the label files declare.
            nodata: Value that stands for missing data in the images, 'file' for the one
                that their files declare, None for none. A labelled pixel with this
                value in any band is left out.
            shuffle: Change the order with every epoch.
            seed: Seed of the order.

        Raises:
            ValueError: If the size is not odd and positive, no pixel is labelled, or
                the images declare different nodata values.
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
        labels = label_dataset(dataset) if labels is None else labels
        image = image_dataset(dataset)
        self.nodata = image_nodata(image, nodata)
        ignored = {int(value) for value in unlabelled}
        ignored |= {int(v) for v in declared_nodata(labels) if float(v).is_integer()}
        left_out = self._find(dataset, image, labels, roi, sorted(ignored))
        if not len(self):
            raise ValueError(
                'no labelled pixel: every mask value inside the dataset'
                f'{"" if roi is None else " and the roi"} is one of {sorted(ignored)}, '
                f'or the image has no data there ({left_out} pixels, nodata '
                f'{self.nodata})'
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
        part.places = self.places[chosen]
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
        image: GeoDataset,
        labels: GeoDataset,
        roi: 'Polygon | None',
        unlabelled: Sequence[int],
    ) -> int:
        """Look for labelled pixels, tile by tile and block by block.

        Returns:
            Number of labelled pixels without image data, which are left out.
        """
        parts = getattr(dataset, 'datasets', None)
        grid = dataset if parts is None else parts[0]
        tiles = grid.index.geometry.bounds.to_numpy()
        xres, yres = dataset.res
        found = [np.empty((0, 6))]
        covered: list[set[int]] = [set(), set()]
        left_out = 0
        for bounds, interval in zip(
            dataset.index.geometry.bounds.to_numpy(), dataset.index.index, strict=True
        ):
            owner = 0
            if not _compat.HAS_SPATIAL_SAMPLERS:
                if interval not in self._intervals:
                    self._intervals.append(interval)
                owner = self._intervals.index(interval)
            left, top = _anchor(bounds, tiles)
            # Pixels are counted in their tile, and whole tiles from the first one: a
            # coordinate divided by the resolution may be rounded up or down.
            first_row = round((tiles[0, 3] - top) / yres)
            first_col = round((left - tiles[0, 0]) / xres)
            for rows, cols in _blocks(bounds, left, top, xres, yres):
                covered[0].update(range(first_row + rows.start, first_row + rows.stop))
                covered[1].update(range(first_col + cols.start, first_col + cols.stop))
                window = _window(rows, cols, left, top, (xres, yres), interval)
                mask = _read_mask(labels, window)
                if mask is None:
                    continue
                row, col = np.nonzero(~np.isin(mask, unlabelled))
                value = mask[row, col]
                row, col = row + rows.start, col + cols.start
                x = left + (col + 0.5) * xres
                y = top - (row + 0.5) * yres
                keep = np.ones(len(row), dtype=bool)
                if roi is not None:
                    keep = shapely.contains_xy(roi, x, y)
                if not keep.any():
                    continue
                inner = _around(row[keep]), _around(col[keep])
                window = _window(*inner, left, top, (xres, yres), interval)
                pixels = image[window].get('image')
                if pixels is not None:
                    absent = missing(pixels, self.nodata)[0].numpy()
                    absent = absent[
                        row[keep] - inner[0].start, col[keep] - inner[1].start
                    ]
                    left_out += int(absent.sum())
                    keep[keep] = ~absent
                place = row + first_row, col + first_col
                owners = np.full(len(row), owner)
                columns = np.stack([owners, *place, x, y, value], axis=1)
                found.append(columns[keep])
        table = np.concatenate(found)
        _, first = np.unique(table[:, :3], axis=0, return_index=True)
        table = table[np.sort(first)]
        self._interval_of = table[:, 0].astype(np.int64)
        self.positions = table[:, 3:5]
        self.labels = table[:, 5].astype(np.int64)
        numbered = [
            _closed_up(used, table[:, axis + 1], self.size)
            for axis, used in enumerate(covered)
        ]
        self.places = np.stack([numbers for numbers, _ in numbered], axis=1)
        self.shape = (numbered[0][1], numbered[1][1])
        if left_out:
            logger.warning(
                'LabelledPixelSampler: %d labelled pixels are left out because the '
                'image has no data there (nodata %s)',
                left_out,
                self.nodata,
            )
        logger.info(
            'LabelledPixelSampler: %d labelled pixels of classes %s',
            len(self),
            np.unique(self.labels).tolist(),
        )
        return left_out


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
) -> Iterator[tuple[range, range]]:
    """Yield blocks of the pixels of a grid whose centres lie in ``bounds``."""
    first_col = math.floor((bounds[0] - left) / xres + 0.5 + 1e-6)
    last_col = math.ceil((bounds[2] - left) / xres - 0.5 - 1e-6)
    first_row = math.floor((top - bounds[3]) / yres + 0.5 + 1e-6)
    last_row = math.ceil((top - bounds[1]) / yres - 0.5 - 1e-6)
    for rows in _stretches(first_row, last_row):
        for cols in _stretches(first_col, last_col):
            yield rows, cols


def _stretches(first: int, last: int) -> list[range]:
    """Cut rows or columns into the first one, the last one and blocks between them.

    The file may begin or end inside the outermost pixels. What it is asked for is cut
    off there, and in one read with others would move them by a pixel.
    """
    if first >= last:
        return []
    cuts = {first, first + 1, *range(first + 1, last - 1, _BLOCK), last - 1, last}
    return [range(*pair) for pair in itertools.pairwise(sorted(cuts))]


def _around(numbers: NDArray[np.int64]) -> range:
    """Return the range from the least to the greatest number."""
    return range(int(numbers.min()), int(numbers.max()) + 1)


def _closed_up(
    covered: set[int], numbers: NDArray[Any], gap: int
) -> tuple[NDArray[np.int64], int]:
    """Count rows or columns anew, with gaps of at most ``gap`` between covered ones.

    Args:
        covered: Rows or columns that some file covers.
        numbers: Some of them, shape (N,).
        gap: Largest distance of neighbours.

    Returns:
        The new numbers, from 0, shape (N,), and how many there are in all.
    """
    used = np.array(sorted(covered), dtype=np.int64)
    steps = np.minimum(np.diff(used, prepend=used[:1]), gap)
    renumbered = np.cumsum(steps)
    count = int(renumbered[-1]) + 1 if len(used) else 0
    return renumbered[np.searchsorted(used, numbers)], count


def _window(
    rows: range,
    cols: range,
    left: float,
    top: float,
    res: tuple[float, float],
    interval: Any,
) -> Any:
    """Return what this torchgeo is asked with for a block of pixels."""
    xres, yres = res
    window = (
        slice(left + cols.start * xres, left + cols.stop * xres, xres),
        slice(top - rows.stop * yres, top - rows.start * yres, yres),
    )
    if _compat.HAS_SPATIAL_SAMPLERS:
        return window
    return (*window, slice(interval.left, interval.right))


def _read_mask(labels: GeoDataset, window: Any) -> NDArray[np.int64] | None:
    """Read the mask of a block, None where the labels have no file."""
    try:
        mask = labels[window]['mask']
    except IndexError:
        return None
    except KeyError:
        raise ValueError(
            f'{type(labels).__name__} gives no mask; combine the image with a dataset '
            'of labels, such as EnMAP(...) & labels'
        ) from None
    return np.asarray(mask.squeeze().long().numpy()).reshape(mask.shape[-2:])
