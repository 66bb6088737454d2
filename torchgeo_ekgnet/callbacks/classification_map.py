# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``predict`` writes a map of the whole scene into the run's folder."""

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from .._files import file_digest
from ..checkpoint import check_same_classes, data_state, trained_bands
from ..datasets.windows import SceneWindows
from .run_folder import RunFolder, run_of_checkpoint

if TYPE_CHECKING:
    from ..maps.job import Extra, MapJob

__all__ = ('ClassificationMap',)


class ClassificationMap(Callback):
    """Writes the map of the scene after ``predict``.

    The run's folder gets ``map.tif`` (classes, with colours, names and, if the scene
    has one, its map projection), ``confidence.tif`` (probability of the chosen class),
    ``map.png`` and ``report.html``. See :doc:`the guide to maps </maps>`.

    Results go to the disk batch by batch, and Lightning is kept from collecting them, so
    memory grows with the scene by a few bytes a pixel for masks only. An interrupted map leaves no file that looks
    complete; the same command goes on where it stopped. Several processes or devices
    (``--trainer.devices``) share the work and write one map, the same to the bit.

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
        batch_size: int = 256,
        output: str | None = None,
        report: bool = True,
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
                window.
            output: Folder of the files; the run of the checkpoint by default.
            report: Whether to write ``report.html``.

        Raises:
            ValueError: If an option is unknown or misses another.
        """
        super().__init__()
        from ..maps.selection import MapOptions

        self.options = MapOptions(
            scope, polygon, entropy, probabilities, window_size, batch_size
        )
        self.output = output
        self.report = report
        self._job: MapJob | None = None
        self._bar: Any = None
        self._hidden_bar: Any = None
        self._data: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the datamodule the windows of the map.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            TypeError: If the datamodule is not one of this package.
            ValueError: If there is no pixel to classify.
        """
        self._job = None
        if stage != 'predict':
            return
        trainer.predict_loop.return_predictions = False
        if getattr(trainer, 'fast_dev_run', False):
            return
        from ..maps.selection import select_pixels

        datamodule: Any = getattr(trainer, 'datamodule', None)
        if not hasattr(datamodule, 'scene') or not hasattr(datamodule, 'patch_source'):
            raise TypeError(
                'ClassificationMap needs a datamodule of torchgeo_ekgnet, found '
                f'{type(datamodule).__name__}'
            )
        self._hidden_bar = trainer.progress_bar_callback
        if self._hidden_bar is not None:
            self._hidden_bar.disable()
        datamodule.predict_dataset = SceneWindows(
            select_pixels(datamodule.scene, self.options),
            self.options.window_size,
            self.options.batch_size,
        )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Plan the map, and give the datamodule the batches that are left.

        Args:
            trainer: The trainer.
            pl_module: The task.
            checkpoint: Content of the checkpoint.

        Raises:
            OSError: If the folder cannot be written to or the disk has no room.
            ValueError: If the checkpoint does not fit the scene.
        """
        path = trainer.ckpt_path
        if (
            trainer.state.fn != TrainerFn.PREDICTING
            or getattr(trainer, 'fast_dev_run', False)
            or not path
        ):
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        _check_checkpoint(str(path), checkpoint, datamodule.scene)
        folder = run_of_checkpoint(path) if self.output is None else Path(self.output)
        datamodule.predict_dataset = self._plan(trainer, folder, file_digest(path))

    def _plan(self, trainer: Trainer, folder: Path, weights: str) -> SceneWindows:
        """Start or take up the work in a folder.

        Args:
            trainer: The trainer.
            folder: Output folder.
            weights: Digest of the network's weights.

        Returns:
            The batches that are left.
        """
        from ..maps.job import MapJob
        from ..maps.predict import describe_patches
        from ..maps.raster import Legend

        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        scene = datamodule.scene
        job = MapJob(
            folder,
            scene,
            Legend.from_classes(scene.class_names, scene.class_values, scene.palette),
            self.options,
            {
                'weights': weights,
                'precision': str(trainer.precision),
                'patches': describe_patches(datamodule.patch_source),
            },
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
                return callback.path
        raise ValueError(
            'predict: no checkpoint was given; pass --ckpt_path '
            'RUN/checkpoints/best.ckpt, or give ClassificationMap an output folder'
        )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show pixels per second and the time left in place of Lightning's bar.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            OSError: If the folder cannot be written to or the disk has no room.
            ValueError: If neither a checkpoint nor an output folder is known.
        """
        if getattr(trainer, 'fast_dev_run', False):
            return
        from ..maps.predict import progress_bar, weights_digest

        if self._job is None:
            # No checkpoint: the network was trained in this process.
            self._plan(
                trainer, self._default_folder(trainer), weights_digest(pl_module)
            )
        assert self._job is not None

        self._bar = progress_bar(
            self._job.windows.num_pixels,
            self._job.pixels_done,
            self._hidden_bar is not None and trainer.is_global_zero,
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
        """Bring the results of a batch to the disk.

        Args:
            trainer: The trainer.
            pl_module: The task.
            outputs: Class probabilities (n, classes).
            batch: The batch, with its number in 'window'.
            batch_idx: Index of the batch in this process.
            dataloader_idx: Index of the data loader.

        Raises:
            TypeError: If the task returned something else.
            OSError: If the disk is full.
            SIGTERMException: If the process was asked to end.
        """
        if self._job is None:
            return
        if not isinstance(outputs, Tensor) or not isinstance(batch, Mapping):
            raise TypeError(
                'ClassificationMap: predict_step must return class probabilities, '
                f'found {type(outputs).__name__}'
            )
        new = self._job.record(int(batch['window']), outputs.float().cpu().numpy())
        if self._bar is not None:
            left = self._bar.total - self._bar.n
            self._bar.update(min(new * trainer.world_size, left))
        if trainer.received_sigterm:
            # Lightning takes the signal, and its prediction loop goes on regardless.
            rank_zero_warn(
                'stopped by SIGTERM; what has been classified is kept in '
                f'{self._job.staging}, and the same command goes on from here'
            )
            raise SIGTERMException(128 + signal.SIGTERM)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the results of all processes together, and write the files.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            RuntimeError: If results are missing.
            OSError: If the disk is full.
        """
        job = self._job
        if job is None:
            return
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

        extras: dict[str, Extra] = {'map.png': job.paint}
        if self.report:
            extras['report.html'] = partial(self._write_report, trainer, job)
        files = job.finish(extras)
        page = job.folder / 'report.html'
        rank_zero_info(
            f'{sum(files.counts):,} pixels classified: {files.classes}'
            + (f', {page}' if page.is_file() else '')
        )

    def _write_report(
        self, trainer: Trainer, job: 'MapJob', path: Path, counts: tuple[int, ...]
    ) -> None:
        """Write the report beside the staged map."""
        from ..maps.run_report import write_run_report

        run = run_of_checkpoint(trainer.ckpt_path) if trainer.ckpt_path else job.folder
        facts: dict[str, Any] = {
            'classes': list(
                zip(job.legend.names, job.legend.values, counts, strict=True)
            ),
            'palette': job.legend.palette.tolist(),
            'scope': self.options.scope,
            'pixels classified': sum(counts),
            'pixels without data': int((~job.scene.valid).sum()),
            'precision': str(trainer.precision),
        }
        if trainer.ckpt_path:
            facts['checkpoint'] = Path(trainer.ckpt_path).name
            facts['checkpoint digest'] = job.settings['weights']
        if self.options.polygon is not None:
            facts['polygon'] = os.path.basename(self.options.polygon)
        write_run_report(run, path, self._data, facts, map_folder=path.parent)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keep what has been computed.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: What happened.
        """
        self._close()
        self._job = None

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Close files and progress bar.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        self._close()
        self._job = None

    def _close(self) -> None:
        """Close journal and progress bar."""
        if self._job is not None:
            self._job.close()
        self._close_bar()

    def _close_bar(self) -> None:
        """Close the progress bar, and give Lightning its own back."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._hidden_bar is not None:
            self._hidden_bar.enable()
            self._hidden_bar = None


def _check_checkpoint(path: str, checkpoint: Mapping[str, Any], scene: Any) -> None:
    """Compare a checkpoint with the scene before any work is done.

    Args:
        path: The checkpoint, for messages.
        checkpoint: Its content.
        scene: The scene.

    Raises:
        ValueError: If it was trained on other bands or classes.
    """
    from ..maps.classifier import match_bands

    state = data_state(checkpoint)
    if state is None:
        # Whether that is acceptable is for the datamodule to say.
        return
    source = f'the checkpoint {path}'
    match_bands(*trained_bands(state), scene, source)
    check_same_classes(state, scene.name, scene.class_names, source)
