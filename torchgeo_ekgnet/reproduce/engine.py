# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The repeat engine: many runs of the package's own training, one file each.

A run's settings are a configuration of ``torchgeo-ekgnet fit`` (``data``, ``model``,
``trainer``, ``optimizer``, ``lr_scheduler``, ``seed_everything``) in JSON values. The
engine builds what they say, lets Lightning train, validate and test it, and writes the
result. It has no training loop and no metrics of its own. ``model`` may instead be
``{'classical': name}`` for a baseline of scikit-learn. Four settings are the engine's:
``content`` identifies the data that a run reads (:func:`~.build.content_of`),
``start_epoch`` is the first epoch, from 0, whose weights may be tested,
``checkpoint`` says how the tested ones are chosen (arguments of Lightning's
``ModelCheckpoint``; the lowest validation loss if it is missing), and ``smooth``
(``window``, ``edges``) asks for scores of smoothed probabilities as well.

The unit of resume is one run: a sweep that was killed repeats the run that it was
killed in from its beginning, and none that had finished. Every run seeds all random
generators itself, so on a CPU with a fixed number of threads a sweep that was killed
ends with the same results as one that was not.
"""

import copy
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from numpy.typing import NDArray

from .._environment import code_digest, machine, versions
from .._files import StrPath, replaced
from .._terminal import brief
from ..datamodules import HyperspectralDataModule
from ..models import network_class
from .build import build_data, check_content, described
from .classical import (
    count_tested,
    fit_classical,
    scene_spectra,
    training_data,
    with_probabilities,
)
from .runs import Result, RunStore, Settings, settings_key
from .training import smoothed_result, train

if TYPE_CHECKING:
    from ..maps.scoring import Found

logger = logging.getLogger(__name__)

TWIN = ':static'
"""Behind the name of a network with experts: its static twin."""


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Fix the number of threads of PyTorch's operations for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit_classical(settings: Settings, root: StrPath | None) -> Result:
    """Fit and test a classical baseline."""
    data = build_data(settings, root)
    check_content(settings, data)
    scene, split = data.scene, data.split
    start = time.perf_counter()
    estimator = fit_classical(
        settings['model']['classical'],
        *training_data(scene, split),
        settings['seed_everything'],
    )
    fitted = time.perf_counter()
    counts = count_tested(estimator, scene, split)
    tested = time.perf_counter()
    return {
        **described(data),
        'confusion': counts.tolist(),
        **_smoothed_classical(settings, data, estimator),
        'epochs': None,
        'tested_epoch': None,
        'curves': {},
        'parameters': None,
        'seconds': {'training': fitted - start, 'inference': tested - fitted},
    }


def _smoothed_classical(
    settings: Settings, data: HyperspectralDataModule, estimator: Any
) -> Result:
    """Score smoothed probabilities of a classical baseline, if that is asked for."""
    wanted = settings.get('smooth')
    if wanted is None:
        return {}
    from ..maps.scoring import count_smoothed
    from ..maps.smoothing import Smoothing

    scene = data.scene
    estimator = with_probabilities(
        estimator, *training_data(scene, data.split), settings['seed_everything']
    )

    def shown(mask: NDArray[np.bool_]) -> Iterator['Found']:
        places = np.flatnonzero(mask)
        for pixels in np.array_split(places, max(1, len(places) // 4096)):
            values = np.zeros((len(pixels), scene.num_classes), dtype=np.float32)
            found = estimator.predict_proba(scene_spectra(scene, pixels))
            values[:, estimator.classes_] = found
            yield np.stack(np.divmod(pixels, scene.shape[1]), axis=1), values

    confusion, share = count_smoothed(data, Smoothing(**wanted), shown)
    return smoothed_result(wanted, confusion, share)


def run(
    settings: Settings,
    root: StrPath | None = None,
    threads: int | None = None,
    keep: StrPath | None = None,
    work: StrPath | None = None,
) -> Result:
    """Do one run.

    Args:
        settings: Settings of the run, see the module's text.
        root: Folder of the scene's files; None: as the settings say.
        threads: Threads of PyTorch's operations; None: as they are.
        keep: Folder to which the tested checkpoint is copied; None: not kept.
        work: Folder for the files of the run; None: a temporary one, deleted in the
            end.

    Returns:
        Confusion counts of the test pixels, curves, times, description of scene and
        split, versions and hardware, in JSON values.
    """
    if work is None:
        with tempfile.TemporaryDirectory() as folder:
            return run(settings, root, threads, keep, folder)
    with _threads(threads):
        seed_everything(settings['seed_everything'], workers=True, verbose=False)
        if 'classical' in settings['model']:
            result = _fit_classical(settings, root)
        else:
            result = train(settings, root, Path(work))
            if keep is not None:
                with replaced(checkpoint_path(settings, keep)) as kept:
                    shutil.copy(Path(work) / 'best.ckpt', kept)
        software = {'versions': versions(), 'code': code_digest()}
        return {**result, 'environment': {**machine(), **software}}


def classical_settings(settings: Settings, name: str = 'rbf_svm') -> dict[str, Any]:
    """Settings of a classical baseline on a run's split.

    Args:
        settings: Settings of the run.
        name: Name of the baseline.

    Returns:
        Settings of another run, with the same data and seed.
    """
    known = {
        part: settings[part]
        for part in ('data', 'seed_everything', 'content', 'smooth')
        if part in settings
    }
    baseline = copy.deepcopy(known)
    baseline['data'].get('init_args', {}).pop('batch_size', None)
    return {**baseline, 'model': {'classical': name}, 'trainer': {}}


@dataclass(frozen=True)
class Sweep:
    """Many runs, each of them done once.

    Attributes:
        store: Folder of run files.
        root: Folder of the scene's files; None: as the settings say.
        threads: Threads of PyTorch's operations; None: as they are.
        keep: Folder to which tested checkpoints are copied; None: not kept.
        keep_seed: Seed of the runs whose checkpoints are kept; None: of all.
        report: Called with one line a run.
    """

    store: RunStore
    root: StrPath | None = None
    threads: int | None = None
    keep: StrPath | None = None
    keep_seed: int | None = None
    report: Callable[[str], None] = logger.info

    def results(self, runs: Iterable[Settings]) -> list[Result]:
        """Do all runs that have not finished yet, in order.

        Args:
            runs: Settings of every run.

        Returns:
            The results, in the order of ``runs``.
        """
        wanted = list(runs)
        results = []
        said = False
        for number, settings in enumerate(wanted, 1):
            result = self.store.load(settings)
            start = time.perf_counter()
            state = 'done before'
            kept = self.keep_seed in (None, settings['seed_everything'])
            place = self.keep if kept else None
            if result is None:
                # What the first run says of scene and split is much the same in all.
                with self.store.work() as work, brief() if said else nullcontext():
                    result = run(settings, self.root, self.threads, place, work)
                said = True
                self.store.save(settings, result)
                state = f'{time.perf_counter() - start:.0f} s'
            elif _checkpoint_lacks(settings, place):
                # The finished result stands; this training is for its weights only.
                with self.store.work() as work:
                    run(settings, self.root, self.threads, place, work)
                state = f'done before; checkpoint, {time.perf_counter() - start:.0f} s'
            results.append(result)
            self.report(
                f'[{number}/{len(wanted)}] {describe_run(settings)}: '
                f'overall accuracy {100 * _overall(result):.2f} % ({state})'
            )
        return results


def checkpoint_path(settings: Settings, keep: StrPath) -> Path:
    """File of a run's kept checkpoint.

    Args:
        settings: Settings of the run.
        keep: Folder of checkpoints.

    Returns:
        The path, whether or not it exists.
    """
    return Path(keep) / f'{settings_key(settings)}.ckpt'


def _checkpoint_lacks(settings: Settings, keep: StrPath | None) -> bool:
    """Whether a checkpoint is wanted that an earlier sweep did not keep."""
    if keep is None or 'classical' in settings['model']:
        return False
    return not checkpoint_path(settings, keep).is_file()


def _overall(result: Result) -> float:
    """Overall accuracy of a result, for the progress line."""
    counts = np.asarray(result['confusion'])
    return float(np.trace(counts) / counts.sum()) if counts.sum() else math.nan


def describe_run(settings: Settings) -> str:
    """Name a run for people.

    Args:
        settings: Settings of the run.

    Returns:
        Model (``NAME:static`` for a static twin, as it is typed), its other options and
        seed.
    """
    model = settings['model']
    arguments = model.get('init_args', {})
    name = model.get('classical') or arguments.get('model', model.get('class_path'))
    options = dict(arguments.get('model_options') or {})
    static = getattr(network_class(name), 'static_options', None)
    if static and options.items() >= static.items():
        name += TWIN
        options = {key: options[key] for key in options if key not in static}
    if options:
        name += f' ({", ".join(f"{key}={value}" for key, value in options.items())})'
    return f'{name}, seed {settings["seed_everything"]}'
