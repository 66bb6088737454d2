# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import errno
import hashlib
import json
import ntpath
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import needs_posix
from torchgeo_ekgnet import _files
from torchgeo_ekgnet._files import (
    as_argument,
    at_home,
    check_free_space,
    check_output_file,
    check_writable,
    file_digest,
    relative_path,
    replaced,
    write_json,
    write_text,
)
from torchgeo_ekgnet.callbacks import ClassificationMap
from torchgeo_ekgnet.reproduce.compare import repeat_parser


@pytest.fixture
def umask() -> Iterator[int]:
    """An unusual umask, for the time of a test."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


class TestReplaced:
    def test_the_file_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        path = tmp_path / 'new' / 'a.npz'
        with replaced(path) as part:
            part.write_bytes(b'abc')
            assert not path.exists()
            assert part.suffix == '.npz'
        assert path.read_bytes() == b'abc'
        assert os.listdir(path.parent) == ['a.npz']

    @pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, OSError])
    def test_an_error_leaves_the_old_file(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        path = write_text(tmp_path / 'a.txt', 'old')
        with pytest.raises(error), replaced(path) as part:
            part.write_text('half')
            raise error
        assert path.read_text() == 'old'
        assert os.listdir(tmp_path) == ['a.txt']

    @pytest.mark.parametrize('broken', [False, True])
    @needs_posix
    def test_a_link_is_replaced_not_followed(
        self, tmp_path: Path, broken: bool
    ) -> None:
        other = tmp_path / 'other.txt'
        if not broken:
            other.write_text('theirs')
        path = tmp_path / 'a.txt'
        path.symlink_to(other)
        write_text(path, 'ours')
        assert not path.is_symlink()
        assert path.read_text() == 'ours'
        assert other.exists() is not broken
        assert broken or other.read_text() == 'theirs'

    def test_a_second_name_of_the_file_keeps_its_content(self, tmp_path: Path) -> None:
        path = write_text(tmp_path / 'a.txt', 'old')
        os.link(path, tmp_path / 'b.txt')
        write_text(path, 'new')
        assert (tmp_path / 'b.txt').read_text() == 'old'

    @needs_posix
    def test_permissions_are_those_of_new_files(
        self, tmp_path: Path, umask: int
    ) -> None:
        path = write_text(tmp_path / 'a.txt', 'x')
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError, match='expected the name of a file'):
            write_text(tmp_path, 'x')

    @pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
    @pytest.mark.parametrize('linked', [False, True])
    def test_a_pipe_is_refused(self, linked: bool, tmp_path: Path) -> None:
        pipe = path = tmp_path / 'pipe'
        os.mkfifo(pipe)
        if linked:
            path = tmp_path / 'link'
            path.symlink_to(pipe)
        before = path.lstat()
        with pytest.raises(OSError, match=f'a device or a pipe, expected.*{path.name}'):
            write_text(path, 'x')
        assert path.lstat().st_ino == before.st_ino
        assert len(os.listdir(tmp_path)) == 1 + linked

    @pytest.mark.parametrize('name', ['null', 'stdout'])
    @needs_posix
    def test_devices_are_refused_also_behind_redirected_links(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_files, '_DEVICES', tmp_path)
        (tmp_path / 'redirected').write_text('theirs')
        (tmp_path / name).symlink_to('redirected')
        with pytest.raises(OSError, match='a device or a pipe'):
            check_output_file(tmp_path / name)
        with pytest.raises(OSError, match='a device or a pipe'):
            write_text(tmp_path / name, 'x')
        assert sorted(os.listdir(tmp_path)) == sorted([name, 'redirected'])

    def test_a_full_disk_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'
        with (
            pytest.raises(
                OSError, match=r'a\.txt could.*No space left.* MB are free'
            ) as caught,
            replaced(path),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize('call', ['fsync', 'replace', 'open'])
    @pytest.mark.parametrize('number', [errno.EIO, errno.EROFS, errno.EACCES])
    def test_errors_of_the_disk_name_the_file(
        self, call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any) -> None:
            names = {'replace': [str(args[0]), None, str(args[-1])], 'open': [args[0]]}
            raise OSError(number, os.strerror(number), *names.get(call, []))

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError, match='could not be written') as caught:
            write_text(tmp_path / 'a.txt', 'x')
        monkeypatch.undo()
        assert caught.value.filename == str(tmp_path / 'a.txt')
        assert caught.value.errno == number
        assert 'part' not in str(caught.value)
        assert os.listdir(tmp_path) == []

    def test_errors_of_other_files_are_theirs(self, tmp_path: Path) -> None:
        with (
            pytest.raises(FileNotFoundError, match='source'),
            replaced(tmp_path / 'a.txt') as part,
        ):
            shutil.copy(tmp_path / 'source', part)


class TestMove:
    @pytest.fixture(autouse=True)
    def on_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_files, 'WINDOWS', True)
        monkeypatch.setattr(_files, '_WAITS', (0.0, 0.0))

    @pytest.mark.parametrize('times', [1, 2])
    def test_a_file_that_is_open_for_a_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
    ) -> None:
        replace, refusals = os.replace, ['in use'] * times

        def refuse(*paths: Path) -> None:
            if refusals:
                raise PermissionError(errno.EACCES, refusals.pop())
            replace(*paths)

        monkeypatch.setattr(os, 'replace', refuse)
        assert write_text(tmp_path / 'a.txt', 'new').read_text() == 'new'
        assert os.listdir(tmp_path) == ['a.txt']

    @pytest.mark.usefixtures('windows_files')
    def test_a_file_that_stays_open_is_named(self, tmp_path: Path) -> None:
        path = write_text(tmp_path / 'a.txt', 'old')
        with (
            path.open() as file,
            pytest.raises(PermissionError, match=r'could not be replaced .* close it'),
        ):
            assert file.read() == 'old'
            write_text(path, 'new')
        assert path.read_text() == 'old'
        assert os.listdir(tmp_path) == ['a.txt']


class TestWritten:
    def test_arguments_are_quoted_as_the_prompt_reads_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert as_argument('a b.yaml') == "'a b.yaml'"
        monkeypatch.setattr(_files, 'WINDOWS', True)
        assert as_argument('my runs\\best.ckpt') == '"my runs\\best.ckpt"'
        assert as_argument('runs\\a\\best.ckpt') == 'runs\\a\\best.ckpt'

    def test_relative_to_another_drive(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert relative_path(tmp_path / 'a' / 'b', tmp_path) == 'a/b'
        monkeypatch.setattr(os.path, 'relpath', ntpath.relpath)
        with pytest.raises(ValueError, match='mount'):
            os.path.relpath('C:/a', 'D:/b')
        monkeypatch.setattr(
            os.path, 'relpath', lambda path, start: ntpath.relpath('C:/a', 'D:/b')
        )
        assert relative_path(tmp_path) == tmp_path.as_posix()


class TestWriteJson:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = write_json(tmp_path / 'a.json', {'ä': [1, None]})
        assert json.loads(path.read_text(encoding='utf-8')) == {'ä': [1, None]}

    @pytest.mark.parametrize('value', [float('nan'), float('inf')])
    def test_what_json_cannot_write_leaves_nothing(
        self, tmp_path: Path, value: float
    ) -> None:
        with pytest.raises(ValueError, match='JSON'):
            write_json(tmp_path / 'a.json', [value])
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('algorithm', ['sha256', 'md5', 'sha1'])
def test_file_digest(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / 'a'
    path.write_bytes(b'abc')
    assert (
        file_digest(path, algorithm)
        == hashlib.new(algorithm, b'abc', usedforsecurity=False).hexdigest()
    )


class TestChecks:
    def test_free_space(self, tmp_path: Path) -> None:
        check_free_space(tmp_path, 1, 'a file')
        with pytest.raises(OSError, match='not enough room for the map') as caught:
            check_free_space(tmp_path, 1 << 60, 'the map')
        assert caught.value.errno == errno.ENOSPC

    def test_writable_makes_the_folder_and_leaves_nothing(self, tmp_path: Path) -> None:
        check_writable(tmp_path / 'a' / 'b')
        assert os.listdir(tmp_path / 'a' / 'b') == []

    def test_a_signal_leaves_no_probe(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = Path.write_bytes

        def stopped(self: Path, data: bytes) -> int:
            written(self, data)
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, 'write_bytes', stopped)
        with pytest.raises(KeyboardInterrupt):
            check_writable(tmp_path)
        assert os.listdir(tmp_path) == []

    def test_home_in_a_path(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv('HOME', str(tmp_path))
        assert at_home('~/maps') == tmp_path / 'maps'
        assert ClassificationMap(output='~/maps').output == str(tmp_path / 'maps')
        options = repeat_parser().parse_args(['--config=a', '--out=~/maps'])
        assert options.out == tmp_path / 'maps'
        with pytest.raises(SystemExit):
            repeat_parser().parse_args(['--config=a', '--out', ''])
        assert '--out: expected a path, found nothing' in capsys.readouterr().err

    @needs_posix
    def test_a_path_that_is_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r'no UTF-8.*Gel.udce4nde'):
            check_writable(tmp_path / os.fsdecode(b'Gel\xe4nde'))
        assert os.listdir(tmp_path) == []

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        write_text(tmp_path / 'a', 'x')
        with pytest.raises(NotADirectoryError, match='a file has its name'):
            check_writable(tmp_path / 'a' / 'b')
