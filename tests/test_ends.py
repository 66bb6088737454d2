# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How commands end that cannot go on: one line, an exit status, nothing half-written."""

import locale
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import yaml
from torchgeo.main import main as torchgeo_main

from torchgeo_ekgnet import main as command_line
from torchgeo_ekgnet.cli import UsageError, _check_numbers
from torchgeo_ekgnet.main import USAGE, main

from .processes import forked, needs_fork
from .test_main import EKGNET


def test_stripped_docstrings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in dir(sys.flags) if not name.startswith('_')]
    flags = {name: getattr(sys.flags, name) for name in names}
    monkeypatch.setattr(sys, 'flags', SimpleNamespace(**flags | {'optimize': 2}))
    with pytest.raises(RuntimeError, match='found python -OO'):
        main(['fit', '--config', EKGNET])


def test_unknown_config_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        torchgeo_main(['fit', '--config', EKGNET, '--data.pach_size', '7'])
    assert 'pach_size' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('option', 'found', 'message'),
    [
        (
            '--data',
            'SyntheticSceneDatamodule',
            "expected a class; did you mean 'SyntheticSceneDataModule'.$",
        ),
        ('--data.pca', '30', 'expected a class$'),
    ],
)
def test_name_that_is_no_class(option: str, found: str, message: str) -> None:
    with pytest.raises(UsageError, match=f'found {found}, {message}'):
        main(['fit', '--config', EKGNET, option, found])


@needs_fork
def test_configurations_are_utf_8_in_every_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = Path(EKGNET).read_text(encoding='utf-8')
    Path('c.yaml').write_text(f'# Wälder\n{text}', encoding='utf-8')
    given = ['fit', '--config', 'c.yaml', '--trainer.max_epochs=0']
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', *given])

    def work() -> None:
        # As a process starts that is told so by its environment.
        locale.setlocale(locale.LC_ALL, 'C')
        with pytest.raises(UnicodeDecodeError), open('c.yaml') as file:
            file.read()
        main()

    process = forked(work, tmp_path / 'errors.txt')
    assert process.status() == USAGE
    assert 'max_epochs: found 0' in process.errors.read_text(encoding='utf-8')


def test_windows_starts_python_again_in_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], str]] = []

    def run_again(again: list[str], env: dict[str, str]) -> int:
        asked.append((again, env['PYTHONUTF8']))
        return 3

    monkeypatch.delenv('PYTHONUTF8', raising=False)
    monkeypatch.setattr(command_line, 'WINDOWS', True)
    monkeypatch.setattr(sys, 'flags', SimpleNamespace(utf8_mode=0, optimize=0))
    monkeypatch.setattr(subprocess, 'call', run_again)
    monkeypatch.setattr(sys, 'orig_argv', ['python', '-X', 'dev', 'script', 'fit'])
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        signal.signal(signal.SIGINT, ctrl_c)
    assert stop.value.code == 3
    assert asked == [([sys.executable, '-X', 'dev', 'script', 'fit'], '1')]
    monkeypatch.setenv('PYTHONUTF8', '0')  # who asks for the code page gets it
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', '--version'])
    main()
    assert len(asked) == 1


def test_unknown_key_in_a_file(tmp_path: Path) -> None:
    config = yaml.safe_load(Path(EKGNET).read_text(encoding='utf-8'))
    config['model']['init_args']['num_expert'] = 3
    path = tmp_path / 'typo.yaml'
    path.write_text(yaml.safe_dump(config), encoding='utf-8')
    with pytest.raises(UsageError, match="'num_expert' is not accepted"):
        main(['fit', '--config', str(path)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--model.model', 'ekgnet_huge'], "model: timm knows no 'ekgnet_huge'.*tiny"),
        (['--model.in_channels', '9'], 'in_channels: the network has 9 bands.*16'),
        (['--model.num_classes', '5'], 'num_classes: the network has 5 .*have 3'),
        (['--data.patch_size', '4'], 'patch_size.*odd'),
        (['--data.patch_size', '51'], 'patch'),
        (['--data.split.init_args.train', '0.9999'], '(?s)0.9999.*train|train.*0.9999'),
    ],
)
def test_bad_values(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        main(['fit', '--config', EKGNET, *arguments])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--trainer.check_val_every_n_epoch=0'],
            'every_n_epoch: found 0, expected mo',
        ),
        (
            ['--trainer.val_check_interval=0'],
            'val_check_interval: found 0, expected mor',
        ),
        (['--trainer.accumulate_grad_batches=0'], 'batches: found 0, expected more'),
        (['--trainer.gradient_clip_val=-1'], 'clip_val: found -1, expected 0 or more'),
        (['--seed_everything=-1'], 'seed_everything: found -1, expected a number from'),
        (['--trainer.max_steps=0'], r'max_steps: found 0, .*fit would do nothing'),
        (['--trainer.max_epochs=0'], r'max_epochs: found 0, .*fit would do nothing'),
        (['--trainer.limit_train_batches=0.0'], r'train_batches: found 0\.0, expected'),
        (
            ['--trainer.accelerator=cpu', '--trainer.devices=9999'],
            r'found 9999, .* most',
        ),
        (['--trainer.precision=transformer-engine'], r'--trainer: found .*transformer'),
        (
            ['--trainer.accelerator=tpu'],
            '--trainer: found accelerator tpu, .*expected accelerator auto',
        ),
        (
            ['--trainer.devices=some'],
            'found .*devices some, .*devices auto or a number',
        ),
    ],
)
def test_numbers_that_lightning_divides_by(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        main(['fit', '--config', EKGNET, *arguments])


@pytest.mark.parametrize(
    ('command', 'name'), [('validate', 'val'), ('test', 'test'), ('predict', 'predict')]
)
def test_commands_have_something_to_do(command: str, name: str) -> None:
    option = f'limit_{name}_batches'
    _check_numbers({'trainer': {option: 0.5}}, command)
    with pytest.raises(UsageError, match=f'{option}: found 0, .*{command} would do no'):
        _check_numbers({'trainer': {option: 0}}, command)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--data.split=DisjoinSplit'], "BlockSplit, .*mean 'DisjointSplit'"),
        (['--data.split=dasse'], "masks dase, .*did you mean 'dase'"),
        (
            ['--data.split.class_path=DisjoinSplit'],
            "found DisjoinSplit, expected a class; did you mean 'DisjointSplit'",
        ),
        (
            ['--data.split=RandomSplit', '--data.split.trai=0.5'],
            "'trai' is not accepted; did you mean 'train'",
        ),
        (['--trainer.logger=CSVLoger'], 'found CSVLoger, expected a class$'),
    ],
)
def test_mistyped_classes(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(['fit', '--config', 'quickstart', *arguments])


def test_missing_scene_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        main(['fit', '--config', 'salinas_a', '--data.root', 'nowhere'])


def write_salinas_a(folder: Path, damage: str) -> None:
    """Write files with the public names and variables, and one thing wrong."""
    rng = np.random.RandomState(0)
    cube = rng.randint(0, 5000, (20, 20, 204)).astype('float64')
    labels = rng.choice([0, 1, 10, 11, 12, 13, 14], (20, 20)).astype('uint8')
    variable = 'salinasA_corrected'
    match damage:
        case 'variable':
            variable = 'something_else'
        case 'sizes':
            labels = labels[:-1]
        case 'nan':
            cube[3, 4, 100] = np.nan
        case 'infinite':
            cube[3, 4, 7] = np.inf
        case 'few':
            labels[labels == 14] = 0
            labels[5, 5] = 14
    path = folder / 'SalinasA_corrected.mat'
    scipy.io.savemat(path, {variable: cube})
    scipy.io.savemat(folder / 'SalinasA_gt.mat', {'salinasA_gt': labels})
    if damage == 'truncated':
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        ('truncated', r'SalinasA_corrected\.mat .*truncated'),
        ('variable', 'salinasA_corrected.*holds: .*something_else'),
        ('sizes', r'cube and labels differ in size.*20 x 20.*\(19, 20\)'),
        ('nan', r'1 values are NaN or infinite.*100'),
        ('infinite', r'1 values are NaN or infinite.*7'),
        ('few', 'class.*pixel'),
    ],
)
def test_bad_files(
    damage: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_salinas_a(tmp_path, damage)
    with pytest.raises(ValueError, match=f'(?s){message}'):
        main(['fit', '--config', 'salinas_a', '--data.root', '.'])


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('nothing', "no file 'nothing'"),
        ('..', r'--config: \.\. is a folder, a pipe or a device, expected a file'),
        (os.devnull, f'--config: {os.devnull} is a folder, a pipe or a device'),
    ],
)
def test_missing_configuration_is_one_line(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('TORCHGEO_EKGNET_DEBUG', raising=False)
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', 'fit', '--config', name])
    # Text that Python prints at its end, with status 1.
    with pytest.raises(SystemExit, match=told) as stop:
        main()
    assert isinstance(stop.value.code, str)
    assert '\n' not in stop.value.code


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--data.batch_size', '0'], 'batch_size is 0, expected a whole number from 1'),
        (
            ['--data.pca.num_components', '0'],
            'pca: num_components is 0, expected a whole number from 1',
        ),
        (['--data.split.init_args.train', '0.99'], 'train + val is 1.19'),
        (
            ['--model.init_args.model_options', '{"num_expert": 8}'],
            "model_options: ekgnet_tiny has no option 'num_expert'",
        ),
    ],
)
def test_errors_of_constructors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('TORCHGEO_EKGNET_DEBUG', raising=False)
    monkeypatch.setattr(
        sys, 'argv', ['torchgeo', 'fit', '--config', EKGNET, *arguments]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    text = str(stop.value.code)
    assert text.startswith(f'torchgeo-ekgnet: ValueError: {message}')
    assert '\n' not in text


def in_process(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> tuple[object, bool]:
    """How the process ends after an error, and whether it is raised as it is."""

    def fail(args: Sequence[str]) -> None:
        raise error

    monkeypatch.setattr(command_line, 'run', fail)
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', 'fit'])
    with pytest.raises(BaseException) as caught:
        main()
    return getattr(caught.value, 'code', None), caught.value is error


def lightning_stopped_by(error: BaseException) -> SystemExit:
    """What Lightning raises of Ctrl-C, and its tables where nobody reads them."""
    stop = SystemExit(1)
    stop.__context__ = error
    return stop


@pytest.mark.parametrize(
    ('error', 'end'),
    [
        (
            lightning_stopped_by(BrokenPipeError(32, 'Broken pipe')),
            'torchgeo-ekgnet: BrokenPipeError: stdout was closed before the end',
        ),
        (KeyError('x'), "torchgeo-ekgnet: KeyError: 'x' (TORCHGEO_EKGNET_DEBUG=1 "),
        (RuntimeError('two\n  lines'), 'torchgeo-ekgnet: RuntimeError: two lines ('),
        (RuntimeError(''), 'torchgeo-ekgnet: RuntimeError: no message ('),
        (ValueError('x' * 10_000), 'torchgeo-ekgnet: ValueError: xxx'),
        (MemoryError(), 'torchgeo-ekgnet: MemoryError: the machine has not enough'),
        (
            FileNotFoundError(2, 'No such file or directory', 'a.mat'),
            "torchgeo-ekgnet: FileNotFoundError: [Errno 2] No such file or directory: 'a.mat'",
        ),
        (UsageError('no'), 2),
        (KeyboardInterrupt(), 130),
        (lightning_stopped_by(KeyboardInterrupt()), 130),
        (SystemExit(3), 3),
        (SystemExit('words'), 'words'),
    ],
    ids=repr,
)
def test_end_of_the_process(
    error: BaseException, end: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('TORCHGEO_EKGNET_DEBUG', raising=False)
    code, _ = in_process(monkeypatch, error)
    if isinstance(end, int):
        assert code == end
    else:
        assert str(code).startswith(end)
        assert '\n' not in str(code) and len(str(code)) < 800


def test_traceback_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCHGEO_EKGNET_DEBUG', '1')
    assert in_process(monkeypatch, RuntimeError('something else'))[1]
    assert in_process(monkeypatch, KeyboardInterrupt())[0] == 130


@pytest.mark.parametrize(
    ('content', 'found'),
    [(None, 'there is no checkpoint'), (b'', 'checkpoint'), (b'words', 'checkpoint')],
    ids=['missing', 'empty', 'text'],
)
def test_checkpoint_that_is_none(
    content: bytes | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path('x.ckpt').write_bytes(content)
    for stage in ('test', 'predict', 'validate', 'fit'):
        with pytest.raises((OSError, ValueError), match=found):
            main([stage, '--config', EKGNET, '--ckpt_path', 'x.ckpt'])
    # What Lightning means by these words only the process knows that trained.
    for stage, word in (('test', 'best'), ('fit', 'last')):
        with pytest.raises(FileNotFoundError, match=f'there is no checkpoint {word}'):
            main([stage, '--config', EKGNET, '--ckpt_path', word])
    assert not Path('runs').exists()


def test_working_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> str:
        raise FileNotFoundError(2, 'No such file or directory')

    monkeypatch.setattr(os, 'getcwd', gone)
    with pytest.raises(FileNotFoundError, match='working folder has been deleted'):
        main(['fit', '--config', EKGNET])
