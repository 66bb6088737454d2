# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a training is about to use: a table of the classes, and what looks wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._wording import columns
from ..datasets.labels import means_no_class
from ..datasets.scene import HyperspectralScene
from ..datasets.splits import SUBSETS

#: Training pixels below which a class is called small.
_FEW = 5

#: Most pixels and bands that are compared with turned labels.
_PIXELS, _BANDS = 20_000, 24


def class_texts(values: Sequence[int], names: Sequence[str]) -> dict[int, str]:
    """Say what messages call the classes, by label from 1: value and name."""
    return {
        label: str(value) if name == f'class {value}' else f'{value} ({name})'
        for label, (value, name) in enumerate(zip(values, names, strict=True), start=1)
    }


class ClassCounts(NamedTuple):
    """The classes of a training, and how many pixels of each there are.

    Attributes:
        values: Value of every class in the label file.
        names: Name of every class.
        counts: Pixels of every class in 'train', 'val', 'test' and 'unused'.
    """

    values: Sequence[int]
    names: Sequence[str]
    counts: Mapping[str, Sequence[int]]

    def table(self) -> str:
        """Write the pixels of every class, one line a class."""
        head = ('value', 'name', 'labelled', 'train', 'validation', 'test')
        numbers = [self.counts[key] for key in (*SUBSETS, 'unused')]
        rows = [
            (value, name, sum(counts), *counts[:3])
            for value, name, *counts in zip(
                self.values, self.names, *numbers, strict=True
            )
        ]
        cells = [head, *(tuple(map(str, row)) for row in rows)]
        return '\n'.join(columns(cells, left=1))

    def check(self) -> None:
        """Refuse to train a classifier of a single class.

        Raises:
            ValueError: If fewer than two classes have training pixels.
        """
        trained = [n for n, count in enumerate(self.counts['train'], start=1) if count]
        if len(trained) < 2:
            texts = class_texts(self.values, self.names)
            found = f'class {texts[trained[0]]}' if trained else 'none'
            raise ValueError(
                'a classifier needs training pixels of two classes or more, found '
                f'{found} among {len(self.values)} class(es) of the labels: label '
                'another class, take another split, or see unlabelled and class_names'
            )

    def doubts(self) -> Iterator[str]:
        """Find what looks wrong in the counts; a sentence for each finding."""
        labelled = np.sum([self.counts[key] for key in (*SUBSETS, 'unused')], axis=0)
        for label, text in class_texts(self.values, self.names).items():
            train, test = (self.counts[key][label - 1] for key in ('train', 'test'))
            if labelled[label - 1] == 0:
                yield f'class {text} has no pixel: it is trained with nothing'
            elif 0 < train < _FEW:
                yield f'class {text} has only {train} training pixel(s)'
            if train and not test:
                yield f'class {text} has no test pixel: it counts in no accuracy'
            if means_no_class(self.names[label - 1]):
                yield (
                    f'class {text} is trained as a class of its own, and its name says '
                    f'that it is none: add {self.values[label - 1]} to unlabelled to '
                    'leave it out'
                )


def doubts_of_scene(scene: HyperspectralScene) -> Iterator[str]:
    """Find what looks wrong in the labels of a scene.

    Args:
        scene: The scene.

    Yields:
        A sentence for each finding.
    """
    yield from _background(scene)
    turned = _better_turned(scene)
    if turned is not None:
        way, ours, theirs = turned
        yield (
            f'the labels fit the cube better {way}: they would explain {theirs:.0%} of '
            f'the variance of the spectra, and explain {ours:.0%} as they are; look at '
            'the scene (plot, or torchgeo-ekgnet inspect)'
        )


def _background(scene: HyperspectralScene) -> Iterator[str]:
    """Say if no pixel is unlabelled and one class surrounds all others."""
    labels = scene.label_map
    if scene.num_classes < 2 or (labels[scene.valid] == 0).any():
        return
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    shares = np.bincount(labels.ravel(), minlength=scene.num_classes + 1)[1:]
    largest = int(shares.argmax()) + 1
    if (edge == largest).mean() > 0.8 and shares[largest - 1] > 0.5 * shares.sum():
        value = scene.class_values[largest - 1]
        text = class_texts(scene.class_values, scene.class_names)[largest]
        yield (
            f'every pixel is labelled, and class {text} covers '
            f'{shares[largest - 1] / shares.sum():.0%} of them and the border: if it is '
            f'background, leave it out with unlabelled=[{value}]'
        )


def _better_turned(scene: HyperspectralScene) -> tuple[str, float, float] | None:
    """Find a turn of the label map that explains the spectra much better."""
    if not scene.in_memory or scene.num_classes < 2:
        return None
    rows, cols, bands = scene.shape
    chosen = np.unique(np.linspace(0, bands - 1, min(bands, _BANDS)).astype(int))
    cube = np.asarray(scene.read_bands([int(band) for band in chosen]))
    labels = scene.label_map
    ways = {
        'upside down': labels[::-1],
        'mirrored': labels[:, ::-1],
        'turned by 180 degrees': labels[::-1, ::-1],
    }
    if rows == cols:
        ways['transposed'] = labels.T
    ours = _explained(cube, labels, scene.valid)
    way, theirs = max(
        ((way, _explained(cube, turn, scene.valid)) for way, turn in ways.items()),
        key=lambda pair: pair[1],
    )
    return (way, ours, theirs) if theirs > max(1.25 * ours, ours + 0.1) else None


def _explained(
    cube: NDArray[Any], labels: NDArray[np.integer[Any]], valid: NDArray[np.bool_]
) -> float:
    """Share of the variance of the spectra that lies between the classes."""
    known = np.flatnonzero((labels > 0) & valid)
    if known.size > _PIXELS:
        known = known[np.linspace(0, known.size - 1, _PIXELS).astype(np.int64)]
    if known.size == 0:
        return 0.0
    spectra = cube.reshape(-1, cube.shape[-1])[known].astype(np.float64)
    numbers = labels.ravel()[known]
    total = ((spectra - spectra.mean(axis=0)) ** 2).sum(axis=0)
    within = np.zeros_like(total)
    for label in np.unique(numbers):
        members = spectra[numbers == label]
        within += ((members - members.mean(axis=0)) ** 2).sum(axis=0)
    usable = total > 0
    return float((1 - within[usable] / total[usable]).mean()) if usable.any() else 0.0
