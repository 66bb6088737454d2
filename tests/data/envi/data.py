# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A small ENVI scene in any interleave, and polygon labels in another CRS.

Run as a script to look at the files: ``python data.py FOLDER``.
"""

import sys
from pathlib import Path

import geopandas
import numpy as np
import shapely

ROWS, COLS, BANDS = 24, 32, 12
CRS = 'EPSG:32632'
LEFT, TOP, PIXEL = 500_000.0, 5_000_000.0, 30.0
WAVELENGTHS = np.linspace(420, 2400, BANDS).round(1)
BAD = (7,)
_AXES = {'bsq': (2, 0, 1), 'bil': (0, 2, 1), 'bip': (0, 1, 2)}
_CODES = {'uint8': 1, 'int16': 2, 'float32': 4, 'float64': 5, 'uint16': 12}
#: Columns of the crop of each third of the scene.
CROPS = {'maize': (0, 10), 'rape': (11, 21), 'wheat': (22, 32)}


def cube_of(dtype: str = 'int16') -> np.ndarray:
    """Return the cube: each crop has its own spectrum, plus noise."""
    random = np.random.RandomState(2)
    cube = random.normal(1000, 60, (ROWS, COLS, BANDS))
    for number, (start, stop) in enumerate(CROPS.values()):
        cube[:, start:stop] += 300 * np.sin(np.arange(BANDS) * (number + 1) / 2)
    return cube.round().astype(dtype)


def header(
    interleave: str = 'bil',
    dtype: str = 'int16',
    unit: str | None = 'Micrometers',
    wavelengths: np.ndarray | None = None,
    big: bool = False,
    extra: str = '',
    offset: int = 0,
) -> str:
    """Return the text of a header."""
    if wavelengths is None:
        wavelengths = WAVELENGTHS / 1000 if unit == 'Micrometers' else WAVELENGTHS
    place = f'UTM, 1, 1, {LEFT}, {TOP}'
    lines = [
        'ENVI',
        'description = {small test scene,',
        ' two lines}',
        f'samples = {COLS}',
        f'lines   = {ROWS}',
        f'bands   = {BANDS}',
        f'header offset = {offset}',
        'file type = ENVI Standard',
        f'data type = {_CODES[dtype]}',
        f'interleave = {interleave}',
        f'byte order = {int(big)}',
        f'map info = {{{place}, {PIXEL}, {PIXEL}, 32, North, WGS-84}}',
        'wavelength = {' + ',\n '.join(f'{value:g}' for value in wavelengths) + '}',
        'bbl = {' + ', '.join(str(int(b not in BAD)) for b in range(BANDS)) + '}',
    ]
    if unit is not None:
        lines.append(f'wavelength units = {unit}')
    return '\n'.join(lines) + '\n' + extra


def make(
    root: Path,
    interleave: str = 'bil',
    dtype: str = 'int16',
    suffix: str = '.dat',
    big: bool = False,
    offset: int = 0,
    cube: np.ndarray | None = None,
    **options: object,
) -> Path:
    """Write header and binary file.

    Args:
        root: Folder to write to.
        interleave: ``bsq``, ``bil`` or ``bip``.
        dtype: Type of the values.
        suffix: Ending of the binary file.
        big: Write the most significant byte first.
        offset: Bytes before the first value.
        cube: Values to write, the usual ones if None.
        options: Passed to :func:`header`.

    Returns:
        The header.
    """
    root.mkdir(parents=True, exist_ok=True)
    values = cube_of(dtype) if cube is None else cube
    stored = values.transpose(_AXES[interleave])
    stored = stored.astype(stored.dtype.newbyteorder('>' if big else '<'))
    data = b'x' * offset + stored.tobytes()
    (root / f'scene{suffix}').write_bytes(data)
    path = root / 'scene.hdr'
    path.write_text(
        header(interleave, dtype, big=big, offset=offset, **options)  # type: ignore[arg-type]
    )
    return path


def polygons(path: Path, crs: str = 'EPSG:4326') -> Path:
    """Write one polygon a crop, inset by one pixel, in another CRS."""
    shapes = []
    for start, stop in CROPS.values():
        shapes.append(
            shapely.box(
                LEFT + (start + 1) * PIXEL,
                TOP - (ROWS - 1) * PIXEL,
                LEFT + (stop - 1) * PIXEL,
                TOP - PIXEL,
            )
        )
    frame = geopandas.GeoDataFrame(
        {'crop': list(CROPS), 'code': [5, 7, 9], 'note': ['', 'x', 'y']},
        geometry=shapes,
        crs=CRS,
    )
    frame.to_crs(crs).to_file(path)
    return path


def points(path: Path) -> Path:
    """Write one point in the middle of each crop, with numbers as classes."""
    places = [
        shapely.Point(LEFT + (start + stop) / 2 * PIXEL, TOP - (ROWS / 2 - 0.3) * PIXEL)
        for start, stop in CROPS.values()
    ]
    frame = geopandas.GeoDataFrame({'code': [5, 7, 9]}, geometry=places, crs=CRS)
    frame.to_file(path)
    return path


if __name__ == '__main__':
    make(Path(sys.argv[1]))
    polygons(Path(sys.argv[1]) / 'fields.gpkg')
