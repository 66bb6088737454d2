# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from torch.distributed.elastic.multiprocessing.subprocess_handler import (
    SubprocessHandler,
)

from torchgeo_ekgnet._files import write_json, write_text
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet._runs import RUN_NAME
from torchgeo_ekgnet.main import main
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


def test_files_of_a_split_from_another_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {'train': 'a.npy', 'test': 'below_root.npy', 'unserved': 'drop'}
    words['path'] = str(tmp_path / 'whole.npz')
    _configure(run, root='scenes', split={'class_path': 'x', 'init_args': words})
    for name in ('a.npy', 'drop', 'whole.npz'):
        write_text(tmp_path / name, '')
    (tmp_path / 'else').mkdir()
    monkeypatch.chdir(tmp_path / 'else')
    checkpoint = f'--ckpt_path={run / "checkpoints" / "best.ckpt"}'
    found = f'--data.split.init_args.train={tmp_path / "a.npy"}'
    assert _complete('test', checkpoint)[3:] == [found, checkpoint]
    given = '--data.split.train=b.npy'
    assert _complete('test', checkpoint, given)[3:] == [checkpoint, given]


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


def test_files_of_another_scene_lie_where_the_command_is_typed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _configure(run, root='scenes', cube='a.npy', labels='a.npy', wavelengths='w.txt')
    (tmp_path / 'scenes').mkdir()
    (tmp_path / 'else').mkdir()
    monkeypatch.chdir(tmp_path / 'else')
    for file in ('new.npy', 'new_gt.npy'):
        (tmp_path / 'else' / file).touch()
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    begin = ('predict', '--ckpt_path', checkpoint, '--data.cube', 'new.npy')
    line = _complete(*begin, '--data.labels', 'new_gt.npy')
    assert f'--data.labels={tmp_path / "else" / "new_gt.npy"}' in line
    assert '--data.wavelengths=null' in line
    place = line.index('--data.root')
    assert line[place + 1] == str(tmp_path / 'scenes')


def test_labels_of_a_configuration_are_not_those_of_another_cube(run: Path) -> None:
    config = str(run / 'config.yaml')
    line = _complete('predict', '--config', config, '--ckpt_path', 'a', '--data.cube=b')
    assert line[-1] == '--data.labels=null'
    _configure(run, labels='a.npy', class_names=['Oak'])
    line = _complete('predict', '--config', config, '--ckpt_path', 'a', '--data.cube=b')
    assert line[-2:] == ['--data.class_names=null', '--data.labels=null']
    for args in (
        ('predict', '--config', config, '--ckpt_path', 'a'),
        ('test', '--config', config, '--ckpt_path', 'a', '--data.cube', 'b'),
        ('predict', '--config', config, '--data.cube=b', '--data.labels=c'),
    ):
        assert _complete(*args) == list(args)


def test_weights_that_a_training_began_with_are_not_asked_for(run: Path) -> None:
    content = yaml.safe_load((run / 'config.yaml').read_text())
    content['model'] = {'class_path': 'Task', 'init_args': {'weights': 'gone.ckpt'}}
    write_text(run / 'config.yaml', yaml.safe_dump(content))
    line = _complete('test', '--ckpt_path', str(run / 'checkpoints' / 'best.ckpt'))
    assert line[3] == '--model.weights=null'


@pytest.mark.parametrize(
    'text', ['data: [', 'data: {class_path: A, init_args: [1, 2]}', 'data:\n\t- x']
)
def test_damaged_configurations_are_named(run: Path, text: str) -> None:
    write_text(run / 'config.yaml', text)
    with pytest.raises(FileError, match=r'config\.yaml'):
        _complete('test', '--ckpt_path', str(run / 'checkpoints' / 'best.ckpt'))


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


def test_names_in_brackets_are_no_lists(run: Path, tmp_path: Path) -> None:
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    args = ['predict', '--ckpt_path', checkpoint, '--data.cube', '[2020] s.npy']
    with pytest.raises(ValueError, match=r'^\[2020\] s\.npy: found neither a file'):
        complete_arguments(args)
    write_text(tmp_path / '[2020] s.npy', '')
    assert f'--data.cube={tmp_path}/[2020] s.npy' in _complete(*args)


def test_a_run_file_of_other_types_says_nothing(run: Path) -> None:
    write_json(run / 'run.json', {'started_in': 5})
    line = _complete('test', '--ckpt_path', str(run / 'checkpoints' / 'best.ckpt'))
    assert '--data.root' not in line


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

    def test_the_only_checkpoint_of_another_name(self, run: Path) -> None:
        path = run / 'checkpoints' / 'best.ckpt'
        path.rename(path.with_name('epoch=0-step=4.ckpt'))
        assert _complete('test', '--name', 'small')[-1].endswith('epoch=0-step=4.ckpt')
        (run / 'checkpoints' / 'epoch=1-step=8.ckpt').touch()
        with pytest.raises(FileNotFoundError, match='found no checkpoint of a run'):
            _complete('test', '--name', 'small')

    def test_empty_name(self) -> None:
        with pytest.raises(ValueError, match='--name: found nothing'):
            _complete('fit', '--name', '')

    def test_a_comment_is_no_run_folder(self, tmp_path: Path) -> None:
        path = tmp_path / 'mine.yaml'
        path.write_bytes(b'trainer: {}  # no RunFolder, f\xfcr jetzt\n')
        line = _complete('fit', '--config', str(path), '--name', 'x')
        assert line[-1] == '--trainer.callbacks.name=x'

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


def test_missing_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Runs are looked for where the command is typed; the message says where that is.
    folder = re.escape(str(Path('runs/none').absolute()))
    with pytest.raises(FileNotFoundError, match=f'no checkpoint of a run in {folder}$'):
        complete_arguments(['test', '--name', 'none'])
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*no\.ckpt'):
        complete_arguments(['test', '--ckpt_path', str(tmp_path / 'no.ckpt')])
    with pytest.raises(FileNotFoundError, match=r'--ckpt_path: .* is a folder'):
        complete_arguments(['test', '--ckpt_path', str(tmp_path)])
    path = write_text(tmp_path / 'alone.ckpt', '')
    with pytest.raises(FileNotFoundError, match=r'config\.yaml of its training; pass'):
        complete_arguments(['predict', '--ckpt_path', str(path)])


@pytest.mark.parametrize(
    'trainer',
    [
        {'callbacks': [{'class_path': 'strange.Callback'}]},
        {'callbacks': ['strange.Callback']},
        {'logger': 'strange.part.Logger'},
        {
            'callbacks': [
                {'class_path': 'LambdaCallback', 'init_args': {'setup': 'json.dumps'}}
            ]
        },
        {
            'callbacks': [
                {'class_path': 'LambdaCallback', 'init_args': {'setup': 'strange.f'}}
            ]
        },
        {
            'callbacks': [
                {
                    'class_path': 'LambdaCallback',
                    'init_args': {'setup': 'torch.hub.load'},
                }
            ]
        },
        'other.yaml',
    ],
    ids=[
        *(
            'class',
            'short',
            'module',
            'loaded function',
            'function',
            'function of torch',
        ),
        'another file',
    ],
)
@pytest.mark.usefixtures('name_of_runs')
def test_a_found_configuration_imports_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: object
) -> None:
    """Only what lies beside a checkpoint; what is typed may name anything."""
    monkeypatch.syspath_prepend(tmp_path)
    write_text(
        tmp_path / 'strange.py', "open('imported.txt', 'w').close()\ndef f(): ...\n"
    )
    callback = {'callbacks': [{'class_path': 'strange.Callback'}]}
    write_text(tmp_path / 'other.yaml', yaml.safe_dump(callback))
    config = yaml.safe_load((run / 'config.yaml').read_text())
    config['trainer'] = str(tmp_path / trainer) if trainer == 'other.yaml' else trainer
    config['model'] = 'HyperspectralClassificationTask'
    write_text(run / 'config.yaml', yaml.safe_dump(config))
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    with pytest.raises(
        FileError, match=r'config\.yaml: found (strange|json|torch).*--config'
    ) as caught:
        main(['predict', '--ckpt_path', checkpoint])
    assert '\n' not in str(caught.value)
    assert not Path('imported.txt').exists()


@pytest.mark.parametrize('typed', [False, True])
@pytest.mark.usefixtures('name_of_runs')
def test_options_of_a_dataset_start_no_program(
    run: Path, typed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of any type, and PyTorch has a class that starts what it is given."""
    started = Mock()
    monkeypatch.setattr(SubprocessHandler, '_popen', started)
    hostile = {
        'class_path': f'{SubprocessHandler.__module__}.SubprocessHandler',
        'init_args': {
            'entrypoint': 'true',
            'args': [],
            'env': {},
            'local_rank_id': 0,
            **dict.fromkeys(('stdout', 'stderr', 'numa_options')),
        },
    }
    config = yaml.safe_load((run / 'config.yaml').read_text())
    config['data'] = {
        'class_path': 'SyntheticSceneDataModule',
        'init_args': {'dataset_options': {'rows': hostile}, 'split': 'RandomSplit'},
    }
    config['model'] = 'HyperspectralClassificationTask'
    path = str(write_text(run / 'config.yaml', yaml.safe_dump(config)))
    found = ['predict', '--ckpt_path', str(run / 'checkpoints' / 'best.ckpt')]
    message = 'rows is (Namespace|{)' if typed else r'found torch\..*, expected classes'
    with pytest.raises((ValueError, TypeError), match=message):
        main(['fit', '--config', path] if typed else found)
    started.assert_not_called()


REMOTE = '''
import json
import re
from lightning.pytorch.loggers import Logger


class Remote(Logger):
    """Sends metrics somewhere else, as Weights & Biases does."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self.project = project

    @property
    def name(self):
        return 'remote'

    @property
    def version(self):
        return 'x1'

    def log_metrics(self, metrics, step=None):
        with open(self.project, 'a') as file:
            file.write(json.dumps(sorted(metrics)) + '\\n')

    def log_hyperparams(self, *args, **kwargs):
        pass
'''

CONFIG = """
seed_everything: 0
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: remote_logger.Remote, init_args: {project: remote.txt}}
  callbacks:
    - class_path: torchgeo_ekgnet.callbacks.RunFolder
      init_args: {name: any}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {filename: best, monitor: val_loss, enable_version_counter: false}
    - class_path: torchgeo_ekgnet.callbacks.AccuracyReport
    - class_path: torchgeo_ekgnet.callbacks.ClassificationMap
model:
  class_path: torchgeo_ekgnet.tasks.HyperspectralClassificationTask
  init_args: {model: ekgnet_tiny, model_options: {block_config: [1]}}
data:
  class_path: torchgeo_ekgnet.datamodules.CustomSceneDataModule
  init_args:
    root: scenes
    cube: a.npy
    labels: a_gt.npy
    class_names: [Oak, Beech, Elm]
    patch_size: 3
    split:
      class_path: torchgeo_ekgnet.datasets.RandomSplit
      init_args: {train: 0.3, val: 0.2}
"""


@pytest.mark.usefixtures('name_of_runs')
def test_from_training_to_the_map_of_another_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four commands; the logger of the YAML file hears of everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_text(tmp_path / 'remote_logger.py', REMOTE)
    write_text(tmp_path / 'c.yaml', CONFIG)
    labels = (np.indices((16, 18))[1] // 6 + 1).astype(np.uint8)
    random = np.random.default_rng(0)
    (tmp_path / 'scenes').mkdir()
    for name in ('scenes/a', 'new'):
        cube = labels[..., None] * 9 + random.normal(size=(16, 18, 6))
        np.save(f'{name}.npy', cube.astype(np.float32))
    np.save('scenes/a_gt.npy', labels)
    main(['fit', '--config', 'c.yaml', '--name', 'mine'])
    run = tmp_path / 'runs' / 'mine' / 'version_0'
    assert 'next   torchgeo-ekgnet test --ckpt_path' in capsys.readouterr().out
    whole = {'metrics.csv', 'config.yaml', 'run.json', 'split.npz', 'checkpoints'}
    assert whole <= {path.name for path in run.iterdir()}
    heard = Path('remote.txt').read_text()
    assert all(name in heard for name in ('train_loss', 'val_OA', 'val_kappa'))
    checkpoint = str(run / 'checkpoints' / 'best.ckpt')
    main(['test', '--name', 'mine'])
    assert (run / 'test.json').is_file() and (run / 'report.html').is_file()
    main(['predict', '--ckpt_path', checkpoint])
    assert json.loads((run / 'map.json').read_text())['scene'] == 'a'
    before = (run / 'map.tif').read_bytes()
    main(['predict', '--ckpt_path', checkpoint, '--data.cube', 'new.npy'])
    about = json.loads((run / 'predict' / 'new' / 'map.json').read_text())
    assert about['scene'] == 'new'
    names = [row['name'] for row in about['classes']]
    assert names == ['Oak', 'Beech', 'Elm']
    assert names == json.loads((run / 'test.json').read_text())['class_names']
    assert (run / 'map.tif').read_bytes() == before
    assert 'test_OA' in Path('remote.txt').read_text()
