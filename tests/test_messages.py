# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The parser's messages, in a user's words."""

from pathlib import Path

import pytest

from torchgeo_ekgnet.cli import UsageError
from torchgeo_ekgnet.main import main


@pytest.mark.parametrize(
    ('argument', 'found'),
    [
        ('unlabelled: 0', r'--unlabelled: Expected a list, found 0'),
        ("padding_mode: ''", r"Expected one of 'zeros', 'reflect', found ''$"),
        ('nodata_in: few', r"--nodata_in: Expected one of 'any', 'all'"),
        ('patch_size: \'"7"\'', r"expected a number \(int\), found the text '7'$"),
    ],
)
def test_types_are_called_by_their_names(
    tmp_path: Path, argument: str, found: str
) -> None:
    path = tmp_path / 'own.yaml'
    path.write_text(
        'data:\n'
        '  class_path: CustomSceneDataModule\n'
        f'  init_args: {{cube: a.npy, {argument}}}\n'
    )
    with pytest.raises(UsageError, match=found) as caught:
        main(['fit', '--config', str(path)])
    assert 'typing' not in str(caught.value) and 'collections' not in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('a: 1\nb: 2\na: 3\n', r'broken\.yaml, line 3: found the key a a second time'),
        ('a:\n  b: {c: 1, c: 1}\n', r'line 2: found the key c a second time, expected'),
        ('a: &a [1, *a]\n', r'line 1: found an alias of what it is part of, expected'),
        ('a: {011: 1}\n', r'line 1: found 011, which YAML reads as 9, expected'),
        ('a: 07\nb: [1:30]\n', r'line 2: found 1:30, which YAML reads as 90, expected'),
        ('a:\n\tb: 1\n', r"broken\.yaml, line 2: found character '\\t' .*, expected Y"),
        ('a: [1\nb: 2\n', r'broken\.yaml, line 2: found .*, expected YAML'),
        ('- 1\n', r'broken\.yaml: found a list, expected keys'),
        ('', r'broken\.yaml: found nothing, expected keys'),
        ('trainer: {max_epoch: 1}', r"does not accept option 'trainer\.max_epoch'"),
        (
            'trainer: {max_epochs: few}',
            r'--trainer\.max_epochs: Expected a int, found few',
        ),
        ('model: {class_path: no.such.Task}', r"no\.such\.Task: No module named 'no'"),
        (
            'model:\n'
            + '  class_path: HyperspectralClassificationTask\n'
            + '  init_args: {modle: ssrn}\n',
            "'modle' is not accepted; did you mean 'model'",
        ),
    ],
)
@pytest.mark.parametrize('command', ['fit', 'repeat'])
def test_broken_configurations(
    command: str, text: str, found: str, tmp_path: Path
) -> None:
    path = tmp_path / 'broken.yaml'
    path.write_text(text)
    with pytest.raises(UsageError, match=found) as caught:
        main([command, '--config', str(path)])
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ('command', 'expected'),
    [
        ('fit', '--config'),
        ('test', '--ckpt_path RUN/checkpoints/best.ckpt or --config'),
    ],
)
def test_stage_without_arguments_tells_what_to_type(
    command: str, expected: str
) -> None:
    found = f'^{command}: found neither data nor model, expected {expected} .*salinas_a'
    with pytest.raises(UsageError, match=found):
        main([command])


@pytest.mark.parametrize(
    ('arguments', 'found'),
    [
        (
            ['fit', '--data.root', 'd'],
            '--data: found an option and no class that takes it, ',
        ),
        (
            ['fit', '--model.lr', '1'],
            '--model: found an option and no class that takes it, ',
        ),
        (
            ['test', '--data', 'SyntheticSceneDataModule'],
            'test: found no model, expected ',
        ),
    ],
)
def test_part_of_a_configuration_tells_what_to_type(
    arguments: list[str], found: str
) -> None:
    with pytest.raises(
        UsageError, match=f'^{found}.*--config FILE_OR_NAME .*salinas_a'
    ):
        main(arguments)


@pytest.mark.parametrize(
    ('arguments', 'found'),
    [
        (['--model', 'ssrn'], r'network is named by --model\.model ssrn\)$'),
        (['--epochs', '3'], r'mean --trainer\.m.._epochs or --trainer\.m.._epochs\?$'),
        (['--data-root', 'd'], r'did you mean --data\.root\?$'),
        (['--patch-size', '3'], r'did you mean --data\.patch_size\?$'),
        (['salinas_a'], r'did you mean --config salinas_a\?$'),
        (['own.yaml'], r'did you mean --config own\.yaml\?$'),
        (['own.tif'], r'unrecognized arguments: own\.tif$'),
        (['--xyz', '3'], r'unrecognized arguments: --xyz 3$'),
    ],
)
def test_what_novices_type(arguments: list[str], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        main(['fit', '--config', 'quickstart', *arguments])


@pytest.mark.parametrize(
    'option', ['data.patch_size', 'data.root', 'model.lr', 'trainer.max_epochs']
)
def test_option_without_its_part_is_suggested_with_it(option: str) -> None:
    with pytest.raises(UsageError, match=rf'; did you mean --{option}\?$'):
        main(['fit', '--config', 'quickstart', f'--{option.split(".")[1]}', '3'])


def test_configuration_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / 'broken.yaml'
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match=r'broken\.yaml.*expected YAML'):
        main(['fit', '--config', str(path)])
