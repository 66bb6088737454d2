# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The pixels of a scene as batches of windows, for maps of the whole scene."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .._options import whole_number

__all__ = ('SceneWindows',)


class SceneWindows(Dataset[dict[str, Tensor]]):
    """Selected pixels of a scene, one whole batch an item.

    The scene is cut into square windows, row by row of windows. The selected pixels
    of a window, in row-major order, are cut into batches of at most ``batch_size``.
    So a batch depends on the window alone: not on the process that computes it, and
    not on where an interrupted run went on. Batches are numbered through the scene.

    Items are whole batches: use ``DataLoader(windows, batch_size=None)``.
    """

    def __init__(
        self,
        selected: NDArray[np.bool_],
        window_size: int = 64,
        batch_size: int = 256,
        batches: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> None:
        """Create a new SceneWindows instance.

        Args:
            selected: Pixels to classify, boolean (rows, cols).
            window_size: Side of a window in pixels.
            batch_size: Largest number of pixels in a batch.
            batches: Numbers of the batches that this dataset holds, in the order
                in which they come (all of them by default).

        Raises:
            ValueError: If a size is not positive, if ``selected`` is not
                two-dimensional, or if a batch number does not exist.
        """
        for name, value in (('window_size', window_size), ('batch_size', batch_size)):
            whole_number(name, value, 1)
        if selected.ndim != 2:
            raise ValueError(
                f'selected must be (rows, cols), found the shape {selected.shape}'
            )
        self.selected = selected.astype(np.bool_, copy=False)
        self.shape = (int(selected.shape[0]), int(selected.shape[1]))
        self.window_size = window_size
        self.batch_size = batch_size
        self._columns = -(-self.shape[1] // window_size)
        counts = self._count()
        parts = -(-counts // batch_size)
        self._counts = counts
        self._ends = np.cumsum(parts)
        self.num_batches = int(self._ends[-1]) if len(self._ends) else 0
        numbers = (
            np.arange(self.num_batches, dtype=np.int64)
            if batches is None
            else np.asarray(batches, dtype=np.int64)
        )
        if len(numbers) and not (
            0 <= numbers.min() and numbers.max() < self.num_batches
        ):
            raise ValueError(
                f'batches must lie in 0..{self.num_batches - 1}, found '
                f'{numbers.min()}..{numbers.max()}'
            )
        self.batches = numbers

    def _count(self) -> NDArray[np.int64]:
        """Count the selected pixels of every window, in the windows' order."""
        rows, cols = self.shape
        size = self.window_size
        starts = np.arange(0, cols, size)
        counts = [
            np.add.reduceat(
                self.selected[row : row + size].sum(axis=0, dtype=np.int64), starts
            )
            for row in range(0, rows, size)
        ]
        return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)

    @property
    def num_pixels(self) -> int:
        """Number of selected pixels in the whole scene."""
        return int(self._counts.sum())

    def subset(self, batches: Sequence[int] | NDArray[np.int64]) -> 'SceneWindows':
        """Give a view that holds some of the batches.

        Args:
            batches: Numbers of the batches, in the order in which they shall come.

        Returns:
            A dataset over the same windows.
        """
        return SceneWindows(self.selected, self.window_size, self.batch_size, batches)

    def window(self, batch: int) -> tuple[int, int, int, int]:
        """Find the window that a batch lies in.

        Args:
            batch: Number of the batch.

        Returns:
            Its first row, row after the last, first column and column after the last.
        """
        number = self._window_of(batch)
        row = number // self._columns * self.window_size
        col = number % self._columns * self.window_size
        return (
            row,
            min(row + self.window_size, self.shape[0]),
            col,
            min(col + self.window_size, self.shape[1]),
        )

    def _window_of(self, batch: int) -> int:
        """Give the number of the window that a batch lies in."""
        return int(np.searchsorted(self._ends, batch, side='right'))

    def size(self, batch: int) -> int:
        """Count the pixels of a batch without listing them."""
        return self._part(batch)[1]

    def _part(self, batch: int) -> tuple[int, int]:
        """Give the first pixel of a batch within its window, and its length."""
        window = self._window_of(batch)
        count = int(self._counts[window])
        last = int(self._ends[window]) - 1
        parts = -(-count // self.batch_size)
        start = (batch - (last - parts + 1)) * self.batch_size
        return start, min(self.batch_size, count - start)

    def batches_in(
        self, row_start: int, row_stop: int, col_start: int, col_stop: int
    ) -> list[int]:
        """List the batches of the windows that meet a part of the scene."""
        size = self.window_size
        numbers: list[int] = []
        for row in range(row_start // size, (row_stop - 1) // size + 1):
            first = row * self._columns + col_start // size
            last = row * self._columns + (col_stop - 1) // size
            start = int(self._ends[first - 1]) if first else 0
            numbers.extend(range(start, int(self._ends[last])))
        return numbers

    def positions(self, batch: int) -> NDArray[np.int64]:
        """List the pixels of a batch.

        Args:
            batch: Number of the batch.

        Returns:
            Rows and columns, (n, 2), in row-major order within the window.

        Raises:
            IndexError: If there is no such batch.
        """
        if not 0 <= batch < self.num_batches:
            raise IndexError(f'batch {batch} is not one of {self.num_batches}')
        row0, row1, col0, col1 = self.window(batch)
        start, length = self._part(batch)
        inside = np.flatnonzero(self.selected[row0:row1, col0:col1])
        inside = inside[start : start + length]
        rows, cols = np.divmod(inside, col1 - col0)
        return np.stack([rows + row0, cols + col0], axis=1).astype(np.int64)

    def __len__(self) -> int:
        """Number of batches that this dataset holds."""
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give one whole batch.

        Args:
            index: Place in :attr:`batches`.

        Returns:
            ``row_col``, long (n, 2), ``window``, the number of the batch, long, and
            ``bounds``, rows and columns of its window as :meth:`window` gives them,
            long (4,).
        """
        batch = int(self.batches[index])
        return {
            'row_col': torch.from_numpy(self.positions(batch)),
            'window': torch.tensor(batch),
            'bounds': torch.tensor(self.window(batch)),
        }
