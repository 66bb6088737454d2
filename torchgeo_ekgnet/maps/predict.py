# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Classification of whole scenes, window by window."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checkpoint import check_same_classes
from ..datasets.plotting import colour_labels
from ..datasets.scene import HyperspectralScene
from ..datasets.windows import SceneWindows
from ..layers.modes import evaluating
from .classifier import Classifier, load_classifier, usable_device
from .job import MapFiles, MapJob
from .raster import Legend
from .selection import MapOptions, map_windows

__all__ = (
    'SceneMap',
    'classify',
    'describe_patches',
    'predict_map',
    'progress_bar',
    'weights_digest',
    'write_map',
)


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


def progress_bar(total: int, done: int = 0, enabled: bool = True) -> 'tqdm[Any]':
    """Show pixels, pixels per second and the time left.

    Args:
        total: Pixels in the whole map.
        done: Pixels that were classified before.
        enabled: Whether to show the bar.

    Returns:
        The bar; call ``update(pixels)`` and ``close()``.
    """
    return tqdm(
        total=total,
        initial=done,
        desc='Map',
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
        labels: Class of each pixel, 1..C as in ``legend``; 0 where nothing was
            classified. int64 (rows, cols).
        confidence: Probability of that class; NaN where nothing was classified.
            float32 (rows, cols).
        entropy: Entropy of the class probabilities in nats, or None.
        probabilities: Probability of each class, float32 (classes, rows, cols), or
            None.
        legend: Names, raster values and colours of the classes.
        smoothed: Class of each pixel by smoothed probabilities, or None.
    """

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    legend: Legend
    smoothed: NDArray[np.int64] | None = None

    def colours(self) -> NDArray[np.uint8]:
        """Paint the map.

        Returns:
            Red, green and blue, uint8 (rows, cols, 3); black where nothing was
            classified.
        """
        return colour_labels(self.labels, self.legend.palette)


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
        ValueError: If the scene does not fit the classifier, or torch cannot use the
            device here.
        TypeError: If ``patches`` is missing for a network.
    """
    chosen = MapOptions(**options)
    network, source, legend = _resolve(model, scene, patches, match_wavelengths)
    windows = map_windows(scene, chosen)
    layout = chosen.layout(len(legend.names))
    rows, cols, _ = scene.shape
    pixels = layout.empty(rows, cols)
    with (
        _placed(network, device, precision, compile) as (placed, where),
        progress_bar(windows.num_pixels, enabled=progress) as bar,
    ):
        for batch, values in classify(placed, source, windows, where, precision):
            positions = windows.positions(batch)
            pixels[positions[:, 0], positions[:, 1]] = layout.pack(values)
            bar.update(len(positions))
    smoothed, smoothing = None, chosen.smoothing
    if smoothing is not None:
        guidance = smoothing.guidance(scene)(0, rows, 0, cols)
        smoothed = smoothing.classes(pixels, guidance)
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
        smoothed=smoothed,
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
        ValueError: If the scene does not fit the classifier, or torch cannot use the
            device here.
        TypeError: If ``patches`` is missing for a network.
        OSError: If the folder cannot be written to or the disk is full.
    """
    chosen = MapOptions(**options)
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
        return job.finish(job.pictures() if picture else None)
    finally:
        job.close()


def _resolve(
    model: 'Classifier | nn.Module | str | os.PathLike[str]',
    scene: HyperspectralScene,
    patches: Patches | None,
    match_wavelengths: bool,
) -> tuple[nn.Module, Patches, Legend]:
    """Turn what the user gave into network, patches and legend."""
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
    if scene.class_names and 'scene' in classifier.data:
        check_same_classes(
            classifier.data, scene.name, scene.class_names, classifier.source
        )
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
    where = usable_device(device)
    with evaluating(network.to(where)):
        if compile:
            yield torch.compile(network, dynamic=True), where  # type: ignore[misc]
        else:
            yield network, where


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
            with warnings.catch_warnings(action='ignore'):
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
