# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Normalisation of spectra."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._options import known_word
from .._wording import listed

Method = Literal['zscore', 'minmax', 'snv', 'l2', 'none']

Over = Literal['scene', 'train']

#: Upper bound on the values that a scan of the scene holds at once.
_BLOCK_VALUES = 1 << 22


#: Standard deviations from 0 beyond which values are normalised in double precision.
_FAR = 4096.0

logger = logging.getLogger(__name__)

#: Ratio of spreads, or distance in spreads, beyond which units must differ.
_OTHER_UNITS = 50.0
#: Pixels below which nothing is said about units.
_FEW_PIXELS = 30


class SpectralScene(Protocol):
    """What the transforms need from a scene."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bands."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels that hold data, shape (rows, cols)."""

    @property
    def in_memory(self) -> bool:
        """Whether the cube lies in memory."""

    def read(
        self, row_start: int, row_stop: int, col_start: int, col_stop: int
    ) -> NDArray[np.float32]:
        """Read a window, shape (rows, cols, bands)."""


def read_values(
    scene: SpectralScene, row_start: int, row_stop: int, col_start: int, col_stop: int
) -> NDArray[Any]:
    """Read a window in the precision that the scene's values need.

    Values far from 0, as in float64 or int32 files, lose their differences in single
    precision; a scene that has such types says so (``precise``) and gives doubles.

    Args:
        scene: The scene.
        row_start: First row.
        row_stop: Row after the last one.
        col_start: First column.
        col_stop: Column after the last one.

    Returns:
        float32 or float64, shape (rows, cols, bands).
    """
    window = (row_start, row_stop, col_start, col_stop)
    precise: Any = scene
    if getattr(scene, 'precise', False):
        return np.asarray(precise.read(*window, double=True))
    return scene.read(*window)


def iterate_spectra(
    scene: SpectralScene, positions: NDArray[np.int64] | None = None
) -> Iterator[NDArray[np.float64]]:
    """Go through the spectra of a scene without holding all of them.

    Args:
        scene: The scene.
        positions: Rows and columns of the pixels, shape (N, 2); every valid pixel by
            default. Pixels without data are left out.

    Yields:
        Spectra in raw units, shape (n, bands), in row-major order.
    """
    rows, cols, bands = scene.shape
    wanted = np.asarray(scene.valid, dtype=bool)
    if positions is not None:
        chosen = np.zeros((rows, cols), dtype=bool)
        chosen[positions[:, 0], positions[:, 1]] = True
        wanted = wanted & chosen
    step = max(1, _BLOCK_VALUES // max(1, cols * bands))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        mask = wanted[start:stop]
        if not mask.any():
            continue
        first, last = np.flatnonzero(mask.any(axis=0))[[0, -1]]
        block = read_values(scene, start, stop, int(first), int(last) + 1)
        yield block[mask[:, first : last + 1]].astype(np.float64)


class SpectralNormalizer:
    """Bring spectra to a common scale, per band or per pixel.

    ======== ==========================================================
    method   value of a band of a pixel
    ======== ==========================================================
    zscore   (x - mean of the band) / standard deviation of the band
    minmax   (x - minimum of the band) / (maximum - minimum)
    snv      (x - mean of the pixel) / standard deviation of the pixel
    l2       x / Euclidean length of the pixel's spectrum
    none     x
    ======== ==========================================================

    Standard deviations divide by N (ddof 0). A band, or a pixel, without spread is
    set to zero. ``zscore`` over the whole scene is what the paper does. Pixels without
    data never enter a statistic.
    """

    def __init__(self, method: Method = 'zscore', over: Over = 'scene') -> None:
        """Initialize a new normalizer.

        Args:
            method: 'zscore', 'minmax', 'snv', 'l2' or 'none'.
            over: Pixels that a data module takes the statistics of a band from: the
                whole 'scene', test pixels included, or the pixels of 'train' only.

        Raises:
            ValueError: If a word is unknown.
        """
        for name, value, known in (
            ('method', method, get_args(Method)),
            ('over', over, get_args(Over)),
        ):
            known_word(f'normalization: {name}', value, known)
        self.method: Method = method
        self.over: Over = over
        self.offset: Tensor | None = None
        self.scale: Tensor | None = None
        self._far_from_zero = False

    def __repr__(self) -> str:
        """Write the arguments."""
        return f'{type(self).__name__}(method={self.method!r}, over={self.over!r})'

    @property
    def per_band(self) -> bool:
        """Whether the method needs statistics of the scene."""
        return self.method in ('zscore', 'minmax')

    @property
    def fitted(self) -> bool:
        """Whether the normalizer can be applied."""
        return not self.per_band or self.offset is not None

    def fit(
        self, scene: SpectralScene, positions: NDArray[np.int64] | None = None
    ) -> 'SpectralNormalizer':
        """Take the statistics of a scene.

        Args:
            scene: The scene, read by blocks.
            positions: Rows and columns of the pixels to use, shape (N, 2); every
                pixel with data by default.

        Returns:
            The normalizer itself.

        Raises:
            ValueError: If there is no pixel with data, or a value is NaN or infinite.
        """
        if not self.per_band:
            self._check_spread(scene, positions)
            return self
        mean, variance, low, high = _band_statistics(scene, positions)
        if self.method == 'zscore':
            offset, spread = mean, np.sqrt(variance)
            # Rounding of a constant band must not be blown up to unit variance.
            flat = spread <= 1e-13 * np.maximum(np.abs(mean), 1e-30)
        else:
            offset, spread = low, high - low
            flat = spread == 0
        _report_flat(flat, mean)
        # What varies elsewhere only would come in raw units.
        scale = np.where(flat, np.inf, spread)
        self._take_statistics(
            torch.from_numpy(np.ascontiguousarray(offset)),
            torch.from_numpy(np.ascontiguousarray(scale)),
        )
        return self

    def doubt_units(self, scene: SpectralScene) -> str | None:
        """Say if a scene cannot be in the units of the one the statistics are of.

        Reflectances of 0 to 1 and of 0 to 10000 are both common, and one of them
        normalised with statistics of the other is nearly constant, or far away.

        Args:
            scene: The scene; its first block with data is looked at.

        Returns:
            A sentence, None if nothing is odd or no statistics are kept.
        """
        spectra = next(iterate_spectra(scene), None)
        if self.offset is None or self.scale is None or spectra is None:
            return None
        if len(spectra) < _FEW_PIXELS:
            return None
        own, spread = np.median(spectra, axis=0), spectra.std(axis=0)
        offset, scale = self.offset.numpy(), self.scale.numpy()
        ratio = float(np.median(spread / scale))
        shift = float(np.median(np.abs(own - offset) / scale))
        if 1 / _OTHER_UNITS <= ratio <= _OTHER_UNITS and shift <= _OTHER_UNITS:
            return None
        return (
            f'its values run from {spectra.min():g} to {spectra.max():g} and vary '
            f'{ratio:.2g} times as much as those that the network was trained on (near '
            f'{float(np.median(offset)):g}): are they in other units? What is '
            'classified of them means nothing then; scale the cube to the units of the '
            'training'
        )

    def _check_spread(
        self, scene: SpectralScene, positions: NDArray[np.int64] | None
    ) -> None:
        """Refuse a scene of which nothing would be left; its first block may do."""
        if self.method != 'none' and scene.shape[2] == 1:
            raise ValueError(
                f'normalization: method {self.method!r} compares the bands of a pixel '
                "and leaves nothing of a single band; expected 'zscore', 'minmax' or "
                "'none'"
            )
        first: NDArray[np.float64] | None = None
        for spectra in iterate_spectra(scene, positions):
            first = spectra[:1] if first is None else first
            if self.method == 'snv':
                spectra = spectra - spectra.mean(axis=1, keepdims=True)
                first = np.zeros_like(first)
            if (spectra != first).any():
                return
        if first is None:
            raise ValueError('normalization: no pixel with data to normalise')
        raise ValueError(
            f'normalization: method {self.method!r} would leave nothing: every pixel '
            'has the same spectrum, or no spectrum varies over the bands; look at the '
            'values of the file'
        )

    def _take_statistics(self, offset: Tensor | None, scale: Tensor | None) -> None:
        """Keep statistics, and whether single precision is too coarse for them."""
        self.offset, self.scale = offset, scale
        # A plain value: exported programs must not depend on what tensors hold.
        if offset is not None and scale is not None:
            self._far_from_zero = bool((offset.abs() > _FAR * scale).any())

    def __call__(self, cube: Tensor) -> Tensor:
        """Normalise spectra.

        Args:
            cube: Values in raw units, shape (..., bands); float64, and values far from
                0, are normalised in double precision, anything else in single.

        Returns:
            Normalised values, float32, shape (..., bands).

        Raises:
            RuntimeError: If the method needs statistics and has none.
            ValueError: If the number of bands is not that of the statistics.
        """
        if cube.dtype != torch.float64:
            far = self._far_from_zero
            cube = cube.to(torch.float64 if far else torch.float32)
        return self._normalised(cube).to(torch.float32)

    def _normalised(self, cube: Tensor) -> Tensor:
        """Normalise spectra in the precision that they have."""
        match self.method:
            case 'none':
                return cube
            case 'l2':
                length = cube.norm(dim=-1, keepdim=True)
                return cube / torch.where(length > 0, length, 1.0)
            case 'snv':
                centred = cube - cube.mean(dim=-1, keepdim=True)
                spread = centred.square().mean(dim=-1, keepdim=True).sqrt()
                size = cube.abs().amax(dim=-1, keepdim=True)
                least = (1e-6 if cube.dtype == torch.float32 else 1e-14) * size
                return centred / torch.where(spread > least, spread, torch.inf)
        if self.offset is None or self.scale is None:
            raise RuntimeError(
                f'normalization {self.method!r} has no statistics yet: call fit first'
            )
        if cube.shape[-1] != self.offset.numel():
            raise ValueError(
                f'normalization has statistics of {self.offset.numel()} bands, got '
                f'values of shape {tuple(cube.shape)}'
            )
        offset = self.offset.to(cube.device, cube.dtype)
        scale = self.scale.to(cube.device, cube.dtype)
        return (cube - offset) / scale

    def state_dict(self) -> dict[str, Any]:
        """Give the method and its statistics."""
        return {
            'method': self.method,
            'over': self.over,
            'offset': self.offset,
            'scale': self.scale,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> 'SpectralNormalizer':
        """Make a normalizer again from its state.

        Args:
            state: What :meth:`state_dict` gave; lists do as well as tensors.

        Returns:
            The normalizer.

        Raises:
            ValueError: If the state lacks an entry.
        """
        try:
            normalizer = cls(state['method'], state['over'])
            statistics = (as_double(state[name]) for name in ('offset', 'scale'))
            normalizer._take_statistics(*statistics)
        except KeyError as error:
            raise ValueError(
                f'normalizer state has the entries {sorted(state)}, expected method, '
                'over, offset and scale'
            ) from error
        return normalizer


def as_double(values: Any) -> Tensor | None:
    """Read an entry of a state: a tensor or a list, kept in double precision."""
    if values is None:
        return None
    return torch.as_tensor(values, dtype=torch.float64, device='cpu')


def _band_statistics(
    scene: SpectralScene, positions: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], ...]:
    """Take mean, variance, minimum and maximum of every band, block by block."""
    bands = scene.shape[2]
    count = 0
    mean = np.zeros(bands)
    square = np.zeros(bands)
    low = np.full(bands, np.inf)
    high = np.full(bands, -np.inf)
    # Infinite values are reported below.
    with np.errstate(invalid='ignore'):
        for spectra in iterate_spectra(scene, positions):
            # Blockwise mean and variance (Chan et al.): exact for large offsets.
            n = len(spectra)
            part = spectra.mean(axis=0)
            delta = part - mean
            total = count + n
            square += ((spectra - part) ** 2).sum(axis=0)
            square += delta**2 * (count * n / total)
            mean += delta * (n / total)
            count = total
            low = np.minimum(low, spectra.min(axis=0))
            high = np.maximum(high, spectra.max(axis=0))
    if count == 0:
        raise ValueError('normalization: no pixel with data to take statistics from')
    finite = np.isfinite(mean) & np.isfinite(square)
    if not finite.all():
        raise ValueError(
            f'normalization: bands {listed(np.flatnonzero(~finite))} hold NaN or '
            'infinite values in pixels that are not nodata; name the nodata value or '
            'remove the bands'
        )
    return mean, square / count, low, high


def _report_flat(flat: NDArray[np.bool_], mean: NDArray[np.float64]) -> None:
    """Name the bands without spread, and refuse a scene that has no others."""
    bands = np.flatnonzero(flat)
    if not bands.size:
        return
    if bands.size == flat.size:
        raise ValueError(
            'normalization: every band holds one value in the pixels that are looked '
            f'at (such as {mean[0]:g} in band 0), expected values that differ'
        )
    logger.warning(
        'normalization: %d of %d bands hold one value and become 0: %s; leave them out '
        'with bands={"exclude": [...]}',
        bands.size,
        flat.size,
        listed(bands),
    )
