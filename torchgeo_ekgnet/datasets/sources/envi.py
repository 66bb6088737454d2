# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""ENVI files: a text header, and a raw binary or a file of another format beside it."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._reading import FileError, reading, require_file
from ..labels import LabelLegend
from ..raster import Grid
from ..units import named_centres, nanometres, told_nanometres
from . import hdf5, raster
from .base import Chosen, CubeSource, Request, Source
from .byte_order import doubt_byte_order
from .envi_files import FOREIGN, find
from .envi_header import AXES, TYPES, EnviHeader
from .memmap import Layout, MemmapSource

logger = logging.getLogger(__name__)

#: What headers call their own raw binary.
_RAW = ('', 'envi', 'envi standard', 'envi classification', 'envi fft result')
#: First bytes of files that are no raw binary.
_MAGIC = {
    b'II*\x00': 'TIFF',
    b'MM\x00*': 'TIFF',
    b'II+\x00': 'BigTIFF',
    b'MM\x00+': 'BigTIFF',
    b'\x89HDF\r\n\x1a\n': 'HDF5',
    b'\x89PNG\r\n\x1a\n': 'PNG',
    b'\x00\x00\x00\x0cjP  ': 'JPEG 2000',
}


def claims(path: Path) -> bool:
    """Tell whether a path is an ENVI header, or has one beside it that describes it."""
    return find(path) is not None


def header_of(path: Path) -> EnviHeader | None:
    """Return the header of a raw binary file, None for files of other kinds.

    Args:
        path: Header or binary file.

    Raises:
        FileError: If the header calls the file something that is not read.
    """
    found = find(path)
    header = None if found is None else EnviHeader(found[0])
    if header is None or header.file_type in FOREIGN:
        return None
    if header.file_type not in _RAW:
        raise FileError(
            f'{header.path}: found file type {header.text("file type")!r}, expected an '
            f'image ({", ".join(filter(None, _RAW))}, {", ".join(FOREIGN)})'
        )
    return header


def open_source(path: Path, request: Request) -> Source:
    """Open what an ENVI header describes."""
    found, header = find(path), header_of(path)
    assert found is not None
    data = found[1]
    if header is None:
        kind = hdf5 if hdf5.claims(data) else raster
        return DescribedSource(EnviHeader(found[0]), kind.open_source(data, request))
    if not (request.labels and (request.variable or '').isdecimal()):
        request.expect_no_variable(data)
    return EnviSource(header, require_file(data, 'ENVI binary file'))


class DescribedSource(Source):
    """A file and the ENVI header beside it, which says more, or else than the file.

    Args:
        header: The header.
        inner: The file.
    """

    def __init__(self, header: EnviHeader, inner: Source) -> None:
        """Initialize a new DescribedSource instance.

        Raises:
            FileError: If header and file differ in size.
        """
        if header.size != inner.shape:
            raise FileError(
                f'{header.path} says {header.size} lines, samples and bands, but '
                f'{inner.where} has {inner.shape}, expected the same'
            )
        self.header, self._inner = header, inner
        super().__init__(inner.files, inner.shape, inner.dtype)

    @property
    def storage(self) -> CubeSource:
        """The values without the header."""
        return self._inner.storage

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`."""
        return self._inner.read(rows, cols, bands)

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._inner.grid

    @property
    def nodata(self) -> float | None:
        """The data ignore value, or what the file declares."""
        own = self.header.number('data ignore value')
        return self._inner.nodata if own is None else own

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm."""
        path, own = str(self.header.path), None
        centres = self.header.numbers('wavelength')
        if centres is not None:
            told = unit or self.header.text('wavelength units')
            own = nanometres(centres, told, path)
        elif named := named_centres(self.band_names()):
            own = told_nanometres(named, unit, path)
        return self._inner.wavelengths(unit) if own is None else own

    @property
    def scaling(self) -> tuple[tuple[float, float], ...]:
        """Gains and offsets, or the reflectance scale factor, which is a divisor."""
        bands = self.shape[2]
        try:
            gains = self.header.numbers('data gain values')
            offsets = self.header.numbers('data offset values')
            divisor = self.header.number('reflectance scale factor')
        except FileError as error:
            logger.warning('%s; it is left out: values are read as stored', error)
            return self._inner.scaling
        gains = np.full(bands, 1 / (divisor or 1)) if gains is None else gains
        offsets = np.zeros(bands) if offsets is None else offsets
        pairs = tuple(zip(gains.tolist(), offsets.tolist(), strict=True))
        return self._inner.scaling if set(pairs) == {(1.0, 0.0)} else pairs

    def bad_bands(self) -> NDArray[np.bool_] | None:
        """Return True for the bands that header or file mark as bad."""
        good = self.header.numbers('bbl')
        return self._inner.bad_bands() if good is None else np.asarray(good == 0)

    def mask(self) -> NDArray[np.bool_] | None:
        """Return the file's mask."""
        return self._inner.mask()

    def band_names(self) -> tuple[str, ...]:
        """Return the names of the bands, if there is one each."""
        names = self.header.listed('band names')
        return tuple(names) if len(names) == self.shape[2] else ()

    def legend(self) -> LabelLegend | None:
        """Return names and colours of an ENVI classification, or of the file."""
        return self.header.legend() or self._inner.legend()


class EnviSource(DescribedSource):
    """A raw binary cube with an ENVI header.

    Args:
        header: The header.
        data: The binary file.
    """

    def __init__(self, header: EnviHeader, data: Path) -> None:
        """Initialize a new EnviSource instance.

        Raises:
            FileError: If the header lacks an entry, has one that cannot be read,
                promises more bytes than the binary file has, or GDAL reads something
                else.
        """
        if header.ignored:
            logger.warning(
                '%s: %d lines are ignored because they have no "=", such as %r',
                header.path,
                len(header.ignored),
                header.ignored[0][:40],
            )
        layout = _layout(header)
        _check_size(header, data, layout)
        values = MemmapSource(data, layout)
        super().__init__(header, values)
        doubt_byte_order(header.path, header.integer('byte order', 0), values)
        self._place, self._declared, self._tagged = _compared(header, values, layout)

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        # GDAL reads a text as the number 0.
        for item in self.header.listed('map info')[1:7]:
            try:
                float(item)
            except ValueError:
                raise FileError(
                    f"{self.header.path}: 'map info' holds {item!r}, expected two "
                    'numbers each for a pixel, its place and its size; give transform='
                ) from None
        return self._place

    @property
    def nodata(self) -> float | None:
        """The data ignore value."""
        own, other = self.header.number('data ignore value'), self._declared
        if own is not None and other is not None:
            same = own == other or (np.isnan(own) and np.isnan(other))
            if not same and not np.isclose(own, other, rtol=1e-5, atol=0):
                raise FileError(
                    f"{self.header.path}: 'data ignore value' is {own:g}, but GDAL "
                    f'finds nodata {other:g} (in .aux.xml or the header), expected one '
                    'value; name it with nodata='
                )
        return own

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm."""
        centres = self.header.numbers('wavelength')
        # GDAL knows commas only; what it makes of other lists says nothing.
        tagged = self._tagged if all(self._tagged) else []
        for band, text in enumerate(tagged):
            if centres is None or text is None:
                continue
            try:
                number = float(text.strip(' "\''))
                same = np.isclose(centres[band], number, 1e-6, 0, equal_nan=True)
            except ValueError:
                same = False
            if not same:
                raise FileError(
                    f"{self.header.path}: 'wavelength' of band {band + 1} is "
                    f'{centres[band]:g}, but GDAL finds {text!r} (in .aux.xml or the '
                    'header), expected one value; give wavelengths='
                )
        return super().wavelengths(unit)


def _layout(header: EnviHeader) -> Layout:
    """Return how the values lie in the binary file."""
    path = header.path
    sizes = dict(zip('yxb', header.size, strict=True))
    if min(sizes.values()) < 1:
        raise FileError(
            f'{path}: lines, samples and bands are {", ".join(map(str, sizes.values()))}'
            '; expected positive numbers'
        )
    code = header.integer('data type')
    if code not in TYPES:
        raise FileError(
            f'{path}: data type {code} is not supported; expected one of '
            f'{sorted(TYPES)} (no complex numbers)'
        )
    interleave = (header.text('interleave') or 'missing').lower()
    if interleave not in AXES:
        raise FileError(
            f'{path}: interleave is {interleave!r}, expected one of {sorted(AXES)}'
        )
    if header.integer('file compression', 0):
        raise FileError(f'{path}: the cube is compressed; save it uncompressed')
    order, offset = header.integer('byte order', 0), header.integer('header offset', 0)
    if order not in (0, 1) or offset < 0:
        raise FileError(
            f'{path}: found byte order {order} and header offset {offset}, expected 0 '
            'or 1 and no negative number'
        )
    frames = []
    for key in ('major', 'minor'):
        given = header.numbers(f'{key} frame offsets', 2)
        before, after = (0.0, 0.0) if given is None else given.tolist()
        if min(before, after) < 0 or before % 1 or after % 1:
            raise FileError(
                f"{path}: '{key} frame offsets' are {before:g} and {after:g}, expected "
                'two whole numbers of bytes'
            )
        frames.append((int(before), int(after)))
    axes = AXES[interleave]
    return Layout(
        np.dtype(('>' if order else '<') + TYPES[code]),
        offset,
        tuple(sizes[axis] for axis in axes),
        axes,
        frames[0],
        frames[1],
    )


def _check_size(header: EnviHeader, data: Path, layout: Layout) -> None:
    """Compare the size of the binary file with what the header promises."""
    with reading(data, 'an ENVI binary file'):
        found = data.stat().st_size
        with data.open('rb') as file:
            start = file.read(8)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic) and not layout.offset:
            raise FileError(
                f'{data} begins as a {kind} file, but {header.path} calls it a raw '
                f'binary (file type {header.text("file type")!r}); correct its file '
                'type, or remove the header'
            )
    rows, cols, bands = header.size
    size = (
        f'{rows} lines x {cols} samples x {bands} bands of {layout.dtype.name} after '
        f'{layout.offset} bytes need {layout.nbytes}'
    )
    if found < layout.nbytes:
        raise FileError(
            f'{data} is too short for its header: {found} bytes, but {size}'
        )
    if found > layout.nbytes:
        fitting = [
            f'{code} ({np.dtype(name).name})'
            for code, name in TYPES.items()
            if layout._replace(dtype=np.dtype(name)).nbytes == found
        ]
        logger.warning(
            '%s is longer than its header says: %d bytes, but %s; %s',
            data,
            found,
            size,
            f'data type {" or ".join(fitting)} would fit'
            if fitting
            else 'no data type would fit: lines, samples, bands or offset may be wrong',
        )


def _compared(
    header: EnviHeader, values: MemmapSource, layout: Layout
) -> tuple[Grid, float | None, list[str | None]]:
    """Return grid, nodata and wavelengths as GDAL finds them, if it finds the same."""
    path, data = header.path, values.files[0]
    try:
        opened = raster.open_raster(data)
    except FileError as error:
        logger.warning(
            '%s is not read by GDAL, so nothing confirms it and there is no '
            'georeference (crs= and transform= give one): %s',
            path,
            error,
        )
        return Grid(values.shape[0], values.shape[1]), None, []
    with opened as dataset, reading(data, 'an ENVI file by GDAL'):
        found = (dataset.height, dataset.width, dataset.count)
        if dataset.driver != 'ENVI' or found != values.shape:
            raise FileError(
                f'{path} says {values.shape} lines, samples and bands of ENVI, but GDAL '
                f'finds {found} of {dataset.driver} in {data}, expected the same'
            )
        types = set(dataset.dtypes)
        if types - {'int8'} and types != {values.dtype.name}:
            raise FileError(
                f'{path} says values of {values.dtype.name}, but GDAL finds '
                f'{sorted(types)} in {data}, expected the same'
            )
        if not any(layout.major + layout.minor):
            _compare_values(path, dataset, values)
        grid = raster.grid_of(dataset)
        if grid.transform is None and header.text('map info') is not None:
            # GDAL takes a brace in a comment for the start of a list, for one.
            logger.warning(
                "%s: GDAL reads no place from its 'map info', so maps of it lie nowhere; "
                'correct the header, or give crs= and transform=',
                path,
            )
        tagged = [dataset.tags(band).get('wavelength') for band in dataset.indexes]
        return grid, dataset.nodatavals[0], tagged


def _compare_values(path: Path, dataset: Any, values: MemmapSource) -> None:
    """Compare a few pixels: order of bytes and bands, and the offset, show in them."""
    rows, cols, _ = values.shape
    for row, col in {(0, 0), (rows // 2, cols // 3), (rows - 1, cols - 1)}:
        own = values.read(slice(row, row + 1), slice(col, col + 1))[0, 0]
        other = dataset.read(window=((row, row + 1), (col, col + 1)))[:, 0, 0]
        if own.tobytes() != other.tobytes():
            raise FileError(
                f'{path}: by its interleave, byte order and offset the pixel in row '
                f'{row}, column {col} is {own[:3].tolist()}, but GDAL reads '
                f'{other[:3].tolist()}, expected the same; correct the header'
            )
