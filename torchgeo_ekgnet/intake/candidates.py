# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What the files of a scene can be: cube, labels or wavelengths."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._reading import FileError, decoded, elsewhere, require_file
from .._wording import listed
from ..datasets.centre_files import centres_of_table
from ..datasets.label_files import is_table
from ..datasets.sources import Request, enmap, envi, hdf5
from ..datasets.sources.envi_files import find
from ..datasets.sources.envi_header import TYPES, EnviHeader, first_line
from ..datasets.sources.raster import bands_of, open_raster
from ..datasets.sources.vector import holds_features, read_features
from ..datasets.units import written_numbers
from .arrays import ARRAY_SUFFIXES, list_variables, prisma_shape

__all__ = ('Candidate', 'called', 'list_candidates')

#: Files that belong to another one and are never a scene's own.
_COMPANIONS = (
    *('.xml', '.prj', '.dbf', '.shx', '.cpg', '.qmd', '.qml', '.tfw', '.ovr'),
    *('.yaml', '.yml', '.html', '.md', '.pdf'),
)
#: Files that a folder holds beside a scene; they are looked at where they are named.
_BESIDE = ('.png', '.jpg', '.jpeg', '.zip')


@dataclass(frozen=True)
class Candidate:
    """One candidate for cube, labels or wavelengths.

    Attributes:
        paths: The file or files, or the pattern that finds them.
        kind: 'raster', 'array', 'product' (several arrays or rasters that are one
            cube), 'vector', 'text' (of numbers) or 'file'.
        shape: Rows, columns and bands; of an array its axes as they are stored, unless
            the file tells their order; nothing for other kinds.
        variable: Name of the array in the file.
        several: Whether it is a pattern.
        whole: Whether values are whole numbers, None if that is unknown.
        told: Whether the file of an array tells the order of its axes.
    """

    paths: tuple[str, ...]
    kind: str
    shape: tuple[int, ...] = ()
    variable: str | None = None
    several: bool = False
    whole: bool | None = None
    told: bool = False

    def __str__(self) -> str:
        """Name file, variable and size."""
        name = listed(self.paths, 1)
        inside = f', variable {self.variable}' if self.variable else ''
        size = ' x '.join(map(str, self.shape))
        return f'{name}{inside}' + (f' ({size})' if size else '')

    @property
    def many(self) -> bool:
        """Whether there is more than one file."""
        return len(self.paths) > 1


@dataclass(frozen=True)
class _Group:
    """Files that are looked at as one; of several the first name is their pattern."""

    names: tuple[str, ...]
    listed: bool = False


def list_candidates(files: Sequence[str]) -> tuple[list[Candidate], list[str]]:
    """Tell what files can be.

    Args:
        files: Files, patterns or folders.

    Returns:
        The candidates, and the files of folders that are none.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file that is named cannot be read.
    """
    found: list[Candidate] = []
    other: list[str] = []
    for group in _groups(files):
        try:
            found += list(_look_at(group))
        except ValueError:
            if not group.listed:
                raise
            other.append(group.names[0])
    return found, other


def called(name: str) -> str:
    """Return the name of a candidate: of a product's file that of its metadata."""
    product = enmap.metadata_of(Path(name))
    return name if product is None else str(product)


def _groups(files: Sequence[str]) -> list[_Group]:
    """Put files that belong together side by side: patterns, and headers with data."""
    groups: list[_Group] = []
    single: dict[str, bool] = {}
    for name in files:
        if glob.has_magic(name) and not os.path.exists(name):
            found = tuple(sorted(glob.glob(name)))
            if not found:
                raise FileNotFoundError(f'found no file that matches {name}')
            for path in found:
                if not os.path.isdir(path):
                    require_file(path)
            groups.append(_Group((name, *found)))
        elif os.path.isdir(name) and not name.lower().endswith('.gdb'):
            for path in _inside(Path(name)):
                single.setdefault(path, True)
        elif os.path.exists(name):
            if not os.path.isdir(name):
                require_file(name)
            single[called(name)] = False
        else:
            raise FileNotFoundError(f'found no file {name}{elsewhere(name)}')
    described = {
        os.path.realpath(_data_of(name)) for name in single if _is_header(name)
    }
    for name, from_folder in single.items():
        # An ENVI scene is named by its header; other headers are read with their file.
        if os.path.realpath(name) in described or (
            name.lower().endswith('.hdr') and not _is_header(name)
        ):
            continue
        groups.append(_Group((name,), from_folder))
    if not groups:
        for name in files:
            if name.lower().endswith('.hdr'):
                EnviHeader(Path(name))  # it says why it is none
        raise FileNotFoundError(
            f'found no file of a scene in {", ".join(files)}: name its cube and its labels'
        )
    return groups


def _inside(folder: Path) -> list[str]:
    """List the files of a folder that may be a scene's; of a product its metadata."""
    paths = sorted(
        path
        for path in folder.iterdir()
        if (path.is_file() or path.suffix.lower() == '.gdb')
        and not path.name.startswith('.')
    )
    products = [path for path in paths if enmap.is_metadata(path)]
    starts = tuple(path.name[: -len('METADATA.XML')] for path in products)
    return [
        str(path)
        for path in paths
        if path in products
        or (
            path.suffix.lower() not in (*_COMPANIONS, *_BESIDE)
            and not (starts and path.name.startswith(starts))
        )
    ]


def _is_header(name: str) -> bool:
    """Tell whether a file is an ENVI header."""
    return name.lower().endswith('.hdr') and first_line(Path(name)) == 'ENVI'


def _data_of(name: str) -> str:
    """Find the binary file of an ENVI header; other files are their own."""
    pair = find(Path(name)) if _is_header(name) else None
    return name if pair is None else str(pair[1])


def _look_at(group: _Group) -> Iterator[Candidate]:
    """Tell what a file, or a pattern and its files, can be."""
    path = Path(group.names[-1])
    suffix = path.suffix.lower()
    paths = group.names[1:] or group.names
    several = len(group.names) > 1
    shown = group.names[:1]
    if enmap.claims(path) and not several:
        yield Candidate(shown, 'product', enmap.open_source(path, Request()).shape)
    elif suffix in ARRAY_SUFFIXES or hdf5.claims(path):
        shape = None if several else prisma_shape(path)
        if shape is not None:
            yield Candidate(shown, 'product', shape)
            return
        for item in list_variables(Path(paths[0])):
            sizes = tuple(size for size in item.shape if size > 1)
            told = item.axes is not None and len(item.axes) == len(sizes)
            if told:
                by_axis = dict(zip(item.axes or '', sizes, strict=True))
                sizes = tuple(by_axis[axis] for axis in 'yxb' if axis in by_axis)
            if len(sizes) in (2, 3):
                name, whole = item.name, item.whole
                yield Candidate(shown, 'array', sizes, name, several, whole, told)
    elif is_table(path):
        yield Candidate(shown, _kind_of_text(path), several=several)
    elif suffix == '.xml':
        if b'<RegionsOfInterest' in path.read_bytes():
            read_features(path)  # it says what is wrong
            yield Candidate(shown, 'vector', several=several)
    elif holds_features(path):
        if suffix == '.zip' and not _is_features(path):
            raise ValueError(
                f'{path}: found an archive that holds no polygons or points, expected '
                'files of a scene; unpack it first'
            )
        yield Candidate(shown, 'vector', several=several)
    elif suffix not in _COMPANIONS:
        try:
            yield _raster(shown, paths[0], several)
        except ValueError:
            # GDAL knows more kinds of vector files than have an ending here.
            if not _is_features(path):
                raise
            yield Candidate(shown, 'vector', several=several)


def _raster(shown: tuple[str, ...], path: str, several: bool) -> Candidate:
    """Look at what no other format claims."""
    try:
        # GDAL does not read every header of ENVI that is read.
        header = envi.header_of(Path(path))
        if header is not None:
            shape, kind = header.size, TYPES.get(header.integer('data type'), 'f4')
        else:
            data = Path(_data_of(path))
            with open_raster(data) as file:
                size, kind = (file.height, file.width), file.dtypes[0]
            shape = (*size, bands_of(data))
        whole = np.dtype(kind).kind in 'iu'
    except FileError as error:
        raise ValueError(
            f'{path}: found no raster, array or vector file that can be read, '
            f'expected a file of a scene: {error}'
        ) from error
    return Candidate(shown, 'raster', shape, None, several, whole)


def _kind_of_text(path: Path) -> str:
    """Tell band centres, which are numbers and nothing else, from points and regions.

    Raises:
        ValueError: If it is neither.
    """
    try:
        numbers, _ = written_numbers(decoded(path.read_bytes()))
    except ValueError:
        numbers = []
    if not numbers:
        try:
            read_features(path)
        except FileError as error:
            if centres_of_table(decoded(path.read_bytes())) is not None:
                return 'text'
            raise ValueError(
                f'{path}: found neither band centres, one number a band, nor points or '
                f'regions with classes: {error}'
            ) from error
        return 'vector'
    return 'text'


def _is_features(path: Path) -> bool:
    """Tell whether a file of XML or an archive holds polygons, lines or points."""
    try:
        read_features(path)
    except FileError:
        return False
    return True
