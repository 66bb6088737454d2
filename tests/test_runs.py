# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from tests.processes import needs_posix
from torchgeo_ekgnet._files import write_json
from torchgeo_ekgnet._runs import (
    CLAIMS_FILE,
    RUN_FILE,
    SCENE_FILE,
    Subject,
    checkpoint_of,
    claim_outputs,
    claim_scene_folder,
    create_version,
    holds_no_more,
    newest_checkpoint,
    read_result,
    run_of_checkpoint,
    scene_folder,
)


def test_versions_are_numbers() -> None:
    names = [Path(f'runs/x/version_{n}/checkpoints/best.ckpt') for n in (9, 10)]
    assert [run_of_checkpoint(name).name for name in names] == [
        'version_9',
        'version_10',
    ]


@pytest.mark.parametrize(
    'text', ['[' * 100_000, '{"scene":', '[1]', '\xff', '1' * 5000]
)
def test_results_that_cannot_be_read_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / 'test.json'
    path.write_text(text, encoding='latin-1')
    # What is collected where the stack is full cannot be finalized.
    gc.disable()
    try:
        assert read_result(path) == {}
    finally:
        gc.enable()
    told = 'test.json cannot be read and is left out' in caplog.text
    assert told == (text != '[1]')


def test_newest_run_is_the_highest_version(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for number in (2, 9, 10):
        path = tmp_path / f'version_{number}' / 'checkpoints' / 'best.ckpt'
        path.parent.mkdir(parents=True)
        path.touch()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.parents[1].name == 'version_10'
    # A configuration that watches no score keeps the last weights alone.
    only_last = tmp_path / 'version_11' / 'checkpoints' / 'last.ckpt'
    only_last.parent.mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == newest
    # What a process that was killed had not finished is no checkpoint.
    (only_last.parent / '.0123.part.ckpt').touch()
    assert newest_checkpoint(tmp_path) == newest
    only_last.touch()
    assert newest_checkpoint(tmp_path) == only_last
    only_last.with_name('best.ckpt').touch()
    assert newest_checkpoint(tmp_path) == only_last.with_name('best.ckpt')


def test_moved_checkpoint_is_its_own_run(tmp_path: Path) -> None:
    assert run_of_checkpoint(tmp_path / 'model.ckpt') == tmp_path


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [
        (Subject('a', 'x'), Subject('a', 'x'), True),
        (Subject('a', 'x'), Subject('b', 'x'), True),
        (Subject('a', 'x'), Subject('a', 'y'), False),
        (Subject('a', 'x'), Subject('a'), True),
        (Subject('a'), Subject('b'), False),
        (Subject(), Subject('b', 'y'), True),
    ],
)
def test_scenes_are_known_by_their_values(
    one: Subject, other: Subject, same: bool
) -> None:
    assert one.same_scene(other) is same
    assert other.same_scene(one) is same


def test_a_result_file_says_what_it_is_of() -> None:
    content = {
        'scene': 'a',
        'cube': 'c0ffee',
        'split': {'identity': 'cafe'},
        'checkpoint': 'best.ckpt',
        'checkpoint_digest': 'f00d',
        'more': 1,
    }
    subject = Subject.of(content)
    assert subject == Subject('a', 'c0ffee', 'cafe', 'best.ckpt', 'f00d')
    assert Subject.of(subject.to_dict()) == subject
    text = 'scene a (c0ffee), checkpoint best.ckpt (f00d), split cafe'
    assert str(subject) == text


@pytest.mark.parametrize(
    ('name', 'folder'),
    [
        ('b', 'b'),
        ('../../etc', 'etc'),
        ('a b/c', 'a_b_c'),
        ('..', 'scene'),
        ('Žďár', 'Žďár'),
        ('x' * 100, 'x' * 80),
    ],
)
def test_scene_folders_are_plain(tmp_path: Path, name: str, folder: str) -> None:
    assert scene_folder(tmp_path, Subject(name, 'x' * 64)) == tmp_path / folder


def test_scenes_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    one, other = Subject('b', 'x' * 64), Subject('b', 'y' * 64)
    first = scene_folder(tmp_path, one)
    claim_scene_folder(first, one)
    second = scene_folder(tmp_path, other)
    claim_scene_folder(second, other)
    assert first.name == 'b' and second.name == 'b-yyyyyyyy'
    assert scene_folder(tmp_path, one) == first
    assert scene_folder(tmp_path, other) == second


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    write_json(tmp_path / 'scene.json', {'scene': 'b', 'cube': 'x'})
    claim_scene_folder(tmp_path, Subject('b', 'y'))
    assert scene_folder(tmp_path.parent, Subject(tmp_path.name, 'y')) != tmp_path


@needs_posix
def test_files_of_others_are_not_claimed(tmp_path: Path) -> None:
    folder = tmp_path / 'new'
    claim_outputs(str(folder), ['report.html'])
    (folder / 'report.html').write_text('ours')
    claim_outputs(folder, ['report.html', 'map.tif'])
    (folder / 'results.csv').write_text('mine')
    (folder / 'link.csv').symlink_to('nowhere')
    for name in ('results.csv', 'link.csv'):
        # Twice: what was refused is not taken for ours the next time.
        for _ in range(2):
            with pytest.raises(FileExistsError, match='has not written here') as error:
                claim_outputs(folder, ['report.html', name, 'more.csv'])
            assert error.value.filename == str(folder / name)


@needs_posix
def test_a_list_of_claims_that_is_none(tmp_path: Path) -> None:
    """It is not written through a link, not waited for, and may hold any bytes."""
    (tmp_path / 'diary').write_text('mine')
    (tmp_path / CLAIMS_FILE).symlink_to('diary')
    claim_outputs(tmp_path, ['test.json'])
    assert (tmp_path / 'diary').read_text() == 'mine'
    assert (tmp_path / CLAIMS_FILE).read_text() == 'test.json\n'
    (tmp_path / CLAIMS_FILE).write_bytes(b'\xff\ntest.json\n')
    (tmp_path / 'test.json').touch()
    claim_outputs(tmp_path, ['test.json'])
    (tmp_path / CLAIMS_FILE).unlink()
    os.mkfifo(tmp_path / CLAIMS_FILE)
    with pytest.raises(OSError, match='found a device or a pipe'):
        claim_outputs(tmp_path, ['test.json'])


def test_a_list_of_claims_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(self: Path, mode: str = 'r', **options: Any) -> Any:
        if mode == 'a':
            raise OSError(errno.ENOSPC, 'No space left on device')
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, 'open', full)
    with pytest.raises(OSError, match='are free on this disk') as error:
        claim_outputs(tmp_path, ['test.json'])
    assert error.value.filename == str(tmp_path / CLAIMS_FILE)


def test_files_of_a_run_are_ours_and_folders_are_not(tmp_path: Path) -> None:
    for name, content in ((RUN_FILE, {'started_in': '/'}), (SCENE_FILE, {'cube': '1'})):
        folder = tmp_path / name.removesuffix('.json')
        write_json(folder / name, content)
        (folder / 'test.json').write_text('{}')
        claim_outputs(folder, ['test.json'])
        assert not (folder / CLAIMS_FILE).exists()
        (folder / 'map.tif').mkdir()
        with pytest.raises(IsADirectoryError, match='expected the name of a file'):
            claim_outputs(folder, ['test.json', 'map.tif'])


def test_one_checkpoint_of_another_name_counts(tmp_path: Path) -> None:
    folder = tmp_path / 'checkpoints'
    assert checkpoint_of(tmp_path) is None
    folder.mkdir()
    for name in ('a.ckpt', '.0123.part.ckpt', 'notes.txt'):
        (folder / name).touch()
    assert checkpoint_of(tmp_path) == folder / 'a.ckpt'
    (folder / 'b.ckpt').touch()
    assert checkpoint_of(tmp_path) is None
    (folder / 'last.ckpt').touch()
    assert checkpoint_of(tmp_path) == folder / 'last.ckpt'


def test_new_versions_follow_the_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / 'runs' / 'x'
    assert [create_version(runs).name for _ in range(2)] == ['version_0', 'version_1']
    (runs / 'version_10').mkdir()
    (runs / 'version_best').mkdir()
    assert create_version(runs) == runs / 'version_11'
    (runs / 'version_2').touch()
    with monkeypatch.context() as patch:
        # Another process has made them after this one had looked.
        patch.setattr(Path, 'glob', lambda *_: iter(()))
        assert create_version(runs) == runs / 'version_3'
    named = tmp_path / 'named'
    (named / 'version_best').mkdir(parents=True)
    assert create_version(named).name == 'version_0'


def test_folders_without_a_number_are_the_oldest(tmp_path: Path) -> None:
    for name in ('version_best', 'version_0', 'version_z'):
        path = tmp_path / name / 'checkpoints' / 'best.ckpt'
        path.parent.mkdir(parents=True)
        path.touch()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.parents[1].name == 'version_0'


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [('x', 'x', True), ('x', 'y', False), ('x', None, True), (None, None, True)],
)
def test_checkpoints_are_known_by_their_bytes(
    one: str | None, other: str | None, same: bool
) -> None:
    mine = Subject(checkpoint='best.ckpt', checkpoint_digest=one)
    theirs = Subject(checkpoint='last.ckpt', checkpoint_digest=other)
    assert mine.same_checkpoint(theirs) is same
    assert theirs.same_checkpoint(mine) is same


def test_what_is_not_known_is_not_named() -> None:
    assert Subject.of({'scene': 7}) == Subject('7')
    assert str(Subject('a')) == 'scene a'
    assert str(Subject('a', 'c0ffee' * 4)) == 'scene a (c0ffeec0ffee)'
    assert str(Subject(split='cafe' * 8)) == 'split cafecafecafe'
    assert str(Subject()) == 'an unknown scene'


def test_a_folder_that_holds_no_more(tmp_path: Path) -> None:
    for name in ('test.json', SCENE_FILE, CLAIMS_FILE, 'logs/test.json'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert holds_no_more(tmp_path, ['test.json'])
    assert not holds_no_more(tmp_path, [])
    (tmp_path / 'logs' / 'thesis.txt').touch()
    assert not holds_no_more(tmp_path, ['test.json'])
