# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What is worth knowing of a scene before anything is trained on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._patch import check_patch_size
from .._wording import columns, listed
from ..datamodules.class_table import class_texts
from ..datasets import DisjointSplit, HyperspectralScene, RandomSplit
from ..datasets.splits import Split, SplitContext, SplitProtocol

__all__ = ('BandStatistics', 'Overview', 'SplitPreview', 'band_statistics')

#: Values that are looked at for the statistics of a large scene.
_SAMPLED_VALUES = 1 << 26


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of each used band over pixels with data.

    Attributes:
        low: Smallest value, (bands,).
        high: Largest value, (bands,).
        mean: Mean, (bands,).
        rows: Rows that were looked at; fewer than the scene has if it is large.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    rows: int


def band_statistics(scene: HyperspectralScene) -> BandStatistics:
    """Look at the values of every band.

    Args:
        scene: The scene; of a large one evenly spaced rows are read.

    Returns:
        The statistics.
    """
    _, cols, bands = scene.shape
    low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
    total, count, looked = np.zeros(bands), 0, 0
    for start, stop in scene.iter_blocks(_SAMPLED_VALUES):
        looked += stop - start
        spectra = scene.read(start, stop, 0, cols)[scene.valid[start:stop]]
        if not len(spectra):
            continue
        low = np.minimum(low, spectra.min(axis=0))
        high = np.maximum(high, spectra.max(axis=0))
        total += spectra.sum(axis=0, dtype=np.float64)
        count += len(spectra)
    return BandStatistics(low, high, total / max(count, 1), looked)


def context_of(scene: HyperspectralScene) -> SplitContext:
    """Let messages of a split call the classes as the label file does."""
    return SplitContext(class_texts(scene.class_values, scene.class_names))


@dataclass(frozen=True)
class SplitPreview:
    """A split that could be drawn, or why it cannot.

    Attributes:
        name: What the protocol is called.
        split: The split, None if the protocol refuses the label map.
        reason: Why it refuses.
        contains: Share of test patches that contain a training centre.
        shares: Share of test patches that share a pixel with a training patch.
    """

    name: str
    split: Split | None
    reason: str = ''
    contains: float = 0.0
    shares: float = 0.0

    @classmethod
    def draw(
        cls,
        name: str,
        protocol: SplitProtocol,
        scene: HyperspectralScene,
        patch_size: int,
    ) -> 'SplitPreview':
        """Draw a split of a scene.

        Args:
            name: What the protocol is called.
            protocol: The protocol.
            scene: The scene, with labels.
            patch_size: Rows and columns of a patch.

        Returns:
            The preview.
        """
        try:
            split = protocol.bind(context_of(scene))(scene.label_map, patch_size)
        except ValueError as error:
            return cls(name, None, str(error))
        return cls(name, split, '', *split.overlap(patch_size))


class Overview:
    """The facts of a scene as text, tables and figures.

    Attributes:
        scene: The scene.
        patch_size: Rows and columns of the patches that splits are judged by.
        statistics: Statistics of the bands.
        previews: Splits that could be drawn; none without labels.
        remarks: Sentences on what looks odd.
    """

    def __init__(
        self,
        scene: HyperspectralScene,
        patch_size: int = 7,
        remarks: Sequence[str] = (),
        split: Split | None = None,
    ) -> None:
        """Look at a scene.

        Args:
            scene: The scene.
            patch_size: Rows and columns of a patch, odd.
            remarks: What was said while the scene was opened.
            split: The split of a configuration, shown before the usual ones.

        Raises:
            ValueError: If the patch size is even, not positive or larger than the scene.
        """
        self.scene = scene
        self.patch_size = check_patch_size(patch_size, *scene.shape[:2])
        self.statistics = band_statistics(scene)
        self.previews: list[SplitPreview] = []
        if split is not None:
            self.previews.append(
                SplitPreview(
                    f'{split.protocol} (configured)',
                    split,
                    '',
                    *split.overlap(patch_size),
                )
            )
        if scene.label_map.any():
            self.previews += [
                SplitPreview.draw(name, protocol, scene, patch_size)
                for name, protocol in (
                    ('disjoint', DisjointSplit(guard='patch')),
                    ('random', RandomSplit(0.6, 0.1)),
                )
            ]
        self.remarks = [*remarks, *self._remarks()]

    def facts(self) -> dict[str, str]:
        """Describe size, values and place, by name."""
        scene, seen = self.scene, self.statistics
        rows, cols, bands = scene.shape
        facts = {
            'source': scene.source or 'unknown',
            'size': f'{rows:,} x {cols:,} pixels, {bands} bands, {scene.dtype}'
            + ('' if scene.in_memory else ', read by window'),
            'values': f'{seen.low.min():g} to {seen.high.max():g}'
            + (f' (in {seen.rows:,} rows)' if seen.rows < rows else ''),
        }
        if scene.wavelengths is None:
            facts['wavelengths'] = 'unknown'
        else:
            centres = scene.wavelengths
            facts['wavelengths'] = f'{centres.min():.1f} to {centres.max():.1f} nm'
        missing = _left_out(scene.band_indices)
        if missing:
            facts['bands left out'] = missing
        nodata = int((~scene.valid).sum())
        declared = 'none declared' if scene.nodata is None else f'{scene.nodata:g}'
        facts['no data'] = f'{declared}; {nodata:,} pixels ({nodata / rows / cols:.1%})'
        if scene.crs is not None:
            facts['CRS'] = scene.crs.to_string()[:60]
        if scene.transform is not None:
            width, height = abs(scene.transform.a), abs(scene.transform.e)
            facts['pixel'] = f'{width:g} x {height:g} in the units of the CRS'
        labelled = sum(scene.class_counts)
        facts['labels'] = (
            f'{labelled:,} pixels ({labelled / rows / cols:.1%}), '
            f'{scene.num_classes} classes'
            if labelled
            else 'none: the scene can be mapped, not trained on'
        )
        return facts

    def class_table(self) -> tuple[list[str], list[list[object]]]:
        """List the classes.

        Returns:
            Headings and rows: name, value in the label file, labelled pixels, share in
            per cent, and training pixels of each split that can be drawn.
        """
        scene = self.scene
        drawn = [item for item in self.previews if item.split is not None]
        head = ['class', 'value', 'pixels', 'share, %']
        head += [f'training, {item.name}' for item in drawn]
        training = [
            item.split.counts(scene.label_map, scene.num_classes)['train']
            for item in drawn
            if item.split is not None
        ]
        total = max(sum(scene.class_counts), 1)
        rows: list[list[object]] = [
            [
                scene.class_names[index],
                scene.class_values[index],
                count,
                f'{100 * count / total:.1f}',
                *(counts[index] for counts in training),
            ]
            for index, count in enumerate(scene.class_counts)
        ]
        return head, rows

    def split_table(self) -> tuple[list[str], list[list[object]]]:
        """Compare the splits.

        Returns:
            Headings and rows: protocol, pixels of each subset, and the shares of test
            patches that overlap training patches.
        """
        size = f'{self.patch_size} x {self.patch_size}'
        head = [
            f'split, patches of {size}',
            'training',
            'validation',
            'test',
            'contain a training centre, %',
            'share a pixel with a training patch, %',
        ]
        rows: list[list[object]] = []
        for item in self.previews:
            if item.split is None:
                rows.append([f'{item.name}: cannot be drawn', *[None] * 5])
                continue
            sizes = [len(item.split.indices(name)) for name in ('train', 'val', 'test')]
            shares = (f'{100 * item.contains:.1f}', f'{100 * item.shares:.1f}')
            rows.append([item.name, *sizes, *shares])
        return head, rows

    def reasons(self) -> list[str]:
        """Say why a split cannot be drawn."""
        return [
            f'{item.name} split: {item.reason}' for item in self.previews if item.reason
        ]

    def text(self) -> str:
        """Write everything for a terminal."""
        scene = self.scene
        lines = [scene.name + (' (SYNTHETIC)' if scene.synthetic else '')]
        facts = self.facts()
        width = max(map(len, facts))
        lines += [f'  {name:<{width}}  {value}' for name, value in facts.items()]
        if scene.num_classes:
            lines += ['', *_columns(*self.class_table())]
        if self.previews:
            head, rows = self.split_table()
            lines += [
                '',
                *_columns(['split', *head[1:4], 'centre, %', 'pixel, %'], rows),
            ]
            lines += [
                f'  (patches of {self.patch_size} x {self.patch_size}; init writes a split '
                + 'with shares of its own;',
                '  centre: test patches that contain a training centre, pixel: that share',
                '  any pixel with a training patch)',
                *(f'  {reason}' for reason in self.reasons()),
            ]
        if self.remarks:
            lines += ['', *(f'note: {text}' for text in self.remarks)]
        return '\n'.join(lines) + '\n'

    def _remarks(self) -> list[str]:
        """Say what looks odd."""
        scene, seen = self.scene, self.statistics
        said = []
        flat = np.flatnonzero(seen.low == seen.high)
        if len(flat):
            numbers = scene.band_indices[flat].tolist()
            said.append(
                f'{len(flat)} bands hold one value only (counted from 0: '
                f'{listed(numbers)}); leave them out with --data.bands.exclude'
            )
        counts = scene.class_counts
        few = [
            f'{name} ({count})'
            for name, count in zip(scene.class_names, counts, strict=True)
            if count < 10
        ]
        if few and sum(counts):
            said.append(f'classes with fewer than 10 labelled pixels: {", ".join(few)}')
        labelled = sum(counts)
        if labelled and max(counts) > 0.8 * labelled and scene.num_classes > 1:
            name = scene.class_names[int(np.argmax(counts))]
            value = scene.class_values[int(np.argmax(counts))]
            said.append(
                f'{name} has {max(counts) / labelled:.0%} of the labelled pixels: if '
                f'it means "no label", add {value} to --data.unlabelled'
            )
        return said


def _left_out(indices: NDArray[np.int64]) -> str:
    """Name the bands of the file that are not used."""
    if not len(indices):
        return ''
    missing = sorted(set(range(int(indices.max()) + 1)) - set(indices.tolist()))
    return f'{len(missing)} (counted from 0: {listed(missing)})' if missing else ''


def _columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lay a table out as lines, the first column to the left."""
    cells = [head, *([_cell(value) for value in row] for row in rows)]
    return [f'  {line}' for line in columns(cells)]


def _cell(value: object) -> str:
    """Write a value of a table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '-'
    return f'{value:,}' if isinstance(value, int) else str(value)
