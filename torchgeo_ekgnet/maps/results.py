# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What lies in the folder of a run and may stand on one page."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from .._reading import reading
from .._runs import RUN_FILE, Subject, read_result

__all__ = ('Results',)

#: What the files are, for errors.
_KINDS = {
    'test': 'results of a test',
    'experts': 'results of expert use',
    'log': 'a log of scores',
}


class Results:
    """The results in a folder that are of one scene and one checkpoint.

    Attributes:
        run: Folder of the run.
        maps: Folder of the map's files.
        data: What the datamodule says of its data.
        scene: What it says of the scene.
        files: ``test.json``, ``expert_use.json`` and ``metrics.csv``, as 'test', 'experts'
            and 'log'.
        test: Content of ``test.json``, empty if it is not shown.
        map: That of ``map.json``.
        experts: That of ``expert_use.json``.
        left_out: What is not shown, a sentence each.
    """

    def __init__(
        self, run: Path, folder: Path, maps: Path, data: Mapping[str, Any], lead: str
    ) -> None:
        """Read them, and sort out those of another subject."""
        self.run, self.maps, self.data = run, maps, data
        self.scene: Mapping[str, Any] = data.get('scene') or {}
        self.left_out: list[str] = []
        beside = [folder]
        if folder != run:
            beside += [run / stage / folder.name for stage in ('test', 'predict')]
        self.files = {'log': run / 'metrics.csv'}
        self.files['test'], self.test = _first(beside, 'test.json')
        self.map = read_result(maps / 'map.json')
        if not self.map and lead == 'test':
            self.map = _first(beside, 'map.json')[1]
        self.map_left_out = False
        tested, mapped = Subject.of(self.test), Subject.of(self.map)
        of_map = self.map and (lead == 'map' or not self.test)
        self.subject = mapped if of_map else tested
        if self.test and self.map and not _joined(tested, mapped):
            self.left_out.append(_why_apart(tested, mapped))
            if lead == 'map':
                self.test = {}
            else:
                self.map, self.map_left_out = {}, True
        trained = Subject.of(read_result(run / RUN_FILE))
        self.of_training_scene = folder == run and self.subject.same_scene(trained)
        if folder != run:
            where = f' on {trained.scene}' if trained.scene else ''
            self.left_out.append(
                f'The network was trained{where}, not on this scene: what is known of '
                'its training stands in the report of its run.'
            )
        self.files['experts'], self.experts = _first(beside, 'expert_use.json')
        used = Subject.of(self.experts)
        if self.experts and not _joined(used, self.subject):
            self.left_out.append(f'expert_use.json is of {used}, and is left out here.')
            self.experts = {}

    def reading(self, name: str | None) -> AbstractContextManager[None]:
        """Blame one of the files for whatever goes wrong with its content."""
        if name is None:
            return nullcontext()
        return reading(self.files[name], _KINDS[name])

    @property
    def palette(self) -> Any:
        """Colours of the scene's classes, None if nothing tells them."""
        return self.scene.get('palette') or self.map.get('palette')


def _first(folders: Sequence[Path], name: str) -> tuple[Path, dict[str, Any]]:
    """Find and read the first file of a name that there is."""
    paths = [folder / name for folder in folders]
    found = ((path, content) for path in paths if (content := read_result(path)))
    return next(found, (paths[0], {}))


def _joined(one: Subject, other: Subject) -> bool:
    """Whether two results may stand on one page; a map has no split of its own."""
    return one.same_scene(other) and one.same_checkpoint(other)


def _why_apart(tested: Subject, mapped: Subject) -> str:
    """Say why accuracies and map are not shown together."""
    if not tested.same_scene(mapped):
        return (
            f'Accuracies and map are of two scenes: {tested} was tested, {mapped} was '
            'mapped. Only one of them is shown here.'
        )
    one, two = (
        f'{subject.checkpoint} ({str(subject.checkpoint_digest)[:12]})'
        for subject in (tested, mapped)
    )
    return (
        f'Accuracies and map are of two checkpoints: {one} was tested, {two} made the '
        'map. Only one of them is shown here; run test and predict with one checkpoint.'
    )
