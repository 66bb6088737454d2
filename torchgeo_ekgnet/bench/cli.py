# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The command's options, and its run."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from .._files import check_output_file, named_path, write_json
from ..commands import CommandParser
from ..models import own_models
from .arms import ARMS, COMPILED, TYPES, Setting
from .count import count_work, usual_patch
from .measure import forbid_tf32, machine_description, machine_floor
from .sections import SECTIONS, growth_sizes, model_sizes
from .text import heading

__all__ = ('build_parser', 'main', 'run')


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = CommandParser(
        prog='torchgeo-ekgnet bench',
        description='Speed and memory of the layers and models of this package: '
        "this package's strategies, the paper's formulation and the static twin in "
        'turn, as ratios and as shares of what the machine can do.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--sections',
        nargs='+',
        choices=list(SECTIONS),
        default=['layers', 'models', 'table'],
        help='layers: geometries of ekgnet_base; models: training and inference; '
        'growth: time against bands, patch and batch; profile: which operators '
        'inference spends its time in; data: loading a batch against a training '
        'step; busy: the demo beside zero, one and two busy processes, on a machine '
        'that is quiet otherwise; table: parameters, multiply-adds and memory of every model',
    )
    add('--model', default='ekgnet_base_reference', help='model of this package')
    add('--patches', nargs='+', type=int, default=[15], help='patch sizes in pixels')
    add('--bands', nargs='+', type=int, default=[200], help='numbers of bands')
    add('--batch', type=int, default=80, help='patches in a batch')
    add('--repeats', type=int, default=5, help='measurements of each arm')
    add('--device', default='cpu', help="'cpu' or 'cuda'")
    add('--threads', type=int, default=None, help="CPU threads; PyTorch's own if unset")
    add(
        '--precision',
        choices=('32', 'bf16', 'fp16'),
        default='32',
        help='bf16 and fp16 run under autocast',
    )
    add(
        '--clock',
        choices=('wall', 'cpu'),
        default='wall',
        help='cpu: processor time instead of time; use it with --threads 1 on a '
        'machine that others load',
    )
    add(
        '--compile',
        nargs='*',
        choices=tuple(COMPILED),
        help="add arms with torch.compile in these modes, 'default' if none is named; "
        "'reduce-overhead' captures CUDA graphs",
    )
    add(
        '--arms',
        nargs='+',
        choices=ARMS,
        default=list(ARMS),
        help='what networks are compared with, where it applies; fewer take less time',
    )
    add(
        '--passes',
        nargs='+',
        choices=('training', 'inference'),
        default=['training', 'inference'],
        help='passes of whole networks',
    )
    add(
        '--no-memory',
        action='store_true',
        help='leave out the peaks of memory of whole networks; on a CPU each takes a '
        'process of its own',
    )
    add('--table-bands', nargs='+', type=int, default=[103, 200], help='model table')
    add('--table-models', nargs='+', default=None, help='models of the table; all')
    add('--epochs', type=int, default=None, help='epochs of the demo; as configured')
    add('--output', type=named_path, default=None, help='JSON file to write')
    return parser


def _check_device(options: argparse.Namespace) -> torch.device:
    """Find the device that was asked for."""
    try:
        device = torch.device(options.device)
    except RuntimeError:
        device = torch.device('meta')
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(f"--device must be 'cpu' or 'cuda', found {options.device!r}")
    if options.clock == 'cpu' and device.type != 'cpu':
        raise ValueError('--clock cpu measures --device cpu only')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'--device {device}: no such CUDA device was found')
    return device


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what a section would fail at, before anything is measured."""
    for name in (
        *('batch', 'repeats', 'threads', 'epochs'),
        *('patches', 'bands', 'table_bands'),
    ):
        value = getattr(options, name)
        numbers = value if isinstance(value, list) else [value]
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError(
                f'--{name.replace("_", "-")} must be at least 1, found {min(numbers)}'
            )
    if options.output is not None:
        check_output_file(options.output)
    known = own_models()
    for flag, names in (
        ('--model', [options.model]),
        ('--table-models', options.table_models or []),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f'{flag}: no model {unknown[0]!r} in this package, expected one of '
                f'{", ".join(known)}'
            )
    sections, batch = options.sections, options.batch
    if 'data' in sections and any(patch % 2 == 0 for patch in options.patches):
        raise ValueError(
            f'--patches must be odd for the section data, found {options.patches}'
        )
    sizes = []
    if 'models' in sections or 'data' in sections:
        sizes += model_sizes(options)
    if 'growth' in sections:
        sizes += growth_sizes(options)
    for size in sizes:
        count_work(options.model, *size, training=True)
    if 'profile' in sections:
        count_work(options.model, options.patches[0], options.bands[0], batch)
    if 'table' in sections:
        for name in options.table_models or known:
            for bands in options.table_bands:
                count_work(name, usual_patch(name), bands, 1)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the sections that were asked for.

    When a section is done, its table is printed and the JSON file holds its results.

    Args:
        options: Parsed options.

    Returns:
        Results that JSON can hold, by section.

    Raises:
        ValueError: If an option cannot be met; nothing has been measured then.
        OSError: If the folder of ``--output`` cannot be written to.
    """
    device = _check_device(options)
    _check_options(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == 'cuda':
        forbid_tf32()
    floor = machine_floor(device, TYPES[options.precision], options.clock)
    results: dict[str, Any] = {
        'machine': machine_description(device),
        'precision': options.precision,
        'clock': options.clock,
        'floor': floor,
    }
    setting = Setting(options, device, floor)
    sys.stdout.write(heading(results) + '\n')
    sys.stdout.flush()
    for name, (bench, text) in SECTIONS.items():
        if name not in options.sections:
            continue
        results[name] = bench(setting)
        sys.stdout.write(f'\n{text(results[name])}\n')
        sys.stdout.flush()
        if options.output is not None:
            write_json(options.output, results)
    return results


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Arguments after the command's name; None for those of the process.
    """
    run(build_parser().parse_args(args))
