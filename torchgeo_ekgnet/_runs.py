# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Where the files of a run lie, and what each of them is of.

A run is a folder ``runs/NAME/version_N``: checkpoints, logs, and what ``test`` and
``predict`` find out about the scene of the training. What they find out about another
scene lies in ``test/SCENE`` and ``predict/SCENE`` in it. Every result names its scene,
cube, split and checkpoint, so that a page never joins what does not belong together.
"""

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ._files import (
    NO_ROOM,
    StrPath,
    as_argument,
    check_replaceable,
    check_writable,
    no_room,
    write_json,
)

logger = logging.getLogger(__name__)

#: Name of the runs that ``--name`` of the command line asks for.
RUN_NAME: ContextVar[str | None] = ContextVar('RUN_NAME', default=None)

#: What the training of a run is of, in its folder.
RUN_FILE = 'run.json'

#: What a folder of another scene's results is of.
SCENE_FILE = 'scene.json'

#: Which files of a folder that is not ours are: one name a line.
CLAIMS_FILE = '.torchgeo_ekgnet'

#: Where classes lie that a configuration may name which was found beside a checkpoint;
#: PyTorch has others, which start any program.
HARMLESS = (
    'kornia.augmentation',
    'lightning.pytorch.accelerators',
    'lightning.pytorch.callbacks',
    'lightning.pytorch.loggers',
    'lightning.pytorch.plugins',
    'lightning.pytorch.profilers',
    'lightning.pytorch.strategies',
    'timm.optim',
    'timm.scheduler',
    'torch.nn',
    'torch.optim',
    'torchgeo',
    'torchgeo_ekgnet',
)

_VERSION = re.compile(r'version_(\d+)$')


@dataclass(frozen=True)
class Subject:
    """What a result is of; None where that is not known.

    Attributes:
        scene: Name of the scene.
        cube: Digest of the scene's values.
        split: Identity of the split; None for results that need none.
        checkpoint: Name of the checkpoint's file.
        checkpoint_digest: SHA-256 of it.
    """

    scene: str | None = None
    cube: str | None = None
    split: str | None = None
    checkpoint: str | None = None
    checkpoint_digest: str | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> 'Subject':
        """Read what the content of a result file says."""
        split = content.get('split')
        identity = split.get('identity') if isinstance(split, Mapping) else split
        names = ('scene', 'cube', 'checkpoint', 'checkpoint_digest')
        known = {name: content.get(name) for name in names}
        return cls(
            **{
                key: None if value is None else str(value)
                for key, value in known.items()
            },
            split=None if identity is None else str(identity),
        )

    def to_dict(self) -> dict[str, str | None]:
        """Give what a result file holds."""
        return asdict(self)

    def same_scene(self, other: 'Subject') -> bool:
        """Whether nothing speaks against both being of one scene."""
        if self.cube and other.cube:
            return self.cube == other.cube
        return not (self.scene and other.scene) or self.scene == other.scene

    def same_checkpoint(self, other: 'Subject') -> bool:
        """Whether nothing speaks against both being of one checkpoint."""
        mine, theirs = self.checkpoint_digest, other.checkpoint_digest
        return not (mine and theirs) or mine == theirs

    def __str__(self) -> str:
        """Name scene, checkpoint and split, with the first digits of the digests."""
        parts = [
            f'{kind} {name}' + (f' ({digest[:12]})' if digest else '')
            for kind, name, digest in (
                ('scene', self.scene, self.cube),
                ('checkpoint', self.checkpoint, self.checkpoint_digest),
            )
            if name or digest
        ]
        if self.split:
            parts.append(f'split {self.split[:12]}')
        return ', '.join(parts) or 'an unknown scene'


def read_result(path: Path) -> dict[str, Any]:
    """Read a JSON file of results; empty if there is none or it cannot be read."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        logger.warning('%s cannot be read and is left out: %s', path, error)
        return {}
    return content if isinstance(content, dict) else {}


def claim_outputs(folder: StrPath, names: Iterable[str]) -> None:
    """See, before the work, that results can be written and replace nobody's files.

    In the folder of a run every file is ours; in others those whose names stand in
    :data:`CLAIMS_FILE`, to which these names are added.

    Args:
        folder: Output folder, which is made if there is none.
        names: Files that are about to be written or deleted, relative to it.

    Raises:
        OSError: If the folder cannot be written to.
        IsADirectoryError: If a folder has the name of a file.
        FileExistsError: If there is a file that this package has not written.
    """
    folder = Path(folder)
    check_writable(folder)
    wanted = dict.fromkeys(names)
    # Before the names are read: another process notes its names before it writes.
    there = [name for name in wanted if os.path.lexists(folder / name)]
    for name in there:
        check_replaceable(folder / name)
    if 'started_in' in read_result(folder / RUN_FILE) or 'cube' in read_result(
        folder / SCENE_FILE
    ):
        return
    list_of_ours = folder / CLAIMS_FILE
    check_replaceable(list_of_ours)
    if list_of_ours.is_symlink():
        # What it leads to is somebody else's.
        list_of_ours.unlink()
    ours: set[str] = set()
    if list_of_ours.is_file():
        text = list_of_ours.read_text(encoding='utf-8', errors='replace')
        ours.update(text.splitlines())
    for name in there:
        if name not in ours:
            raise FileExistsError(
                errno.EEXIST,
                'found a file that this package has not written here, expected none '
                'under this name: move it away, or choose another output',
                str(folder / name),
            )
    try:
        with list_of_ours.open('a', encoding='utf-8') as file:
            file.writelines(f'{name}\n' for name in wanted if name not in ours)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise no_room(list_of_ours, error.strerror or str(error)) from error


def run_of_checkpoint(path: StrPath) -> Path:
    """Give the folder above ``checkpoints``; the own one of a checkpoint elsewhere."""
    folder = Path(path).absolute().parent
    return folder.parent if folder.name == 'checkpoints' else folder


def names_others(path: Path) -> bool:
    """Tell whether a configuration names classes that it may only if it is typed.

    Args:
        path: The file, as a training has written it.

    Returns:
        Whether it does; False for a file that cannot be read.
    """
    import yaml

    names: list[Any] = []
    try:
        waiting: list[Any] = [yaml.safe_load(path.read_text(encoding='utf-8'))]
    except (OSError, ValueError, yaml.YAMLError):
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            names.append(value.get('class_path'))
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return not all(is_harmless(name) for name in names if isinstance(name, str))


def is_harmless(name: str) -> bool:
    """Tell whether a class, or a module, lies where a found configuration may name it."""
    return any(f'{name}.'.startswith(f'{known}.') for known in HARMLESS)


def checkpoint_of(run: Path) -> Path | None:
    """Find the checkpoint of a run to test and map with.

    A configuration that watches a validation score keeps ``best.ckpt``; one that means
    the weights of the last epoch, such as averaged ones, keeps ``last.ckpt`` alone. A
    checkpoint of another name counts where it is the only one.
    """
    paths = (run / 'checkpoints' / f'{name}.ckpt' for name in ('best', 'last'))
    found = next(filter(Path.is_file, paths), None)
    # The hidden ones are what a process that was killed had not finished.
    others = sorted((run / 'checkpoints').glob('[!.]*.ckpt'))
    return others[0] if found is None and len(others) == 1 else found


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint of the newest run in ``runs/NAME`` that has one, or None."""
    runs = sorted(folder.glob('version_*'), key=version_of, reverse=True)
    return next(filter(None, map(checkpoint_of, runs)), None)


def version_of(folder: Path) -> int:
    """Give N of ``version_N``, -1 for other names."""
    match = _VERSION.search(folder.name)
    return int(match.group(1)) if match else -1


def create_version(runs: Path) -> Path:
    """Create the folder of a new run, which belongs to the caller alone.

    Args:
        runs: Folder of the runs.

    Returns:
        The folder of the version after the highest.
    """
    runs.mkdir(parents=True, exist_ok=True)
    number = max(map(version_of, runs.glob('version_*')), default=-1) + 1
    while True:
        path = runs / f'version_{number}'
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def scene_folder(parent: Path, subject: Subject) -> Path:
    """Choose the folder of a scene's results, which are of this very cube.

    Args:
        parent: Folder such as ``predict`` of a run; nothing is written yet.
        subject: The scene.

    Returns:
        ``parent/SCENE``, or ``parent/SCENE-DIGEST`` if that is taken by another cube.
    """
    name = re.sub(r'[^\w+-]+', '_', str(subject.scene)).strip('_')[:80] or 'scene'
    folder = parent / name
    found = Subject.of(read_result(folder / SCENE_FILE))
    return folder if found.same_scene(subject) else parent / f'{name}-{subject.cube:.8}'


def holds_no_more(folder: Path, names: Iterable[str]) -> bool:
    """Tell whether all files of a folder are notes of this module or have such names."""
    files = {path.name for path in folder.rglob('*') if not path.is_dir()}
    return files <= {*names, SCENE_FILE, CLAIMS_FILE}


def claim_scene_folder(folder: Path, subject: Subject) -> None:
    """Note in a folder which scene it is of."""
    if not (folder / SCENE_FILE).is_file():
        write_json(folder / SCENE_FILE, {'scene': subject.scene, 'cube': subject.cube})


def next_steps(checkpoint: Path, shown: Callable[[Path], str]) -> list[str]:
    """Say how a trained network is tested and mapped with.

    Args:
        checkpoint: Checkpoint of a run.
        shown: How paths are written.
    """
    stages, where = ('test', 'predict'), shown(checkpoint)
    config = run_of_checkpoint(checkpoint) / 'config.yaml'
    if not config.is_file():
        # Trained in Python: no command knows the data.
        return [
            f'trainer.{name}(task, datamodule, ckpt_path={where!r})' for name in stages
        ]
    options = as_argument(where)
    if names_others(config):
        options += f' --config {as_argument(shown(config))}'
    return [f'torchgeo-ekgnet {name} --ckpt_path {options}' for name in stages]
