# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which bands of a cube are used."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BandSelection:
    """Which bands of a cube are used.

    A band is kept if it is in ``indices`` or inside one of ``wavelengths`` (both None:
    every band) and neither listed in ``exclude`` nor inside one of
    ``exclude_wavelengths`` nor marked bad by the file.

    Args:
        indices: Zero-based bands, in the wanted order.
        wavelengths: Closed ranges in nm that are kept, such as ``[[400, 1300]]``.
        exclude: Zero-based bands that are removed.
        exclude_wavelengths: Closed ranges in nm that are removed, such as the water
            vapour windows ``[[1340, 1460], [1790, 1960]]``.
        drop_bad: Also remove the bands that the file itself lists as bad (ENVI's
            ``bbl``).
    """

    indices: Sequence[int] | None = None
    wavelengths: Sequence[tuple[float, float]] | None = None
    exclude: Sequence[int] | None = None
    exclude_wavelengths: Sequence[tuple[float, float]] | None = None
    drop_bad: bool = True

    def resolve(
        self,
        num_bands: int,
        wavelengths: NDArray[np.float64] | None = None,
        bad_bands: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Turn the selection into band numbers of one cube.

        Args:
            num_bands: Bands of the cube.
            wavelengths: Centre of each band in nm, None if unknown.
            bad_bands: True where the file marks a band as bad, None if it does not.

        Returns:
            Zero-based band numbers.

        Raises:
            ValueError: If a band is listed twice or does not exist, if a range is asked
                for without known wavelengths, or if no band is left.
        """
        if self.indices is not None and self.wavelengths is not None:
            raise ValueError(
                'bands: give either indices or wavelengths, not both; use '
                'exclude/exclude_wavelengths to remove bands from a range'
            )
        if self.indices is not None:
            chosen = _checked_bands('indices', self.indices, num_bands)
        elif self.wavelengths is not None:
            inside = _inside('wavelengths', self.wavelengths, wavelengths)
            chosen = np.flatnonzero(inside).astype(np.int64)
        else:
            chosen = np.arange(num_bands, dtype=np.int64)
        dropped = np.zeros(num_bands, dtype=bool)
        if self.exclude is not None:
            dropped[_checked_bands('exclude', self.exclude, num_bands)] = True
        if self.exclude_wavelengths is not None:
            dropped |= _inside(
                'exclude_wavelengths', self.exclude_wavelengths, wavelengths
            )
        if self.drop_bad and bad_bands is not None:
            dropped |= bad_bands
        chosen = chosen[~dropped[chosen]]
        if len(chosen) == 0:
            known = (
                'wavelengths unknown'
                if wavelengths is None
                else f'wavelengths {wavelengths.min():g}..{wavelengths.max():g} nm'
            )
            bad = 0 if bad_bands is None else int(bad_bands.sum())
            raise ValueError(
                f'bands: {self} keeps none of the {num_bands} bands ({known}; {bad} '
                'are marked as bad by the file, drop_bad=False keeps these)'
            )
        return chosen


#: What the ``bands`` argument of every dataset accepts.
Bands = Sequence[int] | BandSelection | None


def resolve_bands(
    bands: Bands,
    num_bands: int,
    wavelengths: NDArray[np.float64] | None = None,
    bad_bands: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Turn a ``bands`` argument into band numbers.

    Args:
        bands: None (all bands that the file does not mark as bad), zero-based band
            numbers, or a :class:`BandSelection`.
        num_bands: Bands of the cube.
        wavelengths: Centre of each band in nm, None if unknown.
        bad_bands: True where the file marks a band as bad, None if it does not.

    Returns:
        Zero-based band numbers.

    Raises:
        ValueError: If the selection does not fit the cube.
    """
    if bands is None:
        bands = BandSelection()
    elif not isinstance(bands, BandSelection):
        bands = BandSelection(indices=bands, drop_bad=False)
    return bands.resolve(num_bands, wavelengths, bad_bands)


def nearest_bands(
    centres: NDArray[np.float64], wavelengths: Sequence[float]
) -> tuple[int, int, int]:
    """Find the bands that stand for red, green and blue.

    Args:
        centres: Centre of each band in nm.
        wavelengths: Those of red, green and blue in nm.

    Returns:
        Number of the nearest band to each.
    """
    red, green, blue = (int(np.abs(centres - nm).argmin()) for nm in wavelengths)
    return red, green, blue


def _checked_bands(
    argument: str, bands: Sequence[int], num_bands: int
) -> NDArray[np.int64]:
    """Refuse what are no numbers of bands, counted from 0."""
    array = np.asarray(bands)
    if array.ndim != 1 or (array.size and array.dtype.kind not in 'iu'):
        raise ValueError(
            f'bands: {argument} must be a list of whole numbers, got {bands!r}'
        )
    array = array.astype(np.int64)
    outside = array[(array < 0) | (array >= num_bands)]
    if outside.size:
        raise ValueError(
            f'bands: {argument} names band {outside[0]}, but the cube has {num_bands} '
            f'bands, numbered 0..{num_bands - 1}'
        )
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1].tolist()
        raise ValueError(f'bands: {argument} lists bands more than once: {twice}')
    return array


def _inside(
    argument: str,
    ranges: Sequence[tuple[float, float]],
    wavelengths: NDArray[np.float64] | None,
) -> NDArray[np.bool_]:
    """Say which bands lie in one of some ranges of wavelengths."""
    if wavelengths is None:
        raise ValueError(
            f'bands: {argument} needs wavelengths, but this scene has none; select '
            'bands by index or give the wavelengths'
        )
    inside = np.zeros(len(wavelengths), dtype=bool)
    for pair in ranges:
        if np.shape(pair) != (2,) or not float(pair[0]) <= float(pair[1]):
            raise ValueError(
                f'bands: {argument} expects pairs (low, high) in nm, got {pair!r}'
            )
        inside |= (wavelengths >= pair[0]) & (wavelengths <= pair[1])
    return inside
