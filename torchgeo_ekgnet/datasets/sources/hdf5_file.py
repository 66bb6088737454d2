# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What an HDF5 or NetCDF file holds: its arrays by name, whatever stores or links them."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

from ..._reading import FileError, check_memory, reading
from .axes import told_axes
from .facts import Variable, are_class_names, is_fact, text_of, written_fact

#: Attribute, of our own making, with the order of axes that dimension scales tell.
AXES = ' axes'
#: The same with the names of the variables that hold the coordinates of each axis.
COORDINATES = ' coordinates'
#: The same with the CRS, as WKT, of the variable that ``grid_mapping`` names.
SYSTEM = ' crs'
#: The same with the ``Map_Info`` of its product, and the EPSG code beside it, as texts.
PLACE = ' place'

_MAP_INFO, _CODES = 'map_info', ('epsg code', 'epsg_code')

Members = list[tuple[str, Any]]
"""Datasets and groups by their names."""


@contextmanager
def open_hdf5(
    path: Path, named: str | None = None
) -> Iterator[tuple[dict[str, Variable], Mapping[str, Any]]]:
    """Open an HDF5 or NetCDF file.

    An array has one name, unless a second one, which a link gives it, is asked for.

    Args:
        path: The file.
        named: The variable that is asked for.

    Yields:
        The variables that hold numbers, by their path in the file, and the attributes
        of the file.

    Raises:
        FileError: If the file, or what is read from it meanwhile, is damaged.
    """
    with path.open('rb') as raw:
        magic = raw.read(4)
    if magic in (b'CDF\x01', b'CDF\x02'):
        yield _read_classic_netcdf(path)
        return
    if magic == b'\x0e\x03\x13\x01':
        raise FileError(
            f'{path} is an HDF4 file, which is not read; convert it to NetCDF-4 or '
            'GeoTIFF (gdal_translate)'
        )
    if magic == b'CDF\x05':
        raise FileError(
            f'{path} is a NetCDF file of the kind CDF-5, which is not read; convert it '
            'to NetCDF-4 (nccopy -k nc4)'
        )
    with reading(path, 'HDF5'), h5py.File(path, 'r') as file:
        variables: dict[str, Variable] = {}
        systems: dict[str, str] = {}
        places: dict[str, str | None] = {}

        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            own = _attributes(item)
            _note_system(systems, name, own)
            if isinstance(item, h5py.Dataset) and _tells_place(name, item):
                places[name] = text_of(item[()])
            if 'MATLAB_sparse' in own and isinstance(item, h5py.Group):
                variables[name] = Variable(_full(path, item), {})
            if name.rpartition('/')[0] in variables or name.startswith('#'):
                return
            # Texts in double quotes, tables and the like lie in a place of their own.
            if 'MATLAB_object_decode' in own:
                return
            kind = text_of(own.get('MATLAB_class'))
            for place, cell in _cells(name, item, kind):
                visit(place, cell)
                if isinstance(cell, h5py.Group):
                    for inner, member in _members(cell):
                        visit(f'{place}/{inner}', member)
            texts = _texts(item) if is_fact(name) else None
            if texts is not None:
                fact = written_fact(path, name, texts, own)
                variables.update({} if fact is None else {name: fact})
                return
            numeric = isinstance(item, h5py.Dataset) and item.dtype.kind in 'iufb'
            # A dataset may have no values at all (no shape). MATLAB stores texts as
            # numbers, and the size of what is empty.
            held = numeric and item.shape is not None and 'MATLAB_empty' not in own
            if held and kind != 'char':
                told, scales = _axes_of(item, own)
                own |= {AXES: told, COORDINATES: scales}
                variables[name] = Variable(item, own)

        members = _members(file)
        for place, member in members:
            visit(place, member)
        lost = _follow_links(file, members, visit)
        asked = (named or '').strip('/')
        if (
            asked
            and asked not in variables
            and isinstance(file.get(asked), h5py.Dataset)
        ):
            visit(asked, file[asked])
        if asked in lost or (lost and not variables):
            name = asked if asked in lost else next(iter(lost))
            raise FileError(
                f'{path}: {name!r} should lie at {lost[name]}, and found nothing there, '
                'expected the file that the link names beside it'
            )
        _give_systems(variables, systems)
        _give_places(variables, places)
        yield variables, _attributes(file)


def _tells_place(name: str, item: h5py.Dataset) -> bool:
    """Tell whether a dataset is one value that tells the place of a product."""
    return name.split('/')[-1].lower() in (_MAP_INFO, *_CODES) and item.size == 1


def _give_places(
    variables: dict[str, Variable], places: Mapping[str, str | None]
) -> None:
    """Give every variable the place that its product, a group of the file, tells."""
    for name, text in places.items():
        group, _, word = name.rpartition('/')
        if word.lower() != _MAP_INFO or not text:
            continue
        beside = [place for place in places if place.rpartition('/')[0] == group]
        codes = [places[other] for other in beside if other != name]
        told = text, codes[0] if codes else None
        product = name.split('/')[0] + '/'
        for variable, (data, own) in variables.items():
            if variable.startswith(product):
                variables[variable] = Variable(data, {**own, PLACE: told})


def _note_system(
    systems: dict[str, str], name: str, attributes: Mapping[str, Any]
) -> None:
    """Keep the CRS that a variable tells, which may have no values, by its short name."""
    for key in ('crs_wkt', 'spatial_ref'):
        if text := text_of(attributes.get(key)):
            systems[name.split('/')[-1]] = text


def _give_systems(variables: dict[str, Variable], systems: Mapping[str, str]) -> None:
    """Give every variable the CRS of the one that its ``grid_mapping`` names."""
    for name, (data, own) in variables.items():
        # 'crs', 'group/crs' or 'crs: x y'
        named = re.match(
            r'[\w/]*?(\w+)\s*(?::|$)', text_of(own.get('grid_mapping')) or ''
        )
        if named is not None and named[1] in systems:
            variables[name] = Variable(data, {**own, SYSTEM: systems[named[1]]})


def class_names_of(path: Path) -> dict[str, Any]:
    """Return the lists of the names of classes that a file holds as texts.

    Args:
        path: The file; NetCDF before version 4 has none.
    """
    if not h5py.is_hdf5(path):
        return {}
    with reading(path, 'HDF5'), h5py.File(path, 'r') as file:
        named = {n: _texts(i) for n, i in _members(file) if are_class_names(n)}
        return {name: text for name, text in named.items() if text is not None}


def _follow_links(
    file: h5py.File, members: Members, visit: Callable[[str, Any], None]
) -> dict[str, str]:
    """Visit what links to other files lead to; return the place of what is missing."""
    lost: dict[str, str] = {}
    for name, link in _external_links(file, members):
        try:
            item = file[name]
        except (KeyError, OSError):
            lost[name] = f'{link.path!r} in {link.filename}'
            continue
        visit(name, item)
        if isinstance(item, h5py.Group):
            for inner, found in _members(item):
                visit(f'{name}/{inner}', found)
    return lost


def _members(group: h5py.Group) -> Members:
    """Return what a group holds, in itself and in its groups, by name."""
    found: Members = []
    group.visititems(lambda name, item: found.append((name, item)))
    return found


def _external_links(
    file: h5py.File, members: Members
) -> Iterator[tuple[str, h5py.ExternalLink]]:
    """Yield links to other files, by name."""
    for place, group in [('', file), *members]:
        for name in group if isinstance(group, h5py.Group) else ():
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f'{place}/{name}'.lstrip('/'), link


def _texts(item: Any) -> Any:
    """Read a dataset of texts, MATLAB's characters and cells of them too, else None."""
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return None
    kind = text_of(_attributes(item).get('MATLAB_class'))
    if kind == 'char' and item.dtype.kind == 'u':
        # A column of the file is a row of MATLAB.
        rows = np.atleast_2d(item[()]).T.tolist()
        return '\n'.join(''.join(map(chr, row)) for row in rows)
    if kind == 'cell' and item.dtype == h5py.ref_dtype:
        cells = [_texts(item.file[cell]) for cell in np.ravel(item[()].T) if cell]
        return None if None in cells else '\n'.join(cells)
    return None if h5py.check_string_dtype(item.dtype) is None else item[()]


def _cells(name: str, item: Any, kind: str | None) -> Iterator[tuple[str, Any]]:
    """Yield what MATLAB keeps by references: cells, and fields of an array of structs."""
    if not isinstance(item, h5py.Dataset) or item.dtype != h5py.ref_dtype:
        return
    struct, _, field = name.rpartition('/')
    is_field = text_of(item.parent.attrs.get('MATLAB_class')) == 'struct'
    if kind != 'cell' and not is_field:
        return
    for number, reference in enumerate(np.ravel(item[()].T), start=1):
        if reference:
            place = f'{name}/{number}' if kind else f'{struct}/{number}/{field}'
            yield place, item.file[reference]


def _full(path: Path, group: h5py.Group) -> NDArray[Any]:
    """Return a sparse matrix of MATLAB as an array, in the order in which it stores."""
    rows = int(group.attrs['MATLAB_sparse'])
    ends: Any = group['jc']
    cols = len(ends) - 1
    check_memory(8 * rows * cols, path, str(group.name))
    if 'data' not in group:
        return np.zeros((cols, rows))
    parts: Any = (group['data'][()], group['ir'][()], ends[()])
    return np.asarray(scipy.sparse.csc_array(parts, shape=(rows, cols)).toarray().T)


def _attributes(item: Any) -> dict[str, Any]:
    """Return the attributes that have a value, of a type that NumPy has."""
    found = {}
    for name in item.attrs:
        try:
            value = item.attrs[name]
        except TypeError:
            continue
        if not isinstance(value, h5py.Empty):
            found[name] = value
    return found


def _axes_of(
    item: h5py.Dataset, attributes: Mapping[str, Any]
) -> tuple[str | None, list[str]]:
    """Return the order of axes that labels or scales tell, and the names of the scales.

    The functions of HDF5 for both (``item.dims``) end the process where these attributes
    have another form than its own, such as labels of fixed length.
    """
    scales, labels = [''] * item.ndim, [''] * item.ndim
    listed = attributes.get('DIMENSION_LIST', ())
    if np.shape(listed) == (item.ndim,):
        for axis, references in enumerate(np.asarray(listed, dtype=object)):
            first = np.ravel(references)[:1]
            if first.size and isinstance(first[0], h5py.Reference) and first[0]:
                scales[axis] = str(item.file[first[0]].name)
    written = attributes.get('DIMENSION_LABELS', ())
    if np.shape(written) == (item.ndim,) and np.asarray(written).dtype.kind in 'OSU':
        labels = [text_of(label) or '' for label in np.asarray(written)]
    names = [label or scale for label, scale in zip(labels, scales, strict=True)]
    return told_axes(names), scales


def _read_classic_netcdf(path: Path) -> tuple[dict[str, Variable], Mapping[str, Any]]:
    """Read variables and attributes of NetCDF before version 4."""
    with reading(path, 'NetCDF'), scipy.io.netcdf_file(path, mmap=False) as file:
        # scipy keeps the attributes of a file or variable among its own ones.
        variables: dict[str, Variable] = {}
        systems: dict[str, str] = {}
        for name, item in file.variables.items():
            kind, own = item.data.dtype, vars(item)
            _note_system(systems, name, own)
            if kind.kind in 'iuf':
                values = item.data.astype(kind.newbyteorder('='))
                names = item.dimensions
                told = {**own, AXES: told_axes(names), COORDINATES: names}
                variables[name] = Variable(values, told)
            elif is_fact(name) and (fact := written_fact(path, name, item.data, own)):
                variables[name] = fact
        _give_systems(variables, systems)
        return variables, dict(vars(file))
