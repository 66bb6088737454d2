# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Classifiers from checkpoints: network, bands, normalisation and classes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from .._wording import listed, shortened
from ..calibration import calibrated
from ..checkpoint import (
    Provenance,
    data_state,
    other_bands,
    reach,
    read_checkpoint,
    trained_bands,
)
from ..checkpoint.comparison import NEAREST_BANDS
from ..datasets.scene import HyperspectralScene
from ..models._weights import compare_weights, network_state
from ..transforms.patches import PatchSource
from .raster import Legend

__all__ = ('Classifier', 'load_classifier', 'match_bands')


class _SelectedBands:
    """A scene seen through some of its bands."""

    def __init__(self, scene: HyperspectralScene, bands: NDArray[np.int64]) -> None:
        """Create a new view.

        Args:
            scene: The scene.
            bands: Numbers of its used bands, in the wanted order.
        """
        self._scene = scene
        self._bands = bands
        self.valid = scene.valid
        self.in_memory = scene.in_memory
        self.precise = scene.precise
        self.scaling = tuple(scene.scaling[band] for band in bands if scene.scaling)
        self.shape = (scene.shape[0], scene.shape[1], len(bands))

    def read(
        self,
        row_start: int,
        row_stop: int,
        col_start: int,
        col_stop: int,
        double: bool = False,
    ) -> NDArray[Any]:
        """Read a window (rows, cols, bands), float32 or, if wanted, float64."""
        values = self._scene.read(row_start, row_stop, col_start, col_stop, double)
        return np.ascontiguousarray(values[:, :, self._bands])


@dataclass(frozen=True)
class Classifier:
    """A trained network and what it has to know about its input.

    Attributes:
        model: Network from patches (n, bands, P, P) to logits (n, classes), in
            evaluation mode.
        legend: Names, raster values and colours of the classes.
        num_bands: Bands of the scenes it reads (before PCA).
        wavelengths: Band centres in nm, float64 (bands,), or None if unknown.
        data: State of the data module that the network was trained with: what makes
            the patches (:meth:`PatchSource.from_state`), scene, split and bands.
        source: The checkpoint.
        temperature: What the network divides its logits by, fitted on validation
            pixels; None for nothing.
    """

    model: nn.Module
    legend: Legend
    num_bands: int
    wavelengths: NDArray[np.float64] | None
    data: Mapping[str, Any]
    source: str
    temperature: float | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.legend.names

    @property
    def patch_size(self) -> int:
        """Rows and columns P of a patch."""
        return int(self.data['patch_size'])

    def patches(
        self, scene: HyperspectralScene, match_wavelengths: bool = False
    ) -> PatchSource:
        """Prepare a scene for this classifier.

        Args:
            scene: The scene, in the units of the training scene.
            match_wavelengths: Whether to take, for each band of the classifier, the
                scene's band of the nearest wavelength.

        Returns:
            The source of patches of this scene.

        Raises:
            ValueError: If the bands differ, or the scene is smaller than a patch.
        """
        bands = match_bands(
            self.num_bands, self.wavelengths, scene, self.source, match_wavelengths
        )
        view: Any = scene if bands is None else _SelectedBands(scene, bands)
        return PatchSource.from_state(view, self.data)


def match_bands(
    num_bands: int,
    wavelengths: NDArray[np.float64] | None,
    scene: HyperspectralScene,
    source: str,
    match_wavelengths: bool = False,
) -> NDArray[np.int64] | None:
    """Compare a scene's bands with those that a classifier was trained on.

    Bands are the same if their number is, and if no centre differs by more than half
    the distance to its neighbour.

    Args:
        num_bands: Bands of the classifier.
        wavelengths: Their centres in nm, or None.
        scene: The scene.
        source: Name of the classifier for messages.
        match_wavelengths: Whether to pair bands by wavelength if they differ.

    Returns:
        The scene's band for each band of the classifier; None if it is every band in
        its order.

    Raises:
        ValueError: If the bands differ and cannot, or must not, be paired.
    """
    found = scene.wavelengths
    if wavelengths is None or found is None:
        if scene.num_bands == num_bands and not match_wavelengths:
            return None
        missing = source if wavelengths is None else f'the scene {scene.name}'
        if match_wavelengths:
            raise ValueError(
                f'bands cannot be matched by wavelength: {missing} has no wavelengths'
            )
        raise ValueError(
            f'{source} reads {num_bands} bands, the scene {scene.name} has '
            f'{scene.num_bands}; select the same bands (they cannot be matched by '
            f'wavelength because {missing} has no wavelengths)'
        )
    difference = other_bands(num_bands, wavelengths, scene.num_bands, found)
    if difference is None:
        return None
    if not match_wavelengths:
        raise ValueError(
            f'{source} was trained on other bands than the scene {scene.name} has: '
            f'{difference}; select the same bands in the same order (bands=), or '
            f'{NEAREST_BANDS}'
        )
    distance = np.abs(found[None, :] - wavelengths[:, None])
    nearest = distance.argmin(axis=1).astype(np.int64)
    gap = distance[np.arange(num_bands), nearest]
    tolerance = np.maximum(reach(wavelengths), reach(found)[nearest])
    far = np.flatnonzero(gap > tolerance)
    if len(far):
        wanted = listed([f'{wavelengths[band]:.1f} nm' for band in far])
        raise ValueError(
            f'the scene {scene.name} ({found.min():.1f} to {found.max():.1f} nm) has '
            f'no band near {len(far)} of the {num_bands} bands of {source}: {wanted}'
        )
    result: NDArray[np.int64] = nearest
    return result


def usable_device(device: torch.device | str) -> torch.device:
    """Give a device on which torch can compute here."""
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        here = ['cpu', *(f'cuda:{n}' for n in range(torch.cuda.device_count()))]
        raise ValueError(
            f'device: found {str(device)!r}, expected one that torch can use here: '
            f'{", ".join(here)} ({shortened(str(error).splitlines()[0], 120)})'
        ) from error
    return where


def load_classifier(
    path: str | os.PathLike[str], device: torch.device | str = 'cpu'
) -> Classifier:
    """Load the classifier of a run.

    Args:
        path: Checkpoint, such as ``runs/NAME/version_0/checkpoints/best.ckpt``.
        device: Where the network is wanted.

    Returns:
        The classifier.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of this package's task and datamodule, or
            torch cannot use the device here.
    """
    where = usable_device(device)
    checkpoint = read_checkpoint(path)
    settings = checkpoint.get('hyper_parameters', {})
    state = data_state(checkpoint)
    missing = [
        name
        for name in ('model', 'in_channels', 'num_classes')
        if not settings.get(name)
    ]
    if state is None or missing:
        lacks = 'no state of a datamodule' if state is None else f'no {missing}'
        raise ValueError(
            f'{path} has {lacks}: it was not written by '
            'HyperspectralClassificationTask with a datamodule of this package'
        )
    model = timm.create_model(
        settings['model'],
        num_classes=settings['num_classes'],
        in_chans=settings['in_channels'],
        **(settings.get('model_options') or {}),
    )
    weights = network_state(checkpoint['state_dict'])
    found = compare_weights(model, weights)
    if not found.fits:
        raise ValueError(
            f'the weights in {path} do not fit {settings["model"]}: {found.sentence()}'
        )
    model.load_state_dict(weights)
    num_bands, wavelengths = trained_bands(state)
    provenance = Provenance.of(checkpoint)
    temperature = None if provenance is None else provenance.temperature
    return Classifier(
        model=calibrated(model.to(where).eval(), temperature),
        legend=Legend.of(state['scene']),
        num_bands=num_bands,
        wavelengths=wavelengths,
        data=state,
        source=str(path),
        temperature=temperature,
    )
