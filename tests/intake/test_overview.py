# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What is told of a scene before training."""

import logging
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from torchgeo_ekgnet.cli import UsageError
from torchgeo_ekgnet.datasets import HyperspectralScene
from torchgeo_ekgnet.intake import Overview
from torchgeo_ekgnet.intake.inspect import main
from torchgeo_ekgnet.maps import Page

from .conftest import VALUES, own_cube, own_labels


@pytest.fixture
def overview() -> Overview:
    return Overview(HyperspectralScene(own_cube(), own_labels(), name='fields'), 3)


def test_statistics_are_those_of_valid_pixels() -> None:
    cube = own_cube()
    cube[:2] = -1
    scene = HyperspectralScene(cube, own_labels(), nodata=-1)
    seen = Overview(scene).statistics
    inside = cube[2:].reshape(-1, cube.shape[2]).astype(np.float32)
    np.testing.assert_allclose(seen.low, inside.min(axis=0))
    np.testing.assert_allclose(seen.high, inside.max(axis=0))
    np.testing.assert_allclose(seen.mean, inside.mean(axis=0), rtol=1e-5)


def test_class_table_counts_training_pixels(overview: Overview) -> None:
    head, rows = overview.class_table()
    assert head[:3] == ['class', 'value', 'pixels']
    assert [row[1] for row in rows] == list(VALUES)
    counts = [int((own_labels() == value).sum()) for value in VALUES]
    assert [row[2] for row in rows] == counts
    shares = [f'{100 * count / sum(counts):.1f}' for count in counts]
    assert [row[3] for row in rows] == shares
    random = next(item for item in overview.previews if item.name == 'random')
    assert random.split is not None
    column = head.index('training, random')
    assert sum(int(str(row[column])) for row in rows) == random.split.train.size


def test_splits_are_judged_by_the_patch(overview: Overview) -> None:
    shares = {item.name: (item.contains, item.shares) for item in overview.previews}
    assert sum(shares['disjoint']) == 0
    assert min(shares['random']) > 0.9


def test_split_that_cannot_be_drawn_is_explained() -> None:
    labels = np.zeros((30, 36), dtype=np.uint8)
    labels[3:5, 3:5] = 1
    labels[20, 20] = 12
    labels[25, 3:12], labels[27, 3:13] = 3, 4
    scene = HyperspectralScene(own_cube(), labels)
    text = Overview(scene).text()
    assert 'disjoint: cannot be drawn' in text
    assert 'class 12: 1 pixels' in text  # as the label file calls it
    few = 'fewer than 10 labelled pixels: class 1 (4), class 3 (9), class 12 (1)\n'
    assert few in text


def test_odd_things_are_said() -> None:
    cube = own_cube()
    cube[..., 3] = 5
    labels = own_labels()
    labels[labels == 0] = 7
    labels[:, 8:] = 7
    place = Affine(10, 0, 0, 0, -20, 0)
    scene = HyperspectralScene(cube, labels, bands=[1, 3, 6], transform=place)
    overview = Overview(scene)
    remarks = ' '.join(overview.remarks)
    assert '1 bands hold one value only (counted from 0: 3)' in remarks
    assert overview.facts()['bands left out'] == '4 (counted from 0: 0, 2, 4, 5)'
    assert overview.facts()['pixel'].startswith('10 x 20 ')
    assert 'add 7 to --data.unlabelled' in remarks
    labels[:, :8] = 3  # 22 % of the scene
    remarks = ' '.join(Overview(HyperspectralScene(cube, labels)).remarks)
    assert 'unlabelled' not in remarks


def test_scene_without_labels(
    mat_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(mat_files[0])])
    assert 'none: the scene can be mapped' in capsys.readouterr().out
    page = Path('fields.html').read_text(encoding='utf-8')
    assert 'Splits' not in page


def test_command_writes_text_and_page(
    mat_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for size, expected in ((0, 'a positive'), (4, 'a positive'), (31, 'at most 29')):
        with pytest.raises(ValueError, match=f'patch_size is {size}, .*{expected}'):
            main([*map(str, mat_files), '--patch_size', str(size)])
    main([*map(str, mat_files), '--patch_size', '3'])
    printed = capsys.readouterr().out
    for text in ('30 x 36 pixels, 8 bands', 'class 9', 'disjoint', 'page: fields.html'):
        assert text in printed
    page = Path('fields.html').read_text(encoding='utf-8')
    assert page.count('<img src="data:image/png;base64,') == 3
    for text in ('<script', 'src="http', 'href="http', '@import', 'url('):
        assert text not in page


def test_configuration_is_inspected(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    main(['quickstart', '--no_page'])
    printed = capsys.readouterr().out
    assert 'SYNTHETIC' in printed
    assert 'random (configured)' in printed
    assert list(tmp_path.iterdir()) == []
    # What fit logs of classes and split would be said a second time.
    assert 'labelled' not in caplog.text and 'random split' not in caplog.text
    with pytest.raises(FileNotFoundError, match="mean 'quickstart'"):
        main(['quickstar', '--no_page'])


def test_configurations_are_read_as_fit_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'mine.yaml'
    scene = '  init_args: {rows: 20, cols: 20, num_bands: 8, num_classes: 3}\n'
    path.write_text(f'data:\n  class_path: SyntheticSceneDataModule\n{scene}')
    main([str(path), '--no_page'])
    assert '20 x 20 pixels, 8 bands' in capsys.readouterr().out
    for text, message in (
        ('data: [', r'mine\.yaml'),
        (f'data:\n  class_path: SyntheticSceneDataModul\n{scene}', 'SceneDataModul'),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message) as caught:
            main([str(path), '--no_page'])
        assert '\n' not in str(caught.value)


def test_page_of_others_is_not_replaced(
    mat_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path('fields.html').write_text('mine')
    with pytest.raises(FileExistsError, match=r'fields\.html'):
        main([*map(str, mat_files)])
    assert Path('fields.html').read_text() == 'mine'
    assert not capsys.readouterr().out
    # Files of the scene, in whichever way they are named, have another ending.
    before = mat_files[0].read_bytes()
    with pytest.raises(ValueError, match=r"ending '\.mat', expected \.html or \.htm"):
        main(['.', '--output', str(mat_files[0])])
    assert mat_files[0].read_bytes() == before
    main([*map(str, mat_files), '--no_page'])
    for _ in range(2):
        main([*map(str, mat_files), '--output', 'fields.html'])
    main([*map(str, mat_files)])
    assert Page.wrote('fields.html')
