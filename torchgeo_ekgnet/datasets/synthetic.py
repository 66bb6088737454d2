# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Synthetic scene: a linear mixing model over a random field of regions."""

import logging
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.spatial import cKDTree

from .._options import random_seed, real_number, whole_number
from .._patch import PaddingMode
from .bands import Bands, nearest_bands
from .base import Sample, SceneDataset
from .scene import HyperspectralScene

logger = logging.getLogger(__name__)

_WARNING = 'SYNTHETIC SCENE: made by a program, not measured; its accuracies say '
_WARNING += 'nothing about any real scene'

#: Wavelengths in nm shown as red, green and blue; the materials differ most here.
_RGB = (2200.0, 1650.0, 850.0)

#: Largest mean of the relief, in standard deviations; brightness stays near 1 with it.
_LARGEST_MEAN = 6.0


class SyntheticScene(SceneDataset):
    """Synthetic scene, no file and no download needed.

    Dataset features:

    * regions of one material each, with wavy borders (a warped Voronoi partition)
    * every pixel is a linear mixture: mostly the material of its region, the rest other
      materials in random shares, drawn anew for every pixel
    * materials come in pairs with similar spectra; borders are mixed by the optics
    * slow changes of brightness over the scene, noise that is smooth along the spectrum
      and noise that is not
    * about a third of the pixels is unlabelled: some regions and the pixels at borders

    Because mixing is drawn anew for every pixel, one spectrum does not tell the
    material reliably, while a small neighbourhood does. The same arguments always give
    the same scene, whatever random numbers are drawn elsewhere.

    Dataset classes: ``num_classes`` materials.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = 'data',
        patch_size: int = 11,
        bands: Bands = None,
        padding_mode: PaddingMode = 'zeros',
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = False,
        rows: int = 100,
        cols: int = 100,
        num_bands: int = 100,
        num_classes: int = 8,
        seed: int = 0,
        mixing: float = 1.0,
        noise: float = 1.0,
    ) -> None:
        """Initialize a new SyntheticScene instance.

        Args:
            root: Not used; there are no files.
            patch_size: Rows and columns of a patch, odd.
            bands: Bands to use, see :class:`SceneDataset`.
            padding_mode: What lies beyond the scene's edge, see :class:`SceneDataset`.
            transforms: Takes and returns a sample.
            download: Not used.
            checksum: Not used.
            rows: Rows of the scene.
            cols: Columns of the scene.
            num_bands: Bands that are made, 400 to 2500 nm.
            num_classes: Number of materials, 2 or more.
            seed: Seed of everything in the scene.
            mixing: Share of foreign materials in a pixel; 1 is hard, 0 none.
            noise: Strength of the noise; 1 is hard, 0 none.

        Raises:
            ValueError: If an argument is out of range.
        """
        self.rows = rows
        self.cols = cols
        self.num_bands = num_bands
        self.num_classes = num_classes
        self.seed = seed
        self.mixing = mixing
        self.noise = noise
        super().__init__(
            root, patch_size, bands, padding_mode, transforms, download, checksum
        )

    def _load_scene(self) -> HyperspectralScene:
        """Make the scene."""
        return synthetic_scene(
            self.rows,
            self.cols,
            self.num_bands,
            self.num_classes,
            self.seed,
            self.mixing,
            self.noise,
            self.bands,
        )


def synthetic_scene(
    rows: int = 100,
    cols: int = 100,
    num_bands: int = 100,
    num_classes: int = 8,
    seed: int = 0,
    mixing: float = 1.0,
    noise: float = 1.0,
    bands: Bands = None,
) -> HyperspectralScene:
    """Make a synthetic scene, see :class:`SyntheticScene`.

    Args:
        rows: Rows of the scene.
        cols: Columns of the scene.
        num_bands: Bands that are made, 400 to 2500 nm.
        num_classes: Number of materials, 2 or more.
        seed: Seed of everything in the scene.
        mixing: Share of foreign materials in a pixel; 1 is hard, 0 none.
        noise: Strength of the noise; 1 is hard, 0 none.
        bands: Bands to use.

    Returns:
        The scene, marked as synthetic.

    Raises:
        ValueError: If an argument is out of range.
    """
    rows, cols = whole_number('rows', rows, 8), whole_number('cols', cols, 8)
    num_bands = whole_number('num_bands', num_bands, 1)
    num_classes = whole_number('num_classes', num_classes, 2)
    seed = random_seed(seed)
    mixing, noise = real_number('mixing', mixing, 0, 1), real_number('noise', noise, 0)
    logger.warning('%s (seed %d).', _WARNING, seed)
    random = np.random.RandomState(seed)
    material, labels = _regions(random, rows, cols, num_classes)
    spectra = _spectra(random, num_classes, num_bands)
    cube = _mix(random, material, spectra, mixing)
    cube *= _brightness(random, rows, cols)
    if noise:
        smooth = random.standard_normal((rows, cols, num_bands)).astype(np.float32)
        rough = random.standard_normal((rows, cols, num_bands)).astype(np.float32)
        smooth = gaussian_filter1d(smooth, max(num_bands / 12, 0.5), axis=2)
        smooth /= max(float(smooth.std()), 1e-6)
        cube += noise * (0.025 * smooth + 0.02 * rough)
    centres = np.linspace(400, 2500, num_bands) if num_bands > 1 else np.array([550.0])
    stored = np.clip(np.round(cube * 10000), 0, 32767).astype(np.int16)
    return HyperspectralScene(
        stored,
        labels,
        name='Synthetic scene',
        class_names={value: f'Material {value}' for value in range(1, num_classes + 1)},
        wavelengths=centres,
        bands=bands,
        rgb_bands=nearest_bands(centres, _RGB),
        synthetic=True,
        source=(
            f'synthetic: linear mixing model, seed {seed}, mixing {mixing:g}, noise '
            f'{noise:g}; reflectance x 10000'
        ),
    )


def _regions(
    random: np.random.RandomState, rows: int, cols: int, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the material (from 0) and the label (0 = none) of every pixel."""
    count = max(3 * num_classes, round(rows * cols / 110))
    centres = random.uniform(0, 1, (count, 2)) * (rows, cols)
    grid = np.moveaxis(np.indices((rows, cols)), 0, -1).astype(np.float64)
    reach = min(2.5, min(rows, cols) / 40)  # of the warp, in pixels
    for axis in range(2):
        wave = gaussian_filter(random.standard_normal((rows, cols)), 4.0)
        grid[:, :, axis] += reach * wave / max(float(wave.std()), 1e-9)
    region = cKDTree(centres).query(grid.reshape(-1, 2))[1].reshape(rows, cols)
    # Large and small classes, each with a region of its own that is labelled.
    weights = np.linspace(1.6, 0.6, num_classes)
    owner = random.choice(num_classes, size=count, p=weights / weights.sum())
    labelled = random.uniform(size=count) < 0.8
    sizes = np.bincount(region.ravel(), minlength=count)
    largest = np.argsort(-sizes, kind='stable')
    owner[largest[:num_classes]] = random.permutation(num_classes)
    labelled[largest[:num_classes]] = True
    material = owner[region].astype(np.int64)
    border = np.zeros((rows, cols), dtype=bool)
    border[1:] |= material[1:] != material[:-1]
    border[:-1] |= material[1:] != material[:-1]
    border[:, 1:] |= material[:, 1:] != material[:, :-1]
    border[:, :-1] |= material[:, 1:] != material[:, :-1]
    crowded = border & (random.uniform(size=(rows, cols)) < 0.7)
    keep = labelled[region] & ~crowded
    return material, np.where(keep, material + 1, 0)


def _spectra(
    random: np.random.RandomState, num_classes: int, num_bands: int
) -> NDArray[np.float32]:
    """Draw smooth reflectance spectra; neighbours in the list resemble each other."""
    position = np.linspace(0, 1, num_bands)

    def bumps(number: int, narrow: float, wide: float) -> NDArray[np.float64]:
        curve = np.zeros(num_bands)
        for _ in range(number):
            centre = random.uniform(-0.1, 1.1)
            width = random.uniform(narrow, wide)
            height = random.uniform(-1, 1)
            curve += height * np.exp(-0.5 * ((position - centre) / width) ** 2)
        return curve

    spectra = np.empty((num_classes, num_bands), dtype=np.float32)
    base = np.zeros(num_bands)
    for number in range(num_classes):
        if number % 2 == 0:
            base = 0.35 + 0.12 * bumps(5, 0.08, 0.3)
        own = bumps(4, 0.04, 0.12)
        own /= max(float(np.sqrt((own**2).mean())), 1e-9)
        spectra[number] = base + 0.02 * own
    clipped: NDArray[np.float32] = np.clip(spectra, 0.03, 0.95)
    return clipped


def _mix(
    random: np.random.RandomState,
    material: NDArray[np.int64],
    spectra: NDArray[np.float32],
    mixing: float,
) -> NDArray[np.float32]:
    """Mix the spectra in every pixel."""
    rows, cols = material.shape
    classes = len(spectra)
    foreign = random.gamma(0.35, 1.0, (rows, cols, classes)).astype(np.float32) + 1e-6
    foreign /= foreign.sum(axis=2, keepdims=True)
    share = (mixing * random.beta(2.0, 2.2, (rows, cols, 1))).astype(np.float32)
    pure = np.eye(classes, dtype=np.float32)[material]
    pure = gaussian_filter(pure, (0.7, 0.7, 0))  # light from beyond the border
    abundance = (1 - share) * pure + share * foreign
    return np.asarray(abundance @ spectra, dtype=np.float32)


def _brightness(
    random: np.random.RandomState, rows: int, cols: int
) -> NDArray[np.float32]:
    """Draw a slow change of brightness with a little variation from pixel to pixel."""
    relief = gaussian_filter(random.standard_normal((rows, cols)), 12.0)
    relief /= max(float(relief.std()), 1e-9)
    # In a scene smaller than its hills the mean can be many deviations: dark or blinding.
    mean = float(relief.mean())
    relief -= mean - min(max(mean, -_LARGEST_MEAN), _LARGEST_MEAN)
    flicker = random.standard_normal((rows, cols))
    brightness = 1 + 0.08 * relief + 0.04 * flicker
    return np.asarray(brightness[:, :, None], dtype=np.float32)
