# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A small scene as NumPy, HDF5, NetCDF and MATLAB files.

Run as a script to look at the files: ``python data.py FOLDER``.
"""

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from tests.data.public_scenes.data import save_mat

ROWS, COLS, BANDS = 15, 18, 7
CENTRES = np.linspace(450, 1050, BANDS)


def cube_of() -> np.ndarray:
    """Return the cube (rows, cols, bands)."""
    random = np.random.RandomState(4)
    return random.uniform(0, 1, (ROWS, COLS, BANDS)).astype(np.float32)


def labels_of() -> np.ndarray:
    """Return the labels: 0, 2 and 5."""
    labels = np.zeros((ROWS, COLS), dtype=np.uint8)
    labels[:, 1:8] = 2
    labels[:, 10:18] = 5
    return labels


def netcdf(path: Path, classic: bool = False, **attributes: Any) -> Path:
    """Write cube, labels and band centres in micrometres as NetCDF, version 4 or 3.

    Args:
        path: File to write.
        classic: Write version 3.
        attributes: Attributes of the cube.

    Returns:
        The file.
    """
    axes = {'y': ROWS, 'x': COLS, 'band': BANDS}
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]] = {
        'reflectance': (('y', 'x', 'band'), cube_of(), attributes),
        'class': (('y', 'x'), labels_of(), {'_FillValue': np.uint8(5)}),
        'wavelength': (('band',), CENTRES / 1000, {'units': 'micrometers'}),
    }
    if classic:
        with scipy.io.netcdf_file(path, 'w') as file:
            for name, size in axes.items():
                file.createDimension(name, size)
            for name, (dimensions, array, own) in arrays.items():
                stored = array.astype('i2') if array.dtype == np.uint8 else array
                variable = file.createVariable(name, stored.dtype, dimensions)
                variable[:] = stored
                for key, value in own.items():
                    setattr(variable, key, value)
        return path
    with h5py.File(path, 'w') as file:
        for name, (_, array, own) in arrays.items():
            file[name] = array
            file[name].attrs.update(own)
    return path


def write_cube(path: Path, cube: np.ndarray) -> Path:
    """Write an array in the format that the name of the file ends with.

    MATLAB files whose names begin with ``v73`` are HDF5 inside, axes reversed.
    """
    matlab = path.suffix == '.mat'
    if path.suffix == '.npy':
        np.save(path, cube)
    elif path.suffix == '.npz':
        np.savez(path, cube=cube)
    elif matlab and not path.name.startswith('v73'):
        scipy.io.savemat(path, {'cube': cube})
    else:
        with h5py.File(path, 'w', userblock_size=512) as file:
            file['cube'] = cube.T if matlab else cube
    return path


def make(root: Path) -> Path:
    """Write the scene in every array format.

    Files: ``cube.npy``, ``labels.npy``, ``scene.npz``, ``scene.h5`` (bands first, in a
    group), ``scene.nc``, ``v5.mat`` and ``v73.mat``.
    """
    root.mkdir(parents=True, exist_ok=True)
    cube, labels = cube_of(), labels_of()
    np.save(root / 'cube.npy', cube)
    np.save(root / 'fortran.npy', np.asfortranarray(cube))
    np.save(root / 'labels.npy', labels)
    np.savez(root / 'scene.npz', cube=cube, labels=labels)
    with h5py.File(root / 'scene.h5', 'w') as file:
        file['product/reflectance'] = np.moveaxis(cube, 2, 0)
        file['product/labels'] = labels
        file['product/quality'] = np.zeros((2, ROWS, COLS), dtype=np.uint8)
    with h5py.File(root / 'scene.nc', 'w') as file:
        file['reflectance'] = cube
        file['class'] = labels
    save_mat(root / 'v5.mat', '5', cube=cube, labels=labels)
    save_mat(root / 'v73.mat', '7.3', cube=cube, labels=labels)
    return root


if __name__ == '__main__':
    make(Path(sys.argv[1]))
