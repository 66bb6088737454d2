# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The hyperspectral scene: cube, label map and what is known about them."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _html
from .._options import plain_array, typed_array
from .bands import Bands, nearest_bands, resolve_bands
from .labels import NO_LABEL, ClassNames, numbered_classes
from .nodata import NodataIn, jsonable_nodata, valid_pixels, warn_of_fill
from .palette import class_palette
from .sources.base import ArraySource, CubeSource
from .units import checked_nanometres

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

logger = logging.getLogger(__name__)

__all__ = ('NO_LABEL', 'RGB_WAVELENGTHS', 'HyperspectralScene')

#: Wavelengths in nm that stand for red, green and blue.
RGB_WAVELENGTHS = (640.0, 550.0, 460.0)

#: Upper bound on the values held at once while a lazy cube is scanned.
_BLOCK_VALUES = 1 << 22

#: Up to so many values a digest reads the whole cube, otherwise rows of it.
_DIGEST_VALUES = 1 << 28


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
        masked_labels: C counts of labelled pixels that have no data.
        palette: uint8 (C, 3) colours.
        wavelengths: float64 (bands,) band centres in nm, or None.
        valid: bool (rows, cols); False where the cube has no data.
        crs: Coordinate reference system (rasterio), or None.
        transform: Affine transform from pixel to CRS coordinates, or None.
        synthetic: True if the scene was made by a program.
        source: A sentence on where the values come from.
        scaling: Factor and offset of the stored values of each band, where the file
            declares them; nothing else.
        band_indices: int64 (bands,) zero-based band numbers in the file.
    """

    def __init__(
        self,
        cube: NDArray[Any] | CubeSource,
        labels: NDArray[Any] | None,
        *,
        name: str = 'scene',
        class_names: ClassNames = None,
        unlabelled: Sequence[int] = (0,),
        palette: NDArray[np.uint8] | None = None,
        colours: Mapping[int, tuple[int, int, int]] | None = None,
        wavelengths: Sequence[float] | NDArray[Any] | None = None,
        bands: Bands = None,
        bad_bands: NDArray[np.bool_] | None = None,
        nodata: float | None = None,
        nodata_in: NodataIn = 'any',
        fill: float | None = None,
        valid: NDArray[np.bool_] | None = None,
        crs: 'CRS | None' = None,
        transform: 'Affine | None' = None,
        rgb_bands: tuple[int, int, int] | None = None,
        synthetic: bool = False,
        source: str = '',
        scaling: Sequence[tuple[float, float]] = (),
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
            colours: Colours by label value, taken if they tell all classes apart.
            wavelengths: Centre of each band of ``cube`` in nm.
            bands: The bands to use, see :class:`BandSelection`.
            bad_bands: True for bands of ``cube`` that the file marks as bad.
            nodata: Value that marks missing data. NaN stands for every value that is
                not finite.
            nodata_in: Whether a pixel with this value in ``'any'`` used band is
                invalid, or one with it in ``'all'`` of them.
            fill: A second value that marks missing data.
            valid: Further mask (rows, cols), False where there is no data.
            crs: Coordinate reference system.
            transform: Affine transform of the pixel grid.
            rgb_bands: Used bands shown as red, green and blue, counted in the file;
                chosen by wavelength if None or not among the used bands.
            synthetic: True if a program made the scene.
            source: A sentence on where the values come from.
            scaling: Factor and offset of the values of each band of ``cube``, as its
                file declares them; values are read as they are stored.

        Raises:
            TypeError: If cube or labels are no arrays, or have a mask.
            ValueError: If sizes do not fit, labels are not whole numbers, names do not
                fit the labels, or values are NaN or infinite and not declared nodata.
        """
        self.name = name
        self.synthetic = synthetic
        self.source = source
        self.crs = crs
        self.transform = transform
        self.nodata = nodata
        instead = 'cube.data with valid=~cube.mask.any(axis=2), or with nodata'
        plain_array(f'{name}: cube', cube, instead)
        typed_array(f'{name}: cube', cube)
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
        centres = checked_nanometres(name, wavelengths, total, bad_bands)
        try:
            self.band_indices = resolve_bands(bands, total, centres, bad_bands)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        self.scaling = (
            tuple(scaling[band] for band in self.band_indices) if scaling else ()
        )
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
        self.valid = valid_pixels(self, nodata, nodata_in, valid, fill)
        classes = numbered_classes(
            name, labels, self.valid, class_names, unlabelled, self.iter_blocks
        )
        self.class_values, self.class_names = classes.values, classes.names
        self.label_map = classes.label_map
        self.masked_labels = classes.masked
        self.palette = _palette(name, palette, colours, self.class_values)
        self._name_lost_classes()
        if not synthetic:
            warn_of_fill(self)
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
    def precise(self) -> bool:
        """True if the stored type has digits that single precision does not hold."""
        return self.dtype.itemsize > 2 and self.dtype != np.float32

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
    def num_masked_labels(self) -> int:
        """Labelled pixels without data."""
        return sum(self.masked_labels)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Labelled pixels of each class."""
        counts = np.zeros(self.num_classes + 1, dtype=np.int64)
        for start, stop in self.iter_blocks():
            block = self.label_map[start:stop].ravel()
            counts += np.bincount(block, minlength=len(counts))
        return tuple(counts[1:].tolist())

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        double: bool = False,
    ) -> NDArray[Any]:
        """Read a window that lies inside the scene.

        Args:
            row_start: First row.
            row_stop: Row after the last one.
            col_start: First column.
            col_stop: Column after the last one.
            double: Give double precision, for values with more digits than single
                precision holds.

        Returns:
            Values as stored, float32 or float64 (rows, cols, bands); nodata pixels keep
            the value of the file.

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
            slice(row_start, row_stop), slice(col_start, col_stop), self._bands
        )
        return np.ascontiguousarray(window, np.float64 if double else np.float32)

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows in their stored type.

        Args:
            start: First row.
            stop: Row after the last one.

        Returns:
            Values (rows, cols, bands), which may be the cube's own memory.
        """
        return self._source.read(
            slice(start, stop), slice(0, self.shape[1]), self._bands
        )

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
            part = slice(start, min(rows, start + block))
            window = self._source.read(part, slice(0, cols), wanted)
            parts.append(window[::step, ::step].astype(np.float32))
        return np.concatenate(parts)

    def iter_blocks(self, most: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield row ranges that cover the scene and are small enough to hold.

        Args:
            most: Of a scene of more values, evenly spaced rows with at most so many.

        Yields:
            First row and the row after the last one.
        """
        rows, cols, bands = self.shape
        step = size = max(1, _BLOCK_VALUES // (cols * bands))
        if most is not None and rows * cols * bands > most:
            step, size = -(-rows * cols * bands // most), 1
        for start in range(0, rows, step):
            yield start, min(rows, start + size)

    def digest(self) -> str:
        """Identify the values of the cube; a very large one by rows of it.

        Returns:
            SHA-256 of the values as float32, 64 hexadecimal digits; the same for a
            scene in memory and one that is read lazily. Of more than 2**28 values,
            evenly spaced rows count.
        """
        if self._digest is None:
            digest = hashlib.sha256(np.asarray(self.shape, dtype='<i8').tobytes())
            for start, stop in self.iter_blocks(_DIGEST_VALUES):
                block = self.read(start, stop, 0, self.shape[1]).astype(
                    '<f4', copy=False
                )
                digest.update(np.ascontiguousarray(block).data)
            self._digest = digest.hexdigest()
        return self._digest

    def metadata(self) -> dict[str, Any]:
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
            'scaling': [list(pair) for pair in self.scaling],
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

    def html(
        self,
        title: str = '',
        facts: Mapping[str, object] | None = None,
        counts: Mapping[str, Sequence[int]] | None = None,
    ) -> str:
        """Describe the scene for a notebook.

        Args:
            title: Heading, the scene's name by default.
            facts: What else is worth knowing, by name.
            counts: Further columns of pixels a class, by name.

        Returns:
            Facts and a table of the classes as HTML.
        """
        rows, cols, bands = self.shape
        centres = self.wavelengths
        columns = {'labelled': self.class_counts, **(counts or {})}
        return _html.summary(
            title or self.name,
            {
                'scene': self.name + (' (SYNTHETIC)' if self.synthetic else ''),
                'pixels': f'{rows:,} x {cols:,}',
                'bands': bands,
                'wavelengths': (
                    None
                    if centres is None
                    else f'{centres.min():.0f} to {centres.max():.0f} nm'
                ),
                **(facts or {}),
            },
            _html.table(
                ('class', 'value', *columns),
                [
                    (
                        name,
                        value,
                        *(f'{column[index]:,}' for column in columns.values()),
                    )
                    for index, (name, value) in enumerate(
                        zip(self.class_names, self.class_values, strict=True)
                    )
                ],
                self.palette.tolist(),
            ),
        )

    def _repr_html_(self) -> str:
        """Show the scene in a notebook."""
        return self.html()

    def _name_lost_classes(self) -> None:
        """Warn of classes whose labelled pixels have no data."""
        counts = self.class_counts
        for name, value, lost, left in zip(
            self.class_names, self.class_values, self.masked_labels, counts, strict=True
        ):
            if lost and not left:
                logger.warning(
                    '%s: all %d labelled pixels of class %s (label %d) have no data '
                    "(nodata=%s) in some band; nodata_in='all' masks only pixels "
                    'without data in every band',
                    self.name,
                    lost,
                    name,
                    value,
                    self.nodata,
                )

    def _choose_rgb(self, wanted: tuple[int, int, int] | None) -> tuple[int, int, int]:
        """Choose the used bands that are shown as red, green and blue."""
        positions = {int(band): i for i, band in enumerate(self.band_indices)}
        if wanted is not None and all(band in positions for band in wanted):
            red, green, blue = (positions[band] for band in wanted)
            return red, green, blue
        if self.wavelengths is not None:
            low, high = float(self.wavelengths.min()), float(self.wavelengths.max())
            if low <= RGB_WAVELENGTHS[2] + 40 and high >= RGB_WAVELENGTHS[0] - 40:
                return nearest_bands(self.wavelengths, RGB_WAVELENGTHS)
        last = self.num_bands - 1
        return round(last * 0.75), round(last * 0.5), round(last * 0.25)


def _palette(
    name: str,
    palette: NDArray[np.uint8] | None,
    colours: Mapping[int, tuple[int, int, int]] | None,
    values: Sequence[int],
) -> NDArray[np.uint8]:
    """Return the colours given, those of the label file, or the built-in ones."""
    if palette is not None:
        if palette.shape != (len(values), 3):
            raise ValueError(
                f'{name}: the palette has shape {palette.shape}, expected '
                f'{(len(values), 3)}'
            )
        return palette.astype(np.uint8)
    found = [(colours or {}).get(value, (0, 0, 0)) for value in values]
    # Black is left to unlabelled pixels, and classes must be told apart.
    if values and (0, 0, 0) not in found and len(set(found)) == len(found):
        return np.array(found, dtype=np.uint8)
    return class_palette(len(values))
