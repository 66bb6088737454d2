# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Files of polygons, lines and points."""

from pathlib import Path

import geopandas

from ..._reading import FileError, reading, require_file

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


class VectorFileError(FileError):
    """The file is none in which geopandas finds geometries."""


def read_features(path: Path, layer: str | None = None) -> geopandas.GeoDataFrame:
    """Read a file that geopandas reads; a folder ``.gdb`` too.

    Args:
        path: The file.
        layer: Layer of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        VectorFileError: If geopandas cannot read it or finds no geometries.
    """
    if path.suffix.lower() != '.gdb' or not path.is_dir():
        require_file(path, 'vector labels')
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
    return frame
