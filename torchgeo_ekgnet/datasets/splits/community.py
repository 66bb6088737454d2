# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Splits that the community has published, by name; their masks are never shipped."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._options import instance_of, known_word, random_seed
from ...commands import did_you_mean
from ..download import SceneFile, download_file
from .files import MaskSplit
from .protocol import SplitProtocol, Unserved, check_val
from .split import Split

_HSI_DATASETS = 'https://raw.githubusercontent.com/mhaut/HSI-datasets'
_LATEST = f'{_HSI_DATASETS}/6e351f13603d4ac76ef4e40811c072d5329ccb63/Classification'
_EARLIER = f'{_HSI_DATASETS}/fb174b21144c2248ed53fc8ece8072eba1445627'


@dataclass(frozen=True)
class CommunityMasks:
    """Where published masks are, and how they are read.

    Args:
        scene: Scene whose label map they belong to.
        train: File and variable of the training mask.
        test: File and variable of the test mask; None if the other labelled pixels test.
        labels: Whether the labels are those of the scene or of the masks.
        source: Who published them.
    """

    scene: str
    train: SceneFile
    test: SceneFile | None
    labels: Literal['scene', 'masks']
    source: str


def _file(name: str, variable: str, md5: str) -> SceneFile:
    """A file of the collection HSI-datasets, whose folders have changed."""
    return SceneFile(name, variable, (f'{_LATEST}/', f'{_EARLIER}/'), md5=md5)


_HOUSTON_MD5 = '4553b2881c414faef71f8f33e16871df'

#: The splits by name.
COMMUNITY_SPLITS: dict[str, CommunityMasks] = {
    'dase': CommunityMasks(
        scene='Indian Pines',
        train=_file(
            'indianpines_disjoint_dset.mat',
            'indianpines_disjoint_dset',
            '37ec8088c0b211afd58342ef7d730026',
        ),
        test=None,
        labels='scene',
        source='"disjoint" training pixels of the GRSS DASE website',
    ),
    'pavia_fixed': CommunityMasks(
        scene='Pavia University',
        train=_file(
            'TRpavia_fixed.mat', 'TRpavia_fixed', '4010a6f5ae4398651ee85884300e1500'
        ),
        test=_file(
            'TSpavia_fixed.mat', 'TSpavia_fixed', 'e41f566fb20705fa8abc4c1b5f3f2b59'
        ),
        labels='masks',
        source='fixed training and test pixels of Pavia University',
    ),
    'houston2013_official': CommunityMasks(
        scene='Houston 2013',
        train=_file('houston_gt.mat', 'houston_gt_tr', _HOUSTON_MD5),
        test=_file('houston_gt.mat', 'houston_gt_te', _HOUSTON_MD5),
        labels='scene',
        source='official pixels of the 2013 IEEE GRSS Data Fusion Contest',
    ),
}


class CommunitySplit(SplitProtocol):
    """Training and test pixels that the community has published, by name.

    Data modules take the name alone: ``split: dase``. The masks are looked for in the
    scene's root and in ``splits/`` below it, and downloaded where the data module may
    download; their MD5 is compared every time.
    """

    name = 'community'

    def __init__(
        self,
        masks: str,
        val: float = 0.1,
        seed: int = 1331,
        unserved: Unserved = 'error',
    ) -> None:
        """Initialize a new protocol.

        Args:
            masks: Name of the split, one of :data:`COMMUNITY_SPLITS`.
            val: Share of the training pixels of every class that validate instead.
            seed: Seed of the frozen generator that sets validation pixels aside.
            unserved: What to do with a class without training or test pixels:
                'error', 'drop' or 'merge'.

        Raises:
            ValueError: If there is no split of this name, or ``val`` is no share.
        """
        known_word('split', masks, tuple(COMMUNITY_SPLITS))
        check_val(val)
        self.masks = masks
        self.val = val
        self.seed = random_seed(seed)
        self.unserved = unserved

    def __call__(
        self, label_map: NDArray[np.integer[Any]], patch_size: int = 1
    ) -> Split:
        """Draw the split of a scene.

        Raises:
            FileNotFoundError: If a mask is missing and may not be downloaded.
            ValueError: If a mask is not the published one, or belongs to another scene.
        """
        facts = COMMUNITY_SPLITS[self.masks]
        test = facts.test
        protocol = MaskSplit(
            train=str(self._find(facts.train, facts)),
            test=None if test is None else str(self._find(test, facts)),
            val=self.val,
            train_variable=facts.train.variable,
            test_variable=None if test is None else test.variable,
            unlabelled='drop',
            labels=facts.labels,
            seed=self.seed,
            unserved=self.unserved,
        )
        split = protocol.bind(self.context)(label_map, patch_size)
        md5 = [file.md5 for file in (facts.train, test) if file is not None]
        settings = {**self.settings, 'md5': md5}
        return replace(split, protocol=self.masks, settings=settings)

    def _find(self, file: SceneFile, facts: CommunityMasks) -> Path:
        """Find a mask, download it if that is allowed, and compare its checksum."""
        root = Path(self.context.root)
        places = (root, root / 'splits')
        found = next((p / file.name for p in places if (p / file.name).is_file()), None)
        if found is None and self.context.download:
            return download_file(file, root / 'splits')
        if found is None:
            raise FileNotFoundError(
                f'split {self.masks!r}: there is no {file.name} in {root} or '
                f'{root / "splits"}; set download=True (--data.download true), or save '
                f'it there from {file.urls[0]} (md5 {file.md5}; {facts.source})'
            )
        problem = file.mismatch(found)
        if problem is not None:
            raise ValueError(
                f'split {self.masks!r}: {found} is not the published mask: {problem}; '
                'delete it and download it again'
            )
        return found


def as_protocol(
    split: SplitProtocol | Split | str | None,
) -> SplitProtocol | Split | None:
    """Turn the name of a published split into its protocol; others pass.

    Raises:
        TypeError: If it is neither.
        ValueError: If there is no split of this name.
    """
    if not isinstance(split, str):
        instance_of('split', split, SplitProtocol, Split)
        return split
    if split not in COMMUNITY_SPLITS:
        protocols = sorted(_protocols(SplitProtocol))
        raise ValueError(
            f'split is {split!r}, expected one of the protocols {", ".join(protocols)}, '
            f'or of the published masks {", ".join(COMMUNITY_SPLITS)}'
            f'{did_you_mean(split, (*protocols, *COMMUNITY_SPLITS))}'
        )
    return CommunitySplit(split)


def _protocols(base: type[Any]) -> Iterator[str]:
    """Yield the names of the protocols that are imported."""
    protocol: type[Any]
    for protocol in base.__subclasses__():
        if not inspect.isabstract(protocol) and not protocol.__name__.startswith('_'):
            yield protocol.__name__
        yield from _protocols(protocol)
