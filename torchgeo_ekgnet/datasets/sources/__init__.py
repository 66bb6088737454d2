# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""File formats: one file and one line in ``FORMATS`` each.

What they share: ``base`` (what every format delivers), ``stack`` (several files as one
cube), ``memmap``, ``axes``; of files with several arrays ``variables`` (which one is
meant) and ``facts`` (what the file tells of bands and classes beside it).
``envi_files``, ``envi_header`` and ``byte_order`` belong to ``envi``, ``hdf5_file``,
``hdf5_place`` and ``conventions`` to ``hdf5``, ``legend`` to ``raster``; ``vector`` reads
features, with ``table``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..._reading import require_file
from . import array, enmap, envi, hdf5, matlab, raster
from .base import ArraySource, CubeSource, Request, Source
from .stack import joined

__all__ = (
    'FORMATS',
    'ArraySource',
    'CubeSource',
    'Format',
    'Request',
    'Source',
    'open_source',
    'open_sources',
)


class Format(Protocol):
    """What a module of this package offers for its format."""

    def claims(self, path: Path) -> bool:
        """Tell whether the path names a file of this format."""

    def open_source(self, path: Path, request: Request) -> Source:
        """Open the file.

        Raises:
            FileError: If it is damaged or does not hold what is wanted.
        """


#: The first format that claims a file opens it.
FORMATS: list[Format] = [enmap, envi, array, matlab, hdf5, raster]


def open_source(path: Path, request: Request, what: str = 'cube') -> Source:
    """Open one file.

    Args:
        path: The file.
        request: What is wanted of it.
        what: What the file holds, for the error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or does not hold what is wanted.
    """
    path = require_file(path, what)
    for format_ in FORMATS:
        if format_.claims(path):
            return format_.open_source(path, request)
    raise ValueError(f'{path}: found a file of no known format')


def open_sources(paths: Sequence[Path], request: Request) -> Source:
    """Open the files of one cube."""
    parts = [open_source(path, request) for path in paths]
    return parts[0] if len(parts) == 1 else joined(parts)
