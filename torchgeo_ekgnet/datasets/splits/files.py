# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits that files hold: published masks and splits that were saved."""

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._options import known_word, random_seed
from ..._reading import require_file
from ..label_files import read_label_map
from ..labels import NO_LABEL
from .protocol import (
    DrawnSplit,
    SplitProtocol,
    Unserved,
    check_share,
    classes_of,
    joined,
)
from .split import SUBSETS, Indices, Labels, Mask, Split, check_label_map

logger = logging.getLogger(__name__)


def read_mask(path: str | Path, variable: str | None = None) -> Labels:
    """Read a mask of training or test pixels.

    Args:
        path: A ``.mat``, ``.npy``, ``.npz``, HDF5 or NetCDF file, an ENVI header, or
            any raster that rasterio opens (its first band).
        variable: Name of the array in the file, the only two-dimensional one by
            default.

    Returns:
        Labels, shape (rows, cols); 0 is outside the mask, and so is nodata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read or holds no whole numbers.
    """
    try:
        mask, _ = read_label_map(require_file(path, 'mask'), variable)
    except ValueError as error:
        raise ValueError(f'mask cannot be read: {error}') from error
    return np.where(mask == NO_LABEL, 0, mask)


class MaskSplit(DrawnSplit):
    """Training and test pixels as somebody published them.

    Masks are label maps (or plain masks) of the scene's size whose pixels other than
    0 are members; the labels themselves come from the scene. Some training pixels may
    be set aside for validation.

    Masks of another edition of the label map, such as the 695 training and 9671 test
    pixels of Indian Pines, mark pixels that the scene does not label:
    ``unlabelled='drop'`` leaves these out and logs how many they are. A warning tells
    if the values of a mask are numbered otherwise than the scene's classes, or belong
    to other pixels.
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
                scene: 'error' refuses, 'drop' ignores them and logs their number.
            seed: Seed of the frozen generator that sets validation pixels aside.
            unserved: What to do with a class without training or test pixels:
                'error', 'drop' or 'merge'.

        Raises:
            ValueError: If ``val`` is no share or ``unlabelled`` another word.
        """
        super().__init__(unserved)
        check_share('val', val)
        known_word('unlabelled', unlabelled, ('error', 'drop'))
        self.train = str(train)
        self.test = None if test is None else str(test)
        self.val = val
        self.train_variable = train_variable
        self.test_variable = test_variable
        self.unlabelled = unlabelled
        self.seed = random_seed(seed)
        self._members: dict[str, Mask] = {}

    def _read(self, path: str, variable: str | None, label_map: Labels) -> Mask:
        """Read a mask and hold it against the label map."""
        mask = read_mask(path, variable)
        if mask.shape != label_map.shape:
            raise ValueError(
                f'mask {path} has shape {mask.shape}, expected that of the label map, '
                f'{label_map.shape}'
            )
        members: Mask = mask != 0
        known = label_map > 0
        outside = int((members & ~known).sum())
        if outside and self.unlabelled == 'error':
            raise ValueError(
                f'mask {path} marks {outside} pixels that have no label in the scene; '
                "use unlabelled='drop' to ignore them"
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
        # Read here, not for every draw: when classes are dropped or merged, what the
        # masks mark is still to be held against the labels of the scene.
        labels = check_label_map(label_map)
        train = self._read(self.train, self.train_variable, labels)
        if self.test is None:
            test = (labels > 0) & ~train
        else:
            test = self._read(self.test, self.test_variable, labels)
            both = int((train & test).sum())
            if both:
                raise ValueError(
                    f'masks {self.train} and {self.test} share {both} pixels, expected '
                    'none: test pixels must not train'
                )
        self._members = {'train': train, 'test': test}
        return super().__call__(labels, patch_size)

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
            count = min(int(self.val * trained.size), trained.size - 1)
            parts['val'].append(trained[trained.size - count :])
            parts['train'].append(trained[: trained.size - count])
            parts['test'].append(tested)
        return joined(parts), reasons


def _compare_values(path: str, values: Labels, labels: Labels) -> None:
    """Warn if the values of a mask are not the scene's classes in their order.

    Args:
        path: The mask.
        values: Values of the mask where it marks labelled pixels, shape (N,).
        labels: Labels of the scene there, shape (N,).
    """
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
            path: A ``.npz`` or ``.json`` file.
        """
        self.path = str(path)

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
