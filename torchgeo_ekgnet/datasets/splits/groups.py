# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pixels that stay together: blocks, fields, polygons; shares of them and folds."""

from abc import abstractmethod
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..._options import random_seed, whole_number
from ..label_files import is_table, places_pixels, read_label_map
from ..raster import Grid
from ..vector import number_features, read_vector_labels
from .guards import drawn, guard_distance, guarded
from .protocol import (
    DrawnSplit,
    SplitContext,
    Unserved,
    check_ratios,
    check_val,
    classes_of,
)
from .split import Indices, Labels

Guard = Literal['none', 'centre', 'patch']


class GroupedSplit(DrawnSplit):
    """Base of protocols whose groups of pixels train, validate or test as a whole.

    Groups are dealt out at random, for the rarest class first, each to the subset that
    lacks most pixels of that class.
    """

    spatial = True

    def __init__(
        self, train: float, val: float, guard: Guard, seed: int, unserved: Unserved
    ) -> None:
        """Check and keep what all of them are told."""
        super().__init__(unserved)
        check_ratios(train, val)
        guard_distance(guard, 1)
        self.train = train
        self.val = val
        self.guard: Guard = guard
        self.seed = random_seed(seed)

    @abstractmethod
    def groups_of(self, label_map: Labels) -> NDArray[np.int64]:
        """Number the groups.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.

        Returns:
            Number of every pixel's group from 0, -1 for none, shape (rows, cols).
        """

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        generator = np.random.RandomState(self.seed)
        shares = (self.train, self.val, 1 - self.train - self.val)
        subset_of = _dealt(self.groups_of(label_map), label_map, shares, generator)
        masks = guarded(subset_of, guard_distance(self.guard, patch_size))
        return drawn(label_map, masks)


def _dealt(
    group_of: NDArray[np.int64],
    label_map: Labels,
    shares: tuple[float, ...],
    generator: np.random.RandomState,
) -> NDArray[np.int64]:
    """Deal groups out to parts."""
    labelled = (label_map > 0) & (group_of >= 0)
    count = int(group_of.max()) + 1
    classes = classes_of(label_map)
    pixels = np.zeros((count, max(classes) + 1), dtype=np.int64)
    grouped = group_of >= 0
    np.add.at(pixels, (group_of[grouped], label_map[grouped]), 1)
    wanted = [share * pixels.sum(axis=0) for share in shares]
    missing = np.stack(wanted)
    owner = np.full(count, -1, dtype=np.int64)
    order = generator.permutation(count)
    for label in sorted(classes, key=lambda c: (int(pixels[:, c].sum()), c)):
        for group in order[pixels[order, label] > 0]:
            if owner[group] >= 0:
                continue
            # A part that is asked for nothing gets no group.
            lacks = np.where(np.array(shares) > 0, missing[:, label], -np.inf)
            owner[group] = int(np.argmax(lacks))
            missing[owner[group]] -= pixels[group]
    return np.where(labelled, owner[group_of], -1)


class BlockSplit(GroupedSplit):
    """Whole square blocks of the scene train, validate or test.

    Only patches at the borders of blocks overlap; with a guard, test and validation
    pixels too close to other subsets are left out.
    """

    name = 'blocks'

    def __init__(
        self,
        block_size: int = 16,
        train: float = 0.5,
        val: float = 0.1,
        guard: Guard = 'none',
        seed: int = 1331,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            block_size: Rows and columns of a block, in pixels.
            train: Share of every class to train with, as nearly as blocks allow.
            val: Share of every class to validate with.
            guard: 'none'; 'centre' keeps subsets more than ``P // 2`` pixels apart,
                'patch' more than ``2 * (P // 2)``.
            seed: Seed of the frozen generator.
            unserved: What to do with a class that has no training or no test pixel:
                'error', 'drop' or 'merge'.

        Raises:
            ValueError: If an argument is out of range.
        """
        super().__init__(train, val, guard, seed, unserved)
        self.block_size = whole_number('block_size', block_size, 1)

    def groups_of(self, label_map: Labels) -> NDArray[np.int64]:
        """Number the blocks, row by row."""
        rows, cols = label_map.shape
        across = -(-cols // self.block_size)
        row, col = np.indices((rows, cols)) // self.block_size
        return np.asarray(row * across + col, dtype=np.int64)


class GroupSplit(GroupedSplit):
    """Whole groups of pixels, such as fields or polygons, train, validate or test.

    Pixels of one field resemble each other more than those of other fields of the same
    class: only a split that keeps fields together tells how a network does on new ones.
    """

    name = 'groups'
    files = ('groups',)

    def __init__(
        self,
        groups: str = 'fields',
        attribute: str | None = None,
        variable: str | None = None,
        train: float = 0.5,
        val: float = 0.1,
        guard: Guard = 'none',
        seed: int = 1331,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            groups: 'fields' for connected areas of one class; else a file: a raster or
                array of the scene's size with the number of every pixel's group (0 for
                none), or polygons, each a group of its own.
            attribute: Attribute of the polygons; those of one value are one group,
                those of 0 too.
            variable: Name of the array in a MATLAB, ``.npz``, HDF5 or NetCDF file.
            train: Share of every class to train with, as nearly as groups allow.
            val: Share of every class to validate with.
            guard: 'none'; 'centre' keeps subsets more than ``P // 2`` pixels apart,
                'patch' more than ``2 * (P // 2)``.
            seed: Seed of the frozen generator.
            unserved: What to do with a class that has no training or no test pixel:
                'error', 'drop' or 'merge'.

        Raises:
            ValueError: If an argument is out of range.
        """
        super().__init__(train, val, guard, seed, unserved)
        self.groups = groups
        self.attribute = attribute
        self.variable = variable

    def groups_of(self, label_map: Labels) -> NDArray[np.int64]:
        """Number the fields, or read the groups.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file does not fit the label map.
        """
        if self.groups == 'fields':
            return _fields(label_map)
        grid = self.context.grid or Grid(*label_map.shape)
        path = self.path_of(self.groups)
        least = 1
        if self.attribute is not None:
            least = 0
            numbers = read_vector_labels(path, grid, self.attribute, unlabelled=())[0]
        elif is_table(path) or path.suffix.lower() == '.xml':
            raise ValueError(
                f'groups: found points or regions of interest in {path}, expected the '
                "column that tells their groups (attribute=, of regions 'roi')"
            )
        elif places_pixels(path):
            numbers = number_features(path, grid)
        else:
            numbers = read_label_map(path, self.variable, grid, 'variable')
        if numbers.shape != label_map.shape:
            raise ValueError(
                f'groups: found {path} of shape {numbers.shape}, expected that of the '
                f'label map, {label_map.shape}'
            )
        used = numbers >= least
        if not (used & (label_map > 0)).any():
            raise ValueError(f'groups: {path} has no group on a labelled pixel')
        groups = np.full(numbers.shape, -1, dtype=np.int64)
        groups[used] = np.unique(numbers[used], return_inverse=True)[1].reshape(-1)
        return groups


def _fields(label_map: Labels) -> NDArray[np.int64]:
    """Number the connected areas of one class."""
    groups = np.full(label_map.shape, -1, dtype=np.int64)
    count = 0
    for label in classes_of(label_map):
        areas, found = ndimage.label(label_map == label)
        groups = np.where(areas > 0, areas - 1 + count, groups)
        count += found
    return groups


class FoldSplit(DrawnSplit):
    """One of k folds over whole groups of pixels: cross-validation in space.

    The groups of another protocol, such as blocks, are dealt out to ``folds`` parts of
    nearly the same pixels of every class. One part tests and the others train, a share
    of their groups validates. With the same seed the folds together test every pixel
    once (with a guard: every pixel that is far enough from its training pixels).
    """

    name = 'folds'
    spatial = True

    def __init__(
        self,
        fold: int = 0,
        folds: int = 5,
        of: GroupedSplit | None = None,
        val: float = 0.1,
        guard: Guard = 'none',
        seed: int = 1331,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            fold: The part that tests, from 0 to ``folds - 1``.
            folds: Number of parts.
            of: Protocol whose groups stay together, blocks of 16 x 16 pixels by
                default; its shares, guard and seed are not used.
            val: Share of the other parts that validates.
            guard: 'none'; 'centre' keeps subsets more than ``P // 2`` pixels apart,
                'patch' more than ``2 * (P // 2)``.
            seed: Seed of the frozen generator, the same for all folds.
            unserved: What to do with a class that has no training or no test pixel:
                'error', 'drop' or 'merge'.

        Raises:
            ValueError: If an argument is out of range.
        """
        super().__init__(unserved)
        check_val(val)
        guard_distance(guard, 1)
        self.folds = whole_number('folds', folds, 2)
        self.fold = whole_number('fold', fold, 0, self.folds - 1)
        self.of = of or BlockSplit()
        self.val = val
        self.guard = guard
        self.seed = random_seed(seed)

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        of = {'protocol': self.of.name, **self.of.described}
        for name in ('train', 'val', 'guard', 'seed', 'unserved'):
            of.pop(name, None)
        return {**super().settings, 'of': of}

    def bind(self, context: SplitContext) -> Self:
        """Tell the protocol of the groups about a scene, too."""
        bound = super().bind(context)
        bound.of = self.of.bind(context)
        return bound

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        generator = np.random.RandomState(self.seed)
        groups = self.of.groups_of(label_map)
        shares = (1 / self.folds,) * self.folds
        part_of = _dealt(groups, label_map, shares, generator)
        tests = part_of == self.fold
        others = np.where(tests | (part_of < 0), 0, label_map)
        subset_of = np.where(tests, 2, -1)
        if others.any():
            rest = np.where(tests, -1, groups)
            dealt = _dealt(rest, others, (1 - self.val, self.val), generator)
            subset_of = np.where(dealt >= 0, dealt, subset_of)
        masks = guarded(subset_of, guard_distance(self.guard, patch_size))
        return drawn(label_map, masks)
