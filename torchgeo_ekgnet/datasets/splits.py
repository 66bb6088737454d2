# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which labelled pixels of a scene train, validate and test a network.

A protocol (:class:`RandomSplit`, :class:`CountSplit`, ...) draws a :class:`Split`
from a label map. Every protocol uses a frozen generator of its own
(:class:`numpy.random.RandomState`), so that the same arguments give the same pixels
in every process, on every Python version, whatever else draws random numbers.
"""

import copy
import hashlib
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from scipy import ndimage

from .readers import (
    HDF5_SUFFIXES,
    MAT_SUFFIXES,
    NUMPY_SUFFIXES,
    read_hdf5,
    read_mat,
    read_numpy,
    require_file,
)
from .scene import whole_numbers

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Unserved = Literal['error', 'drop', 'merge']

SUBSETS = ('train', 'val', 'test')

logger = logging.getLogger(__name__)


class Overlap(NamedTuple):
    """How much of the test set a network has seen while it trained.

    Attributes:
        contains_training_centre: Share of test patches, 0 to 1, that contain the
            centre pixel of a training patch.
        shares_training_pixel: Share of test patches, 0 to 1, that have any pixel in
            common with a training patch.
    """

    contains_training_centre: float
    shares_training_pixel: float


def _near(mask: Mask, distance: int) -> Mask:
    """Mark pixels within a Chebyshev distance of a marked pixel.

    Args:
        mask: Marked pixels, shape (rows, cols).
        distance: Distance in pixels, 0 leaves the mask as it is.

    Returns:
        The dilated mask, shape (rows, cols).
    """
    if distance == 0:
        return mask
    near = ndimage.maximum_filter(
        mask.astype(np.uint8), size=2 * distance + 1, mode='constant', cval=0
    )
    return np.asarray(near, dtype=bool)


def check_patch_size(patch_size: int) -> int:
    """Check that a patch has a centre pixel.

    Args:
        patch_size: Rows and columns of a patch, in pixels.

    Returns:
        The patch size.

    Raises:
        ValueError: If the patch size is not a positive odd number.
    """
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(
            f'patch_size is {patch_size}, expected a positive odd number: a patch is '
            'centred on its labelled pixel'
        )
    return patch_size


def check_label_map(label_map: NDArray[np.integer[Any]]) -> Labels:
    """Check a label map and give it one type.

    Args:
        label_map: Integer labels, shape (rows, cols); 0 is unlabelled.

    Returns:
        The label map as int64, C-contiguous.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the map is not two-dimensional, has negative labels or no
            labelled pixel.
    """
    label_map = np.asarray(label_map)
    if not np.issubdtype(label_map.dtype, np.integer):
        raise TypeError(
            f'label_map has type {label_map.dtype}, expected integers with 0 for '
            'unlabelled pixels'
        )
    if label_map.ndim != 2:
        raise ValueError(
            f'label_map has shape {label_map.shape}, expected (rows, cols)'
        )
    if label_map.size and label_map.min() < 0:
        raise ValueError(
            f'label_map has the label {label_map.min()}, expected labels >= 0'
        )
    if not label_map.any():
        raise ValueError('label_map has no labelled pixel (every label is 0)')
    return np.ascontiguousarray(label_map, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Pixels of a scene that train, validate and test.

    Args:
        protocol: Name of the protocol that drew the split.
        settings: The protocol's arguments, JSON-able.
        shape: Rows and columns of the scene.
        train: Flat row-major indices of the training pixels.
        val: Flat row-major indices of the validation pixels.
        test: Flat row-major indices of the test pixels.
        relabel: Classes that were merged: class to the class it joined.
        dropped: Classes that the protocol could not serve and left out.

    Raises:
        ValueError: If an index is outside the scene, or a pixel is in two subsets or
            twice in one.
    """

    protocol: str
    settings: dict[str, Any]
    shape: tuple[int, int]
    train: Indices
    val: Indices
    test: Indices
    relabel: dict[int, int] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Sort and check the indices."""
        rows, cols = (int(size) for size in self.shape)
        object.__setattr__(self, 'shape', (rows, cols))
        for name in SUBSETS:
            indices = np.sort(np.asarray(getattr(self, name), dtype=np.int64).ravel())
            if indices.size and (indices[0] < 0 or indices[-1] >= rows * cols):
                raise ValueError(
                    f'split subset {name!r} holds indices from {indices[0]} to '
                    f'{indices[-1]}, expected 0 to {rows * cols - 1} in a scene of '
                    f'{rows} x {cols} pixels'
                )
            indices.setflags(write=False)
            object.__setattr__(self, name, indices)
        merged = np.concatenate([self.train, self.val, self.test])
        if np.unique(merged).size != merged.size:
            raise ValueError(
                'split has pixels in two subsets or twice in one, expected train, val '
                'and test to be disjoint'
            )

    def __eq__(self, other: object) -> bool:
        """Compare two splits by their pixels.

        Args:
            other: Anything.

        Returns:
            Whether the other object is a split of the same identity.
        """
        return isinstance(other, Split) and self.identity() == other.identity()

    def __hash__(self) -> int:
        """Hash the split by its pixels.

        Returns:
            A hash that equal splits share.
        """
        return hash(self.identity())

    def identity(self) -> str:
        """Give the split a name that no other split has.

        Returns:
            SHA-256 of shape, subsets and merged classes, 64 hexadecimal digits.
        """
        digest = hashlib.sha256(b'split 1')
        digest.update(np.asarray(self.shape, dtype='<i8').tobytes())
        for name in SUBSETS:
            indices = np.asarray(getattr(self, name), dtype='<i8')
            digest.update(name.encode() + str(indices.size).encode() + b':')
            digest.update(indices.tobytes())
        digest.update(json.dumps(sorted(self.relabel.items())).encode())
        return digest.hexdigest()

    def mask(self, subset: str) -> Mask:
        """Mark the pixels of a subset.

        Args:
            subset: 'train', 'val' or 'test'.

        Returns:
            Boolean array of the scene's shape.

        Raises:
            ValueError: If the subset is unknown.
        """
        mask = np.zeros(self.shape, dtype=bool)
        mask.flat[self.indices(subset)] = True
        return mask

    def indices(self, subset: str) -> Indices:
        """Look up a subset by name.

        Args:
            subset: 'train', 'val' or 'test'.

        Returns:
            Flat row-major indices, sorted, shape (N,).

        Raises:
            ValueError: If the subset is unknown.
        """
        if subset not in SUBSETS:
            raise ValueError(f'subset is {subset!r}, expected one of {SUBSETS}')
        indices: Indices = getattr(self, subset)
        return indices

    def positions(self, subset: str) -> Indices:
        """Rows and columns of a subset's pixels.

        Args:
            subset: 'train', 'val' or 'test'.

        Returns:
            Row and column of every pixel, shape (N, 2), row-major order.
        """
        rows, cols = np.unravel_index(self.indices(subset), self.shape)
        return np.stack([rows, cols], axis=1).astype(np.int64)

    def labels(self, label_map: NDArray[np.integer[Any]], subset: str) -> Indices:
        """Labels of a subset's pixels, merged classes under their new label.

        Args:
            label_map: Labels of the scene, shape (rows, cols), 0 is unlabelled.
            subset: 'train', 'val' or 'test'.

        Returns:
            Labels from 1, shape (N,).

        Raises:
            ValueError: If the label map is not of the split's shape, or a pixel of
                the subset is unlabelled in it.
        """
        self._check_shape(label_map)
        labels = np.asarray(label_map).ravel()[self.indices(subset)].astype(np.int64)
        if labels.size and labels.min() < 1:
            raise ValueError(
                f'{int((labels < 1).sum())} pixels of subset {subset!r} are unlabelled '
                'in label_map: the split belongs to another label map'
            )
        for source, target in self.relabel.items():
            labels[labels == source] = target
        return labels

    def _check_shape(self, label_map: NDArray[np.integer[Any]]) -> None:
        """Refuse a label map of another shape."""
        if tuple(label_map.shape) != self.shape:
            raise ValueError(
                f'label_map has shape {tuple(label_map.shape)}, expected {self.shape}: '
                'the split belongs to another scene'
            )

    def counts(
        self, label_map: NDArray[np.integer[Any]], num_classes: int | None = None
    ) -> dict[str, list[int]]:
        """Count the pixels of every class.

        Args:
            label_map: Labels of the scene, shape (rows, cols), 0 is unlabelled.
            num_classes: Number of classes, the largest label by default.

        Returns:
            Pixels per class in 'train', 'val', 'test' and 'unused' (labelled, in no
            subset).
        """
        classes = int(np.max(label_map)) if num_classes is None else num_classes
        counts = {}
        for name in SUBSETS:
            labels = self.labels(label_map, name)
            counts[name] = np.bincount(labels, minlength=classes + 1)[1:].tolist()
        every = np.asarray(label_map).ravel().astype(np.int64)
        for source, target in self.relabel.items():
            every[every == source] = target
        total = np.bincount(every, minlength=classes + 1)[1:]
        used = np.sum([counts[name] for name in SUBSETS], axis=0)
        counts['unused'] = (total - used).tolist()
        return counts

    def overlap(self, patch_size: int) -> Overlap:
        """Measure how much of the test set the training patches have shown.

        A test patch contains a training centre if the two centres are at most
        ``P // 2`` rows and columns apart, and shares a pixel with a training patch if
        they are at most ``2 * (P // 2)`` apart.

        Args:
            patch_size: Rows and columns of a patch, in pixels, odd.

        Returns:
            The two shares of the test patches; (0, 0) for an empty test set.

        Raises:
            ValueError: If the patch size is not a positive odd number.
        """
        radius = check_patch_size(patch_size) // 2
        if self.test.size == 0:
            return Overlap(0.0, 0.0)
        train = self.mask('train')
        shares = [
            float(_near(train, distance).ravel()[self.test].mean())
            for distance in (radius, 2 * radius)
        ]
        return Overlap(*shares)

    def describe(self) -> dict[str, Any]:
        """Describe the split without its pixels.

        Returns:
            JSON-able protocol, settings, identity, shape, sizes, merged and dropped
            classes.
        """
        return {
            'protocol': self.protocol,
            'settings': dict(self.settings),
            'identity': self.identity(),
            'shape': list(self.shape),
            'sizes': {name: int(self.indices(name).size) for name in SUBSETS},
            'relabel': {str(key): value for key, value in self.relabel.items()},
            'dropped': list(self.dropped),
        }

    def save(self, path: str | Path) -> Path:
        """Write the split to a file.

        Args:
            path: File to write, ``.npz`` or ``.json``; folders are made.

        Returns:
            The path.

        Raises:
            ValueError: If the suffix is another one.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        description = json.dumps(self.describe())
        match path.suffix:
            case '.npz':
                np.savez_compressed(
                    path,
                    description=np.array(description),
                    train=self.train,
                    val=self.val,
                    test=self.test,
                )
            case '.json':
                content = self.describe()
                content.update({name: self.indices(name).tolist() for name in SUBSETS})
                path.write_text(json.dumps(content), encoding='utf-8')
            case suffix:
                raise ValueError(
                    f'split file {path} has suffix {suffix!r}, expected .npz or .json'
                )
        return path

    @classmethod
    def load(cls, path: str | Path) -> 'Split':
        """Read a split that :meth:`save` wrote.

        Args:
            path: A ``.npz`` or ``.json`` file.

        Returns:
            The split.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no split, or was changed after it was written.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'split file {path} does not exist')
        try:
            if path.suffix == '.npz':
                with np.load(path, allow_pickle=False) as archive:
                    content = json.loads(str(archive['description']))
                    content.update({name: archive[name] for name in SUBSETS})
            else:
                content = json.loads(path.read_text(encoding='utf-8'))
            split = cls(
                protocol=content['protocol'],
                settings=content['settings'],
                shape=tuple(content['shape']),
                train=np.asarray(content['train'], dtype=np.int64),
                val=np.asarray(content['val'], dtype=np.int64),
                test=np.asarray(content['test'], dtype=np.int64),
                relabel={int(k): int(v) for k, v in content['relabel'].items()},
                dropped=tuple(int(label) for label in content['dropped']),
            )
            identity = content['identity']
        except (KeyError, OSError, ValueError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(
                f'{path} is not a split file written by Split.save: {error}'
            ) from error
        if identity != split.identity():
            raise ValueError(
                f'split file {path} names the identity {identity[:12]}..., its pixels '
                f'have {split.identity()[:12]}...: it was changed after it was written'
            )
        return split


def _pixels_of(label_map: Labels, label: int) -> Indices:
    """Flat row-major indices of a class."""
    return np.flatnonzero(label_map.ravel() == label).astype(np.int64)


def _classes_of(label_map: Labels) -> list[int]:
    """Labels that have pixels, ascending."""
    return [int(label) for label in np.unique(label_map) if label > 0]


class SplitProtocol(ABC):
    """A rule that draws a split from a label map.

    Attributes:
        name: What results call the protocol.
        spatial: Whether the protocol keeps test patches away from training patches.
    """

    name: str = 'split'
    spatial: bool = False

    def __init__(self, unserved: Unserved = 'error') -> None:
        """Initialize a new protocol.

        Args:
            unserved: What to do with a class that the protocol cannot serve: 'error'
                refuses, 'drop' leaves its pixels out of every subset, 'merge' makes
                one class of all classes that cannot be served (under the first one's
                label) and refuses if that does not help.

        Raises:
            ValueError: If ``unserved`` is another word.
        """
        if unserved not in ('error', 'drop', 'merge'):
            raise ValueError(
                f"unserved is {unserved!r}, expected 'error', 'drop' or 'merge'"
            )
        self.unserved = unserved

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""

    def __repr__(self) -> str:
        """Write the protocol with its arguments.

        Returns:
            A line of code that makes the protocol again.
        """
        arguments = ', '.join(
            f'{key}={value!r}' for key, value in self.settings.items()
        )
        return f'{type(self).__name__}({arguments})'

    @abstractmethod
    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            patch_size: Rows and columns of a patch.

        Returns:
            The indices of every subset, and for every class that cannot be served
            the reason why.
        """

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Draw the split of a scene.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            patch_size: Rows and columns of a patch, odd; spatial protocols keep their
                distance by it.

        Returns:
            The split.

        Raises:
            ValueError: If a class cannot be served and ``unserved`` is 'error', or
                nothing is left to train on.
        """
        labels = check_label_map(label_map)
        check_patch_size(patch_size)
        subsets, reasons = self._draw(labels, patch_size)
        relabel: dict[int, int] = {}
        dropped: tuple[int, ...] = ()
        if reasons:
            text = '; '.join(f'class {key}: {why}' for key, why in reasons.items())
            match self.unserved:
                case 'error':
                    raise ValueError(
                        f'{type(self).__name__} cannot serve every class of this label '
                        f"map ({text}). Use another protocol or ratio, unserved='drop' "
                        "to leave these classes out, or unserved='merge' to make one "
                        'class of them'
                    )
                case 'drop':
                    dropped = tuple(reasons)
                    reduced = np.where(np.isin(labels, dropped), 0, labels)
                case 'merge':
                    relabel = {key: min(reasons) for key in reasons}
                    relabel.pop(min(reasons))
                    reduced = labels.copy()
                    for source, target in relabel.items():
                        reduced[labels == source] = target
            logger.warning('%s: %s classes (%s)', self, self.unserved, text)
            if not reduced.any():
                raise ValueError(f'{type(self).__name__} can serve no class ({text})')
            subsets, reasons = self._draw(reduced, patch_size)
            while reasons and self.unserved == 'drop':
                # Leaving pixels out moves the others: look again until it holds.
                dropped = tuple(sorted({*dropped, *reasons}))
                reduced = np.where(np.isin(labels, dropped), 0, labels)
                if not reduced.any():
                    raise ValueError(
                        f'{type(self).__name__} can serve no class ({text})'
                    )
                subsets, reasons = self._draw(reduced, patch_size)
            if reasons:
                rest = '; '.join(f'class {key}: {why}' for key, why in reasons.items())
                raise ValueError(
                    f'{type(self).__name__} cannot serve every class after merging '
                    f'{sorted({*relabel, *relabel.values()})} ({rest}). Use '
                    "unserved='drop' or another protocol"
                )
        return Split(
            protocol=self.name,
            settings=self.settings,
            shape=(labels.shape[0], labels.shape[1]),
            relabel=relabel,
            dropped=dropped,
            **subsets,
        )


def _check_ratios(train: float, val: float) -> None:
    """Refuse ratios that leave no test pixel.

    Args:
        train: Share of the labelled pixels that train.
        val: Share of the labelled pixels that validate.

    Raises:
        ValueError: If a ratio is outside its range or nothing is left to test.
    """
    if not 0 < train < 1:
        raise ValueError(f'train is {train}, expected a share between 0 and 1')
    if not 0 <= val < 1:
        raise ValueError(f'val is {val}, expected a share from 0 to below 1')
    if train + val >= 1:
        raise ValueError(
            f'train + val is {train + val:g}, expected less than 1: nothing is left '
            'to test'
        )


class RandomSplit(SplitProtocol):
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
                by default all that neither train nor validate.
            unserved: What to do with a class of fewer than 4 pixels: 'error', 'drop'
                or 'merge'.

        Raises:
            ValueError: If the ratios leave nothing to test.
        """
        super().__init__(unserved)
        _check_ratios(train, val)
        if test is not None and not 0 < test <= 1 - train - val + 1e-9:
            raise ValueError(
                f'test is {test}, expected a share above 0 and at most 1 - train - val '
                f'= {1 - train - val:g}'
            )
        self.train = train
        self.val = val
        self.seed = seed
        self.test = test

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {
            'train': self.train,
            'val': self.val,
            'seed': self.seed,
            'test': self.test,
            'unserved': self.unserved,
        }

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets as the released code does."""
        generator = np.random.RandomState(self.seed)
        reasons: dict[int, str] = {}
        train: list[Indices] = []
        held: list[Indices] = []
        for label in _classes_of(label_map):
            pixels = _pixels_of(label_map, label)
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
        if self.test is not None:
            tested = tested[: max(int(self.test * (trained.size + rest.size)), 1)]
        return {
            'train': trained,
            'val': rest[rest.size - count :],
            'test': tested,
        }, reasons


class CountSplit(SplitProtocol):
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
        counts = [per_class] if isinstance(per_class, int) else list(per_class)
        if not counts or min(counts) < 1:
            raise ValueError(f'per_class is {per_class}, expected at least 1 pixel')
        if val < 0:
            raise ValueError(f'val is {val}, expected at least 0 pixels')
        self.per_class = per_class
        self.val = val
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {
            'per_class': self.per_class,
            'val': self.val,
            'seed': self.seed,
            'unserved': self.unserved,
        }

    def _count(self, label: int) -> int:
        """Training pixels of a class.

        Args:
            label: Label of the class, from 1.

        Returns:
            Number of pixels.

        Raises:
            ValueError: If ``per_class`` has no number for the class.
        """
        if isinstance(self.per_class, int):
            return self.per_class
        if label > len(self.per_class):
            raise ValueError(
                f'per_class has {len(self.per_class)} numbers, expected one for every '
                f'class: there is a class {label}'
            )
        return self.per_class[label - 1]

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        generator = np.random.RandomState(self.seed)
        reasons: dict[int, str] = {}
        parts: dict[str, list[Indices]] = {name: [] for name in SUBSETS}
        for label in _classes_of(label_map):
            pixels = _pixels_of(label_map, label)
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
        return _joined(parts), reasons


def _joined(parts: dict[str, list[Indices]]) -> dict[str, Indices]:
    """Join the pieces of every subset."""
    empty = np.empty(0, dtype=np.int64)
    return {name: np.concatenate([empty, *pieces]) for name, pieces in parts.items()}


def read_mask(path: str | Path, variable: str | None = None) -> Labels:
    """Read a mask of training or test pixels.

    Args:
        path: A ``.mat``, ``.npy``, ``.npz``, HDF5 or NetCDF file, or any raster that
            rasterio opens (its first band).
        variable: Name of the array in the file, the only two-dimensional one by
            default.

    Returns:
        Labels, shape (rows, cols); 0 is outside the mask.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read or holds no whole numbers.
    """
    path = require_file(path, 'mask')
    suffix = path.suffix.lower()
    array: NDArray[Any]
    if suffix in MAT_SUFFIXES:
        array = read_mat(path, variable, ndim=2)
    elif suffix in NUMPY_SUFFIXES:
        array = read_numpy(path, variable, ndim=2)
    elif suffix in HDF5_SUFFIXES:
        array = read_hdf5(path, variable, ndim=2)
    else:
        try:
            with warnings.catch_warnings():
                # A mask needs no georeference: it has the grid of the scene.
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                with rasterio.open(path) as raster:
                    array = raster.read(1)
        except RasterioIOError as error:
            raise ValueError(f'mask {path} cannot be read: {error}') from error
    return whole_numbers(str(path), array)


class MaskSplit(SplitProtocol):
    """Training and test pixels as somebody published them.

    Masks are label maps (or plain masks) of the scene's size whose pixels other than
    0 are members; the labels themselves come from the scene. Some training pixels may
    be set aside for validation.
    """

    name = 'masks'

    def __init__(
        self,
        train: str,
        test: str | None = None,
        val: float = 0.1,
        train_variable: str | None = None,
        test_variable: str | None = None,
        unlabelled: Literal['error', 'drop'] = 'error',
        seed: int = 1331,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            train: File with the mask of training pixels.
            test: File with the mask of test pixels; by default every labelled pixel
                that does not train.
            val: Share of the training pixels of every class that validate instead;
                at least one pixel of each class goes on training.
            train_variable: Name of the array in ``train``.
            test_variable: Name of the array in ``test``.
            unlabelled: What to do with pixels of a mask that have no label in the
                scene: 'error' refuses, 'drop' ignores them.
            seed: Seed of the frozen generator that sets validation pixels aside.
            unserved: What to do with a class without training or test pixels:
                'error', 'drop' or 'merge'.

        Raises:
            ValueError: If ``val`` is no share or ``unlabelled`` another word.
        """
        super().__init__(unserved)
        if not 0 <= val < 1:
            raise ValueError(f'val is {val}, expected a share from 0 to below 1')
        if unlabelled not in ('error', 'drop'):
            raise ValueError(
                f"unlabelled is {unlabelled!r}, expected 'error' or 'drop'"
            )
        self.train = train
        self.test = test
        self.val = val
        self.train_variable = train_variable
        self.test_variable = test_variable
        self.unlabelled = unlabelled
        self.seed = seed
        self._known: Mask = np.zeros((0, 0), dtype=bool)

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {
            'train': str(self.train),
            'test': None if self.test is None else str(self.test),
            'val': self.val,
            'train_variable': self.train_variable,
            'test_variable': self.test_variable,
            'unlabelled': self.unlabelled,
            'seed': self.seed,
            'unserved': self.unserved,
        }

    def _members(
        self, path: str, variable: str | None, label_map: Labels, known: Mask
    ) -> Mask:
        """Read a mask and hold it against the label map."""
        mask = read_mask(path, variable)
        if mask.shape != label_map.shape:
            raise ValueError(
                f'mask {path} has shape {mask.shape}, expected that of the label map, '
                f'{label_map.shape}'
            )
        members: Mask = mask != 0
        outside = int((members & ~known).sum())
        if outside and self.unlabelled == 'error':
            raise ValueError(
                f'mask {path} marks {outside} pixels that have no label in the scene; '
                "use unlabelled='drop' to ignore them"
            )
        return members & (label_map > 0)

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Draw the split of a scene.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            patch_size: Rows and columns of a patch, odd.

        Returns:
            The split.

        Raises:
            FileNotFoundError: If a mask does not exist.
            ValueError: If a mask does not fit the label map, the masks overlap, or a
                class cannot be served and ``unserved`` is 'error'.
        """
        # Dropped classes are still known: only the scene's own gaps are unlabelled.
        self._known = np.asarray(label_map) > 0
        return super().__call__(label_map, patch_size)

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        known = self._known
        train = self._members(self.train, self.train_variable, label_map, known)
        if self.test is None:
            test = (label_map > 0) & ~train
        else:
            test = self._members(self.test, self.test_variable, label_map, known)
            both = int((train & test).sum())
            if both:
                raise ValueError(
                    f'masks {self.train} and {self.test} share {both} pixels, expected '
                    'none: test pixels must not train'
                )
        generator = np.random.RandomState(self.seed)
        reasons: dict[int, str] = {}
        parts: dict[str, list[Indices]] = {name: [] for name in SUBSETS}
        for label in _classes_of(label_map):
            members = label_map == label
            trained = np.flatnonzero(members & train).astype(np.int64)
            tested = np.flatnonzero(members & test).astype(np.int64)
            if trained.size == 0 or tested.size == 0:
                reasons[label] = f'{trained.size} training, {tested.size} test pixels'
                continue
            generator.shuffle(trained)
            count = min(int(self.val * trained.size), trained.size - 1)
            parts['val'].append(trained[trained.size - count :])
            parts['train'].append(trained[: trained.size - count])
            parts['test'].append(tested)
        return _joined(parts), reasons


def guard_distance(guard: str, patch_size: int) -> int:
    """Chebyshev distance that pixels of different subsets must exceed.

    Args:
        guard: 'none'; 'centre': no patch contains the centre of a patch of another
            subset; 'patch': patches of different subsets have no pixel in common.
        patch_size: Rows and columns P of a patch, odd.

    Returns:
        0, ``P // 2`` or ``2 * (P // 2)`` pixels.

    Raises:
        ValueError: If the guard is another word.
    """
    radius = check_patch_size(patch_size) // 2
    match guard:
        case 'none':
            return 0
        case 'centre':
            return radius
        case 'patch':
            return 2 * radius
        case _:
            raise ValueError(
                f"guard is {guard!r}, expected 'none', 'centre' or 'patch'"
            )


class BlockSplit(SplitProtocol):
    """Whole square blocks of the scene train, validate or test.

    Blocks are dealt out at random, for the rarest class first, each to the subset that
    lacks most pixels of that class. Only patches at the borders of blocks overlap;
    with a guard, test and validation pixels too close to other subsets are left out.
    """

    name = 'blocks'
    spatial = True

    def __init__(
        self,
        block_size: int = 16,
        train: float = 0.5,
        val: float = 0.1,
        guard: Literal['none', 'centre', 'patch'] = 'none',
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
        super().__init__(unserved)
        _check_ratios(train, val)
        guard_distance(guard, 1)
        if block_size < 1:
            raise ValueError(f'block_size is {block_size}, expected at least 1 pixel')
        self.block_size = block_size
        self.train = train
        self.val = val
        self.guard = guard
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {
            'block_size': self.block_size,
            'train': self.train,
            'val': self.val,
            'guard': self.guard,
            'seed': self.seed,
            'unserved': self.unserved,
        }

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        generator = np.random.RandomState(self.seed)
        rows, cols = label_map.shape
        across = -(-cols // self.block_size)
        row, col = np.indices((rows, cols)) // self.block_size
        block_of = (row * across + col).astype(np.int64)
        num_blocks = int(block_of.max()) + 1
        classes = _classes_of(label_map)
        pixels = np.zeros((num_blocks, max(classes) + 1), dtype=np.int64)
        np.add.at(pixels, (block_of.ravel(), label_map.ravel()), 1)
        shares = (self.train, self.val, 1 - self.train - self.val)
        lacking = np.stack([share * pixels.sum(axis=0) for share in shares])
        owner = np.full(num_blocks, -1, dtype=np.int64)
        order = generator.permutation(num_blocks)
        for label in sorted(classes, key=lambda c: (int(pixels[:, c].sum()), c)):
            for block in order[pixels[order, label] > 0]:
                if owner[block] >= 0:
                    continue
                # A subset that is asked for nothing gets no block.
                wanted = np.where(np.array(shares) > 0, lacking[:, label], -np.inf)
                owner[block] = int(np.argmax(wanted))
                lacking[owner[block]] -= pixels[block]
        subset_of = np.where(label_map > 0, owner[block_of], -1)
        masks = _guarded(subset_of, guard_distance(self.guard, patch_size))
        return _by_subset(masks), _lacking(label_map, masks, 1)


def _guarded(subset_of: NDArray[np.int64], distance: int) -> list[Mask]:
    """Leave out validation and test pixels that are too near to other subsets.

    Args:
        subset_of: 0, 1, 2 for pixels that train, validate, test, -1 for others.
        distance: Chebyshev distance that subsets must exceed, in pixels.

    Returns:
        Masks of training, validation and test pixels.
    """
    train = subset_of == 0
    val = (subset_of == 1) & ~_near(train, distance)
    test = (subset_of == 2) & ~_near(train | val, distance)
    return [train, val, test]


def _by_subset(masks: Sequence[Mask]) -> dict[str, Indices]:
    """Turn masks into indices."""
    return {
        name: np.flatnonzero(mask).astype(np.int64)
        for name, mask in zip(SUBSETS, masks, strict=True)
    }


def _lacking(
    label_map: Labels, masks: Sequence[Mask], min_pixels: int
) -> dict[int, str]:
    """List the classes with too few training or test pixels."""
    reasons = {}
    for label in _classes_of(label_map):
        members = label_map == label
        train, test = (int((members & masks[i]).sum()) for i in (0, 2))
        if min(train, test) < min_pixels:
            reasons[label] = (
                f'{int(members.sum())} pixels, of which {train} could train and {test} '
                f'test, expected at least {min_pixels} each'
            )
    return reasons


class DisjointSplit(SplitProtocol):
    """Training, validation and test pixels from different places.

    Classes are taken from the rarest to the most frequent. The pixels of a class are
    cut by two straight lines, along rows or columns, into a part that trains, one that
    validates and one that tests, where a pixel may join a subset only if it is farther
    from the pixels of all other subsets, of whatever class, than the guard. Of all
    cuts the one that serves the class best is taken. The whole is tried several times
    with the classes in a slightly different order, and the attempt that serves most
    classes is kept. Pixels near a border of subsets are left out of every subset.
    """

    name = 'disjoint'
    spatial = True

    def __init__(
        self,
        train: float = 0.5,
        val: float = 0.1,
        guard: Literal['centre', 'patch'] = 'patch',
        seed: int = 1331,
        min_pixels: int = 5,
        attempts: int = 16,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            train: Wanted share of training pixels among those that are used.
            val: Wanted share of validation pixels.
            guard: 'centre': no test patch contains a training pixel (subsets are more
                than ``P // 2`` pixels apart); 'patch': no test patch shares a pixel
                with a training patch (more than ``2 * (P // 2)``).
            seed: Seed of the frozen generator.
            min_pixels: Training pixels and test pixels that a class needs to be
                served.
            attempts: Number of orders of the classes that are tried.
            unserved: What to do with a class that cannot be served: 'error', 'drop'
                or 'merge'.

        Raises:
            ValueError: If an argument is out of range.
        """
        super().__init__(unserved)
        _check_ratios(train, val)
        if guard not in ('centre', 'patch'):
            raise ValueError(f"guard is {guard!r}, expected 'centre' or 'patch'")
        for name, value in (('min_pixels', min_pixels), ('attempts', attempts)):
            if value < 1:
                raise ValueError(f'{name} is {value}, expected at least 1')
        self.train = train
        self.val = val
        self.guard = guard
        self.seed = seed
        self.min_pixels = min_pixels
        self.attempts = attempts

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {
            'train': self.train,
            'val': self.val,
            'guard': self.guard,
            'seed': self.seed,
            'min_pixels': self.min_pixels,
            'attempts': self.attempts,
            'unserved': self.unserved,
        }

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        distance = guard_distance(self.guard, patch_size)
        masks = self._best(label_map, distance)
        if self.val > 0 and not masks[1].any():
            raise ValueError(
                f'{self} finds no place for validation pixels at patch size '
                f"{patch_size}; use val=0, a smaller patch or guard='centre'"
            )
        return _by_subset(masks), _lacking(label_map, masks, self.min_pixels)

    def _best(self, label_map: Labels, distance: int) -> list[Mask]:
        """Try several orders of the classes and keep the best.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            distance: Chebyshev distance that subsets must exceed, in pixels.

        Returns:
            Masks of training, validation and test pixels.
        """
        generator = np.random.RandomState(self.seed)
        sizes = {c: int((label_map == c).sum()) for c in _classes_of(label_map)}
        best: tuple[float, list[Mask]] | None = None
        for attempt in range(self.attempts):
            # Sizes within a factor of four change places from the second attempt on.
            weights = {
                c: n * (1.0 if attempt == 0 else 0.5 + 1.5 * generator.random_sample())
                for c, n in sizes.items()
            }
            order = sorted(sizes, key=lambda c: (weights[c], c))
            masks, score = self._attempt(label_map, order, distance)
            if best is None or score > best[0]:
                best = score, masks
        assert best is not None
        return best[1]

    def _attempt(
        self, label_map: Labels, order: Sequence[int], distance: int
    ) -> tuple[list[Mask], float]:
        """Cut the classes in an order.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            order: Labels in the order in which they are cut.
            distance: Chebyshev distance that subsets must exceed, in pixels.

        Returns:
            Masks of training, validation and test pixels, and how well they serve.
        """
        taken = np.zeros((3, *label_map.shape), dtype=bool)
        near = np.zeros((3, *label_map.shape), dtype=bool)
        total = 0.0
        for label, box in _boxes(label_map, order, distance):
            members = label_map[box] == label
            close = near[(slice(None), *box)]
            allowed = [
                members & ~(close[(i + 1) % 3] | close[(i + 2) % 3]) for i in range(3)
            ]
            pieces, score = self._cut(allowed, distance)
            total += score
            for i, piece in enumerate(pieces):
                taken[(i, *box)] |= piece
                near[(i, *box)] |= _near(piece, distance)
        return list(taken), total

    def _cut(self, allowed: Sequence[Mask], distance: int) -> tuple[list[Mask], float]:
        """Cut one class along rows or columns.

        Args:
            allowed: Pixels that may train, validate and test.
            distance: Chebyshev distance that subsets must exceed, in pixels.

        Returns:
            Masks of training, validation and test pixels, and how well they serve.
        """
        size = int(np.logical_or.reduce(allowed).sum())
        best_score = 0.0
        best: tuple[int, list[tuple[int, int, int]]] | None = None
        for axis in (0, 1):
            length = allowed[0].shape[axis]
            sums = [
                np.concatenate([[0], np.cumsum(mask.sum(axis=1 - axis))])
                for mask in allowed
            ]
            cuts = _cuts(np.sum(sums, axis=0))
            # Pixels before the first cut, between the cuts, and after the second;
            # the guard lies behind every cut.
            first, second = cuts[:, np.newaxis], cuts[np.newaxis, :]
            between = np.minimum(first + distance, length)
            after = np.minimum(second + distance, length)
            for order in _ORDERS:
                counts = {
                    order[0]: sums[order[0]][first],
                    order[1]: np.maximum(
                        sums[order[1]][second] - sums[order[1]][between], 0
                    ),
                    order[2]: sums[order[2]][-1] - sums[order[2]][after],
                }
                score = self._score(counts, size)
                score = np.where(second >= first, score, -1.0)
                place = int(score.argmax())
                if score.flat[place] > best_score:
                    best_score = float(score.flat[place])
                    a, b = (int(cuts[i]) for i in divmod(place, len(cuts)))
                    starts = (0, a + distance, b + distance)
                    ranges = zip(order, starts, (a, b, length), strict=True)
                    best = axis, list(ranges)
        pieces = [np.zeros_like(mask) for mask in allowed]
        if best is not None:
            axis, parts = best
            for i, start, stop in parts:
                part = [slice(None), slice(None)]
                part[axis] = slice(min(start, stop), stop)
                where = tuple(part)
                pieces[i][where] = allowed[i][where]
        return pieces, best_score

    def _score(
        self, counts: Mapping[int, NDArray[np.int64]], size: int
    ) -> NDArray[np.float64]:
        """Rate cuts: a served class, then a validated one, then many pixels.

        The sum of square roots is largest where the counts are proportional to the
        wanted shares; it uses correctly rounded operations only, so that every machine
        finds the same cut.

        Args:
            counts: Pixels that train (0), validate (1) and test (2), for every cut.
            size: Pixels of the class that can be used at all.

        Returns:
            A score for every cut.
        """
        shares = (self.train, self.val, 1 - self.train - self.val)
        score = np.zeros(np.broadcast_shapes(*(c.shape for c in counts.values())))
        for i, share in enumerate(shares):
            score = score + np.sqrt(share * counts[i] / max(size, 1))
        served = (counts[0] >= self.min_pixels) & (counts[2] >= self.min_pixels)
        if self.val > 0:
            # Two gaps cost more pixels than validation gains: it counts for itself.
            score = score + 0.5 * (served & (counts[1] >= self.min_pixels))
        return np.asarray(score + 1000.0 * served)


def _boxes(
    label_map: Labels, order: Sequence[int], distance: int
) -> list[tuple[int, tuple[slice, slice]]]:
    """Find the part of the scene that a class can touch.

    Args:
        label_map: Labels, shape (rows, cols), 0 is unlabelled.
        order: Labels.
        distance: Margin around the pixels of a class.

    Returns:
        Labels, and rows and columns around their pixels, in the given order.
    """
    found = ndimage.find_objects(label_map)
    boxes = []
    for label in order:
        rows, cols = (
            slice(max(0, part.start - distance), part.stop + distance)
            for part in found[label - 1]
        )
        boxes.append((label, (rows, cols)))
    return boxes


def _cuts(cumulative: NDArray[np.int64], limit: int = 64) -> NDArray[np.int64]:
    """Choose the places at which a class may be cut.

    Args:
        cumulative: Pixels before each place, ascending, from 0.
        limit: Largest number of places between the ends.

    Returns:
        Places: the ends, and those that part the pixels evenly.
    """
    last = len(cumulative) - 1
    wanted = np.arange(1, limit) * cumulative[-1] // limit
    places = np.searchsorted(cumulative, wanted, side='left')
    return np.unique(np.concatenate([[0], places, [last]])).astype(np.int64)


#: Orders in which train (0), val (1) and test (2) may follow each other.
_ORDERS = ((0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (1, 0, 2), (2, 0, 1))


class SavedSplit(SplitProtocol):
    """A split that :meth:`Split.save` wrote."""

    name = 'saved'

    def __init__(self, path: str) -> None:
        """Initialize a new protocol.

        Args:
            path: A ``.npz`` or ``.json`` file.
        """
        super().__init__()
        self.path = path

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {'path': str(self.path)}

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Read the split.

        Args:
            label_map: Labels of the scene, shape (rows, cols), 0 is unlabelled.
            patch_size: Rows and columns of a patch; not used.

        Returns:
            The split as it was drawn, with the name and settings of its protocol.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no split, or one of another label map.
        """
        split = Split.load(self.path)
        for name in SUBSETS:
            split.labels(label_map, name)
        return split

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Read the subsets."""
        split = self(label_map, patch_size)
        return {name: split.indices(name) for name in SUBSETS}, {}


def match_counts(
    split: Split, other: Split, label_map: NDArray[np.integer[Any]], seed: int = 1331
) -> Split:
    """Thin a split until it is comparable with another one.

    Training pixels of every class are drawn at random until there are no more than in
    the other split, and classes without training or test pixels in either split leave
    all subsets. Applied both ways, two splits train with the same number of pixels of
    the same classes.

    Args:
        split: The split to thin.
        other: The split to compare with.
        label_map: Labels of the scene, shape (rows, cols), 0 is unlabelled.
        seed: Seed of the frozen generator.

    Returns:
        The thinned split.

    Raises:
        ValueError: If the splits have no class in common.
    """
    classes = int(np.max(label_map))
    ours, theirs = (s.counts(label_map, classes) for s in (split, other))
    common = [
        label
        for label in range(1, classes + 1)
        if all(c[name][label - 1] for c in (ours, theirs) for name in ('train', 'test'))
    ]
    if not common:
        raise ValueError(
            f'the splits {split.protocol!r} and {other.protocol!r} serve no class in '
            'common'
        )
    generator = np.random.RandomState(seed)
    train = []
    labels = split.labels(label_map, 'train')
    for label in common:
        pixels = split.train[labels == label].copy()
        generator.shuffle(pixels)
        train.append(pixels[: theirs['train'][label - 1]])
    kept = {
        name: split.indices(name)[np.isin(split.labels(label_map, name), common)]
        for name in ('val', 'test')
    }
    present = {int(label) for label in np.unique(label_map) if label > 0}
    return Split(
        protocol=f'{split.protocol}, matched to {other.protocol}',
        settings={
            'split': dict(split.settings),
            'matched_to': dict(other.settings),
            'seed': seed,
        },
        shape=split.shape,
        train=np.concatenate(train),
        relabel=dict(split.relabel),
        dropped=tuple(sorted(present - set(common) - set(split.relabel))),
        **kept,
    )


class MatchedSplit(SplitProtocol):
    """One protocol's split, thinned until it is comparable with another protocol's.

    Two runs, one with ``MatchedSplit(RandomSplit(), DisjointSplit())`` and one with
    ``MatchedSplit(DisjointSplit(), RandomSplit())``, train with the same number of
    pixels of the same classes and differ only in where these lie
    (:func:`match_counts`).
    """

    name = 'matched'

    def __init__(
        self,
        split: SplitProtocol | None = None,
        to: SplitProtocol | None = None,
        seed: int = 1331,
    ) -> None:
        """Initialize a new protocol.

        Args:
            split: Protocol of the split; by default the paper's random split, without
                the classes it cannot serve.
            to: Protocol of the split to compare with; by default a disjoint split
                without shared pixels, without the classes it cannot serve.
            seed: Seed of both protocols, whatever theirs is, and of the frozen
                generator that thins: so two runs with the same seed stay comparable.
        """
        super().__init__('drop')
        self.split = _seeded(split or RandomSplit(unserved='drop'), seed)
        self.to = _seeded(to or DisjointSplit(unserved='drop'), seed)
        self.seed = seed
        self.spatial = self.split.spatial

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {
            'split': {'protocol': self.split.name, **self.split.settings},
            'to': {'protocol': self.to.name, **self.to.settings},
            'seed': self.seed,
        }

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Draw both splits and thin the first.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            patch_size: Rows and columns of a patch, odd.

        Returns:
            The thinned split.

        Raises:
            ValueError: If the protocols serve no class in common.
        """
        split, other = (
            protocol(label_map, patch_size) for protocol in (self.split, self.to)
        )
        return match_counts(split, other, label_map, self.seed)

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        split = self(label_map, patch_size)
        return {name: split.indices(name) for name in SUBSETS}, {}


def _seeded(protocol: SplitProtocol, seed: int) -> SplitProtocol:
    """Copy a protocol with another seed, if it draws one.

    Args:
        protocol: The protocol.
        seed: The seed.

    Returns:
        The copy.
    """
    protocol = copy.copy(protocol)
    if hasattr(protocol, 'seed'):
        protocol.seed = seed
    return protocol


class ProtocolComparison(NamedTuple):
    """Two splits that differ in where their pixels lie, and in nothing else.

    Attributes:
        random: The random split, thinned to the counts of the disjoint one.
        disjoint: The disjoint split.
        classes: Labels that both serve.
        unserved: Labels that at least one of them cannot serve.
        overlap: Overlap of test and training patches for 'random' and 'disjoint'.
    """

    random: Split
    disjoint: Split
    classes: tuple[int, ...]
    unserved: tuple[int, ...]
    overlap: dict[str, Overlap]


def compare_protocols(
    label_map: NDArray[np.integer[Any]],
    patch_size: int,
    random: SplitProtocol | None = None,
    disjoint: SplitProtocol | None = None,
    seed: int = 1331,
) -> ProtocolComparison:
    """Draw a random and a disjoint split with the same training pixels per class.

    Args:
        label_map: Labels of the scene, shape (rows, cols), 0 is unlabelled.
        patch_size: Rows and columns of a patch, odd.
        random: Protocol of the random split, the paper's by default.
        disjoint: Protocol of the disjoint split, by default one without any shared
            pixel that drops classes it cannot serve.
        seed: Seed of both protocols and of the generator that thins.

    Returns:
        The two splits, ready for ``split=`` of a data module, and their overlap.

    Raises:
        ValueError: If the protocols serve no class in common.
    """
    disjoint = disjoint or DisjointSplit(unserved='drop')
    random = random or RandomSplit(unserved='drop')
    matched = MatchedSplit(random, disjoint, seed)(label_map, patch_size)
    apart = MatchedSplit(disjoint, random, seed)(label_map, patch_size)
    counts = matched.counts(label_map)['train']
    classes = tuple(label for label, n in enumerate(counts, start=1) if n)
    present = {int(label) for label in np.unique(label_map) if label > 0}
    return ProtocolComparison(
        random=matched,
        disjoint=apart,
        classes=classes,
        unserved=tuple(sorted(present - set(classes))),
        overlap={
            'random': matched.overlap(patch_size),
            'disjoint': apart.overlap(patch_size),
        },
    )
