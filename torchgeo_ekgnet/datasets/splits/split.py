# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A drawn split: which pixels train, validate and test, and whether patches overlap."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ... import _html
from ..._files import replaced, write_json
from ..._options import plain_array
from ..._patch import check_patch_size
from ..._reading import FileError, check_memory, reading, require_file
from ..._wording import listed

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

SUBSETS = ('train', 'val', 'test')

#: Arrays of a split file: indices, and labels that the split brings itself.
_ARRAYS = (*SUBSETS, *(f'{name}_labels' for name in SUBSETS))

#: Bytes of memory that a byte of JSON takes: '0,' becomes a pointer and a number.
_JSON = 20

#: What to do about a split file that is larger than the memory.
_WRITTEN = 'take the file as Split.save wrote it'


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


def dilate(mask: Mask, distance: int) -> Mask:
    """Mark pixels within a Chebyshev distance of a marked pixel.

    Args:
        mask: Marked pixels, shape (rows, cols).
        distance: Distance in pixels, 0 leaves the mask as it is.

    Returns:
        The dilated mask, shape (rows, cols).
    """
    if distance == 0:
        return mask
    dilated = ndimage.maximum_filter(
        mask.astype(np.uint8), size=2 * distance + 1, mode='constant', cval=0
    )
    return np.asarray(dilated, dtype=bool)


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
    plain_array('label_map', label_map, 'label_map.filled(0)')
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
        own_labels: Labels that the split brings itself, as published masks do, instead
            of those of the scene: by subset, one for each of its indices.

    Raises:
        ValueError: If an index is outside the scene, a pixel is in two subsets or
            twice in one, or labels do not belong to the indices.
    """

    protocol: str
    settings: dict[str, Any]
    shape: tuple[int, int]
    train: Indices
    val: Indices
    test: Indices
    relabel: dict[int, int] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()
    own_labels: dict[str, Indices] | None = None

    def __post_init__(self) -> None:
        """Sort and check the indices."""
        rows, cols = (int(size) for size in self.shape)
        object.__setattr__(self, 'shape', (rows, cols))
        if self.own_labels is not None:
            object.__setattr__(self, 'own_labels', self._sorted_labels())
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

    def _sorted_labels(self) -> dict[str, Indices]:
        """Bring the split's own labels into the order of the indices."""
        ordered = {}
        for name in SUBSETS:
            indices = np.asarray(getattr(self, name), dtype=np.int64).ravel()
            labels = np.asarray((self.own_labels or {}).get(name, ()), dtype=np.int64)
            if labels.shape != indices.shape or (labels.size and labels.min() < 1):
                raise ValueError(
                    f'split subset {name!r} has {indices.size} pixels and '
                    f'{labels.size} labels of its own, expected one label from 1 for '
                    'every pixel'
                )
            ordered[name] = labels[np.argsort(indices, kind='stable')]
            ordered[name].setflags(write=False)
        return ordered

    def __eq__(self, other: object) -> bool:
        """Compare two splits by their pixels."""
        if not isinstance(other, Split):
            return False
        return self.pixels_digest() == other.pixels_digest()

    def __repr__(self) -> str:
        """Return protocol and sizes; the pixels themselves would fill pages."""
        sizes = ', '.join(f'{len(self.indices(name)):,} {name}' for name in SUBSETS)
        rows, cols = self.shape
        return f'{type(self).__name__}({self.protocol!r}, {sizes}, {rows} x {cols})'

    def _repr_html_(self) -> str:
        """Show protocol, settings and sizes in a notebook."""
        settings = ', '.join(f'{key}={value}' for key, value in self.settings.items())
        sizes = [[name, f'{len(self.indices(name)):,}'] for name in SUBSETS]
        return _html.summary(
            f'{self.protocol} split',
            {'settings': settings or None, 'identity': self.identity()[:12]},
            _html.table(('subset', 'pixels'), sizes),
        )

    def __hash__(self) -> int:
        """Hash the split by its pixels."""
        return hash(self.pixels_digest())

    def identity(self) -> str:
        """Give the split a name that no other split has.

        Returns:
            SHA-256 of its pixels (:meth:`pixels_digest`), protocol, settings and
            dropped classes, 64 hexadecimal digits.
        """
        drawn = [self.protocol, self.settings, sorted(map(int, self.dropped))]
        digest = hashlib.sha256(b'split 2' + self.pixels_digest().encode())
        digest.update(json.dumps(drawn, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def pixels_digest(self) -> str:
        """Give the pixels a name, whoever drew them.

        Returns:
            SHA-256 of shape, subsets, merged classes and labels of the split's own, 64
            hexadecimal digits.
        """
        digest = hashlib.sha256(b'split 1')
        digest.update(np.asarray(self.shape, dtype='<i8').tobytes())
        for name in SUBSETS:
            indices = np.asarray(getattr(self, name), dtype='<i8')
            digest.update(name.encode() + str(indices.size).encode() + b':')
            digest.update(indices.tobytes())
        digest.update(json.dumps(sorted(self.relabel.items())).encode())
        for name, labels in (self.own_labels or {}).items():
            digest.update(name.encode() + np.asarray(labels, dtype='<i8').tobytes())
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
        if self.own_labels is not None:
            labels = self.own_labels[subset].copy()
        else:
            pixels = np.divmod(self.indices(subset), self.shape[1])
            labels = np.asarray(label_map)[pixels].astype(np.int64)
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
        used = np.zeros(self.shape, dtype=bool)
        for name in SUBSETS:
            used.flat[self.indices(name)] = True
        unused = np.zeros(classes + 1, dtype=np.int64)
        for row, taken in zip(np.asarray(label_map), used, strict=True):
            unused += np.bincount(row[~taken], minlength=classes + 1)
        for source, target in self.relabel.items():
            unused[target] += unused[source]
            unused[source] = 0
        counts['unused'] = unused[1:].tolist()
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
            float(dilate(train, distance).ravel()[self.test].mean())
            for distance in (radius, 2 * radius)
        ]
        return Overlap(*shares)

    def unserved(self, names: Sequence[str]) -> list[str]:
        """Say which classes are left out and which are merged.

        Args:
            names: Names of the classes, of label 1 first.

        Returns:
            A line for each of the two; none where every class is served.
        """
        left = [repr(names[label - 1]) for label in self.dropped]
        pairs = [(names[old - 1], names[new - 1]) for old, new in self.relabel.items()]
        merged = [f'{old!r} into {new!r}' for old, new in pairs]
        found = {'left out': left, 'merged': merged}
        return [
            f'classes {what}: {listed(text)}' for what, text in found.items() if text
        ]

    def describe(self) -> dict[str, Any]:
        """Describe the split without its pixels.

        Returns:
            JSON-able protocol, settings, identity, digest of the pixels, shape, sizes,
            merged and dropped classes.
        """
        return {
            'protocol': self.protocol,
            'settings': dict(self.settings),
            'identity': self.identity(),
            'pixels': self.pixels_digest(),
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
        arrays: dict[str, Any] = {name: self.indices(name) for name in SUBSETS}
        for name, labels in (self.own_labels or {}).items():
            arrays[f'{name}_labels'] = labels
        match path.suffix:
            case '.npz':
                description = np.array(json.dumps(self.describe()))
                with replaced(path) as part:
                    np.savez_compressed(part, description=description, **arrays)
            case '.json':
                content = self.describe()
                content.update({name: array.tolist() for name, array in arrays.items()})
                write_json(path, content, indent=None)
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
        path = require_file(path, 'split')
        with reading(path, 'a split file written by Split.save'):
            if path.suffix == '.npz':
                with zipfile.ZipFile(path) as packed:
                    size = sum(item.file_size for item in packed.infolist())
                check_memory(size, path, 'the split', _WRITTEN)
                with np.load(path, allow_pickle=False) as archive:
                    content = json.loads(str(archive['description']))
                    content.update({k: archive[k] for k in archive if k in _ARRAYS})
            else:
                needed = _JSON * path.stat().st_size
                check_memory(needed, path, 'the split', _WRITTEN)
                content = json.loads(path.read_text(encoding='utf-8'))
            arrays = {
                name: np.asarray(content[name], dtype=np.int64)
                for name in _ARRAYS
                if name in SUBSETS or name in content
            }
            own = {
                name: arrays.pop(f'{name}_labels')
                for name in SUBSETS
                if f'{name}_labels' in arrays
            }
            split = cls(
                protocol=str(content['protocol']),
                settings=dict(content['settings']),
                shape=tuple(content['shape']),
                relabel={int(k): int(v) for k, v in content['relabel'].items()},
                dropped=tuple(int(label) for label in content['dropped']),
                own_labels=own or None,
                **arrays,
            )
            identity, found = str(content['identity']), split.identity()
        if identity != found:
            raise FileError(
                f'split file {path} names the identity {identity[:12]}..., its content '
                f'has {found[:12]}...: it was changed after it was written'
            )
        return split
