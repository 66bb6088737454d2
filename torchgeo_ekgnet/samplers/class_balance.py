# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Samplers over labelled pixels that even out the classes.

They are made without labels, as a configuration makes them; :meth:`PixelSampler.bind`
gives a sampler of labelled pixels, an ordinary PyTorch sampler without rank logic of its
own. An epoch's order depends on ``seed`` and the epoch only, so that every process of a
distributed run draws the same order and Lightning's wrapper can deal it out.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from .._options import whole_number


class PixelSampler(Sampler[int], ABC):
    """Base of the samplers that know every pixel's class."""

    def __init__(self, seed: int = 0) -> None:
        """Initialize a new sampler.

        Args:
            seed: Seed of the sampler's own generator.
        """
        self.seed = whole_number('sampler: seed', seed)
        self.epoch = 0
        self._members: list[Tensor] | None = None

    def bind(self, labels: Sequence[int] | Tensor | NDArray[Any]) -> Self:
        """Make a sampler of labelled pixels.

        Args:
            labels: Class of every pixel of the dataset, shape (N,).

        Returns:
            A copy, at epoch 0.

        Raises:
            ValueError: If there are no labels.
        """
        classes = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        if classes.numel() == 0:
            raise ValueError('labels is empty, expected the class of every pixel')
        bound = copy.copy(self)
        bound.epoch = 0
        bound._members = [
            (classes == label).nonzero().reshape(-1) for label in torch.unique(classes)
        ]
        return bound

    @property
    def members(self) -> list[Tensor]:
        """Numbers of the pixels of every class.

        Raises:
            RuntimeError: Before :meth:`bind`.
        """
        if self._members is None:
            raise RuntimeError(
                f'{type(self).__name__} has no pixels yet: call bind(labels) first'
            )
        return self._members

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order comes next.

        Without a call every iteration is an epoch of its own.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Go through one epoch."""
        generator = torch.Generator()
        generator.manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        self.epoch += 1
        order: list[int] = self._draw(self.members, generator).tolist()
        yield from order

    @abstractmethod
    def __len__(self) -> int:
        """Number of indices in an epoch."""

    @abstractmethod
    def _draw(self, members: list[Tensor], generator: torch.Generator) -> Tensor:
        """Draw the indices of an epoch, int64, shape (len(self),)."""


class ClassBalancedSampler(PixelSampler):
    """Draw every class with the same probability, with replacement."""

    def __init__(self, num_samples: int | None = None, seed: int = 0) -> None:
        """Initialize a new sampler.

        Args:
            num_samples: Pixels per epoch, as many as the dataset has by default.
            seed: Seed of the sampler's own generator.

        Raises:
            ValueError: If there are no samples to draw.
        """
        super().__init__(seed)
        if num_samples is not None:
            num_samples = whole_number('num_samples', num_samples, 1)
        self.num_samples = num_samples

    def __repr__(self) -> str:
        """Write the arguments."""
        return f'{type(self).__name__}({self.num_samples}, seed={self.seed})'

    def __len__(self) -> int:
        """``num_samples``, or the number of pixels."""
        return self.num_samples or sum(len(members) for members in self.members)

    def _draw(self, members: list[Tensor], generator: torch.Generator) -> Tensor:
        """Draw a class, then one of its pixels."""
        sizes = torch.tensor([len(pixels) for pixels in members])
        starts = torch.cumsum(sizes, dim=0) - sizes
        classes = torch.randint(len(sizes), (len(self),), generator=generator)
        place = torch.rand(len(self), generator=generator, dtype=torch.float64)
        within = (place * sizes[classes]).long()
        return torch.cat(members)[starts[classes] + within]


class PerClassSampler(PixelSampler):
    """Draw the same number of pixels of every class in every epoch.

    A class is gone through without repetition; one that has fewer pixels than are
    asked for starts again.
    """

    def __init__(self, samples_per_class: int, seed: int = 0) -> None:
        """Initialize a new sampler.

        Args:
            samples_per_class: Pixels of every class in an epoch.
            seed: Seed of the sampler's own generator.

        Raises:
            ValueError: If there are no samples to draw.
        """
        super().__init__(seed)
        self.samples_per_class = whole_number('samples_per_class', samples_per_class, 1)

    def __repr__(self) -> str:
        """Write the arguments."""
        return f'{type(self).__name__}({self.samples_per_class}, seed={self.seed})'

    def __len__(self) -> int:
        """``samples_per_class`` times the number of classes that have pixels."""
        return self.samples_per_class * len(self.members)

    def _draw(self, members: list[Tensor], generator: torch.Generator) -> Tensor:
        """Draw from every class, then mix the classes."""
        drawn = []
        for pixels in members:
            rounds = -(-self.samples_per_class // len(pixels))
            order = [
                pixels[torch.randperm(len(pixels), generator=generator)]
                for _ in range(rounds)
            ]
            drawn.append(torch.cat(order)[: self.samples_per_class])
        indices = torch.cat(drawn)
        return indices[torch.randperm(len(indices), generator=generator)]
