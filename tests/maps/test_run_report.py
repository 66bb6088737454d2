# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rasterio.crs import CRS
from torch import nn

from torchgeo_ekgnet._files import write_json
from torchgeo_ekgnet._html import DASH
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.maps import Page, write_map, write_run_report
from torchgeo_ekgnet.maps.figure import learning_curves


class Seen(HTMLParser):
    """Tags, links and text of a page; fails on tags that are not closed."""

    VOID = ('meta', 'img', 'br', 'link')

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ''
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ('src', 'href') and value is not None:
                self.links.append(value)
        if tag == 'table':
            self.tables.append([])
        if tag == 'tr':
            self.tables[-1].append([])
        if tag in ('td', 'th'):
            self.tables[-1][-1].append('')
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if 'style' not in self.open:
            self.text += data
        if self.tables and self.tables[-1] and ('td' in self.open or 'th' in self.open):
            self.tables[-1][-1][-1] += data


def _test_json() -> dict[str, Any]:
    confusion = [[40, 2, 0], [1, 30, 3], [0, 0, 24]]
    return {
        'scene': 'tiny',
        'model': 'ekgnet_tiny',
        'parameters': 12345,
        'overall_accuracy': 0.94,
        'average_accuracy': 0.945,
        'kappa': 0.91,
        'per_class': [40 / 42, 30 / 34, None],
        'precision': [0.9, 0.8, 0.7],
        'precision_average': 0.8,
        'counts': [42, 34, 24],
        'confusion_matrix': confusion,
        'class_names': ['Grass', 'Wood & <Bush>', 'Water'],
        'protocol': 'random',
        'overlap': {'contains_training_centre': 0.61, 'shares_training_pixel': 0.99},
        'split': {
            'protocol': 'random',
            'settings': {'train': 0.6, 'seed': 1331},
            'identity': 'cafe',
            'counts': {'train': [9, 8, 7], 'val': [1, 1, 1], 'test': [42, 34, 24]},
            'overlap': {
                'contains_training_centre': 0.61,
                'shares_training_pixel': 0.99,
            },
        },
        'seed': 7,
        'epochs': 3,
        'versions': {'torch': '2.9'},
    }


METRICS = """epoch,step,train_OA,train_loss,val_OA,val_kappa,val_loss
0,9,,,0.5,0.4,1.2
0,9,0.45,1.3,,,
1,19,,,0.6,0.5,1.0
1,19,0.55,1.1,,,
"""


def test_page_stands_alone(tmp_path: Path) -> None:
    page = Page('A <title>', 'below & beyond')
    page.section('First')
    page.paragraph('1 < 2')
    page.table(('name', 'value'), [('a', 1.5), ('b', None)], 'numbers', [(1, 2, 3)])
    page.settings({'list': [1, 2], 'text': 'x'})
    page.code('a: <b>')
    figure = Figure(figsize=(1, 1))
    page.figure(figure, 'a figure')
    page.matrix([[3, 0], [1, 2]], ['x', 'y'])
    page.cards({'OA': '99.00'})
    path = page.write(tmp_path / 'new' / 'page.html')
    seen = Seen(path.read_text(encoding='utf-8'))
    assert 'A <title>' in seen.text and '1 < 2' in seen.text and 'a: <b>' in seen.text
    assert all(link.startswith(('#', 'data:image/png;base64,')) for link in seen.links)
    assert 'http' not in path.read_text(encoding='utf-8')
    assert seen.tables[0] == [['name', 'value'], ['a', '1.5'], ['b', '\u2013']]
    assert seen.tables[2][1:] == [['1 x', '3', '0'], ['2 y', '1', '2']]
    assert [item.name for item in path.parent.iterdir()] == ['page.html']


def test_numbers_are_aligned() -> None:
    page = Page('t')
    page.table(('a', 'b', 'c'), [('x', '1,000', '9.5 ± 0.1'), ('y', None, '3')])
    html = page.render()
    assert html.count('class="number"') == 6


def test_table_of_uneven_rows() -> None:
    with pytest.raises(ValueError, match='a row has 1 cells, the table 2 columns'):
        Page('t').table(('a', 'b'), [(1,)])


def test_failed_write_keeps_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'page.html'
    path.write_text('old')

    def full(handle: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space'):
        Page('t').write(path)
    assert path.read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 1


def test_report_of_a_run(tmp_path: Path) -> None:
    (tmp_path / 'test.json').write_text(json.dumps(_test_json()))
    (tmp_path / 'metrics.csv').write_text(METRICS)
    (tmp_path / 'config.yaml').write_text('seed_everything: 7\n')
    layer = {
        'experts': 2,
        'entropy': 0.6,
        'log_experts': 0.693,
        'class_information': 0.1,
        'mean': [0.3, 0.7],
        'per_class': [[0.5, 0.5], [0.2, 0.8], None],
    }
    use = {'layers': {'stages.0.conv': layer}}
    Figure(figsize=(1, 1)).savefig(tmp_path / 'expert_use.png')
    (tmp_path / 'expert_use.json').write_text(json.dumps(use))
    path = write_run_report(tmp_path)
    assert path == tmp_path / 'report.html'
    text = path.read_text(encoding='utf-8')
    seen = Seen(text)
    headings = re.findall(r'<h2[^>]*>([^<]*)', text)
    assert headings == ['Accuracies', 'Split', 'Learning curves', 'Experts', 'Settings']
    for part in ('94.00', '94.50', '91.00', '61.0 %', '99.0 %', 'seed_everything: 7'):
        assert part in seen.text
    assert sum(link.startswith('data:') for link in seen.links) == 2
    rows = {row[0]: row[1:] for row in seen.tables[0]}
    assert rows['Wood & <Bush>'] == ['34', '88.24', '80.00']
    assert rows['Water'] == ['24', '\u2013', '70.00']
    matrix = seen.tables[1]
    assert matrix[2] == ['2 Wood & <Bush>', '1', '30', '3']
    assert ['all', '24', '3', '100'] in seen.tables[3]
    experts = ['stages.0.conv', '2', '0.866', '0.1443', '0.30, 0.70']
    assert seen.tables[4][1] == experts
    assert seen.tables[5] == [
        ['layer', 'class 1', 'class 2', 'class 3'],
        ['stages.0.conv', '1 (0.50)', '2 (0.80)', '\u2013'],
    ]


def test_report_of_an_empty_run(tmp_path: Path) -> None:
    seen = Seen(write_run_report(tmp_path).read_text(encoding='utf-8'))
    assert tmp_path.name in seen.text
    with pytest.raises(FileNotFoundError, match='there is no run folder'):
        write_run_report(tmp_path / 'none')


def test_damaged_files_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / 'test.json').write_text('{"overall')
    (tmp_path / 'metrics.csv').write_text('epoch,step\n')
    write_run_report(tmp_path)
    assert 'cannot be read' in caplog.text


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('test.json', b'{"confusion_matrix": "x", "class_names": ["a"]}'),
        ('metrics.csv', b'epoch,val_loss\xff\n0,1\n'),
        ('expert_use.json', b'{"layers": 3}'),
    ],
)
def test_results_of_other_types_are_named(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=f'{name} .* cannot be read as'):
        write_run_report(tmp_path)


def test_learning_curves(tmp_path: Path) -> None:
    (tmp_path / 'metrics.csv').write_text(METRICS)
    figure = learning_curves(tmp_path / 'metrics.csv')
    assert figure is not None
    left, right = figure.axes
    lines = {line.get_label(): line for line in (*left.lines, *right.lines)}
    assert set(lines) == {
        'training',
        'validation',
        'OA, training',
        'OA, validation',
        'kappa, validation',
    }
    assert np.asarray(lines['validation'].get_xdata()).tolist() == [1, 2]
    assert np.allclose(np.asarray(lines['OA, validation'].get_ydata()), [50, 60])


def test_cells_without_a_number_are_left_out(tmp_path: Path) -> None:
    text = METRICS + '2,29,,,tensor,0.7,0.9,surplus\nlast,1,2\nnan,1,2\n'
    (tmp_path / 'metrics.csv').write_text(text)
    figure = learning_curves(tmp_path / 'metrics.csv')
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    assert np.allclose(np.asarray(lines['OA, validation'].get_ydata()), [50, 60])
    assert np.allclose(np.asarray(lines['kappa, validation'].get_ydata()), [40, 50, 70])


def test_scores_without_both_shares(tmp_path: Path) -> None:
    test = _test_json() | {'overlap': {'contains_training_centre': 0.5}}
    (tmp_path / 'test.json').write_text(json.dumps(test))
    seen = Seen(write_run_report(tmp_path).read_text(encoding='utf-8'))
    assert '94.00' in seen.text and 'Of the test patches' not in seen.text


def test_report_shows_the_map(
    tmp_path: Path, scene: HyperspectralScene, network: nn.Module, patches_of: Any
) -> None:
    write_map(network, scene, tmp_path, patches=patches_of(scene))
    place = CRS.from_epsg(32633)
    data = {'scene': {**scene.metadata(), 'crs': place.to_wkt()}, 'split': {}}
    path = write_run_report(tmp_path, tmp_path / 'page.html', data)
    text = path.read_text(encoding='utf-8')
    seen = Seen(text)
    assert 'EPSG:32633' in seen.text and 'PROJCS' not in seen.text
    assert 'synthetic' in seen.text
    assert sum(link.startswith('data:') for link in seen.links) == 2
    assert (
        sum(int(row[2].replace(',', '')) for row in seen.tables[0][1:])
        == scene.valid.sum()
    )
    assert text.count('class="swatch"') == 3


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'scene': 'other', 'cube': 'beef'}, 'two scenes'),
        ({'cube': 'beef'}, 'two scenes'),
        ({'scene': 'other'}, 'two scenes'),
        ({'checkpoint': 'last.ckpt', 'checkpoint_digest': 'beef'}, 'two checkpoints'),
    ],
)
@pytest.mark.parametrize('lead', ['map', 'test'])
def test_what_differs_is_not_joined(
    tmp_path: Path, change: dict[str, str], words: str, lead: Any
) -> None:
    about = {
        'scene': 'tiny',
        'cube': 'cafe' if 'cube' in change else None,
        'checkpoint': 'best.ckpt',
        'checkpoint_digest': 'cafe',
    }
    write_json(tmp_path / 'test.json', _test_json() | about)
    row = {'name': 'Meadow', 'value': 1, 'pixels': 4321}
    write_json(tmp_path / 'map.json', about | change | {'classes': [row]})
    write_json(tmp_path / 'expert_use.json', about | {'layers': {}})
    Figure(figsize=(1, 1)).savefig(tmp_path / 'map.png')
    text = write_run_report(tmp_path, lead=lead).read_text(encoding='utf-8')
    headings = re.findall(r'<h2[^>]*>([^<]*)', text)
    assert words in text
    assert ('94.00' in text) == ('Accuracies' in headings) == (lead == 'test')
    assert ('4,321' in text) == ('Map' in headings) == (lead == 'map')
    assert ('Experts' in headings) == (lead == 'test')


def test_results_of_one_checkpoint_are_joined(tmp_path: Path) -> None:
    about = {'scene': 'tiny', 'cube': 'cafe', 'checkpoint_digest': 'beef'}
    write_json(tmp_path / 'test.json', _test_json() | about)
    row = {'name': 'Meadow', 'value': 1, 'pixels': 4321}
    write_json(tmp_path / 'map.json', about | {'classes': [row]})
    Figure(figsize=(1, 1)).savefig(tmp_path / 'map.png')
    text = write_run_report(tmp_path).read_text(encoding='utf-8')
    assert '94.00' in text and '4,321' in text and 'of two' not in text


def test_page_of_another_scene(tmp_path: Path) -> None:
    """It shows what is known of that scene, and nothing of the training's."""
    about = {'scene': 'b', 'cube': 'b', 'checkpoint_digest': 'beef'}
    write_json(tmp_path / 'run.json', {'scene': 'tiny', 'cube': 'a'})
    write_json(tmp_path / 'test.json', _test_json() | {'cube': 'a'})
    (tmp_path / 'metrics.csv').write_text(METRICS)
    write_json(tmp_path / 'predict' / 'b' / 'map.json', about)
    folder = tmp_path / 'predict' / 'b'
    path = write_run_report(tmp_path, folder=folder)
    text = path.read_text(encoding='utf-8')
    assert path == folder / 'report.html'
    assert 'Classification of b' in text and 'was trained on tiny' in text
    assert '94.00' not in text and 'Learning curves' not in text
    scores = _test_json() | about | {'overall_accuracy': 0.5}
    write_json(tmp_path / 'test' / 'b' / 'test.json', scores)
    text = write_run_report(tmp_path, folder=folder).read_text(encoding='utf-8')
    assert '50.00' in text and '94.00' not in text


def test_no_area_is_claimed_of_a_class_without_test_pixels(tmp_path: Path) -> None:
    """One that the split has left out is not 0 hectares, give or take nothing."""
    test = _test_json()
    test['confusion_matrix'] = [[40, 1, 0], [1, 30, 0], [0, 0, 0]]
    rows = [
        {'name': name, 'value': value, 'pixels': pixels}
        for value, (name, pixels) in enumerate(
            zip(test['class_names'], (1000, 2000, 0), strict=True), start=1
        )
    ]
    write_json(tmp_path / 'test.json', test)
    write_json(tmp_path / 'map.json', {'classes': rows, 'pixel_area': 100.0})
    seen = Seen(write_run_report(tmp_path).read_text(encoding='utf-8'))
    (table,) = [table for table in seen.tables if 'estimated, ha' in table[0]]
    assert [row[2] for row in table[1:]] == ['10.40', '19.60', DASH]
    assert table[3] == [test['class_names'][2], '0.00', DASH, DASH]
    assert f'No test pixel is of {test["class_names"][2]}' in seen.text


@pytest.mark.parametrize('change', ['none', 'names', 'area', 'untested'])
def test_areas_of_classes(tmp_path: Path, change: str) -> None:
    test = _test_json()
    rows = [
        {'name': name, 'value': value, 'pixels': 1000 * value}
        for value, name in enumerate(test['class_names'], start=1)
    ]
    if change == 'names':
        rows[0]['name'] = 'Meadow'
    if change == 'untested':
        test['confusion_matrix'] = [[40, 1, 0], [1, 30, 0], [2, 3, 0]]
    area = None if change == 'area' else 100.0
    write_json(tmp_path / 'test.json', test)
    write_json(tmp_path / 'map.json', {'classes': rows, 'pixel_area': area})
    seen = Seen(write_run_report(tmp_path).read_text(encoding='utf-8'))
    tables = [table for table in seen.tables if 'estimated, ha' in table[0]]
    assert len(tables) == (change == 'none')
    assert ('cannot be estimated' in seen.text) == (change == 'untested')
    if change == 'none':
        mapped, estimated = (
            [float(row[column].replace(',', '')) for row in tables[0][1:]]
            for column in (1, 2)
        )
        assert mapped == [10, 20, 30]
        assert sum(estimated) == pytest.approx(60, abs=0.02)


def test_matrix_of_hundreds_of_classes_is_no_heavy_page() -> None:
    page = Page('T')
    page.matrix(np.eye(500, dtype=int).tolist(), [f'class {k}' for k in range(500)])
    assert len(page.render()) < 5_000_000
