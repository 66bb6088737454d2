# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from torchgeo_ekgnet.maps.journal import FolderLock, Journal, JournalWriter, Layout

SETTINGS = {'weights': 'abc'}


def _results(layout: Layout, pixels: int, seed: int) -> Any:
    values = np.random.default_rng(seed).random((pixels, layout.num_classes))
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def _fill(folder: Path, attempt: int, rank: int, batches: list[int]) -> Path:
    layout = Layout(3)
    journal = Journal(folder, SETTINGS)
    with contextlib.closing(journal.open_writer(attempt, rank)) as writer:
        for batch in batches:
            writer.append(batch, layout.pack(_results(layout, 4 + batch, batch)))
    return writer.path


@pytest.mark.parametrize('entropy', [False, True])
@pytest.mark.parametrize('probabilities', [False, True])
def test_layout(entropy: bool, probabilities: bool) -> None:
    layout = Layout(5, entropy, probabilities)
    values = _results(layout, 6, 0)
    values[0] = (0, 1, 0, 0, 0)
    records = layout.pack(values)
    assert records['label'].tolist() == (values.argmax(1) + 1).tolist()
    assert np.array_equal(records['confidence'], values.max(1))
    assert ('entropy' in (records.dtype.names or ())) == entropy
    if entropy:
        assert records['entropy'][0] == 0
        expected = -(values[1:] * np.log(values[1:])).sum(1)
        assert np.allclose(records['entropy'][1:], expected)
    if probabilities:
        assert np.array_equal(records['probabilities'], values)


def test_layout_refuses_what_is_no_result() -> None:
    with pytest.raises(ValueError, match=r'shape \(2, 4\), expected \(pixels, 3\)'):
        Layout(3).pack(np.ones((2, 4), np.float32))
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match='NaN or infinite'):
            Layout(1).pack(np.full((2, 1), value, np.float32))


def test_what_nothing_has_classified_is_no_number() -> None:
    empty = Layout(3, entropy=True, probabilities=True).empty(2, 4)
    assert empty.shape == (2, 4) and not empty['label'].any()
    for name in ('confidence', 'entropy', 'probabilities'):
        assert np.isnan(empty[name]).all()


def test_results_of_several_processes(tmp_path: Path) -> None:
    _fill(tmp_path, 0, 0, [0, 2])
    _fill(tmp_path, 0, 1, [1, 2])
    journal = Journal(tmp_path, SETTINGS)
    journal.read()
    assert journal.batches == {0, 1, 2}
    assert journal.pixels() == 4 + 5 + 6
    assert journal.next_attempt() == 1
    layout = Layout(3)
    for batch in range(3):
        expected = layout.pack(_results(layout, 4 + batch, batch))
        assert (journal.results(layout, batch) == expected).all()
    journal.discard()
    assert not list(tmp_path.iterdir())


def test_every_cut_leaves_whole_records_only(tmp_path: Path) -> None:
    path = _fill(tmp_path, 0, 0, [0, 1, 2])
    whole = path.read_bytes()
    seen = set()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        journal = Journal(tmp_path, SETTINGS)
        journal.read()
        done = sorted(journal.batches)
        assert done == list(range(len(done)))
        seen.add(len(done))
    assert seen == {0, 1, 2}


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = _fill(tmp_path, 0, 0, [0, 1])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    journal = Journal(tmp_path, SETTINGS)
    journal.read()
    assert journal.batches == {0}


@pytest.mark.usefixtures('windows_files')
def test_a_file_is_written_once(tmp_path: Path) -> None:
    path = _fill(tmp_path, 0, 0, [0])
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        Journal(tmp_path, SETTINGS).open_writer(0, 0)
    assert path.read_bytes() == before


def test_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    _fill(tmp_path, 0, 0, [0])
    other = Journal(tmp_path, {'weights': 'xyz'})
    other.read()
    assert other.batches == set()
    assert list(tmp_path.iterdir())
    other.read(discard_others=True)
    assert not list(tmp_path.iterdir())


def test_order_of_settings_makes_no_difference(tmp_path: Path) -> None:
    one = Journal(tmp_path, {'a': 1, 'b': {'c': 2, 'd': 3}})
    assert one.identity == Journal(tmp_path, {'b': {'d': 3, 'c': 2}, 'a': 1}).identity


def test_zeros_that_a_lost_power_supply_leaves_are_no_batch(tmp_path: Path) -> None:
    path = _fill(tmp_path, 0, 0, [3])
    with path.open('ab') as file:
        file.write(bytes(4096))
    journal = Journal(tmp_path, SETTINGS)
    journal.read()
    assert journal.batches == {3}


def test_files_that_come_and_go(tmp_path: Path) -> None:
    paths = [_fill(tmp_path, attempt, 0, [attempt]) for attempt in (0, 3)]
    journal = Journal(tmp_path, SETTINGS)
    assert journal.next_attempt() == 4
    journal.read()
    assert journal.batches == {0, 3}
    paths[0].unlink()
    journal.read()
    assert journal.batches == {3}
    journal.discard()
    assert journal.batches == set() and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('diary.journal', b'EKGMAP01'),
        ('0000-0000.journal', b'Dear diary'),
        ('0001-0000.journal', b'EKGMAP00 and more'),
    ],
)
def test_files_of_others_are_neither_read_nor_deleted(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    _fill(tmp_path, Journal(tmp_path, SETTINGS).next_attempt(), 0, [0])
    journal = Journal(tmp_path, {'weights': 'xyz'})
    journal.read(discard_others=True)
    journal.discard()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == content


def test_a_file_cut_short_in_its_first_bytes_is_discarded(tmp_path: Path) -> None:
    (tmp_path / '0000-0000.journal').write_bytes(b'EKG')
    Journal(tmp_path, SETTINGS).read(discard_others=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_keeps_what_is_whole(number: int, tmp_path: Path) -> None:
    layout = Layout(3)
    journal = Journal(tmp_path, SETTINGS)
    writer = journal.open_writer(0, 0)
    writer.append(0, layout.pack(_results(layout, 5, 0)))
    real: Any = writer._file

    class Full:
        """A disk that takes ten bytes, then none."""

        taken = False

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def write(self, data: memoryview) -> int:
            if self.taken:
                raise OSError(number, os.strerror(number))
            self.taken = True
            return int(real.write(data[:10]))

    writer._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match='the disk is full; what has been') as info:
        writer.append(1, layout.pack(_results(layout, 5, 1)))
    assert info.value.errno == errno.ENOSPC
    writer._file = real
    writer.append(2, layout.pack(_results(layout, 5, 2)))
    writer.close()
    journal.read()
    assert journal.batches == {0, 2}


@pytest.mark.skipif(os.name != 'posix', reason='locks of POSIX')
def test_lock(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    first.acquire()
    for _ in range(2):
        with pytest.raises(BlockingIOError, match='another process is writing'):
            second.acquire()
    first.release()
    second.acquire()
    second.release()
    second.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('windows_files')
def test_lock_whose_file_is_deleted_when_it_is_freed(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    for _ in range(2):
        lock.acquire()
        lock.release()


def test_lock_of_a_process_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / 'lock').touch()
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: FileLock) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(FileLock, 'acquire', unknown)
    for _ in range(2):
        lock = FolderLock(tmp_path)
        lock.acquire()
        lock.release()
    assert not list(tmp_path.iterdir())


def test_closed_writer(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / 'a.journal', '{}')
    writer.close()
    with pytest.raises(ValueError, match='is closed'):
        writer.append(0, Layout(2).pack(np.ones((1, 2), np.float32)))


def test_a_lock_that_may_not_be_opened_is_no_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, 'Permission denied')

    lock = FolderLock(tmp_path)
    monkeypatch.setattr(lock._lock, 'acquire', refuse)
    with pytest.raises(PermissionError, match='lock of another user'):
        lock.acquire()
