# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of ``torchgeo-ekgnet reproduce`` on the synthetic scene."""

import csv
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.public_scenes import data as public_scenes
from tests.processes import forked, needs_fork
from torchgeo_ekgnet.cli import UsageError
from torchgeo_ekgnet.datasets import SyntheticScene
from torchgeo_ekgnet.datasets.scene import HyperspectralScene
from torchgeo_ekgnet.datasets.synthetic import synthetic_scene
from torchgeo_ekgnet.reproduce import (
    engine,
    fit_classical,
    main_repeat,
    main_reproduce,
    sweeping,
)
from torchgeo_ekgnet.reproduce.declarations import Budget, Recipe
from torchgeo_ekgnet.reproduce.experiments import BUDGETS, EXPERIMENTS

ROWS = ['--rows', 'cnn3d,rbf_svm', '--scene', 'synthetic', '--budget', 'small']


def one_epoch() -> Budget:
    return replace(
        BUDGETS['small'],
        recipes={},
        default=Recipe(1, batch_size=64, lr=1e-3),
        train_limit=0.02,
        test_limit=0.05,
    )


@pytest.fixture(autouse=True)
def _one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_scene(dataset: SyntheticScene) -> HyperspectralScene:
        return synthetic_scene(60, 60, 24, bands=dataset.bands)

    monkeypatch.setitem(BUDGETS, 'small', one_epoch())
    monkeypatch.setattr(SyntheticScene, '_load_scene', small_scene)


def test_table_on_another_scene(tmp_path: Path) -> None:
    arguments = ['table8', *ROWS, '--seeds', '2', '--out', str(tmp_path)]
    main_reproduce(arguments)
    folder = tmp_path / 'table8-synthetic-random-small'
    text = (folder / 'report.md').read_text()
    assert text.startswith('# Table 8: all systems, Synthetic scene\n')
    assert 'published' not in text.split('\n- AA (recall)')[0]
    assert '| 3D-CNN |' in text
    assert 'not converged: below RBF-SVM' in text
    with (folder / 'results.csv').open() as file:
        lines = list(csv.DictReader(file))
    assert {line['row'] for line in lines} == {'cnn3d', 'rbf_svm'}
    assert all(line['seeds'] == '2' for line in lines if line['metric'] == 'OA')
    assert (folder / 'curves.png').stat().st_size > 1000
    assert len(list(tmp_path.glob('runs/*.json'))) == 4

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('runs/*')}
    values = (folder / 'results.csv').read_text()
    main_reproduce([*arguments, '--report-only'])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob('runs/*')}
    assert after == before
    assert (folder / 'results.csv').read_text() == values


def test_another_cube_is_another_run(tmp_path: Path) -> None:
    root = public_scenes.make(tmp_path / 'data', 'IndianPines')
    out = tmp_path / 'out'
    arguments = ['table8', '--rows', 'rbf_svm', '--budget', 'small', '--seeds', '1']

    def reproduce(root: Path) -> int:
        main_reproduce([*arguments, '--root', str(root), '--out', str(out)])
        return len(list(out.glob('runs/*.json')))

    assert reproduce(root) == 1
    assert reproduce(root.rename(tmp_path / 'moved')) == 1
    cube = public_scenes.cube_of('IndianPines')
    public_scenes.save_mat(
        tmp_path / 'moved' / 'Indian_pines_corrected.mat',
        '5',
        indian_pines_corrected=(cube // 32).astype('uint8'),
    )
    assert reproduce(tmp_path / 'moved') == 2


def test_disjoint_split_shares_no_pixel(tmp_path: Path) -> None:
    main_reproduce(
        ['table8', *ROWS, '--seeds', '1', '--split', 'disjoint', '--out', str(tmp_path)]
    )
    text = (tmp_path / 'table8-synthetic-disjoint-small' / 'report.md').read_text()
    assert '0.0 % of the test patches contain a training centre, 0.0 % share' in text


def test_maps_of_all_systems(tmp_path: Path) -> None:
    # Only the first seed is drawn.
    arguments = ['figure7', *ROWS, '--seeds', '2', '--out', str(tmp_path)]
    main_reproduce(arguments)
    folder = tmp_path / 'figure7-synthetic-random-small'
    assert (folder / 'maps.png').stat().st_size > 1000
    assert 'data:image/png' in (folder / 'report.html').read_text()
    assert len(list(tmp_path.glob('checkpoints/*.ckpt'))) == 1


def test_the_bar_is_run_where_the_table_has_no_such_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ['table8', '--scene', 'synthetic', '--budget', 'small', '--seeds', '1']
    arguments += ['--rows', 'random_forest', '--out', str(tmp_path)]
    folder = tmp_path / 'table8-synthetic-random-small'

    def cells() -> dict[str, str]:
        lines = (folder / 'report.md').read_text().splitlines()
        header = next(line for line in lines if line.startswith('| row |'))
        row = next(line for line in lines if line.startswith('| Random forest |'))
        return dict(zip(header.split(' | '), row.split(' | '), strict=True))

    def refuse(name: str, *args: Any) -> Any:
        if name == 'rbf_svm':
            raise ValueError('labels: at least two classes are needed, found one')
        return fit_classical(name, *args)

    with monkeypatch.context() as context:
        context.setattr(sweeping, 'BAR_PIXELS', 10)
        main_reproduce(arguments)
        assert cells()['RBF-SVM, OA'] == '-'
        assert 'bar not run' in (folder / 'report.md').read_text()
    with monkeypatch.context() as context:
        context.setattr(engine, 'fit_classical', refuse)
        main_reproduce(arguments)
        assert 'bar not run' in (folder / 'report.md').read_text()
    main_reproduce(arguments)
    assert 0 < float(cells()['RBF-SVM, OA']) <= 100
    text = (folder / 'report.md').read_text()
    assert 'bar not run' not in text
    assert '| RBF-SVM |' not in text
    main_reproduce([*arguments, '--report-only'])
    assert (folder / 'report.md').read_text() == text


def test_ablation_of_the_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = EXPERIMENTS['mapping']
    few = [
        replace(row, options={**row.options, 'block_config': [1, 1]})
        for row in table.rows
    ]
    monkeypatch.setitem(EXPERIMENTS, 'mapping', replace(table, rows=tuple(few)))
    arguments = ['mapping', '--rows', '1,dacnet', '--scene', 'synthetic']
    arguments += ['--budget', 'small', '--seeds', '1', '--out', str(tmp_path)]
    main_reproduce(arguments)
    text = (tmp_path / 'mapping-synthetic-random-small' / 'report.md').read_text()
    assert '| 1 block |' in text
    assert '| plain attention (DACNet) |' in text
    assert 'Use of the experts' in text


@needs_fork
def test_killed_sweep_ends_in_the_same_table(tmp_path: Path) -> None:
    arguments = ['table8', '--rows', 'cnn3d', '--scene', 'synthetic', '--seeds', '2']
    arguments += ['--budget', 'small', '--threads', '1', '--out']
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    process = forked(
        lambda: main_reproduce([*arguments, str(killed)]), tmp_path / 'errors.txt'
    )
    process.stop_when(lambda: list(killed.glob('runs/*.json')), signal.SIGKILL)
    done = {path: path.read_bytes() for path in killed.glob('runs/*.json')}
    assert len(done) == 1

    main_reproduce([*arguments, str(killed)])
    assert {path: path.read_bytes() for path in done} == done
    main_reproduce([*arguments, str(whole)])
    name = 'table8-synthetic-random-small'
    tables = [(out / name / 'results.csv').read_text() for out in (killed, whole)]
    assert tables[0] == tables[1]
    assert ',2,' in tables[0]


def test_scene_figure_needs_no_training(tmp_path: Path) -> None:
    main_reproduce(['figure5', '--scene', 'synthetic', '--out', str(tmp_path)])
    assert len(list(tmp_path.glob('figure5-synthetic-*/figure5.png'))) == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['table10'], "invalid choice: 'table10'"),
        (['table8', '--scene', 'mars'], "invalid choice: 'mars'"),
        (['table8', '--rows', 'resnet'], "table8 has no row 'resnet', expected some"),
        (['table8', '--seeds', '0'], "expected a number from 1, found '0'"),
        (['protocols', '--split', 'disjoint'], '--split: every row of protocols has'),
        ([], 'EXPERIMENT'),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main_reproduce(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_lists_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (main_reproduce, main_repeat):
        with pytest.raises(SystemExit):
            command(['--help'])
    text = capsys.readouterr().out
    for name in ('table1', 'figure7', 'expert_use', '--budget', '--seeds'):
        assert name in text


def test_repeat_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nothing\.yaml'):
        main_repeat(['--config', str(tmp_path / 'nothing.yaml')])
    empty = tmp_path / 'empty.yaml'
    empty.write_text('trainer:\n  max_epochs: 1\n')
    with pytest.raises(UsageError, match='found neither data nor model'):
        main_repeat(['--config', str(empty)])
