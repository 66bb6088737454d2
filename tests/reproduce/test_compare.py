# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of ``torchgeo-ekgnet compare`` and of what it concludes."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.reproduce.test_settings import RANDOM, write
from tests.reproduce.test_tables import result
from torchgeo_ekgnet.cli import UsageError
from torchgeo_ekgnet.reproduce import main_compare, main_repeat
from torchgeo_ekgnet.reproduce.compare import system_settings
from torchgeo_ekgnet.reproduce.settings import read_config, with_seed
from torchgeo_ekgnet.reproduce.summary import compare, conclusion, summarise


def compared(*args: str) -> None:
    main_compare([*args, '--seeds', '2', '--threads', '1'])


def test_systems_of_one_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = str(write(tmp_path)), tmp_path / 'out'
    models = ['--models', 'cnn3d,rbf_svm,random_forest']
    compared('--config', config, *models, '--out', str(out))
    text = (out / 'report.md').read_text()
    for name in ('| cnn3d |', '| RBF-SVM |', '| Random forest |', '± ', 'training'):
        assert name in text
    assert 'share a pixel with a training patch: this orders systems within' in text
    with (out / 'results.csv').open() as file:
        rows = {line['row']: line for line in csv.DictReader(file)}
    assert set(rows) == {'cnn3d', 'rbf_svm', 'random_forest'}
    assert {line['seeds'] for line in rows.values()} == {'2'}
    # The bar is the row itself; nothing was fitted twice, and nothing is left.
    files = sorted(path.name for path in (out / 'runs').iterdir())
    assert len(files) == 6 and all(name.endswith('.json') for name in files)
    before = {name: (out / 'runs' / name).read_bytes() for name in files}
    compared('--config', config, *models, '--out', str(out), '--report-only')
    assert {n: (out / 'runs' / n).read_bytes() for n in files} == before
    assert (out / 'report.md').read_text() == text
    # A report names the seeds that have finished, not those that were asked for.
    wanted = ['--first-seed', '1332', '--report-only']
    compared('--config', config, *models, '--out', str(out), *wanted)
    assert '- **seeds**: 1332\n' in (out / 'report.md').read_text()


def test_root_is_no_part_of_a_run(tmp_path: Path) -> None:
    """A run is the same one wherever the files lie and however they are read."""
    config, out = str(write(tmp_path)), str(tmp_path / 'out')
    call = ['--config', config, '--models', 'rbf_svm', '--seeds', '1', '--out', out]
    compared(*call, '--root', str(tmp_path), '--data.num_workers', '1')
    compared(*call, '--report-only')


def test_smoothed_rows_of_their_own(tmp_path: Path) -> None:
    config, out = str(write(tmp_path)), tmp_path / 'out'
    models = ['--models', 'cnn3d,rbf_svm,random_forest', '--smooth', '3']
    compared('--config', config, *models, '--out', str(out))
    with (out / 'results.csv').open() as file:
        rows = [line for line in csv.DictReader(file) if line['metric'] == 'OA']
    names = [line['row'] for line in rows]
    assert names[3:] == [f'{name}_smoothed' for name in names[:3]]
    assert rows[4]['label'] == 'RBF-SVM (smoothed 3 x 3)'
    # Test pixels lie among training pixels: their neighbours tell more than they do.
    for plain, smooth in zip(rows[1:3], rows[4:], strict=True):
        assert float(smooth['mean']) > float(plain['mean'])
    text = (out / 'report.md').read_text()
    assert 'smoothed rows count what was taught' in text
    header = next(line for line in text.splitlines() if line.startswith('| class |'))
    assert 'smoothed' not in header
    assert 'smoothed 3 x 3 | cnn3d' not in text and 'cnn3d | RBF-SVM, sm' not in text
    # Smoothing is done after the training: without it there are other runs.
    assert len(list((out / 'runs').iterdir())) == 6


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--smooth', '4'], 'found a window of 4 pixels, expected an odd number'),
        (['--smooth-edges', '0.1'], '--smooth-edges: found 0.1 without a window'),
        (['--smooth', '3', '--smooth-edges', '0'], 'smooth_edges: found 0.0'),
    ],
)
def test_no_smoothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main_compare(['--config', str(write(tmp_path)), *arguments])


def test_networks_differ_by_their_name_alone(tmp_path: Path) -> None:
    options = ['--model.model_options', '{"num_experts": 3}']
    base = with_seed(read_config([str(write(tmp_path))], options), 5)
    own, other = (system_settings(base, name) for name in ('ekgnet_tiny', 'dgcnet'))
    assert own == base
    assert own['model']['init_args']['model_options'] == {'num_experts': 3}
    assert other['model']['init_args'] == {'model': 'dgcnet'}
    added = [c['class_path'] for c in other['trainer']['callbacks']]
    assert added[-1].endswith('PruningSchedule')
    assert added[:-1] == [c['class_path'] for c in own['trainer']['callbacks']]
    assert other['data'] == own['data']
    cropped = with_seed(
        read_config(
            [str(write(tmp_path))],
            [
                *('--data.augmentation.crop', '1', '--data.augmentation.crop_within'),
                *('3', '--data.augmentation.noise', '0.1'),
            ],
        ),
        5,
    )
    augmented = [
        system_settings(cropped, name)['data']['init_args']['augmentation']['init_args']
        for name in ('ekgnet_tiny', 'ekgnet_tiny:static', 'ssrn')
    ]
    assert augmented[0] == augmented[1] == {'crop': 1, 'crop_within': 3, 'noise': 0.1}
    assert augmented[2] == {'flips': True, 'turns': True, 'noise': 0.1}
    twin = system_settings(base, 'ekgnet_tiny:static')
    assert twin['model']['init_args'] == {
        **own['model']['init_args'],
        'model_options': {'num_experts': 3, 'conv_layer': 'conv3d'},
    }
    svm = system_settings(base, 'rbf_svm')
    assert svm['model'] == {'classical': 'rbf_svm'}
    assert svm['data']['init_args']['split'] == own['data']['init_args']['split']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--models', 'ekgnet_bsae'], "found 'ekgnet_bsae'.*mean 'ekgnet_base'"),
        (['--models', 'svm'], "found 'svm', expected names of timm, rbf_svm"),
        (['--models', ''], "found ''"),
        (['--models', 'ssrn:static'], 'ssrn has no static twin'),
        (['--models', 'ekgnet_bsae:static'], "found 'ekgnet_bsae:static'"),
        (['--models', 'rbf_svm:static'], "found 'rbf_svm:static'"),
    ],
)
def test_unknown_systems(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main_compare(['--config', str(write(tmp_path)), *arguments])


def test_output_is_tried_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / 'file'
    out.write_text('in the way')

    def refuse(*args: Any) -> None:
        raise AssertionError('trained first')

    monkeypatch.setattr('torchgeo_ekgnet.reproduce.engine.Sweep.results', refuse)
    with pytest.raises(NotADirectoryError, match='file'):
        main_compare(['--config', str(write(tmp_path)), '--out', str(out)])


def concluded(shares: float = 0.75, **right: tuple[int, ...]) -> str:
    rows = []
    for name, values in right.items():
        runs = [result(value, seed) for seed, value in enumerate(values)]
        for run in runs:
            run['split']['shares_training_pixel'] = shares
        rows.append((name, name, runs))
    summaries = summarise(rows)
    return conclusion(summaries, compare(summaries))


def test_conclusion_claims_what_is_significant() -> None:
    text = concluded(
        good=(90, 91, 90, 91, 90), level=(90, 90, 91, 90, 90), bad=(20, 21, 20, 21, 20)
    )
    assert text.startswith('good has the highest mean overall accuracy')
    assert 'significantly higher than bad;' in text
    assert 'between it and level no difference is shown (over 5 seeds)' in text
    assert 'within the fields' in text and '75 %' in text


def test_conclusion_says_what_would_be_shown() -> None:
    """400 pixels train, 200 test; overall accuracies differ by 3, 0 and 3 points."""
    text = concluded(good=(96, 90, 96), level=(90, 90, 90))
    needed = 4.302653 * 3**0.5 * (1 / 3 + 200 / 400) ** 0.5
    assert f'so many points on: {needed:.1f} (level, found 2.0).' in text
    assert 'With 0.5 test pixels to a training pixel' in text
    assert 'significantly' not in text
    assert 'so many points' not in concluded(good=(90, 91, 90), same=(90, 91, 90))


def test_conclusion_claims_nothing_of_one_seed() -> None:
    assert 'no order may be claimed; use --seeds' in concluded(one=(90,), other=(20,))
    assert 'Fewer than two systems' in concluded(one=(90, 91))


def test_conclusion_names_the_ground() -> None:
    assert 'No test patch shares a pixel' in concluded(0.0, a=(90, 91), b=(80, 81))


def test_any_split_of_the_configuration(tmp_path: Path) -> None:
    settings = read_config([str(write(tmp_path))], ['--data.split', RANDOM])
    assert (
        with_seed(settings, 7)['data']['init_args']['split']['init_args']['seed'] == 7
    )


def test_default_network_keeps_its_options(tmp_path: Path) -> None:
    """A configuration's network is left out of the settings where it is the default."""
    options = {'num_experts': 2}
    settings = with_seed(read_config([str(write(tmp_path))], []), 1)
    settings['model']['init_args'] = {
        'model_options': options,
        'weights': 'w.ckpt',
        'freeze_backbone': True,
    }
    own = system_settings(settings, 'ekgnet_base')['model']['init_args']
    assert own == settings['model']['init_args']
    twin = system_settings(settings, 'ekgnet_base:static')['model']['init_args']
    assert twin == {'model_options': {**options, 'conv_layer': 'conv3d'}}
    other = system_settings(settings, 'ssrn')['model']['init_args']
    assert other == {'model': 'ssrn'}


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('--seed_everything', '7'),
        ('--data.split.seed', '5'),
        ('--data.sampler.seed=3', ''),
    ],
)
def test_seeds_of_single_runs_are_refused(
    tmp_path: Path, argument: str, value: str
) -> None:
    for command in (main_compare, main_repeat):
        with pytest.raises(ValueError, match='expected --first-seed'):
            command(['--config', str(write(tmp_path)), argument, value])


@pytest.mark.parametrize('seed', ['-5', '4294967296', 'x'])
def test_seeds_that_generators_do_not_know(
    tmp_path: Path, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main_compare(['--config', str(write(tmp_path)), '--first-seed', seed])
    assert 'expected a number from 0 to 4294967295' in capsys.readouterr().err
    with pytest.raises(ValueError, match='--first-seed: found 4294967295 and 2 seeds'):
        compared('--config', str(write(tmp_path)), '--first-seed', '4294967295')


def test_options_are_not_abbreviated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--seed: every run has a seed of its own'):
        main_repeat(['--config', str(write(tmp_path)), '--seed', '7'])
    with pytest.raises(UsageError, match='--model'):
        main_compare(['--config', str(write(tmp_path)), '--model', 'ssrn,rbf_svm'])


def test_report_of_others_is_not_replaced(tmp_path: Path) -> None:
    config, out = str(write(tmp_path)), tmp_path / 'out'
    out.mkdir()
    (out / 'results.csv').write_text('mine')
    for command in (main_compare, main_repeat):
        with pytest.raises(FileExistsError, match=r'results\.csv'):
            command(['--config', config, '--seeds', '1', '--out', str(out)])
    assert [path.name for path in out.iterdir()] == ['results.csv']
    (out / 'results.csv').rename(out / 'runs')
    with pytest.raises(NotADirectoryError, match=r'a file has its name.*runs'):
        main_compare(['--config', config, '--seeds', '1', '--out', str(out)])
