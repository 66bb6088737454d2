# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The documentation is complete, and its command lines are accepted."""

import argparse
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import torchgeo_ekgnet
from tests.data.public_scenes.data import save_mat
from torchgeo_ekgnet.datamodules import HyperspectralDataModule
from torchgeo_ekgnet.main import main

from .intake.conftest import own_cube, own_labels

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')])

#: Modules that hold commands; they are described on the page of the command line.
COMMAND_MODULES = {'bench', 'cli', 'commands', 'demo', 'main', 'stages'}

#: Programs of others.
OTHERS = {'cd', 'export', 'git', 'jupyter', 'make', 'pip', 'python'}

STAGES = ('fit', 'validate', 'test', 'predict')


def commands() -> Iterator[tuple[str, list[str]]]:
    """Give every command line of the pages, with the page's name."""
    for page in PAGES:
        if page.stem == 'first-hour':
            continue  # its commands run, in tests/test_first_hour.py
        text = page.read_text(encoding='utf-8')
        blocks = re.findall(
            r'^```(shell|console)\n(.*?)^```$', text, re.DOTALL | re.MULTILINE
        )
        for language, block in blocks:
            for line in block.replace('\\\n', ' ').splitlines():
                if language == 'console' and not line.startswith('$ '):
                    continue
                words = shlex.split(line.removeprefix('$ '), comments=True)
                if words:
                    yield page.name, words


class Parsed(Exception):
    """A command line was accepted."""


@pytest.fixture(scope='module')
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: files, and a configuration for them."""
    folder = tmp_path_factory.mktemp('docs')
    save_mat(folder / 'fields.mat', '5', reflectance=own_cube())
    save_mat(folder / 'fields_gt.mat', '5', truth=own_labels())
    (folder / 'torchgeo_ekgnet').symlink_to(ROOT / 'torchgeo_ekgnet')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(['init', 'fields.mat', 'fields_gt.mat'])
        main(['init', 'fields.mat', 'fields_gt.mat', '--output', 'my.yaml'])
    # A run, and a checkpoint with its configuration that was taken out of one.
    run = folder / 'runs' / 'indian_pines' / 'version_0'
    (run / 'checkpoints').mkdir(parents=True)
    shipped = ROOT / 'torchgeo_ekgnet' / 'configs' / 'indian_pines.yaml'
    shutil.copy(shipped, run / 'config.yaml')
    shutil.copy(folder / 'my.yaml', folder / 'config.yaml')
    for path in (run / 'checkpoints' / 'best.ckpt', folder / 'best.ckpt'):
        torch.save({'state_dict': {}}, path)
    return folder


@pytest.mark.parametrize(
    ('page', 'words'),
    [
        pytest.param(*item, id=f'{item[0]}: {" ".join(item[1])[:60]}')
        for item in commands()
    ],
)
def test_command_line_is_accepted(
    page: str,
    words: list[str],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, *args = words
    if program not in ('torchgeo', 'torchgeo-ekgnet'):
        assert program in OTHERS, page
        return
    monkeypatch.chdir(workplace)
    if args[0] in STAGES:
        with pytest.raises(SystemExit) as ended:
            main([*args, '--print_config'])
        assert ended.value.code in (0, None)
        assert yaml.safe_load(capsys.readouterr().out)['data']
        return
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, *given: Any, **more: Any) -> Any:
        parse(self, *given, **more)
        raise Parsed

    def no_work(*given: Any, **more: Any) -> None:
        raise Parsed

    if args[0] != 'repeat':
        monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', only_parse)
    monkeypatch.setattr(HyperspectralDataModule, 'setup', no_work)
    try:
        main(args)
    except Parsed:
        return
    except SystemExit as ended:
        assert ended.code in (0, None)
    assert args[-1] in ('--help', '--version')


def test_api_names_every_subpackage() -> None:
    page = (ROOT / 'docs' / 'api.md').read_text(encoding='utf-8')
    named = set(re.findall(r'automodule:: torchgeo_ekgnet\.(\S+)', page))
    public = {
        module.name
        for module in pkgutil.iter_modules(torchgeo_ekgnet.__path__)
        if not module.name.startswith('_') and module.name not in COMMAND_MODULES
    }
    families = {
        f'models.{module.name}'
        for module in pkgutil.iter_modules(torchgeo_ekgnet.models.__path__)
        if not module.name.startswith('_')
    }
    assert public - {'models'} | families <= named


def test_readme_names_every_subpackage_and_module() -> None:
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    table = '\n'.join(line for line in text.splitlines() if line.startswith('| `'))
    for module in pkgutil.iter_modules(torchgeo_ekgnet.__path__):
        name = f'`{module.name}/`' if module.ispkg else f'`{module.name}.py`'
        if module.name not in ('__main__', '_version'):
            assert name in table


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', text):
        if '://' not in target:
            assert (page.parent / target).exists(), target


def test_scenes_have_a_licence_column() -> None:
    text = (ROOT / 'docs' / 'scenes.md').read_text(encoding='utf-8')
    table = [line for line in text.splitlines() if line.startswith('| `')]
    scenes = [line.strip('| ').split(' | ') for line in table if '.mat' in line]
    assert len(scenes) >= 8
    assert {len(row) for row in scenes} == {7}


def test_loop_of_ones_own() -> None:
    text = (ROOT / 'docs' / 'data-modules.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'^```python\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    small = "patch_size=5, dataset_options={'rows': 20, 'cols': 20, 'num_bands': 8}"
    names: dict[str, Any] = {}
    exec(compile(code.replace('patch_size=5', small), 'page', 'exec'), names)  # noqa: S102
    assert names['patches'].shape == (len(names['labels']), names['sizes'][0], 5, 5)
    assert names['labels'].max() < names['sizes'][1]


def test_quickstart_writes_what_the_commands_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / 'docs' / 'quickstart.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'^```python\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    assert 'patch_size=9' in code
    assert 'max_epochs=24' in code
    small = "patch_size=3, dataset_options={'rows': 20, 'cols': 20, 'num_bands': 8}"
    code = code.replace('patch_size=9', small).replace('max_epochs=24', 'max_epochs=2')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, 'quickstart.md', 'exec'), names)  # noqa: S102
    assert np.isfinite(names['task'].accuracies['test'].overall)
    # What is trained is what the configuration trains, so that scores are alike.
    text = (ROOT / 'torchgeo_ekgnet/configs/quickstart.yaml').read_text(
        encoding='utf-8'
    )
    shipped = yaml.safe_load(text)['data']['init_args']
    data = names['datamodule']
    assert data.protocol.settings.items() >= shipped['split']['init_args'].items()
    for name, value in shipped['augmentation'].items():
        assert getattr(data.augmentation, name) is value
    run = tmp_path / 'runs' / 'quickstart' / 'version_0'
    for name in ('checkpoints/best.ckpt', 'metrics.csv', 'split.npz', 'test.json'):
        assert (run / name).is_file(), name
    for name in ('map.tif', 'map.png', 'confidence.tif', 'report.html'):
        assert list(run.rglob(name)), name
