# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Small fake files with the names, variables, types and classes of public scenes.

Run as a script to look at the files: ``python data.py FOLDER``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io

ROWS, COLS = 21, 24


@dataclass(frozen=True)
class Fake:
    """What the public files of a scene look like."""

    cube: str
    cube_variable: str
    bands: int
    dtype: str
    labels: tuple[str, ...]
    label_variables: tuple[str, ...]
    values: tuple[int, ...]


FAKES = {
    'IndianPines': Fake(
        'Indian_pines_corrected.mat',
        'indian_pines_corrected',
        200,
        'uint16',
        ('Indian_pines_gt.mat',),
        ('indian_pines_gt',),
        tuple(range(1, 17)),
    ),
    'PaviaUniversity': Fake(
        'PaviaU.mat',
        'paviaU',
        103,
        'uint16',
        ('PaviaU_gt.mat',),
        ('paviaU_gt',),
        tuple(range(1, 10)),
    ),
    'KSC': Fake(
        'KSC.mat',
        'KSC',
        176,
        'uint16',
        ('KSC_gt.mat',),
        ('KSC_gt',),
        tuple(range(1, 14)),
    ),
    'Salinas': Fake(
        'Salinas_corrected.mat',
        'salinas_corrected',
        204,
        'int16',
        ('Salinas_gt.mat',),
        ('salinas_gt',),
        tuple(range(1, 17)),
    ),
    'SalinasA': Fake(
        'SalinasA_corrected.mat',
        'salinasA_corrected',
        204,
        'int16',
        ('SalinasA_gt.mat',),
        ('salinasA_gt',),
        (1, 10, 11, 12, 13, 14),
    ),
    'Botswana': Fake(
        'Botswana.mat',
        'Botswana',
        145,
        'uint16',
        ('Botswana_gt.mat',),
        ('Botswana_gt',),
        tuple(range(1, 15)),
    ),
    'PaviaCentre': Fake(
        'Pavia.mat',
        'pavia',
        102,
        'uint16',
        ('Pavia_gt.mat',),
        ('pavia_gt',),
        tuple(range(1, 10)),
    ),
    'Houston2013': Fake(
        'HSI.mat',
        'HSI',
        144,
        'uint16',
        ('TRLabel.mat', 'TSLabel.mat'),
        ('TRLabel', 'TSLabel'),
        tuple(range(1, 16)),
    ),
}


def labels_of(name: str) -> np.ndarray:
    """Return the label map of a fake scene, values as in its files."""
    random = np.random.RandomState(0)
    values = np.array((0, *FAKES[name].values))
    return values[random.randint(0, len(values), (ROWS, COLS))].astype(np.uint8)


def cube_of(name: str) -> np.ndarray:
    """Return the cube of a fake scene; KSC's has wrapped negative values."""
    fake = FAKES[name]
    random = np.random.RandomState(1)
    cube = random.randint(-20, 8000, (ROWS, COLS, fake.bands))
    if name != 'KSC':
        cube = cube.clip(0)
    return cube.astype(np.int16).view(fake.dtype)


def save_mat(path: Path, version: str, **arrays: np.ndarray) -> None:
    """Save arrays as a MATLAB file of version 5 or 7.3."""
    if version == '5':
        scipy.io.savemat(path, arrays, do_compression=True)
        return
    with h5py.File(path, 'w', userblock_size=512) as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array.T)
            dataset.attrs['MATLAB_class'] = np.bytes_(str(array.dtype))
    with path.open('r+b') as raw:
        raw.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM')


def make(root: Path, name: str, version: str = '5') -> Path:
    """Write the files of one scene.

    Args:
        root: Folder to write to.
        name: Name of the dataset class.
        version: MATLAB file version, ``'5'`` or ``'7.3'``.

    Returns:
        The folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    fake = FAKES[name]
    save_mat(root / fake.cube, version, **{fake.cube_variable: cube_of(name)})
    labels = labels_of(name)
    first = np.arange(labels.size).reshape(labels.shape) % 3 == 0
    parts = [labels] if len(fake.labels) == 1 else [labels * first, labels * ~first]
    for file, variable, part in zip(
        fake.labels, fake.label_variables, parts, strict=True
    ):
        save_mat(root / file, version, **{variable: part})
    return root


if __name__ == '__main__':
    for scene in FAKES:
        make(Path(sys.argv[1]) / scene, scene)
