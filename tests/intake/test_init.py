# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A configuration is written that runs as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from torchgeo.datamodules import BaseDataModule

from torchgeo_ekgnet._compat import BaseTask
from torchgeo_ekgnet.commands import shipped_configs
from torchgeo_ekgnet.datasets import DisjointSplit, HyperspectralScene, RandomSplit
from torchgeo_ekgnet.intake import advise
from torchgeo_ekgnet.intake.advice import advised_patch
from torchgeo_ekgnet.intake.init import main

from .conftest import VALUES, own_cube, own_labels


def built(path: str) -> Any:
    """Make what a configuration describes, as torchgeo's command does."""
    return LightningCLI(
        BaseTask,
        BaseDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        args=['--config', path],
    )


def test_configuration_is_complete(
    mat_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main([])
    text = Path('fields.yaml').read_text(encoding='utf-8')
    content = yaml.safe_load(text)
    data = content['data']['init_args']
    assert data['root'] == '.'
    assert (data['cube'], data['labels']) == ('fields.mat', 'fields_gt.mat')
    assert data['class_names'] == {value: f'class {value}' for value in VALUES}
    assert max(map(len, text.splitlines())) < 120
    printed = capsys.readouterr().out
    assert 'torchgeo-ekgnet fit --config fields.yaml' in printed
    cli = built('fields.yaml')
    names = [type(item).__name__ for item in cli.trainer.callbacks]
    assert {'RunFolder', 'AccuracyReport', 'ClassificationMap'} <= set(names)
    cli.datamodule.setup('fit')
    assert cli.datamodule.scene.class_values == VALUES
    assert cli.datamodule.split.protocol == 'disjoint'


def test_older_file_is_kept(mat_files: tuple[Path, Path]) -> None:
    Path('fields.yaml').write_text('mine', encoding='utf-8')
    with pytest.raises(FileExistsError, match=r'fields\.yaml exists.*--force'):
        main([])
    assert Path('fields.yaml').read_text(encoding='utf-8') == 'mine'
    before = mat_files[0].read_bytes()
    with pytest.raises(ValueError, match=r"ending '\.mat', expected \.yaml or \.yml"):
        main(['--force', '--output', str(mat_files[0])])
    assert mat_files[0].read_bytes() == before
    main(['--force', '--model', 'ekgnet_tiny', '--split', 'random'])
    content = yaml.safe_load(Path('fields.yaml').read_text(encoding='utf-8'))
    assert content['model']['init_args']['model'] == 'ekgnet_tiny'
    assert content['data']['init_args']['split']['class_path'].endswith('RandomSplit')


def test_files_elsewhere_are_named_in_full(
    mat_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('elsewhere'))
        main([str(folder)])
        content = yaml.safe_load(Path('fields.yaml').read_text(encoding='utf-8'))
    assert content['data']['init_args']['root'] == folder.as_posix()


def test_odd_names_and_nan_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cube = own_cube()
    cube[0, 0] = np.nan
    arrays: dict[str, Any] = {'a: b': cube, 'yes': own_labels()}
    np.savez("Été: 'n° 1' #2\x1b\x85.npz", **arrays)
    main(['.', '--output', 'x\ny.yaml'])
    cli = built('x\ny.yaml')
    cli.datamodule.setup('fit')
    assert cli.datamodule.scene.num_classes == 3
    assert int((~cli.datamodule.scene.valid).sum()) == 1


def test_advice_is_the_recipe_for_new_ground() -> None:
    scene = HyperspectralScene(own_cube(), own_labels())
    advice = advise(scene)
    assert (advice.model, advice.patch_size) == ('ekgnet_spectral', 7)
    assert (advice.recipe, advice.weights) == ('custom', 'last')
    assert advice.has_experts
    assert advice.batch_size is None
    other = advise(scene, model='ssrn')
    assert (other.recipe, other.weights) == (None, 'best')
    assert not other.has_experts
    assert (other.patch_size, other.batch_size) == (7, 16)


def test_split_is_the_most_honest_possible() -> None:
    assert isinstance(
        advise(HyperspectralScene(own_cube(), own_labels()), patch_size=3).protocol,
        DisjointSplit,
    )
    one_place = np.zeros((30, 36), dtype=np.uint8)
    one_place[4:8, 4:8] = 1
    one_place[4:8, 8:12] = 2
    advice = advise(HyperspectralScene(own_cube(), one_place), patch_size=9)
    assert isinstance(advice.protocol, RandomSplit)
    assert 'optimistic' in advice.reasons['split']
    assert 'patch_size' not in advice.reasons


def test_advice_where_only_a_random_split_serves() -> None:
    advice = advise(HyperspectralScene(own_cube(), own_labels()), split='random')
    assert (advice.model, advice.recipe) == ('ekgnet_spatial', 'custom_spatial')
    assert (advice.batch_size, advice.epochs) == (16, 100)
    assert 'surroundings' in advice.reasons['model']


@pytest.mark.parametrize(
    ('side', 'model', 'settings'),
    [
        (62, 'ekgnet_spatial', (16, 100, 75)),
        (64, 'ekgnet_spatial', (32, 60, 45)),
        (130, 'ekgnet_spatial', (80, 60, 45)),
        (40, 'ssrn', (16, 100, 25)),
    ],
)
def test_advice_follows_the_training_pixels(
    side: int, model: str, settings: tuple[int, int, int]
) -> None:
    labels = np.repeat([1, 2], side * side // 2).reshape(side, side)
    scene = HyperspectralScene(np.ones((side, side, 2)), labels)
    advice = advise(scene, model, split='random')
    assert (advice.batch_size, advice.epochs, advice.patience) == settings


def test_patches_fit_into_small_scenes() -> None:
    found = [
        advised_patch(
            HyperspectralScene(np.ones((side, 9, 2)), np.ones((side, 9), int))
        )
        for side in range(1, 9)
    ]
    assert found == [1, 1, 3, 3, 5, 5, 7, 7]


@pytest.mark.parametrize(
    ('arguments', 'name'), [([], 'custom'), (['--split', 'random'], 'custom_spatial')]
)
def test_recipe_is_that_of_the_shipped_configuration(
    arguments: list[str], name: str, mat_files: tuple[Path, Path]
) -> None:
    main(arguments)
    mine = yaml.safe_load(Path('fields.yaml').read_text(encoding='utf-8'))
    shipped = shipped_recipe(name)
    assert mine['model'] == shipped['model']
    ours, theirs = mine['data']['init_args'], shipped['data']['init_args']
    for key in ('augmentation', 'batch_size', 'padding_mode', 'patch_size'):
        assert ours[key] == theirs[key]


def test_shipped_recipes_differ_in_what_they_say() -> None:
    spectral, spatial = shipped_recipe('custom'), shipped_recipe('custom_spatial')
    assert spatial['trainer'].pop('max_epochs') > spectral['trainer'].pop('max_epochs')
    names = [
        recipe['trainer']['callbacks'][0]['init_args'].pop('name')
        for recipe in (spectral, spatial)
    ]
    assert names == ['custom', 'custom_spatial']
    for part, keys in (('model', ('model', 'lr')), ('data', ('split', 'batch_size'))):
        for key in keys:
            one, other = (r[part]['init_args'].pop(key) for r in (spectral, spatial))
            assert one != other
    crops = [r['data']['init_args']['augmentation'] for r in (spectral, spatial)]
    assert {crops[0].pop('crop'), crops[0].pop('crop_within')} == {1, 5}
    assert crops[1].pop('flips') and crops[1].pop('turns')
    assert spectral == spatial


def shipped_recipe(name: str) -> dict[str, Any]:
    """The content of a shipped configuration."""
    text = shipped_configs()[name].read_text(encoding='utf-8')
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def test_few_labels_need_not_validate() -> None:
    labels = np.zeros((20, 20), dtype=np.uint8)
    labels[2, 2:5], labels[12, 2:6], labels[17, 2] = 1, 2, 3
    advice = advise(HyperspectralScene(np.ones((20, 20, 4)), labels), split='random')
    assert advice.split.counts(labels)['train'] == [1, 1, 0]
    assert advice.split.counts(labels)['test'] == [2, 3, 0]
    assert advice.split.val.size == 0
    assert 'too few labels to validate' in advice.reasons['split']
    assert '--split disjoint' not in advice.reasons['split']
    with pytest.raises(ValueError, match='found no split'):
        advise(
            HyperspectralScene(np.ones((20, 20, 4)), labels),
            'ekgnet_base',
            None,
            'random',
        )


def test_small_classes_keep_no_one_from_a_disjoint_split() -> None:
    labels = np.kron([[1, 2], [2, 1]], np.ones((20, 20), dtype=np.uint8))
    labels[0, :3] = 9
    scene = HyperspectralScene(np.ones((40, 40, 4)), labels)
    advice = advise(scene)
    assert advice.split.protocol == 'random'
    assert '; init --split disjoint' in advice.reasons['split']
    advice = advise(scene, split='disjoint')
    assert (advice.split.protocol, advice.split.dropped) == ('disjoint', (3,))
    assert 'are left out' in advice.reasons['split']


@pytest.mark.parametrize(
    ('name', 'typed'),
    [
        ('other.yaml', 'other.yaml'),
        ('my field.yaml', "'my field.yaml'"),
        ('-x.yaml', './-x.yaml'),
    ],
)
def test_commands_name_the_file_that_is_written(
    mat_files: tuple[Path, Path],
    name: str,
    typed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main([f'--output={name}'])
    text = Path(name).read_text(encoding='utf-8')
    assert f'#   torchgeo-ekgnet fit --config {typed}\n' in text
    assert f'  torchgeo-ekgnet fit --config {typed}\n' in capsys.readouterr().out


def test_option_that_is_given_twice(
    mat_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(['--labels', 'train.tif', '--labels', 'test.tif'])
    assert 'found train.tif and test.tif, expected one' in capsys.readouterr().err


def test_unknown_network(mat_files: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match='ekgnet_bsae'):
        main(['--model', 'ekgnet_bsae'])
    assert not list(Path().glob('*.yaml'))
