# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What every protocol shares: arguments, unserved classes, the call."""

import copy
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..._files import at_home
from ..._options import known_word, plain_values, real_number
from ..._patch import check_patch_size
from ..._wording import listed
from ..raster import Grid
from .split import Indices, Labels, Split, check_label_map

Unserved = Literal['error', 'drop', 'merge']

logger = logging.getLogger(__name__)

#: Classes that a message lists.
_MOST_TOLD = 12


def pixels_of(label_map: Labels, label: int) -> Indices:
    """Flat row-major indices of a class."""
    return np.flatnonzero(label_map.ravel() == label).astype(np.int64)


def classes_of(label_map: Labels) -> list[int]:
    """Labels that have pixels, ascending."""
    return [int(label) for label in np.unique(label_map) if label > 0]


def joined(parts: dict[str, list[Indices]]) -> dict[str, Indices]:
    """Join the pieces of every subset."""
    empty = np.empty(0, dtype=np.int64)
    return {name: np.concatenate([empty, *pieces]) for name, pieces in parts.items()}


def check_ratios(train: float, val: float) -> None:
    """Refuse ratios that leave no test pixel.

    Args:
        train: Share of the labelled pixels that train.
        val: Share of the labelled pixels that validate.

    Raises:
        ValueError: If a ratio is outside its range or nothing is left to test.
    """
    if not 0 < real_number('train', train) < 1:
        raise ValueError(f'train is {train}, expected a share between 0 and 1')
    check_val(val)
    if train + val >= 1:
        raise ValueError(
            f'train + val is {train + val:g}, expected less than 1: nothing is left '
            'to test'
        )


def check_val(val: float) -> None:
    """Refuse what is no share of validation pixels, from 0 to below 1."""
    if not 0 <= real_number('val', val) < 1:
        raise ValueError(f'val is {val}, expected a share from 0 to below 1')


@dataclass(frozen=True)
class SplitContext:
    """What a data module tells a protocol about the scene.

    Args:
        class_texts: What messages call the classes, by label from 1.
        grid: Where the pixels lie, for groups that a vector file gives.
        root: Folder of the scene's files.
        download: Whether published masks may be downloaded.
    """

    class_texts: Mapping[int, str] = field(default_factory=dict)
    grid: Grid | None = None
    root: str = 'data'
    download: bool = False


class SplitProtocol(ABC):
    """A rule that gives a split for a label map.

    Attributes:
        name: What results call the protocol.
        spatial: Whether the protocol keeps test patches away from training patches.
        files: Arguments that name files.
    """

    name: str = 'split'
    spatial: bool = False
    files: tuple[str, ...] = ()
    context: SplitContext = SplitContext()

    def bind(self, context: SplitContext) -> Self:
        """Tell the protocol about a scene.

        Args:
            context: What a data module knows of it.

        Returns:
            A copy that draws the same pixels.
        """
        bound = copy.copy(self)
        bound.context = context
        return bound

    def path_of(self, path: str) -> Path:
        """Find a file as it is named, or else below the scene's root."""
        named = at_home(path)
        below = Path(self.context.root) / named
        return below if below.exists() and not named.exists() else named

    def text_of(self, label: int) -> str:
        """What messages call a class: value and name, or the label itself."""
        return self.context.class_texts.get(label, str(label))

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able: every one is kept under its name."""
        arguments = inspect.signature(type(self).__init__).parameters
        given = {name: getattr(self, name) for name in arguments if name != 'self'}
        plain: dict[str, Any] = plain_values(given)
        return plain

    @property
    def described(self) -> dict[str, Any]:
        """The settings as results report them: files by name, wherever they lie."""
        return {
            name: Path(value).name if name in self.files and value else value
            for name, value in self.settings.items()
        }

    def __repr__(self) -> str:
        """Write the protocol with its arguments."""
        arguments = ', '.join(
            f'{key}={value!r}' for key, value in self.settings.items()
        )
        return f'{type(self).__name__}({arguments})'

    @abstractmethod
    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Give the split of a scene.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            patch_size: Rows and columns of a patch, odd; spatial protocols keep their
                distance by it.

        Returns:
            The split.

        Raises:
            ValueError: If the label map cannot be split.
        """


class DrawnSplit(SplitProtocol):
    """A protocol that draws pixels itself, and says what it does about small classes.

    Attributes:
        unserved: What becomes of classes that the protocol cannot serve.
    """

    def __init__(self, unserved: Unserved = 'error') -> None:
        """Initialize a new protocol.

        Args:
            unserved: What to do with a class that the protocol cannot serve: 'error'
                refuses, 'drop' leaves its pixels out of every subset, 'merge' makes
                one class of all classes that cannot be served (under the first one's
                label) and refuses if that does not help.

        Raises:
            ValueError: If ``unserved`` is another word.
        """
        known_word('unserved', unserved, get_args(Unserved))
        self.unserved = unserved

    def _listed(self, reasons: Mapping[int, str]) -> str:
        """Write why classes cannot be served, of many the first ones."""
        told = [f'class {self.text_of(label)}: {reasons[label]}' for label in reasons]
        return listed(told, _MOST_TOLD, '; ')

    @abstractmethod
    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Draw the split of a scene, see :meth:`SplitProtocol.__call__`.

        Raises:
            ValueError: If a class cannot be served and ``unserved`` is 'error', or
                nothing is left to train on.
        """
        labels = check_label_map(label_map)
        check_patch_size(patch_size)
        subsets, reasons = self._draw(labels, patch_size)
        reasons = dict(sorted(reasons.items()))
        relabel: dict[int, int] = {}
        dropped: dict[int, str] = {}
        text = self._listed(reasons)
        if reasons and self.unserved == 'error':
            raise ValueError(
                f'{type(self).__name__} cannot serve every class of this label '
                f"map ({text}). Use another protocol or ratio, unserved='drop' "
                "to leave these classes out, or unserved='merge' to make one "
                'class of them'
            )
        while reasons and self.unserved == 'drop':
            # Leaving pixels out moves the others: look again until it holds.
            dropped = dict(sorted({**dropped, **reasons}.items()))
            text = self._listed(dropped)
            reduced = np.where(np.isin(labels, list(dropped)), 0, labels)
            if not reduced.any():
                raise ValueError(f'{type(self).__name__} can serve no class ({text})')
            subsets, reasons = self._draw(reduced, patch_size)
        if text:
            logger.warning(
                '%s: %s classes (%s)', type(self).__name__, self.unserved, text
            )
        if reasons:
            first, *others = reasons
            relabel = dict.fromkeys(others, first)
            merged = np.where(np.isin(labels, others), first, labels)
            subsets, reasons = self._draw(merged, patch_size)
            if reasons:
                alike = [self.text_of(label) for label in (first, *others) if others]
                raise ValueError(
                    f'{type(self).__name__} cannot serve every class after merging '
                    f'{alike} ({self._listed(reasons)}). Use '
                    "unserved='drop' or another protocol"
                )
        return Split(
            protocol=self.name,
            settings=self.described,
            shape=(labels.shape[0], labels.shape[1]),
            relabel=relabel,
            dropped=tuple(dropped),
            train=subsets['train'],
            val=subsets['val'],
            test=subsets['test'],
        )
