# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Memory of training and testing on an ENVI scene that is larger than memory allows.

Writes a sparse file of 2 GiB (it takes little disk), trains ekgnet_tiny on it through
the data module, tests it on every test pixel, and prints the peak of anonymous memory
(RssAnon, Linux) over what the process held with the network. Outside the test suite:

    python benchmarks/large_scene.py --folder FOLDER
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import rasterio
from lightning.pytorch import Trainer
from memory import Peak, anonymous_mib
from rasterio.transform import from_origin

from torchgeo_ekgnet.datamodules import CustomSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask

COLS, BANDS = 1311, 200


def write(folder: Path, gib: float) -> int:
    """Write the scene and its labels.

    Args:
        folder: Where to write.
        gib: Size of the cube in GiB.

    Returns:
        Rows of the scene.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = round(gib * 2**30 / (COLS * BANDS * 2))
    path = folder / 'large.dat'
    with path.open('wb') as file:
        file.truncate(rows * COLS * BANDS * 2)
    place = 'map info = {UTM, 1, 1, 500000, 5000000, 30, 30, 32, North, WGS-84}'
    centres = ', '.join(f'{value:.1f}' for value in np.linspace(400, 2500, BANDS))
    (folder / 'large.hdr').write_text(
        f'ENVI\nsamples = {COLS}\nlines = {rows}\nbands = {BANDS}\n'
        f'header offset = 0\ndata type = 2\ninterleave = bil\nbyte order = 0\n{place}\n'
        f'wavelength units = Nanometers\nwavelength = {{{centres}}}\n',
        encoding='utf-8',
    )
    cube = np.memmap(path, dtype='<i2', mode='r+', shape=(rows, BANDS, COLS))
    labels = np.zeros((rows, COLS), dtype=np.uint8)
    random = np.random.RandomState(0)
    for number in range(9):
        top = (number + 1) * rows // 11
        left = (number * 397) % (COLS - 60)
        value = number % 3 + 1
        curve = 1500 + 600 * np.sin(np.arange(BANDS) * value / 30)
        block = random.normal(0, 200, (20, BANDS, 50)) + curve[None, :, None]
        cube[top : top + 20, :, left : left + 50] = block.astype(np.int16)
        labels[top : top + 20, left : left + 50] = value
    cube.flush()
    with rasterio.open(
        folder / 'labels.tif',
        'w',
        driver='GTiff',
        width=COLS,
        height=rows,
        count=1,
        dtype='uint8',
        crs='EPSG:32632',
        transform=from_origin(500000, 5000000, 30, 30),
    ) as file:
        file.write(labels, 1)
    return rows


def main() -> None:
    """Write, train, test, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--gib', type=float, default=2.0)
    parser.add_argument('--epochs', type=int, default=1)
    arguments = parser.parse_args()
    rows = write(arguments.folder, arguments.gib)
    task = HyperspectralClassificationTask(model='ekgnet_tiny', lr=2e-3)
    before = anonymous_mib()
    peak = Peak()
    started = time.perf_counter()
    data = CustomSceneDataModule(
        root=str(arguments.folder),
        cube='large.hdr',
        labels='labels.tif',
        lazy=True,
        patch_size=9,
        batch_size=80,
        split=RandomSplit(train=0.05, val=0.01, seed=0),
    )
    trainer = Trainer(
        accelerator='cpu',
        max_epochs=arguments.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(task, datamodule=data)
    result = trainer.test(task, datamodule=data, verbose=False)[0]
    report = {
        'scene': [rows, COLS, BANDS],
        'file_gib': round((arguments.folder / 'large.dat').stat().st_size / 2**30, 3),
        'pixels': data.split.describe()['sizes'],
        'in_memory': data.scene.in_memory,
        'anonymous_before_mib': round(before),
        'anonymous_peak_mib': round(peak.mib),
        'beyond_mib': round(peak.mib - before),
        'seconds': round(time.perf_counter() - started, 1),
        'test_OA': round(float(result['test_OA']), 4),
    }
    print(json.dumps(report, indent=2))


if __name__ == '__main__':
    main()
