# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data module of one hyperspectral scene.

Data loaders ship pixel positions; the patches are gathered on the device from one
normalised cube, so that no patch is ever stored or copied between processes.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset

from .._files import at_home
from .._options import instance_of, known_arguments, number_of_workers, whole_number
from .._patch import PaddingMode, check_padding_mode
from ..checkpoint import check_same_pixels
from ..datasets.bands import BandSelection
from ..datasets.base import read_patch
from ..datasets.raster import Grid
from ..datasets.scene import HyperspectralScene
from ..datasets.splits import (
    SavedSplit,
    Split,
    SplitContext,
    SplitProtocol,
    as_protocol,
)
from ..datasets.windows import SceneWindows
from ..samplers.class_balance import PixelSampler
from ..transforms.augmentation import PatchAugmentation
from ..transforms.normalization import SpectralNormalizer
from ..transforms.patches import PatchSource
from ..transforms.pca import SpectralPCA
from .base import SplitDataModule, after_setup
from .batches import (
    LARGEST_BATCH,
    PixelDataset,
    collate_pixels,
    dealt_loader,
    training_batch_size,
)
from .class_table import ClassCounts, class_texts, doubts_of_scene
from .description import describe, html, split_text

# Patches of a batch that a GPU scores or maps; smaller ones leave it waiting for launches.
_GPU_BATCH = 512


class HyperspectralDataModule(SplitDataModule, NonGeoDataModule):
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

    mean = torch.tensor(0.0)
    std = torch.tensor(1.0)

    def __init__(
        self,
        root: str = 'data',
        patch_size: int = 11,
        batch_size: int | None = 80,
        num_workers: int = 0,
        split: SplitProtocol | str | None = None,
        bands: list[int] | BandSelection | None = None,
        padding_mode: PaddingMode = 'zeros',
        normalization: SpectralNormalizer | None = None,
        pca: SpectralPCA | None = None,
        augmentation: PatchAugmentation | None = None,
        sampler: PixelSampler | None = None,
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
            batch_size: Patches per batch (the paper: 80). None follows the number of
                training pixels (:func:`training_batch_size`).
            num_workers: Worker processes of a data loader; positions are so small
                that 0 is fastest.
            split: Protocol that chooses training, validation and test pixels, or the
                name of a published split, such as 'dase'; the paper's random split by
                default.
            bands: Bands to use, counted in the file from 0, or a selection by
                wavelength; all by default.
            padding_mode: What lies beyond the border: 'zeros' after normalisation
                (the paper), or 'reflect'.
            normalization: What brings spectra to a common scale: z-scores over the
                scene (the paper) by default.
            pca: Principal components that replace the bands, fitted on training pixels;
                none by default.
            augmentation: What flips, turns and disturbs training patches; nothing by
                default.
            sampler: What draws the training pixels of an epoch:
                :class:`~torchgeo_ekgnet.samplers.ClassBalancedSampler` or
                :class:`~torchgeo_ekgnet.samplers.PerClassSampler`; by default all of
                them are shuffled.
            predict_batch_size: Patches per batch in prediction; ``batch_size`` by
                default, at least 512 on a GPU, as in validation and test.
            allow_other_split: Whether a checkpoint of another split or scene is
                accepted. Its scores then include pixels it was trained on.
            download: Whether missing files are downloaded.
            checksum: Whether the files' checksums are verified (may be slow).
            dataset_options: Further arguments of the scene's dataset.

        Raises:
            TypeError: If the class names no scene, or a part is of another class.
            ValueError: If an argument is not one of the values above.
        """
        if self.scene_dataset is None:
            raise TypeError(
                f'{type(self).__name__} names no scene: use a data module of a scene '
                'such as IndianPinesDataModule, or set scene_dataset in a subclass'
            )
        check_padding_mode(padding_mode)
        instance_of('normalization', normalization, SpectralNormalizer)
        instance_of('pca', pca, SpectralPCA)
        instance_of('augmentation', augmentation, PatchAugmentation)
        instance_of('sampler', sampler, PixelSampler)
        if batch_size is not None:
            batch_size = whole_number('batch_size', batch_size, 1)
        super().__init__(
            self.scene_dataset,
            batch_size or LARGEST_BATCH,
            number_of_workers(num_workers),
            root=root,
            patch_size=patch_size,
            bands=bands,
            padding_mode=padding_mode,
            download=download,
            checksum=checksum,
            **(dataset_options or {}),
        )
        self.patch_size = patch_size
        self._batch_follows_pixels = batch_size is None
        self.protocol = as_protocol(split)
        self.bands = bands
        self.padding_mode = padding_mode
        # Copies: what is fitted here stays here.
        self.normalizer = copy.copy(normalization or SpectralNormalizer())
        self.pca = copy.copy(pca)
        self._configured = self.normalizer, self.pca
        self.augmentation = augmentation or PatchAugmentation()
        self.sampler = sampler
        if predict_batch_size is not None:
            predict_batch_size = whole_number(
                'predict_batch_size', predict_batch_size, 1
            )
        self.predict_batch_size = predict_batch_size
        self.allow_other_split = allow_other_split
        self.collate_fn = collate_pixels

        # Patches are normalised where they are gathered.
        self.aug = nn.Identity()
        self.train_aug = self.augmentation

        self._scene: HyperspectralScene | None = None
        self._patch_source: PatchSource | None = None
        self._description: dict[str, Any] | None = None

    @property
    def scene(self) -> HyperspectralScene:
        """The scene.

        Raises:
            RuntimeError: Before setup.
        """
        return after_setup(self._scene, 'scene')

    @property
    def patch_source(self) -> PatchSource:
        """The place where patches come from.

        Raises:
            RuntimeError: Before setup.
        """
        if self._patch_source is None and self._scene is not None:
            self._fit_preprocessing(self._scene)
        return after_setup(self._patch_source, 'patch_source')

    @property
    def split(self) -> Split:
        """The training, validation and test pixels; drawn when they are wanted.

        Raises:
            RuntimeError: Before setup.
        """
        if self._split is None and self._scene is not None:
            self._prepare_split(self._scene)
        return after_setup(self._split, 'split')

    @property
    def _is_set_up(self) -> bool:
        """Whether a state can be compared with the data."""
        return self._scene is not None

    @property
    def num_bands(self) -> int:
        """Channels of a patch, after band selection and PCA."""
        return self.scene.num_bands if self.pca is None else self.pca.num_components

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the scene, None if it names none."""
        return self.scene.num_classes or None

    def setup(self, stage: str) -> None:
        """Read the scene, draw the split and prepare the patches.

        A map needs no split, and the checkpoint brings the preprocessing: for 'predict',
        both are made only when they are asked for.
        """
        if self._scene is None:
            known_arguments('dataset_options', self.dataset_class, self.kwargs)
            dataset: Any = self.dataset_class(**self.kwargs)
            self.dataset, self._scene = dataset, dataset.scene
        if stage == 'predict':
            self.predict_dataset = SceneWindows(
                self.scene.valid,
                batch_size=self.predict_batch_size or self._scored_at_once(),
            )
        else:
            self._prepare_pixels(self.scene, stage)
        self._apply_pending_state()

    def _prepare_pixels(self, scene: HyperspectralScene, stage: str) -> None:
        """Draw the split, and prepare what a network is trained or scored with."""
        if not scene.label_map.any():
            raise ValueError(
                f'scene {scene.name!r} has no labelled pixel, and '
                f'{TrainerFn(stage).value} needs labels'
            )
        if self._split is None:
            self._prepare_split(scene, told=stage != 'fit')
        split = self.split
        if stage == 'fit' and self.normalizer is not self._configured[0]:
            # An earlier stage took a checkpoint's; a new training has its own.
            self.normalizer, self.pca = self._configured
            self._patch_source = self._description = None
        if self._patch_source is None and (
            split.train.size or not self._learns_from_training
        ):
            self._fit_preprocessing(scene)
        if stage == 'fit':
            counts = split.counts(scene.label_map, scene.num_classes)
            classes = ClassCounts(scene.class_values, scene.class_names, counts)
            text = split_text(scene.name, split, self.patch_size)
            self._announce_classes(scene.name, classes, doubts_of_scene(scene), text)
        for name in ('train', 'val', 'test'):
            if getattr(self, f'{name}_dataset') is None:
                labels = split.labels(scene.label_map, name) - 1
                dataset = PixelDataset(split.positions(name), labels)
                setattr(self, f'{name}_dataset', dataset)

    def _fit_preprocessing(self, scene: HyperspectralScene) -> None:
        """Fit normalisation and components to the scene."""
        train = None
        if self._learns_from_training:
            train = self.split.positions('train')
            if not len(train):
                raise ValueError(
                    f'scene {scene.name!r} has no training pixels: normalization over '
                    "'train' and pca need some, or a checkpoint (ckpt_path)"
                )
        self.normalizer.fit(scene, train if self.normalizer.over == 'train' else None)
        if self.pca is not None:
            self.pca.fit(scene, train, self.normalizer)
        self._patch_source = PatchSource(
            scene, self.normalizer, self.patch_size, self.padding_mode, self.pca
        )

    def _prepare_split(self, scene: HyperspectralScene, told: bool = True) -> None:
        """Draw the split, an empty one of a scene without labels, and speak of it."""
        self._description = None
        if not scene.label_map.any():
            empty = np.empty(0, dtype=np.int64)
            self._split = Split('unlabelled', {}, scene.shape[:2], empty, empty, empty)
            return
        self._split = split = self._draw_split(self.dataset, scene)
        if self._batch_follows_pixels:
            self.train_batch_size = training_batch_size(split.train.size)
        if told:
            rank_zero_info(split_text(scene.name, split, self.patch_size))
        if isinstance(self.protocol, Split | SavedSplit):
            # Who draws anew says why, too.
            for text in split.unserved(scene.class_names):
                rank_zero_warn(f'{scene.name}: {text}')

    def _draw_split(self, dataset: Any, scene: HyperspectralScene) -> Split:
        """Draw the split of the scene's labels."""
        context = SplitContext(
            class_texts(scene.class_values, scene.class_names),
            Grid(*scene.shape[:2], scene.crs, scene.transform),
            str(at_home(self.kwargs['root'])),
            self.kwargs['download'],
        )
        return self._drawn(dataset, scene.label_map, self.patch_size, context)

    @property
    def _learns_from_training(self) -> bool:
        """Whether the preprocessing needs training pixels, here or in a checkpoint."""
        return self.normalizer.over == 'train' or self.pca is not None

    def teardown(self, stage: str) -> None:
        """Free the cubes on the devices."""
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
        return torch.from_numpy(np.bincount(labels, minlength=self.scene.num_classes))

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
        """Move a batch of positions to a device and gather its patches there."""
        image = None
        if 'image' not in batch and 'row_col' in batch:
            row_col = batch['row_col']
            orientation = None
            if self.trainer is not None and self.trainer.training:
                orientation = self.augmentation.draw_orientations(len(row_col), device)
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

    def _scored_at_once(self) -> int:
        """Say how many patches make a batch where nothing is trained."""
        strategy = getattr(self.trainer, 'strategy', None)
        if strategy is None or strategy.root_device.type != 'cuda':
            return self.batch_size
        return max(self.batch_size, _GPU_BATCH)

    def _loader(self, split: str) -> DataLoader[dict[str, Tensor]]:
        """Make a data loader of positions, or of windows for a map."""
        _ = self.patch_source
        if split == 'predict':
            # Every item of the windows is a whole batch already.
            windows = self._valid_attribute('predict_dataset')
            return DataLoader(windows, batch_size=None, num_workers=self.num_workers)
        dataset = self._valid_attribute(f'{split}_dataset')
        if self._batch_follows_pixels and self.batch_size != LARGEST_BATCH:
            # Set since, as Lightning's Tuner does in its search for a size.
            self.train_batch_size = None
        batch_size = getattr(self, f'{split}_batch_size', None) or (
            self.batch_size if split == 'train' else self._scored_at_once()
        )
        trainer = self.trainer
        if split != 'train' and trainer is not None and trainer.world_size > 1:
            return dealt_loader(dataset, batch_size, trainer, self.num_workers)
        sampler = self._train_sampler() if split == 'train' else None
        samples = len(dataset) if sampler is None else len(sampler)
        # No persistent workers: an epoch of theirs draws less from the generator that
        # shuffles, and the number of workers would change what is trained.
        return DataLoader(
            dataset=dataset,
            batch_size=batch_size,
            shuffle=None if sampler is not None else split == 'train',
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            drop_last=split == 'train' and self._drops_last(samples, batch_size),
        )

    def _train_sampler(self) -> PixelSampler | None:
        """Make the sampler of training pixels, None for a plain shuffle."""
        if self.sampler is None:
            return None
        return self.sampler.bind(self.split.labels(self.scene.label_map, 'train'))

    def __repr__(self) -> str:
        """Return class, patch size and scene."""
        known = 'not set up' if self._scene is None else f'{self.scene!r}'
        return (
            f'{type(self).__name__}(patch_size={self.patch_size}, '
            f'batch_size={self.batch_size}; {known})'
        )

    # Lightning's text tells of loaders only.
    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Show scene and split in a notebook."""
        return html(self, self._scene, self._split)

    def plot(self, sample: dict[str, Any], **kwargs: Any) -> Figure | None:
        """Plot a sample in the scene's own units.

        Args:
            sample: A sample with 'image' and 'label', and 'row_col' or raw values.
            **kwargs: Further arguments of the dataset's ``plot``.

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
            JSON-able 'scene', 'split' (with 'counts' per class and 'overlap'; None where
            none was drawn, for a map), 'patch_size', 'padding_mode', 'normalization',
            'bands', 'pca', 'num_bands' and 'num_classes'.
        """
        if self._description is None:
            self._description = describe(self, self._split)
        return copy.deepcopy(self._description)

    def _statistics(self) -> dict[str, Any]:
        """Give the states that :meth:`PatchSource.from_state` rebuilds patches from."""
        return {
            'normalizer': self.normalizer.state_dict(),
            'pca': None if self.pca is None else self.pca.state_dict(),
        }

    def _apply_state(self, state: Mapping[str, Any]) -> None:
        """Check a state and take it over."""
        scored = self._split is not None and self._split.train.size > 0
        check_same_pixels(state, self.describe(), self.allow_other_split, scored)
        if self._patch_source is not None:
            self._patch_source.clear()
        self._patch_source = PatchSource.from_state(self.scene, state)
        self.normalizer = self._patch_source.normalizer
        self.pca = self._patch_source.pca
        self._description = None
