# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits that files hold: published masks and splits that were saved."""

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from ..readers import (
    HDF5_SUFFIXES,
    MAT_SUFFIXES,
    NUMPY_SUFFIXES,
    read_hdf5,
    read_mat,
    read_numpy,
    require_file,
)
from ..scene import whole_numbers
from .protocol import DrawnSplit, SplitProtocol, Unserved, classes_of, joined
from .split import SUBSETS, Indices, Labels, Mask, Split


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


class MaskSplit(DrawnSplit):
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
        self.train = str(train)
        self.test = None if test is None else str(test)
        self.val = val
        self.train_variable = train_variable
        self.test_variable = test_variable
        self.unlabelled = unlabelled
        self.seed = seed
        self._known: Mask = np.zeros((0, 0), dtype=bool)

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
        for label in classes_of(label_map):
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
        return joined(parts), reasons


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
