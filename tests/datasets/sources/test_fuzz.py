# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mutated files: what was written, what GDAL reads, or an error of this package."""

import math
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.datasets import HyperspectralScene, open_scene

ROWS, COLS, BANDS = 5, 6, 4
CUBE = np.random.default_rng(5).integers(1, 3000, (ROWS, COLS, BANDS)).astype('int16')
LABELS = np.random.default_rng(6).integers(0, 3, (ROWS, COLS)).astype('uint8')
CENTRES = [450.0, 550.0, 650.0, 750.0]

#: Bounded and with a fixed seed, so that every run tries the same files.
FUZZ = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def opened(path: Path, **options: Any) -> HyperspectralScene | None:
    """Open a scene, None if it is refused in one line that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return open_scene(path, **options)
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
            assert '\n' not in text
            assert path.stem in text, text
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            assert trace is not None
            assert 'torchgeo_ekgnet' in trace.tb_frame.f_code.co_filename, text
            return None


def in_folder(check: Callable[[Path], None]) -> None:
    folder = Path(tempfile.mkdtemp(prefix='fuzz'))
    try:
        check(folder)
    finally:
        shutil.rmtree(folder)


def by_gdal(path: Path) -> Any:
    """Return the bands that GDAL reads, None if it reads none."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with rasterio.open(path) as dataset:
                return np.moveaxis(dataset.read(), 0, 2)
        except rasterio.errors.RasterioError:
            return None


HEADER = {
    'samples': str(COLS),
    'lines': str(ROWS),
    'bands': str(BANDS),
    'header offset': '0',
    'file type': 'ENVI Standard',
    'data type': '2',
    'interleave': 'bsq',
    'byte order': '0',
    'wavelength units': 'Nanometers',
    'wavelength': '{450, 550, 650, 750}',
    'bbl': '{1, 1, 0, 1}',
    'data ignore value': '-9999',
}
VALUES = st.one_of(
    st.sampled_from(
        ['', '0', '1', '2', '3', '4', '5', '6', '12', '15', '-1', '1e3', 'nan', 'inf']
    ),
    st.sampled_from(
        ['bil', 'BIP', 'bsq ', '{', '}', '{}', '{1, 2}', '{a, b}', '\u00b5m']
    ),
    st.sampled_from(['{0.45 0.55\n0.65 0.75}', '{450;550;650;750}', 'Micrometers']),
    st.integers(-(10**6), 10**30).map(str),
    st.text(st.characters(codec='latin-1', exclude_characters='\n\r'), max_size=8),
)


@FUZZ
@given(
    changes=st.dictionaries(st.sampled_from(sorted(HEADER)), VALUES, max_size=3),
    dropped=st.sets(st.sampled_from(sorted(HEADER)), max_size=1),
    case=st.sampled_from([str.lower, str.upper, str.title]),
    separator=st.sampled_from([' = ', '=', '   =', '= ']),
    cut=st.one_of(st.none(), st.integers(0, 300)),
)
def test_envi_headers(
    changes: dict[str, str],
    dropped: set[str],
    case: Callable[[str], str],
    separator: str,
    cut: int | None,
) -> None:
    def check(folder: Path) -> None:
        entries = {k: v for k, v in (HEADER | changes).items() if k not in dropped}
        lines = [f'{case(key)}{separator}{value}' for key, value in entries.items()]
        header = folder / 'fuzzed.hdr'
        header.write_bytes('\n'.join(['ENVI', *lines, ''])[:cut].encode('latin-1'))
        data = folder / 'fuzzed.img'
        data.write_bytes(CUBE.transpose(2, 0, 1).tobytes())
        scene = opened(header)
        if scene is None:
            return
        other = by_gdal(data)
        if other is not None:
            assert other.shape[:2] == scene.shape[:2]
            assert np.array_equal(scene.cube, other[:, :, scene.band_indices])
        if scene.wavelengths is not None and 'wavelength' not in changes:
            assert np.isin(scene.wavelengths.round(3) % 1, 0).all()

    in_folder(check)


@FUZZ
@given(
    tags=st.dictionaries(
        st.sampled_from(
            ['wavelength', 'wavelength_units', 'bbl', 'WAVELENGTH', 'fwhm']
        ),
        st.sampled_from(
            ['', '0', '1', '450', '0.45', 'nan', '-1', 'nm', 'um', 'cm-1', 'x', '{1,0}']
        ),
        max_size=3,
    ),
    bands=st.sets(st.integers(1, BANDS), max_size=BANDS),
    nodata=st.sampled_from([None, 0, -9999, -32768]),
    place=st.sampled_from([None, 10.0, -10.0, 1e-12, 1e12]),
    kind=st.sampled_from(['int16', 'float32', 'float64', 'uint8']),
)
def test_geotiff_tags(
    tags: dict[str, str],
    bands: set[int],
    nodata: int | None,
    place: float | None,
    kind: str,
) -> None:
    def check(folder: Path) -> None:
        path = folder / 'fuzzed.tif'
        values = np.moveaxis(CUBE, 2, 0).astype(kind)
        declared = None if kind == 'uint8' and (nodata or 0) < 0 else nodata
        transform = None
        if place is not None:
            transform = rasterio.Affine(place, 0, 500_000, 0, -abs(place), 5_000_000)
        geotiff.write(path, values, transform, nodata=declared)
        with rasterio.open(path, 'r+') as file:
            for band in bands:
                file.update_tags(band, **tags)
        scene = opened(path)
        if scene is None:
            return
        assert np.array_equal(scene.cube, by_gdal(path)[:, :, scene.band_indices])
        assert scene.nodata == declared
        if transform is not None:
            assert scene.transform == transform

    in_folder(check)


ORDERS = ('yxb', 'byx', 'ybx', 'xyb')


@FUZZ
@given(
    kind=st.sampled_from(['int16', '>i2', 'float32', 'float64', 'uint8', 'bool']),
    order=st.sampled_from(ORDERS),
    names=st.permutations(['cube', 'labels', 'wavelength', 'note']),
    column=st.booleans(),
    struct=st.booleans(),
    compressed=st.booleans(),
    version=st.sampled_from(['5', '7.3']),
    cut=st.one_of(st.none(), st.floats(0, 0.99)),
)
def test_matlab_layouts(
    kind: str,
    order: str,
    names: list[str],
    column: bool,
    struct: bool,
    compressed: bool,
    version: str,
    cut: float | None,
) -> None:
    def check(folder: Path) -> None:
        path = folder / 'fuzzed.mat'
        stored = CUBE.astype(kind).transpose(['yxb'.index(axis) for axis in order])
        centres = np.array(CENTRES).reshape((-1, 1) if column else (1, -1))
        items = {'cube': stored, 'labels': LABELS, 'wavelength': centres}
        ordered = {name: items[name] for name in names if name in items}
        if version == '7.3':
            with h5py.File(path, 'w', userblock_size=512) as file:
                for name, value in ordered.items():
                    file[f'scene/{name}' if struct else name] = value.T
        else:
            content = {'scene': ordered} if struct else ordered
            scipy.io.savemat(path, content, do_compression=compressed)
        if cut is not None:
            path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
        scene = opened(path, labels=path, axes=order)
        if scene is None:
            assert cut is not None or kind == 'bool'
            return
        assert np.array_equal(scene.cube, CUBE.astype(kind))
        assert np.array_equal(scene.label_map, LABELS)
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == CENTRES

    in_folder(check)


@FUZZ
@given(
    kind=st.sampled_from(['int16', '>i2', 'float32', 'float64', 'uint8']),
    order=st.sampled_from(ORDERS),
    told=st.booleans(),
    classic=st.booleans(),
    fill=st.sampled_from([None, -9999, 0, math.nan, 'text']),
    unit=st.sampled_from([None, 'nm', 'nanometers', 'furlongs', b'nm', 3]),
    chunks=st.sampled_from([None, True]),
    cut=st.one_of(st.none(), st.floats(0, 0.99)),
)
def test_netcdf_layouts(
    kind: str,
    order: str,
    told: bool,
    classic: bool,
    fill: Any,
    unit: Any,
    chunks: bool | None,
    cut: float | None,
) -> None:
    def check(folder: Path) -> None:
        path = folder / 'fuzzed.nc'
        stored = CUBE.astype(kind).transpose(['yxb'.index(axis) for axis in order])
        meaning = {'y': 'lat', 'x': 'lon', 'b': 'wavelength'}
        names = [meaning[axis] if told else f'dim{n}' for n, axis in enumerate(order)]
        if classic:
            with scipy.io.netcdf_file(path, 'w') as file:
                for name, size in zip(names, stored.shape, strict=True):
                    file.createDimension(name, size)
                if not told:
                    file.createDimension('wavelength', BANDS)
                plain = stored.astype(stored.dtype.newbyteorder('='))
                if kind == 'uint8':
                    plain = plain.astype('i2')
                cube = file.createVariable('cube', plain.dtype, names)
                cube[:] = plain
                centres = file.createVariable('wavelength', 'f8', ('wavelength',))
                centres[:] = CENTRES
                whole = plain.dtype.kind != 'f'
                if isinstance(fill, int) or (isinstance(fill, float) and not whole):
                    cube._FillValue = fill
                if unit is not None:
                    centres.units = unit
        else:
            with h5py.File(path, 'w') as group:
                data = group.create_dataset('cube', data=stored, chunks=chunks)
                group['wavelength'] = CENTRES
                if told:
                    for number, name in enumerate(names):
                        data.dims[number].label = name
                if fill is not None:
                    data.attrs['_FillValue'] = fill
                if unit is not None:
                    group['wavelength'].attrs['units'] = unit
        if cut is not None:
            path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
        scene = opened(path, axes=None if told else order)
        if scene is None:
            odd = fill == 'text' or unit in ('furlongs', 3)
            assert cut is not None or odd
            return
        assert np.array_equal(scene.cube, CUBE.astype(kind))
        assert scene.wavelengths is not None
        assert scene.wavelengths.tolist() == CENTRES

    in_folder(check)


@FUZZ
@given(
    kind=st.sampled_from(
        ['a.npy', 'a.npz', 'a.tif', 'a.nc', 'a.mat', 'b.mat', 'a.png']
    ),
    places=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_bytes_are_no_traceback(
    kind: str, places: list[tuple[float, int]], cut: float | None
) -> None:
    def check(folder: Path) -> None:
        path = folder / kind
        if kind == 'a.npy':
            np.save(path, CUBE)
        elif kind == 'a.npz':
            np.savez_compressed(path, cube=CUBE)
        elif kind == 'a.tif':
            geotiff.write(path, np.moveaxis(CUBE, 2, 0))
        elif kind == 'a.mat':
            scipy.io.savemat(path, {'cube': CUBE}, do_compression=True)
        elif kind == 'a.png':
            with rasterio.open(
                path, 'w', driver='PNG', width=COLS, height=ROWS, count=3, dtype='uint8'
            ) as file:
                file.write(np.moveaxis(CUBE[:, :, :3], 2, 0).astype('uint8'))
        else:
            with h5py.File(path, 'w') as group:
                group['cube'] = CUBE
        raw = bytearray(path.read_bytes())
        for place, value in places:
            raw[int(place * len(raw))] = value
        path.write_bytes(raw if cut is None else raw[: int(cut * len(raw))])
        scene = opened(path)
        if scene is not None:
            scene.digest()

    in_folder(check)
