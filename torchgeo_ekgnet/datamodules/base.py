# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What every data module with a split shares, whatever its pixels come from."""

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from torchgeo.datamodules import BaseDataModule

from .._options import plain_values
from ..checkpoint import Provenance, ReadsLocally
from ..datasets.splits import RandomSplit, Split, SplitContext, SplitProtocol
from .class_table import ClassCounts
from .generators import generator_states, restore_generators

T = TypeVar('T')

logger = logging.getLogger(__name__)
_warn = rank_zero_only(logger.warning)


class SplitDataModule(ReadsLocally, BaseDataModule):
    """Base of data modules whose split travels in every checkpoint.

    A network is refused if the data module would show it other pixels than it was
    trained with: testing it would score training pixels.
    """

    #: Share of training and validation pixels of the default (random) split.
    default_split: ClassVar[tuple[float, float]] = (0.6, 0.1)

    #: Protocol that draws the split, or a split; None for the default one.
    protocol: SplitProtocol | Split | None

    #: Whether a checkpoint of another split is accepted, with a warning.
    allow_other_split: bool

    _split: Split | None = None
    # What a checkpoint holds and cannot be taken over yet: before setup there are no
    # data to compare it with, and generators go on where the first loader is made.
    _pending_state: Mapping[str, Any] | None = None
    _pending_generators: Mapping[str, Any] | None = None
    # The trainer's checkpoint whose split was compared, or whose other split accepted.
    _checked_checkpoint: Any = None
    # The table of classes that was printed last.
    _announced: str | None = None

    @property
    def split(self) -> Split:
        """The training, validation and test pixels.

        Raises:
            RuntimeError: Before setup.
        """
        return after_setup(self._split, 'split')

    @property
    def _is_set_up(self) -> bool:
        """Whether a state can be compared with the data."""
        return self._split is not None

    def _default_protocol(self, dataset: Any) -> SplitProtocol:
        """Choose the protocol of a dataset if none is given."""
        return RandomSplit(*self.default_split)

    def _drawn(
        self,
        dataset: Any,
        label_map: NDArray[np.integer[Any]],
        patch_size: int,
        context: SplitContext,
    ) -> Split:
        """Draw the split of a dataset with these labels."""
        split = self.protocol or self._default_protocol(dataset)
        if not isinstance(split, Split):
            split = split.bind(context)(label_map, patch_size)
        split.labels(label_map, 'train')
        if split.train.size == 0:
            raise ValueError(f'split {split.protocol!r} has no training pixel')
        return split

    def _announce_classes(
        self,
        name: str,
        classes: ClassCounts,
        more_doubts: Iterable[str] = (),
        split: str = '',
    ) -> None:
        """Print classes and split before the training, and what looks wrong in them."""
        classes.check()
        text = '\n'.join([f'{name}:', classes.table(), *([split] if split else [])])
        if text == self._announced:
            # Set up by hand, and again by the trainer.
            return
        self._announced = text
        rank_zero_info(text)
        for doubt in (*classes.doubts(), *more_doubts):
            _warn('%s: %s', name, doubt)

    def val_dataloader(self) -> Any:
        """Make the data loader of validation pixels.

        Raises:
            ValueError: If there are none, and anything but a fit that can do without asks.
        """
        if self.split.val.size == 0:
            if not self._fitting:
                raise ValueError(
                    'the split leaves no validation pixel, expected some to be scored: '
                    'give the split a share (val), or score the test pixels with test'
                )
            _check_monitors(self.trainer)
            return []
        return self._dataloader_factory('val')

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Make the data loader of training pixels.

        A run that is resumed goes on with the generators of its checkpoint: from the end
        of an epoch it draws the batches that an uninterrupted run would have drawn.
        """
        loader = self._dataloader_factory('train')
        if self._pending_generators is not None:
            states, self._pending_generators = self._pending_generators, None
            restore_generators(states)
        return loader

    def _dataloader_factory(self, split: str) -> DataLoader[dict[str, Tensor]]:
        """Make the data loader of 'train', 'val', 'test' or 'predict'."""
        self._check_network()
        return self._loader(split)

    def _check_network(self) -> None:
        """Refuse to show a network other pixels than those it was trained with.

        A task of this package remembers the state of its training data, whichever way
        its weights came to be: trained in this process, loaded by Lightning or by
        itself. That state is taken over as if Lightning had restored it. Of other
        tasks, Lightning restores it from the checkpoint; that of another data module
        never gets to :meth:`load_state_dict`, and its split is not known.
        """
        trainer: Any = self.trainer
        if trainer is None:
            return
        path = trainer.ckpt_path
        if path is not None and path == self._checked_checkpoint:
            return  # Lightning has restored it
        provenance = getattr(trainer.lightning_module, 'provenance', None)
        known = provenance.data if isinstance(provenance, Provenance) else None
        if known is not None and not self._fitting:
            self.load_state_dict(dict(known))
        if path is None or path == self._checked_checkpoint:
            return
        message = (
            f'checkpoint {path} holds no split of {type(self).__name__}: it was '
            'trained with another data module'
        )
        if not self.allow_other_split:
            raise ValueError(
                f'{message}, and its scores here may count pixels that it was trained '
                'on. Use its own data module, or allow_other_split=True '
                '(--data.allow_other_split true) if you mean it'
            )
        rank_zero_warn(f'{message}; accepted because allow_other_split is set')
        self._checked_checkpoint = path

    @abstractmethod
    def _loader(self, split: str) -> DataLoader[dict[str, Tensor]]:
        """Make a data loader for a network that was trained on these pixels."""

    def _drops_last(self, samples: int, batch_size: int) -> bool:
        """Whether the last training batch would be one sample, which cannot train.

        Batch normalisation cannot train on a single sample; no other is left out.
        """
        world_size = 1 if self.trainer is None else self.trainer.world_size
        samples = math.ceil(samples / world_size)
        network = None if self.trainer is None else self.trainer.lightning_module
        if (
            network is not None
            and min(samples, batch_size) == 1
            and any(isinstance(module, _BatchNorm) for module in network.modules())
        ):
            raise ValueError(
                f'batch_size is {batch_size} with {samples} training samples a process, '
                'expected batches of 2 or more: batch normalisation cannot train on a '
                'single sample'
            )
        return samples > batch_size and samples % batch_size == 1

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the data as results report them."""

    @abstractmethod
    def _apply_state(self, state: Mapping[str, Any]) -> None:
        """Check the state of a checkpoint and take its preprocessing over."""

    @abstractmethod
    def _statistics(self) -> dict[str, Any]:
        """Give what the preprocessing has learnt from the data, for a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint has to know about its data."""
        if self._split is None:
            return {}
        state: dict[str, Any] = plain_values({**self.describe(), **self._statistics()})
        if self._fitting:
            state['generators'] = generator_states()
        return state

    @property
    def _fitting(self) -> bool:
        """Whether a trainer fits."""
        return self.trainer is not None and self.trainer.state.fn == 'fit'

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the preprocessing of a checkpoint, if its split is this one.

        Raises:
            ValueError: If the network was trained with another split, scene or
                preprocessing.
        """
        if self.trainer is not None:
            self._checked_checkpoint = self.trainer.ckpt_path
        if self._fitting:
            self._pending_generators = state_dict.get('generators')
        if self._is_set_up:
            self._apply_state(state_dict)
        else:
            self._pending_state = state_dict

    def __getstate__(self) -> dict[str, Any]:
        """Leave the trainer out of a pickle: it attaches itself anew."""
        return {**self.__dict__, 'trainer': None}

    def _apply_pending_state(self) -> None:
        """Take over a state that was loaded before setup."""
        if self._pending_state is not None:
            state, self._pending_state = self._pending_state, None
            self._apply_state(state)


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


def _check_monitors(trainer: Any) -> None:
    """Refuse to train without validation pixels if something waits for their score."""
    for watcher in (*trainer.callbacks, *trainer.lr_scheduler_configs):
        monitor = str(getattr(watcher, 'monitor', None))
        if monitor.startswith('val_'):
            name = type(getattr(watcher, 'scheduler', watcher)).__name__
            raise ValueError(
                f'the split leaves no validation pixel, and {name} monitors '
                f'{monitor!r}: give a split with val > 0, or let it monitor '
                f'{monitor.replace("val_", "train_")!r}'
            )
