# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Classification of whole scenes, window by window."""

import errno
import hashlib
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor, nn
from tqdm.auto import tqdm

from .._version import __version__
from ..datasets.scene import HyperspectralScene
from ..datasets.windows import SceneWindows
from .journal import FolderLock, Journal, JournalWriter, Layout
from .raster import (
    Legend,
    RasterSpec,
    attribute_table,
    check_free_space,
    check_writable,
    publish,
    stage_raster,
)

if TYPE_CHECKING:
    from .checkpoint import Classifier

__all__ = (
    'MapFiles',
    'MapJob',
    'MapOptions',
    'SceneMap',
    'classify',
    'predict_map',
    'progress_bar',
    'select_pixels',
    'write_map',
)

Scope = Literal['all', 'labelled', 'polygon']

#: Writes a file that goes with the rasters: given its path and the pixels of each class.
Extra = Callable[[Path, tuple[int, ...]], object]

#: Folder of unfinished work, inside the output folder.
STAGING = '.map.partial'


class Patches(Protocol):
    """What the engine needs from a patch source."""

    def gather(
        self,
        row_col: Tensor,
        device: torch.device | str,
        *,
        within: Tensor | None = None,
    ) -> Tensor:
        """Gather normalised patches (n, bands, P, P) by centre (n, 2).

        ``within`` are the bounds (4,) of the window that the centres lie in.
        """


@dataclass(frozen=True)
class MapOptions:
    """What is mapped, and what is kept of it.

    Attributes:
        scope: 'all' classifies every pixel that has data, 'labelled' the pixels with a
            reference label, 'polygon' those inside :attr:`polygon`.
        polygon: File with one or more polygons that GDAL reads (GeoPackage, GeoJSON,
            Shapefile), in any reference system. For a scene without one, x is the
            column and y the row, counted from the upper left corner.
        entropy: Also write the entropy of the class probabilities, in nats.
        probabilities: Also write every class's probability.
        window_size: Side of the windows in pixels.
        batch_size: Largest number of patches in a batch.
    """

    scope: Scope = 'all'
    polygon: str | None = None
    entropy: bool = False
    probabilities: bool = False
    window_size: int = 64
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: If an option is unknown or misses another.
        """
        if self.scope not in ('all', 'labelled', 'polygon'):
            raise ValueError(
                f"scope must be 'all', 'labelled' or 'polygon', found {self.scope!r}"
            )
        if (self.scope == 'polygon') != (self.polygon is not None):
            raise ValueError(
                "scope='polygon' and polygon=FILE belong together, found "
                f'scope={self.scope!r} and polygon={self.polygon!r}'
            )


def select_pixels(scene: HyperspectralScene, options: MapOptions) -> NDArray[np.bool_]:
    """Find the pixels that are to be classified.

    Args:
        scene: The scene.
        options: What is mapped.

    Returns:
        True for these pixels, (rows, cols). Pixels without data never are.

    Raises:
        ValueError: If no pixel is left.
        FileNotFoundError: If there is no file of polygons.
    """
    selected = scene.valid
    match options.scope:
        case 'labelled':
            selected = selected & (scene.label_map > 0)
        case 'polygon':
            selected = selected & _inside(scene, str(options.polygon))
        case _:
            pass
    if not selected.any():
        raise ValueError(
            f'{scene.name}: no pixel to classify (scope {options.scope!r}, '
            f'{int(scene.valid.sum())} pixels have data)'
        )
    return selected


def _inside(scene: HyperspectralScene, path: str) -> NDArray[np.bool_]:
    """Draw polygons onto the pixel grid; pixels whose centre is inside count."""
    import geopandas
    from rasterio.features import geometry_mask
    from rasterio.transform import Affine

    if not Path(path).is_file():
        raise FileNotFoundError(f'polygon: there is no file {path}')
    frame = geopandas.read_file(path)
    frame = frame[frame.geometry.notna()]
    kinds = sorted(set(frame.geometry.geom_type))
    if not kinds or not set(kinds) <= {'Polygon', 'MultiPolygon'}:
        raise ValueError(f'polygon: {path} must hold polygons, found {kinds}')
    if scene.crs is not None:
        if frame.crs is None:
            raise ValueError(
                f'polygon: {path} has no coordinate reference system, the scene '
                f'{scene.name} has one'
            )
        frame = frame.to_crs(scene.crs.to_wkt())
    rows, cols, _ = scene.shape
    mask: NDArray[np.bool_] = geometry_mask(
        list(frame.geometry),
        out_shape=(rows, cols),
        transform=Affine.identity() if scene.transform is None else scene.transform,
        invert=True,
    )
    return mask


def progress_bar(
    total: int, done: int = 0, enabled: bool = True, description: str = 'Map'
) -> 'tqdm[Any]':
    """Show pixels, pixels per second and the time left.

    Args:
        total: Pixels in the whole map.
        done: Pixels that were classified before.
        enabled: Whether to show the bar.
        description: Text in front of it.

    Returns:
        The bar; call ``update(pixels)`` and ``close()``.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit='px',
        unit_scale=True,
        disable=not enabled,
        dynamic_ncols=True,
        smoothing=0.1,
    )


@torch.inference_mode()
def classify(
    model: nn.Module,
    patches: Patches,
    windows: SceneWindows,
    device: torch.device | str = 'cpu',
    precision: Literal['32', 'bf16'] = '32',
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Classify the batches of a scene one after the other.

    Args:
        model: Network from patches (n, bands, P, P) to logits (n, classes), in
            evaluation mode and on the device.
        patches: Where patches come from.
        windows: The batches.
        device: Device of the model.
        precision: '32', or 'bf16' for bfloat16 autocast.

    Yields:
        Number of the batch and its class probabilities (n, classes).
    """
    device = torch.device(device)
    for index in range(len(windows)):
        item = windows[index]
        images = patches.gather(item['row_col'], device, within=item['bounds'])
        with (
            torch.autocast(device.type, torch.bfloat16)
            if precision == 'bf16'
            else nullcontext()
        ):
            logits = model(images)
        yield int(item['window']), logits.float().softmax(dim=1).cpu().numpy()


@dataclass(frozen=True)
class SceneMap:
    """A map in memory.

    Attributes:
        labels: Class of each pixel, 1..C as in the scene's label map; 0 where nothing
            was classified. int64 (rows, cols).
        confidence: Probability of that class; NaN where nothing was classified.
            float32 (rows, cols).
        entropy: Entropy of the class probabilities in nats, or None.
        probabilities: Probability of each class, float32 (classes, rows, cols), or
            None.
        legend: Names, raster values and colours of the classes.
    """

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    legend: Legend

    def colours(self) -> NDArray[np.uint8]:
        """Paint the map.

        Returns:
            Red, green and blue, uint8 (rows, cols, 3); black where nothing was
            classified.
        """
        table = np.concatenate([np.zeros((1, 3), np.uint8), self.legend.palette])
        return np.asarray(table[self.labels])


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


def _options(given: Mapping[str, Any]) -> MapOptions:
    """Read options from keyword arguments."""
    return MapOptions(**given)


def predict_map(
    model: 'Classifier | nn.Module | str | os.PathLike[str]',
    scene: HyperspectralScene,
    *,
    patches: Patches | None = None,
    match_wavelengths: bool = False,
    device: torch.device | str | None = None,
    precision: Literal['32', 'bf16'] = '32',
    compile: bool = False,
    progress: bool = False,
    **options: Any,
) -> SceneMap:
    """Classify a scene into arrays.

    The arrays hold the values that :func:`write_map` and ``torchgeo predict`` write.

    Args:
        model: A classifier from :func:`~torchgeo_ekgnet.maps.load_classifier`, the
            path of a checkpoint, or a network together with ``patches``.
        scene: The scene.
        patches: Where patches come from; only for a network.
        match_wavelengths: Whether a scene with other bands is matched by wavelength.
        device: Where to compute; where the model is, by default.
        precision: '32', or 'bf16' for bfloat16 autocast.
        compile: Whether to compile the network first.
        progress: Whether to show a progress bar.
        **options: Fields of :class:`MapOptions`.

    Returns:
        The map.

    Raises:
        ValueError: If the scene does not fit the classifier.
        TypeError: If ``patches`` is missing for a network.
    """
    chosen = _options(options)
    network, source, legend = _resolve(model, scene, patches, match_wavelengths)
    windows = SceneWindows(
        select_pixels(scene, chosen), chosen.window_size, chosen.batch_size
    )
    layout = Layout(len(legend.names), chosen.entropy, chosen.probabilities)
    rows, cols, _ = scene.shape
    pixels = np.zeros((rows, cols), dtype=layout.dtype)
    for name in layout.dtype.names or ():
        if name != 'label':
            pixels[name] = np.nan
    with (
        _placed(network, device, precision, compile) as (placed, where),
        progress_bar(windows.num_pixels, enabled=progress) as bar,
    ):
        for batch, values in classify(placed, source, windows, where, precision):
            positions = windows.positions(batch)
            pixels[positions[:, 0], positions[:, 1]] = layout.pack(values)
            bar.update(len(positions))
    return SceneMap(
        labels=pixels['label'].astype(np.int64),
        confidence=pixels['confidence'].astype(np.float32),
        entropy=pixels['entropy'].astype(np.float32) if chosen.entropy else None,
        probabilities=(
            np.moveaxis(pixels['probabilities'], -1, 0).astype(np.float32)
            if chosen.probabilities
            else None
        ),
        legend=legend,
    )


def write_map(
    model: 'Classifier | nn.Module | str | os.PathLike[str]',
    scene: HyperspectralScene,
    output: str | os.PathLike[str],
    *,
    patches: Patches | None = None,
    match_wavelengths: bool = False,
    device: torch.device | str | None = None,
    precision: Literal['32', 'bf16'] = '32',
    compile: bool = False,
    progress: bool = False,
    picture: bool = True,
    **options: Any,
) -> MapFiles:
    """Classify a scene into files; only masks of the whole scene are in memory.

    An interrupted call leaves no file that looks complete; the same call goes on
    where it stopped.

    Args:
        model: As for :func:`predict_map`.
        scene: The scene; it may be larger than memory.
        output: Folder for ``map.tif``, ``confidence.tif`` and ``map.png``.
        patches: Where patches come from; only for a network.
        match_wavelengths: Whether a scene with other bands is matched by wavelength.
        device: Where to compute; where the model is, by default.
        precision: '32', or 'bf16' for bfloat16 autocast.
        compile: Whether to compile the network first.
        progress: Whether to show a progress bar.
        picture: Whether to write ``map.png``.
        **options: Fields of :class:`MapOptions`.

    Returns:
        The files.

    Raises:
        ValueError: If the scene does not fit the classifier.
        TypeError: If ``patches`` is missing for a network.
        OSError: If the folder cannot be written to or the disk is full.
    """
    chosen = _options(options)
    network, source, legend = _resolve(model, scene, patches, match_wavelengths)
    job = MapJob(
        Path(output),
        scene,
        legend,
        chosen,
        {
            'weights': weights_digest(network),
            'precision': precision,
            'compile': compile,
            'patches': describe_patches(source),
        },
    )
    try:
        with _placed(network, device, precision, compile) as (placed, where):
            left = job.prepare()
            total, done = job.windows.num_pixels, job.pixels_done
            with progress_bar(total, done, progress) as bar:
                for batch, values in classify(placed, source, left, where, precision):
                    bar.update(job.record(batch, values))
        return job.finish({'map.png': job.paint} if picture else None)
    finally:
        job.close()


def _resolve(
    model: 'Classifier | nn.Module | str | os.PathLike[str]',
    scene: HyperspectralScene,
    patches: Patches | None,
    match_wavelengths: bool,
) -> tuple[nn.Module, Patches, Legend]:
    """Turn what the user gave into network, patches and legend."""
    from .checkpoint import Classifier, load_classifier

    if not isinstance(scene, HyperspectralScene):
        raise TypeError(
            f'scene: found {type(scene).__name__}, expected a HyperspectralScene; a '
            'data module has one as datamodule.scene after setup, an array becomes one '
            'by HyperspectralScene(cube, None)'
        )
    if isinstance(model, nn.Module):
        if patches is None:
            raise TypeError(
                'a network alone does not know how spectra were normalised: pass '
                'patches=PatchSource(scene, normalizer, patch_size), or a classifier '
                'from load_classifier(checkpoint)'
            )
        if not scene.class_names:
            raise ValueError(
                f'scene: {scene.name} has no labels and so no classes that the map '
                'could name; make it with class_names={1: NAME, 2: NAME, ...}'
            )
        legend = Legend.from_classes(
            scene.class_names, scene.class_values, scene.palette
        )
        return model, patches, legend
    classifier = model if isinstance(model, Classifier) else load_classifier(model)
    source = classifier.patches(scene, match_wavelengths=match_wavelengths)
    return classifier.model, source, classifier.legend


@contextmanager
def _placed(
    network: nn.Module, device: torch.device | str | None, precision: str, compile: bool
) -> Iterator[tuple[nn.Module, torch.device]]:
    """Put the network on its device, and for the time of a map in evaluation mode."""
    if precision not in ('32', 'bf16'):
        raise ValueError(f"precision: found {precision!r}, expected '32' or 'bf16'")
    if device is None:
        first = next(network.parameters(), None)
        device = 'cpu' if first is None else first.device
    where = torch.device(device)
    modes = [(module, module.training) for module in network.modules()]
    network.to(where).eval()
    try:
        if compile:
            yield torch.compile(network, dynamic=True), where  # type: ignore[misc]
        else:
            yield network, where
    finally:
        for module, training in modes:
            module.training = training


def weights_digest(network: nn.Module) -> str:
    """Identify weights by content.

    Args:
        network: The network.

    Returns:
        SHA-256 of names and values, hexadecimal.
    """
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()


def describe_patches(source: Patches) -> dict[str, Any]:
    """Identify how patches are made.

    Args:
        source: Where patches come from.

    Returns:
        JSON values: patch size, padding, and a digest of the normalisation.
    """
    digest = hashlib.sha256()
    for part in ('normalizer', 'pca'):
        transform = getattr(source, part, None)
        if transform is not None:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                digest.update(repr(_plain(transform.state_dict())).encode())
    return {
        'patch_size': getattr(source, 'patch_size', None),
        'padding_mode': getattr(source, 'padding_mode', None),
        'transform': digest.hexdigest(),
    }


def _plain(value: Any) -> Any:
    """Turn tensors and arrays into lists."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
