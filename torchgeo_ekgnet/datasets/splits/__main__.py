# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Table of the published splits: ``python -m torchgeo_ekgnet.datasets.splits ROOT``.

ROOT is the folder of the scenes, as data modules take it: the label maps are below it
(Houston 2013's is the union of its masks), the masks in it or in ``splits/``.
"""

import sys
from pathlib import Path

import numpy as np

from ..houston2013 import Houston2013
from ..indian_pines import IndianPines
from ..pavia_university import PaviaUniversity
from . import COMMUNITY_SPLITS, CommunitySplit, SplitContext, read_mask
from .split import Labels

_PATCH_SIZES = (7, 11, 15)
_SCENES = (IndianPines, PaviaUniversity)


def _label_map(scene: str, root: Path) -> Labels:
    """Read the label map of a scene, or join the masks that make it."""
    if scene == Houston2013.scene_name:
        facts = COMMUNITY_SPLITS['houston2013_official']
        path = _below(root, facts.train.name)
        variables = [file.variable for file in (facts.train, facts.test) if file]
        return np.add(*(read_mask(path, variable) for variable in variables))
    (cls,) = (cls for cls in _SCENES if cls.scene_name == scene)
    path = _below(root, cls.labels_file.name)
    return read_mask(path, cls.labels_file.variable)


def _below(root: Path, name: str) -> Path:
    """Find a file in a folder or below it."""
    path = next(root.rglob(name), None)
    if path is None:
        raise FileNotFoundError(f'{root}: found no {name} in it or below, expected one')
    return path


def table(root: Path) -> str:
    """Write the table of the published splits, Markdown.

    Args:
        root: Folder with the label maps and the masks.

    Returns:
        One line a split: its pixels, and what share of its test patches contains a
        training centre and shares a pixel with a training patch.
    """
    lines = [
        '| `split` | Scene | Train / test | '
        + ' | '.join(f'P = {size}' for size in _PATCH_SIZES)
        + ' |',
        '|---' * (3 + len(_PATCH_SIZES)) + '|',
    ]
    for name, facts in COMMUNITY_SPLITS.items():
        protocol = CommunitySplit(name, val=0).bind(SplitContext(root=str(root)))
        split = protocol(_label_map(facts.scene, root))
        shares = [split.overlap(size) for size in _PATCH_SIZES]
        cells = [f'{100 * centre:.1f}, {100 * pixel:.1f} %' for centre, pixel in shares]
        lines.append(
            f'| `{name}` | {facts.scene} | {split.train.size:,} / '
            f'{split.test.size:,} | ' + ' | '.join(cells) + ' |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(table(Path(sys.argv[1])))
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
