# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Random pixels of every class: a share of them, or a number."""

import logging

import numpy as np

from ..._options import random_seed, real_number, whole_number
from .protocol import DrawnSplit, Unserved, check_ratios, classes_of, joined, pixels_of
from .split import SUBSETS, Indices, Labels

logger = logging.getLogger(__name__)


class RandomSplit(DrawnSplit):
    """Random pixels of every class: the protocol of the paper.

    Pixels of every class, classes ascending, are shuffled; the last
    ``max(int((1 - train) * n), 3)`` of its ``n`` pixels are held out and the others
    train. The held-out pixels of all classes are shuffled together; the last
    ``int(val * N)`` of them validate (N labelled pixels in all) and the others test,
    so that validation pixels are not stratified.

    Patches of neighbouring pixels overlap: almost every test patch contains training
    pixels (:meth:`Split.overlap`). Use :class:`DisjointSplit` for an honest figure.

    Source: the released code of arXiv 2504.13045 (the paper gives the ratios only).
    """

    name = 'random'

    def __init__(
        self,
        train: float = 0.6,
        val: float = 0.1,
        seed: int = 1331,
        test: float | None = None,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            train: Share of every class that trains, between 0 and 1.
            val: Share of all labelled pixels that validate, from 0.
            seed: Seed of the frozen generator; the released code counts from 1331.
            test: Share of all labelled pixels that test, for a small budget of time;
                by default all that neither train nor validate. A class that only this
                share leaves without test pixels is named in a warning.
            unserved: What to do with a class of fewer than 4 pixels, or one whose
                held-out pixels all happen to validate: 'error', 'drop' or 'merge'.

        Raises:
            ValueError: If the ratios leave nothing to test.
        """
        super().__init__(unserved)
        check_ratios(train, val)
        if test is not None and not 0 < real_number('test', test) <= (
            1 - train - val + 1e-9
        ):
            raise ValueError(
                f'test is {test}, expected a share above 0 and at most 1 - train - val '
                f'= {1 - train - val:g}'
            )
        self.train = train
        self.val = val
        self.seed = random_seed(seed)
        self.test = test

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets as the released code does."""
        generator = np.random.RandomState(self.seed)
        reasons: dict[int, str] = {}
        train: list[Indices] = []
        held: list[Indices] = []
        for label in classes_of(label_map):
            pixels = pixels_of(label_map, label)
            generator.shuffle(pixels)
            count = max(int((1 - self.train) * pixels.size), 3)
            if pixels.size <= count:
                reasons[label] = (
                    f'{pixels.size} pixels, {count} are held out and none is left to '
                    'train'
                )
                continue
            train.append(pixels[:-count])
            held.append(pixels[-count:])
        if not train:
            empty = np.empty(0, dtype=np.int64)
            return {name: empty for name in SUBSETS}, reasons
        trained, rest = np.concatenate(train), np.concatenate(held)
        generator.shuffle(trained)
        generator.shuffle(rest)
        count = int(self.val * (trained.size + rest.size))
        if count >= rest.size:
            raise ValueError(
                f'{type(self).__name__}: {rest.size} pixels are held out and {count} of '
                'them validate: nothing is left to test; use a smaller train or val'
            )
        tested = rest[: rest.size - count]
        for label in _absent(label_map, tested):
            # Validation pixels are not stratified: they may take all of a small class.
            reasons.setdefault(
                label,
                f'{pixels_of(label_map, label).size} pixels, those held out all '
                'validate and none is left to test',
            )
        if self.test is not None:
            tested = tested[: max(int(self.test * (trained.size + rest.size)), 1)]
            absent = _absent(label_map, tested)
            # A draw with unserved classes is not the one that counts.
            if absent and not reasons:
                logger.warning(
                    '%s: the share of test pixels, %g, has none of the classes %s; they '
                    'count in no accuracy',
                    self,
                    self.test,
                    ', '.join(self.text_of(label) for label in absent),
                )
        return {
            'train': trained,
            'val': rest[rest.size - count :],
            'test': tested,
        }, reasons


def _absent(label_map: Labels, pixels: Indices) -> list[int]:
    """List the classes that none of the pixels belongs to, ascending."""
    present = label_map.ravel()[pixels]
    return [label for label in classes_of(label_map) if label not in present]


class CountSplit(DrawnSplit):
    """The same number of random training pixels of every class.

    Pixels of every class, classes ascending, are shuffled; the first ``per_class``
    train, the next ``val`` validate and the others test.
    """

    name = 'count'

    def __init__(
        self,
        per_class: int | list[int] = 20,
        val: int = 5,
        seed: int = 1331,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            per_class: Training pixels of every class, or one number for each class.
            val: Validation pixels of every class.
            seed: Seed of the frozen generator.
            unserved: What to do with a class that has no pixel left to test: 'error',
                'drop' or 'merge'.

        Raises:
            ValueError: If a number is not positive (``val``: negative).
        """
        super().__init__(unserved)
        if np.ndim(per_class):
            if not np.size(per_class):
                raise ValueError(f'per_class is {per_class}, expected a number a class')
            self.per_class: int | list[int] = [
                whole_number('per_class', count, 1) for count in np.ravel(per_class)
            ]
        else:
            self.per_class = whole_number('per_class', per_class, 1)
        self.val = whole_number('val', val)
        self.seed = random_seed(seed)

    def _count(self, label: int) -> int:
        """Training pixels of a class."""
        if isinstance(self.per_class, int):
            return self.per_class
        if label > len(self.per_class):
            raise ValueError(
                f'per_class has {len(self.per_class)} numbers, expected one for every '
                f'class: there is a class {self.text_of(label)}'
            )
        return self.per_class[label - 1]

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        generator = np.random.RandomState(self.seed)
        reasons: dict[int, str] = {}
        parts: dict[str, list[Indices]] = {name: [] for name in SUBSETS}
        for label in classes_of(label_map):
            pixels = pixels_of(label_map, label)
            generator.shuffle(pixels)
            train = self._count(label)
            held = train + self.val
            if pixels.size <= held:
                reasons[label] = (
                    f'{pixels.size} pixels, {train} train, {self.val} validate and '
                    'none is left to test'
                )
                continue
            parts['train'].append(pixels[:train])
            parts['val'].append(pixels[train:held])
            parts['test'].append(pixels[held:])
        return joined(parts), reasons
