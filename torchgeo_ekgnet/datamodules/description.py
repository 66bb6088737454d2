# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a data module of one scene says of itself: to results, and in a notebook."""

from typing import TYPE_CHECKING, Any

from .. import _html
from ..datasets.scene import HyperspectralScene
from ..datasets.splits import Split

if TYPE_CHECKING:
    from .scene import HyperspectralDataModule


def describe(module: 'HyperspectralDataModule', split: Split | None) -> dict[str, Any]:
    """Describe scene, split and preprocessing; see the method of the data module."""
    scene, normalizer, pca = module.scene, module.normalizer, module.pca
    return {
        'scene': scene.metadata(),
        'split': None
        if split is None
        else {
            **split.describe(),
            'counts': split.counts(scene.label_map, scene.num_classes),
            'overlap': split.overlap(module.patch_size)._asdict(),
        },
        'patch_size': module.patch_size,
        'padding_mode': module.padding_mode,
        'normalization': {'method': normalizer.method, 'over': normalizer.over},
        'bands': [int(band) for band in scene.band_indices],
        'pca': None
        if pca is None
        else {
            'num_components': pca.num_components,
            'whiten': pca.whiten,
            'variance_ratio': pca.variance_ratio,
        },
        'num_bands': module.num_bands,
        'num_classes': module.num_classes,
    }


def split_text(name: str, split: Split, patch_size: int) -> str:
    """Say how many pixels a split of a scene has, and how honest its scores are."""
    overlap = split.overlap(patch_size)
    sizes = [split.indices(subset).size for subset in ('train', 'val', 'test')]
    return (
        f'{name}: {split.protocol} split, {sizes[0]} training, {sizes[1]} '
        f'validation and {sizes[2]} test pixels; of the test patches '
        f'{overlap.contains_training_centre:.1%} contain a training centre and '
        f'{overlap.shares_training_pixel:.1%} share a pixel with a training patch'
    )


def html(
    module: 'HyperspectralDataModule',
    scene: HyperspectralScene | None,
    split: Split | None,
) -> str:
    """Show scene, split and classes, as far as they are known yet."""
    name, size = type(module).__name__, module.patch_size
    facts: dict[str, object] = {
        'patches': f'{size} x {size}, {module.batch_size} a batch'
    }
    if scene is None:
        return _html.summary(name, {**facts, 'state': 'not set up'})
    if split is None:
        return scene.html(name, {**facts, 'split': 'not drawn'})
    overlap = split.overlap(size)
    facts |= {
        'split': repr(split),
        'test patches that contain a training centre': (
            f'{overlap.contains_training_centre:.1%}'
        ),
        'test patches that share a pixel with a training patch': (
            f'{overlap.shares_training_pixel:.1%}'
        ),
    }
    counts = split.counts(scene.label_map, scene.num_classes)
    counts.pop('unused')
    return scene.html(name, facts, counts)
