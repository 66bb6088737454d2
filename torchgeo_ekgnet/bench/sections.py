# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What is measured: the sections of the command."""

import argparse
import functools
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from ..models import own_models
from .arms import (
    Arm,
    Setting,
    model_calls,
    peaks_apart,
    random_batch,
    training_peak,
    training_step,
)
from .busy import bench_busy
from .count import count_work, create_model, usual_patch
from .layers import bench_layers
from .profiling import bench_profile
from .text import (
    busy_text,
    data_text,
    layers_text,
    models_text,
    profile_text,
    table_text,
)

__all__ = ('SECTIONS', 'growth_sizes', 'model_sizes')

#: Batches of which the model table takes the slope of the memory.
TABLE_BATCHES = (8, 40)


def model_sizes(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Patch, bands and batch of every case of the sections 'models' and 'data'."""
    sizes = product(options.bands, options.patches)
    return [(patch, bands, options.batch) for bands, patch in sizes]


def bench_models(setting: Setting) -> list[dict[str, Any]]:
    """Time training and inference of the whole network.

    The arms are the network, the same network in the paper's formulation with plain
    grouped convolutions, its static twin, the network with gradient checkpointing (in
    training) and the compiled network.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a patch size, band count and pass.
    """
    rows = []
    for size in model_sizes(setting.options):
        rows += _model_rows(setting, *size)
    return rows


def growth_sizes(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Patch, bands and batch of every case of the section 'growth', each once."""
    patch, bands, batch = options.patches[0], options.bands[0], options.batch
    sizes = [(patch, max(b, 1), batch) for b in (bands // 4, bands // 2, bands)]
    sizes += [(p, bands, batch) for p in (7, 11, 15)]
    # Batch normalization needs more than one value a channel.
    sizes += [(patch, bands, max(n, min(batch, 2))) for n in (batch // 8, batch // 2)]
    return list(dict.fromkeys(sizes))


def bench_growth(setting: Setting) -> list[dict[str, Any]]:
    """Time how the network grows with bands, patch and batch, one at a time."""
    rows = []
    for size in growth_sizes(setting.options):
        rows += _model_rows(setting, *size, ours_only=True)
    return rows


def _model_rows(
    setting: Setting, patch: int, bands: int, batch: int, ours_only: bool = False
) -> list[dict[str, Any]]:
    """Time one network at one size."""
    options = setting.options
    work = count_work(options.model, patch, bands, batch, training=True)
    rows = []
    calls = model_calls(setting, patch, bands, batch, ours_only)
    for passes, arms in calls.items():
        times = setting.times(arms)
        memory: dict[str, int | None] = dict.fromkeys(arms)
        if not options.no_memory:
            memory = peaks_apart(setting, (patch, bands, batch), passes, arms)
        median = times['ours']['median']
        factor = 3 if passes == 'training' else 1
        rows.append(
            {
                'model': options.model,
                'pass': passes,
                'patch': patch,
                'bands': bands,
                'batch': batch,
                'seconds': times,
                'peak bytes': memory,
                'patches per second': batch / median,
                'paper / ours': (
                    times['paper']['median'] / median if 'paper' in times else None
                ),
                'ours / static': (
                    median / times['static']['median'] if 'static' in times else None
                ),
                **{
                    f'{arm} / ours': times[arm]['median'] / median
                    for arm in ('released', 'unfolded')
                    if arm in times
                },
                **setting.shares(
                    factor * 2 * work.multiply_adds, factor * work.values, median
                ),
            }
        )
    return rows


def bench_data(setting: Setting) -> list[dict[str, Any]]:
    """Time loading against training: positions, gathered patches, transfer.

    The batches are those of the built-in synthetic scene, 145 by 145 pixels.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a patch size and band count.
    """
    # torchgeo takes seconds to import; the other sections do without.
    from ..datamodules import SyntheticSceneDataModule
    from ..datasets import RandomSplit

    options, device = setting.options, setting.device
    rows = []
    for patch, bands, batch in model_sizes(options):
        torch.manual_seed(0)
        data = SyntheticSceneDataModule(
            rows=145,
            cols=145,
            num_bands=bands,
            num_classes=9,
            patch_size=patch,
            batch_size=batch,
            split=RandomSplit(0.5, 0.05),
        )
        data.setup('fit')

        def batches(data: SyntheticSceneDataModule = data) -> Iterator[Any]:
            while True:
                for positions in data.train_dataloader():
                    yield data.transfer_batch_to_device(positions, device, 0)

        loaded = batches()
        network = create_model(options.model, patch, bands).to(device)
        first = next(loaded)
        step = training_step(setting, Arm(network), (first['image'], first['label']))
        times = setting.times(
            {'data': functools.partial(next, loaded), 'training': step}
        )
        rows.append(
            {
                'model': options.model,
                'patch': patch,
                'bands': bands,
                'batch': batch,
                'seconds': times,
                'data / training': (
                    times['data']['median'] / times['training']['median']
                ),
            }
        )
    return rows


def model_table(setting: Setting) -> list[dict[str, Any]]:
    """Count parameters, multiply-adds and memory of every model.

    Two batches part the memory of a training step into what every patch adds and what
    is there for any batch: gradients and the workspaces of operators.

    Args:
        setting: Options, device and floor.

    Returns:
        One row a model and band count.
    """
    options = setting.options
    small, large = TABLE_BATCHES
    rows = []
    for name, bands in product(
        options.table_models or own_models(), options.table_bands
    ):
        patch = usual_patch(name)
        network = create_model(name, patch, bands).to(setting.device)
        peaks = [
            training_peak(setting, network, random_batch(setting, patch, bands, batch))
            for batch in TABLE_BATCHES
        ]
        slope = rest = None
        if peaks[0] is not None and peaks[1] is not None:
            slope = (peaks[1] - peaks[0]) / (large - small)
            rest = peaks[0] - small * slope
        rows.append(
            {
                'model': name,
                'bands': bands,
                'patch': patch,
                'parameters': sum(p.numel() for p in network.parameters()),
                'multiply-adds': count_work(name, patch, bands, 1).multiply_adds,
                'training bytes per patch': slope,
                'training bytes besides': rest,
            }
        )
    return rows


#: Sections in the order in which they run: what measures and what writes the table.
SECTIONS: dict[str, tuple[Callable[[Setting], Any], Callable[[Any], str]]] = {
    'layers': (bench_layers, layers_text),
    'models': (bench_models, models_text),
    'growth': (bench_growth, models_text),
    'profile': (bench_profile, profile_text),
    'data': (bench_data, data_text),
    'busy': (bench_busy, busy_text),
    'table': (model_table, table_text),
}
