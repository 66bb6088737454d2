# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Rate and memory of a map: a scene of Pavia University's size and a quarter of it.

Writes the built-in synthetic scene (610 x 340 pixels, 103 bands) and a crop of a quarter
of its pixels as files that are read window by window, maps each with ekgnet_tiny, patch 7,
in a process of its own, in turn, and prints pixels a second and the peak of anonymous
memory (RssAnon, Linux). Outside the test suite:

    python benchmarks/map_rate.py --folder FOLDER
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from memory import Peak, anonymous_mib

from torchgeo_ekgnet.datasets import open_scene, synthetic_scene
from torchgeo_ekgnet.maps import write_map
from torchgeo_ekgnet.transforms import PatchSource, SpectralNormalizer

ROWS, COLS, BANDS = 610, 340, 103
SCENES = {'whole': (ROWS, COLS), 'quarter': (ROWS // 2, COLS // 2)}


def write(folder: Path) -> None:
    """Write both scenes.

    Args:
        folder: Where to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene = synthetic_scene(rows=ROWS, cols=COLS, num_bands=BANDS)
    for name, (rows, cols) in SCENES.items():
        np.save(folder / f'{name}.npy', scene.read(0, rows, 0, cols))
        np.save(folder / f'{name}_labels.npy', scene.label_map[:rows, :cols])


def measure(folder: Path, name: str) -> None:
    """Map one scene and print rate and memory.

    Args:
        folder: Where the scene lies.
        name: One of :data:`SCENES`.
    """
    scene = open_scene(folder / f'{name}.npy', folder / f'{name}_labels.npy', lazy=True)
    torch.manual_seed(0)
    network = timm.create_model(
        'ekgnet_tiny', in_chans=BANDS, num_classes=scene.num_classes
    )
    patches = PatchSource(scene, SpectralNormalizer('zscore').fit(scene), 7)
    before, peak = anonymous_mib(), Peak()
    started = time.perf_counter()
    files = write_map(network, scene, folder / name, patches=patches)
    seconds = time.perf_counter() - started
    pixels = sum(files.counts)
    report = {
        'scene': [*SCENES[name], BANDS],
        'pixels': pixels,
        'threads': torch.get_num_threads(),
        'pixels_per_second': round(pixels / seconds, 1),
        'anonymous_before_mib': round(before),
        'anonymous_peak_mib': round(peak.mib),
    }
    print(json.dumps(report))


def main() -> None:
    """Write, map in turn, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--measure', choices=SCENES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.folder, arguments.measure)
        return
    write(arguments.folder)
    rates: dict[str, list[float]] = {name: [] for name in SCENES}
    peaks: dict[str, list[float]] = {name: [] for name in SCENES}
    for _ in range(arguments.repeats):
        for name in SCENES:
            command = [sys.executable, __file__, '--folder', str(arguments.folder)]
            done = subprocess.run(
                [*command, '--measure', name],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            line = done.stdout.strip().splitlines()[-1]
            print(line, flush=True)
            report = json.loads(line)
            rates[name].append(report['pixels_per_second'])
            peaks[name].append(report['anonymous_peak_mib'])
    rate = {name: statistics.median(values) for name, values in rates.items()}
    peak = {name: statistics.median(values) for name, values in peaks.items()}
    print(
        f'quarter / whole: rate {rate["quarter"] / rate["whole"]:.2f}, '
        f'memory {peak["quarter"] / peak["whole"]:.2f}'
    )


if __name__ == '__main__':
    main()
