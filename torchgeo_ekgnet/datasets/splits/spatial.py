# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Training, validation and test pixels from different places."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..._options import known_word, random_seed, whole_number
from .guards import drawn, guard_distance
from .protocol import DrawnSplit, Unserved, check_ratios, classes_of
from .split import Indices, Labels, Mask, dilate

#: Places at which a class may be cut are so many quantiles of its pixels.
_MOST_CUTS = 64

#: Orders in which train (0), val (1) and test (2) may follow each other.
_ORDERS = ((0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (1, 0, 2), (2, 0, 1))


class DisjointSplit(DrawnSplit):
    """Training, validation and test pixels from different places.

    Classes are taken from the rarest to the most frequent. The pixels of a class are
    cut by two straight lines, along rows or columns, into a part that trains, one that
    validates and one that tests, where a pixel may join a subset only if it is farther
    from the pixels of all other subsets, of whatever class, than the guard. Of all
    cuts the one that serves the class best is taken. The whole is tried several times
    with the classes in a slightly different order, and the attempt that serves most
    classes is kept. Pixels near a border of subsets are left out of every subset.
    """

    name = 'disjoint'
    spatial = True

    def __init__(
        self,
        train: float = 0.5,
        val: float = 0.1,
        guard: Literal['centre', 'patch'] = 'patch',
        seed: int = 1331,
        min_pixels: int = 5,
        attempts: int = 16,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            train: Wanted share of training pixels among those that are used.
            val: Wanted share of validation pixels.
            guard: 'centre': no test patch contains a training centre (subsets are
                more than ``P // 2`` pixels apart); 'patch': no test patch shares a pixel
                with a training patch (more than ``2 * (P // 2)``).
            seed: Seed of the frozen generator.
            min_pixels: Training pixels and test pixels that a class needs to be
                served.
            attempts: Number of orders of the classes that are tried.
            unserved: What to do with a class that cannot be served: 'error', 'drop'
                or 'merge'.

        Raises:
            ValueError: If an argument is out of range.
        """
        super().__init__(unserved)
        check_ratios(train, val)
        known_word('guard', guard, ('centre', 'patch'))
        self.train = train
        self.val = val
        self.guard = guard
        self.seed = random_seed(seed)
        self.min_pixels = whole_number('min_pixels', min_pixels, 1)
        self.attempts = whole_number('attempts', attempts, 1)

    def _draw(
        self, label_map: Labels, patch_size: int
    ) -> tuple[dict[str, Indices], dict[int, str]]:
        """Draw the subsets."""
        distance = guard_distance(self.guard, patch_size)
        masks = self._best(label_map, distance)
        if self.val > 0 and not masks[1].any():
            raise ValueError(
                f'{self} finds no place for validation pixels at patch size '
                f"{patch_size}; use val=0, a smaller patch or guard='centre'"
            )
        return drawn(label_map, masks, self.min_pixels)

    def _best(self, label_map: Labels, distance: int) -> list[Mask]:
        """Try several orders of the classes and keep the best."""
        generator = np.random.RandomState(self.seed)
        sizes = {c: int((label_map == c).sum()) for c in classes_of(label_map)}
        best: tuple[float, list[Mask]] | None = None
        for attempt in range(self.attempts):
            # Sizes within a factor of four change places from the second attempt on.
            weights = {
                c: n * (1.0 if attempt == 0 else 0.5 + 1.5 * generator.random_sample())
                for c, n in sizes.items()
            }
            order = sorted(sizes, key=lambda c: (weights[c], c))
            masks, score = self._attempt(label_map, order, distance)
            if best is None or score > best[0]:
                best = score, masks
        assert best is not None
        return best[1]

    def _attempt(
        self, label_map: Labels, order: Sequence[int], distance: int
    ) -> tuple[list[Mask], float]:
        """Cut the classes in an order."""
        taken = np.zeros((3, *label_map.shape), dtype=bool)
        near = np.zeros((3, *label_map.shape), dtype=bool)
        total = 0.0
        for label, box in _boxes(label_map, order, distance):
            members = label_map[box] == label
            close = near[(slice(None), *box)]
            allowed = [
                members & ~(close[(i + 1) % 3] | close[(i + 2) % 3]) for i in range(3)
            ]
            pieces, score = self._cut(allowed, distance)
            total += score
            for i, piece in enumerate(pieces):
                taken[(i, *box)] |= piece
                near[(i, *box)] |= dilate(piece, distance)
        return list(taken), total

    def _cut(self, allowed: Sequence[Mask], distance: int) -> tuple[list[Mask], float]:
        """Cut one class along rows or columns."""
        size = int(np.logical_or.reduce(allowed).sum())
        best_score = 0.0
        best: tuple[int, list[tuple[int, int, int]]] | None = None
        for axis in (0, 1):
            length = allowed[0].shape[axis]
            sums = [
                np.concatenate([[0], np.cumsum(mask.sum(axis=1 - axis))])
                for mask in allowed
            ]
            cuts = _cuts(np.sum(sums, axis=0))
            # Pixels before the first cut, between the cuts, and after the second;
            # the guard lies behind every cut.
            first, second = cuts[:, np.newaxis], cuts[np.newaxis, :]
            between = np.minimum(first + distance, length)
            after = np.minimum(second + distance, length)
            for order in _ORDERS:
                counts = {
                    order[0]: sums[order[0]][first],
                    order[1]: np.maximum(
                        sums[order[1]][second] - sums[order[1]][between], 0
                    ),
                    order[2]: sums[order[2]][-1] - sums[order[2]][after],
                }
                score = self._score(counts, size)
                score = np.where(second >= first, score, -1.0)
                place = int(score.argmax())
                if score.flat[place] > best_score:
                    best_score = float(score.flat[place])
                    a, b = (int(cuts[i]) for i in divmod(place, len(cuts)))
                    starts = (0, a + distance, b + distance)
                    ranges = zip(order, starts, (a, b, length), strict=True)
                    best = axis, list(ranges)
        pieces = [np.zeros_like(mask) for mask in allowed]
        if best is not None:
            axis, parts = best
            for i, start, stop in parts:
                part = [slice(None), slice(None)]
                part[axis] = slice(start, stop)
                where = tuple(part)
                pieces[i][where] = allowed[i][where]
        return pieces, best_score

    def _score(
        self, counts: Mapping[int, NDArray[np.int64]], size: int
    ) -> NDArray[np.float64]:
        """Rate cuts: a served class, then a validated one, then many pixels.

        The sum of square roots is largest where the counts are proportional to the
        wanted shares; it uses correctly rounded operations only, so that every machine
        finds the same cut.
        """
        shares = (self.train, self.val, 1 - self.train - self.val)
        score = np.zeros(np.broadcast_shapes(*(c.shape for c in counts.values())))
        for i, share in enumerate(shares):
            score = score + np.sqrt(share * counts[i] / max(size, 1))
        served = (counts[0] >= self.min_pixels) & (counts[2] >= self.min_pixels)
        if self.val > 0:
            # Two gaps cost more pixels than validation gains: it counts for itself.
            score = score + 0.5 * (served & (counts[1] >= self.min_pixels))
        return np.asarray(score + 1000.0 * served)


def _boxes(
    label_map: Labels, order: Sequence[int], distance: int
) -> list[tuple[int, tuple[slice, slice]]]:
    """Find the part of the scene that a class can touch."""
    found = ndimage.find_objects(label_map)
    boxes = []
    for label in order:
        rows, cols = (
            slice(max(0, part.start - distance), part.stop + distance)
            for part in found[label - 1]
        )
        boxes.append((label, (rows, cols)))
    return boxes


def _cuts(cumulative: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose the places at which a class may be cut."""
    last = len(cumulative) - 1
    wanted = np.arange(1, _MOST_CUTS) * cumulative[-1] // _MOST_CUTS
    places = np.searchsorted(cumulative, wanted, side='left')
    return np.unique(np.concatenate([[0], places, [last]])).astype(np.int64)
