# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Smoothing of class probabilities over a window, plain or along the scene's edges."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ..datasets.scene import HyperspectralScene
from ..transforms.normalization import SpectralNormalizer, read_values
from ..transforms.pca import SpectralPCA

__all__ = ('Smoothing', 'make_guidance')

#: Gives the components of the scene in a window, (components, rows, cols).
Guidance = Callable[[int, int, int, int], NDArray[np.float32]]

_COMPONENTS = 3


@dataclass(frozen=True)
class Smoothing:
    """Averaging of the class probabilities of neighbouring pixels.

    Attributes:
        window: Side of the window in pixels, odd, at least 3.
        edges: None averages all pixels of the window alike. A number is the epsilon of a
            guided filter (He et al. 2013, doi:10.1109/TPAMI.2012.213) on the scene's
            first components, which have unit variance: the smaller, the weaker the
            edges that are kept.
    """

    window: int
    edges: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(
                f'smooth: found a window of {self.window} pixels, expected an odd number '
                'from 3 on'
            )
        if self.edges is not None and not 0 < self.edges < math.inf:
            raise ValueError(
                f'smooth_edges: found {self.edges}, expected a positive number'
            )

    @property
    def reach(self) -> int:
        """How far a pixel looks, in pixels; a guided filter averages twice."""
        return self.window // 2 if self.edges is None else self.window - 1

    def describe(self) -> dict[str, Any]:
        """Give the settings as results report them."""
        return {'window': self.window, 'edges': self.edges}

    @staticmethod
    def name(described: Mapping[str, Any], unit: str = '') -> str:
        """Name what :meth:`describe` gave: its window and whether edges are kept."""
        window, edges = described['window'], described.get('edges')
        kept = '' if edges is None else f', edges kept ({edges:g})'
        return f'{window} x {window}{unit}{kept}'

    def __call__(
        self,
        probabilities: NDArray[np.float32],
        guidance: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Smooth probabilities; pixels without any neither give nor get some.

        Args:
            probabilities: Of each class and pixel, (classes, rows, cols), NaN where
                nothing was classified.
            guidance: Components of the scene, (components, rows, cols), with *edges*.

        Returns:
            Probabilities, (classes, rows, cols), NaN where they were NaN.
        """
        known = np.isfinite(probabilities[0])
        own = np.where(known, probabilities, 0).astype(np.float64)
        averaged = self._mean(own) if guidance is None else self._guided(own, guidance)
        smooth = np.clip(averaged, 0, None)
        # As much as the share of pixels with probabilities; beside others an edge may
        # leave nothing, and the pixel keeps what it has.
        total = smooth.sum(axis=0)
        smooth = np.where(total > 1e-12, smooth / np.maximum(total, 1e-12), own)
        smooth[:, ~known] = np.nan
        result: NDArray[np.float32] = smooth.astype(np.float32)
        return result

    def classes(
        self, results: NDArray[Any], guidance: NDArray[np.float32] | None
    ) -> NDArray[np.int64]:
        """Choose the class of each pixel by smoothed probabilities.

        Args:
            results: What a map keeps of its pixels, probabilities among it, (rows, cols).
            guidance: Components of the scene there, with *edges*.

        Returns:
            Classes 1..C, 0 where nothing was classified, (rows, cols).
        """
        values = self(np.moveaxis(results['probabilities'], -1, 0), guidance)
        best = values.argmax(axis=0) + 1
        return np.where(results['label'] > 0, best, 0)

    def guidance(
        self, scene: HyperspectralScene
    ) -> Callable[[int, int, int, int], NDArray[np.float32] | None]:
        """Give what :meth:`__call__` is guided by in a window; None without *edges*."""
        if self.edges is None:
            return lambda top, bottom, left, right: None
        return make_guidance(scene)

    def _mean(self, stack: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average over the window; nothing lies beyond the border."""
        # Sums in a fixed order for every pixel: the same in whichever tile it lies.
        weights = np.full(self.window, 1 / self.window)
        rows = ndimage.correlate1d(stack, weights, axis=1, mode='constant')
        result: NDArray[np.float64] = ndimage.correlate1d(
            rows, weights, axis=2, mode='constant'
        )
        return result

    def _guided(
        self, stack: NDArray[np.float64], guidance: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Filter along the edges of the guidance."""
        from kornia.filters import guided_blur

        filtered = guided_blur(
            torch.from_numpy(guidance.astype(np.float64))[None],
            torch.from_numpy(stack)[None],
            self.window,
            float(self.edges or 0),
            border_type='replicate',
        )
        result: NDArray[np.float64] = filtered[0].numpy()
        return result


def make_guidance(scene: HyperspectralScene) -> Guidance:
    """Fit the components of a scene that edges are seen in.

    Args:
        scene: The scene; it is read twice, by blocks.

    Returns:
        What gives the components of a window.
    """
    normalizer = SpectralNormalizer('zscore').fit(scene)
    components = min(_COMPONENTS, scene.num_bands)
    # One component or three: what kornia's filter takes.
    pca = SpectralPCA(1 if components < _COMPONENTS else _COMPONENTS, whiten=True)
    pca.fit(scene, None, normalizer)

    def read(top: int, bottom: int, left: int, right: int) -> NDArray[np.float32]:
        values = torch.from_numpy(read_values(scene, top, bottom, left, right))
        seen = pca(normalizer(values))
        seen[torch.from_numpy(~scene.valid[top:bottom, left:right])] = 0
        planes: NDArray[np.float32] = seen.permute(2, 0, 1).float().numpy()
        return planes

    return read
