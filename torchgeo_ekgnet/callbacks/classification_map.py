# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``predict`` writes a map of the whole scene into the run's folder."""

import inspect
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from .._files import at_home
from .._runs import run_of_checkpoint
from ..checkpoint import KEY, check_same_classes, data_state, trained_bands
from ..datasets.windows import SceneWindows
from .run_folder import RunFolder, run_path, subject_of

if TYPE_CHECKING:
    from ..maps.job import Extra, MapJob
    from ..maps.raster import Legend

__all__ = ('ClassificationMap',)

_BATCH, _GPU_BATCH = 256, 1024


class ClassificationMap(Callback):
    """Writes the map of the scene after ``predict``.

    The run's folder gets ``map.tif`` (classes, with colours, names and, if the scene
    has one, its map projection), ``confidence.tif`` (probability of the chosen class),
    ``map.png``, ``map.json`` (what the map is of) and ``report.html``; for another scene
    than that of the training, the folder ``predict/SCENE`` in it gets them. A scene
    without labels is mapped with the classes of the checkpoint. See
    :doc:`the guide to maps </maps>`.

    Results go to the disk batch by batch, and Lightning is kept from collecting them, so
    memory grows with the scene by a few bytes a pixel for masks only. An interrupted map
    leaves no file that looks complete; the same command goes on where it stopped.
    Several processes or devices (``--trainer.devices``) share the work and write one
    map, the same to the bit.

    The callback does nothing in other stages.
    """

    #: The callback changes no weights: repeated runs leave it out.
    only_writes = True

    def __init__(
        self,
        scope: Literal['all', 'labelled', 'polygon'] = 'all',
        polygon: str | None = None,
        entropy: bool = False,
        probabilities: bool = False,
        window_size: int = 64,
        batch_size: int | None = None,
        output: str | None = None,
        report: bool = True,
        smooth: int = 0,
        smooth_edges: float | None = None,
    ) -> None:
        """Initialize a new ClassificationMap instance.

        Args:
            scope: 'all' maps every pixel that has data, 'labelled' the pixels with a
                reference label, 'polygon' those inside the polygons of a file.
            polygon: File of polygons that GDAL reads, in any reference system; pixel
                coordinates (x column, y row) for a scene without one.
            entropy: Also write the entropy of the class probabilities, as the second
                band of ``confidence.tif``.
            probabilities: Also write ``probabilities.tif`` with a band a class.
            window_size: Side of the windows that the scene is cut into, in pixels.
            batch_size: Largest number of patches in a batch; batches never cross a
                window. None for 256, and 1024 on a GPU.
            output: Folder of the files; the run of the checkpoint by default.
            report: Whether to write ``report.html``.
            smooth: Also write ``smoothed.tif``, the classes of probabilities that were
                averaged over a window of so many pixels a side (odd); 0 for none.
            smooth_edges: Average along the scene's edges by a guided filter with this
                epsilon, 0.1 or so: the smaller, the weaker the edges that are kept.

        Raises:
            ValueError: If an option is unknown or misses another.
        """
        super().__init__()
        from ..maps.selection import MapOptions

        self.options = MapOptions(
            scope=scope,
            polygon=polygon,
            entropy=entropy,
            probabilities=probabilities,
            smooth=smooth,
            smooth_edges=smooth_edges,
            window_size=window_size,
            batch_size=_BATCH if batch_size is None else batch_size,
        )
        self._follows_device = batch_size is None
        self.output = None if output is None else str(at_home(output))
        self.report = report
        self._job: MapJob | None = None
        self._waiting: list[tuple[Tensor, Tensor, Callable[[], object] | None]] = []
        self._bar: Any = None
        self._hidden_bar: Any = None
        self._data: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the datamodule the windows of the map."""
        self._job = None
        if stage != 'predict':
            return
        if self._follows_device:
            on_gpu = trainer.strategy.root_device.type == 'cuda'
            self.options = replace(
                self.options, batch_size=_GPU_BATCH if on_gpu else _BATCH
            )
        trainer.predict_loop.return_predictions = False
        if getattr(trainer, 'fast_dev_run', False):
            return
        from ..maps.selection import map_windows

        datamodule: Any = getattr(trainer, 'datamodule', None)
        # Found without being asked for: the checkpoint brings its preprocessing, which a
        # scene would otherwise be read through for.
        if any(
            inspect.getattr_static(datamodule, name, None) is None
            for name in ('scene', 'patch_source')
        ):
            raise TypeError(
                'ClassificationMap needs a datamodule of torchgeo_ekgnet, found '
                f'{type(datamodule).__name__}'
            )
        self._hidden_bar = trainer.progress_bar_callback
        if self._hidden_bar is not None:
            self._hidden_bar.disable()
        datamodule.predict_dataset = map_windows(datamodule.scene, self.options)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Plan the map, and give the datamodule the batches that are left."""
        path = trainer.ckpt_path
        if (
            trainer.state.fn != TrainerFn.PREDICTING
            or getattr(trainer, 'fast_dev_run', False)
            or not path
        ):
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        _check_checkpoint(str(path), checkpoint, datamodule.scene)
        folder = run_path(trainer) if self.output is None else Path(self.output)
        datamodule.predict_dataset = self._plan(trainer, pl_module, folder, checkpoint)

    def _plan(
        self,
        trainer: Trainer,
        task: LightningModule,
        folder: Path,
        checkpoint: Mapping[str, Any],
    ) -> SceneWindows:
        """Start or take up the work in a folder; gives the batches that are left."""
        from ..maps.job import MapJob
        from ..maps.predict import describe_patches, weights_digest

        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        subject = subject_of(trainer)
        digest = subject.checkpoint_digest
        told = {
            # The task reads its checkpoint before callbacks do.
            'temperature': getattr(task, 'temperature', None),
            'precision': str(trainer.precision),
        }
        job = MapJob(
            folder,
            datamodule.scene,
            _legend(checkpoint, datamodule.scene),
            self.options,
            {
                'weights': str(digest) if trainer.ckpt_path else weights_digest(task),
                'patches': describe_patches(datamodule.patch_source),
                **told,
            },
            {'checkpoint': subject.checkpoint, 'checkpoint_digest': digest, **told},
        )
        self._job = job
        self._data = datamodule.describe()
        return job.prepare(
            trainer.global_rank, trainer.world_size, trainer.strategy.broadcast
        )

    def _default_folder(self, trainer: Trainer) -> Path:
        """Find the output folder of a network that was trained in this process."""
        if self.output is not None:
            return Path(self.output)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunFolder) and callback.path is not None:
                return run_path(trainer)
        raise ValueError(
            'predict: no checkpoint was given; pass --ckpt_path '
            'RUN/checkpoints/best.ckpt, or give ClassificationMap an output folder'
        )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show pixels per second and the time left in place of Lightning's bar."""
        if getattr(trainer, 'fast_dev_run', False):
            return
        from ..maps.predict import progress_bar

        if self._job is None:
            # No checkpoint: the network was trained in this process.
            folder = self._default_folder(trainer)
            self._plan(trainer, pl_module, folder, _provenance(pl_module))
        assert self._job is not None

        self._bar = progress_bar(
            self._job.windows.num_pixels,
            self._job.pixels_done,
            self._hidden_bar is not None
            and trainer.is_global_zero
            and (sys.stderr.isatty() or _in_notebook()),
        )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Bring the results of a batch to the disk."""
        if self._job is None:
            return
        if not isinstance(outputs, Tensor) or not isinstance(batch, Mapping):
            raise TypeError(
                'ClassificationMap: predict_step must return class probabilities, '
                f'found {type(outputs).__name__}'
            )
        (window, values), wait = _begin_copy(
            torch.as_tensor(batch['window']), outputs.float()
        )
        self._waiting.append((window, values, wait))
        # A device works on this batch while those before it go to the disk.
        self._record(trainer, 0 if wait is None or trainer.received_sigterm else 1)
        if trainer.received_sigterm:
            # Lightning takes the signal, and its prediction loop goes on regardless.
            raise SIGTERMException(128 + signal.SIGTERM)

    def _record(self, trainer: Trainer, left: int) -> None:
        """Bring all batches but some to the disk."""
        assert self._job is not None
        while len(self._waiting) > left:
            window, values, wait = self._waiting.pop(0)
            if wait is not None:
                wait()
            new = self._job.record(int(window), values.numpy())
            if self._bar is not None:
                room = self._bar.total - self._bar.n
                self._bar.update(min(new * trainer.world_size, room))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the results of all processes together, and write the files."""
        job = self._job
        if job is None:
            return
        self._record(trainer, 0)
        job.flush()
        self._close_bar()
        trainer.strategy.barrier('ClassificationMap')
        if not trainer.is_global_zero:
            return
        limit = trainer.limit_predict_batches
        # 1.0 means all batches, 1 means one.
        limited = isinstance(limit, int) or limit < 1.0
        if limited and (missing := job.missing()):
            rank_zero_warn(
                f'limit_predict_batches left {missing} batches of the map out; no map '
                'is written, and the next call goes on from here'
            )
            return

        extras: dict[str, Extra] = job.pictures()
        if self.report:
            extras['report.html'] = partial(self._write_report, trainer, job)
        files = job.finish(extras)
        page = job.folder / 'report.html'
        rank_zero_info(
            f'{sum(files.counts):,} pixels classified: {files.classes}'
            + (f', {page}' if page.is_file() else '')
        )

    def _write_report(self, trainer: Trainer, job: 'MapJob', path: Path) -> None:
        """Write the report beside the staged map."""
        from ..maps.run_report import write_run_report

        run, folder = job.folder, job.folder
        if trainer.ckpt_path:
            run, folder = run_of_checkpoint(trainer.ckpt_path), run_path(trainer)
        write_run_report(run, path, self._data, folder, map_folder=path.parent)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keep what has been computed."""
        if self._job is not None and not isinstance(exception, Exception):
            rank_zero_warn(
                'stopped by a signal; what has been classified is kept in '
                f'{self._job.staging}, and the same command goes on from here'
            )
        self._close()

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Close files and progress bar."""
        self._close()

    def _close(self) -> None:
        """Close journal and progress bar."""
        self._waiting.clear()
        if self._job is not None:
            self._job.close()
            self._job = None
        self._close_bar()

    def _close_bar(self) -> None:
        """Close the progress bar, and give Lightning its own back."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._hidden_bar is not None:
            self._hidden_bar.enable()
            self._hidden_bar = None


def _begin_copy(*tensors: Tensor) -> tuple[list[Tensor], Callable[[], object] | None]:
    """Begin to copy tensors to the host; give what waits for them, if anything must."""
    copies = [tensor.to('cpu', non_blocking=True) for tensor in tensors]
    if not any(tensor.is_cuda for tensor in tensors):
        return copies, None
    copied = torch.cuda.Event()
    copied.record()
    return copies, copied.synchronize


def _check_checkpoint(path: str, checkpoint: Mapping[str, Any], scene: Any) -> None:
    """Compare a checkpoint with the scene before any work is done."""
    from ..maps.classifier import match_bands

    state = data_state(checkpoint)
    if state is None:
        # Whether that is acceptable is for the datamodule to say.
        return
    source = f'the checkpoint {path}'
    match_bands(*trained_bands(state), scene, source)
    if scene.class_names:
        check_same_classes(state, scene.name, scene.class_names, source)


def _provenance(task: Any) -> dict[str, Any]:
    """Give the run that a task comes from as a checkpoint would tell it."""
    known = getattr(task, 'provenance', None)
    return {} if known is None else {KEY: known.to_dict()}


def _legend(checkpoint: Mapping[str, Any], scene: Any) -> 'Legend':
    """Name the classes of a map: those of the scene, or else of the training."""
    from ..maps.raster import Legend

    if scene.class_names:
        return Legend.from_classes(scene.class_names, scene.class_values, scene.palette)
    state = data_state(checkpoint)
    if state is None:
        raise ValueError(
            f'the scene {scene.name} has no labels, and the checkpoint does not name '
            'classes; give class_names={1: NAME, 2: NAME, ...}'
        )
    return Legend.of(state['scene'])


def _in_notebook() -> bool:
    """Tell whether IPython runs this, which shows bars without a terminal."""
    shell = getattr(sys.modules.get('IPython'), 'get_ipython', None)
    return shell is not None and shell() is not None
