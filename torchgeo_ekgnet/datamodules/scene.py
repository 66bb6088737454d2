# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data module of one hyperspectral scene.

Data loaders ship pixel positions; the patches are gathered on the device from one
normalised cube, so that no patch is ever stored or copied between processes.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset

from ..checkpoint import check_same_pixels, check_training_data
from ..datasets.base import read_patch
from ..datasets.scene import BandSelection, HyperspectralScene
from ..datasets.splits import RandomSplit, Split, SplitProtocol
from ..datasets.windows import SceneWindows
from ..samplers.pixels import ClassBalancedSampler, PerClassSampler
from ..transforms.augmentation import RandomOrientation, SpectralJitter
from ..transforms.normalization import METHODS, SpectralNormalizer
from ..transforms.patches import PADDING_MODES, PatchSource
from ..transforms.pca import SpectralPCA

T = TypeVar('T')


class PixelDataset(Dataset[dict[str, Tensor]]):
    """Positions, and labels if known, of a set of pixels.

    A whole batch is taken by one index operation (``__getitems__``); use
    :func:`collate_pixels` with it.
    """

    def __init__(
        self, positions: NDArray[np.int64], labels: NDArray[np.int64] | None = None
    ) -> None:
        """Initialize a new dataset.

        Args:
            positions: Rows and columns, shape (N, 2).
            labels: Classes from 0, shape (N,).
        """
        self.columns = {'row_col': torch.from_numpy(np.ascontiguousarray(positions))}
        if labels is not None:
            self.columns['label'] = torch.from_numpy(np.ascontiguousarray(labels))

    def __len__(self) -> int:
        """Number of pixels.

        Returns:
            N.
        """
        return len(self.columns['row_col'])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Look up one pixel.

        Args:
            index: Number of the pixel.

        Returns:
            'row_col' of shape (2,) and, if known, 'label', a scalar.
        """
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Look up a batch of pixels.

        Args:
            indices: Numbers of the pixels.

        Returns:
            'row_col' of shape (B, 2) and, if known, 'label' of shape (B,).
        """
        chosen = torch.tensor(indices, dtype=torch.int64)
        return {name: column[chosen] for name, column in self.columns.items()}


class PixelBatches(Dataset[dict[str, Tensor]]):
    """Pixels as whole batches, the same number of them for each of several processes.

    Lightning deals the items of a dataset out to the processes, and repeats some if
    they do not go round: pixels would be scored twice. These batches always go round.
    They differ by at most one pixel; only with fewer pixels than batches some are empty.
    """

    def __init__(self, pixels: PixelDataset, batch_size: int, processes: int) -> None:
        """Initialize a new dataset.

        Args:
            pixels: The pixels.
            batch_size: Largest number of pixels in a batch.
            processes: Number of processes.
        """
        self.pixels = pixels
        rounds = math.ceil(len(pixels) / (batch_size * processes))
        self.parts = np.array_split(np.arange(len(pixels)), rounds * processes)

    def __len__(self) -> int:
        """Number of batches.

        Returns:
            A multiple of the number of processes.
        """
        return len(self.parts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Look up one batch.

        Args:
            index: Number of the batch.

        Returns:
            'row_col' of shape (B, 2) and, if known, 'label' of shape (B,).
        """
        return self.pixels.__getitems__(self.parts[index].tolist())


def collate_pixels(samples: Any) -> Any:
    """Collate what a dataset gave.

    Args:
        samples: A batch that is collated already, or a list of samples.

    Returns:
        The batch.
    """
    return samples if isinstance(samples, Mapping) else default_collate(samples)


class HyperspectralDataModule(NonGeoDataModule):
    """Data module of one scene; subclasses name the scene.

    After :meth:`setup` the attributes ``scene``, ``split``, ``patch_source``,
    ``num_bands`` (after PCA) and ``num_classes`` are set. Batches hold

    * 'image': normalised patches, float32, shape (B, bands, P, P),
    * 'label': classes from 0, shape (B,) (not while predicting),
    * 'row_col': position of the centre pixels, shape (B, 2).

    ``mean`` is 0 and ``std`` is 1: patches come from a cube that is normalised once.

    The split, the preprocessing and its statistics travel in every checkpoint. A
    network is refused if this data module would show it other pixels than it was
    trained with: testing it would score training pixels.

    The last training batch is dropped only if it had a single sample, which batch
    normalisation cannot train on; no other sample is ever left out.
    """

    #: Dataset of the scene.
    scene_dataset: ClassVar[type[NonGeoDataset] | None] = None

    #: Share of training and validation pixels of the default (random) split.
    default_split: ClassVar[tuple[float, float]] = (0.6, 0.1)

    mean = torch.tensor(0.0)
    std = torch.tensor(1.0)

    def __init__(
        self,
        root: str = 'data',
        patch_size: int = 11,
        batch_size: int = 80,
        num_workers: int = 0,
        split: SplitProtocol | None = None,
        bands: list[int] | BandSelection | None = None,
        padding_mode: Literal['zeros', 'reflect'] = 'zeros',
        normalization: Literal['zscore', 'minmax', 'snv', 'l2', 'none'] = 'zscore',
        normalize_over: Literal['scene', 'train'] = 'scene',
        pca: int | None = None,
        pca_whiten: bool = False,
        flips: bool = False,
        quarter_turns: bool = False,
        spectral_gain: float = 0.0,
        spectral_offset: float = 0.0,
        spectral_noise: float = 0.0,
        sampler: Literal['random', 'balanced', 'per_class'] = 'random',
        samples_per_class: int | None = None,
        sampler_seed: int = 0,
        predict_batch_size: int | None = None,
        allow_other_split: bool = False,
        download: bool = False,
        checksum: bool = False,
        dataset_options: dict[str, Any] | None = None,
    ) -> None:
        """Initialize a new data module.

        Args:
            root: Folder of the scene's files.
            patch_size: Rows and columns of a patch, odd.
            batch_size: Patches per batch (the paper: 80).
            num_workers: Worker processes of a data loader; positions are so small
                that 0 is fastest.
            split: Protocol that chooses training, validation and test pixels; the
                paper's random split by default.
            bands: Bands to use, counted in the file from 0, or a selection by
                wavelength; all by default.
            padding_mode: What lies beyond the border: 'zeros' after normalisation
                (the paper), or 'reflect'.
            normalization: 'zscore' and 'minmax' per band, 'snv' and 'l2' per pixel,
                or 'none'.
            normalize_over: Pixels that the statistics of a band come from: the whole
                'scene' (the paper) or the pixels of 'train' only.
            pca: Number of principal components that replace the bands, fitted on
                training pixels.
            pca_whiten: Whether components are scaled to unit variance.
            flips: Whether training patches are flipped at random.
            quarter_turns: Whether training patches are turned at random.
            spectral_gain: Standard deviation of a random gain per band in training.
            spectral_offset: Standard deviation of a random offset per training patch.
            spectral_noise: Standard deviation of noise on training patches.
            sampler: 'random' shuffles the training pixels, 'balanced' draws every
                class equally often with replacement, 'per_class' draws
                ``samples_per_class`` pixels of every class in each epoch.
            samples_per_class: Pixels of every class per epoch, for 'per_class'.
            sampler_seed: Seed of 'balanced' and 'per_class'.
            predict_batch_size: Patches per batch in prediction, ``batch_size`` by
                default.
            allow_other_split: Whether a checkpoint of another split or scene is
                accepted. Its scores then include pixels it was trained on.
            download: Whether missing files are downloaded.
            checksum: Whether the files' checksums are verified (may be slow).
            dataset_options: Further arguments of the scene's dataset.

        Raises:
            TypeError: If the class names no scene.
            ValueError: If an argument is not one of the values above.
        """
        if self.scene_dataset is None:
            raise TypeError(
                f'{type(self).__name__} names no scene: use a data module of a scene '
                'such as IndianPinesDataModule, or set scene_dataset in a subclass'
            )
        _check_choice('padding_mode', padding_mode, PADDING_MODES)
        _check_choice('normalization', normalization, METHODS)
        _check_choice('normalize_over', normalize_over, ('scene', 'train'))
        _check_choice('sampler', sampler, ('random', 'balanced', 'per_class'))
        if batch_size < 1:
            raise ValueError(f'batch_size is {batch_size}, expected at least 1')
        if (samples_per_class is None) == (sampler == 'per_class'):
            raise ValueError(
                f'samples_per_class is {samples_per_class} with sampler={sampler!r}: '
                "give it with sampler='per_class' and only then"
            )
        super().__init__(
            self.scene_dataset,
            batch_size,
            num_workers,
            root=root,
            patch_size=patch_size,
            bands=bands,
            padding_mode=padding_mode,
            download=download,
            checksum=checksum,
            **(dataset_options or {}),
        )
        self.patch_size = patch_size
        self.protocol: SplitProtocol | Split | None = split
        self.bands = bands
        self.padding_mode: Literal['zeros', 'reflect'] = padding_mode
        self.normalization = normalization
        self.normalize_over = normalize_over
        self.pca_components = pca
        self.pca_whiten = pca_whiten
        self.orientation = RandomOrientation(flips, quarter_turns)
        self.sampler = sampler
        self.samples_per_class = samples_per_class
        self.sampler_seed = sampler_seed
        self.predict_batch_size = predict_batch_size
        self.allow_other_split = allow_other_split
        self.collate_fn = collate_pixels

        # Patches are normalised where they are gathered.
        self.aug = nn.Identity()
        jitter = SpectralJitter(spectral_gain, spectral_offset, spectral_noise)
        if spectral_gain or spectral_offset or spectral_noise:
            self.train_aug = jitter

        self._normalizer = SpectralNormalizer(normalization)
        self._pca = None if pca is None else SpectralPCA(pca, pca_whiten)
        self._scene: HyperspectralScene | None = None
        self._split: Split | None = None
        self._patch_source: PatchSource | None = None
        self._description: dict[str, Any] | None = None
        self._pending_state: dict[str, Any] | None = None
        self._checked_checkpoint: Any = None

    @property
    def scene(self) -> HyperspectralScene:
        """The scene.

        Raises:
            RuntimeError: Before setup.
        """
        return after_setup(self._scene, 'scene')

    @property
    def split(self) -> Split:
        """The training, validation and test pixels.

        Raises:
            RuntimeError: Before setup.
        """
        return after_setup(self._split, 'split')

    @property
    def patch_source(self) -> PatchSource:
        """The place where patches come from.

        Raises:
            RuntimeError: Before setup.
        """
        return after_setup(self._patch_source, 'patch_source')

    @property
    def num_bands(self) -> int:
        """Channels of a patch, after band selection and PCA."""
        return self.patch_source.num_bands

    @property
    def num_classes(self) -> int:
        """Number of classes of the scene."""
        return self.scene.num_classes

    def setup(self, stage: str) -> None:
        """Read the scene, draw the split and prepare the patches.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        if self._scene is None:
            self._prepare(stage)
        split = self.split
        for name in ('train', 'val', 'test'):
            if stage == 'predict' or getattr(self, f'{name}_dataset') is not None:
                continue
            labels = split.labels(self.scene.label_map, name) - 1
            dataset = PixelDataset(split.positions(name), labels)
            setattr(self, f'{name}_dataset', dataset)
        if stage == 'predict':
            self.predict_dataset = SceneWindows(
                self.scene.valid, batch_size=self.predict_batch_size or self.batch_size
            )
        if self._pending_state is not None:
            state, self._pending_state = self._pending_state, None
            self._apply_state(state)

    def _prepare(self, stage: str) -> None:
        """Read the scene and everything that hangs on it.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            ValueError: If the scene has no labels and the stage needs some, or an
                argument does not fit the scene.
        """
        dataset: Any = self.dataset_class(**self.kwargs)
        scene: HyperspectralScene = dataset.scene
        split = self._draw_split(dataset, stage)
        train = split.positions('train')
        over = train if self.normalize_over == 'train' else None
        self._normalizer.fit(scene, over)
        if self._pca is not None:
            self._pca.fit(scene, train, self._normalizer)
        self._patch_source = PatchSource(
            scene, self._normalizer, self.patch_size, self.padding_mode, self._pca
        )
        self.dataset = dataset
        self._scene = scene
        self._split = split
        overlap = split.overlap(self.patch_size)
        sizes = [split.indices(name).size for name in ('train', 'val', 'test')]
        rank_zero_info(
            f'{scene.name}: {split.protocol} split, {sizes[0]} training, {sizes[1]} '
            f'validation and {sizes[2]} test pixels; of the test patches '
            f'{overlap.contains_training_centre:.1%} contain a training pixel and '
            f'{overlap.shares_training_pixel:.1%} share a pixel with a training patch'
        )
        if split.dropped or split.relabel:
            names = scene.class_names
            rank_zero_warn(
                f'{scene.name}: classes left out: '
                f'{[names[label - 1] for label in split.dropped]}; classes merged: '
                f'{ {names[k - 1]: names[v - 1] for k, v in split.relabel.items()} }'
            )

    def _draw_split(self, dataset: Any, stage: str) -> Split:
        """Draw the split of the scene.

        Args:
            dataset: The scene's dataset.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Returns:
            The split; an empty one if a scene without labels is to be mapped.

        Raises:
            ValueError: If there is nothing to train with.
        """
        scene: HyperspectralScene = dataset.scene
        if not scene.label_map.any():
            needs_training = self.normalize_over == 'train' or self._pca is not None
            if stage != 'predict' or needs_training:
                raise ValueError(
                    f'scene {scene.name!r} has no labelled pixel: training, testing, '
                    "normalize_over='train' and pca need labels"
                )
            empty = np.empty(0, dtype=np.int64)
            rows, cols, _ = scene.shape
            return Split('unlabelled', {}, (rows, cols), empty, empty, empty)
        protocol = self.protocol
        if protocol is None:
            protocol = self._default_protocol(dataset)
        split = (
            protocol
            if isinstance(protocol, Split)
            else protocol(scene.label_map, self.patch_size)
        )
        split.labels(scene.label_map, 'train')
        if split.train.size == 0:
            raise ValueError(f'split {split.protocol!r} has no training pixel')
        return split

    def _default_protocol(self, dataset: Any) -> SplitProtocol:
        """Choose the split if none is given.

        Args:
            dataset: The scene's dataset.

        Returns:
            The protocol.
        """
        return RandomSplit(*self.default_split)

    def teardown(self, stage: str) -> None:
        """Free the cubes on the devices.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        if self._patch_source is not None:
            self._patch_source.clear()

    def class_counts(self, subset: str = 'train') -> Tensor:
        """Count the pixels of every class.

        Args:
            subset: 'train', 'val' or 'test'.

        Returns:
            Pixels per class, int64, shape (num_classes,); 0 for classes that the
            split dropped or merged.
        """
        labels = self.split.labels(self.scene.label_map, subset) - 1
        return torch.from_numpy(np.bincount(labels, minlength=self.num_classes))

    def gather(
        self,
        row_col: Tensor,
        device: torch.device | str = 'cpu',
        orientation: Tensor | None = None,
    ) -> Tensor:
        """Gather normalised patches around pixels.

        Args:
            row_col: Rows and columns, int64, shape (B, 2).
            device: Where the patches are wanted.
            orientation: Flip and turn of every patch, 0 to 7, shape (B,).

        Returns:
            Patches, float32, shape (B, bands, P, P).
        """
        return self.patch_source.gather(row_col, device, orientation)

    def transfer_batch_to_device(
        self, batch: dict[str, Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Move a batch of positions to a device and gather its patches there.

        Args:
            batch: A batch of a data loader.
            device: The target device.
            dataloader_idx: The index of the data loader.

        Returns:
            The batch with 'image', on the device.
        """
        image = None
        if 'image' not in batch and 'row_col' in batch:
            row_col = batch['row_col']
            orientation = None
            if self.trainer is not None and self.trainer.training:
                orientation = self.orientation(len(row_col), device)
            image = self.patch_source.gather(
                row_col, device, orientation, batch.get('bounds')
            )
            if self.trainer is not None:
                # Lightning converts a batch to the trainer's precision before this.
                image = self.trainer.precision_plugin.convert_input(image)
        moved: dict[str, Tensor] = super().transfer_batch_to_device(
            batch, device, dataloader_idx
        )
        return moved if image is None else {**moved, 'image': image}

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Make the data loader of training pixels.

        Returns:
            The data loader; its last batch is dropped only if it had one sample.
        """
        return self._dataloader_factory('train')

    def val_dataloader(self) -> Any:
        """Make the data loader of validation pixels.

        Returns:
            The data loader, or no loader if a fit has no validation pixels.

        Raises:
            ValueError: If a fit without validation pixels depends on them.
        """
        fitting = self.trainer is not None and self.trainer.state.fn == 'fit'
        if fitting and self.split.val.size == 0:
            _check_monitors(self.trainer)
            return []
        return self._dataloader_factory('val')

    def _dataloader_factory(self, split: str) -> DataLoader[dict[str, Tensor]]:
        """Make a data loader.

        Args:
            split: Either 'train', 'val', 'test', or 'predict'.

        Returns:
            The data loader.

        Raises:
            MisconfigurationException: If :meth:`setup` was not called, or there are no
                such pixels.
            ValueError: If the network was, or may have been, trained on other pixels.
        """
        check_training_data(self)
        # Positions cost nothing to load: worker processes would only slow it down.
        warnings.filterwarnings(
            'ignore', '.*does not have many workers', PossibleUserWarning
        )
        if split == 'predict':
            # Every item of the windows is a whole batch already.
            windows = self._valid_attribute('predict_dataset')
            return DataLoader(windows, batch_size=None, num_workers=self.num_workers)
        dataset = self._valid_attribute(f'{split}_dataset')
        batch_size = self._valid_attribute(f'{split}_batch_size', 'batch_size')
        sampler = self._train_sampler() if split == 'train' else None
        drop_last = False
        world_size = 1 if self.trainer is None else self.trainer.world_size
        if split != 'train' and world_size > 1:
            warnings.filterwarnings(
                'ignore', 'Using `DistributedSampler` with', PossibleUserWarning
            )
            return DataLoader(
                PixelBatches(dataset, batch_size, world_size),
                batch_size=None,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
            )
        if split == 'train':
            samples = len(dataset) if sampler is None else len(sampler)
            samples = math.ceil(samples / world_size)
            drop_last = samples > batch_size and samples % batch_size == 1
        return DataLoader(
            dataset=dataset,
            batch_size=batch_size,
            shuffle=None if sampler is not None else split == 'train',
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            drop_last=drop_last,
            persistent_workers=self.num_workers > 0,
        )

    def _train_sampler(self) -> ClassBalancedSampler | PerClassSampler | None:
        """Make the sampler of training pixels."""
        if self.sampler == 'random':
            return None
        labels = self.split.labels(self.scene.label_map, 'train')
        if self.sampler == 'balanced':
            return ClassBalancedSampler(labels, seed=self.sampler_seed)
        assert self.samples_per_class is not None
        return PerClassSampler(labels, self.samples_per_class, self.sampler_seed)

    def plot(self, sample: dict[str, Any], **kwargs: Any) -> Figure | None:
        """Plot a sample in the scene's own units.

        Args:
            sample: A sample with 'image' and 'label', and 'row_col' or raw values.
            **kwargs: Further arguments of the dataset's ``plot``.

        Returns:
            The figure.

        Raises:
            RuntimeError: Before setup.
        """
        dataset: Any = after_setup(self.dataset, 'dataset')
        if 'row_col' in sample:
            row, col = (int(value) for value in sample['row_col'])
            patch = read_patch(self.scene, row, col, self.patch_size, self.padding_mode)
            image = torch.from_numpy(patch).permute(2, 0, 1).contiguous()
            sample = {**sample, 'image': image}
        figure: Figure | None = dataset.plot(sample, **kwargs)
        return figure

    def describe(self) -> dict[str, Any]:
        """Describe the data as results report them.

        Returns:
            JSON-able 'scene', 'split' (with 'counts' per class and 'overlap'),
            'patch_size', 'padding_mode', 'normalization', 'bands', 'pca',
            'num_bands' and 'num_classes'.
        """
        if self._description is None:
            overlap = self.split.overlap(self.patch_size)
            self._description = {
                'scene': self.scene.facts(),
                'split': {
                    **self.split.describe(),
                    'counts': self.split.counts(
                        self.scene.label_map, self.scene.num_classes
                    ),
                    'overlap': overlap._asdict(),
                },
                'patch_size': self.patch_size,
                'padding_mode': self.padding_mode,
                'normalization': {
                    'method': self.normalization,
                    'over': self.normalize_over,
                },
                'bands': [int(band) for band in self.scene.band_indices],
                'pca': (
                    None
                    if self._pca is None
                    else {
                        'num_components': self._pca.num_components,
                        'whiten': self._pca.whiten,
                        'variance_ratio': self._pca.variance_ratio,
                    }
                ),
                'num_bands': self.num_bands,
                'num_classes': self.num_classes,
            }
        return copy.deepcopy(self._description)

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint has to know about its data.

        Returns:
            The description, with the state of 'normalizer' and 'pca'; it rebuilds the
            patches (:meth:`PatchSource.from_state`). Empty before setup.
        """
        if self._scene is None:
            return {}
        return {
            **self.describe(),
            'normalizer': self._normalizer.state_dict(),
            'pca': None if self._pca is None else self._pca.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the preprocessing of a checkpoint, if its split is this one.

        Args:
            state_dict: What :meth:`state_dict` gave.

        Raises:
            ValueError: If the network was trained with another split, scene, patch
                size, padding, normalisation or other bands.
        """
        if self.trainer is not None:
            self._checked_checkpoint = self.trainer.ckpt_path
        if self._scene is None:
            self._pending_state = state_dict
        else:
            self._apply_state(state_dict)

    def _apply_state(self, state: Mapping[str, Any]) -> None:
        """Check a state and take it over."""
        scored = self.split.train.size > 0
        check_same_pixels(state, self.describe(), self.allow_other_split, scored)
        self.patch_source.clear()
        self._patch_source = PatchSource.from_state(self.scene, state)
        self._normalizer = self._patch_source.normalizer
        self._pca = self._patch_source.pca


def _check_monitors(trainer: Any) -> None:
    """Refuse to train without validation pixels if something waits for their score.

    Args:
        trainer: The trainer.

    Raises:
        ValueError: If a callback or schedule monitors a figure of the validation.
    """
    for watcher in (*trainer.callbacks, *trainer.lr_scheduler_configs):
        monitor = str(getattr(watcher, 'monitor', None))
        if monitor.startswith('val_'):
            name = type(getattr(watcher, 'scheduler', watcher)).__name__
            raise ValueError(
                f'the split leaves no validation pixel, and {name} monitors '
                f'{monitor!r}: give a split with val > 0, or let it monitor '
                f'{monitor.replace("val_", "train_")!r}'
            )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices.

    Args:
        name: Name of the argument.
        value: Its value.
        choices: Words that are allowed.

    Raises:
        ValueError: If the value is another one.
    """
    if value not in choices:
        raise ValueError(f'{name} is {value!r}, expected one of {choices}')


def after_setup(value: T | None, name: str) -> T:
    """Give an attribute that setup sets.

    Args:
        value: The attribute, None before setup.
        name: Its name.

    Returns:
        The attribute.

    Raises:
        RuntimeError: If it is not set.
    """
    if value is None:
        raise RuntimeError(f'{name} is known after setup: call setup(stage) first')
    return value
