# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the declared tables, figures and ablations."""

import csv
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import torchgeo_ekgnet  # noqa: F401
from tests.models.conftest import SHALLOW
from tests.small import make_datamodule, make_task, make_trainer
from torchgeo_ekgnet.callbacks import TemperatureAnnealing
from torchgeo_ekgnet.reproduce.build import build_data, built_run, placed
from torchgeo_ekgnet.reproduce.compare import system_settings
from torchgeo_ekgnet.reproduce.declarations import (
    LAST_EPOCH,
    SCENES,
    Budget,
    Experiment,
    published,
    run_settings,
    split_settings,
)
from torchgeo_ekgnet.reproduce.experiments import BUDGETS, EXPERIMENTS
from torchgeo_ekgnet.reproduce.runs import canonical_json, settings_key
from torchgeo_ekgnet.reproduce.settings import read_config

TABLES = [e for e in EXPERIMENTS.values() if e.number]
SYSTEMS = sorted(
    {
        row.model
        for table in ('table8', 'table9')
        for row in EXPERIMENTS[table].rows
        if not row.classical
    }
)


def published_lines() -> list[dict[str, str]]:
    source = resources.files('torchgeo_ekgnet.reproduce') / 'published_results.csv'
    with source.open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_nine_tables_four_figures_and_the_ablations() -> None:
    for number in range(1, 10):
        assert EXPERIMENTS[f'table{number}'].number == number
    figures = {f'figure{number}' for number in range(5, 9)}
    assert figures <= EXPERIMENTS.keys()
    assert EXPERIMENTS.keys() - figures - {table.key for table in TABLES} == {
        'experts',
        'temperature',
        'mapping',
        'static',
        'expert_use',
        'protocols',
    }


@pytest.mark.parametrize('name', SYSTEMS)
def test_every_system_trains(name: str, tmp_path: Path) -> None:
    task = make_task(model=name, model_options=SHALLOW.get(name))
    options = {f'limit_{stage}_batches': 1 for stage in ('train', 'val')}
    trainer = make_trainer(tmp_path, callbacks=[TemperatureAnnealing()], **options)
    trainer.fit(task, make_datamodule(patch_size=7))
    trainer.save_checkpoint(tmp_path / 'last.ckpt')
    checkpoint = torch.load(tmp_path / 'last.ckpt', weights_only=True)
    assert checkpoint['hyper_parameters']['model'] == name
    assert checkpoint['global_step'] > 0


@pytest.mark.parametrize('table', TABLES, ids=lambda table: table.key)
def test_no_published_row_is_missing(table: Experiment) -> None:
    lines = [line for line in published_lines() if int(line['table']) == table.number]
    keys = {row.key for row in table.rows if not row.extra}
    assert {line['value'] for line in lines} <= keys
    assert {line['scene'] for line in lines} == {table.scene}
    assert {line['variable'] for line in lines} == {table.variable}
    assert len(published(table)) == len(lines)


def test_published_values() -> None:
    numbers = published(EXPERIMENTS['table8'])
    assert numbers['ekgnet_base', 'OA'].percent == 99.84
    assert numbers['ekgnet_base', 'OA'].std is None
    assert numbers['cnn3d', 'Kappa'].std == 0.53
    assert published(EXPERIMENTS['figure7']) == {}


def test_comparison_tables_hold_the_classical_baselines() -> None:
    for key in ('table8', 'table9'):
        rows = {row.key: row for row in EXPERIMENTS[key].rows if not row.extra}
        assert rows['rbf_svm'].classical
        assert rows['random_forest'].classical


@pytest.mark.parametrize('budget', BUDGETS.values(), ids=lambda budget: budget.name)
@pytest.mark.parametrize('experiment', EXPERIMENTS.values(), ids=lambda e: e.key)
def test_settings_are_json_and_differ_between_rows(
    experiment: Experiment, budget: Budget
) -> None:
    keys = set()
    for row in experiment.rows:
        for seed in (1331, 1332):
            settings = run_settings(experiment, row, seed, budget)
            canonical_json(settings)
            keys.add(settings_key(settings))
            arguments = settings['data']['init_args']
            assert arguments['split']['init_args']['seed'] == seed
            assert settings['seed_everything'] == seed
    assert len(keys) == 2 * len(experiment.rows)


def test_the_same_run_of_two_tables_is_one_run() -> None:
    budget = BUDGETS['paper']

    def key(name: str, row_key: str) -> str:
        experiment = EXPERIMENTS[name]
        row = next(row for row in experiment.rows if row.key == row_key)
        return settings_key(run_settings(experiment, row, 1331, budget))

    assert key('table4', '15') == key('table7', 'ekgnet_base')
    assert key('table7', 'ekgnet_base') == key('table8', 'ekgnet_base')
    assert key('table1', '6:1:3') == key('table4', '11')


def test_paper_settings_of_the_headline_run() -> None:
    table = EXPERIMENTS['table8']
    row = next(row for row in table.rows if row.key == 'ekgnet_base')
    settings = run_settings(table, row, 1331, BUDGETS['paper'])
    arguments = settings['data']['init_args']
    assert arguments['patch_size'] == 15
    assert arguments['batch_size'] == 80
    assert arguments['split']['init_args'] == {'train': 0.6, 'val': 0.1, 'seed': 1331}
    assert settings['trainer']['max_epochs'] == 80
    assert settings['model']['init_args']['lr'] == 5e-4


def settings_of(name: str, row_key: str, budget: str) -> dict[str, Any]:
    experiment = EXPERIMENTS[name]
    row = next(row for row in experiment.rows if row.key == row_key)
    return run_settings(experiment, row, 1331, BUDGETS[budget])


def annealing_of(settings: dict[str, Any]) -> TemperatureAnnealing:
    (arguments,) = (
        callback['init_args']
        for callback in settings['trainer']['callbacks']
        if callback['class_path'].endswith('TemperatureAnnealing')
    )
    return TemperatureAnnealing(**arguments)


@pytest.mark.parametrize('row', [row.key for row in EXPERIMENTS['table1'].rows])
def test_small_budget_anneals_over_half_of_any_training(row: str) -> None:
    settings = settings_of('table1', row, 'small')
    epochs = settings['trainer']['max_epochs']
    annealing = annealing_of(settings)
    temperatures = [annealing.temperature(epoch) for epoch in range(epochs)]
    assert temperatures[0] == 34
    assert annealing.epochs == round(epochs / 2) == settings['start_epoch']
    assert temperatures[annealing.epochs] == pytest.approx(1)
    assert temperatures[annealing.epochs - 1] > 1  # type: ignore[operator]


def test_paper_budget_anneals_by_3_an_epoch() -> None:
    settings = settings_of('table8', 'ekgnet_base', 'paper')
    annealing = annealing_of(settings)
    assert [annealing.temperature(epoch) for epoch in (0, 1, 11)] == [34, 31, 1]
    assert settings['start_epoch'] == 11


def test_weights_are_chosen_after_pruning_has_ended() -> None:
    assert settings_of('table8', 'dgcnet', 'paper')['start_epoch'] == 60
    # 18 of 24 epochs are three quarters.
    assert settings_of('table8', 'dgcnet', 'small')['start_epoch'] == 18
    assert settings_of('table8', 'ssrn', 'small')['start_epoch'] == 0


def test_mapping_ablation_differs_by_the_attention_alone() -> None:
    mapping, dacnet = (settings_of('mapping', key, 'small') for key in ('2', 'dacnet'))
    assert mapping['trainer'] == dacnet['trainer']
    assert dacnet['model']['init_args']['model_options'] == {
        'expert_init': 'trunc_normal'
    }
    # As released elsewhere: a fixed temperature.
    assert annealing_of(settings_of('table8', 'dacnet', 'small')).epochs == -1


def test_rows_with_the_recipe_of_custom() -> None:
    custom = read_config(['custom'], ['--data.root', '.'])
    custom = system_settings(custom, 'ekgnet_spatial')
    ours = settings_of('table8', 'ekgnet_spatial', 'small')
    assert ours['checkpoint'] == custom['checkpoint'] == LAST_EPOCH
    built = built_run(placed({**ours, 'seed_everything': 0}, '.', Path())).datamodule
    theirs = custom['data']['init_args']['augmentation']['init_args']
    assert {k: getattr(built.augmentation, k) for k in theirs} == theirs
    assert theirs['flips'] and 'crop' not in theirs
    names = [c['class_path'] for c in ours['trainer']['callbacks']]
    for callback in custom['trainer']['callbacks']:
        assert callback['class_path'].rpartition('.')[2] in ' '.join(names)
    arguments = ours['model']['init_args']
    assert arguments['model'] == 'ekgnet_spatial'
    for name, value in custom['model']['init_args'].items():
        assert arguments[name] == value
    components = settings_of('table8', 'ekgnet_base_components', 'paper')
    found = components['data']['init_args']
    assert found['pca'] == {'num_components': 30, 'whiten': True}
    assert found['batch_size'] == 32 and found['patch_size'] == 15
    assert components['trainer']['max_epochs'] == 40


def test_pavia_networks_are_those_of_their_authors() -> None:
    for key, options in (
        ('se_densenet3d', {'subsample': False}),
        ('spectralformer', {'near_bands': 7}),
    ):
        found = settings_of('table9', key, 'paper')['model']['init_args']
        assert found['model_options'] == options
        timm.create_model(found['model'], in_chans=103, num_classes=9, **options)
        assert not settings_of('table8', key, 'paper')['model']['init_args'][
            'model_options'
        ]


def test_small_budget_limits_all_but_what_is_varied() -> None:
    small = BUDGETS['small']
    for key, sizes in (('table8', {7}), ('table4', {7, 9, 11, 13, 15, 17})):
        experiment = EXPERIMENTS[key]
        found = {
            run_settings(experiment, row, 0, small)['data']['init_args']['patch_size']
            for row in experiment.rows
        }
        assert found == sizes
    ratios = [
        run_settings(EXPERIMENTS['table1'], row, 0, small)['data']['init_args'][
            'split'
        ]['init_args']['train']
        for row in EXPERIMENTS['table1'].rows
    ]
    assert ratios == [0.2, 0.3, 0.4, 0.5, 0.6]


def test_matched_protocols_train_on_the_same_counts() -> None:
    experiment = EXPERIMENTS['protocols']
    random, disjoint = (
        build_data(run_settings(experiment, row, 1331, BUDGETS['small'], 'synthetic'))
        for row in experiment.rows[:2]
    )
    counts = [
        np.bincount(data.split.labels(data.scene.label_map, 'train')).tolist()
        for data in (random, disjoint)
    ]
    assert counts[0] == counts[1] and sum(counts[0]) > 0
    assert disjoint.split.overlap(7).shares_training_pixel == 0
    assert random.split.overlap(7).shares_training_pixel > 0


def test_every_network_is_registered_with_timm() -> None:
    names = {
        row.model for e in EXPERIMENTS.values() for row in e.rows if not row.classical
    }
    for name in names:
        assert timm.is_model(name), name


def test_every_scene_has_its_datamodule() -> None:
    from torchgeo_ekgnet import datamodules

    for name in SCENES.values():
        assert hasattr(datamodules, name), name


def test_unknown_scene_and_protocol() -> None:
    experiment = EXPERIMENTS['table4']
    with pytest.raises(ValueError, match=r"'mars'.*indian_pines"):
        run_settings(experiment, experiment.rows[0], 0, BUDGETS['small'], 'mars')
    with pytest.raises(ValueError, match=r"'blocks'.*disjoint"):
        split_settings('blocks', 0.6, 0.1, 0)
