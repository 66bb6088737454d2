# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Two protocols on the same number of training pixels of the same classes."""

import copy
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..._options import random_seed
from .protocol import SplitContext, SplitProtocol
from .random_pixels import RandomSplit
from .spatial import DisjointSplit
from .split import Overlap, Split


def match_counts(
    split: Split, other: Split, label_map: NDArray[np.integer[Any]], seed: int = 1331
) -> Split:
    """Thin a split until it is comparable with another one.

    Training pixels of every class are drawn at random until there are no more than in
    the other split, and classes without training or test pixels in either split leave
    all subsets. Applied both ways, two splits train with the same number of pixels of
    the same classes.

    Args:
        split: The split to thin.
        other: The split to compare with.
        label_map: Labels of the scene, shape (rows, cols), 0 is unlabelled.
        seed: Seed of the frozen generator.

    Returns:
        The thinned split.

    Raises:
        ValueError: If the splits merge different classes, or have none in common.
    """
    if split.relabel != other.relabel:
        raise ValueError(
            f'the splits {split.protocol!r} and {other.protocol!r} merge different '
            f'classes, {split.relabel} and {other.relabel}, expected the same; use '
            "unserved='drop' in both protocols"
        )
    classes = int(np.max(label_map))
    ours, theirs = (s.counts(label_map, classes) for s in (split, other))
    common = [
        label
        for label in range(1, classes + 1)
        if all(c[name][label - 1] for c in (ours, theirs) for name in ('train', 'test'))
    ]
    if not common:
        raise ValueError(
            f'the splits {split.protocol!r} and {other.protocol!r} serve no class in '
            'common'
        )
    generator = np.random.RandomState(seed)
    train = []
    labels = split.labels(label_map, 'train')
    for label in common:
        pixels = split.train[labels == label].copy()
        generator.shuffle(pixels)
        train.append(pixels[: theirs['train'][label - 1]])
    kept = {
        name: split.indices(name)[np.isin(split.labels(label_map, name), common)]
        for name in ('val', 'test')
    }
    chosen = {'train': np.concatenate(train), **kept}
    own = split.own_labels and {
        name: labels[np.searchsorted(split.indices(name), chosen[name])]
        for name, labels in split.own_labels.items()
    }
    present = {int(label) for label in np.unique(label_map) if label > 0}
    return Split(
        protocol=f'{split.protocol}, matched to {other.protocol}',
        settings={
            'split': dict(split.settings),
            'matched_to': dict(other.settings),
            'seed': seed,
        },
        shape=split.shape,
        relabel=dict(split.relabel),
        dropped=tuple(sorted(present - set(common) - set(split.relabel))),
        own_labels=own,
        **chosen,
    )


class MatchedSplit(SplitProtocol):
    """One protocol's split, thinned until it is comparable with another protocol's.

    Two runs, one with ``MatchedSplit(RandomSplit(), DisjointSplit())`` and one with
    ``MatchedSplit(DisjointSplit(), RandomSplit())``, train with the same number of
    pixels of the same classes and differ only in where these lie
    (:func:`match_counts`).
    """

    name = 'matched'

    def __init__(
        self,
        split: SplitProtocol | None = None,
        to: SplitProtocol | None = None,
        seed: int = 1331,
    ) -> None:
        """Initialize a new protocol.

        Args:
            split: Protocol of the split; by default the paper's random split, without
                the classes it cannot serve.
            to: Protocol of the split to compare with; by default a disjoint split
                without shared pixels, without the classes it cannot serve.
            seed: Seed of both protocols, whatever theirs is, and of the frozen
                generator that thins: so two runs with the same seed stay comparable.
        """
        self.split = _seeded(split or RandomSplit(unserved='drop'), seed)
        self.to = _seeded(to or DisjointSplit(unserved='drop'), seed)
        self.seed = random_seed(seed)
        self.spatial = self.split.spatial

    def bind(self, context: SplitContext) -> Self:
        """Tell both protocols about a scene."""
        bound = super().bind(context)
        bound.split, bound.to = (p.bind(context) for p in (self.split, self.to))
        return bound

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's arguments, JSON-able."""
        return {
            'split': {'protocol': self.split.name, **self.split.settings},
            'to': {'protocol': self.to.name, **self.to.settings},
            'seed': self.seed,
        }

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Draw both splits and thin the first.

        Args:
            label_map: Labels, shape (rows, cols), 0 is unlabelled.
            patch_size: Rows and columns of a patch, odd.

        Returns:
            The thinned split.

        Raises:
            ValueError: If the protocols merge different classes, or serve none in
                common.
        """
        split, other = (
            protocol(label_map, patch_size) for protocol in (self.split, self.to)
        )
        return match_counts(split, other, label_map, self.seed)


def _seeded(protocol: SplitProtocol, seed: int) -> SplitProtocol:
    """Copy a protocol with another seed, if it draws one."""
    protocol = copy.copy(protocol)
    if hasattr(protocol, 'seed'):
        protocol.seed = seed
    return protocol


class ProtocolComparison(NamedTuple):
    """Two splits that differ in where their pixels lie, and in nothing else.

    Attributes:
        random: The random split, thinned to the counts of the disjoint one.
        disjoint: The disjoint split.
        classes: Labels that both serve.
        unserved: Labels that at least one of them cannot serve.
        overlap: Overlap of test and training patches for 'random' and 'disjoint'.
    """

    random: Split
    disjoint: Split
    classes: tuple[int, ...]
    unserved: tuple[int, ...]
    overlap: dict[str, Overlap]


def compare_protocols(
    label_map: NDArray[np.integer[Any]],
    patch_size: int,
    random: SplitProtocol | None = None,
    disjoint: SplitProtocol | None = None,
    seed: int = 1331,
) -> ProtocolComparison:
    """Draw a random and a disjoint split with the same training pixels per class.

    Args:
        label_map: Labels of the scene, shape (rows, cols), 0 is unlabelled.
        patch_size: Rows and columns of a patch, odd.
        random: Protocol of the random split, the paper's by default.
        disjoint: Protocol of the disjoint split, by default one without any shared
            pixel that drops classes it cannot serve.
        seed: Seed of both protocols and of the generator that thins.

    Returns:
        The two splits, ready for ``split=`` of a data module, and their overlap.

    Raises:
        ValueError: If the protocols merge different classes, or serve none in common.
    """
    disjoint = disjoint or DisjointSplit(unserved='drop')
    random = random or RandomSplit(unserved='drop')
    matched = MatchedSplit(random, disjoint, seed)(label_map, patch_size)
    apart = MatchedSplit(disjoint, random, seed)(label_map, patch_size)
    counts = matched.counts(label_map)['train']
    classes = tuple(label for label, n in enumerate(counts, start=1) if n)
    present = {int(label) for label in np.unique(label_map) if label > 0}
    return ProtocolComparison(
        random=matched,
        disjoint=apart,
        classes=classes,
        unserved=tuple(sorted(present - set(classes))),
        overlap={
            'random': matched.overlap(patch_size),
            'disjoint': apart.overlap(patch_size),
        },
    )
