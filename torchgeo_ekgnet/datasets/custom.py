# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Own scenes from ENVI, GeoTIFF, MATLAB, NumPy, HDF5 and NetCDF files."""

import glob
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from torchgeo.datasets import DatasetNotFoundError

from .._files import at_home
from .._patch import PaddingMode
from .._reading import FileError, check_memory
from .._wording import listed
from .bands import Bands, BandSelection
from .base import Sample, SceneDataset, check_folder
from .centre_files import read_centres
from .label_files import SceneLabels, open_labels
from .options import Files, SceneOptions, flat_options
from .raster import Grid, check_transform, checked_grid, placed_crs, read_crs
from .scene import HyperspectralScene
from .sources import ArraySource, Request, Source, enmap, open_sources
from .sources.axes import axes_hint
from .sources.envi_files import find
from .sources.envi_header import EnviHeader
from .sources.variables import natural
from .units import nanometres, written_numbers

logger = logging.getLogger(__name__)

#: Words in names of files that lie beside bands.
_NO_BANDS = re.compile(
    r'(?:^|[^a-z])(?:qa|ql|scl|quality|quicklook|[a-z]*mask|tci|aot|wvp|preview|browse|'
    r'thumb(?:nail)?|angles?|sza|saa|vza|vaa)(?![a-z])'
)
#: Cubes above this size are read by window unless ``lazy`` says otherwise.
LAZY_BYTES = 1 << 30


@flat_options
def open_scene(
    cube: Files, options: SceneOptions, *, bands: Bands = None
) -> HyperspectralScene:
    """Open a scene from files.

    The cube may be ENVI (header or binary file; BIL, BIP or BSQ), GeoTIFF and anything
    else rasterio opens, several rasters whose bands are stacked, MATLAB v5 or v7.3,
    ``.npy``, ``.npz``, HDF5 or NetCDF. Labels may be a raster on the same or another
    grid, polygons, lines or points in any CRS, or an array file of the same size.

    Args:
        cube: The file; several files, a pattern such as ``'B*.tif'`` or a folder, for
            bands on one grid that are stacked, or tiles of one pixel grid.
        options: Each field of :class:`~torchgeo_ekgnet.datasets.SceneOptions` is an
            argument of its own.
        bands: Bands to use, see :class:`BandSelection`. Bands that the file marks as
            bad are left out unless bands are given by number.

    Returns:
        The scene, with CRS, transform, nodata mask, wavelengths and class names.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or cube and labels do not fit together.
    """
    paths = _listed(cube, 'cube')
    labelled = [] if options.labels is None else _listed(options.labels, 'labels')
    if len(paths) > 1:
        paths = _of_cube(paths, labelled)
    source = open_sources(
        paths,
        Request(
            options.cube_variable,
            options.axes,
            options.shape,
            check_memory=options.check_memory,
        ),
    )
    if options.axes is not None and source.axes is None:
        logger.warning(
            '%s: axes=%r is left out: the file tells the order of its axes itself',
            source.where,
            options.axes,
        )
    if options.check_memory:
        # A byte a pixel for the mask, and up to eight for labels as they are read.
        pixels = source.shape[0] * source.shape[1]
        check_memory(9 * pixels, source.where, f'the mask of {source.shape[:2]} pixels')
    grid = _placed(source, options.crs, options.transform)
    labels = SceneLabels(None, options.class_names)
    if options.labels is not None:
        labels = open_labels(labelled, grid, options, source)
    nodata, fill = _missing(source, options)
    # What the file marks as bad is not even read where it does not count.
    drop_bad = bands.drop_bad if isinstance(bands, BandSelection) else bands is None
    scene = HyperspectralScene(
        _stored(source, options),
        labels.labels,
        name=options.name or _name_of(paths),
        class_names=labels.class_names,
        colours=labels.colours,
        unlabelled=tuple(options.unlabelled),
        wavelengths=_centres(source, options),
        bands=bands,
        bad_bands=source.bad_bands() if drop_bad else None,
        nodata=nodata,
        nodata_in=options.nodata_in,
        fill=fill,
        valid=source.mask(),
        crs=grid.crs,
        transform=grid.transform,
        scaling=source.scaling,
        source=listed([path.name for path in paths], 3),
    )
    if scene.num_masked_labels:
        logger.warning(
            '%s: %d labelled pixels have no data and are left out',
            scene.name,
            scene.num_masked_labels,
        )
    return scene


class CustomScene(SceneDataset):
    """A scene of one's own, see :func:`open_scene` for formats.

    Relative paths are taken from *root*.
    """

    @flat_options
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
        *,
        options: SceneOptions,
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
            cube: The file or files, see :func:`open_scene`.
            options: Each field of :class:`~torchgeo_ekgnet.datasets.SceneOptions` is an
                argument of its own.

        Raises:
            DatasetNotFoundError: If *root* does not exist.
            FileNotFoundError: If a file is missing.
            ValueError: If an argument or a file is not as expected.
        """
        if cube is None or (isinstance(cube, str | list | tuple) and not cube):
            raise ValueError(
                "cube is missing: name the file, such as cube='scene.hdr' or --data.cube "
                'scene.hdr'
            )
        self.cube = cube
        self.options = options
        super().__init__(
            root, patch_size, bands, padding_mode, transforms, download, checksum
        )

    def _load_scene(self) -> HyperspectralScene:
        """Open the scene."""
        root = Path(self.root)
        check_folder(root)
        named = [Path(path) for path in _named(self.cube, 'cube')]
        if not root.is_dir() and not all(path.is_absolute() for path in named):
            error = DatasetNotFoundError(self)
            hint = " (it is in '.')" if all(path.exists() for path in named) else ''
            # Its words are of a download, which an own scene does not have.
            found = f'root: there is no folder {root}, expected the one that holds '
            error.args = (f'{found}{self.cube}{hint}',)
            raise error
        options = self.options
        if isinstance(options.wavelengths, str | os.PathLike):
            options = replace(
                options, wavelengths=str(root / at_home(options.wavelengths))
            )
        if options.labels is not None:
            options = replace(options, labels=_below(root, options.labels, 'labels'))
        cube = _below(root, self.cube, 'cube')
        return open_scene(cube, bands=self.bands, options=options)


def _named(files: Any, what: str) -> list[str]:
    """Return the files that an argument names; ``~`` is the home folder.

    Raises:
        TypeError: If it is no name.
        ValueError: If a name is empty, which as a path is the folder one is in.
    """
    single = isinstance(files, str | os.PathLike) or not isinstance(files, Iterable)
    given: list[Any] = [files] if single else [*files]
    if not all(isinstance(item, str | os.PathLike) for item in given):
        raise TypeError(
            f'{what}: found {type(files).__name__}, expected the name of a file; '
            'HyperspectralScene(cube, labels) takes arrays'
        )
    names = [os.path.expanduser(item) for item in given]
    if '' in names:
        raise ValueError(
            f'{what}: found an empty name, expected a file, a pattern or a folder'
            + (', or null (None) for no labels' if what == 'labels' else '')
        )
    return names


def _below(root: Path, files: Files, what: str) -> list[str]:
    """Give patterns of files below a folder."""
    paths = []
    for path in _named(files, what):
        # The name of the folder, and of a file that exists, may hold brackets.
        pattern = glob.has_magic(path) and not (root / path).exists()
        paths.append(str(Path(glob.escape(str(root)) if pattern else root) / path))
    return paths


def _of_cube(paths: Sequence[Path], labels: Sequence[Path]) -> list[Path]:
    """Leave out what a pattern or a folder finds beside the files of a cube.

    Raises:
        ValueError: If nothing is left.
    """
    taken = {_described(path)[0] for path in labels}
    kept, left_out = [], []
    for path in paths:
        data, is_other = _described(path)
        if data in taken or is_other:
            left_out.append(path)
        else:
            kept.append(path)
        taken.add(data)
    if left_out:
        logger.warning(
            'cube: %s left out, because they are labels, a library of spectra, or the '
            'same file again',
            listed([path.name for path in left_out]),
        )
    doubtful = [path for path in kept if _NO_BANDS.search(path.stem.lower())]
    if 0 < len(doubtful) < len(kept):
        logger.warning(
            'cube: %s taken as bands, though the name is that of masks, marks of '
            'quality, angles or pictures; a pattern or a list that leaves out what is no '
            'band names the cube',
            listed([path.name for path in doubtful]),
        )
    if not kept:
        raise ValueError(
            f'cube: found only label files, such as {paths[0]}, expected files of bands'
        )
    return kept


def _described(path: Path) -> tuple[Path, bool]:
    """Return the file that values lie in, and whether its header calls it no cube."""
    pair = find(path)
    if pair is None:
        return path.resolve(), False
    header, data = pair
    return data.resolve(), EnviHeader(header).file_type in (
        'envi classification',
        'envi spectral library',
    )


def _listed(files: Files, what: str) -> list[Path]:
    """Return the files that an argument names, patterns and folders resolved."""
    paths: list[Path] = []
    for item in map(Path, _named(files, what)):
        if item.is_dir() and item.suffix.lower() != '.gdb':
            found = _in_folder(item, what)
        elif item.exists() or not glob.has_magic(str(item)):
            found = [item]
        else:
            found = [Path(name) for name in glob.glob(str(item), recursive=True)]
            if not found:
                raise FileNotFoundError(f'{what}: no file matches {item}')
        paths += sorted(found, key=lambda path: natural(str(path)))
    if not paths:
        raise FileNotFoundError(f'{what}: no file is named')
    return paths


def _in_folder(folder: Path, what: str) -> list[Path]:
    """Return the files of a folder that can be meant: those of the first kind found."""
    kinds = [('.hdr',), ('.tif', '.tiff', '.jp2', '.vrt', '.png', '.img')]
    if what == 'labels':
        kinds.append(('.gpkg', '.shp', '.geojson', '.fgb'))
    kinds += [('.npy',), ('.mat',), ('.h5', '.he5', '.hdf5', '.nc')]
    inside = [path for path in folder.iterdir() if path.is_file()]
    products = [path for path in inside if enmap.is_metadata(path)]
    if products and what == 'cube':
        return products
    for endings in kinds:
        found = [path for path in inside if path.suffix.lower() in endings]
        if found:
            return found
    raise FileNotFoundError(
        f'{what}: the folder {folder} holds no file that can be meant, found '
        f'{listed(sorted(path.name for path in inside)) or "none"}, expected '
        f'{", ".join(ending for endings in kinds for ending in endings)}'
    )


def _name_of(paths: Sequence[Path]) -> str:
    """Return the name of a file, or what the names of several have in common."""
    names = [path.name for path in paths]
    stem = min(names)
    if len(paths) > 1:
        alike = (a == b for a, b in zip(stem, max(names), strict=False))
        stem = stem[: sum(1 for _ in itertools.takewhile(bool, alike))]
        stem = stem.rstrip('_-. 0123456789')
        return stem if len(stem) > 2 else paths[0].absolute().parent.name
    while Path(stem).suffix and len(Path(stem).suffix) <= 5:
        stem = Path(stem).stem
    return stem


def _missing(
    source: Source, options: SceneOptions
) -> tuple[float | None, float | None]:
    """Return the value of missing data, and a second one that the file declares.

    NaN and a number stand beside each other: neither can be meant as data.
    """
    if options.nodata == 'file':
        return source.nodata, None
    given = _number(options.nodata)
    if given is None:
        return None, None
    try:
        declared = source.nodata
    except FileError:
        return given, None
    beside = declared is not None and np.isnan(given) != np.isnan(declared)
    return given, declared if beside else None


def _number(nodata: float | str | None) -> float | None:
    """Read a value of missing data."""
    if nodata is None:
        return None
    if not isinstance(nodata, bool):
        with suppress(ValueError):
            return float(nodata)
    raise ValueError(
        f"nodata is {nodata!r}, expected 'file', a number ('nan' too) or None"
    )


def _stored(source: Source, options: SceneOptions) -> Any:
    """Return the cube in memory, or what reads it by window."""
    storage = source.storage
    if isinstance(storage, ArraySource) and not isinstance(storage.array, np.memmap):
        return storage.array
    rows, cols, bands = source.shape
    needed = rows * cols * bands * source.dtype.itemsize
    lazy = needed > LAZY_BYTES if options.lazy is None else options.lazy
    if lazy:
        return storage
    if options.check_memory:
        check_memory(needed, source.where, 'the cube')
    return source.read_all()


def _placed(source: Source, crs: str | None, transform: Sequence[float] | None) -> Grid:
    """Return where the pixels lie: the arguments, else what the file says."""
    try:
        grid = source.grid
    except FileError:
        if transform is None:
            raise
        grid = Grid(*source.shape[:2])
    if crs is not None:
        grid = replace(grid, crs=placed_crs(read_crs(crs), 'crs'))
    if transform is not None:
        if isinstance(transform, Affine):
            transform = tuple(transform)[:6]
        if len(transform) != 6:
            raise ValueError(
                f'transform must have six numbers (a, b, c, d, e, f), got {transform!r}'
            )
        check_transform(transform, 'transform')
        grid = replace(grid, transform=Affine(*transform))
    return checked_grid(grid, source.where)


def _centres(source: Source, options: SceneOptions) -> NDArray[np.float64] | None:
    """Return the wavelengths: those given, else those of the file."""
    given, unit = options.wavelengths, options.wavelength_unit
    if given is None:
        if source.misfit is not None:
            logger.warning(
                '%s: found %d wavelengths for %d bands, so they are left out%s',
                source.where,
                source.misfit,
                source.shape[2],
                axes_hint(source, bands=source.misfit) or '; wavelengths= gives them',
            )
        return source.wavelengths(unit)
    where = ''
    if isinstance(given, str | os.PathLike):
        path = at_home(given)
        given, own = read_centres(path, source.shape[2])
        where = f' in {path}'
    else:
        try:
            given, own = written_numbers('\n'.join(map(str, given)))
        except ValueError as error:
            raise FileError(
                f'wavelengths: expected one wavelength a band and nothing else ({error})'
            ) from error
    if len(given) != source.shape[2]:
        raise ValueError(
            f'{source.where}: {len(given)} wavelengths{where} for {source.shape[2]} '
            'bands; give one centre in nm for each band'
            f'{axes_hint(source, bands=len(given))}'
        )
    return nanometres(given, unit or own or 'nm', 'wavelengths')
