# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Patches of a scene, gathered on the device from one normalised cube."""

import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._patch import PaddingMode, check_padding_mode, check_patch_size, padded_index
from .augmentation import NUM_ORIENTATIONS, orient
from .normalization import SpectralNormalizer, SpectralScene, read_values
from .pca import SpectralPCA

logger = logging.getLogger(__name__)

#: Upper bound on the values that are normalised at once.
_BLOCK_VALUES = 1 << 22

#: A lazy scene is read by one window if that takes at most this many pixels a patch, or
#: no more than the patches have: a read of its own costs more than some pixels.
_DENSE = 64

#: First row, row after the last, first column, column after the last.
_Bounds = tuple[int, int, int, int]


def _doubt_scaling(scene: SpectralScene, state: Mapping[str, Any]) -> str | None:
    """Say if a scene's file declares another scale than that of the training did.

    Products store one reflectance as different numbers; they are read as stored.
    """
    own = getattr(scene, 'scaling', None)
    theirs = state.get('scene', {}).get('scaling')
    if not own or not theirs or len(own) != len(theirs):
        return None
    differ = ~np.isclose(own, theirs, rtol=1e-4, atol=1e-12).all(axis=1)
    if not differ.any():
        return None
    band = int(differ.argmax())
    return (
        f'its file declares factor {own[band][0]:g} and offset {own[band][1]:g} for band '
        f'{band + 1}, that of the training {theirs[band][0]:g} and {theirs[band][1]:g}, '
        'and values are used as they are stored: bring both to one scale, or what is '
        'classified may mean nothing'
    )


def _room(device: torch.device) -> float:
    """Bytes that a cube may take on a device: half of what is free on a GPU."""
    if device.type != 'cuda':
        return math.inf
    return torch.cuda.mem_get_info(device)[0] / 2


@lru_cache(maxsize=16)
def _grid(patch_size: int, device: torch.device) -> Tensor:
    """Rows and columns of a patch's pixels from its first one, in every orientation."""
    side = torch.arange(patch_size)
    axes = torch.meshgrid(side, side, indexing='ij')
    table = [
        [orient(axis, k).reshape(-1) for k in range(NUM_ORIENTATIONS)] for axis in axes
    ]
    return torch.stack([torch.stack(axis) for axis in table]).to(device)


def gather_patches(
    block: Tensor, row_col: Tensor, patch_size: int, orientation: Tensor | None = None
) -> Tensor:
    """Cut patches out of a padded block.

    Args:
        block: Values, shape (rows + 2 * (P // 2), cols + 2 * (P // 2), bands), on the
            device of ``row_col``, C-contiguous.
        row_col: Rows and columns of the centre pixels, counted in the block without
            its padding, shape (B, 2).
        patch_size: Rows and columns P of a patch, odd.
        orientation: Flip and turn of every patch, 0 to 7 (see
            :func:`~torchgeo_ekgnet.transforms.augmentation.orient`), shape (B,); none
            by default.

    Returns:
        Patches, contiguous, shape (B, bands, P, P).
    """
    _, width, bands = block.shape
    rows, cols = _grid(patch_size, block.device)
    table = rows * width + cols
    # A centre in the unpadded block is the first pixel of its patch in the padded one.
    first = row_col[:, 0] * width + row_col[:, 1]
    steps = table[:1] if orientation is None else table[orientation]
    index = (first.unsqueeze(1) + steps).reshape(-1)
    spectra = block.reshape(-1, bands).index_select(0, index)
    spectra = spectra.view(len(row_col), patch_size * patch_size, bands)
    return (
        spectra.transpose(1, 2)
        .contiguous()
        .view(len(row_col), bands, patch_size, patch_size)
    )


class PatchSource:
    """The one place where patches come from.

    A scene in memory is normalised once, padded, and kept as one contiguous
    (rows, cols, bands) cube per device; patches are gathered there by index, flips and
    turns included. A scene that is read lazily gives its windows from the file, and one
    that is too large for a GPU gives them from memory.

    Borders are never lost. They are padded by ``P // 2`` pixels after normalisation:
    with zeros (the paper), or mirrored without repeating the border ('reflect').
    Pixels without data are zero after normalisation, like the padding.
    """

    def __init__(
        self,
        scene: SpectralScene,
        normalizer: SpectralNormalizer,
        patch_size: int,
        padding_mode: PaddingMode = 'zeros',
        pca: SpectralPCA | None = None,
    ) -> None:
        """Initialize a new patch source.

        Args:
            scene: The scene.
            normalizer: Fitted normalisation.
            patch_size: Rows and columns P of a patch, odd.
            padding_mode: 'zeros' or 'reflect'.
            pca: Fitted components, applied after the normalisation.

        Raises:
            ValueError: If the patch size is even or larger than the scene, or the
                padding mode is unknown.
        """
        rows, cols, bands = scene.shape
        check_patch_size(patch_size, rows, cols)
        check_padding_mode(padding_mode)
        self.scene = scene
        self.normalizer = normalizer
        self.pca = pca
        self.patch_size = patch_size
        self.padding_mode = padding_mode
        self.num_bands = bands if pca is None else pca.num_components
        self._cubes: dict[torch.device, Tensor] = {}
        self._fits: dict[torch.device, bool] = {}
        self._last_window: tuple[object, Tensor] | None = None

    @classmethod
    def from_state(
        cls, scene: SpectralScene, state: Mapping[str, Any]
    ) -> 'PatchSource':
        """Make a patch source again from the state of a data module.

        Args:
            scene: The scene, with the bands that the state was fitted on.
            state: 'normalizer', 'pca', 'patch_size' and 'padding_mode', as
                ``HyperspectralDataModule.state_dict`` gives them.

        Returns:
            The patch source.

        Raises:
            ValueError: If an entry is missing or the scene has other bands.
        """
        try:
            normalizer = SpectralNormalizer.from_state(state['normalizer'])
            pca = None if state['pca'] is None else SpectralPCA.from_state(state['pca'])
            patch_size, padding_mode = state['patch_size'], state['padding_mode']
        except KeyError as error:
            raise ValueError(
                f'data state has the entries {sorted(state)}, expected normalizer, '
                'pca, patch_size and padding_mode'
            ) from error
        fitted = normalizer.offset
        if fitted is None and pca is not None:
            fitted = pca.mean
        if fitted is not None and fitted.numel() != scene.shape[2]:
            raise ValueError(
                f'the statistics are those of {fitted.numel()} bands, the scene has '
                f'{scene.shape[2]}: select the bands that the network was trained with'
            )
        for doubt in (normalizer.doubt_units(scene), _doubt_scaling(scene, state)):
            if doubt is not None:
                logger.warning('%s: %s', getattr(scene, 'name', 'the scene'), doubt)
        return cls(scene, normalizer, patch_size, padding_mode, pca)

    @property
    def radius(self) -> int:
        """Padding on every side, in pixels."""
        return self.patch_size // 2

    @property
    def lazy(self) -> bool:
        """Whether patches are read from the file."""
        return not self.scene.in_memory

    def _keeps_cube(self, device: torch.device) -> bool:
        """Tell whether the whole cube lies, or can lie, on a device."""
        if self.lazy:
            return False
        if device not in self._fits:
            rows, cols, _ = self.scene.shape
            pad = 2 * self.radius
            size = 4 * (rows + pad) * (cols + pad) * self.num_bands
            self._fits[device] = size <= _room(device)
        return self._fits[device]

    def gather(
        self,
        row_col: Tensor,
        device: torch.device | str,
        orientation: Tensor | None = None,
        within: Tensor | None = None,
    ) -> Tensor:
        """Gather normalised patches on a device.

        Args:
            row_col: Rows and columns of the centre pixels, int64, shape (B, 2), on any
                device.
            device: Where the patches are wanted.
            orientation: Flip and turn of every patch, 0 to 7, shape (B,), on
                ``device``; none by default.
            within: A window that holds the centres of this and the next batches: first
                row, row after the last, first column, column after the last. A lazy
                scene reads it once for all of them.

        Returns:
            Patches, float32, contiguous, shape (B, bands, P, P).
        """
        device = torch.device(device)
        if self._keeps_cube(device):
            row_col = row_col.to(device, non_blocking=True)
            return gather_patches(
                self.cube(device), row_col, self.patch_size, orientation
            )
        centres = row_col.tolist()
        bounds = self._bounds_of_neighbours(centres)
        if bounds is None:
            return self._gather_apart(centres, device, orientation)
        if within is None:
            block = self.read_block(*bounds).to(device)
        else:
            bounds = tuple(within.tolist())
            block = self._window_once(bounds, device)
        corner = torch.tensor([bounds[0], bounds[2]], device=device)
        local = row_col.to(device) - corner
        return gather_patches(block, local, self.patch_size, orientation)

    def _bounds_of_neighbours(self, centres: list[list[int]]) -> _Bounds | None:
        """Give the window of pixels that lie close together, as in a map, else None."""
        if not centres:
            return None
        rows, cols = zip(*centres, strict=True)
        top, bottom, left, right = min(rows), max(rows) + 1, min(cols), max(cols) + 1
        pad = 2 * self.radius
        pixels = (bottom - top + pad) * (right - left + pad)
        if pixels > max(_DENSE, self.patch_size**2) * len(centres):
            return None
        return top, bottom, left, right

    def _gather_apart(
        self, centres: list[list[int]], device: torch.device, orientation: Tensor | None
    ) -> Tensor:
        """Read each patch alone, and put them into a block of one long column."""
        size = self.patch_size
        if centres:
            block = torch.cat([self.read_block(r, r + 1, c, c + 1) for r, c in centres])
        else:
            block = torch.empty(0, size, self.num_bands)
        block = block.to(device, non_blocking=True)
        first = torch.arange(len(centres), device=device) * size
        local = torch.stack([first, torch.zeros_like(first)], dim=1)
        return gather_patches(block, local, size, orientation)

    def _window_once(self, bounds: _Bounds, device: torch.device) -> Tensor:
        """Give the block of a window, read anew only if it is not that of before."""
        key = (bounds, device)
        if self._last_window is None or self._last_window[0] != key:
            self._last_window = None  # freed before the next one is read
            self._last_window = (key, self.read_block(*bounds).to(device))
        return self._last_window[1]

    def cube(self, device: torch.device | str) -> Tensor:
        """Give the whole padded cube of a scene in memory.

        Args:
            device: Where the cube is wanted; it stays there until :meth:`clear`.

        Returns:
            Normalised values, float32, contiguous, shape
            (rows + 2 * (P // 2), cols + 2 * (P // 2), bands).
        """
        device = torch.device(device)
        cube = self._cubes.get(device)
        if cube is None:
            rows, cols, _ = self.scene.shape
            cube = self.read_block(0, rows, 0, cols).to(device)
            self._cubes[device] = cube
        return cube

    def clear(self) -> None:
        """Free the cubes and windows on every device."""
        self._cubes.clear()
        self._fits.clear()
        self._last_window = None

    def __getstate__(self) -> dict[str, object]:
        """Leave the cubes and windows out of a pickle."""
        return {**self.__dict__, '_cubes': {}, '_fits': {}, '_last_window': None}

    def read_block(
        self, row_start: int, row_stop: int, col_start: int, col_stop: int
    ) -> Tensor:
        """Make the padded block that holds every patch of a window of centres.

        Args:
            row_start: First row of the centres, inside the scene.
            row_stop: Row after the last one.
            col_start: First column of the centres.
            col_stop: Column after the last one.

        Returns:
            Normalised values for :func:`gather_patches`, float32, contiguous, shape
            (rows + 2 * (P // 2), cols + 2 * (P // 2), bands), on the host.
        """
        rows, cols = (
            padded_index(
                start - self.radius, stop + self.radius, size, self.padding_mode
            )
            for start, stop, size in (
                (row_start, row_stop, self.scene.shape[0]),
                (col_start, col_stop, self.scene.shape[1]),
            )
        )
        inside_rows, inside_cols = rows[rows >= 0], cols[cols >= 0]
        top, bottom = int(inside_rows.min()), int(inside_rows.max()) + 1
        left, right = int(inside_cols.min()), int(inside_cols.max()) + 1
        width = (right - left) * self.scene.shape[2]
        step = max(1, _BLOCK_VALUES // max(1, width))
        block = torch.zeros(len(rows), len(cols), self.num_bands)
        target_cols = torch.from_numpy(np.flatnonzero(cols >= 0))
        source_cols = torch.from_numpy(inside_cols - left)
        plain = bool((np.diff(inside_cols) == 1).all())
        for start in range(top, bottom, step):
            stop = min(bottom, start + step)
            values = self._normalised(start, stop, left, right)
            if not plain:
                values = values[:, source_cols]
            targets = np.flatnonzero((rows >= start) & (rows < stop))
            index = torch.from_numpy(rows[targets] - start)
            first = int(target_cols[0])
            last = first + len(target_cols)
            block[torch.from_numpy(targets), first:last] = values[index]
        return block

    def _normalised(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Read and normalise a window inside the scene."""
        values = torch.from_numpy(read_values(self.scene, top, bottom, left, right))
        values = self.normalizer(values)
        if self.pca is not None:
            values = self.pca(values)
        valid = self.scene.valid[top:bottom, left:right]
        if not valid.all():
            values = values.clone()
            values[torch.from_numpy(~valid)] = 0.0
        return values
