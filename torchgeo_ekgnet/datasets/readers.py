# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Readers of array files: MATLAB v5 and v7.3, NumPy, HDF5 and NetCDF."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from .scene import ArraySource, CubeSource

#: File name endings of MATLAB, NumPy and HDF5 files.
MAT_SUFFIXES = ('.mat',)
NUMPY_SUFFIXES = ('.npy', '.npz')
HDF5_SUFFIXES = ('.h5', '.hdf5', '.hdf', '.he5', '.nc', '.nc4')
ARRAY_SUFFIXES = MAT_SUFFIXES + NUMPY_SUFFIXES + HDF5_SUFFIXES

#: Endings of files that are vectors, though GDAL may find a raster in some of them.
VECTOR_SUFFIXES = (
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

#: Names of the variable or attribute that holds the band centres.
_WAVELENGTHS = ('wavelength', 'wavelengths')
#: Attributes that declare a value for missing data.
_NODATA = ('_FillValue', 'missing_value')


def require_file(path: str | os.PathLike[str], what: str = 'file') -> Path:
    """Return a path that is known to be a file.

    Args:
        path: File to look for.
        what: What the file holds, for the error.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f'{what}: {path} is a folder, expected a file')
    if not path.is_file():
        raise FileNotFoundError(f'{what}: there is no file {path}')
    return path


def read_mat(
    path: str | os.PathLike[str], variable: str | None = None, ndim: int = 3
) -> NDArray[Any]:
    """Read one array from a MATLAB file, v5 or v7.3.

    Args:
        path: The ``.mat`` file.
        variable: Name of the variable. None takes the only array with ``ndim`` axes.
        ndim: Axes of the array: 3 for a cube, 2 for a label map.

    Returns:
        The array with MATLAB's order of axes, in its stored type.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or no MATLAB file, if the variable is not
            in it or not unique, or if it has another number of axes.
    """
    path = require_file(path, 'MATLAB file')
    if h5py.is_hdf5(path):
        return _read_hdf5(path, variable, ndim, matlab=True)
    try:
        listed = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        name = _pick(path, listed, variable, ndim)
        array = scipy.io.loadmat(path, variable_names=[name])[name]
    except Exception as error:
        if isinstance(error, _VariableError):
            raise
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) cannot be read as a MATLAB file: it '
            f'is truncated, damaged or of another format ({error}); download or export '
            'it again'
        ) from error
    return _checked_array(path, name, array, ndim)


def read_numpy(
    path: str | os.PathLike[str],
    variable: str | None = None,
    ndim: int = 3,
    mmap: bool = False,
) -> NDArray[Any]:
    """Read one array from a NumPy file.

    Args:
        path: The ``.npy`` or ``.npz`` file.
        variable: Name of the array in an ``.npz`` file. None takes the only array with
            ``ndim`` axes.
        ndim: Axes of the array.
        mmap: Map an ``.npy`` file instead of reading it.

    Returns:
        The array in its stored type.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or no NumPy file, if the variable is not in
            it or not unique, or if it has another number of axes.
    """
    path = require_file(path, 'NumPy file')
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as archive:
                shapes = {name: archive[name].shape for name in archive.files}
                name = _pick(path, shapes, variable, ndim)
                array = archive[name]
        else:
            name = path.stem
            array = np.load(path, mmap_mode='r' if mmap else None, allow_pickle=False)
    except Exception as error:
        if isinstance(error, _VariableError):
            raise
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) cannot be read as a NumPy file: '
            f'{error}'
        ) from error
    return _checked_array(path, name, array, ndim)


def read_hdf5(
    path: str | os.PathLike[str], variable: str | None = None, ndim: int = 3
) -> NDArray[Any]:
    """Read one array from an HDF5 or NetCDF file.

    Args:
        path: The file.
        variable: Path of the variable in the file, such as ``group/reflectance``. None
            takes the only array with ``ndim`` axes.
        ndim: Axes of the array.

    Returns:
        The array in its stored type and order of axes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, if the variable is not in it or not unique,
            or if it has another number of axes.
    """
    return _read_hdf5(require_file(path, 'HDF5 file'), variable, ndim, matlab=False)


def read_label_array(
    path: str | os.PathLike[str], variable: str | None = None
) -> tuple[NDArray[Any], float | None]:
    """Read labels from a MATLAB, NumPy, HDF5 or NetCDF file.

    Args:
        path: The file; its ending tells the format.
        variable: Name of the array, None for the only one with two axes.

    Returns:
        The labels (rows, cols) in their stored type, and the value that the file
        declares for missing data, None if it does not.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or the variable is not as expected.
    """
    path = require_file(path, 'labels')
    suffix = path.suffix.lower()
    if suffix in MAT_SUFFIXES:
        return read_mat(path, variable, ndim=2), None
    if suffix in NUMPY_SUFFIXES:
        return read_numpy(path, variable, ndim=2), None
    labels = read_hdf5(path, variable, ndim=2)
    with _open_hdf5(path) as (variables, _):
        name = _pick(path, _shapes(variables), variable, 2)
        return labels, _nodata(path, name, variables[name].attributes)


class HDF5Source:
    """A cube in an HDF5 or NetCDF file, read by window.

    The file is opened for every read, so that the source can be copied to other
    processes. Classic NetCDF files (version 3) are read whole.

    Args:
        path: The file.
        variable: Path of the variable, None for the only one with three axes.
        axes: Order of the file's axes, such as ``'byx'`` for bands first.
        matlab: The file is a MATLAB v7.3 file, whose axes are stored in reverse.

    Attributes:
        wavelengths: Band centres in the file's unit: an attribute of the cube, a
            variable of one axis, or an attribute of the file, of the name
            ``wavelength`` or ``wavelengths`` and with one value a band; else None.
        wavelength_unit: Their unit as the file names it, None if it does not.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        variable: str | None = None,
        axes: str = 'yxb',
        matlab: bool = False,
    ) -> None:
        """Initialize a new HDF5Source instance.

        Args:
            path: The file.
            variable: Path of the variable, None for the only one with three axes.
            axes: Order of the axes, such as ``'byx'`` for bands first.
            matlab: The file is a MATLAB v7.3 file, whose axes are stored in reverse.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the variable is not in the file, not unique or no cube.
        """
        self.path = require_file(path, 'HDF5 file')
        self.axes = check_axes(axes)[::-1] if matlab else check_axes(axes)
        with _open_hdf5(self.path) as (variables, attributes):
            name = _pick(self.path, _shapes(variables, matlab), variable, 3)
            data, own = variables[name]
            _check_ndim(self.path, name, data.shape, 3)
            stored = dict(zip(self.axes, data.shape, strict=True))
            self._dtype: np.dtype[Any] = np.dtype(data.dtype)
            self._values = data if isinstance(data, np.ndarray) else None
            self._attributes = {key: own[key] for key in _NODATA if key in own}
            self.wavelengths, self.wavelength_unit = _band_centres(
                name, variables, attributes, stored['b']
            )
        self.variable = name
        self._shape = (stored['y'], stored['x'], stored['b'])

    @property
    def nodata(self) -> float | None:
        """The nodata value that the file declares, None if it does not.

        Raises:
            ValueError: If it declares different ones.
        """
        return _nodata(self.path, self.variable, self._attributes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bands."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self._dtype

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        bands: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Read one window.

        Args:
            row_start: First row.
            row_stop: Row after the last one.
            col_start: First column.
            col_stop: Column after the last one.
            bands: Zero-based bands in the wanted order, None for all of them.

        Returns:
            Values of shape (rows, cols, bands) in their stored type.
        """
        window = {
            'y': slice(row_start, row_stop),
            'x': slice(col_start, col_stop),
            'b': slice(None),
        }
        where = tuple(window[axis] for axis in self.axes)
        if self._values is not None:
            array = self._values[where]
        else:
            with _hdf5_file(self.path) as file:
                dataset: Any = file[self.variable]
                array = dataset[where]
        cube = reorder(array, self.axes)
        return cube if bands is None else cube[:, :, bands]


class MemmapSource:
    """A cube in a binary file, mapped into memory.

    Only what is read comes into memory, and the system can drop it again. Copies that
    travel to other processes open the map anew.

    Args:
        path: The file.
        dtype: Type of a value, byte order included.
        offset: Bytes before the first value.
        stored_shape: Sizes of the axes as stored.
        axes: Order of the axes as stored, see :func:`check_axes`.
        order: ``'C'``: the last axis varies fastest; ``'F'``: the first one.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[Any],
        offset: int,
        stored_shape: tuple[int, ...],
        axes: str,
        order: Literal['C', 'F'] = 'C',
    ) -> None:
        """Initialize a new MemmapSource instance.

        Args:
            path: The file.
            dtype: Type of a value, byte order included.
            offset: Bytes before the first value.
            stored_shape: Sizes of the axes as stored.
            axes: Order of the axes as stored, see :func:`check_axes`.
            order: ``'C'``: the last axis varies fastest; ``'F'``: the first one.
        """
        self._file = (path, dtype, offset, stored_shape, check_axes(axes), order)
        self._cube = self._open()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bands."""
        rows, cols, bands = self._cube.shape
        return rows, cols, bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values, in the byte order of this machine."""
        return self._cube.dtype.newbyteorder('=')

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self._file[0],)

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        bands: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Read one window.

        Args:
            row_start: First row.
            row_stop: Row after the last one.
            col_start: First column.
            col_stop: Column after the last one.
            bands: Zero-based bands in the wanted order, None for all of them.

        Returns:
            Values of shape (rows, cols, bands) in their stored type.
        """
        window = self._cube[row_start:row_stop, col_start:col_stop]
        if bands is not None:
            window = window[:, :, bands]
        return np.array(window, dtype=self.dtype, order='C')

    def _open(self) -> NDArray[Any]:
        path, dtype, offset, shape, axes, order = self._file
        stored = np.memmap(
            path, dtype=dtype, mode='r', offset=offset, shape=shape, order=order
        )
        return reorder(stored, axes)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the map."""
        return {'_file': self._file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state and open the map.

        Args:
            state: What :meth:`__getstate__` returned.
        """
        self._file = state['_file']
        self._cube = self._open()


def check_axes(axes: str) -> str:
    """Check an order of axes.

    Args:
        axes: Three letters: ``y`` rows, ``x`` columns, ``b`` bands.

    Returns:
        The same letters.

    Raises:
        ValueError: If it is no permutation of ``yxb``.
    """
    if sorted(axes) != ['b', 'x', 'y']:
        raise ValueError(
            f'axes must order the letters y (rows), x (columns) and b (bands), such as '
            f"'yxb' or 'byx', got {axes!r}"
        )
    return axes


def reorder(array: NDArray[Any], axes: str) -> NDArray[Any]:
    """Bring the axes of a cube into the order rows, columns, bands.

    Args:
        array: Cube with axes as named.
        axes: Order of its axes, see :func:`check_axes`.

    Returns:
        A view of shape (rows, cols, bands).
    """
    return array.transpose([axes.index(axis) for axis in 'yxb'])


def open_array(
    path: str | os.PathLike[str], variable: str | None = None, axes: str = 'yxb'
) -> CubeSource:
    """Open a cube in a MATLAB, NumPy, HDF5 or NetCDF file.

    Args:
        path: The file; its ending tells the format.
        variable: Name of the cube in the file, None for the only array of three axes.
        axes: Order of the axes, see :func:`check_axes`.

    Returns:
        The source. It reads windows where the format allows it: ``.npy``, HDF5,
        NetCDF-4 and MATLAB v7.3. Others are read whole.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or the variable is not as expected.
    """
    path = require_file(path, 'cube')
    suffix = path.suffix.lower()
    check_axes(axes)
    if suffix in HDF5_SUFFIXES or (suffix in MAT_SUFFIXES and h5py.is_hdf5(path)):
        return HDF5Source(path, variable, axes, matlab=suffix in MAT_SUFFIXES)
    if suffix in MAT_SUFFIXES:
        return ArraySource(reorder(read_mat(path, variable), axes))
    if suffix in NUMPY_SUFFIXES:
        array = read_numpy(path, variable, mmap=True)
        if isinstance(array, np.memmap):
            fortran = array.flags.f_contiguous and not array.flags.c_contiguous
            return MemmapSource(
                path,
                array.dtype,
                array.offset,
                array.shape,
                axes,
                'F' if fortran else 'C',
            )
        return ArraySource(reorder(array, axes))
    raise ValueError(
        f'{path}: {suffix!r} is none of the array formats {ARRAY_SUFFIXES}'
    )


class _VariableError(ValueError):
    """A variable is missing, not unique or of the wrong shape."""


class _Variable(NamedTuple):
    """A variable: a dataset of an HDF5 file, or an array, and its attributes."""

    data: Any
    attributes: Mapping[str, Any]


@contextmanager
def _hdf5_file(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, 'r') as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) cannot be read as HDF5: it is '
            f'truncated, damaged or of another format ({error})'
        ) from error


@contextmanager
def _open_hdf5(path: Path) -> Iterator[tuple[dict[str, _Variable], Mapping[str, Any]]]:
    """Open an HDF5 or NetCDF file.

    Args:
        path: The file.

    Yields:
        The variables that hold numbers, by their path in the file, and the attributes
        of the file.

    Raises:
        ValueError: If the file, or what is read from it meanwhile, is damaged.
    """
    with path.open('rb') as raw:
        magic = raw.read(4)
    if magic in (b'CDF\x01', b'CDF\x02'):
        yield _read_classic_netcdf(path)
        return
    if magic == b'CDF\x05':
        raise ValueError(
            f'{path} is a NetCDF file of the kind CDF-5, which is not read; convert it '
            'to NetCDF-4 (nccopy -k nc4)'
        )
    with _hdf5_file(path) as file:
        variables: dict[str, _Variable] = {}

        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            numeric = isinstance(item, h5py.Dataset) and item.dtype.kind in 'iufb'
            if numeric and not name.startswith('#'):
                variables[name] = _Variable(item, item.attrs)

        file.visititems(visit)
        yield variables, file.attrs


def _read_classic_netcdf(path: Path) -> tuple[dict[str, _Variable], Mapping[str, Any]]:
    try:
        with scipy.io.netcdf_file(path, mmap=False) as file:
            # scipy keeps the attributes of a file or variable among its own ones.
            variables = {
                name: _Variable(
                    variable.data.astype(variable.data.dtype.newbyteorder('=')),
                    vars(variable),
                )
                for name, variable in file.variables.items()
                if variable.data.dtype.kind in 'iuf'
            }
            return variables, dict(vars(file))
    except Exception as error:
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) cannot be read as NetCDF: it is '
            f'truncated or damaged ({error})'
        ) from error


def _shapes(
    variables: Mapping[str, _Variable], matlab: bool = False
) -> dict[str, tuple[int, ...]]:
    return {
        name: variable.data.shape[::-1] if matlab else variable.data.shape
        for name, variable in variables.items()
    }


def _nodata(path: Path, name: str, attributes: Mapping[str, Any]) -> float | None:
    """Return the value that a variable declares for missing data."""
    try:
        declared = [
            float(value)
            for key in _NODATA
            if key in attributes
            for value in np.ravel(attributes[key])
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: {name!r} declares a nodata value that is no number ({error}); '
            'name one with nodata='
        ) from error
    # One value in single and in double precision differs in its last digits.
    if len({f'{value:.6g}' for value in declared}) > 1:
        raise ValueError(
            f'{path}: {name!r} declares different nodata values ({declared}); name one '
            'with nodata='
        )
    return declared[0] if declared else None


def _band_centres(
    cube: str,
    variables: Mapping[str, _Variable],
    attributes: Mapping[str, Any],
    bands: int,
) -> tuple[NDArray[np.float64] | None, str | None]:
    """Return the band centres of a cube and the name of their unit."""
    # Of several variables the one that shares most of the cube's path is its own.
    near = sorted(
        (name for name in variables if name.split('/')[-1].lower() in _WAVELENGTHS),
        key=lambda name: -len(os.path.commonpath([name, cube])),
    )
    candidates = [
        *_listed_centres(variables[cube].attributes),
        *(
            (variables[name].data, _lower(variables[name].attributes).get('units'))
            for name in near
        ),
        *_listed_centres(attributes),
    ]
    for values, unit in candidates:
        if np.shape(values) == (bands,) and values.dtype.kind in 'iuf':
            if unit is not None:
                unit = np.ravel(unit)[0]
                unit = unit.decode() if isinstance(unit, bytes) else str(unit)
            return np.asarray(values[()], dtype=np.float64), unit
    return None, None


def _listed_centres(attributes: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    lower = _lower(attributes)
    return [(lower[k], lower.get(f'{k}_units')) for k in _WAVELENGTHS if k in lower]


def _lower(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in attributes.items()}


def _read_hdf5(
    path: Path, variable: str | None, ndim: int, matlab: bool
) -> NDArray[Any]:
    with _open_hdf5(path) as (variables, _):
        name = _pick(path, _shapes(variables, matlab), variable, ndim)
        array = np.asarray(variables[name].data[()])
    return _checked_array(path, name, array.T if matlab else array, ndim)


def _pick(
    path: Path, shapes: dict[str, tuple[int, ...]], variable: str | None, ndim: int
) -> str:
    listed = ', '.join(f'{name} {tuple(shape)}' for name, shape in shapes.items())
    if variable is not None:
        variable = variable.strip('/')
        if variable not in shapes:
            raise _VariableError(
                f'{path} has no variable {variable!r}; it holds: {listed or "nothing"}'
            )
        return variable
    found = [
        name
        for name, shape in shapes.items()
        if len(shape) == ndim and (ndim > 2 or min(shape) > 1)
    ]
    if len(found) != 1:
        problem = 'no array' if not found else f'{len(found)} arrays'
        raise _VariableError(
            f'{path} has {problem} with {ndim} axes; it holds: {listed or "nothing"}; '
            'name the variable'
        )
    return found[0]


def _checked_array(path: Path, name: str, array: Any, ndim: int) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'iufb':
        raise ValueError(f'{path}: {name!r} is not an array of numbers')
    _check_ndim(path, name, array.shape, ndim)
    return array


def _check_ndim(path: Path, name: str, shape: tuple[int, ...], ndim: int) -> None:
    if len(shape) != ndim:
        raise _VariableError(
            f'{path}: {name!r} has shape {tuple(shape)}, expected {ndim} axes'
        )
