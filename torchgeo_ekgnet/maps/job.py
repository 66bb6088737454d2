# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A map that is being written to a folder, by one or more processes."""

import errno
import re
import stat
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from .._environment import versions
from .._files import NO_ROOM, check_free_space, write_json
from .._runs import Subject, claim_outputs, read_result
from ..datasets.scene import HyperspectralScene
from ..datasets.windows import SceneWindows
from .areas import pixel_area
from .assembly import Assembly
from .figure import save_map_figure
from .journal import FolderLock, Journal, JournalWriter
from .raster import Legend, publish
from .selection import MapOptions, map_windows

__all__ = ('STAGING', 'Extra', 'MapFiles', 'MapJob')

#: Writes a file that goes with the rasters, given its path.
Extra = Callable[[Path], object]

#: Folder of unfinished work, inside the output folder.
STAGING = '.map.partial'

#: Files of a map that a new one deletes; it always has a confidence.tif of its own.
_FILES = (
    'map.tif',
    'map.tif.aux.xml',
    'map.png',
    'report.html',
    'probabilities.tif',
    'smoothed.tif',
    'smoothed.tif.aux.xml',
    'smoothed.png',
    'map.json',
)

#: What an unfinished assembly can leave in that folder: rasters, drafts of them, side
#: files and GDAL's temporary ones. Nothing else is ever deleted there.
_LEFTOVER = re.compile(
    r'(map|smoothed|confidence|probabilities)(\.draft)?\.tif(\.aux\.xml|\..+\.tmp)?'
    r'|(map|smoothed)\.(png|json)|report\.html|\.[0-9a-f]{32}\.part(\.\w+)?'
)


@dataclass(frozen=True)
class MapFiles:
    """The rasters of a finished map.

    Attributes:
        classes: ``map.tif``.
        confidence: ``confidence.tif``.
        probabilities: ``probabilities.tif``, if asked for.
        smoothed: ``smoothed.tif``, if asked for.
        counts: Number of pixels of each class.
    """

    classes: Path
    confidence: Path
    probabilities: Path | None
    smoothed: Path | None
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
        about: Further facts for ``map.json``, JSON values.
    """

    folder: Path
    scene: HyperspectralScene
    legend: Legend
    options: MapOptions
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Lay out windows and journal."""
        self.windows = map_windows(self.scene, self.options)
        self.layout = self.options.layout(len(self.legend.names))
        self.staging = self.folder / STAGING
        self.journal = Journal(
            self.staging,
            {
                **self.settings,
                'scene': self.scene.metadata(),
                'files': self.scene.file_stamps(),
                'valid': zlib.crc32(np.packbits(self.scene.valid).data),
                'selected': zlib.crc32(np.packbits(self.windows.selected).data),
                'window_size': self.options.window_size,
                'batch_size': self.options.batch_size,
                'num_classes': self.layout.num_classes,
                'entropy': self.layout.entropy,
                'probabilities': self.layout.probabilities,
            },
        )
        self._assembly = Assembly(
            self.scene,
            self.legend,
            self.windows,
            self.layout,
            self.journal,
            self.options.probabilities,
            self.options.smoothing,
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
        claim_outputs(self.folder, (*_FILES, 'confidence.tif'))
        self._open_staging()
        self._lock.acquire()
        self._clean()
        self.journal.read(discard_others=True)
        pending = self.windows.num_pixels - self.journal.pixels()
        needed = self._assembly.disk_bytes
        needed += max(pending, 0) * self.layout.dtype.itemsize
        check_free_space(self.folder, needed, 'the map')
        done = np.array(sorted(self.journal.batches), dtype=np.int64)
        return self.journal.next_attempt(), done

    def _open_staging(self) -> None:
        """Make the folder of unfinished work; a link is not followed."""
        with suppress(FileExistsError):
            self.staging.mkdir()
        if not stat.S_ISDIR(self.staging.lstat().st_mode):
            kind = 'a link' if self.staging.is_symlink() else 'a file'
            raise NotADirectoryError(
                errno.ENOTDIR,
                f'found {kind}, expected the folder of an unfinished map or nothing; '
                'remove it, or choose another output folder',
                str(self.staging),
            )

    def _clean(self) -> None:
        """Delete what an unfinished assembly has left."""
        for leftover in self.staging.iterdir():
            # Of a link to a folder the link is ours.
            folder = leftover.is_dir() and not leftover.is_symlink()
            if _LEFTOVER.fullmatch(leftover.name) and not folder:
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

    def pictures(self) -> dict[str, Extra]:
        """Give what draws the staged maps, by the name of the picture."""
        names = ['map', 'smoothed'] if self.options.smoothing else ['map']
        return {
            f'{name}.png': partial(
                save_map_figure, self.staging / f'{name}.tif', self.scene, self.legend
            )
            for name in names
        }

    def missing(self) -> int:
        """Count the batches that no process has recorded yet."""
        self.journal.read()
        return self.windows.num_batches - len(self.journal.batches)

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
        if missing := self.missing():
            raise RuntimeError(
                f'the map is not complete: {missing} of {self.windows.num_batches} '
                f'batches are missing in {self.staging}; run the same command again '
                'to go on'
            )
        try:
            staged, pixels = self._assembly.stage(self.staging)
            facts = self._facts(pixels)
            further = [write_json(self.staging / 'map.json', facts)]
            further += [
                self.staging / name
                for name, write in extras.items()
                if self._written(name, write)
            ]
        except BaseException:
            self._clean()
            raise
        self._remove_old(facts)
        publish([*further, *staged], self.folder)
        self.journal.discard()
        self.close()
        # What others have put there stays, and with it the folder.
        with suppress(OSError):
            self.staging.rmdir()
        kept = self.folder / 'probabilities.tif'
        smoothed = self.folder / 'smoothed.tif'
        return MapFiles(
            classes=self.folder / 'map.tif',
            confidence=self.folder / 'confidence.tif',
            probabilities=kept if self.options.probabilities else None,
            smoothed=smoothed if self.options.smoothing else None,
            counts=pixels['map.tif'],
        )

    def _facts(self, pixels: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Say what the map is of."""
        scene = self.scene.metadata()
        counts, smoothing = pixels['map.tif'], self.options.smoothing
        classes = zip(self.legend.names, self.legend.values, counts, strict=True)
        return {
            **{name: scene.get(name) for name in ('cube', 'source', 'synthetic')},
            'scene': scene['name'],
            'scope': self.options.scope,
            'polygon': self.options.polygon and Path(self.options.polygon).name,
            **self.about,
            'pixels_classified': sum(counts),
            'pixels_without_data': int((~self.scene.valid).sum()),
            'pixel_area': pixel_area(self.scene),
            'classes': [
                {'name': name, 'value': value, 'pixels': count}
                for name, value, count in classes
            ],
            'palette': self.legend.palette.tolist(),
            'smoothing': smoothing and smoothing.describe(),
            'smoothed_pixels': pixels.get('smoothed.tif'),
            'versions': versions(),
        }

    def _remove_old(self, facts: Mapping[str, Any]) -> None:
        """Delete the files of the map that the new one replaces, and say so.

        The old map goes first and the new one comes last: whenever map.tif is there, all
        files beside it are its own.
        """
        old = read_result(self.folder / 'map.json')
        if not old and not (self.folder / 'map.tif').exists():
            return
        names = ('scope', 'polygon')
        was, new = Subject.of(old), Subject.of(facts)
        if was != new or any(old.get(name) != facts.get(name) for name in names):
            rank_zero_warn(
                f'{self.folder / "map.tif"}: a map of {was} (scope {old.get("scope")}) '
                f'is replaced by one of {new} (scope {facts["scope"]})'
            )
        for name in _FILES:
            (self.folder / name).unlink(missing_ok=True)

    def _written(self, name: str, write: Extra) -> bool:
        """Stage a file that the map can do without, and tell whether that went well."""
        try:
            write(self.staging / name)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            rank_zero_warn(
                f'{name} is left out, it could not be made ({type(error).__name__}: '
                f'{error}); the rasters are written'
            )
            return False
        return True
