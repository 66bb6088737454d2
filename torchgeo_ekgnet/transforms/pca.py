# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Principal components of spectra."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._options import whole_number
from .normalization import SpectralScene, as_double, iterate_spectra

#: Deviations that count as none, in the largest one.
_LEAST_DEVIATION = 1e-6


class SpectralPCA:
    """Replace the bands by their first principal components.

    The components are fitted on normalised spectra of the training pixels only, and
    their signs are fixed (the largest loading is positive), so that the same pixels
    give the same components on every machine.
    """

    def __init__(self, num_components: int, whiten: bool = False) -> None:
        """Initialize a new PCA.

        Args:
            num_components: Number of components that are kept.
            whiten: Whether components are scaled to unit variance.

        Raises:
            ValueError: If the number of components is not positive.
        """
        self.num_components = whole_number('pca: num_components', num_components, 1)
        self.whiten = whiten
        self.mean: Tensor | None = None
        self.components: Tensor | None = None
        self.variance: Tensor | None = None
        self.variance_ratio: float | None = None

    def __repr__(self) -> str:
        """Write the arguments."""
        return (
            f'{type(self).__name__}(num_components={self.num_components}, '
            f'whiten={self.whiten})'
        )

    def fit(
        self,
        scene: SpectralScene,
        positions: NDArray[np.int64] | None = None,
        normalizer: Callable[[Tensor], Tensor] | None = None,
    ) -> 'SpectralPCA':
        """Fit the components.

        Args:
            scene: The scene, read by blocks.
            positions: Rows and columns of the training pixels, shape (N, 2); every
                pixel with data by default.
            normalizer: Applied to the spectra first.

        Returns:
            The PCA itself.

        Raises:
            ValueError: If there are fewer bands or pixels than components.
        """
        bands = scene.shape[2]
        if self.num_components > bands:
            raise ValueError(
                f'pca: num_components is {self.num_components}, expected at most the '
                f'{bands} bands of the scene'
            )
        count = 0
        mean = np.zeros(bands)
        scatter = np.zeros((bands, bands))
        for spectra in iterate_spectra(scene, positions):
            if normalizer is not None:
                tensor = torch.from_numpy(spectra)
                # As patches are normalised: in double precision only where that tells.
                precise = getattr(scene, 'precise', False)
                normalised = normalizer(tensor if precise else tensor.float())
                spectra = normalised.to(torch.float64).numpy()
            n = len(spectra)
            part = spectra.mean(axis=0)
            centred = spectra - part
            delta = part - mean
            total = count + n
            scatter += centred.T @ centred
            scatter += np.outer(delta, delta) * (count * n / total)
            mean += delta * (n / total)
            count = total
        if count <= self.num_components:
            raise ValueError(
                f'pca: num_components is {self.num_components}, expected fewer than the '
                f'{count} training pixels'
            )
        if not np.isfinite(scatter).all():
            raise ValueError('pca: the training spectra hold NaN or infinite values')
        values, vectors = np.linalg.eigh(scatter / count)
        order = np.argsort(values)[::-1][: self.num_components]
        variance = np.maximum(values[order], 0.0)
        components = vectors[:, order]
        largest = np.abs(components).argmax(axis=0)
        signs = np.sign(components[largest, np.arange(components.shape[1])])
        components = components * signs
        self.mean = torch.from_numpy(mean)
        self.components = torch.from_numpy(np.ascontiguousarray(components))
        self.variance = torch.from_numpy(variance)
        whole = float(np.maximum(values, 0.0).sum())
        self.variance_ratio = float(variance.sum()) / whole if whole > 0 else 1.0
        return self

    def __call__(self, cube: Tensor) -> Tensor:
        """Project spectra.

        Args:
            cube: Normalised values, shape (..., bands).

        Returns:
            Components, float32, shape (..., num_components).

        Raises:
            RuntimeError: If the PCA is not fitted.
        """
        if self.mean is None or self.components is None or self.variance is None:
            raise RuntimeError('pca has no components yet: call fit first')
        cube = cube.to(torch.float32)
        mean = self.mean.to(cube.device, torch.float32)
        components = self.components.to(cube.device, torch.float32)
        projected = (cube - mean) @ components
        if self.whiten:
            deviation = self.variance.sqrt().to(cube.device, torch.float32)
            # Below it there is rounding of single precision, and nothing to see.
            least = _LEAST_DEVIATION * deviation.max()
            projected = projected / torch.where(deviation > least, deviation, 1.0)
        return projected

    def state_dict(self) -> dict[str, Any]:
        """Give everything that projects a spectrum."""
        return {
            'num_components': self.num_components,
            'whiten': self.whiten,
            'mean': self.mean,
            'components': self.components,
            'variance': self.variance,
            'variance_ratio': self.variance_ratio,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> 'SpectralPCA':
        """Make a PCA again from its state.

        Args:
            state: What :meth:`state_dict` gave; lists do as well as tensors.

        Returns:
            The PCA.

        Raises:
            ValueError: If the state lacks an entry.
        """
        try:
            pca = cls(int(state['num_components']), bool(state['whiten']))
            for name in ('mean', 'components', 'variance'):
                setattr(pca, name, as_double(state[name]))
            pca.variance_ratio = state['variance_ratio']
        except KeyError as error:
            raise ValueError(
                f'pca state has the entries {sorted(state)}, expected num_components, '
                'whiten, mean, components, variance and variance_ratio'
            ) from error
        return pca
