# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits that files hold: published masks and splits that were saved."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._options import known_word, random_seed
from ..._reading import FileError, require_file
from ..label_files import places_pixels, read_label_map
from ..labels import NO_LABEL
from ..raster import Grid
from ..vector import number_features
from .protocol import DrawnSplit, SplitProtocol, Unserved, check_val, classes_of, joined
from .split import SUBSETS, Indices, Labels, Mask, Split, check_label_map

logger = logging.getLogger(__name__)


def read_mask(
    path: str | Path,
    variable: str | None = None,
    grid: Grid | None = None,
    argument: str = 'variable',
) -> Labels:
    """Read a mask of training or test pixels.

    Args:
        path: A ``.mat``, ``.npy``, ``.npz``, HDF5 or NetCDF file, an ENVI header, or
            any raster of one band that rasterio opens; with *grid* also polygons, points
            and regions of interest.
        variable: Name of the array in the file, the only two-dimensional one by
            default.
        grid: Pixels of the scene, to which a mask with a place of its own is brought;
            None takes it as it is stored.
        argument: Argument that gives *variable*, for messages.

    Returns:
        Labels, shape (rows, cols); 0 is outside the mask, and so is nodata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read or holds no whole numbers.
    """
    place = require_file(path, 'mask')
    try:
        if grid is not None and places_pixels(place):
            mask = number_features(place, grid, alike=True)
        else:
            mask = read_label_map(place, variable, grid, argument)
    except ValueError as error:
        raise ValueError(f'mask cannot be read: {error}') from error
    return np.where(mask == NO_LABEL, 0, mask)


class MaskSplit(DrawnSplit):
    """Training and test pixels as somebody published them.

    Masks are label maps (or plain masks) of the scene's size whose pixels other than
    0 are members, or polygons, points or regions of interest; the labels themselves come
    from the scene. Rasters with a CRS and polygons are brought to the place of the scene,
    as labels are. Some training pixels may be set aside for validation.

    Masks of another edition of the label map, such as the 695 training and 9671 test
    pixels of Indian Pines, mark pixels that the scene does not label:
    ``unlabelled='drop'`` leaves these out and logs how many they are. A warning tells
    if the values of a mask are numbered otherwise than the scene's classes, or belong
    to other pixels. ``labels='masks'`` takes the labels of the masks instead: pixels
    that only the masks label train and test as well, and the class of a value is that of
    the pixels that both label.
    """

    name = 'masks'
    files = ('train', 'test')

    def __init__(
        self,
        train: str,
        test: str | None = None,
        val: float = 0.1,
        train_variable: str | None = None,
        test_variable: str | None = None,
        unlabelled: Literal['error', 'drop'] = 'error',
        labels: Literal['scene', 'masks'] = 'scene',
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
                scene: 'error' refuses, 'drop' ignores them and logs their number.
            labels: Whether the labels are those of the 'scene' or of the 'masks'.
            seed: Seed of the frozen generator that sets validation pixels aside.
            unserved: What to do with a class without training or test pixels:
                'error', 'drop' or 'merge'.

        Raises:
            ValueError: If ``val`` is no share or ``unlabelled`` another word.
        """
        super().__init__(unserved)
        check_val(val)
        known_word('unlabelled', unlabelled, ('error', 'drop'))
        self.train = str(train)
        self.test = None if test is None else str(test)
        self.val = val
        self.train_variable = train_variable
        self.test_variable = test_variable
        known_word('labels', labels, ('scene', 'masks'))
        self.unlabelled = unlabelled
        self.labels = labels
        self.seed = random_seed(seed)
        self._members: dict[str, Mask] = {}

    def _read(
        self, name: str, path: str, variable: str | None, label_map: Labels
    ) -> Labels:
        """Read a mask of the label map's size."""
        place, grid = self.path_of(path), self.context.grid
        if grid is None and places_pixels(place):
            grid = Grid(*label_map.shape)
        mask = read_mask(place, variable, grid, f'{name}_variable')
        if mask.shape != label_map.shape:
            raise ValueError(
                f'mask {path} has shape {mask.shape}, expected that of the label map, '
                f'{label_map.shape}'
            )
        return mask

    def _members_of(self, path: str, mask: Labels, label_map: Labels) -> Mask:
        """Hold a mask against the labels of the scene."""
        members: Mask = mask != 0
        known = label_map > 0
        outside = int((members & ~known).sum())
        if outside and self.unlabelled == 'error':
            raise ValueError(
                f'mask {path} marks {outside} pixels that have no label in the scene; '
                "use unlabelled='drop' to ignore them, or labels='masks' if the mask "
                'holds their labels'
            )
        if outside:
            logger.warning(
                'mask %s: %d of %d pixels have no label in the scene and are ignored',
                path,
                outside,
                int(members.sum()),
            )
        members &= known
        _compare_values(path, mask[members], label_map[members])
        return members

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Draw the split of a scene.

        Raises:
            FileNotFoundError: If a mask does not exist.
            ValueError: If a mask does not fit the label map, the masks overlap, or a
                class cannot be served and ``unserved`` is 'error'.
        """
        # Read here, not for every draw: when classes are dropped or merged, what the
        # masks mark is still to be held against the labels of the scene.
        labels = check_label_map(label_map)
        own = self.labels == 'masks'
        files = {'train': (self.train, self.train_variable)}
        if self.test is not None:
            files['test'] = (self.test, self.test_variable)
        masks = {name: self._read(name, *file, labels) for name, file in files.items()}
        if own:
            merged = labels.copy()
            for name, mask in masks.items():
                marked = mask != 0
                merged[marked] = _classes_of_mask(files[name][0], mask, labels)[marked]
            labels = merged
            members = {name: mask != 0 for name, mask in masks.items()}
        else:
            members = {
                name: self._members_of(files[name][0], mask, labels)
                for name, mask in masks.items()
            }
        if 'test' not in members:
            members['test'] = ~members['train']
        both = int((members['train'] & members['test']).sum())
        if both:
            raise ValueError(
                f'masks {self.train} and {self.test} share {both} pixels, expected '
                'none: test pixels must not train'
            )
        self._members = members
        split = super().__call__(labels, patch_size)
        if not own:
            return split
        values = {name: labels.flat[split.indices(name)] for name in SUBSETS}
        return replace(split, own_labels=values)

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        generator = np.random.RandomState(self.seed)
        reasons: dict[int, str] = {}
        parts: dict[str, list[Indices]] = {name: [] for name in SUBSETS}
        for label in classes_of(label_map):
            members = label_map == label
            trained, tested = (
                np.flatnonzero(members & self._members[name]).astype(np.int64)
                for name in ('train', 'test')
            )
            if trained.size == 0 or tested.size == 0:
                reasons[label] = f'{trained.size} training, {tested.size} test pixels'
                continue
            generator.shuffle(trained)
            count = int(self.val * trained.size)  # all but one at most
            parts['val'].append(trained[trained.size - count :])
            parts['train'].append(trained[: trained.size - count])
            parts['test'].append(tested)
        return joined(parts), reasons


def _classes_of_mask(path: str, mask: Labels, label_map: Labels) -> Labels:
    """Translate the values of a mask into the classes of the scene."""
    classes = np.zeros_like(label_map)
    both = (mask != 0) & (label_map > 0)
    pairs: dict[int, int] = {}
    values = np.unique(mask[mask != 0])
    if len(values) == 1 and len(np.unique(label_map[both])) > 1:
        raise ValueError(
            f'mask {path}: found one value on pixels of several classes, expected one '
            "value a class (or labels='scene'); it is a mask without classes"
        )
    for value in values:
        found = label_map[both & (mask == value)]
        if not found.size:
            raise ValueError(
                f'mask {path}: the scene labels no pixel of value {value}, so its class '
                "is not known; expected values that both label (or labels='scene')"
            )
        pairs[int(value)] = int(np.bincount(found).argmax())
        classes[mask == value] = pairs[int(value)]
    if len(set(pairs.values())) < len(pairs):
        raise ValueError(
            f"mask {path}: found two values of one class (mask's value: scene's label: "
            f'{pairs}), expected one to one; is it a mask without classes?'
        )
    disputed = int((classes[both] != label_map[both]).sum())
    if disputed:
        logger.warning(
            'mask %s: %d of %d pixels have another label than in the scene; that of the '
            'mask counts',
            path,
            disputed,
            int(both.sum()),
        )
    return classes


def _compare_values(path: str, values: Labels, labels: Labels) -> None:
    """Warn if the values of a mask are not the scene's classes in their order."""
    marked, row = np.unique(values, return_inverse=True)
    if len(marked) < 2:  # a plain mask has no classes
        return
    classes, col = np.unique(labels, return_inverse=True)
    table = np.zeros((len(marked), len(classes)), dtype=np.int64)
    np.add.at(table, (row, col), 1)
    pairs = {
        int(value): int(classes[best])
        for value, best in zip(marked, table.argmax(axis=1), strict=True)
    }
    others = int(table.sum() - table.max(axis=1).sum())
    text = ', '.join(f'{value}: {label}' for value, label in pairs.items())
    if others or len(set(pairs.values())) < len(pairs):
        logger.warning(
            'mask %s: its values and the labels of the scene are not one to one: %d of '
            '%d pixels have another label than most pixels of their value (value: most '
            "frequent label: %s); training and testing use the scene's labels",
            path,
            others,
            len(values),
            text,
        )
    if list(pairs.values()) != sorted(pairs.values()):
        logger.warning(
            "mask %s numbers the classes otherwise than the scene (mask's value: "
            "scene's label: %s); training and testing use the scene's labels",
            path,
            text,
        )


class SavedSplit(SplitProtocol):
    """A split that :meth:`Split.save` wrote."""

    name = 'saved'

    def __init__(self, path: str) -> None:
        """Initialize a new protocol.

        Args:
            path: A ``.npz`` or ``.json`` file, as it is named or below the scene's root.
        """
        self.path = str(path)

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Read the split as it was drawn, with the name and settings of its protocol.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no split, or one of another label map.
        """
        path = self.path_of(self.path)
        split = Split.load(path)
        try:
            for name in SUBSETS:
                split.labels(label_map, name)
        except ValueError as error:
            raise FileError(f'{path}: {error}') from error
        return split
