# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from torchgeo_ekgnet._files import write_json, write_text
from torchgeo_ekgnet._runs import RUN_NAME
from torchgeo_ekgnet.stages import complete_arguments

CUSTOM = 'torchgeo_ekgnet.datamodules.CustomSceneDataModule'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder below the folder that the commands are typed in."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'runs' / 'small' / 'version_0'
    write_text(folder / 'checkpoints' / 'best.ckpt', '')
    _configure(folder, root='scenes', cube='a.npy', labels='a_gt.npy', name='a')
    write_json(folder / 'run.json', {'scene': 'a', 'started_in': str(tmp_path)})
    return folder


@pytest.fixture
def name_of_runs() -> Iterator[None]:
    token = RUN_NAME.set(None)
    yield
    RUN_NAME.reset(token)


def _configure(folder: Path, class_path: str = CUSTOM, **arguments: object) -> None:
    data = {'class_path': class_path, 'init_args': arguments}
    write_text(folder / 'config.yaml', yaml.safe_dump({'data': data}))


def _complete(*args: str) -> list[str]:
    (line,) = complete_arguments(args)
    return line


@pytest.mark.parametrize('command', ['validate', 'test', 'predict'])
def test_the_checkpoint_alone_is_enough(run: Path, command: str) -> None:
    line = _complete(
        command, '--ckpt_path', 'runs/small/version_0/checkpoints/best.ckpt'
    )
    assert line[:3] == [command, '--config', str(run / 'config.yaml')]
    assert line[3:] == ['--ckpt_path', 'runs/small/version_0/checkpoints/best.ckpt']


def test_from_another_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are where they were when the training began."""
    (tmp_path / 'scenes').mkdir()
    (tmp_path / 'else').mkdir()
    monkeypatch.chdir(tmp_path / 'else')
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    line = _complete('predict', f'--ckpt_path={checkpoint}')
    assert line[3:5] == ['--data.root', str(tmp_path / 'scenes')]
    line = _complete('predict', f'--ckpt_path={checkpoint}', '--data.root', 'x')
    assert line[3:] == [f'--ckpt_path={checkpoint}', '--data.root', 'x']


@pytest.mark.parametrize(
    'options',
    [
        ('--config', 'mine.yaml'),
        ('--config=mine.yaml',),
        ('--model', 'Task', '--data', 'Data'),
        ('--data=Data',),
    ],
)
def test_a_configuration_that_is_given_counts(
    run: Path, options: tuple[str, ...]
) -> None:
    args = ('test', '--ckpt_path', str(run / 'checkpoints' / 'best.ckpt'), *options)
    assert _complete(*args) == list(args)


def test_other_commands_are_left_alone(run: Path) -> None:
    for args in (('fit', '--config', 'x.yaml'), ('demo', '--name', 'x'), ('test',)):
        assert _complete(*args) == list(args)


def test_another_scene_has_labels_and_place_of_its_own(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / 'new.hdr').touch()
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    line = _complete('predict', '--ckpt_path', checkpoint, '--data.cube', 'new.hdr')
    assert f'--data.cube={tmp_path / "new.hdr"}' in line
    assert {'--data.labels=null', '--data.name=null'} <= set(line)
    assert not any(item.startswith('--data=') for item in line)
    line = _complete(
        'predict',
        f'--ckpt_path={checkpoint}',
        '--data.cube=new.hdr',
        '--data.labels=new_gt.tif',
    )
    assert '--data.labels=new_gt.tif' in line and '--data.labels=null' not in line


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('tiles/*.tif', '{here}/tiles/*.tif'),
        ('tiles', '{here}/tiles'),
        ('[tiles/a.tif, tiles/b.tif]', '[{here}/tiles/a.tif, {here}/tiles/b.tif]'),
        ('b.npy', 'b.npy'),
        ('none/*.tif', 'none/*.tif'),
    ],
)
def test_paths_from_here_or_from_the_root(
    run: Path, tmp_path: Path, given: str, expected: str
) -> None:
    for name in ('a', 'b'):
        write_text(tmp_path / 'tiles' / f'{name}.tif', '')
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    line = _complete('predict', '--ckpt_path', checkpoint, '--data.cube', given)
    (cube,) = [item for item in line if item.startswith('--data.cube=')]
    value = cube.removeprefix('--data.cube=')
    assert yaml.safe_load(value) == yaml.safe_load(expected.format(here=tmp_path))


def test_a_network_of_a_public_scene_maps_files(run: Path) -> None:
    _configure(run, 'torchgeo_ekgnet.datamodules.SalinasADataModule', root='data')
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    line = _complete('predict', '--ckpt_path', checkpoint, '--data.cube', 'new.hdr')
    assert f'--data={CUSTOM}' in line and '--data.labels=null' in line


def test_a_list_of_scenes_is_one_map_after_the_other(run: Path) -> None:
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    args = ['predict', '--ckpt_path', checkpoint]
    lines = complete_arguments([*args, '--data.cube', 'a.hdr', '--data.cube=b.hdr'])
    assert ['--data.cube=a.hdr' in line for line in lines] == [True, False]
    assert ['--data.cube=b.hdr' in line for line in lines] == [False, True]


@pytest.mark.usefixtures('name_of_runs')
class TestNames:
    @pytest.mark.parametrize('command', ['test', 'predict'])
    def test_the_latest_run_of_a_name(self, run: Path, command: str) -> None:
        for number in (2, 10):
            other = run.with_name(f'version_{number}')
            write_text(other / 'checkpoints' / 'best.ckpt', '')
            _configure(other)
        line = _complete(command, '--name', 'small')
        assert line[-2] == '--ckpt_path' and '/version_10/' in line[-1]
        assert line[1:3] == [
            '--config',
            str(run.with_name('version_10') / 'config.yaml'),
        ]

    def test_unknown_name(self, run: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r'--name: .*runs/smal; .*small'):
            complete_arguments(['test', '--name', 'smal'])

    def test_name_and_checkpoint(self, run: Path) -> None:
        with pytest.raises(ValueError, match='expected one of them'):
            complete_arguments(['test', '--name', 'small', '--ckpt_path', 'x.ckpt'])

    @pytest.mark.parametrize('folder', [True, False])
    def test_fit_names_its_run(self, tmp_path: Path, folder: bool) -> None:
        config = write_text(tmp_path / 'c.yaml', 'RunFolder' if folder else 'data: x')
        line = _complete('fit', '--config', str(config), '--name', 'mine')
        assert '--name' not in line and RUN_NAME.get() == 'mine'
        added = ['--trainer.callbacks.name=mine'] if not folder else []
        assert line[-len(added) or len(line) :] == added


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*no\.ckpt'):
        complete_arguments(['test', '--ckpt_path', str(tmp_path / 'no.ckpt')])
    path = write_text(tmp_path / 'alone.ckpt', '')
    with pytest.raises(FileNotFoundError, match=r'config\.yaml of its training; pass'):
        complete_arguments(['predict', '--ckpt_path', str(path)])
