# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Files of polygons, lines and points: what geopandas reads, tables, ENVI's ROIs."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import geopandas
import pandas as pd
import shapely

from ..._reading import FileError, decoded, reading, require_file
from ..._wording import quoted
from ..raster import placed_crs
from .table import parsed, plain_names

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
#: Endings of files that may hold several layers.
LAYERED = ('.gpkg', '.sqlite', '.kml', '.kmz', '.gml', '.gpx', '.dxf', '.gdb')
#: Endings of tables of points; ENVI writes its regions of interest as ``.txt``, and some
#: name that text as the binary files of older versions.
TABLES = ('.csv', '.tsv', '.txt', '.roi')

#: Names of columns that hold places, by what the places are.
_PLACES = {
    'degrees': (
        'lon long longitude lng londd longdd lonwgs decimallongitude',
        'lat latitude latdd latwgs decimallatitude',
    ),
    'scene': (
        'x easting east e utmx xutm utme utmeast xcoord xcoordinate coordx coordsx mapx '
        + 'pointx coordsx1 rechtswert',
        'y northing north n utmy yutm utmn utmnorth ycoord ycoordinate coordy coordsy mapy '
        + 'pointy coordsx2 hochwert',
    ),
    'pixels': ('col column cols sample pixelx', 'row rows line pixely'),
}
#: Names of columns that hold geometries as text, from QGIS's clipboard and PostGIS too.
_SHAPES = (
    'wkt',
    'geometry',
    'wktgeom',
    'thegeom',
    'geom',
    'wktgeometry',
    'geometrywkt',
)


def holds_features(path: Path) -> bool:
    """Tell by its name whether a file is a vector, perhaps in an archive."""
    return path.suffix.lower() in (*SUFFIXES, '.zip', '.xml')


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
        colours: Red, green and blue by class, as far as the file tells.
        size: Rows and columns of the image that pixels are of, None if unknown.
    """

    frame: geopandas.GeoDataFrame
    system: Literal['crs', 'scene', 'pixels', 'unknown']
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    size: tuple[int, int] | None = None


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
    if path.suffix.lower() == '.xml':
        return _read_xml_rois(path)
    layer = _checked_layer(path, layer)
    with reading(path, 'vector file', VectorFileError):
        if path.suffix.lower() in ('.parquet', '.geoparquet'):
            frame = geopandas.read_parquet(path)
        else:
            options = {} if layer is None else {'layer': layer}
            if path.suffix.lower() == '.shp':
                _check_length(path)
                options |= unnamed_letters(path)
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


def _check_length(path: Path) -> None:
    """Refuse a shapefile that is cut off, or whose table has other rows.

    GDAL gives features without geometry for the former, and leaves out those without a
    row of the table.
    """
    with path.open('rb') as file:
        words = int.from_bytes(file.read(28)[24:], 'big')
    found = path.stat().st_size
    if found < 2 * words:
        raise VectorFileError(
            f'{path}: found {found} of the {2 * words} bytes that it says it has, '
            'expected a whole shapefile; copy or download it again'
        )
    index, table = (_beside_shapes(path, ending) for ending in ('.shx', '.dbf'))
    if index is None or table is None:
        return
    with table.open('rb') as file:
        rows = int.from_bytes(file.read(8)[4:], 'little')
    shapes = (index.stat().st_size - 100) // 8
    if rows != shapes:
        raise VectorFileError(
            f'{table}: found {rows} rows for the {shapes} geometries of {path.name}, '
            'expected one each; copy or download all files of the shapefile again'
        )


def _beside_shapes(path: Path, ending: str) -> Path | None:
    """Return the file of a shapefile with an ending in either case, if there is one."""
    files = [path.with_suffix(end) for end in (ending, ending.upper())]
    return next((file for file in files if file.is_file()), None)


def unnamed_letters(path: Path) -> dict[str, str]:
    """Tell how geopandas decodes the table of a shapefile: UTF-8, where GDAL says Latin-1.

    GDAL takes Latin-1 where neither the table nor a file ``.cpg`` names an encoding.

    Args:
        path: The shapefile, or its table.

    Returns:
        The argument for geopandas; nothing where the file tells, or holds no UTF-8.
    """
    named = any(path.with_suffix(end).exists() for end in ('.cpg', '.CPG', '.cst'))
    table = _beside_shapes(path, '.dbf')
    if named or table is None:
        return {}
    raw = table.read_bytes()
    if len(raw) < 32 or raw[29]:
        return {}
    try:
        raw[int.from_bytes(raw[8:10], 'little') :].decode('utf-8')
    except UnicodeDecodeError:
        return {}
    return {'encoding': 'UTF-8'}


def layers_of(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of all layers of a file, and of those that have geometries."""
    with reading(path, 'vector file', VectorFileError):
        listed = geopandas.list_layers(path)
        return listed.name.tolist(), listed.name[listed.geometry_type.notna()].tolist()


def _checked_layer(path: Path, layer: str | None) -> str | None:
    """Return the layer to read; one of several that is not named is said."""
    if path.suffix.lower() not in LAYERED:
        return layer
    listed, names = layers_of(path)
    if layer is None and names and len(listed) > 1:
        layer = names[0]
        if len(names) > 1:
            logger.warning(
                '%s: found the layers %s; the first one is read (layer= names another)',
                path,
                names,
            )
    elif layer is not None and layer not in listed:
        raise VectorFileError(
            f'{path}: found no layer {layer!r}, expected one of {listed}'
        )
    return layer


def _read_table(path: Path) -> Features:
    """Read a table of points, or ENVI's regions of interest as text."""
    with reading(path, 'a table of points', VectorFileError):
        raw = path.read_bytes()
        text = decoded(raw)
    lines = text.splitlines()
    if lines and 'ENVI Output of ROIs' in lines[0]:
        return _read_rois(path, lines)
    if path.suffix.lower() == '.roi':
        raise VectorFileError(
            f"{path}: found a binary file of ENVI's regions of interest, which is not "
            'read, expected their text or XML; save them so in ENVI (Output ROIs to '
            'ASCII, or Save As XML)'
        )
    if not text.strip():
        raise VectorFileError(
            f'{path}: found an empty file, expected a table of points with names of '
            'columns, such as x,y,class'
        )
    with reading(path, 'a table of points', VectorFileError):
        table, longer = (parsed(text, index) for index in (False, None))
    # Of rows with more values than names pandas takes the first ones as an index.
    if (
        not longer.reset_index(drop=True).equals(table)
        and longer.iloc[:, -1].notna().any()
    ):
        raise VectorFileError(
            f'{path}: found rows with more values than the first line has names '
            f'({list(map(str, table.columns))}), expected one name a column'
        )
    if all(re.fullmatch(r'[-+\d.eE]+', str(name)) for name in table.columns):
        raise VectorFileError(
            f'{path}: found numbers in the first line, expected names of columns, such '
            'as x,y,class; a label map written as a matrix is read from .npy, .mat or '
            'GeoTIFF'
        )
    columns = plain_names(table)
    for kind, names in _PLACES.items():
        found = [
            next((columns[name] for name in axis.split() if name in columns), None)
            for axis in names
        ]
        if None not in found:
            return _points(path, table, str(found[0]), str(found[1]), kind)
    shape = next((columns[name] for name in _SHAPES if name in columns), None)
    if shape is None:
        raise VectorFileError(
            f'{path}: found columns {list(map(str, table.columns))}, expected places in '
            'x and y, easting and northing, lon and lat, col and row, or wkt'
        )
    with reading(path, 'a table of geometries', VectorFileError):
        geometry = _geometries(path, table[shape])
        frame = geopandas.GeoDataFrame(table.drop(columns=shape), geometry=geometry)
    return Features(frame, 'scene' if frame.crs is None else 'crs')


def _geometries(path: Path, column: 'pd.Series[Any]') -> geopandas.GeoSeries:
    """Read geometries as WKT or, as PostGIS writes them, WKB in digits; both with a SRID."""
    texts = column.dropna().astype(str).str.strip()
    parts = texts.str.extract(r'(?i)(?:SRID=(\d+);)?\s*(.*)')
    if parts[1].str.fullmatch('0[01][0-9A-Fa-f]{16,}').all():
        shapes = shapely.from_wkb(parts[1].to_list())
    else:
        shapes = shapely.from_wkt(parts[1].to_list())
    told = pd.to_numeric(parts[0]).fillna(
        pd.Series(shapely.get_srid(shapes), texts.index)
    )
    systems = sorted(set(told.astype(int)) - {0})
    if len(systems) > 1:
        raise VectorFileError(
            f'{path}: found geometries of the systems (SRID) {systems} in column '
            f'{column.name!r}, expected one'
        )
    crs = f'EPSG:{systems[0]}' if systems else None
    return geopandas.GeoSeries(shapes, texts.index, crs=crs).reindex(column.index)


def _points(path: Path, table: pd.DataFrame, x: str, y: str, kind: str) -> Features:
    """Make points of two columns of a table."""
    places = pd.DataFrame({name: _coordinates(path, table[name]) for name in (x, y)})
    for name in (x, y) if kind == 'pixels' else ():
        parts = places[name][places[name] % 1 > 0]
        if len(parts):
            # Whether 1.5 is the centre of pixel 1 or the border of 2 no file tells.
            raise VectorFileError(
                f'{path}: found {parts.iloc[0]:g} in column {name!r}, expected whole '
                'numbers of pixels, from 0'
            )
    with reading(path, 'a table of points', VectorFileError):
        inner = 0.5 if kind == 'pixels' else 0.0  # the centre of a pixel
        geometry = geopandas.points_from_xy(places[x] + inner, places[y] + inner)
        crs = 'OGC:CRS84' if kind == 'degrees' else None
        frame = geopandas.GeoDataFrame(
            table.drop(columns=[x, y]), geometry=geometry, crs=crs
        )
    if kind == 'scene':
        return Features(frame, 'scene')
    return Features(frame, 'crs' if kind == 'degrees' else 'pixels')


def _coordinates(path: Path, column: 'pd.Series[Any]') -> 'pd.Series[float]':
    """Return a column of numbers, also of texts with a comma for the point."""
    given = column.notna()
    texts = column[given].astype(str).str.strip()
    numbers = pd.to_numeric(texts.str.replace(',', '.'), errors='coerce')
    wrong = numbers.isna()
    if wrong.any():
        raise VectorFileError(
            f'{path}: found {texts[wrong].iloc[0]!r} in column {column.name!r}, expected '
            'coordinates'
        )
    return numbers.reindex(column.index).astype(float)


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
    colours = re.findall(r';\s*ROI rgb value:(.*)', head)
    return Features(
        frame,
        'pixels',
        _coloured(names, colours) if len(colours) == len(names) else {},
        None if size is None else (int(size[2]), int(size[1])),
    )


def _read_xml_rois(path: Path) -> Features:
    """Read ENVI's XML of regions of interest, in map or pixel coordinates."""
    with reading(path, 'ENVI regions of interest', VectorFileError):
        # The parser knows no external entities, and expat bounds internal ones.
        root = ElementTree.parse(path).getroot()
    if root.tag != 'RegionsOfInterest':
        raise VectorFileError(
            f'{path}: found XML of {root.tag!r}, expected ENVI regions of interest '
            '(RegionsOfInterest)'
        )
    names, systems, empty = [], set(), []
    shapes: list[Any] = []
    with reading(path, 'ENVI regions of interest', VectorFileError):
        regions = [
            (region.get('name', ''), region.get('color', ''), region)
            for region in root.iter('Region')
        ]
        for name, _, region in regions:
            before = len(shapes)
            for definition in region.iter('GeometryDef'):
                system = (definition.findtext('CoordSysStr') or 'none').strip()
                found = list(_xml_shapes(definition))
                names += [name] * len(found)
                shapes += found
                systems.add(system)
            if len(shapes) == before:
                empty.append(name)
    if shapes and empty:
        logger.warning(
            '%s: the regions of interest %s have no polygons, lines or points and are '
            'left out',
            path,
            quoted(empty),
        )
    if not shapes or len(systems) != 1:
        raise VectorFileError(
            f'{path}: found {len(shapes)} geometries in {len(systems)} coordinate '
            'systems, expected polygons, lines or points in one'
        )
    system = systems.pop()
    pixels = system.lower() in ('none', '')
    with reading(path, 'ENVI regions of interest', VectorFileError):
        frame = geopandas.GeoDataFrame(
            {'roi': names}, geometry=shapes, crs=None if pixels else system
        )
    colours = _coloured([name for name, _, _ in regions], [c for _, c, _ in regions])
    return Features(frame, 'pixels' if pixels else 'crs', colours)


def _xml_shapes(definition: ElementTree.Element) -> Iterator[Any]:
    """Yield the geometries of a region."""

    def pairs(element: ElementTree.Element) -> list[tuple[float, float]]:
        numbers = [float(n) for n in (element.findtext('.//Coordinates') or '').split()]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    for polygon in definition.iter('Polygon'):
        outer = polygon.find('Exterior')
        if outer is not None:
            holes = [pairs(ring) for ring in polygon.iter('Interior')]
            yield shapely.Polygon(pairs(outer), holes)
    for tag in ('LineString', 'Polyline'):
        for line in definition.iter(tag):
            yield shapely.LineString(pairs(line))
    for tag in ('Point', 'MultiPoint'):
        for point in definition.iter(tag):
            yield shapely.MultiPoint(pairs(point))


def _coloured(
    names: Sequence[str], texts: Sequence[str]
) -> dict[str, tuple[int, int, int]]:
    """Return colours that are written as three numbers, by class."""
    colours = {}
    for name, text in zip(names, texts, strict=True):
        numbers = [min(255, int(number)) for number in re.findall(r'\d+', text)]
        if len(numbers) == 3:
            red, green, blue = numbers
            colours[name.strip()] = (red, green, blue)
    return colours
