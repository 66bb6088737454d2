# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Files of polygons, lines and points: what geopandas reads, tables, ENVI's ROIs."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import geopandas
import pandas as pd

from ..._reading import FileError, reading, require_file
from ..raster import placed_crs

logger = logging.getLogger(__name__)

#: Endings of files that are vectors, though GDAL may find a raster in some of them.
SUFFIXES = (
    '.geojson',
    '.json',
    '.gpkg',
    '.shp',
    '.fgb',
    '.sqlite',
    '.tab',
    '.mif',
    '.geojsonl',
    '.kml',
    '.kmz',
    '.gml',
    '.gpx',
    '.dxf',
    '.gdb',
    '.parquet',
    '.geoparquet',
)
#: Endings of tables of points; ENVI writes its regions of interest as ``.txt``.
TABLES = ('.csv', '.tsv', '.txt')

#: Names of columns that hold places, by what the places are.
_PLACES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    'degrees': (('lon', 'long', 'longitude', 'lng'), ('lat', 'latitude')),
    'scene': (
        ('x', 'easting', 'east', 'e', 'utmx', 'xcoord', 'coordx', 'pointx', 'mapx'),
        ('y', 'northing', 'north', 'n', 'utmy', 'ycoord', 'coordy', 'pointy', 'mapy'),
    ),
    'pixels': (
        ('col', 'column', 'cols', 'sample', 'pixelx'),
        ('row', 'rows', 'line', 'pixely'),
    ),
}


class VectorFileError(FileError):
    """The file is none in which features are found."""


@dataclass(frozen=True)
class Features:
    """Features of a file and what their coordinates are.

    Args:
        frame: Geometries and attributes.
        system: ``'crs'``: those of the frame's CRS; ``'scene'``: those of the scene;
            ``'pixels'``: columns and rows from the upper left corner; ``'unknown'``:
            the file does not tell.
    """

    frame: geopandas.GeoDataFrame
    system: Literal['crs', 'scene', 'pixels', 'unknown']


def read_features(path: Path, layer: str | None = None) -> Features:
    """Read a file that geopandas reads, a table of points or ENVI regions of interest.

    Args:
        path: The file; a folder ``.gdb`` too.
        layer: Layer of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        VectorFileError: If no geometries are found in it.
    """
    if path.suffix.lower() != '.gdb' or not path.is_dir():
        require_file(path, 'vector labels')
    if path.suffix.lower() in TABLES:
        return _read_table(path)
    with reading(path, 'vector file', VectorFileError):
        if path.suffix.lower() in ('.parquet', '.geoparquet'):
            frame = geopandas.read_parquet(path)
        else:
            options = {} if layer is None else {'layer': layer}
            frame = geopandas.read_file(str(path), **options)
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise VectorFileError(
            f'{path} has no geometries, only the attributes {list(frame.columns)}; '
            'expected polygons, lines or points (layer= names another layer)'
        )
    with reading(path, 'vector file', VectorFileError):
        if frame.crs is not None:
            from rasterio.crs import CRS

            if placed_crs(CRS.from_wkt(frame.crs.to_wkt()), str(path)) is None:
                frame = frame.set_crs(None, allow_override=True)
    return Features(frame, 'unknown' if frame.crs is None else 'crs')


def _read_table(path: Path) -> Features:
    with reading(path, 'a table of points', VectorFileError):
        text = path.read_bytes()
        try:
            lines = text.decode('utf-8-sig').splitlines()
        except UnicodeDecodeError:
            lines = text.decode('latin-1').splitlines()
    if lines and 'ENVI Output of ROIs' in lines[0]:
        return _read_rois(path, lines)
    with reading(path, 'a table of points', VectorFileError):
        table = pd.read_csv(path, sep=None, engine='python', encoding_errors='replace')
    columns = {re.sub(r'[^a-z]', '', str(name).lower()): name for name in table.columns}
    for kind, names in _PLACES.items():
        found = [
            next((columns[name] for name in axis if name in columns), None)
            for axis in names
        ]
        if None not in found:
            return _points(path, table, str(found[0]), str(found[1]), kind)
    shape = columns.get('wkt') or columns.get('geometry')
    if shape is None:
        raise VectorFileError(
            f'{path}: found columns {list(map(str, table.columns))}, expected places in '
            'x and y, easting and northing, lon and lat, col and row, or wkt'
        )
    with reading(path, 'a table of geometries', VectorFileError):
        geometry = geopandas.GeoSeries.from_wkt(table[shape])
        frame = geopandas.GeoDataFrame(table.drop(columns=shape), geometry=geometry)
    return Features(frame, 'scene')


def _points(path: Path, table: pd.DataFrame, x: str, y: str, kind: str) -> Features:
    with reading(path, 'a table of points', VectorFileError):
        places = table[[x, y]].astype(float)
        inner = 0.5 if kind == 'pixels' else 0.0  # the centre of a pixel
        geometry = geopandas.points_from_xy(places[x] + inner, places[y] + inner)
        crs = 'OGC:CRS84' if kind == 'degrees' else None
        frame = geopandas.GeoDataFrame(
            table.drop(columns=[x, y]), geometry=geometry, crs=crs
        )
    if kind == 'scene':
        logger.warning(
            '%s: its places (%s, %s) are taken in the CRS of the scene; labels_crs= '
            'names another',
            path,
            x,
            y,
        )
        return Features(frame, 'scene')
    return Features(frame, 'crs' if kind == 'degrees' else 'pixels')


def _read_rois(path: Path, lines: list[str]) -> Features:
    """Read ENVI's text of regions of interest: points by column and row from 1."""
    head = '\n'.join(lines)
    names = [name.strip() for name in re.findall(r';\s*ROI name:(.*)', head)]
    counts = [int(count) for count in re.findall(r';\s*ROI npts:\s*(\d+)', head)]
    titles = re.findall(r'^;\s*ID\s.*$', head, flags=re.MULTILINE)
    columns = [word.lower() for word in titles[0].strip('; ').split()] if titles else []
    if 'x' not in columns or 'y' not in columns or len(names) != len(counts):
        raise VectorFileError(
            f'{path}: found {len(names)} names, {len(counts)} counts and the columns '
            f'{columns} of ENVI regions of interest, expected one count a name and '
            'columns X and Y'
        )
    rows = [line.split() for line in lines if line.strip() and line.lstrip()[0] != ';']
    if len(rows) != sum(counts):
        raise VectorFileError(
            f'{path}: found {len(rows)} points of ENVI regions of interest, expected '
            f'{sum(counts)} (ROI npts)'
        )
    # "Map X" is two words of the title, but one number of a row.
    x, y = columns.index('x'), columns.index('y')
    with reading(path, 'ENVI regions of interest', VectorFileError):
        places = [(float(row[x]) - 0.5, float(row[y]) - 0.5) for row in rows]
    roi = [
        name for name, count in zip(names, counts, strict=True) for _ in range(count)
    ]
    geometry = geopandas.points_from_xy(*zip(*places, strict=True)) if places else []
    frame = geopandas.GeoDataFrame({'roi': roi}, geometry=geometry)
    size = re.search(r';\s*File Dimension:\s*(\d+)\s*x\s*(\d+)', head)
    if size is not None:
        frame.attrs['size'] = (int(size[2]), int(size[1]))
    return Features(frame, 'pixels')
