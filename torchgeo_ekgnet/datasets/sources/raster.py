# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Anything that rasterio opens."""

import logging
import os
import re
import struct
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from ..._reading import FileError, reading, require_file
from ..labels import LabelLegend
from ..raster import Grid, placed_crs
from ..units import named_centres, told_nanometres, written_numbers
from .base import Chosen, Request, Source
from .facts import WAVELENGTHS
from .legend import raster_legend
from .stack import StackSource

logger = logging.getLogger(__name__)


def claims(path: Path) -> bool:
    """Rasterio is asked about every file that no other format claims."""
    return True


def open_source(path: Path, request: Request) -> Source:
    """Open a raster, or the rasters that a file holds as subdatasets or pages.

    Raises:
        FileError: If it cannot be opened, or holds several rasters of which none is
            named.
    """
    with open_raster(path) as dataset, reading(path, 'a raster'):
        inner, driver, count = dataset.subdatasets, dataset.driver, dataset.count
        lossy = _loss(driver, dataset.tags(ns='IMAGE_STRUCTURE'))
    if driver == 'PNG':
        _check_end_of_png(path)
    if request.labels and lossy:
        raise FileError(
            f'{path}: found labels compressed with loss ({lossy}), which mixes their values '
            'and colours, expected a lossless format such as PNG or GeoTIFF'
        )
    parts = [RasterSource(path, name) for name in inner]
    number = request.variable if (request.variable or '').isdecimal() else None
    pages = driver == 'GTiff' and _alike(parts)
    if request.variable is not None and (number is None or (parts and not pages)):
        return RasterSource(path, _named(path, inner, request.variable))
    if number is not None and not request.labels:
        raise FileError(
            f'{path}: found cube_variable={number}, expected none: the file is one cube; '
            'bands= chooses bands'
        )
    if pages:
        return StackSource(parts)
    if len(parts) <= 1:
        return parts[0] if parts else RasterSource(path)
    argument = f'{request.named_by}='
    if driver == 'GTiff' and count:
        logger.warning(
            '%s: only the first of its %d pages %s is read; the others have other sizes '
            'or types (%s); %s2 reads the second',
            path,
            len(inner),
            parts[0].shape,
            ', '.join(f'{part.shape}' for part in parts[1:6]),
            argument,
        )
        return RasterSource(path)
    listed = ', '.join(
        f'{name} {part.shape}' for name, part in zip(inner, parts, strict=True)
    )
    raise FileError(
        f'{path}: found {len(inner)} rasters in it, expected one; name one with '
        f'{argument}, by its number too: {listed}'
    )


def bands_of(path: Path) -> int:
    """Return the bands of a raster, of a TIFF with pages that are alike those of all."""
    with open_raster(path) as dataset:
        count: int = dataset.count
        inner = dataset.subdatasets if dataset.driver == 'GTiff' else []
    parts = [RasterSource(path, name) for name in inner]
    return sum(part.shape[2] for part in parts) if _alike(parts) else count


def _alike(parts: Sequence[Source]) -> bool:
    """Tell whether there are rasters, of one size and type."""
    return len({(part.shape[:2], part.dtype) for part in parts}) == 1


def _check_end_of_png(path: Path) -> None:
    """Refuse a PNG that is cut off: GDAL gives whatever lies in memory, and no error."""
    with reading(path, 'a PNG'), path.open('rb') as file:
        size, place, kind = path.stat().st_size, 8, b''
        while kind != b'IEND' and place < size:
            file.seek(place)
            length, kind = struct.unpack('>I4s', file.read(8))
            place += 12 + length
        if kind != b'IEND' or place > size:
            raise FileError(
                f'{path}: found {size} bytes of a PNG without its end, expected a whole '
                'file; copy or download it again'
            )


def _loss(driver: str, structure: Mapping[str, str]) -> str | None:
    """Return the name of a compression that changes values, None for any other."""
    # Not dataset.compression: rasterio 1.4.3 has no word for JPEG in YCbCr.
    compression = structure.get('COMPRESSION', '').upper()
    if 'JPEG' in (driver, *compression.split()):
        return 'JPEG'
    if structure.get('COMPRESSION_REVERSIBILITY', '').upper() == 'LOSSY':
        return compression or driver
    error = structure.get('MAX_Z_ERROR', '0')
    return compression if float(error) >= 0.5 else None


def _named(path: Path, inner: list[str], variable: str) -> str:
    """Choose one of the rasters in a file."""
    found = [
        name
        for number, name in enumerate(inner, start=1)
        if variable in (str(number), name, name.split(':')[-1].strip('/'))
    ]
    if len(found) != 1:
        raise FileError(
            f'{path}: found no raster {variable!r}, expected one of '
            f'{inner or "none: the file is one raster"}'
        )
    return found[0]


def open_raster(path: str | os.PathLike[str], name: str | None = None) -> Any:
    """Open a file with rasterio.

    Args:
        path: The file.
        name: Name of one of its subdatasets.

    Returns:
        The open dataset.

    Raises:
        FileNotFoundError: If there is no such file.
        FileError: If rasterio cannot open it.
    """
    path = require_file(path, 'raster')
    # torchgeo's command line tells GDAL not to look at neighbouring files, and then it
    # does not find the header of an ENVI file.
    with (
        reading(path, 'a raster'),
        warnings.catch_warnings(action='ignore', category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=False),
    ):
        return rasterio.open(name or path)


def grid_of(dataset: Any) -> Grid:
    """Return the grid of an open raster; without transform if the file has none."""
    transform = dataset.transform
    if transform.is_identity:
        transform = None
        if dataset.gcps[0] or dataset.rpcs:
            logger.warning(
                '%s: it is placed by ground control points or RPCs, which are left out, '
                'so maps of it lie nowhere; gdalwarp makes a grid of it',
                dataset.name,
            )
    crs = placed_crs(dataset.crs, str(dataset.name))
    return Grid(dataset.height, dataset.width, crs, transform)


class RasterSource(Source):
    """A cube in one raster.

    The file stays open, one handle a process; windows are read on demand.

    An alpha band, which is 0 or full everywhere, is a mask and no band.

    Args:
        path: The file.
        name: Name of one of its subdatasets.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Initialize a new RasterSource instance.

        Raises:
            FileNotFoundError: If the file is missing.
            FileError: If it cannot be opened.
        """
        self._lock = threading.Lock()
        self._handles: dict[int, Any] = {}
        self._name = name
        with open_raster(path, name) as dataset, reading(path, 'a raster'):
            if not dataset.count:
                raise FileError(f'{path}: found a raster without bands, expected some')
            self._grid = grid_of(dataset)
            self._alpha = _alpha_band(path, dataset)
            self._indexes = [band for band in dataset.indexes if band != self._alpha]
            types = [dataset.dtypes[band - 1] for band in self._indexes]
            if any(kind.startswith('complex') for kind in types):
                raise FileError(f'{path}: found {types[0]} values, expected real ones')
            self._mixed = len(set(types)) > 1
            self._nodatas: dict[str, float | None] = {
                str(value): value
                for value in (dataset.nodatavals[band - 1] for band in self._indexes)
            }
            self._tags = [
                (
                    dataset.tags(band, ns='IMAGERY').get('CENTRAL_WAVELENGTH_UM'),
                    {key.lower(): text for key, text in dataset.tags(band).items()},
                )
                for band in self._indexes
            ]
            self._file_tags = {
                key.lower(): text
                for space in (None, 'ENVI')
                for key, text in dataset.tags(ns=space).items()
            }
            scales = [
                (float(dataset.scales[band - 1]), float(dataset.offsets[band - 1]))
                for band in self._indexes
            ]
            self._scaling = () if set(scales) == {(1.0, 0.0)} else tuple(scales)
            self._names = tuple(
                dataset.descriptions[band - 1] or '' for band in self._indexes
            )
            self._masked = self._alpha is not None or any(
                MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
                for flags in dataset.mask_flag_enums
            )
            shape = (dataset.height, dataset.width, len(self._indexes))
            super().__init__((path,), shape, np.result_type(*types))

    @property
    def nodata(self) -> float | None:
        """Value that the file declares for missing data."""
        if len(self._nodatas) > 1:
            self.read(slice(0, 1), slice(0, 1))  # a file of a VRT may be missing
            raise FileError(
                f'the bands of {self.where} declare different nodata values '
                f'({sorted(self._nodatas)}); name one with nodata='
            )
        return next(iter(self._nodatas.values()), None)

    def wavelengths(self, unit: str | None = None) -> NDArray[np.float64] | None:
        """Return the band centres in nm where every band's metadata tell them."""
        told = [self._centre(*tags) for tags in self._tags]
        found = [(value, own) for value, own in told if value is not None]
        found = found or self._told_elsewhere()
        if len(found) != len(told):
            if found:
                logger.warning(
                    '%s: found wavelengths of %d of %d bands, so they are left out; '
                    'wavelengths= gives them',
                    self.where,
                    len(found),
                    len(told),
                )
            return None
        return told_nanometres(found, unit, self.where)

    def _centre(
        self, imagery: str | None, tags: dict[str, str]
    ) -> tuple[float | None, str | None]:
        """Return centre and unit of a band."""
        # GDAL rounds its own tag; the one of the file has all digits.
        text = next((tags[name] for name in WAVELENGTHS if name in tags), None)
        unit = tags.get('wavelength_units') or tags.get('wavelength_unit')
        if text is None:
            text, unit = imagery, 'um'
        if text is None:
            return None, unit
        try:
            (number,), own = written_numbers(text)
        except ValueError:
            raise FileError(
                f'{self.where}: found a tag with the wavelength {text!r}, expected a '
                'number; give wavelengths='
            ) from None
        return number, unit or own

    def _told_elsewhere(self) -> list[tuple[float, str | None]]:
        """Return centres that a tag of the file lists, or the names of the bands."""
        listed = [
            self._file_tags[name] for name in WAVELENGTHS if name in self._file_tags
        ]
        unit = self._file_tags.get('wavelength_units')
        with suppress(ValueError):
            values, own = written_numbers(''.join(listed[:1]))
            if len(values) == self.shape[2]:
                return [(value, unit or own) for value in values]
        return named_centres(self._names)

    def bad_bands(self) -> NDArray[np.bool_] | None:
        """Return True for the bands that ``bbl`` marks as bad, a tag of bands or file.

        Raises:
            FileError: If it holds something else than a number a band.
        """
        texts = [tags.get('bbl') for _, tags in self._tags]
        if all(text is None for text in texts):
            listed = self._file_tags.get('bbl')
            if listed is None:
                return None
            texts = [text for text in re.split(r'[{},;\s]+', listed) if text]
        try:
            # A band without the mark beside others that have it is a good one.
            good = np.array([float(text or 1) for text in texts])
        except ValueError:
            good = np.full(len(texts), np.nan)
        if len(good) != self.shape[2] or not np.isfinite(good).all():
            raise FileError(
                f"{self.where}: found the tag 'bbl' {texts[:4]} ... with {len(texts)} "
                f'values, expected a number for each of {self.shape[2]} bands; choose '
                'bands by number'
            )
        return np.asarray(good == 0)

    def band_names(self) -> tuple[str, ...]:
        """Return the descriptions of the bands."""
        return self._names if all(self._names) else ()

    def legend(self) -> LabelLegend | None:
        """Return categories, attribute table and colour table of the first band."""
        with open_raster(self.files[0], self._name) as dataset:
            return raster_legend(self.files[0], dataset)

    def mask(self) -> NDArray[np.bool_] | None:
        """Return the mask that the file carries beside its bands."""
        if not self._masked:
            return None
        path = self.files[0]
        with open_raster(path, self._name) as dataset, reading(path, 'a raster'):
            if self._alpha is not None:
                return np.asarray(dataset.read(self._alpha) > 0)
            return np.asarray(dataset.dataset_mask() > 0)

    def read(self, rows: slice, cols: slice, bands: Chosen = None) -> NDArray[Any]:
        """Read one window, see :class:`~.base.CubeSource`."""
        wanted = np.arange(self.shape[2]) if bands is None else bands
        indexes = [self._indexes[int(band)] for band in wanted]
        window = Window.from_slices(rows, cols)
        cube = np.empty((window.height, window.width, len(indexes)), dtype=self.dtype)
        with self._lock, reading(self.files[0], 'a raster'):
            if self._mixed:  # which rasterio reads one by one only
                for place, index in enumerate(indexes):
                    cube[:, :, place] = self._handle().read(index, window=window)
            else:
                values = self._handle().read(indexes, window=window)
                cube[...] = np.moveaxis(values, 0, 2)
        return cube

    def _handle(self) -> Any:
        """Give this process a handle of its own."""
        process = os.getpid()
        if process not in self._handles:
            self._handles[process] = open_raster(self.files[0], self._name)
        return self._handles[process]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files."""
        state = self.__dict__.copy()
        del state['_lock'], state['_handles']
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state; files are opened when they are read."""
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._handles = {}


def _alpha_band(path: Path, dataset: Any) -> int | None:
    """Return the number of an alpha band, None without.

    Writers call the fourth band of any cube so; only 0 and one other value make a mask,
    and it shows something: where one band a class is written, all others are 0.
    """
    last = dataset.count
    if last < 2 or dataset.colorinterp[last - 1] is not ColorInterp.alpha:
        return None
    last_band = dataset.read(last)
    values = np.unique(last_band)
    full = 255 if values.dtype == np.uint8 else 65535
    if not np.isin(values, (0, full)).all() or full not in values:
        return None
    shown = last_band == full
    if not any(dataset.read(band)[shown].any() for band in range(1, last)):
        return None
    logger.warning('%s: band %d is an alpha band and is taken as mask', path, last)
    return int(last)
