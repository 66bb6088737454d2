# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mutated files: every format that is read, damaged in many ways."""

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import rasterio
import scipy.io
import torch
from rasterio.transform import from_origin

from torchgeo_ekgnet.checkpoint import read_checkpoint
from torchgeo_ekgnet.datasets import open_scene
from torchgeo_ekgnet.datasets.splits import RandomSplit, SavedSplit
from torchgeo_ekgnet.reproduce.runs import RunStore

from .isolation import said, trials

SHAPE = (12, 10, 6)
SETTINGS = {'model': {'classical': 'x'}, 'seed_everything': 1}


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        name: Name of the file that is damaged.
        make: Writes it, and what it needs, into a folder.
        read: Reads it from a folder; returns arrays.
        summed: Whether the format holds sums by which every damage could be told.
        sized: Whether it holds its size, by which a cut could be told.
    """

    name: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    summed: bool = False
    sized: bool = True


def cube() -> Any:
    """Values of a small scene, 16 bits (rows, cols, bands)."""
    return np.random.RandomState(0).randint(0, 4000, SHAPE).astype('int16')


def labels() -> Any:
    """Its labels, four classes and unlabelled pixels."""
    return np.random.RandomState(1).randint(0, 5, SHAPE[:2]).astype('uint8')


def _scene(folder: Path, cube_file: str, label_file: str, **options: Any) -> Any:
    """Read a scene."""
    scene = open_scene(folder / cube_file, folder / label_file, **options)
    rows, cols = scene.label_map.shape
    return np.asarray(scene.read(0, rows, 0, cols)), np.asarray(scene.label_map)


def _envi(folder: Path) -> None:
    """Write an ENVI cube with wavelengths."""
    cube().tofile(folder / 'cube.img')
    rows, cols, bands = SHAPE
    waves = ', '.join(str(500 + 10 * index) for index in range(bands))
    (folder / 'cube.hdr').write_text(
        f'ENVI\nsamples = {cols}\nlines = {rows}\nbands = {bands}\n'
        'header offset = 0\nfile type = ENVI Standard\ndata type = 2\n'
        'interleave = bip\nbyte order = 0\nwavelength units = Nanometers\n'
        f'wavelength = {{{waves}}}\n'
    )
    np.save(folder / 'labels.npy', labels())


def _tiff(folder: Path) -> None:
    """Write a GeoTIFF cube and a GeoTIFF of labels."""
    place = {'crs': 'EPSG:32633', 'transform': from_origin(5e5, 5e6, 30, 30)}
    for name, values in (('cube.tif', cube()), ('labels.tif', labels()[:, :, None])):
        with rasterio.open(
            folder / name,
            'w',
            driver='GTiff',
            height=SHAPE[0],
            width=SHAPE[1],
            count=values.shape[2],
            dtype=values.dtype,
            **place,
        ) as file:
            file.write(values.transpose(2, 0, 1))


def _matlab(folder: Path) -> None:
    """Write MATLAB files of version 5."""
    scipy.io.savemat(folder / 'cube.mat', {'cube': cube()}, do_compression=True)
    scipy.io.savemat(folder / 'labels.mat', {'labels': labels()})


def _hdf5(folder: Path) -> None:
    """Write an HDF5 file with both arrays."""
    with h5py.File(folder / 'cube.h5', 'w') as file:
        file.create_dataset('cube', data=cube(), chunks=(4, 5, 6), compression='gzip')
        file.create_dataset('labels', data=labels(), fletcher32=True)


def _numpy(folder: Path) -> None:
    """Write NumPy files."""
    np.save(folder / 'cube.npy', cube())
    np.savez_compressed(folder / 'cube.npz', cube=cube())
    np.save(folder / 'labels.npy', labels())


def _polygons(folder: Path) -> None:
    """Write a cube with a georeference and two polygons."""
    _tiff(folder)
    x, y = 5e5, 5e6

    def square(left: float, size: float) -> list[list[list[float]]]:
        a, b = x + left, y - 30
        ring = [[a, b], [a + size, b], [a + size, b - size], [a, b - size], [a, b]]
        return [ring]

    features = [
        {
            'type': 'Feature',
            'properties': {'class': number},
            'geometry': {'type': 'Polygon', 'coordinates': square(left, 100)},
        }
        for number, left in ((1, 10), (2, 160))
    ]
    crs = {'type': 'name', 'properties': {'name': 'urn:ogc:def:crs:EPSG::32633'}}
    (folder / 'labels.geojson').write_text(
        json.dumps({'type': 'FeatureCollection', 'crs': crs, 'features': features})
    )


def _points(folder: Path) -> None:
    """Write a cube with a georeference and labelled points."""
    _tiff(folder)
    lines = ['x,y,class']
    for row in range(SHAPE[0]):
        x, y = 5e5 + 15 + 30 * (row % SHAPE[1]), 5e6 - 15 - 30 * row
        lines.append(f'{x},{y},{1 + row % 3}')
    (folder / 'labels.csv').write_text('\n'.join(lines) + '\n')


def _split(folder: Path) -> None:
    """Write a split."""
    split = RandomSplit(train=0.3, val=0.1, seed=1)(labels().astype('int64'))
    split.save(folder / 'split.npz')


def _read_split(folder: Path) -> Any:
    """Read a split."""
    split = SavedSplit(str(folder / 'split.npz'))(labels().astype('int64'))
    return split.train, split.val, split.test


def _checkpoint(folder: Path) -> None:
    """Write a checkpoint."""
    weights = {'a': torch.arange(200.0), 'b': torch.ones(3, 4)}
    torch.save({'state_dict': weights, 'epoch': 3}, folder / 'best.ckpt')


def _read_checkpoint(folder: Path) -> Any:
    """Read a checkpoint."""
    found = read_checkpoint(folder / 'best.ckpt')['state_dict']
    return [np.asarray(found[name]) for name in ('a', 'b')]


def _run_file(folder: Path) -> None:
    """Write a run file."""
    RunStore(folder).save(SETTINGS, {'confusion': [[5, 1], [2, 4]], 'epochs': 3})
    RunStore(folder).path(SETTINGS).rename(folder / 'run.json')


def _read_run(folder: Path) -> Any:
    """Read a run file; one that is not believed is a refusal."""
    path = RunStore(folder).path(SETTINGS)
    (folder / 'run.json').rename(path)
    found = RunStore(folder).load(SETTINGS)
    if found is None:
        raise FileNotFoundError(2, 'not believed', str(path))
    return [np.asarray(found['confusion'])]


FORMATS = (
    Format('cube.hdr', _envi, lambda at: _scene(at, 'cube.hdr', 'labels.npy')),
    Format('cube.img', _envi, lambda at: _scene(at, 'cube.hdr', 'labels.npy')),
    Format('cube.tif', _tiff, lambda at: _scene(at, 'cube.tif', 'labels.tif')),
    Format('labels.tif', _tiff, lambda at: _scene(at, 'cube.tif', 'labels.tif')),
    Format('cube.mat', _matlab, lambda at: _scene(at, 'cube.mat', 'labels.mat')),
    Format('labels.mat', _matlab, lambda at: _scene(at, 'cube.mat', 'labels.mat')),
    Format('cube.h5', _hdf5, lambda at: _hdf5_scene(at)),
    Format('cube.npy', _numpy, lambda at: _scene(at, 'cube.npy', 'labels.npy')),
    Format('cube.npz', _numpy, lambda at: _scene(at, 'cube.npz', 'labels.npy'), True),
    Format(
        'labels.geojson', _polygons, lambda at: _scene(at, 'cube.tif', 'labels.geojson')
    ),
    Format(
        'labels.csv',
        _points,
        lambda at: _scene(at, 'cube.tif', 'labels.csv'),
        sized=False,
    ),
    Format('split.npz', _split, _read_split, True),
    Format('best.ckpt', _checkpoint, _read_checkpoint, True),
    Format('run.json', _run_file, _read_run, True),
)


def _hdf5_scene(folder: Path) -> Any:
    """Read both arrays of one HDF5 file."""
    options = {'cube_variable': 'cube', 'labels_variable': 'labels'}
    return _scene(folder, 'cube.h5', 'cube.h5', **options)


def mutate(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Damage a file.

    Args:
        content: What the file holds.
        chance: Source of the damage.

    Returns:
        Kind of damage, and the damaged content.
    """
    size = len(content)
    kind = chance.choice(
        ('cut', 'bit', 'bytes', 'zeros', 'gone', 'twice', 'tail', 'number', 'empty')
    )
    at = chance.randrange(size)
    length = min(size - at, chance.choice((1, 2, 4, 16, 64, 512)))
    changed = bytearray(content)
    match kind:
        case 'cut':
            changed = changed[:at]
        case 'bit':
            changed[at] ^= 1 << chance.randrange(8)
        case 'bytes':
            changed[at : at + length] = chance.randbytes(length)
        case 'zeros':
            changed[at : at + length] = bytes(length)
        case 'gone':
            del changed[at : at + length]
        case 'twice':
            changed[at:at] = changed[at : at + length]
        case 'tail':
            changed += chance.randbytes(length)
        case 'number':
            digits = [i for i, byte in enumerate(changed) if 48 <= byte <= 57]
            where = chance.choice(digits) if digits else at
            changed[where : where + 1] = chance.choice(
                (b'0', b'9', b'-', b'1e99', b'nan', b'99999999999', b'{', b'\xff')
            )
        case 'empty':
            changed = bytearray()
    return kind, bytes(changed)


def mutated_files(count: int, folder: Path, seed: int = 0) -> dict[str, int]:
    """Damage files and read them.

    Args:
        count: Number of damaged files over all formats.
        folder: Place for them.
        seed: Seed of the damage.

    Returns:
        How often each end was seen, by ``'format: end'``.
    """
    seen: dict[str, int] = {}
    for number, form in enumerate(FORMATS):
        origin = folder / 'origin' / form.name
        origin.mkdir(parents=True)
        form.make(origin)
        whole = shutil.copytree(origin, folder / 'whole' / form.name)
        expected = form.read(whole)
        content = (origin / form.name).read_bytes()
        chance = random.Random(1000 * seed + number)
        damages = [
            mutate(content, chance)
            for _ in range(count // len(FORMATS) + (number < count % len(FORMATS)))
        ]
        works = [
            _reading_of(form, origin, folder / 'tried', damaged, expected)
            for _, damaged in damages
        ]
        for index, end in trials(works):
            kind, damaged = damages[index]
            could_tell = form.summed or (form.sized and kind in ('cut', 'empty'))
            if end == 'other values' and could_tell and damaged != content:
                end = f'silent difference ({kind})'
            name = f'{form.name}: {end}'
            seen[name] = seen.get(name, 0) + 1
    return seen


def _reading_of(
    form: Format, origin: Path, place: Path, damaged: bytes, expected: Any
) -> Callable[[], str]:
    """Make the work that reads one damaged file."""

    def work() -> str:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(origin, place)
        (place / form.name).write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                found = form.read(place)
        except Exception as error:  # noqa: BLE001  (what escapes is counted)
            return said(error)
        same = all(
            np.shape(one) == np.shape(other) and np.array_equal(one, other)
            for one, other in zip(found, expected, strict=True)
        )
        return 'same' if same else 'other values'

    return work
