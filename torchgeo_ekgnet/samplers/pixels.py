# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Samplers over labelled pixels that even out the classes.

They are ordinary PyTorch samplers: no rank logic of their own. An epoch's order
depends on ``seed`` and the epoch only, so that every process of a distributed run
draws the same order and Lightning's wrapper can deal it out.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler


class _LabelSampler(Sampler[int]):
    """Base of the samplers that know every pixel's class."""

    def __init__(
        self, labels: Sequence[int] | Tensor | NDArray[Any], seed: int
    ) -> None:
        """Initialize a new sampler.

        Args:
            labels: Class of every pixel of the dataset, shape (N,).
            seed: Seed of the sampler's own generator.

        Raises:
            ValueError: If there are no labels.
        """
        self.labels = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        if self.labels.numel() == 0:
            raise ValueError('labels is empty, expected the class of every pixel')
        self.seed = seed
        self.epoch = 0
        self._members = [
            (self.labels == label).nonzero().reshape(-1)
            for label in torch.unique(self.labels)
        ]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next.

        Without a call every iteration is an epoch of its own.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Go through one epoch.

        Yields:
            Indices into the dataset.
        """
        generator = torch.Generator()
        generator.manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        self.epoch += 1
        order: list[int] = self._draw(generator).tolist()
        yield from order

    @abstractmethod
    def __len__(self) -> int:
        """Number of indices in an epoch."""

    @abstractmethod
    def _draw(self, generator: torch.Generator) -> Tensor:
        """Draw the indices of an epoch.

        Args:
            generator: Generator of this epoch.

        Returns:
            Indices, int64, shape (len(self),).
        """


class ClassBalancedSampler(_LabelSampler):
    """Draw every class with the same probability, with replacement."""

    def __init__(
        self,
        labels: Sequence[int] | Tensor | NDArray[Any],
        num_samples: int | None = None,
        seed: int = 0,
    ) -> None:
        """Initialize a new sampler.

        Args:
            labels: Class of every pixel of the dataset, shape (N,).
            num_samples: Pixels per epoch, as many as the dataset has by default.
            seed: Seed of the sampler's own generator.

        Raises:
            ValueError: If there are no labels or no samples to draw.
        """
        super().__init__(labels, seed)
        self.num_samples = self.labels.numel() if num_samples is None else num_samples
        if self.num_samples < 1:
            raise ValueError(f'num_samples is {num_samples}, expected at least 1')

    def __len__(self) -> int:
        """Number of indices in an epoch.

        Returns:
            ``num_samples``.
        """
        return self.num_samples

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Draw a class, then one of its pixels."""
        sizes = torch.tensor([len(members) for members in self._members])
        starts = torch.cumsum(sizes, dim=0) - sizes
        classes = torch.randint(len(sizes), (self.num_samples,), generator=generator)
        place = torch.rand(self.num_samples, generator=generator, dtype=torch.float64)
        within = (place * sizes[classes]).long()
        return torch.cat(self._members)[starts[classes] + within]


class PerClassSampler(_LabelSampler):
    """Draw the same number of pixels of every class in every epoch.

    A class is gone through without repetition; one that has fewer pixels than are
    asked for starts again.
    """

    def __init__(
        self,
        labels: Sequence[int] | Tensor | NDArray[Any],
        samples_per_class: int,
        seed: int = 0,
    ) -> None:
        """Initialize a new sampler.

        Args:
            labels: Class of every pixel of the dataset, shape (N,).
            samples_per_class: Pixels of every class in an epoch.
            seed: Seed of the sampler's own generator.

        Raises:
            ValueError: If there are no labels or no samples to draw.
        """
        super().__init__(labels, seed)
        if samples_per_class < 1:
            raise ValueError(
                f'samples_per_class is {samples_per_class}, expected at least 1'
            )
        self.samples_per_class = samples_per_class

    def __len__(self) -> int:
        """Number of indices in an epoch.

        Returns:
            ``samples_per_class`` times the number of classes that have pixels.
        """
        return self.samples_per_class * len(self._members)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Draw from every class, then mix the classes."""
        drawn = []
        for members in self._members:
            rounds = -(-self.samples_per_class // len(members))
            order = [
                members[torch.randperm(len(members), generator=generator)]
                for _ in range(rounds)
            ]
            drawn.append(torch.cat(order)[: self.samples_per_class])
        indices = torch.cat(drawn)
        return indices[torch.randperm(len(indices), generator=generator)]
