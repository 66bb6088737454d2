# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which files an ENVI scene consists of: a header, and what it describes."""

import logging
from pathlib import Path

from ..._reading import FileError
from . import array, hdf5, matlab, vector
from .envi_header import EnviHeader, first_line

logger = logging.getLogger(__name__)

#: Usual endings of the binary file, the most likely first; any other one is taken too.
_USUAL = ('.dat', '.img', '.raw', '.bsq', '.bil', '.bip', '.bin')
#: Endings of files that may lie beside a header and are not its raw binary file.
_OTHER = (
    *array.SUFFIXES,
    *matlab.SUFFIXES,
    *hdf5.SUFFIXES,
    *vector.SUFFIXES,
    *('.hdr', '.enp', '.sta', '.gsw', '.roi', '.prj', '.shx', '.dbf', '.cpg', '.qpj'),
    *('.tif', '.tiff', '.jp2', '.vrt', '.png', '.jpg', '.jpeg', '.bmp', '.pdf', '.ovr'),
    *('.txt', '.csv', '.xml', '.yaml', '.yml', '.md', '.log', '.qml', '.zip', '.gz'),
)
#: Endings of files of other kinds that a header may describe, by its "file type".
FOREIGN = {
    'tiff': ('.tif', '.tiff'),
    'geotiff': ('.tif', '.tiff'),
    'jpeg2000': ('.jp2', '.j2k'),
    'png': ('.png',),
    'bmp': ('.bmp',),
    'jpeg': ('.jpg', '.jpeg'),
    'nitf': ('.ntf', '.nitf'),
    'hdf': ('.hdf', '.h5', '.he5'),
    'hdf5': ('.h5', '.he5', '.hdf5'),
}


def find(path: Path) -> tuple[Path, Path] | None:
    """Return header and data file from either of them, None if there is no header.

    Raises:
        FileNotFoundError: If the header, or its data file, does not exist.
        FileError: If the header is not ENVI's, or several files may be the binary.
    """
    suffix = path.suffix.lower()
    if suffix == '.hdr':
        return path, _find_data(EnviHeader(path))
    if not path.is_file():
        return None
    for header in _headers_of(path):
        # ESRI describes its .bil, .bip and .bsq in files of the same ending.
        if not header.is_file() or first_line(header) != 'ENVI':
            continue
        if suffix not in _OTHER:
            return header, path
        # A file of another kind is described only by a header that calls it so.
        if suffix in FOREIGN.get(EnviHeader(header).file_type, ()):
            return header, path
        if header.stem == path.name:
            logger.warning(
                '%s is ignored: it calls %s a raw binary (file type %r); with the file '
                'type of that file, its wavelengths and bad bands would be read',
                header,
                path.name,
                EnviHeader(header).text('file type'),
            )
    return None


def _headers_of(path: Path) -> list[Path]:
    """Return where the header of a file may lie."""
    names = (path.name, path.stem)
    return [path.with_name(name + end) for name in names for end in ('.hdr', '.HDR')]


def _find_data(header: EnviHeader) -> Path:
    """Find the file of values that belongs to a header."""
    path = header.path
    stem = path.with_suffix('')
    endings = FOREIGN.get(header.file_type, _USUAL)
    usual = [stem]
    for suffix in endings:
        usual += [stem.with_name(stem.name + end) for end in (suffix, suffix.upper())]
    found = [file for file in usual if file.is_file()]
    # Where case does not count, two names are one file.
    found = [
        file
        for place, file in enumerate(found)
        if not any(file.samefile(other) for other in found[:place])
    ]
    if not found and endings is _USUAL:
        found = [
            file
            for file in sorted(path.parent.iterdir())
            if file.with_suffix('') == stem
            and file.suffix.lower() not in _OTHER
            and file.is_file()
        ]
    if not found:
        raise FileNotFoundError(
            f'ENVI header {path} has no binary file beside it: no file of its name '
            f'with none or another ending, such as {", ".join(endings)}'
        )
    if len(found) > 1:
        raise FileError(
            f'ENVI header {path} has several files beside it that may be its binary '
            f'file ({", ".join(file.name for file in found)}); name the binary file'
        )
    return found[0]
