# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""How commands end that are ended from outside: signals, closed streams, full disks."""

import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser

from torchgeo_ekgnet import main as command_line
from torchgeo_ekgnet.cli import Parser
from torchgeo_ekgnet.main import main

from .processes import command, forked, needs_fork
from .test_main import EKGNET


def test_letters_that_the_terminal_lacks_are_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding='ascii', errors='strict')
    monkeypatch.setattr(sys, 'stdout', terminal)
    monkeypatch.setattr(
        command_line, 'run', lambda args: sys.stdout.write('Straße, Gel\udce4nde')
    )
    main()
    assert raw.getvalue() == b'Stra\\xdfe, Gel\\udce4nde'


@needs_fork
def test_closed_streams_are_no_files_of_others(tmp_path: Path) -> None:
    def work() -> None:
        for number in range(3):
            os.close(number)
        command_line._open_streams()
        with (tmp_path / 'result').open('w') as file:
            assert file.fileno() > 2

    forked(work, tmp_path / 'errors.txt').wait()


@needs_fork
@pytest.mark.parametrize(
    ('name', 'status'), [('SIGTERM', 143), ('SIGHUP', 129), ('SIGINT', 130)]
)
def test_stopped_training_tells_the_shell(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ['--config', EKGNET, '--trainer.max_epochs', '5000']
    monkeypatch.setattr(sys, 'argv', ['torchgeo-ekgnet', 'fit', *config])
    process = forked(main, tmp_path / 'errors.txt')
    found = process.stop_when(
        lambda: list(tmp_path.glob('runs/**/last.ckpt')), signal.Signals[name]
    )
    text = process.errors.read_text()
    assert found == status, text
    assert 'Traceback' not in text
    assert text.strip().splitlines()[-1].startswith('torchgeo-ekgnet: ')
    last = next(tmp_path.glob('runs/**/last.ckpt'))
    assert torch.load(last, weights_only=True)['state_dict']


@needs_fork
@pytest.mark.parametrize(
    ('handler', 'status'), [(signal.SIG_IGN, 0), (signal.SIG_DFL, 129)]
)
def test_nohup_outlives_the_terminal(
    handler: signal.Handlers,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def close_terminal(args: list[str]) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        (tmp_path / 'outlived').touch()

    def work() -> None:
        signal.signal(signal.SIGHUP, handler)
        main()

    monkeypatch.setattr(command_line, 'run', close_terminal)
    assert forked(work, tmp_path / 'errors.txt').status() == status
    assert (tmp_path / 'outlived').exists() == (status == 0)


@needs_fork
@pytest.mark.parametrize(
    ('first', 'second', 'status', 'patience'),
    [
        ('SIGINT', 'SIGINT', 130, 10.0),
        ('SIGINT', 'SIGTERM', 130, 10.0),
        ('SIGTERM', 'SIGINT', 143, 10.0),
        ('SIGTERM', 'SIGTERM', 143, 0.0),
    ],
)
def test_second_signal_leaves_time_to_put_things_in_order(
    first: str,
    second: str,
    status: int,
    patience: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(args: list[str]) -> None:
        try:
            os.kill(os.getpid(), signal.Signals[first])
        finally:
            os.kill(os.getpid(), signal.Signals[second])
            (tmp_path / 'in order').touch()

    monkeypatch.setattr(command_line, 'run', interrupted)
    monkeypatch.setattr(command_line, '_PATIENCE', patience)
    process = forked(main, tmp_path / 'errors.txt')
    assert process.status() == status
    assert (tmp_path / 'in order').exists() == (patience > 0)
    assert len(process.errors.read_text().splitlines()) == 1


@needs_fork
def test_signal_that_a_destructor_swallows_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loader:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    def lose(args: list[str]) -> None:
        Loader()
        time.sleep(1)

    monkeypatch.setattr(command_line, 'run', lose)
    process = forked(main, tmp_path / 'errors.txt')
    assert process.status() == 130
    assert process.errors.read_text() == 'torchgeo-ekgnet: interrupted\n'


@needs_fork
@pytest.mark.parametrize(('name', 'status'), [('SIGHUP', 0), ('SIGTERM', 143)])
def test_workers_do_not_end_with_the_terminal(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_a_worker(args: list[str]) -> None:
        child = os.fork()
        if not child:
            try:
                os.kill(os.getpid(), signal.Signals[name])
            except SystemExit as stop:
                os._exit(int(str(stop.code)))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status

    monkeypatch.setattr(command_line, 'run', in_a_worker)
    forked(main, tmp_path / 'errors.txt').wait()


def test_closed_output_is_no_traceback(tmp_path: Path) -> None:
    process = command('--help', cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    text = process.stderr.read()
    assert process.wait() == 1
    assert 'BrokenPipeError' in text
    assert 'Traceback' not in text and 'Exception ignored' not in text


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_full_output_is_no_traceback(tmp_path: Path) -> None:
    with Path('/dev/full').open('w') as full:
        process = command('--help', cwd=tmp_path, stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert 'No space left on device' in errors
    assert len(errors.splitlines()) == 1


def test_full_disk_leaves_no_half_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = Parser()
    parser.add_argument('--name', default='x')

    def full(self: object, cfg: object, path: Path, **kwargs: object) -> None:
        Path(path).write_text('na')
        raise OSError(28, 'No space left on device')

    (tmp_path / 'config.yaml').write_text('old')
    with monkeypatch.context() as patched:
        patched.setattr(LightningArgumentParser, 'save', full)
        with pytest.raises(OSError, match=r'config\.yaml could not be written'):
            parser.save(
                parser.get_defaults(),
                tmp_path / 'config.yaml',
                overwrite=True,
                multifile=False,
            )
    assert [path.name for path in tmp_path.iterdir()] == ['config.yaml']
    assert (tmp_path / 'config.yaml').read_text() == 'old'
