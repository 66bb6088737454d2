# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Values that stand for missing data, declared and undeclared."""

import logging
import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._options import known_word
from .._wording import listed

if TYPE_CHECKING:
    from .scene import HyperspectralScene

logger = logging.getLogger(__name__)

#: Whether nodata in any used band, or only in all of them, makes a pixel invalid.
NodataIn = Literal['any', 'all']

#: What programs write where there is no data.
_USUAL = (-9999.0, -999.0, -99999.0, -32768.0, -32767.0, 65535.0, 32767.0, 1e20)
#: Upper bound on the values that are searched for undeclared fill.
_SAMPLE_VALUES = 1 << 22
#: Least number of rows that are searched.
_SAMPLE_ROWS = 64
#: Share of pixels from which one extreme value counts as fill.
_FILL_SHARE = 0.005


def is_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Tell which values are the nodata value, within the tolerance of their type.

    Files declare nodata as text, often with six digits or with those of a double. A
    float counts as nodata within a few units of its last place; numbers so large or
    small that no data lie near, such as -3.40282e+38, within six digits.

    Args:
        values: Any values.
        nodata: The value; NaN or infinity stand for everything that is not finite.
    """
    if not math.isfinite(nodata):
        return np.asarray(~np.isfinite(values))
    if values.dtype.kind != 'f':
        if not float(nodata).is_integer():
            return np.zeros(values.shape, dtype=bool)
        return np.asarray(values == nodata)
    with np.errstate(over='ignore'):
        rounded = float(values.dtype.type(nodata))
    if not math.isfinite(rounded):  # just beyond the type's largest value
        rounded = math.copysign(float(np.finfo(values.dtype).max), nodata)
    size = abs(rounded)
    tolerance = 4 * float(np.finfo(values.dtype).eps) * size
    if size > 1e30 or 0 < size < 1e-30:
        tolerance = 1e-5 * size
    if not tolerance:
        return np.asarray(values == rounded)
    with np.errstate(over='ignore'):
        low, high = rounded - tolerance, rounded + tolerance
        return np.asarray((values >= low) & (values <= high))


def jsonable_nodata(nodata: float | None) -> float | str | None:
    """Return a nodata value as JSON can hold it: as text if it is not finite."""
    if nodata is None or math.isfinite(nodata):
        return nodata
    return str(nodata)


def valid_pixels(
    scene: 'HyperspectralScene',
    nodata: float | None,
    nodata_in: NodataIn,
    valid: NDArray[np.bool_] | None,
    fill: float | None = None,
) -> NDArray[np.bool_]:
    """Find the pixels that have data.

    Args:
        scene: The scene.
        nodata: Value of missing data, or None.
        nodata_in: Whether it must stand in any or all used bands.
        valid: Further mask, False where there is no data.
        fill: A second value of missing data.

    Returns:
        bool (rows, cols).

    Raises:
        ValueError: If *nodata_in* is not known, no pixel is left, or values are NaN,
            infinite or beyond single precision and not declared nodata.
    """
    known_word('nodata_in', nodata_in, get_args(NodataIn))
    rows, cols, bands = scene.shape
    mask = np.ones((rows, cols), dtype=bool)
    if valid is not None:
        if valid.shape != (rows, cols):
            raise ValueError(
                f'{scene.name}: the valid mask has shape {valid.shape}, the cube has '
                f'{(rows, cols)} pixels'
            )
        mask &= valid
    if scene.dtype.kind != 'f' and nodata is None:
        return mask
    bad_values = np.zeros(bands, dtype=np.int64)
    missing = np.zeros(bands, dtype=np.int64)
    empty, partly, largest = 0, 0, 0.0
    for start, stop in scene.iter_blocks():
        block = scene.read_rows(start, stop)
        inside = mask[start:stop]
        if nodata is not None:
            absent = is_nodata(block, nodata)
            if fill is not None:
                absent |= is_nodata(block, fill)
            missing += absent[inside].sum(axis=0)
            nowhere = absent.all(axis=2)
            somewhere = absent.any(axis=2)
            empty += int((nowhere & inside).sum())
            partly += int((somewhere & ~nowhere & inside).sum())
            inside &= ~(nowhere if nodata_in == 'all' else somewhere)
        if scene.dtype.kind == 'f':
            used = block[inside]
            finite = np.isfinite(used)
            bad_values += (~finite).sum(axis=0)
            if scene.dtype.itemsize > 4 and used.size:
                size = np.abs(used, where=finite, out=np.zeros_like(used))
                largest = max(largest, float(size.max()))
    _check_values(scene, bad_values, largest)
    if not mask.any():
        always = scene.band_indices[missing == missing.max()].tolist()
        raise ValueError(
            f'{scene.name}: no pixel has data in every band; nodata={nodata} is most '
            f'frequent in bands (zero-based) [{listed(always)}]: remove them with '
            'bands=BandSelection(exclude=...) if they are empty'
        )
    if partly and nodata_in == 'any':
        logger.warning(
            '%s: %d of %d pixels have no data (nodata=%g) in some band and are masked, '
            "%d more in every band; nodata_in='all' masks only these",
            scene.name,
            partly,
            mask.size,
            nodata,
            empty,
        )
    return mask


def _check_values(
    scene: 'HyperspectralScene', bad_values: NDArray[np.int64], largest: float
) -> None:
    """Refuse values that are no numbers, by band, or too large for single precision."""
    if bad_values.any():
        numbers = scene.band_indices[bad_values > 0].tolist()
        raise ValueError(
            f'{scene.name}: {int(bad_values.sum())} values are NaN or infinite, in '
            f'{len(numbers)} of {len(bad_values)} bands (zero-based: '
            f'[{listed(numbers)}]); remove these bands (bands=BandSelection(exclude=...)) or declare them '
            'missing (nodata=nan)'
        )
    single = np.finfo(np.float32)
    if largest > float(single.max) or 0 < largest < float(single.tiny):
        raise ValueError(
            f'{scene.name}: found values up to {largest:g}, expected values that single '
            f'precision holds ({single.tiny:g} to {single.max:g}); scale them, or '
            'declare a fill value (nodata=)'
        )


def warn_of_fill(scene: 'HyperspectralScene') -> None:
    """Warn of a value that looks like a fill value nobody declared.

    Args:
        scene: The scene; evenly spaced rows of a large one are searched.
    """
    rows, cols, bands = scene.shape
    pixels = max(1, _SAMPLE_VALUES // (1 if scene.in_memory else 16) // bands)
    if rows * cols <= pixels:
        row_step = col_step = 1
    else:
        row_step = max(1, rows // max(_SAMPLE_ROWS, pixels // cols))
        col_step = max(1, -(-cols * (-(-rows // row_step)) // pixels))
    parts = []
    for row in range(0, rows, row_step):
        part = scene.read_rows(row, row + 1)[0, ::col_step]
        parts.append(part[scene.valid[row, ::col_step]])
    spectra = np.concatenate(parts)
    if len(spectra) < 2:
        return
    flat = (spectra == spectra[:1]).all(axis=0)
    if flat.any() and not flat.all():
        numbers = scene.band_indices[flat].tolist()
        logger.warning(
            '%s: bands [%s] (zero-based) have one value in every pixel, such as %g: a '
            'fill value, or bands without data; remove them with '
            'bands=BandSelection(exclude=[%s])',
            scene.name,
            listed(numbers),
            spectra[0, flat][0],
            listed(numbers),
        )
        spectra = spectra[:, ~flat]
    message = _fill_of(spectra)
    if message is not None:
        logger.warning('%s: %s', scene.name, message)


def _fill_of(spectra: NDArray[Any]) -> str | None:
    """Say which value looks like fill in spectra (pixels, bands), None for none."""
    low, high = spectra.min(), spectra.max()
    for value in (low, high):
        hits = spectra == value
        pixels = hits.any(axis=1)
        share = float(pixels.mean())
        rest = spectra[~hits]
        if share < _FILL_SHARE or not rest.size:
            continue
        whole = float(hits.all(axis=1).mean()) if spectra.shape[1] > 2 else 0.0
        if whole >= 2 * _FILL_SHARE:
            where = f'{100 * whole:.3g} % of the pixels have the value {value:g} in '
            where += 'every band'
        elif float(value) in _USUAL or abs(float(value)) >= 1e20 or _apart(value, rest):
            where = f'{100 * share:.3g} % of the pixels have the value {value:g} in '
            where += 'some band, far from all others'
        else:
            continue
        return (
            f'{where}; it looks like a fill value that nobody declared: leave these '
            f'pixels out with nodata={value:g}'
        )
    return None


def _apart(value: Any, rest: NDArray[Any]) -> bool:
    """Tell whether a value is far from all others."""
    low, high = float(rest.min()), float(rest.max())
    gap = max(low - float(value), float(value) - high)
    return gap > max(high - low, 1e-12)
