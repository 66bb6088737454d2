# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Windows centred on the labelled pixels of torchgeo's georeferenced datasets."""

import copy
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from torchgeo.datasets import GeoDataset, IntersectionDataset

from .. import _compat
from .._compat import SpatialSampler
from .combined import (
    declared_nodata,
    image_dataset,
    image_nodata,
    label_dataset,
    missing,
)

if TYPE_CHECKING:
    from shapely import Polygon

logger = logging.getLogger(__name__)

#: Rows and columns of a block in which labels are looked for: the image there, with all
#: of its bands, must fit into memory.
_BLOCK = 256

#: Part of a pixel, round its centre, for which labels are asked where they may end.
_SPOT = 1 / 64

#: What becomes of NaN among whole numbers.
_LEAST = int(np.iinfo(np.int64).min)


class _Pixels(NamedTuple):
    """Labelled pixels of a tile, counted in it; all of shape (N,)."""

    row: NDArray[np.int64]
    col: NDArray[np.int64]
    value: NDArray[np.int64]


class _Tile(NamedTuple):
    """An image tile on the grid of all images.

    Attributes:
        left: Left edge.
        top: Upper edge.
        res: Width and height of a pixel.
        first: Its first row and column among those of all tiles.
        interval: Its time, where windows have one (torchgeo 0.8).
        owner: Number of that time.
    """

    left: float
    top: float
    res: tuple[float, float]
    first: tuple[int, int]
    interval: Any
    owner: int

    def window(self, rows: range, cols: range) -> Any:
        """Give what this torchgeo is asked with for a block of pixels."""
        xres, yres = self.res
        return _window(
            slice(self.left + cols.start * xres, self.left + cols.stop * xres, xres),
            slice(self.top - rows.stop * yres, self.top - rows.start * yres, yres),
            self.interval,
        )

    def label_window(self, rows: range, cols: range) -> Any:
        """Give the same for labels: a single row or column by its middle only.

        A file that ends inside it would be read by the middle of what it covers.
        """
        window = list(self.window(rows, cols))
        for axis, numbers in enumerate((cols, rows)):
            if len(numbers) == 1:
                middle = (window[axis].start + window[axis].stop) / 2
                step = _SPOT * self.res[axis]
                window[axis] = slice(middle - step / 2, middle + step / 2, step)
        return tuple(window)

    def centres(
        self, row: NDArray[np.int64], col: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Give x and y of the centres of pixels."""
        xres, yres = self.res
        return self.left + (col + 0.5) * xres, self.top - (row + 0.5) * yres

    def table(self, pixels: _Pixels) -> NDArray[np.float64]:
        """Give owner, row and column among all tiles, x, y and value, (N, 6)."""
        row, col, value = pixels
        places = row + self.first[0], col + self.first[1]
        owner = np.full(len(row), self.owner)
        return np.stack([owner, *places, *self.centres(row, col), value], axis=1)


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
        declared = declared_nodata(labels)
        # torchgeo makes whole numbers of masks; NaN becomes the least one.
        ignored = {int(value) for value in unlabelled} | {_LEAST}
        told = sorted({int(value) for value in declared if _is_whole(value)})
        ignored |= set(told)
        #: Pixels with a value that means "no label", beside others that files declare.
        self._doubtful = {v: 0 for v in unlabelled if told and v not in told}
        left_out = self._find(dataset, image, labels, roi, sorted(ignored))
        self._question(told, unlabelled)
        if not len(self):
            raise ValueError(
                'no labelled pixel: every mask value inside the dataset'
                f'{"" if roi is None else " and the roi"} is one of '
                f'{sorted(ignored - {_LEAST})}, or the image has no data there '
                f'({left_out} pixels, nodata {self.nodata}){_doubt(declared)}'
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
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of labelled pixels."""
        return len(self.labels)

    def __iter__(self) -> Iterator[Any]:
        """Yield one window a labelled pixel."""
        order = np.arange(len(self))
        if self.shuffle:
            np.random.RandomState(self.seed + self.epoch).shuffle(order)
            self.epoch += 1
        xres, yres = self.res
        width, height = self.size / 2 * xres, self.size / 2 * yres
        for number in order:
            x, y = self.positions[number].tolist()
            yield _window(
                slice(x - width, x + width, xres),
                slice(y - height, y + height, yres),
                self._intervals[self._interval_of[number]],
            )

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
        # Those of a union are its images; the index knows only where they have labels.
        grid = (
            dataset.datasets[0] if isinstance(dataset, IntersectionDataset) else image
        )
        tiles = grid.index.geometry.bounds.to_numpy()
        found = [np.empty((0, 6))]
        covered: list[set[int]] = [set(), set()]
        left_out = 0
        for shape, interval in zip(
            dataset.index.geometry, dataset.index.index, strict=True
        ):
            bounds = np.array(shape.bounds)
            # Not only the bounds: parts of roi_split may be any polygons.
            regions = [shape] if roi is None else [shape, roi]
            tile = self._tile(bounds, interval, tiles)
            for rows, cols in _blocks(bounds, tile):
                for axis, numbers in enumerate((rows, cols)):
                    first = tile.first[axis]
                    covered[axis].update(
                        range(first + numbers.start, first + numbers.stop)
                    )
                mask = _read_mask(labels, tile.label_window(rows, cols))
                if mask is None:
                    continue
                for value in self._doubtful:
                    self._doubtful[value] += int((mask == value).sum())
                pixels = _labelled(mask, tile, (rows, cols), regions, unlabelled)
                if not len(pixels.row):
                    continue
                keep = ~self._absent(image, tile, pixels)
                left_out += int((~keep).sum())
                found.append(tile.table(pixels)[keep])
        self._number(np.concatenate(found), covered)
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

    def _question(self, declared: Sequence[int], unlabelled: Sequence[int]) -> None:
        """Warn where a value means "no label", and files declare another one for that."""
        for value, pixels in self._doubtful.items():
            if pixels:
                logger.warning(
                    'LabelledPixelSampler: %d pixels have the label %d, which means '
                    '"no label" (unlabelled=%s), but the label files declare %s for '
                    'that; if %d is a class, give unlabelled=%s',
                    pixels,
                    value,
                    list(unlabelled),
                    ', '.join(map(str, declared)),
                    value,
                    [other for other in unlabelled if other != value],
                )

    def _tile(
        self, bounds: NDArray[np.float64], interval: Any, tiles: NDArray[np.float64]
    ) -> _Tile:
        """Place a tile among the others."""
        if _compat.HAS_SPATIAL_SAMPLERS:
            interval = None
        if interval not in self._intervals:
            self._intervals.append(interval)
        owner = self._intervals.index(interval)
        left, top = _anchor(bounds, tiles)
        # Pixels are counted in their tile, and whole tiles from the first one: a
        # coordinate divided by the resolution may be rounded up or down.
        first = (
            round((tiles[0, 3] - top) / self.res[1]),
            round((left - tiles[0, 0]) / self.res[0]),
        )
        return _Tile(left, top, self.res, first, interval, owner)

    def _absent(
        self, image: GeoDataset, tile: _Tile, pixels: _Pixels
    ) -> NDArray[np.bool_]:
        """Tell which labelled pixels of a tile have no image data."""
        rows, cols = _around(pixels.row), _around(pixels.col)
        values = image[tile.window(rows, cols)].get('image')
        if values is None:
            return np.zeros(len(pixels.row), dtype=bool)
        if values.ndim != 3:
            raise ValueError(
                f'{type(image).__name__} gives images of shape {tuple(values.shape)}, '
                'expected (bands, rows, columns); open it without time_series=True'
            )
        absent = missing(values, self.nodata)[0].numpy()
        found: NDArray[np.bool_] = absent[
            pixels.row - rows.start, pixels.col - cols.start
        ]
        return found

    def _number(self, table: NDArray[np.float64], covered: list[set[int]]) -> None:
        """Keep each pixel once, and count rows and columns without empty stretches."""
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


def _window(x: slice, y: slice, interval: Any) -> tuple[slice, ...]:
    """Give what torchgeo is asked with: x, y and, where windows have one, a time."""
    if interval is None:
        return x, y
    return x, y, slice(interval.left, interval.right)


def _is_whole(value: float) -> bool:
    """Whether a nodata value can stand among class numbers."""
    return float(value).is_integer() and abs(value) < 2**63


def _doubt(declared: Sequence[float]) -> str:
    """Say where the nodata value of label files cannot be told from class 0."""
    odd = [
        value for value in declared if not _is_whole(value) and not math.isnan(value)
    ]
    if not odd:
        return ''
    return (
        f'; the label files declare nodata {odd[0]:g}, expected a whole number: '
        'save them with integers'
    )


def _labelled(
    mask: NDArray[np.int64],
    tile: _Tile,
    block: tuple[range, range],
    regions: Sequence[Any],
    unlabelled: Sequence[int],
) -> _Pixels:
    """Find the labelled pixels of a block that lie in all regions."""
    row, col = np.nonzero(~np.isin(mask, unlabelled))
    found = _Pixels(row + block[0].start, col + block[1].start, mask[row, col])
    for region in regions:
        inside = shapely.contains_xy(region, *tile.centres(found.row, found.col))
        found = _Pixels(*(part[inside] for part in found))
    return found


def _anchor(
    bounds: NDArray[np.float64], tiles: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the upper left corner of the image tile that covers most of ``bounds``."""
    width = np.minimum(tiles[:, 2], bounds[2]) - np.maximum(tiles[:, 0], bounds[0])
    height = np.minimum(tiles[:, 3], bounds[3]) - np.maximum(tiles[:, 1], bounds[1])
    best = int(np.argmax(width.clip(min=0) * height.clip(min=0)))
    return float(tiles[best, 0]), float(tiles[best, 3])


def _blocks(bounds: NDArray[np.float64], tile: _Tile) -> Iterator[tuple[range, range]]:
    """Yield blocks of the pixels of a tile whose centres lie in ``bounds``."""
    left, top, (xres, yres) = tile.left, tile.top, tile.res
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
    off there, and in one read with others would move them by a pixel; so they are asked
    for alone, see :meth:`_Tile.label_window`.
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
    """Count rows or columns anew, with gaps of at most ``gap`` between covered ones."""
    used = np.array(sorted(covered), dtype=np.int64)
    steps = np.minimum(np.diff(used, prepend=used[:1]), gap)
    renumbered = np.cumsum(steps)
    count = int(renumbered[-1]) + 1 if len(used) else 0
    return renumbered[np.searchsorted(used, numbers)], count


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
