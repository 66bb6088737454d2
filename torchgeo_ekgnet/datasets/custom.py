# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Own scenes from ENVI, GeoTIFF, MATLAB, NumPy, HDF5 and NetCDF files."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from torchgeo.datasets import DatasetNotFoundError

from .base import PaddingMode, Sample, SceneDataset
from .envi import envi_source, find_envi, read_envi_header, unit_factor
from .raster import Grid, RasterSource, grid_of, open_raster, read_label_map
from .readers import (
    ARRAY_SUFFIXES,
    VECTOR_SUFFIXES,
    HDF5Source,
    open_array,
    require_file,
)
from .scene import ArraySource, Bands, CubeSource, HyperspectralScene
from .vector import VectorFileError, read_vector_labels

logger = logging.getLogger(__name__)

#: Cubes above this size are read by window unless ``lazy`` says otherwise.
LAZY_BYTES = 1 << 30

#: How nodata is found: the file's own value, none, or a number (NaN included, also as
#: the text that JSON and YAML files hold instead).
Nodata = float | Literal['file', 'nan', 'inf', '-inf'] | None


@dataclass(frozen=True)
class _Cube:
    source: CubeSource
    grid: Grid
    wavelengths: NDArray[np.float64] | None = None
    bad_bands: NDArray[np.bool_] | None = None
    nodata: float | None = None
    valid: NDArray[np.bool_] | None = None


def open_scene(
    cube: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    labels: str | os.PathLike[str] | None = None,
    *,
    cube_variable: str | None = None,
    labels_variable: str | None = None,
    axes: str = 'yxb',
    attribute: str | None = None,
    layer: str | None = None,
    all_touched: bool = False,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    unlabelled: Sequence[int] = (0,),
    bands: Bands = None,
    wavelengths: Sequence[float] | str | os.PathLike[str] | None = None,
    wavelength_unit: Literal['nm', 'um'] | None = None,
    nodata: Nodata = 'file',
    crs: str | None = None,
    transform: Sequence[float] | None = None,
    lazy: bool | None = None,
    name: str | None = None,
) -> HyperspectralScene:
    """Open a scene from files.

    The cube may be ENVI (header or binary file; BIL, BIP or BSQ), GeoTIFF and anything
    else rasterio opens, several rasters whose bands are stacked, MATLAB v5 or v7.3,
    ``.npy``, ``.npz``, HDF5 or NetCDF. Labels may be a raster on the same or another
    grid, polygons, lines or points in any CRS, or an array file of the same size.

    Args:
        cube: The file; several files, or a pattern such as ``'B*.tif'``, for a stack.
        labels: The label file, None for a scene that is only mapped.
        cube_variable: Variable of the cube in MATLAB, ``.npz``, HDF5 and NetCDF files,
            None for the only array with three axes. HDF5 and NetCDF files may declare
            nodata (``_FillValue``, ``missing_value``) and name band centres
            (``wavelength``, ``wavelengths``); a CRS in them is not read.
        labels_variable: The same for labels, two axes.
        axes: Order of the axes in array files: ``y`` rows, ``x`` columns, ``b`` bands.
        attribute: Class attribute of vector labels.
        layer: Layer of vector labels.
        all_touched: Label every pixel that a geometry touches, not only those whose
            centre it covers.
        class_names: Names by label value, or in the order of the values.
        unlabelled: Label values that mean "no label".
        bands: Bands to use, see :class:`BandSelection`. Bands that an ENVI header marks
            as bad are left out unless bands are given by number.
        wavelengths: Band centres, or a text file with one number a band; overrules the
            file's own.
        wavelength_unit: Unit of the wavelengths where the file does not tell or is
            wrong.
        nodata: ``'file'`` for the value that the file declares, None for none, or a
            value. NaN, also as the text ``'nan'``, masks all values that are not
            finite.
        crs: CRS of an array file, in any form that PROJ reads, such as ``EPSG:32632``.
        transform: Affine transform of an array file: a, b, c, d, e, f as rasterio
            orders them.
        lazy: Read windows on demand; None does so above 1 GiB.
        name: Name of the scene, by default that of the file.

    Returns:
        The scene, with CRS, transform, nodata mask, wavelengths and class names.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or cube and labels do not fit together.
    """
    paths = _cube_paths(cube)
    opened = _open_cube(paths, cube_variable, axes, lazy, wavelength_unit, nodata)
    grid = _with_reference(opened.grid, crs, transform)
    centres = opened.wavelengths
    if wavelengths is not None:
        centres = _given_wavelengths(wavelengths, wavelength_unit)
    label_map: NDArray[Any] | None = None
    if labels is not None:
        label_map, class_names = _open_labels(
            Path(labels),
            grid,
            labels_variable,
            attribute,
            layer,
            all_touched,
            class_names,
            unlabelled,
        )
    source = opened.source
    stored: CubeSource | NDArray[Any] = source
    if isinstance(source, ArraySource) and not isinstance(source.array, np.memmap):
        stored = source.array
    scene = HyperspectralScene(
        stored,
        label_map,
        name=name or _stem(paths[0]),
        class_names=class_names,
        unlabelled=tuple(unlabelled),
        wavelengths=centres,
        bands=bands,
        bad_bands=opened.bad_bands,
        nodata=opened.nodata,
        valid=opened.valid,
        crs=grid.crs,
        transform=grid.transform,
        source=', '.join(path.name for path in paths[:3])
        + (f' and {len(paths) - 3} more' if len(paths) > 3 else ''),
    )
    if scene.num_masked_labels:
        logger.warning(
            '%s: %d labelled pixels have no data and are left out',
            scene.name,
            scene.num_masked_labels,
        )
    return scene


class CustomScene(SceneDataset):
    """A scene of one's own, see :func:`open_scene` for formats and arguments.

    Relative paths are taken from *root*.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = 'data',
        patch_size: int = 11,
        bands: Bands = None,
        padding_mode: PaddingMode = 'zeros',
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = False,
        cube: str | Sequence[str] = '',
        labels: str | None = None,
        cube_variable: str | None = None,
        labels_variable: str | None = None,
        axes: str = 'yxb',
        attribute: str | None = None,
        layer: str | None = None,
        all_touched: bool = False,
        class_names: Mapping[int, str] | Sequence[str] | None = None,
        unlabelled: Sequence[int] = (0,),
        wavelengths: Sequence[float] | str | None = None,
        wavelength_unit: Literal['nm', 'um'] | None = None,
        nodata: Nodata = 'file',
        crs: str | None = None,
        transform: Sequence[float] | None = None,
        lazy: bool | None = None,
        name: str | None = None,
    ) -> None:
        """Initialize a new CustomScene instance.

        Args:
            root: Folder that relative paths start from.
            patch_size: Rows and columns of a patch, odd.
            bands: Bands to use, see :class:`SceneDataset`.
            padding_mode: What lies beyond the scene's edge, see :class:`SceneDataset`.
            transforms: Takes and returns a sample.
            download: Not used; own scenes have no address.
            checksum: Not used.
            cube: See :func:`open_scene`.
            labels: See :func:`open_scene`.
            cube_variable: See :func:`open_scene`.
            labels_variable: See :func:`open_scene`.
            axes: See :func:`open_scene`.
            attribute: See :func:`open_scene`.
            layer: See :func:`open_scene`.
            all_touched: See :func:`open_scene`.
            class_names: See :func:`open_scene`.
            unlabelled: See :func:`open_scene`.
            wavelengths: See :func:`open_scene`.
            wavelength_unit: See :func:`open_scene`.
            nodata: See :func:`open_scene`.
            crs: See :func:`open_scene`.
            transform: See :func:`open_scene`.
            lazy: See :func:`open_scene`.
            name: See :func:`open_scene`.

        Raises:
            DatasetNotFoundError: If *root* does not exist.
            FileNotFoundError: If a file is missing.
            ValueError: If an argument or a file is not as expected.
        """
        if not cube:
            raise ValueError("cube is missing: name the file, such as cube='scene.hdr'")
        self.cube = cube
        self.labels = labels
        self._options: dict[str, Any] = {
            'cube_variable': cube_variable,
            'labels_variable': labels_variable,
            'axes': axes,
            'attribute': attribute,
            'layer': layer,
            'all_touched': all_touched,
            'class_names': class_names,
            'unlabelled': tuple(unlabelled),
            'wavelengths': wavelengths,
            'wavelength_unit': wavelength_unit,
            'nodata': nodata,
            'crs': crs,
            'transform': transform,
            'lazy': lazy,
            'name': name,
        }
        super().__init__(
            root, patch_size, bands, padding_mode, transforms, download, checksum
        )

    def _load_scene(self) -> HyperspectralScene:
        """Open the scene.

        Returns:
            The scene with the wanted bands.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise DatasetNotFoundError(self)
        options = dict(self._options)
        if isinstance(options['wavelengths'], str):
            options['wavelengths'] = root / options['wavelengths']
        cube = [self.cube] if isinstance(self.cube, str) else list(self.cube)
        return open_scene(
            [root / path for path in cube],
            None if self.labels is None else root / self.labels,
            bands=self.bands,
            **options,
        )


def _cube_paths(
    cube: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[Path]:
    given = [cube] if isinstance(cube, str | os.PathLike) else list(cube)
    paths: list[Path] = []
    for item in map(Path, given):
        if '*' not in item.name:
            paths.append(item)
            continue
        found = sorted(item.parent.glob(item.name), key=_natural)
        if not found:
            raise FileNotFoundError(f'cube: no file matches {item}')
        paths += found
    if not paths:
        raise FileNotFoundError('cube: no file is named')
    return paths


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r'(\d+)', path.name)
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts]


def _stem(path: Path) -> str:
    stem = path.name
    while Path(stem).suffix and len(Path(stem).suffix) <= 5:
        stem = Path(stem).stem
    return stem


def _open_cube(
    paths: Sequence[Path],
    variable: str | None,
    axes: str,
    lazy: bool | None,
    unit: str | None,
    nodata: Nodata,
) -> _Cube:
    first = paths[0]
    suffix = first.suffix.lower()
    given = None if nodata == 'file' else _number(nodata)
    envi = find_envi(first) if len(paths) == 1 else None
    if envi is not None:
        header = read_envi_header(*envi, wavelength_unit=unit)
        with open_raster(header.data) as dataset:
            grid = grid_of(dataset)
        return _Cube(
            _loaded(envi_source(header), lazy),
            grid,
            header.wavelengths,
            header.bad_bands,
            header.nodata if nodata == 'file' else given,
        )
    if suffix in ARRAY_SUFFIXES:
        if len(paths) > 1:
            raise ValueError(
                f'only rasters can be stacked from several files, got {len(paths)} '
                f'{suffix} files'
            )
        source = open_array(first, variable, axes)
        centres = None
        if isinstance(source, HDF5Source):
            if source.wavelengths is not None:
                factor = unit_factor(unit or source.wavelength_unit, str(first))
                centres = source.wavelengths * (factor or 1.0)
            if nodata == 'file':
                given = source.nodata
        grid = Grid(source.shape[0], source.shape[1])
        return _Cube(_loaded(source, lazy), grid, centres, nodata=given)
    raster = RasterSource([require_file(path, 'cube') for path in paths], unit)
    return _Cube(
        _loaded(raster, lazy),
        raster.grid,
        raster.wavelengths,
        None,
        raster.nodata if nodata == 'file' else given,
        raster.dataset_mask() if raster.masked else None,
    )


def _number(nodata: float | str | None) -> float | None:
    if nodata is None:
        return None
    try:
        return float(nodata)
    except ValueError:
        raise ValueError(
            f"nodata is {nodata!r}, expected 'file', a number ('nan' too) or None"
        ) from None


def _loaded(source: CubeSource, lazy: bool | None) -> CubeSource:
    rows, cols, bands = source.shape
    if lazy is None:
        lazy = rows * cols * bands * source.dtype.itemsize > LAZY_BYTES
    return source if lazy else ArraySource(source.read(0, rows, 0, cols))


def _with_reference(
    grid: Grid, crs: str | None, transform: Sequence[float] | None
) -> Grid:
    own_crs, own_transform = grid.crs, grid.transform
    if crs is not None:
        try:
            own_crs = CRS.from_user_input(crs)
        except (CRSError, ValueError) as error:
            raise ValueError(f'crs={crs!r} is not known to PROJ: {error}') from error
    if transform is not None:
        if len(transform) != 6:
            raise ValueError(
                f'transform must have six numbers (a, b, c, d, e, f), got {transform!r}'
            )
        own_transform = Affine(*transform)
    return Grid(grid.rows, grid.cols, own_crs, own_transform)


def _given_wavelengths(
    wavelengths: Sequence[float] | str | os.PathLike[str], unit: str | None
) -> NDArray[np.float64]:
    factor = unit_factor(unit, 'wavelength_unit') or 1.0
    if isinstance(wavelengths, str | os.PathLike):
        path = require_file(wavelengths, 'wavelengths')
        text = path.read_text(encoding='utf-8')
        try:
            wavelengths = [float(item) for item in re.split(r'[\s,;]+', text.strip())]
        except ValueError as error:
            raise ValueError(
                f'{path}: expected one wavelength a band and nothing else ({error})'
            ) from error
    return np.asarray(wavelengths, dtype=np.float64) * factor


def _open_labels(
    path: Path,
    grid: Grid,
    variable: str | None,
    attribute: str | None,
    layer: str | None,
    all_touched: bool,
    class_names: Mapping[int, str] | Sequence[str] | None,
    unlabelled: Sequence[int],
) -> tuple[NDArray[Any], Mapping[int, str] | Sequence[str] | None]:
    if not _is_vector(path, attribute, layer):
        return read_label_map(path, grid, variable, unlabelled), class_names
    try:
        return read_vector_labels(
            path, grid, attribute, class_names, layer, all_touched, unlabelled
        )
    except VectorFileError as error:
        if path.suffix.lower() in VECTOR_SUFFIXES:
            raise
        reason = 'nor can it be opened as a raster'
        if attribute is not None:
            reason = f'and attribute={attribute!r} is for vector files'
        elif layer is not None:
            reason = f'and layer={layer!r} is for vector files'
        raise ValueError(f'{error}; {reason}') from error


def _is_vector(path: Path, attribute: str | None, layer: str | None) -> bool:
    suffix = path.suffix.lower()
    if suffix in VECTOR_SUFFIXES or attribute is not None or layer is not None:
        return True
    require_file(path, 'labels')
    if suffix in ARRAY_SUFFIXES or find_envi(path) is not None:
        return False
    try:
        open_raster(path).close()
    except ValueError:
        return True
    return False
