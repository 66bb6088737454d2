# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The hyperspectral scene: cube, label map and what is known about them."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .palette import class_palette

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

#: Wavelengths in nm that stand for red, green and blue.
RGB_WAVELENGTHS = (640.0, 550.0, 460.0)

#: Value of pixels that a label file says nothing about; no file holds it as a label.
NO_LABEL = int(np.iinfo(np.int64).min)

#: Upper bound on the values held at once while a lazy cube is scanned.
_BLOCK_VALUES = 1 << 22

#: Up to so many values a digest reads the whole cube, otherwise rows of it.
_DIGEST_VALUES = 1 << 28


class CubeSource(Protocol):
    """What a scene needs from the storage of its cube.

    A source in files names them in ``files``, paths, so that a change is noticed.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bands."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        bands: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Read one window.

        Args:
            row_start: First row.
            row_stop: Row after the last one.
            col_start: First column.
            col_stop: Column after the last one.
            bands: Zero-based bands in the wanted order, None for all of them.

        Returns:
            Values of shape (rows, cols, bands) in their stored type.
        """


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
            raise ValueError(
                f'bands: {self} keeps none of the {num_bands} bands ({known})'
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


def _checked_bands(
    argument: str, bands: Sequence[int], num_bands: int
) -> NDArray[np.int64]:
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
    if wavelengths is None:
        raise ValueError(
            f'bands: {argument} needs wavelengths, but this scene has none; select '
            'bands by index or give the wavelengths'
        )
    inside = np.zeros(len(wavelengths), dtype=bool)
    for pair in ranges:
        if len(pair) != 2 or not float(pair[0]) <= float(pair[1]):
            raise ValueError(
                f'bands: {argument} expects pairs (low, high) in nm, got {pair!r}'
            )
        inside |= (wavelengths >= pair[0]) & (wavelengths <= pair[1])
    return inside


class ArraySource:
    """A cube that lies in memory or in a memory map.

    Args:
        array: Values of shape (rows, cols, bands).
    """

    def __init__(self, array: NDArray[Any]) -> None:
        """Initialize a new ArraySource instance.

        Args:
            array: Values of shape (rows, cols, bands).
        """
        self.array = array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bands."""
        rows, cols, bands = self.array.shape
        return rows, cols, bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.array.dtype

    @property
    def files(self) -> tuple[Path, ...]:
        """The file behind a memory map."""
        name = getattr(self.array, 'filename', None)
        return () if name is None else (Path(name),)

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        bands: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Read one window.

        Args:
            row_start: First row.
            row_stop: Row after the last one.
            col_start: First column.
            col_stop: Column after the last one.
            bands: Zero-based bands in the wanted order, None for all of them.

        Returns:
            Values of shape (rows, cols, bands) in their stored type.
        """
        window: NDArray[Any] = self.array[row_start:row_stop, col_start:col_stop]
        return window if bands is None else window[:, :, bands]


class HyperspectralScene:
    """One hyperspectral image with its reference labels.

    Scenes are plain data: no transforms, no patches, no splits. Values are given as
    they are stored; normalisation is the datamodule's work.

    Attributes:
        name: Name of the scene.
        label_map: Integers (rows, cols), signed and as small as they can be; 0 is
            unlabelled or nodata, classes are 1..C.
        class_names: C names.
        class_values: C values that the classes have in the label file.
        palette: uint8 (C, 3) colours.
        wavelengths: float64 (bands,) band centres in nm, or None.
        valid: bool (rows, cols); False where the cube has no data.
        crs: Coordinate reference system (rasterio), or None.
        transform: Affine transform from pixel to CRS coordinates, or None.
        synthetic: True if the scene was made by a program.
        source: A sentence on where the values come from.
        band_indices: int64 (bands,) zero-based band numbers in the file.
    """

    def __init__(
        self,
        cube: NDArray[Any] | CubeSource,
        labels: NDArray[Any] | None,
        *,
        name: str = 'scene',
        class_names: Mapping[int, str] | Sequence[str] | None = None,
        unlabelled: Sequence[int] = (0,),
        palette: NDArray[np.uint8] | None = None,
        wavelengths: Sequence[float] | NDArray[Any] | None = None,
        bands: Bands = None,
        bad_bands: NDArray[np.bool_] | None = None,
        nodata: float | None = None,
        valid: NDArray[np.bool_] | None = None,
        crs: 'CRS | None' = None,
        transform: 'Affine | None' = None,
        rgb_bands: tuple[int, int, int] | None = None,
        synthetic: bool = False,
        source: str = '',
    ) -> None:
        """Initialize a new HyperspectralScene instance.

        Args:
            cube: Array (rows, cols, bands) in memory, or a source that is read by
                window.
            labels: Integers (rows, cols) as the label file has them, None for a scene
                without labels (it can be mapped, not trained on).
            name: Name of the scene.
            class_names: Names by label value (these values are then the classes, also
                those without pixels), or in ascending order of the values found, or
                None for ``class <value>``.
            unlabelled: Label values that mean "no label"; ``NO_LABEL`` always does.
            palette: Colours (classes, 3), a built-in palette if None.
            wavelengths: Centre of each band of ``cube`` in nm.
            bands: The bands to use, see :class:`BandSelection`.
            bad_bands: True for bands of ``cube`` that the file marks as bad.
            nodata: Value that marks missing data. A pixel with this value in any used
                band is invalid. NaN masks every pixel that is not finite.
            valid: Further mask (rows, cols), False where there is no data.
            crs: Coordinate reference system.
            transform: Affine transform of the pixel grid.
            rgb_bands: Used bands shown as red, green and blue, counted in the file;
                chosen by wavelength if None or not among the used bands.
            synthetic: True if a program made the scene.
            source: A sentence on where the values come from.

        Raises:
            ValueError: If sizes do not fit, labels are not whole numbers, names do not
                fit the labels, or values are NaN or infinite and not declared nodata.
        """
        self.name = name
        self.synthetic = synthetic
        self.source = source
        self.crs = crs
        self.transform = transform
        self.nodata = nodata
        in_memory = isinstance(cube, np.ndarray) and not isinstance(cube, np.memmap)
        shape = tuple(cube.shape)
        if len(shape) != 3 or 0 in shape:
            raise ValueError(
                f'{name}: the cube must have three axes (rows, columns, bands) and no '
                f'empty one, got shape {shape}'
            )
        if np.dtype(cube.dtype).kind not in 'iuf':
            raise ValueError(
                f'{name}: the cube has type {cube.dtype}, expected integers or floats'
            )
        rows, cols, total = shape
        centres = _checked_wavelengths(name, wavelengths, total)
        self.band_indices = resolve_bands(bands, total, centres, bad_bands)
        subset = not np.array_equal(self.band_indices, np.arange(total))
        self.wavelengths = None if centres is None else centres[self.band_indices]
        self._cube: NDArray[Any] | None = None
        self._digest: str | None = None
        self._bands: NDArray[np.int64] | None = None
        if in_memory:
            assert isinstance(cube, np.ndarray)
            array = cube[:, :, self.band_indices] if subset else cube
            self._cube = np.ascontiguousarray(array)
            self._source: CubeSource = ArraySource(self._cube)
        else:
            self._source = ArraySource(cube) if isinstance(cube, np.ndarray) else cube
            self._bands = self.band_indices if subset else None
        self.shape = (rows, cols, len(self.band_indices))
        self.valid = self._find_valid(valid)
        self._set_labels(labels, class_names, unlabelled)
        self.palette = _checked_palette(name, palette, self.num_classes)
        self.rgb_bands = self._choose_rgb(rgb_bands)

    @property
    def num_bands(self) -> int:
        """Number of used bands."""
        return self.shape[2]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which the cube is stored."""
        return np.dtype(self._source.dtype)

    @property
    def in_memory(self) -> bool:
        """True if the whole cube lies in memory."""
        return self._cube is not None

    @property
    def cube(self) -> NDArray[Any]:
        """The whole cube (rows, cols, bands) in its stored type.

        Raises:
            ValueError: If the scene is read lazily.
        """
        if self._cube is None:
            raise ValueError(
                f'{self.name} is read lazily and has no cube in memory; use '
                'read(row_start, row_stop, col_start, col_stop)'
            )
        return self._cube

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Labelled pixels of each class."""
        counts = np.zeros(self.num_classes + 1, dtype=np.int64)
        for start, stop in self.iter_blocks():
            block = self.label_map[start:stop].ravel()
            counts += np.bincount(block, minlength=len(counts))
        return tuple(counts[1:].tolist())

    def read(
        self, row_start: int, row_stop: int, col_start: int, col_stop: int
    ) -> NDArray[np.float32]:
        """Read a window that lies inside the scene.

        Args:
            row_start: First row.
            row_stop: Row after the last one.
            col_start: First column.
            col_stop: Column after the last one.

        Returns:
            Values as stored, float32 (rows, cols, bands); nodata pixels keep the value
            of the file.

        Raises:
            ValueError: If the window is not inside the scene.
        """
        rows, cols, _ = self.shape
        if not (0 <= row_start <= row_stop <= rows) or not (
            0 <= col_start <= col_stop <= cols
        ):
            raise ValueError(
                f'{self.name}: window rows {row_start}:{row_stop}, columns '
                f'{col_start}:{col_stop} is not inside {rows} x {cols} pixels'
            )
        window = self._source.read(
            row_start, row_stop, col_start, col_stop, self._bands
        )
        return np.ascontiguousarray(window, dtype=np.float32)

    def read_bands(self, bands: Sequence[int], step: int = 1) -> NDArray[np.float32]:
        """Read a few bands of the whole scene, thinned out if asked for.

        Args:
            bands: Numbers of used bands.
            step: Keep every ``step``-th row and column.

        Returns:
            Values as stored, float32 (rows, cols, len(bands)).
        """
        rows, cols, _ = self.shape
        wanted = np.asarray(bands, dtype=np.int64)
        if self._bands is not None:
            wanted = self._bands[wanted]
        parts = []
        block = max(1, 64 // step) * step
        for start in range(0, rows, block):
            window = self._source.read(start, min(rows, start + block), 0, cols, wanted)
            parts.append(window[::step, ::step].astype(np.float32))
        return np.concatenate(parts)

    def iter_blocks(self) -> Iterator[tuple[int, int]]:
        """Yield row ranges that cover the scene and are small enough to hold.

        Yields:
            First row and the row after the last one.
        """
        rows, cols, bands = self.shape
        step = max(1, _BLOCK_VALUES // (cols * bands))
        for start in range(0, rows, step):
            yield start, min(rows, start + step)

    def digest(self) -> str:
        """Identify the values of the cube; a very large one by rows of it.

        Returns:
            SHA-256 of the values as float32, 64 hexadecimal digits; the same for a
            scene in memory and one that is read lazily. Of more than 2**28 values,
            evenly spaced rows count.
        """
        if self._digest is None:
            rows, cols, bands = self.shape
            digest = hashlib.sha256(np.asarray(self.shape, dtype='<i8').tobytes())
            step = -(-rows * cols * bands // _DIGEST_VALUES)
            blocks = (
                self.iter_blocks()
                if step == 1
                else ((row, row + 1) for row in range(0, rows, step))
            )
            for start, stop in blocks:
                block = self.read(start, stop, 0, cols).astype('<f4', copy=False)
                digest.update(np.ascontiguousarray(block).data)
            self._digest = digest.hexdigest()
        return self._digest

    def facts(self) -> dict[str, Any]:
        """Describe the scene in values that JSON can hold.

        Returns:
            Name, shape, wavelengths, classes, palette, georeference, origin and the
            digest of the cube.
        """
        return {
            'name': self.name,
            'shape': list(self.shape),
            'wavelengths': (
                None if self.wavelengths is None else self.wavelengths.tolist()
            ),
            'band_indices': self.band_indices.tolist(),
            'rgb_bands': list(self.rgb_bands),
            'class_names': list(self.class_names),
            'class_values': list(self.class_values),
            'palette': self.palette.tolist(),
            'crs': None if self.crs is None else self.crs.to_wkt(),
            'transform': (
                None if self.transform is None else list(tuple(self.transform)[:6])
            ),
            'nodata': jsonable_nodata(self.nodata),
            'dtype': str(self.dtype),
            'synthetic': self.synthetic,
            'source': self.source,
            'cube': self.digest(),
        }

    def file_stamps(self) -> list[list[int]]:
        """Tell when the files that a lazy cube is read from were written.

        Returns:
            Size in bytes and time in ns of each file; nothing for a cube in memory.
        """
        files: tuple[Path, ...] = getattr(self._source, 'files', ())
        stats = [path.stat() for path in files]
        return [[stat.st_size, stat.st_mtime_ns] for stat in stats]

    def __repr__(self) -> str:
        """Return name, size and classes."""
        rows, cols, bands = self.shape
        kind = 'synthetic, ' if self.synthetic else ''
        return (
            f'{type(self).__name__}({self.name!r}, {kind}{rows} x {cols} pixels, '
            f'{bands} bands, {self.num_classes} classes)'
        )

    def _find_valid(self, valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        rows, cols, bands = self.shape
        mask = np.ones((rows, cols), dtype=bool)
        if valid is not None:
            if valid.shape != (rows, cols):
                raise ValueError(
                    f'{self.name}: the valid mask has shape {valid.shape}, the cube has '
                    f'{(rows, cols)} pixels'
                )
            mask &= valid
        if self.dtype.kind != 'f' and self.nodata is None:
            return mask
        bad_values = np.zeros(bands, dtype=np.int64)
        missing = np.zeros(bands, dtype=np.int64)
        for start, stop in self.iter_blocks():
            block = self._source.read(start, stop, 0, cols, self._bands)
            inside = mask[start:stop]
            if self.nodata is not None:
                absent = _is_nodata(block, self.nodata)
                missing += absent[inside].sum(axis=0)
                inside &= ~absent.any(axis=2)
            if self.dtype.kind == 'f':
                bad_values += (~np.isfinite(block[inside])).sum(axis=0)
        if bad_values.any():
            numbers = self.band_indices[bad_values > 0].tolist()
            raise ValueError(
                f'{self.name}: {int(bad_values.sum())} values are NaN or infinite, in '
                f'{len(numbers)} of {bands} bands (zero-based: {_short(numbers)}); '
                'remove these bands (bands=BandSelection(exclude=...)) or declare them '
                'missing (nodata=nan)'
            )
        if not mask.any():
            always = self.band_indices[missing == missing.max()].tolist()
            raise ValueError(
                f'{self.name}: no pixel has data in every band; nodata={self.nodata} is '
                f'most frequent in bands (zero-based) {_short(always)}: remove them '
                'with bands=BandSelection(exclude=...) if they are empty'
            )
        return mask

    def _set_labels(
        self,
        labels: NDArray[Any] | None,
        class_names: Mapping[int, str] | Sequence[str] | None,
        unlabelled: Sequence[int],
    ) -> None:
        rows, cols, _ = self.shape
        values = np.empty(0, dtype=np.int64)
        if labels is not None:
            if labels.shape != (rows, cols):
                raise ValueError(
                    f'{self.name}: cube and labels differ in size: the cube has '
                    f'{rows} x {cols} pixels, the label map has shape {labels.shape}'
                )
            if labels.dtype.kind not in 'iub':
                labels = whole_numbers(self.name, labels)
            # By block: sorting a copy of a large map would take many times its size.
            parts = [
                np.unique(labels[start:stop]) for start, stop in self.iter_blocks()
            ]
            values = np.unique(np.concatenate(parts)).astype(np.int64)
            values = values[~np.isin(values, [NO_LABEL, *unlabelled])]
        if isinstance(class_names, Mapping):
            named = {int(value): str(text) for value, text in class_names.items()}
            unknown = sorted(set(values.tolist()) - set(named))
            if unknown:
                raise ValueError(
                    f'{self.name}: the label map has values {_short(unknown)} that are '
                    f'neither classes ({_short(sorted(named))}) nor unlabelled '
                    f'({list(unlabelled)})'
                )
            classes = sorted(named)
            names = [named[value] for value in classes]
        else:
            classes = values.tolist()
            if class_names is None:
                names = [f'class {value}' for value in classes]
            else:
                names = [str(text) for text in class_names]
            if len(names) != len(classes):
                raise ValueError(
                    f'{self.name}: {len(names)} class names for {len(classes)} label '
                    f'values ({_short(classes)})'
                )
        if classes and classes[0] < 0:
            raise ValueError(
                f'{self.name}: negative label value {classes[0]}; list values that '
                'mean "no label" under unlabelled'
            )
        self.class_values = tuple(classes)
        self.class_names = tuple(names)
        self.num_masked_labels = 0
        self.label_map: NDArray[np.signedinteger[Any]]
        kind = np.min_scalar_type(-1 - len(classes))
        if labels is None or not classes:
            self.label_map = np.broadcast_to(kind.type(0), (rows, cols))
            return
        self.label_map = np.zeros((rows, cols), dtype=kind)
        for start, stop in self.iter_blocks():
            block, valid = labels[start:stop], self.valid[start:stop]
            position = np.searchsorted(classes, block).clip(max=len(classes) - 1)
            hit = np.asarray(classes)[position] == block
            self.num_masked_labels += int((hit & ~valid).sum())
            hit &= valid
            self.label_map[start:stop][hit] = position[hit] + 1

    def _choose_rgb(self, wanted: tuple[int, int, int] | None) -> tuple[int, int, int]:
        positions = {int(band): i for i, band in enumerate(self.band_indices)}
        if wanted is not None and all(band in positions for band in wanted):
            red, green, blue = (positions[band] for band in wanted)
            return red, green, blue
        if self.wavelengths is not None:
            low, high = float(self.wavelengths.min()), float(self.wavelengths.max())
            if low <= RGB_WAVELENGTHS[2] + 40 and high >= RGB_WAVELENGTHS[0] - 40:
                red, green, blue = (
                    int(np.abs(self.wavelengths - target).argmin())
                    for target in RGB_WAVELENGTHS
                )
                return red, green, blue
        last = self.num_bands - 1
        return round(last * 0.75), round(last * 0.5), round(last * 0.25)


def _is_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    if not math.isfinite(nodata):
        return np.asarray(~np.isfinite(values))
    if values.dtype.kind != 'f' and not float(nodata).is_integer():
        return np.zeros(values.shape, dtype=bool)
    if values.dtype.kind == 'f':
        nodata = float(values.dtype.type(nodata))
    return np.asarray(values == nodata)


def whole_numbers(name: str, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return labels as int64 without changing any value.

    Floating-point files are accepted when every value is a whole number, because
    MATLAB and many GIS programs store class numbers as doubles.

    Args:
        name: Name of the scene or file for the error.
        labels: Label values.

    Returns:
        The same values as int64.

    Raises:
        ValueError: If a value is not a whole number.
    """
    if labels.dtype.kind in 'iub':
        return labels.astype(np.int64)
    if labels.dtype.kind != 'f':
        raise ValueError(
            f'{name}: labels have type {labels.dtype}, expected whole numbers'
        )
    finite = np.isfinite(labels)
    wrong = ~finite | (np.where(finite, labels, 0) % 1 != 0)
    if wrong.any():
        examples = ', '.join(f'{value:g}' for value in np.unique(labels[wrong])[:5])
        raise ValueError(
            f'{name}: labels have type {labels.dtype} and {int(wrong.sum())} values are '
            f'not whole numbers ({examples}); expected class numbers'
        )
    return labels.astype(np.int64)


def _checked_wavelengths(
    name: str, wavelengths: Sequence[float] | NDArray[Any] | None, num_bands: int
) -> NDArray[np.float64] | None:
    if wavelengths is None:
        return None
    centres = np.asarray(wavelengths, dtype=np.float64)
    if centres.shape != (num_bands,):
        raise ValueError(
            f'{name}: {centres.size} wavelengths for {num_bands} bands; give one centre '
            'in nm for each band'
        )
    if not np.isfinite(centres).all() or (centres <= 0).any():
        raise ValueError(f'{name}: wavelengths must be positive and finite (nm)')
    if centres.max() > 100_000:
        raise ValueError(
            f'{name}: wavelengths run from {centres.min():g} to {centres.max():g} nm; '
            'the unit is probably wrong (nm taken for micrometres)'
        )
    if centres.max() < 100:
        raise ValueError(
            f'{name}: wavelengths run from {centres.min():g} to {centres.max():g}, '
            'which looks like micrometres; expected nm (multiply by 1000 or give the '
            'unit)'
        )
    return centres


def _checked_palette(
    name: str, palette: NDArray[np.uint8] | None, num_classes: int
) -> NDArray[np.uint8]:
    if palette is None:
        return class_palette(num_classes)
    if palette.shape != (num_classes, 3):
        raise ValueError(
            f'{name}: the palette has shape {palette.shape}, expected '
            f'{(num_classes, 3)}'
        )
    return palette.astype(np.uint8)


def jsonable_nodata(nodata: float | None) -> float | str | None:
    """Write a nodata value as JSON can hold it.

    Args:
        nodata: The value, None if there is none.

    Returns:
        The value, as text if it is not finite.
    """
    if nodata is None or math.isfinite(nodata):
        return nodata
    return str(nodata)


def _short(values: Sequence[int]) -> str:
    if len(values) <= 12:
        return str(list(values))
    head = ', '.join(map(str, values[:10]))
    return f'[{head}, ... {values[-1]}]'
