# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Correctness and speed on a GPU, in six minutes.

    python benchmarks/gpu.py --output gpu.json

Each part runs in a process of its own under its own limit of time; what it has found by
then is kept. The JSON file is written after every part, the tables come last. Parts:

correct    networks and geometries of layers against float64 on the CPU, with gradients
steps      a training step: eager, captured, the paper's formulation, the released
           program and the static twin, in fp32, TF32 and bf16; share of busy card and
           kernels a step
inference  patches a second by batch size, eager and captured
map        a scene of KSC's size, read from a file, from the command to the finished map
protocol   the paper's training on Indian Pines (--root), or on a synthetic scene of its
           size, from the command to the scores, as shipped (no precision is given)
compiled   torch.compile; not among the parts unless asked for, it takes minutes

What the first calls chose on this card (layers/trial.py) and every line that says that
something fell back (kernels, capture) stand below the table of their part.

``--device cpu --small`` tries the whole without a card.
"""

import argparse
import gc
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchgeo_ekgnet._files import write_json
from torchgeo_ekgnet.bench.arms import (
    Setting,
    arms_of,
    inference_pass,
    random_batch,
    training_step,
)
from torchgeo_ekgnet.bench.cli import build_parser as bench_parser
from torchgeo_ekgnet.bench.count import create_model
from torchgeo_ekgnet.bench.exact import compare, compare_captured
from torchgeo_ekgnet.bench.graphs import graphed_inference, graphed_training, kernels_of
from torchgeo_ekgnet.bench.measure import machine_description, machine_floor, measure
from torchgeo_ekgnet.bench.text import markdown
from torchgeo_ekgnet.layers import DynamicExpertConv3d, trial
from torchgeo_ekgnet.models import own_models

#: Seconds of every part; together less than six minutes.
LIMITS = {'correct': 40, 'steps': 80, 'inference': 30, 'map': 65, 'protocol': 145}
OPTIONAL = {'compiled': 240}

#: Training steps that are timed together, as in an epoch: the host runs ahead.
TOGETHER = 4

#: What lines of a log have in them that say how a GPU was used.
TELLING = ('not usable here', 'capture: ', 'precision: ')

Row = dict[str, Any]
Say = Callable[[Row], None]


def build_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    add = parser.add_argument
    add('--parts', nargs='+', choices=[*LIMITS, *OPTIONAL], default=list(LIMITS))
    add('--device', default='cuda', choices=('cuda', 'cpu'))
    add('--model', default='ekgnet_base')
    add('--root', type=Path, default=None, help='folder with Indian Pines')
    add('--output', type=Path, default=Path('gpu.json'), help='JSON file to write')
    add('--small', action='store_true', help='sizes that only try the script')
    add('--seconds', type=float, default=None, help='limit of every part instead')
    add('--part', choices=[*LIMITS, *OPTIONAL], help=argparse.SUPPRESS)
    return parser


# --------------------------------------------------------------------------------------
# The parts; each says a row as soon as it knows it


def _settings(
    options: argparse.Namespace, *precisions: str
) -> list[tuple[str, Setting]]:
    """Make the settings of the benchmark command, by precision; 'tf32' among them."""
    device = torch.device(options.device)
    size = ('7', '12', '4') if options.small else ('15', '200', '80')
    found = []
    for name in precisions:
        asked = bench_parser().parse_args(
            [
                *('--model', 'ekgnet_tiny' if options.small else options.model),
                *('--patches', size[0], '--bands', size[1], '--batch', size[2]),
                *('--device', options.device),
                *('--repeats', '3' if options.small else '5'),
                *('--precision', '32' if name == 'tf32' else name),
            ]
        )
        found.append((name, Setting(asked, device, {})))
    return found


def _allow_tf32(allowed: bool) -> None:
    """Let products and convolutions round their inputs to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _say_gaps(what: str, compute: Callable[[], Row], say: Say) -> None:
    """Say how far outputs and gradients are from what is expected, or what failed."""
    runs(what, lambda: say({'what': what, **compute()}), say)


def part_correct(options: argparse.Namespace, say: Say) -> None:
    """Hold networks and layers against float64 on the CPU, without TF32."""
    _allow_tf32(False)
    device = torch.device(options.device)
    _say_networks(options, False, say)
    if device.type == 'cuda':
        ((_, setting),) = _settings(options, '32')
        _say_gaps('captured', partial(compare_captured, setting, 15, 32, 8), say)
    generator = torch.Generator().manual_seed(0)
    for index in range(4 if options.small else 48):
        torch.manual_seed(index)

        def draw(*values: int) -> int:
            place = int(torch.randint(len(values), (1,), generator=generator))
            return values[place]

        groups, kernel = draw(1, 2, 4), draw(1, 1, 3)
        layer = DynamicExpertConv3d(
            groups * draw(2, 8),
            groups * draw(2, 4),
            kernel,
            stride=draw(1, 1, 2),
            padding=draw(0, 1) if kernel > 1 else 0,
            groups=groups,
        ).eval()
        x = torch.randn(draw(1, 3), layer.in_channels, draw(5, 9), 4, 6)
        _say_gaps(f'layer {index}', partial(compare, layer, x, device), say)
    # Kernels of training alone: they are compiled on the way, and time may run out.
    _say_networks(options, True, say)


def _say_networks(options: argparse.Namespace, training: bool, say: Say) -> None:
    """Say how far networks are from what is expected."""
    for name in ('ekgnet_tiny', 'cnn3d') if options.small else own_models():
        torch.manual_seed(0)
        patch = 1 if name.endswith('_pixel') else 11
        network = create_model(name, patch, 16).train(training)
        for module in network.modules():
            module.train(training and 'Drop' not in type(module).__name__)
        compute = partial(
            compare, network, torch.randn(4, 16, patch, patch), options.device
        )
        _say_gaps(f'{name}, training' if training else name, compute, say)


def runs(arm: str, call: Callable[[], Any], say: Say) -> bool:
    """Call an arm once; say why if it cannot run, so that the others do."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 (whatever drivers and compilers raise)
        line = ' '.join(str(error).split())[:200]
        say({'arm': arm, 'failed': f'{type(error).__name__}: {line}'})
        return False
    return True


def _together(step: Callable[[], None]) -> Callable[[], None]:
    """Make some steps in a row."""

    def steps() -> None:
        for _ in range(TOGETHER):
            step()

    return steps


def part_steps(options: argparse.Namespace, say: Say) -> None:
    """Time a training step in every precision, arms in turn."""
    settings = _settings(options, 'bf16', 'tf32', '32')
    # What the targets are about comes first, in case time runs out.
    for ours in (True, False):
        for name, setting in settings:
            _allow_tf32(name == 'tf32')
            _time_steps(name, setting, ours, say)
        if ours:
            _say_choices(say)


def _time_steps(name: str, setting: Setting, ours: bool, say: Say) -> None:
    """Time the network, eager and captured, or what it is compared with."""
    asked, device = setting.options, setting.device
    torch.manual_seed(0)
    patch, bands = asked.patches[0], asked.bands[0]
    batch = random_batch(setting, patch, bands, asked.batch)
    if ours:
        say({'precision': name, 'arm': 'ours alone', 'peak MiB': _peak(setting, batch)})
    arms = arms_of(setting, patch, bands, ours)
    if not ours:
        for unused in ('ours', 'unfolded', 'checkpointed'):
            arms.pop(unused)
    elif device.type == 'cuda':
        arms['captured'] = graphed_training(setting, arms['ours'].network, batch[0])
    steps = {arm: training_step(setting, how, batch) for arm, how in arms.items()}
    steps = {arm: step for arm, step in steps.items() if runs(arm, step, say)}
    rows = {arm: _together(step) for arm, step in steps.items()}
    times = measure(rows, asked.repeats, device)
    for arm, step in steps.items():
        median = times[arm]['median'] / TOGETHER
        try:
            spent = kernels_of(step, device)
        except RuntimeError:  # a machine that keeps its counters to itself
            spent = {'kernels': 0, 'seconds': 0.0}
        row = {'precision': name, 'arm': arm, 'ms': 1000 * median}
        busy = spent['seconds'] / median
        say({**row, 'kernels': spent['kernels'], 'busy': busy})


def _peak(setting: Setting, batch: tuple[Tensor, Tensor]) -> float:
    """Measure the peak of a training step, eager, when nothing else is on the card."""
    if setting.device.type != 'cuda':
        return 0.0
    gc.collect()
    torch.cuda.empty_cache()
    patch, bands = setting.options.patches[0], setting.options.bands[0]
    step = training_step(setting, arms_of(setting, patch, bands, True)['ours'], batch)
    for _ in range(3):
        step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**20


def _say_choices(say: Say) -> None:
    """Say which ways of computing were taken on this card."""
    for what, way in trial.choices().items():
        say({'chosen': f'{what}: {way}'})


def part_inference(options: argparse.Namespace, say: Say) -> None:
    """Measure patches a second by batch size."""
    for name, setting in _settings(options, 'bf16', 'tf32', '32'):
        _allow_tf32(name == 'tf32')
        for batch in (2, 4) if options.small else (80, 256, 1024, 4096):
            timing = partial(_time_inference, name, setting, batch, say)
            runs(f'batch {batch}', timing, say)
    _say_choices(say)


def _time_inference(name: str, setting: Setting, batch: int, say: Say) -> None:
    """Time batches of a size, eager and captured."""
    patch, bands = setting.options.patches[0], setting.options.bands[0]
    samples = random_batch(setting, patch, bands, batch)
    ours = arms_of(setting, patch, bands, True)['ours']
    calls: dict[str, Callable[[], Any]] = {
        'eager': inference_pass(setting, ours, samples)
    }

    def capture() -> None:
        calls['captured'] = graphed_inference(setting, ours.network, samples[0])

    if setting.device.type == 'cuda':
        runs('captured', capture, say)
    for arm, time_of in measure(calls, 5, setting.device).items():
        rate = batch / time_of['median']
        say({'precision': name, 'batch': batch, 'arm': arm, 'patches/s': rate})


def part_compiled(options: argparse.Namespace, say: Say) -> None:
    """Time what torch.compile needs before the first step ends, and a step."""
    ((_, setting),) = _settings(options, 'bf16')
    asked = setting.options
    asked.compile = ['default']
    patch, bands = asked.patches[0], asked.bands[0]
    batch = random_batch(setting, patch, bands, asked.batch)
    arm = arms_of(setting, patch, bands, False)['compiled']
    step = training_step(setting, arm, batch)
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    times = measure({'compiled': step}, asked.repeats, setting.device)
    say({'first step': first, 'seconds': times['compiled']['median']})


def _command(options: argparse.Namespace, *args: str) -> float:
    """Run a command of the package; return the seconds from its start to its end."""
    command = [sys.executable, '-m', 'torchgeo_ekgnet', *args]
    kind = 'gpu' if options.device == 'cuda' else 'cpu'
    accelerator = ('--trainer.accelerator', kind)
    start = time.perf_counter()
    subprocess.run([*command, *accelerator], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _synthetic(rows: int, cols: int, bands: int, classes: int) -> list[str]:
    """Options for a synthetic scene of a size."""
    return [
        *('--data', 'torchgeo_ekgnet.datamodules.SyntheticSceneDataModule'),
        *('--data.rows', str(rows), '--data.cols', str(cols)),
        *('--data.num_bands', str(bands), '--data.num_classes', str(classes)),
    ]


def write_scene(
    folder: Path, rows: int, cols: int, bands: int, classes: int
) -> list[str]:
    """Write a scene and labels in squares; give the options that open them.

    Making a synthetic scene of this size takes longer than the map of it may.
    """
    random = np.random.default_rng(0)
    cube = random.integers(0, 400, (rows, cols, bands), dtype=np.int16)
    spectra = random.integers(500, 3000, (classes, bands), dtype=np.int16)
    down, across = np.arange(rows)[:, None] // 8, np.arange(cols)[None, :] // 8
    number = (3 * down + across) % classes
    cube += spectra[number]
    np.save(folder / 'cube.npy', cube)
    np.save(folder / 'labels.npy', (number + 1).astype(np.uint8))
    return [
        *('--data', 'torchgeo_ekgnet.datamodules.CustomSceneDataModule'),
        *('--data.root', str(folder), '--data.cube', 'cube.npy'),
        *('--data.labels', 'labels.npy', '--data.axes', 'yxb'),
    ]


def _run_folder(folder: Path) -> list[str]:
    """Options for a run in a folder."""
    return [f'--trainer.default_root_dir={folder}']


def part_map(options: argparse.Namespace, say: Say) -> None:
    """Map a scene of KSC's size, 512 x 614 pixels with 176 bands, patch 15."""
    size = (40, 30, 12, 4) if options.small else (512, 614, 176, 13)
    with tempfile.TemporaryDirectory() as name:
        share = '0.2' if options.small else '0.01'
        scene = [
            *write_scene(Path(name), *size),
            *('--data.patch_size', '7' if options.small else '15'),
            *('--data.split.train', share, '--data.split.val', share),
            *_run_folder(Path(name)),
        ]
        config = ('--config', 'quickstart' if options.small else 'indian_pines')
        fit = _command(options, 'fit', *config, *scene, '--trainer.max_epochs', '1')
        say({'what': 'fit of an epoch', 'seconds': fit})
        (weights,) = Path(name).rglob('best.ckpt')
        seconds = _command(
            options, 'predict', *config, *scene, '--ckpt_path', str(weights)
        )
        say({'what': 'map', 'seconds': seconds, 'pixels': size[0] * size[1]})


def part_protocol(options: argparse.Namespace, say: Say) -> None:
    """Train by the paper's protocol and test, through the command line."""
    with tempfile.TemporaryDirectory() as name:
        config = ('--config', 'quickstart' if options.small else 'indian_pines')
        if options.root is not None:
            scene = ['--data.root', str(options.root)]
        elif options.small:
            scene = _synthetic(30, 30, 12, 4)
        else:
            scene = _synthetic(145, 145, 200, 16)
        scene += ['--data.patch_size', '7' if options.small else '15']
        scene += _run_folder(Path(name))
        epochs = ['--trainer.max_epochs', '1'] if options.small else []
        fit = _command(options, 'fit', *config, *scene, *epochs)
        say({'what': 'fit, start to best.ckpt', 'seconds': fit})
        (weights,) = Path(name).rglob('best.ckpt')
        test = _command(options, 'test', *config, *scene, '--ckpt_path', str(weights))
        (scores,) = Path(name).rglob('test.json')
        found = json.loads(scores.read_text())
        shown = ('overall_accuracy', 'average_accuracy', 'kappa')
        percent = {name: 100 * found[name] for name in shown}
        say({'what': 'test', 'seconds': test, **percent})


# --------------------------------------------------------------------------------------
# Running the parts, and tables


def run_part(options: argparse.Namespace) -> None:
    """Run one part and print its rows, one JSON a line."""

    def say(row: Row) -> None:
        sys.stdout.write(json.dumps(row) + '\n')
        sys.stdout.flush()

    part: Callable[[argparse.Namespace, Say], None] = globals()[f'part_{options.part}']
    part(options, say)


def run_apart(name: str, args: Sequence[str], limit: float) -> Row:
    """Run a part in a new process under a limit; keep what it has said by then."""
    start = time.perf_counter()
    command = [sys.executable, str(Path(__file__).resolve()), *args, '--part', name]
    state = 'done'
    with (
        tempfile.TemporaryFile('w+') as said,
        tempfile.TemporaryFile('w+') as errors,
        # A session of its own: the commands that the part has started end with it.
        subprocess.Popen(
            command, stdout=said, stderr=errors, start_new_session=True
        ) as process,
    ):
        try:
            if process.wait(limit):
                state = 'failed'
        except subprocess.TimeoutExpired:
            state = f'stopped after {limit:.0f} s'
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines()
        if state == 'failed':
            state = f'failed: {lines[-1] if lines else "no message"}'
        said.seek(0)
        # Libraries write there as well. NaN is a text: strict JSON has no such number.
        rows = [
            json.loads(line, parse_constant=str)
            for line in said
            if line.startswith('{') and line.endswith('}\n')
        ]
    seconds = time.perf_counter() - start
    told = [line for line in lines if any(text in line for text in TELLING)]
    return {
        'state': state,
        'seconds': seconds,
        'rows': [row for row in rows if 'chosen' not in row],
        'chosen': [row['chosen'] for row in rows if 'chosen' in row],
        'told': list(dict.fromkeys(told)),
        'errors': lines[-20:] if state.startswith('failed') else [],
    }


def _cell(value: Any) -> str:
    """Write a value of a table."""
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _doubt(row: Row) -> float:
    """Say how bad a row of correctness is: most of all one that failed, or is NaN."""
    gaps = row.get('outputs'), row.get('gradients') or 0.0
    return max(gap if isinstance(gap, float) else math.inf for gap in gaps)


def table(rows: list[Row]) -> str:
    """Write the rows of a part; of correctness the worst alone."""
    if any('outputs' in row for row in rows):
        rows = sorted(rows, key=_doubt, reverse=True)[:8]
    header = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(
        header, [[_cell(row.get(key, '')) for key in header] for row in rows]
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the parts that were asked for."""
    args = list(sys.argv[1:] if args is None else args)
    options = build_parser().parse_args(args)
    device = torch.device(options.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise SystemExit(
            '--device cuda: found no CUDA device; try --device cpu --small'
        )
    if options.part is not None:
        run_part(options)
        return
    results: Row = {'machine': machine_description(device), 'parts': {}}
    if not options.small:
        results['floor'] = machine_floor(device, torch.float32)
    for name in options.parts:
        limit = options.seconds or {**LIMITS, **OPTIONAL}[name]
        results['parts'][name] = run_apart(name, args, limit)
        write_json(options.output, results)
    for name, part in results['parts'].items():
        sys.stdout.write(f'\n{name}: {part["state"]}, {part["seconds"]:.0f} s\n\n')
        sys.stdout.write((table(part['rows']) if part['rows'] else 'no row') + '\n')
        for line in (*part.get('chosen', ()), *part.get('told', ())):
            sys.stdout.write(f'{line}\n')


if __name__ == '__main__':
    main()
