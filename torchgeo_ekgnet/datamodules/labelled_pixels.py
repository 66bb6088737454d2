# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data module of torchgeo's georeferenced images with label rasters."""

import hashlib
import logging
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datamodules import GeoDataModule
from torchgeo.datasets import GeoDataset

from ..samplers.labelled_pixels import CentreLabel, LabelledPixelSampler

logger = logging.getLogger(__name__)


class LabelledPixelsDataModule(GeoDataModule):
    """Patches round the labelled pixels of ``image & labels``.

    Both are torchgeo datasets: EnMAP, PRISMA or any other raster dataset, and one whose
    samples hold a mask, such as :class:`~torchgeo_ekgnet.datasets.LabelRaster`. Files,
    reprojection and sampling are torchgeo's own machinery.

    Labelled pixels are drawn for training, validation and test by squares of
    ``block_size`` pixels, so that with large squares few test patches overlap training
    patches. The draw is deterministic from its seed; its identity travels in the
    checkpoint, and testing with another draw is refused.
    """

    def __init__(
        self,
        image: GeoDataset,
        labels: GeoDataset,
        class_values: list[int] | None = None,
        class_names: list[str] | None = None,
        patch_size: int = 11,
        batch_size: int = 80,
        num_workers: int = 0,
        train: float = 0.6,
        val: float = 0.1,
        block_size: int = 1,
        seed: int = 1331,
        statistics_pixels: int = 500,
        allow_other_split: bool = False,
    ) -> None:
        """Initialize a new data module.

        Args:
            image: Images.
            labels: Label masks.
            class_values: Mask values of the classes; those that are found, without 0,
                if None.
            class_names: Names of the classes in the same order.
            patch_size: Rows and columns of a patch, odd.
            batch_size: Patches in a batch.
            num_workers: Processes that load data.
            train: Share of the labelled pixels used for training.
            val: Share used for validation; the rest is tested.
            block_size: Side of the squares that are drawn together, in pixels.
            seed: Seed of the draw.
            statistics_pixels: Most training pixels that are read for the mean and
                standard deviation of each band.
            allow_other_split: Accept a checkpoint that was trained with another draw.

        Raises:
            ValueError: If shares or sizes are out of range.
        """
        if not (0 < train < 1 and 0 < val < 1 and train + val < 1):
            raise ValueError(
                f'train and val must be positive and leave pixels to test, got '
                f'train={train}, val={val}'
            )
        if block_size < 1:
            raise ValueError(f'block_size must be at least 1, got {block_size}')
        super().__init__(type(image), batch_size, patch_size, None, num_workers)
        self.size = patch_size
        self.image = image
        self.labels = labels
        self.class_values = class_values
        self.given_names = class_names
        self.train_share = train
        self.val_share = val
        self.block_size = block_size
        self.seed = seed
        self.statistics_pixels = statistics_pixels
        self.allow_other_split = allow_other_split
        self._identity: str | None = None
        self._pending: dict[str, Any] | None = None

    @property
    def num_bands(self) -> int:
        """Bands of the patches."""
        return int(self.mean.numel())

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_values or ())

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        if self.given_names is not None:
            return self.given_names
        known = getattr(self.labels, 'class_names', {})
        values = self.class_values or []
        return [known.get(value, f'class {value}') for value in values]

    def setup(self, stage: str) -> None:
        """Find the labelled pixels, draw the split and measure the bands.

        Args:
            stage: Either 'fit', 'validate' or 'test'.

        Raises:
            ValueError: If a class has no training pixel or names do not fit.
        """
        if stage == 'predict':
            raise ValueError(
                'LabelledPixelsDataModule scores labelled pixels and makes no map; '
                'open the product as a scene (CustomSceneDataModule) to map it'
            )
        if self._identity is None:
            self._prepare()
        if self._pending is not None:
            state, self._pending = self._pending, None
            self._apply(state)

    def class_counts(self, split: str) -> Tensor:
        """Count the pixels of each class.

        Args:
            split: 'train', 'val' or 'test'.

        Returns:
            int64 (C,).
        """
        sampler: Any = getattr(self, f'{split}_sampler')
        values = self.class_values or []
        return torch.tensor([int((sampler.labels == value).sum()) for value in values])

    def describe(self) -> dict[str, Any]:
        """Describe the data as results report them.

        Returns:
            JSON-able 'scene', 'split', 'patch_size', 'padding_mode', 'normalization',
            'num_bands' and 'num_classes'.
        """
        counts = {
            name: self.class_counts(name).tolist() for name in ('train', 'val', 'test')
        }
        name = f'{type(self.image).__name__} & {type(self.labels).__name__}'
        return {
            'scene': {
                'name': name,
                'class_names': self.class_names,
                'class_values': list(self.class_values or ()),
                'synthetic': False,
                'source': f'torchgeo datasets {name}',
            },
            'split': {
                'protocol': 'random' if self.block_size == 1 else 'blocks',
                'settings': {
                    'train': self.train_share,
                    'val': self.val_share,
                    'block_size': self.block_size,
                    'seed': self.seed,
                },
                'identity': self._identity,
                'counts': counts,
            },
            'patch_size': self.size,
            'padding_mode': 'zeros',
            'normalization': {'method': 'zscore', 'over': 'train'},
            'bands': None,
            'num_bands': self.num_bands,
            'num_classes': self.num_classes,
        }

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint has to know about its data.

        Returns:
            The description, with the mean and standard deviation of each band.
        """
        if self._identity is None:
            return {}
        return {**self.describe(), 'mean': self.mean.tolist(), 'std': self.std.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the statistics of a checkpoint, if its draw is this one.

        Args:
            state_dict: What :meth:`state_dict` gave.

        Raises:
            ValueError: If the network was trained with another draw.
        """
        if self._identity is None:
            self._pending = state_dict
        else:
            self._apply(state_dict)

    def _apply(self, state: dict[str, Any]) -> None:
        theirs = state.get('split', {}).get('identity')
        if theirs != self._identity and not self.allow_other_split:
            raise ValueError(
                f'the checkpoint was trained with the draw {str(theirs)[:12]}, this one '
                f'is {str(self._identity)[:12]}: its scores would count pixels that it '
                'was trained on. Use its settings, or allow_other_split=True'
            )
        self._normalize(torch.tensor(state['mean']), torch.tensor(state['std']))

    def _prepare(self) -> None:
        both = self.image & self.labels
        everything = LabelledPixelSampler(both, self.size, shuffle=False)
        if self.class_values is None:
            self.class_values = [int(value) for value in np.unique(everything.labels)]
        if self.given_names is not None and len(self.given_names) != self.num_classes:
            raise ValueError(
                f'{len(self.given_names)} class names for {self.num_classes} classes '
                f'({self.class_values})'
            )
        both.transforms = CentreLabel(self.class_values)
        known = np.isin(everything.labels, self.class_values)
        part = _draw(
            everything,
            self.train_share,
            self.val_share,
            self.block_size,
            np.random.RandomState(self.seed),
        )
        samplers = [
            everything.subset(known & (part == number), shuffle=number == 0)
            for number in range(3)
        ]
        self.dataset = both
        self.train_sampler, self.val_sampler, self.test_sampler = samplers
        missing = [
            name
            for name, count in zip(
                self.class_names, self.class_counts('train').tolist(), strict=True
            )
            if count == 0
        ]
        if missing or not all(len(sampler) for sampler in samplers):
            sizes = [len(sampler) for sampler in samplers]
            raise ValueError(
                f'the draw leaves {sizes} training, validation and test pixels and no '
                f'training pixel of {missing}; label more, change seed or shares, or '
                f'use smaller blocks (block_size={self.block_size})'
            )
        self.train_batch_size = min(self.batch_size, len(samplers[0]))
        digest = hashlib.sha256()
        for sampler in samplers:
            digest.update(np.round(sampler.positions, 3).tobytes() + b'|')
            digest.update(sampler.labels.tobytes() + b'|')
        self._identity = digest.hexdigest()
        self._measure(samplers[0])
        logger.info('LabelledPixelsDataModule: %s', self.describe()['split'])

    def _measure(self, sampler: LabelledPixelSampler) -> None:
        """Measure mean and standard deviation on training pixels."""
        random = np.random.RandomState(self.seed)
        count = min(len(sampler), self.statistics_pixels)
        chosen = random.permutation(len(sampler))[:count]
        pixels = sampler.subset(np.sort(chosen), shuffle=False)
        pixels.size = 1
        spectra = torch.stack(
            [self.image[window]['image'][:, 0, 0] for window in pixels]
        ).double()
        std = spectra.std(dim=0, correction=0)
        std[std == 0] = 1.0
        self._normalize(spectra.mean(dim=0).float(), std.float())

    def _normalize(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std
        self.aug = K.AugmentationSequential(
            K.Normalize(mean=mean, std=std), data_keys=None, keepdim=True
        )


def _draw(
    sampler: LabelledPixelSampler,
    train: float,
    val: float,
    block_size: int,
    random: np.random.RandomState,
) -> NDArray[np.int64]:
    """Draw 0 (training), 1 (validation) or 2 (test) for each labelled pixel.

    With single pixels the shares hold for each class; squares are drawn whole.
    """
    part = np.full(len(sampler), 2, dtype=np.int64)
    if block_size == 1:
        for value in np.unique(sampler.labels):
            own = np.flatnonzero(sampler.labels == value)
            random.shuffle(own)
            first = max(1, round(train * len(own)))
            second = first + max(1, round(val * len(own)))
            part[own[:first]] = 0
            part[own[first:second]] = 1
        return part
    size = np.array(sampler.res) * block_size
    origin = sampler.positions.min(axis=0)
    square = np.floor((sampler.positions - origin) / size).astype(np.int64)
    _, owner, counts = np.unique(
        square, axis=0, return_inverse=True, return_counts=True
    )
    owner = owner.reshape(-1)
    order = random.permutation(len(counts))
    filled = np.cumsum(counts[order]) / len(sampler)
    kind = np.full(len(counts), 2, dtype=np.int64)
    kind[order[filled <= train + val]] = 1
    kind[order[filled <= train]] = 0
    return kind[owner]
