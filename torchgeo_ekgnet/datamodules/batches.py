# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Batches of pixels of a scene: positions and labels, no patches."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

#: Patches of a batch at most, where their number follows the training pixels.
LARGEST_BATCH = 256


class PixelDataset(Dataset[dict[str, Tensor]]):
    """Positions, and labels if known, of a set of pixels.

    A sample holds 'row_col', shape (2,), and 'label', a scalar. A whole batch is taken
    by one index operation (``__getitems__``); use :func:`collate_pixels` with it.
    """

    def __init__(
        self, positions: NDArray[np.int64], labels: NDArray[np.int64] | None = None
    ) -> None:
        """Initialize a new dataset.

        Args:
            positions: Rows and columns, shape (N, 2).
            labels: Classes from 0, shape (N,).
        """
        self.columns = {'row_col': torch.from_numpy(np.ascontiguousarray(positions))}
        if labels is not None:
            self.columns['label'] = torch.from_numpy(np.ascontiguousarray(labels))

    def __len__(self) -> int:
        """Number of pixels."""
        return len(self.columns['row_col'])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Look up one pixel."""
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Look up a batch of pixels: 'row_col', shape (B, 2), and 'label', (B,)."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        return {name: column[chosen] for name, column in self.columns.items()}


class Batched(Protocol):
    """Samples that are taken as whole batches."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """Look up a batch, one without samples too."""


class PixelBatches(Dataset[dict[str, Any]]):
    """Pixels as whole batches, the same number of them for each of several processes.

    Lightning deals the items of a dataset out to the processes, and repeats some if
    they do not go round: pixels would be scored twice. These batches always go round.
    They differ by at most one pixel; only with fewer pixels than batches some are empty.
    """

    def __init__(self, pixels: Batched, batch_size: int, processes: int) -> None:
        """Initialize a new dataset.

        Args:
            pixels: The pixels.
            batch_size: Largest number of pixels in a batch.
            processes: Number of processes.
        """
        self.pixels = pixels
        rounds = max(1, math.ceil(len(pixels) / (batch_size * processes)))
        self.parts = np.array_split(np.arange(len(pixels)), rounds * processes)

    def __len__(self) -> int:
        """Number of batches, a multiple of the number of processes."""
        return len(self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Look up one batch."""
        return self.pixels.__getitems__(self.parts[index].tolist())


def dealt_loader(
    pixels: Batched, batch_size: int, trainer: Any, num_workers: int
) -> DataLoader[dict[str, Any]]:
    """Make the loader of a process's share of pixels that are scored once each.

    Args:
        pixels: All pixels.
        batch_size: Largest number of pixels in a batch.
        trainer: Trainer with several processes.
        num_workers: Processes that load data.
    """
    batches = PixelBatches(pixels, batch_size, trainer.world_size)
    dealt: DistributedSampler[Any] = DistributedSampler(
        batches, trainer.world_size, trainer.global_rank, shuffle=False
    )
    return DataLoader(batches, batch_size=None, sampler=dealt, num_workers=num_workers)


def collate_pixels(samples: Any) -> Any:
    """Collate samples, unless they are a batch already.

    Args:
        samples: A batch (a mapping), or a list of samples.

    Returns:
        The batch.
    """
    return samples if isinstance(samples, Mapping) else default_collate(samples)


def training_batch_size(pixels: int) -> int:
    """Choose a batch size that leaves an epoch enough steps.

    With a batch of 80, an epoch of 1,000 pixels has 12 steps, and short trainings end
    far from where they could.

    Args:
        pixels: Number of training pixels.

    Returns:
        A sixteenth of them, rounded down to a power of two, from 16 to 256.
    """
    power: int = 1 << max(pixels // 16, 1).bit_length() - 1
    return min(max(power, 16), LARGEST_BATCH)
