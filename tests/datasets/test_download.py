# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the download, against a server on this machine."""

import errno
import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import requests
from filelock import FileLock

from tests.data.public_scenes import data
from tests.processes import needs_posix
from torchgeo_ekgnet._files import file_digest
from torchgeo_ekgnet.datasets import SalinasA, download
from torchgeo_ekgnet.datasets.download import (
    DownloadError,
    SceneFile,
    download_file,
    git_blob_id,
)

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


#: What hosts say of the right content.
HEADERS = {
    'nothing': {},
    'word': {'Content-Length': 'many'},
    'blank': {'Content-Length': ''},
    'negative': {'Content-Length': '-1'},
    'range': {'Content-Range': 'bytes */*', 'Content-Type': '\\'},
    'identity': {'Content-Encoding': 'identity', 'Content-Length': str(len(CONTENT))},
}

#: Where hosts send those who ask.
LOCATIONS = {
    'loop': 'loop/cube.bin',
    'file': 'file:///etc/passwd',
    'nonsense': 'http://[::1',
    'port': 'http://127.0.0.1:99999/x',
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves files; some paths misbehave like real hosts do."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        kind, _, name = self.path.lstrip('/').partition('/')
        wanted = self.headers.get('Range')
        self.requests.append((self.path, wanted))
        content = self.files.get(name, CONTENT)
        # Hosts that answer scripts with a page and status 200; one knows ranges.
        if kind in ('page', 'shortpage'):
            content = b'<html>please use a browser</html>'
        if kind == 'forbidden':
            self.send_error(403)
            return
        if kind in HEADERS:
            self.send_response(200)
            for key, value in HEADERS[kind].items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)
            return
        if kind in LOCATIONS:
            self.send_response(302)
            self.send_header('Location', LOCATIONS[kind])
            self.end_headers()
            return
        start = 0
        if kind not in ('noresume', 'page') and wanted is not None:
            start = int(wanted.removeprefix('bytes=').rstrip('-'))
            if start >= len(content):
                self.send_response(416)
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            last = len(content) - 1
            self.send_header('Content-Range', f'bytes {start}-{last}/{len(content)}')
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if kind == 'breaks':
            body = body[: len(body) // 3]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.files = {}
    Handler.requests = []
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        thread = threading.Thread(
            target=running.serve_forever, args=(0.01,), daemon=True
        )
        thread.start()
        yield f'http://127.0.0.1:{running.server_address[1]}'
        running.shutdown()
        thread.join()


def scene_file(server: str, *kinds: str, md5: str | None = MD5) -> SceneFile:
    urls = tuple(f'{server}/{kind}/cube.bin' for kind in kinds)
    return SceneFile('cube.bin', 'cube', urls, md5=md5, manual='ask the owner')


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestDownload:
    def test_first_good_address_wins(self, server: str, tmp_path: Path) -> None:
        file = scene_file(server, 'forbidden', 'page', 'good', 'never')
        path = download_file(file, tmp_path / 'new')
        assert path.read_bytes() == CONTENT
        assert names(path.parent) == ['cube.bin']
        kinds = [request[0].split('/')[1] for request in Handler.requests]
        assert kinds == ['forbidden', 'page', 'good']

    @pytest.mark.usefixtures('windows_files')
    def test_lock_whose_file_is_deleted_when_it_is_freed(
        self, server: str, tmp_path: Path
    ) -> None:
        path = download_file(scene_file(server, 'good'), tmp_path)
        assert path.read_bytes() == CONTENT

    def test_nothing_is_left_when_all_are_wrong(
        self, server: str, tmp_path: Path
    ) -> None:
        with pytest.raises(DownloadError) as info:
            download_file(scene_file(server, 'page', 'forbidden'), tmp_path)
        message = str(info.value)
        assert f'{server}/page/cube.bin: md5 is' in message
        assert f'{server}/forbidden/cube.bin: HTTPError: 403' in message
        assert 'by hand: ask the owner, and save it as' in message
        assert names(tmp_path) == []

    def test_broken_connection_is_continued(self, server: str, tmp_path: Path) -> None:
        with pytest.raises(DownloadError, match=r'connection closed|Incomplete|broken'):
            download_file(scene_file(server, 'breaks'), tmp_path)
        assert names(tmp_path) == ['cube.bin.part']
        have = (tmp_path / 'cube.bin.part').stat().st_size
        assert 0 < have < len(CONTENT)
        path = download_file(scene_file(server, 'good'), tmp_path)
        assert Handler.requests[-1] == ('/good/cube.bin', f'bytes={have}-')
        assert path.read_bytes() == CONTENT
        assert names(tmp_path) == ['cube.bin']

    def test_stopped_by_a_signal_goes_on(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(answer: requests.Response, start: int) -> Iterator[bytes]:
            yield CONTENT[:999]
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(download, '_bounded', stopped)
            download_file(scene_file(server, 'good'), tmp_path)
        assert names(tmp_path) == ['cube.bin.part']
        # As a killed process leaves it.
        (tmp_path / 'cube.bin.part').rename(tmp_path / 'cube.bin.part.new')
        assert download_file(scene_file(server, 'good'), tmp_path).is_file()
        assert [request[1] for request in Handler.requests] == [None, 'bytes=999-']

    @needs_posix
    @pytest.mark.parametrize('name', ['cube.bin', 'cube.bin.part', 'cube.bin.part.new'])
    def test_links_are_not_written_through(
        self, server: str, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / 'mine').write_bytes(CONTENT[:9])
        (tmp_path / name).symlink_to(tmp_path / 'mine')
        path = download_file(scene_file(server, 'good'), tmp_path)
        assert path.read_bytes() == CONTENT and not path.is_symlink()
        assert (tmp_path / 'mine').read_bytes() == CONTENT[:9]

    @pytest.mark.parametrize('name', ['cube.bin', '.'])
    def test_place_is_looked_at_before(
        self, server: str, tmp_path: Path, name: str
    ) -> None:
        root = tmp_path / 'root'
        if name == '.':
            root.write_text('a file')
        else:
            (root / name).mkdir(parents=True)
        with pytest.raises(OSError, match=r'found a folder|a file has its name'):
            download_file(scene_file(server, 'good'), root)
        assert not Handler.requests

    def test_another_address_continues(self, server: str, tmp_path: Path) -> None:
        path = download_file(scene_file(server, 'breaks', 'good'), tmp_path)
        assert path.read_bytes() == CONTENT
        assert Handler.requests[1][1] is not None

    def test_host_that_cannot_resume(self, server: str, tmp_path: Path) -> None:
        (tmp_path / 'cube.bin.part').write_bytes(CONTENT[:999])
        path = download_file(scene_file(server, 'noresume'), tmp_path)
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize('kind', ['page', 'shortpage'])
    @pytest.mark.parametrize('have', [9, 999])
    def test_page_does_not_cost_the_beginning(
        self, server: str, tmp_path: Path, kind: str, have: int
    ) -> None:
        (tmp_path / 'cube.bin.part').write_bytes(CONTENT[:have])
        path = download_file(scene_file(server, kind, 'good'), tmp_path)
        assert path.read_bytes() == CONTENT
        assert Handler.requests[-1] == ('/good/cube.bin', f'bytes={have}-')
        assert names(tmp_path) == ['cube.bin']

    def test_wrong_beginning_is_thrown_away(self, server: str, tmp_path: Path) -> None:
        (tmp_path / 'cube.bin.part').write_bytes(b'wrong' * 10)
        path = download_file(scene_file(server, 'good'), tmp_path)
        assert path.read_bytes() == CONTENT
        assert [request[1] for request in Handler.requests] == ['bytes=50-', None]

    def test_part_that_is_complete(self, server: str, tmp_path: Path) -> None:
        (tmp_path / 'cube.bin.part').write_bytes(CONTENT)
        path = download_file(scene_file(server, 'good'), tmp_path)
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize('kind', HEADERS)
    def test_odd_headers(self, server: str, tmp_path: Path, kind: str) -> None:
        path = download_file(scene_file(server, kind), tmp_path)
        assert path.read_bytes() == CONTENT
        assert names(tmp_path) == ['cube.bin']

    @pytest.mark.parametrize('kind', LOCATIONS)
    def test_odd_places(self, server: str, tmp_path: Path, kind: str) -> None:
        path = download_file(scene_file(server, kind, 'good'), tmp_path)
        assert path.read_bytes() == CONTENT
        with pytest.raises(DownloadError) as failure:
            download_file(scene_file(server, kind), tmp_path / 'other')
        assert '\n' not in str(failure.value)
        assert names(tmp_path / 'other') == []

    def test_content_without_end(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, '_LARGEST', len(CONTENT) // 2)
        monkeypatch.setattr(download, '_CHUNK', 1000)
        with pytest.raises(DownloadError, match=r'more than \d+ bytes came'):
            download_file(scene_file(server, 'nothing'), tmp_path)
        (part,) = tmp_path.iterdir()
        assert part.stat().st_size <= len(CONTENT) // 2

    def test_a_host_that_hardly_sends(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, '_PATIENCE', 0.0)
        monkeypatch.setattr(download, '_SLOWEST', 10**15)
        with pytest.raises(DownloadError, match='a second or more'):
            download_file(scene_file(server, 'good'), tmp_path)

    def test_a_disk_without_room(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = SimpleNamespace(free=10)
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
        with pytest.raises(OSError, match=r'not enough room for cube\.bin'):
            download_file(scene_file(server, 'good', 'never'), tmp_path)
        assert len(Handler.requests) == 1

    def test_a_quota_that_is_reached(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(answer: requests.Response, start: int) -> Iterator[bytes]:
            yield CONTENT[:999]
            raise OSError(errno.EFBIG, 'File too large')

        monkeypatch.setattr(download, '_bounded', full)
        with pytest.raises(OSError, match=r'cube\.bin\.part could not be written'):
            download_file(scene_file(server, 'good', 'never'), tmp_path)
        assert names(tmp_path) == ['cube.bin.part']

    def test_two_at_once_fetch_it_once(self, server: str, tmp_path: Path) -> None:
        file = scene_file(server, 'good')
        with ThreadPoolExecutor(4) as pool:
            paths = list(pool.map(lambda _: download_file(file, tmp_path), range(4)))
        assert {path.read_bytes() for path in paths} == {CONTENT}
        assert len(Handler.requests) == 1
        assert names(tmp_path) == ['cube.bin']

    def test_another_process_that_does_not_end(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, '_LOCK_TIMEOUT', 0.05)
        with (
            FileLock(tmp_path / '.cube.bin.lock'),
            pytest.raises(DownloadError, match='by another process'),
        ):
            download_file(scene_file(server, 'good'), tmp_path)

    def test_a_disk_without_locks(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(self: FileLock) -> None:
            raise OSError(errno.ENOLCK, 'No locks available')

        monkeypatch.setattr(FileLock, 'acquire', unknown)
        path = download_file(scene_file(server, 'good'), tmp_path)
        assert path.read_bytes() == CONTENT
        assert names(tmp_path) == ['cube.bin']

    def test_no_server(self, tmp_path: Path) -> None:
        with pytest.raises(DownloadError, match='ConnectionError'):
            download_file(scene_file('http://127.0.0.1:9', 'good'), tmp_path)

    def test_no_address(self, tmp_path: Path) -> None:
        with pytest.raises(DownloadError, match=r'no address is known.*ask the'):
            download_file(scene_file(''), tmp_path)

    def test_without_checksum_the_content_decides(
        self, server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def check(path: Path) -> str | None:
            return None if path.stat().st_size > 1000 else 'too small'

        download_file(scene_file(server, 'page', 'good', md5=None), tmp_path, check)
        assert 'too small' in caplog.text
        assert 'nobody has published a checksum' in caplog.text


def test_git_blob_is_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / 'hello'
    path.write_bytes(b'hello world\n')
    assert git_blob_id(path) == '3b18e512dba79e4c8300dd08aeb37f8e728b8dad'
    file = SceneFile('hello', '', git_blob='0' * 40)
    assert 'git blob id is 3b18e512' in str(file.mismatch(path))
    assert not SceneFile('hello', '').checkable
    urls = ('http://here/folder/', 'http://here/other')
    full = ('http://here/folder/hello', 'http://here/other')
    assert SceneFile('hello', '', urls).urls == full
    assert SceneFile('hello', '').mismatch(path) is None


class TestSceneDownload:
    @pytest.fixture
    def scene(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        remote = data.make(tmp_path / 'remote', 'SalinasA')
        for attribute in ('cube_file', 'labels_file'):
            old: SceneFile = getattr(SalinasA, attribute)
            path = remote / old.name
            Handler.files[old.name] = path.read_bytes()
            new = SceneFile(
                old.name,
                old.variable,
                (f'{server}/page/{old.name}', f'{server}/good/{old.name}'),
                md5=file_digest(path, 'md5'),
            )
            monkeypatch.setattr(SalinasA, attribute, new)
        return tmp_path / 'local'

    def test_download(self, scene: Path) -> None:
        dataset = SalinasA(scene, download=True, checksum=True)
        assert len(dataset) > 0
        assert names(scene) == ['SalinasA_corrected.mat', 'SalinasA_gt.mat']
        before = len(Handler.requests)
        SalinasA(scene, download=True)
        assert len(Handler.requests) == before

    def test_only_what_is_missing(self, scene: Path) -> None:
        SalinasA(scene, download=True)
        (scene / 'SalinasA_gt.mat').unlink()
        Handler.requests.clear()
        SalinasA(scene, download=True)
        assert {request[0].rsplit('/', 1)[1] for request in Handler.requests} == {
            'SalinasA_gt.mat'
        }

    def test_damaged_file_is_refused(self, scene: Path) -> None:
        SalinasA(scene, download=True)
        with (scene / 'SalinasA_gt.mat').open('ab') as file:
            file.write(b'x')
        with pytest.raises(ValueError, match='delete it and use download=True'):
            SalinasA(scene, download=True, checksum=True)

    def test_without_published_checksum(
        self, scene: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = SalinasA.cube_file
        unknown = SceneFile(known.name, known.variable, known.urls)
        monkeypatch.setattr(SalinasA, 'cube_file', unknown)
        with pytest.raises(DownloadError, match=r'shape is .*the public file has'):
            SalinasA(scene, download=True)
        monkeypatch.setattr(SalinasA, 'stored_shape', data.cube_of('SalinasA').shape)
        assert 'no checksum' in SalinasA(scene, download=True).scene.source
