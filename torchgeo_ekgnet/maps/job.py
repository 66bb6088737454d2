# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A map that is being written to a folder, by one or more processes."""

import errno
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from rasterio.windows import Window

from .._files import check_free_space, check_writable
from .._version import __version__
from ..datasets.scene import HyperspectralScene
from ..datasets.windows import SceneWindows
from .journal import FolderLock, Journal, JournalWriter, Layout
from .raster import Legend, RasterSpec, attribute_table, publish, stage_raster
from .selection import MapOptions, select_pixels

__all__ = ('STAGING', 'Extra', 'MapFiles', 'MapJob')

#: Writes a file that goes with the rasters: given its path and the pixels of each class.
Extra = Callable[[Path, tuple[int, ...]], object]

#: Folder of unfinished work, inside the output folder.
STAGING = '.map.partial'


@dataclass(frozen=True)
class MapFiles:
    """The rasters of a finished map.

    Attributes:
        classes: ``map.tif``.
        confidence: ``confidence.tif``.
        probabilities: ``probabilities.tif``, if asked for.
        counts: Number of pixels of each class.
    """

    classes: Path
    confidence: Path
    probabilities: Path | None
    counts: tuple[int, ...]


@dataclass
class MapJob:
    """A map that is being written to a folder by one or more processes.

    Each process calls :meth:`prepare` and records the batches it gets; then process 0
    calls :meth:`finish`, and every one :meth:`close`, whatever happens. Until then
    process 0 keeps other jobs out of the folder.

    Attributes:
        folder: Output folder.
        scene: The scene.
        legend: Names, raster values and colours of the classes.
        options: What is mapped, and what is kept of it.
        settings: All else that the results depend on (the checkpoint, say), JSON
            values. Work of other settings is never taken up.
    """

    folder: Path
    scene: HyperspectralScene
    legend: Legend
    options: MapOptions
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Lay out windows and journal."""
        selected = select_pixels(self.scene, self.options)
        self.windows = SceneWindows(
            selected, self.options.window_size, self.options.batch_size
        )
        self.layout = Layout(
            len(self.legend.names), self.options.entropy, self.options.probabilities
        )
        self.staging = self.folder / STAGING
        self.journal = Journal(
            self.staging,
            {
                **self.settings,
                'scene': self.scene.facts(),
                'files': self.scene.file_stamps(),
                'valid': zlib.crc32(np.packbits(self.scene.valid).data),
                'selected': zlib.crc32(np.packbits(selected).data),
                'window_size': self.options.window_size,
                'batch_size': self.options.batch_size,
                'num_classes': self.layout.num_classes,
                'entropy': self.layout.entropy,
                'probabilities': self.layout.probabilities,
            },
        )
        self._lock = FolderLock(self.staging)
        self._writer: JournalWriter | None = None
        self._done: set[int] = set()

    def prepare(
        self,
        rank: int = 0,
        world_size: int = 1,
        broadcast: Callable[[Any], Any] = lambda value: value,
    ) -> SceneWindows:
        """See what is left to do, and get ready to record it.

        Args:
            rank: Number of this process.
            world_size: Number of processes.
            broadcast: Gives every process what process 0 passes in.

        Returns:
            The batches that are left. Some finished ones are among them if otherwise
            a process had none.

        Raises:
            OSError: If the folder cannot be written to, another job is at work there, or
                the disk has no room.
        """
        plan: Any = None
        if rank == 0:
            try:
                plan = self._plan()
            except (OSError, ValueError) as error:
                plan = error
        plan = broadcast(plan)
        if isinstance(plan, Exception):
            raise plan
        attempt, done = plan
        self._done = set(done)
        every = np.arange(self.windows.num_batches, dtype=np.int64)
        left = every[~np.isin(every, done)]
        if len(left) < world_size:
            spare = every[np.isin(every, done)][: world_size - len(left)]
            left = np.concatenate([left, spare])
            left = np.resize(left, max(world_size, len(left)))
        self._writer = self.journal.open_writer(attempt, rank)
        if rank == 0 and len(done):
            rank_zero_info(
                f'going on with a map of which {self.pixels_done:,} of '
                f'{self.windows.num_pixels:,} pixels are done'
            )
        return self.windows.subset(left)

    def _plan(self) -> tuple[int, NDArray[np.int64]]:
        """Read the journal, and check folder and disk."""
        check_writable(self.folder)
        self.staging.mkdir(exist_ok=True)
        self._lock.acquire()
        self._clean()
        self.journal.read(discard_others=True)
        needed = sum(spec.disk_bytes for spec in self._specs().values())
        pending = self.windows.num_pixels - self.journal.pixels()
        needed += max(pending, 0) * self.layout.dtype.itemsize
        check_free_space(self.folder, needed, 'the map')
        done = np.array(sorted(self.journal.batches), dtype=np.int64)
        return self.journal.next_attempt(), done

    def _clean(self) -> None:
        """Delete what an unfinished assembly has left."""
        for leftover in self.staging.iterdir():
            if leftover.suffix != '.journal' and leftover != self._lock.path:
                leftover.unlink()

    @property
    def pixels_done(self) -> int:
        """Pixels that were classified before this run."""
        return sum(self.windows.size(batch) for batch in self._done)

    def record(self, batch: int, probabilities: NDArray[np.float32]) -> int:
        """Keep the results of a batch.

        Args:
            batch: Number of the batch.
            probabilities: Of its pixels and classes, (n, classes).

        Returns:
            Number of pixels that are new.

        Raises:
            ValueError: If the results do not fit the batch or the classes.
            OSError: If the disk is full.
        """
        if self._writer is None:
            raise ValueError('the job is not prepared, or is closed')
        expected = self.windows.size(batch)
        if len(probabilities) != expected:
            raise ValueError(
                f'batch {batch} has {expected} pixels, the model returned '
                f'{len(probabilities)} results'
            )
        if batch in self._done:
            return 0
        self._writer.append(batch, self.layout.pack(probabilities))
        self._done.add(batch)
        return expected

    def flush(self) -> None:
        """Bring this process's results to the disk; there will be no more."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        """Bring this process's results to the disk, and let other jobs in."""
        try:
            self.flush()
        finally:
            self._lock.release()

    def _specs(self) -> dict[str, RasterSpec]:
        """Describe the rasters by file name."""
        rows, cols, _ = self.scene.shape
        common: dict[str, Any] = {
            'shape': (rows, cols),
            'crs': self.scene.crs,
            'transform': self.scene.transform,
        }
        tags = {
            'TIFFTAG_SOFTWARE': f'torchgeo_ekgnet {__version__}',
            'SCENE': self.scene.name,
            'SYNTHETIC': 'yes' if self.scene.synthetic else 'no',
        }
        measures: tuple[str, ...] = ('top probability',)
        if self.options.entropy:
            measures += ('entropy (nats)',)
        specs = {
            'map.tif': RasterSpec(
                dtype=self.legend.dtype,
                bands=('class',),
                nodata=0,
                colormap=self.legend.colormap,
                tags=tags
                | {
                    f'CLASS_{value}': name
                    for value, name in zip(
                        self.legend.values, self.legend.names, strict=True
                    )
                },
                **common,
            ),
            'confidence.tif': RasterSpec(
                dtype='float32', bands=measures, nodata=np.nan, tags=tags, **common
            ),
        }
        if self.options.probabilities:
            specs['probabilities.tif'] = RasterSpec(
                dtype='float32',
                bands=self.legend.names,
                nodata=np.nan,
                tags=tags,
                **common,
            )
        return specs

    def _tile(self, window: Window) -> NDArray[Any]:
        """Read the results of a tile, (rows, cols) of the layout's type."""
        row, col = int(window.row_off), int(window.col_off)
        height, width = int(window.height), int(window.width)
        tile = np.zeros((height, width), dtype=self.layout.dtype)
        for name in self.layout.dtype.names or ():
            if name != 'label':
                tile[name] = np.nan
        for batch in self.windows.batches_in(row, row + height, col, col + width):
            local = self.windows.positions(batch) - (row, col)
            results = self.journal.results(self.layout, batch)
            inside = ((local >= 0) & (local < (height, width))).all(axis=1)
            tile[local[inside, 0], local[inside, 1]] = results[inside]
        return tile

    def paint(self, path: Path, counts: tuple[int, ...]) -> None:
        """Draw the picture of the staged map.

        Args:
            path: PNG file to write.
            counts: Number of pixels of each class.
        """
        from .figure import save_map_figure

        save_map_figure(self.staging / 'map.tif', self.scene, self.legend, path)

    def missing(self) -> int:
        """Count the batches that no process has recorded yet."""
        self.journal.read()
        return self.windows.num_batches - len(self.journal.batches)

    def stage(self) -> tuple[list[Path], tuple[int, ...]]:
        """Write the rasters into the staging folder.

        Returns:
            The staged files in the order in which they must appear, and the number of
            pixels of each class.

        Raises:
            RuntimeError: If results are missing.
            OSError: If the disk is full.
        """
        if missing := self.missing():
            raise RuntimeError(
                f'the map is not complete: {missing} of {self.windows.num_batches} '
                f'batches are missing in {self.staging}; run the same command again '
                'to go on'
            )
        lookup = self.legend.lookup()
        counts = np.zeros(len(lookup), dtype=np.int64)

        def classes(window: Window) -> NDArray[Any]:
            labels = self._tile(window)['label']
            counts[:] += np.bincount(labels.ravel(), minlength=len(counts))
            return np.asarray(lookup[labels][None])

        def measures(window: Window) -> NDArray[Any]:
            tile = self._tile(window)
            bands = [tile['confidence']]
            if self.layout.entropy:
                bands.append(tile['entropy'])
            return np.stack(bands)

        def probabilities(window: Window) -> NDArray[Any]:
            return np.moveaxis(self._tile(window)['probabilities'], -1, 0)

        readers = {
            'map.tif': classes,
            'confidence.tif': measures,
            'probabilities.tif': probabilities,
        }
        staged = {
            name: stage_raster(self.staging, name, spec, readers[name])
            for name, spec in self._specs().items()
        }
        table = self.staging / 'map.tif.aux.xml'
        found = dict(zip(self.legend.values, counts[1:].tolist(), strict=True))
        table.write_bytes(attribute_table(self.legend, found))
        main = staged.pop('map.tif')
        return [*staged.values(), table, main], tuple(counts[1:].tolist())

    def finish(self, extras: Mapping[str, Extra] | None = None) -> MapFiles:
        """Write the files of the map, and clean up.

        Everything is written and checked in the staging folder first, and moved to
        its name at the end, so that an interruption leaves no half-written file.

        Args:
            extras: Further files by name, written when the rasters lie in the staging
                folder. One that cannot be written is left out with a warning.

        Returns:
            The rasters.

        Raises:
            RuntimeError: If results are missing.
            OSError: If the disk is full.
        """
        try:
            return self._finish(extras or {})
        finally:
            self.close()

    def _finish(self, extras: Mapping[str, Extra]) -> MapFiles:
        """Write the files while the folder is locked."""
        self.flush()
        self._lock.acquire()
        try:
            staged, counts = self.stage()
            further = [
                self.staging / name
                for name, write in extras.items()
                if self._written(name, write, counts)
            ]
        except BaseException:
            self._clean()
            raise
        names = {path.name for path in (*staged, *further)}
        # The old map goes first and the new one comes last: whenever map.tif is there,
        # all files beside it are its own.
        for stale in (
            'map.tif',
            'map.tif.aux.xml',
            'map.png',
            'report.html',
            'probabilities.tif',
        ):
            (self.folder / stale).unlink(missing_ok=True)
        publish([*further, *staged], self.folder)
        self.journal.discard()
        shutil.rmtree(self.staging, ignore_errors=True)
        return MapFiles(
            classes=self.folder / 'map.tif',
            confidence=self.folder / 'confidence.tif',
            probabilities=(
                self.folder / 'probabilities.tif'
                if 'probabilities.tif' in names
                else None
            ),
            counts=counts,
        )

    def _written(self, name: str, write: Extra, counts: tuple[int, ...]) -> bool:
        """Stage a file that the map can do without, and tell whether that went well."""
        try:
            write(self.staging / name, counts)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            rank_zero_warn(
                f'{name} is left out, it could not be made ({type(error).__name__}: '
                f'{error}); the rasters are written'
            )
            return False
        return True
