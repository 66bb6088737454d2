# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Writing maps as cloud-optimised GeoTIFF files that a GIS opens.

A raster is streamed tile by tile to a tiled GeoTIFF in a staging folder, copied there
to a cloud-optimised file with nearest-neighbour overviews, read back and compared,
and only then moved to its name. So a file that has its final name is complete.
"""

import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from .._files import as_utf8, check_free_space, fsync, fsync_folder, move, no_room

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

__all__ = (
    'TILE_SIZE',
    'Legend',
    'RasterSpec',
    'attribute_table',
    'publish',
    'stage_raster',
    'tiles',
)

#: Side of the GeoTIFF tiles in pixels.
TILE_SIZE = 256

#: Value of pixels without a class in a class raster.
NODATA = 0

#: What must not stand in XML: control characters, and halves of characters.
_NOT_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')

#: Longest list of category names, which must name every value from 0 on.
_MAX_CATEGORIES = 4096

#: Uncompressed bytes on disk per byte of raster: the temporary file, the final file
#: and its overviews (1/4 + 1/16 + ... of it, once in a temporary file of GDAL).
_DISK_FACTOR = 2.7


@dataclass(frozen=True)
class Legend:
    """Names, values and colours of the classes of a map.

    Attributes:
        names: Name of each class.
        values: Value of each class in the raster, positive.
        palette: Colour of each class, uint8 (classes, 3).
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    palette: NDArray[np.uint8]

    @classmethod
    def from_classes(
        cls,
        names: Sequence[str],
        values: Sequence[int],
        palette: NDArray[np.uint8] | Sequence[Sequence[int]],
    ) -> 'Legend':
        """Make the legend of a scene's classes.

        The raster has the values of the scene's own label file. If these cannot stand
        in a map (zero, negative or above 65535), classes are numbered from 1.

        Args:
            names: Name of each class.
            values: Value of each class in the scene's label file.
            palette: Colour of each class, (classes, 3), 0..255.

        Returns:
            The legend.

        Raises:
            ValueError: If the lists differ in length or no class is given.
        """
        colours = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
        if not names or not len(names) == len(values) == len(colours):
            raise ValueError(
                'a legend needs a name, a value and a colour for each class, found '
                f'{len(names)} names, {len(values)} values and {len(colours)} colours'
            )
        if min(values) <= NODATA or max(values) > 65535:
            values = range(1, len(names) + 1)
        return cls(tuple(map(str, names)), tuple(map(int, values)), colours)

    @classmethod
    def of(cls, scene: Mapping[str, Any]) -> 'Legend':
        """Make the legend of a scene as :meth:`HyperspectralScene.metadata` tells it."""
        return cls.from_classes(
            scene['class_names'], scene['class_values'], scene['palette']
        )

    @property
    def dtype(self) -> str:
        """Smallest raster type that holds every value: uint8 or uint16."""
        return 'uint8' if max(self.values) <= 255 else 'uint16'

    @property
    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Colour table of the raster; nodata is transparent."""
        table = {NODATA: (0, 0, 0, 0)}
        for value, (red, green, blue) in zip(
            self.values, self.palette.tolist(), strict=True
        ):
            table[value] = (red, green, blue, 255)
        return table

    def lookup(self) -> NDArray[Any]:
        """Give the table from class numbers to raster values.

        Returns:
            Values by class number, where 0 means no class, (classes + 1,).
        """
        return np.array((NODATA, *self.values), dtype=self.dtype)


@dataclass(frozen=True)
class RasterSpec:
    """What a raster file says about itself.

    Attributes:
        shape: Rows and columns.
        dtype: Type of the values.
        bands: Name of each band.
        nodata: Value of pixels without data.
        crs: Coordinate reference system, or None.
        transform: Affine transform of the pixel grid, or None.
        colormap: Colour table of a class raster, or None.
        tags: Further facts, stored in the file.
    """

    shape: tuple[int, int]
    dtype: str
    bands: tuple[str, ...]
    nodata: float
    crs: 'CRS | None' = None
    transform: 'Affine | None' = None
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Size of the values without compression, in bytes."""
        rows, cols = self.shape
        return rows * cols * len(self.bands) * np.dtype(self.dtype).itemsize

    @property
    def disk_bytes(self) -> int:
        """Upper bound of the room that writing the file takes, in bytes."""
        return int(self.num_bytes * _DISK_FACTOR)


def tiles(shape: tuple[int, int]) -> Iterator[Window]:
    """Cut a raster into tiles, row by row of tiles.

    Args:
        shape: Rows and columns.

    Yields:
        The tiles, cut at the edges.
    """
    (rows, cols), side = shape, TILE_SIZE
    for row in range(0, rows, side):
        for col in range(0, cols, side):
            yield Window(col, row, min(side, cols - col), min(side, rows - row))


def stage_raster(
    folder: Path,
    name: str,
    spec: RasterSpec,
    read_tile: Callable[[Window], NDArray[Any]],
) -> Path:
    """Write a raster as a cloud-optimised GeoTIFF in a staging folder.

    Memory does not grow with the raster: it is written, copied and compared by tile.

    Args:
        folder: Staging folder, on the same disk as the final file.
        name: Name of the file.
        spec: What the file says about itself.
        read_tile: Gives the values of a tile, (bands, rows, cols).

    Returns:
        The staged file: complete, checked and on the disk.

    Raises:
        OSError: If the disk is full or the file cannot be written.
    """
    check_free_space(folder, spec.disk_bytes, name)
    target = folder / name
    draft = folder / f'{target.stem}.draft.tif'
    try:
        with (
            warnings.catch_warnings(action='ignore', category=NotGeoreferencedWarning),
            _clear_errors(name, folder),
        ):
            sums = _write_draft(draft, spec, read_tile)
            _compare(draft, spec, sums)
            rasterio.shutil.copy(
                draft,
                target,
                driver='COG',
                blocksize=TILE_SIZE,
                compress='DEFLATE',
                predictor='YES' if np.dtype(spec.dtype).kind == 'f' else 'NO',
                overviews='IGNORE_EXISTING',
                overview_resampling='NEAREST',
                bigtiff='IF_SAFER',
            )
            _compare(target, spec, sums)
        fsync(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        for leftover in (
            draft,
            *folder.glob(f'{name}.*.tmp'),
            draft.with_suffix('.tif.aux.xml'),
        ):
            leftover.unlink(missing_ok=True)
    return target


def _write_draft(
    path: Path, spec: RasterSpec, read_tile: Callable[[Window], NDArray[Any]]
) -> list[int]:
    """Stream a raster to a tiled GeoTIFF."""
    rows, cols = spec.shape
    sums = []
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        height=rows,
        width=cols,
        count=len(spec.bands),
        dtype=spec.dtype,
        nodata=spec.nodata,
        crs=spec.crs,
        transform=spec.transform,
        tiled=True,
        blockxsize=TILE_SIZE,
        blockysize=TILE_SIZE,
        compress='DEFLATE',
        zlevel=1,
        interleave='band',
        bigtiff='IF_SAFER',
    ) as file:
        if spec.colormap is not None:
            file.write_colormap(1, dict(spec.colormap))
        if spec.tags:
            file.update_tags(
                **{name: as_utf8(text) for name, text in spec.tags.items()}
            )
        for number, band in enumerate(spec.bands, start=1):
            file.set_band_description(number, as_utf8(band))
        for window in tiles(spec.shape):
            values = np.ascontiguousarray(read_tile(window), dtype=spec.dtype)
            sums.append(zlib.crc32(values.tobytes()))
            file.write(values, window=window)
    return sums


def _compare(path: Path, spec: RasterSpec, sums: Sequence[int]) -> None:
    """Read a raster back; a full disk can go unnoticed until then."""
    with rasterio.open(path) as file:
        for window, expected in zip(tiles(spec.shape), sums, strict=True):
            values = np.ascontiguousarray(file.read(window=window))
            if zlib.crc32(values.tobytes()) != expected:
                raise RasterioError(f'{path.name} does not hold what was written')


@contextmanager
def _clear_errors(name: str, folder: Path) -> Iterator[None]:
    """Turn GDAL's errors on writing into one that names file and likely cause."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise no_room(folder / name, str(error)) from error
    except (RasterioError, CPLE_BaseError) as error:
        # A copy on a full disk fails with GDAL's own errors.
        raise no_room(folder / name, str(error)) from error


def publish(staged: Sequence[Path], folder: Path) -> list[Path]:
    """Give staged files their final names, in the given order.

    Args:
        staged: Complete files on the same disk.
        folder: Where they belong; older files of these names are replaced.

    Returns:
        The final files.
    """
    final = [folder / path.name for path in staged]
    for path in staged:
        fsync(path)
    for path, target in zip(staged, final, strict=True):
        move(path, target)
    fsync_folder(folder)
    return final


def attribute_table(legend: Legend, counts: Sequence[int]) -> bytes:
    """Write GDAL's side file (``.aux.xml``) of a class raster.

    It names the classes twice, because programs differ in what they read: as category
    names, and as a raster attribute table (value, count, name, red, green, blue).

    Args:
        legend: Classes of the raster.
        counts: Number of pixels of each class.

    Returns:
        The file's content.
    """
    root = ElementTree.Element('PAMDataset')
    band = ElementTree.SubElement(root, 'PAMRasterBand', band='1')
    names = dict(zip(legend.values, legend.names, strict=True))
    if max(legend.values) < _MAX_CATEGORIES:
        categories = ElementTree.SubElement(band, 'CategoryNames')
        for value in range(max(legend.values) + 1):
            category = ElementTree.SubElement(categories, 'Category')
            category.text = names.get(value, '')
    table = ElementTree.SubElement(
        band, 'GDALRasterAttributeTable', tableType='thematic'
    )
    # GDAL's numbers: type 0 integer, 2 string; usage 5 value (min and max), 1 pixel
    # count, 2 name, 6 red, 7 green, 8 blue.
    columns = [('Value', 0, 5), ('Count', 0, 1), ('Class', 2, 2)]
    columns += [('Red', 0, 6), ('Green', 0, 7), ('Blue', 0, 8)]
    for index, (name, kind, usage) in enumerate(columns):
        definition = ElementTree.SubElement(table, 'FieldDefn', index=str(index))
        ElementTree.SubElement(definition, 'Name').text = name
        ElementTree.SubElement(definition, 'Type').text = str(kind)
        ElementTree.SubElement(definition, 'Usage').text = str(usage)
    cells = zip(
        legend.values, counts, legend.names, legend.palette.tolist(), strict=True
    )
    for index, (*fields, colour) in enumerate(cells):
        row = ElementTree.SubElement(table, 'Row', index=str(index))
        for item in (*fields, *colour):
            ElementTree.SubElement(row, 'F').text = str(item)
    ElementTree.indent(root)
    # A character that XML does not know makes the whole file unreadable to GDAL.
    text = _NOT_XML.sub(
        '\N{REPLACEMENT CHARACTER}', ElementTree.tostring(root, 'unicode')
    )
    return f'{text}\n'.encode()
