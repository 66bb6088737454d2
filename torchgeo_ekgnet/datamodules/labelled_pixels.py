# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data module of torchgeo's georeferenced images with label rasters."""

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchgeo.datamodules import GeoDataModule
from torchgeo.datasets import GeoDataset

from .._options import instance_of, number_of_workers, whole_number
from ..checkpoint import check_same_pixels
from ..datasets.nodata import jsonable_nodata
from ..datasets.palette import class_palette
from ..datasets.splits import SUBSETS, Split, SplitContext, SplitProtocol
from ..samplers.combined import leaves, missing
from ..samplers.labelled_pixels import LabelledPixelSampler
from .base import SplitDataModule
from .batches import dealt_loader
from .class_table import ClassCounts, class_texts

logger = logging.getLogger(__name__)


class BandZScore:
    """Z-score of every band; pixels without data become 0.

    So what lies beyond an image is what
    :class:`~torchgeo_ekgnet.transforms.PatchSource` pads a scene with.
    """

    def __init__(self, mean: Tensor, std: Tensor, nodata: float | None) -> None:
        """Initialize a new normalisation.

        Args:
            mean: Mean of each band, shape (bands,).
            std: Standard deviation of each band, shape (bands,).
            nodata: Value that stands for missing data, None if there is none.
        """
        self.mean = mean[:, None, None]
        self.std = std[:, None, None]
        self.nodata = nodata

    def __call__(self, image: Tensor) -> Tensor:
        """Normalise patches, shape (..., bands, P, P)."""
        scores = (image - self.mean) / self.std
        return scores.masked_fill(missing(image, self.nodata), 0.0)


class LabelledPatches(Dataset[dict[str, Any]]):
    """Normalised patches of images with the label of their centre.

    The sampler has read every label: masks are not read again with each patch. Patches
    are normalised here, before a trainer brings them to its precision, and for loops
    without a trainer too.

    Attributes:
        normalize: What normalises a patch.
    """

    normalize: BandZScore

    def __init__(
        self, image: GeoDataset, sampler: LabelledPixelSampler, labels: NDArray[Any]
    ) -> None:
        """Initialize a new dataset.

        Args:
            image: Images.
            sampler: Labelled pixels; the dataset is asked for its windows.
            labels: Class from 0 of each, shape (N,).
        """
        self.image = image
        windows = sampler.subset(np.arange(len(sampler)), shuffle=False)
        self.label_of = dict(zip(map(_key, windows), labels.tolist(), strict=True))

    def __getitem__(self, window: Any) -> dict[str, Any]:
        """Read one patch.

        Args:
            window: Slices of x, y (and time) of a sampler.

        Returns:
            What the image dataset gives, with 'label', int64 scalar.
        """
        sample = self.image[window]
        label = torch.tensor(self.label_of[_key(window)])
        return {**sample, 'image': self.normalize(sample['image']), 'label': label}


class ListedPatches:
    """Patches by number, as whole batches."""

    def __init__(
        self, patches: LabelledPatches, windows: Iterable[Any], collate: Any
    ) -> None:
        """Initialize a new list.

        Args:
            patches: Patches by window.
            windows: Windows in the order of their numbers.
            collate: Makes a batch of samples.
        """
        self.patches = patches
        self.windows = list(windows)
        self.collate = collate

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.windows)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """Read a batch; one without patches has the sizes of the first one."""
        windows = [self.windows[index] for index in indices] or self.windows[:1]
        batch = self.collate([self.patches[window] for window in windows])
        return {name: values[: len(indices)] for name, values in batch.items()}


class LabelledPixelsDataModule(SplitDataModule, GeoDataModule):
    """Patches round the labelled pixels of ``image & labels``.

    Both are torchgeo datasets: EnMAP, PRISMA or any other raster dataset, and one whose
    samples hold a mask, such as :class:`~torchgeo_ekgnet.datasets.LabelRaster`. Files,
    reprojection and sampling are torchgeo's own machinery.

    The split is drawn as that of a scene: by place, on the pixel grid of all images. A
    place that was seen at several times is in one subset at all of them; the class that
    it has at the first one stands for it when the split is drawn. The split travels in
    the checkpoint, and testing with another one is refused.

    Labelled pixels without image data are left out. Other pixels without data are 0
    after normalisation, like what lies beyond the images.
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
        split: SplitProtocol | None = None,
        nodata: float | Literal['file'] | None = 'file',
        unlabelled: list[int] | None = None,
        statistics_pixels: int = 500,
        allow_other_split: bool = False,
    ) -> None:
        """Initialize a new data module.

        Args:
            image: Images.
            labels: Label masks.
            class_values: Mask values of the classes; those that are found if None.
            class_names: Names of the classes in the same order.
            patch_size: Rows and columns of a patch, odd.
            batch_size: Patches in a batch.
            num_workers: Processes that load data.
            split: Protocol that chooses training, validation and test pixels; a random
                split by default.
            nodata: Value that stands for missing data in the images, 'file' for the one
                that their files declare, None for none.
            unlabelled: Mask values that mean "no label", 0 by default; the nodata
                values of the label files always do.
            statistics_pixels: Most training pixels that are read for the mean and
                standard deviation of each band.
            allow_other_split: Accept a checkpoint that was trained with another split,
                with a warning. Its scores then include pixels it was trained on.

        Raises:
            TypeError: If images or labels are no georeferenced datasets, or the split is
                none.
            ValueError: If a class is listed twice, or a number is too small.
        """
        for name, dataset in (('image', image), ('labels', labels)):
            if not isinstance(dataset, GeoDataset):
                raise TypeError(
                    f'{name}: found {type(dataset).__name__}, expected a georeferenced '
                    'dataset of torchgeo; scenes have data modules of their own '
                    '(CustomSceneDataModule)'
                )
        instance_of('split', split, SplitProtocol, Split)
        batch_size = whole_number('batch_size', batch_size, 1)
        if class_values is not None and len(set(class_values)) != len(class_values):
            raise ValueError(
                f'class_values must list each class once, got {class_values}'
            )
        super().__init__(
            type(image), batch_size, patch_size, None, number_of_workers(num_workers)
        )
        self.size = patch_size
        self.image = image
        self.labels = labels
        self.class_values = class_values
        self.given_names = class_names
        self.protocol = split
        self.nodata = nodata
        self.unlabelled = [0] if unlabelled is None else unlabelled
        self.statistics_pixels = whole_number('statistics_pixels', statistics_pixels, 1)
        self.allow_other_split = allow_other_split
        # Patches are normalised where they are read.
        self.aug = nn.Identity()
        self._nodata: float | None = None
        self._counts: dict[str, list[int]] = {}
        self._overlap: dict[str, float] = {}

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
        known = {
            value: name
            for leaf in leaves(self.labels)
            for value, name in getattr(leaf, 'class_names', {}).items()
        }
        values = self.class_values or []
        return [known.get(value, f'class {value}') for value in values]

    def setup(self, stage: str) -> None:
        """Find the labelled pixels, draw the split and measure the bands.

        Raises:
            ValueError: If the split cannot be drawn, a class has no training pixel or
                names do not fit.
        """
        if stage == 'predict':
            raise ValueError(
                'LabelledPixelsDataModule scores labelled pixels and makes no map; '
                'open the product as a scene (CustomSceneDataModule) to map it'
            )
        if self._split is None:
            self._prepare()
        if stage == 'fit':
            self._announce_classes(
                type(self.image).__name__,
                ClassCounts(self.class_values or (), self.class_names, self._counts),
            )
        self._apply_pending_state()

    def class_counts(self, subset: str = 'train') -> Tensor:
        """Count the patches of each class.

        Args:
            subset: 'train', 'val' or 'test'.

        Returns:
            int64 (C,); 0 for classes that the split dropped or merged.
        """
        return torch.tensor(self._counts[subset])

    def _loader(self, split: str) -> DataLoader[dict[str, Tensor]]:
        """Make a data loader of windows."""
        sampler = self._valid_attribute(f'{split}_sampler')
        train = split == 'train'
        if not train and self.trainer is not None and self.trainer.world_size > 1:
            patches = ListedPatches(
                self._valid_attribute('dataset'), sampler, self.collate_fn
            )
            return dealt_loader(
                patches, self.batch_size, self.trainer, self.num_workers
            )
        return DataLoader(
            self._valid_attribute('dataset'),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            drop_last=train and self._drops_last(len(sampler), self.batch_size),
            persistent_workers=self.num_workers > 0,
            # Of its own: the number of workers changes nothing that is drawn elsewhere.
            generator=torch.Generator(),
        )

    def describe(self) -> dict[str, Any]:
        """Describe the data as results report them.

        Returns:
            JSON-able 'scene', 'split' (of places; with 'counts' of patches per class,
            and 'overlap'), 'patch_size', 'padding_mode', 'normalization', 'bands',
            'pca', 'num_bands' and 'num_classes'.
        """
        name = f'{type(self.image).__name__} & {type(self.labels).__name__}'
        return {
            'scene': {
                'name': name,
                'class_names': self.class_names,
                'class_values': list(self.class_values or ()),
                'palette': class_palette(self.num_classes).tolist(),
                'wavelengths': self._wavelengths(),
                'nodata': jsonable_nodata(self._nodata),
                'synthetic': False,
                'source': f'torchgeo datasets {name}',
            },
            'split': {
                **self.split.describe(),
                'counts': copy.deepcopy(self._counts),
                'overlap': dict(self._overlap),
            },
            'patch_size': self.size,
            'padding_mode': 'zeros',
            'normalization': {'method': 'zscore', 'over': 'train'},
            'bands': None,
            'pca': None,
            'num_bands': self.num_bands,
            'num_classes': self.num_classes,
        }

    def _wavelengths(self) -> list[float] | None:
        """Band centres in nm; torchgeo's datasets that know them tell micrometres."""
        known = getattr(self.image, 'wavelengths', None) or {}
        bands = list(getattr(self.image, 'bands', None) or ())
        if len(bands) != self.num_bands or not set(bands) <= set(known):
            return None
        return [1000.0 * float(known[band]) for band in bands]

    def _statistics(self) -> dict[str, Any]:
        """Give the state of a normalizer, so that the network maps scenes as well."""
        normalizer = {
            'method': 'zscore',
            'over': 'train',
            'offset': self.mean.tolist(),
            'scale': self.std.tolist(),
        }
        return {'normalizer': normalizer}

    def _apply_state(self, state: Mapping[str, Any]) -> None:
        """Check a state and take its statistics over."""
        check_same_pixels(state, self.describe(), self.allow_other_split)
        normalizer = state['normalizer']
        # A state of scenes holds doubles.
        offset, scale = (
            torch.as_tensor(normalizer[name]).float() for name in ('offset', 'scale')
        )
        self._normalize(offset, scale)

    def _prepare(self) -> None:
        """Find the labelled pixels and everything that hangs on them."""
        everything = LabelledPixelSampler(
            self.image & self.labels,
            self.size,
            unlabelled=self.unlabelled,
            nodata=self.nodata,
            shuffle=False,
        )
        self._nodata = everything.nodata
        if self.class_values is None:
            self.class_values = [int(value) for value in np.unique(everything.labels)]
        if self.given_names is not None and len(self.given_names) != self.num_classes:
            raise ValueError(
                f'{len(self.given_names)} class names for {self.num_classes} classes '
                f'({self.class_values})'
            )
        # Classes from 1, and 0 for values that are none.
        labels = np.zeros(len(everything), dtype=np.int64)
        for number, value in enumerate(self.class_values, start=1):
            labels[everything.labels == value] = number
        split = self._draw(everything, labels)
        for source, target in split.relabel.items():
            labels[labels == source] = target
        labels[np.isin(labels, split.dropped)] = 0
        self._deal_out(everything, labels, split)
        self.dataset = LabelledPatches(self.image, everything, labels - 1)
        self._measure(self.train_sampler)
        self._overlap = split.overlap(self.size)._asdict()
        self._split = split
        logger.info('LabelledPixelsDataModule: %s', self.describe()['split'])

    def _deal_out(
        self, pixels: LabelledPixelSampler, labels: NDArray[np.int64], split: Split
    ) -> None:
        """Make a sampler of each subset, and count its classes."""
        place = np.ravel_multi_index(tuple(pixels.places.T), split.shape)
        unused = labels > 0
        self._counts = {}
        for subset in SUBSETS:
            chosen = (labels > 0) & np.isin(place, split.indices(subset))
            unused &= ~chosen
            sampler = pixels.subset(chosen, shuffle=subset == 'train')
            setattr(self, f'{subset}_sampler', sampler)
            self._counts[subset] = self._count(labels[chosen])
        self._counts['unused'] = self._count(labels[unused])
        missed = [
            name
            for number, name in enumerate(self.class_names, start=1)
            if self._counts['train'][number - 1] == 0
            and number not in split.dropped
            and number not in split.relabel
        ]
        if missed:
            raise ValueError(
                f'split {split.protocol!r} leaves no training pixel of {missed}: label '
                'more, leave these classes out of class_values or use another split'
            )

    def _draw(self, pixels: LabelledPixelSampler, labels: NDArray[np.int64]) -> Split:
        """Draw the split of the places from the class of every pixel, 0 for none."""
        label_map = np.zeros(pixels.shape, dtype=np.int64)
        # Backwards, so that the first time of a place stays.
        known = np.flatnonzero(labels)[::-1]
        label_map[tuple(pixels.places[known].T)] = labels[known]
        context = SplitContext(class_texts(self.class_values or (), self.class_names))
        return self._drawn(self.image, label_map, self.size, context)

    def _count(self, labels: NDArray[np.int64]) -> list[int]:
        """Count classes from 1."""
        counts: list[int] = np.bincount(labels, minlength=self.num_classes + 1).tolist()
        return counts[1:]

    def _measure(self, sampler: Any) -> None:
        """Measure mean and standard deviation on training pixels."""
        count = min(len(sampler), self.statistics_pixels)
        chosen = np.linspace(0, len(sampler) - 1, count).round().astype(np.int64)
        pixels = sampler.subset(chosen, shuffle=False)
        pixels.size = 1
        samples = [self.image[window] for window in pixels]
        if 'image' not in samples[0]:
            raise ValueError(
                f'image: {type(self.image).__name__} gives {", ".join(samples[0])}, '
                'expected image among them; are image and labels exchanged?'
            )
        spectra = torch.stack([sample['image'][:, 0, 0] for sample in samples]).double()
        std = spectra.std(dim=0, correction=0)
        # No scale is known of a band without spread: it is 0 everywhere.
        std[(spectra == spectra[0]).all(dim=0)] = torch.inf
        self._normalize(spectra.mean(dim=0).float(), std.float())

    def _normalize(self, mean: Tensor, std: Tensor) -> None:
        """Set what normalises patches."""
        self.mean, self.std = mean, std
        patches = cast(LabelledPatches, self.dataset)
        patches.normalize = BandZScore(mean, std, self._nodata)


def _key(window: Any) -> tuple[Any, ...]:
    """Return where a window begins; slices are no keys before Python 3.12."""
    return tuple(part.start for part in window)
