# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the boundary to libraries that read files."""

import zlib
from pathlib import Path

import pytest
import rasterio

from torchgeo_ekgnet import _reading
from torchgeo_ekgnet._reading import FileError, check_memory, reading, require_file


@pytest.mark.parametrize(
    'error',
    [
        zlib.error('incorrect header check'),
        KeyError('name'),
        UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'invalid start byte'),
        OverflowError('too\nlarge'),
        RecursionError(),
        MemoryError('2 TiB'),
        AssertionError('x' * 5000),
    ],
)
def test_whatever_is_raised_becomes_one_line(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / 'a.bin'
    path.write_bytes(bytes(7))
    with (
        pytest.raises(FileError, match=r'a.bin \(7 bytes\) cannot be read') as caught,
        reading(path, 'a test file'),
    ):
        raise error
    text = str(caught.value)
    assert 'found' in text and 'expected' in text
    assert '\n' not in text and len(text) < 800
    assert caught.value.__cause__ is error


def test_name_that_is_no_text() -> None:
    with (
        pytest.raises(FileError, match=r'in its path that are no UTF-8.*rename it'),
        reading('\udcff.tif', 'a raster'),
    ):
        rasterio.open('\udcff.tif')


def test_own_errors_and_interrupts_pass() -> None:
    own = FileError('ours')
    for error in (own, KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, reading('a.bin', 'a test file'):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ('name', 'content', 'match'),
    [
        ('a.mat', b'<!DOCTYPE html><title>404', 'it is a web page'),
        ('a.mat', b'\n <HTML>', 'it is a web page'),
        ('a.tif', b'version https://git-lfs.github.com/spec/v1', 'git lfs pull'),
        ('a.tif', b'PK\x03\x04', 'it is a ZIP archive'),
        ('a.hdf', b'\x1f\x8b\x08', 'compressed by gzip'),
        ('a.npy', b'\x80\x02cnumpy', 'a Python pickle'),
        ('a.img', b'abc', r'needs its header \(.hdr\) beside it'),
        ('a.tif', b'abc', 'it is truncated, damaged or of another format'),
        ('absent', None, 'it is truncated, damaged or of another format'),
    ],
)
def test_what_a_file_seems_to_be(
    tmp_path: Path, name: str, content: bytes | None, match: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=match), reading(tmp_path / name, 'a test file'):
        raise IndexError('out of range')


@pytest.mark.parametrize('error', [PermissionError(13, 'denied'), OSError('GDAL')])
def test_a_file_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / 'a.tif').write_bytes(b'abc')
    if not isinstance(error, PermissionError):  # libraries raise errors of their own
        monkeypatch.setattr('os.access', lambda path, mode: False)
    match = (
        r'a\.tif cannot be read as a raster: found that its permissions forbid it \('
    )
    with pytest.raises(FileError, match=match), reading(tmp_path / 'a.tif', 'a raster'):
        raise error


def test_missing_library() -> None:
    with (
        pytest.raises(FileError, match='a library is missing'),
        reading('a.parquet', 'a table'),
    ):
        raise ImportError('no pyarrow')


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reading, '_free_memory', lambda: 1000)
    check_memory(1000, 'a.npz', 'cube')
    with pytest.raises(FileError, match=r'a.npz: cube needs .* check_memory=False'):
        check_memory(1001, 'a.npz', 'cube')
    monkeypatch.setattr(_reading, '_free_memory', lambda: None)
    check_memory(1 << 60, 'a.npz', 'cube')


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='cube: there is no file'):
        require_file(tmp_path / 'absent', 'cube')
    for name in ('https://example.org/a.tif', '/vsizip/a.zip/a.tif', 's3://a/b.tif'):
        with pytest.raises(FileNotFoundError, match='are not read: download or unpack'):
            require_file(name)
    with pytest.raises(FileNotFoundError, match='is a folder, expected a file'):
        require_file(tmp_path, 'cube')
