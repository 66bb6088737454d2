# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import torchgeo_ekgnet
from torchgeo_ekgnet import _compat


def run_python(code: str, *args: str) -> str:
    result = subprocess.run(
        [sys.executable, '-c', code, *args], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


API = Path(__file__).parents[1] / 'docs/api.md'
DOCUMENTED = sorted(
    set(re.findall(r'automodule:: torchgeo_ekgnet\.(\w+)', API.read_text('utf-8')))
)

#: What a fresh process finds out about the import, printed as JSON.
WATCH = """
import ctypes, json, os, sys, warnings

documented = sys.argv[1:]

calls = []


class Library(ctypes.CDLL):
    def __getattr__(self, name):
        calls.append(name)
        return super().__getattr__(name)


ctypes.CDLL = Library
import timm, torch

def state():
    settings = torch.get_num_threads(), torch.get_default_dtype()
    return list(warnings.filters), settings, dict(os.environ)


before = state()
import torchgeo_ekgnet

heavy = ('torchgeo', 'lightning', 'kornia', 'sklearn', 'rasterio', 'matplotlib')
facts = {
    'same settings': state() == before,
    'heavy': [name for name in heavy if name in sys.modules],
    'models': len(timm.list_models('ekgnet_*')),
    'allocator': 'mallopt' in calls,
}
from torchgeo_ekgnet.layers import keep_freed_memory

facts['kept'] = keep_freed_memory()
facts['allocator then'] = 'mallopt' in calls
facts['listed'] = [name for name in documented if name in dir(torchgeo_ekgnet)]
facts['first use'] = [
    'torchgeo_ekgnet.transforms' in sys.modules,
    torchgeo_ekgnet.transforms.__name__,
    'torchgeo_ekgnet.transforms' in sys.modules,
]
print(json.dumps(facts))
"""


@pytest.fixture(scope='module')
def imported() -> dict[str, Any]:
    """What the import of the package does to a process, and what comes later."""
    facts: dict[str, Any] = json.loads(run_python(WATCH, *DOCUMENTED).splitlines()[-1])
    return facts


def test_import_is_light_and_registers_models(imported: dict[str, Any]) -> None:
    assert imported['heavy'] == []
    assert imported['models'] >= 5


def test_import_leaves_the_allocator_alone(imported: dict[str, Any]) -> None:
    assert not imported['allocator']
    assert imported['allocator then'] == imported['kept']


def test_import_keeps_warnings_and_threads(imported: dict[str, Any]) -> None:
    assert imported['same settings']


def test_subpackages_load_on_first_use(imported: dict[str, Any]) -> None:
    assert imported['first use'] == [False, 'torchgeo_ekgnet.transforms', True]


def test_help_needs_no_torch() -> None:
    out = run_python(
        'import sys\n'
        'sys.argv = ["/somewhere/bin/torchgeo-ekgnet", "--help"]\n'
        'from torchgeo_ekgnet.main import main\n'
        'main()\n'
        'sys.argv[1] = "--version"\n'
        'main()\n'
        'print([name for name in ("numpy", "torch", "timm") if name in sys.modules])'
    )
    assert out.splitlines()[0] == 'usage: torchgeo-ekgnet COMMAND [OPTIONS]'
    assert out.splitlines()[-2].startswith('torchgeo_ekgnet ')
    assert out.splitlines()[-1] == '[]'


def test_help_of_the_module_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / 'torch.py').write_text('raise RuntimeError')
    root = Path(torchgeo_ekgnet.__file__).parents[1]
    out = subprocess.run(
        [sys.executable, '-m', 'torchgeo_ekgnet', '--version'],
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.startswith('torchgeo_ekgnet ')


def test_what_is_documented_is_there_after_the_import(imported: dict[str, Any]) -> None:
    assert {'export', 'intake', 'layers'} <= set(DOCUMENTED)
    assert imported['listed'] == DOCUMENTED
    # Where nothing has imported them: see the test above.
    found = [torchgeo_ekgnet.__getattr__(name).__name__ for name in DOCUMENTED]
    assert found == [f'torchgeo_ekgnet.{name}' for name in DOCUMENTED]


def test_unknown_subpackage() -> None:
    with pytest.raises(AttributeError, match='attics'):
        _ = torchgeo_ekgnet.attics
    assert 'datamodules' in dir(torchgeo_ekgnet)


def test_is_typed() -> None:
    assert Path(torchgeo_ekgnet.__file__).with_name('py.typed').is_file()


@pytest.mark.parametrize('name', _compat.__all__)
def test_compat_offers_every_name(name: str) -> None:
    assert getattr(_compat, name) is not None


def test_compat_refuses_other_names() -> None:
    with pytest.raises(AttributeError, match='nothing_known'):
        _ = _compat.nothing_known


def test_every_file_has_the_licence_header() -> None:
    root = Path(torchgeo_ekgnet.__file__).parents[1]
    header = (
        '# Copyright (c) torchgeo_ekgnet contributors.\n'
        '# Licensed under the MIT License.\n'
    )
    files = [*root.glob('torchgeo_ekgnet/**/*.py'), *root.glob('tests/**/*.py')]
    missing = [
        str(path.relative_to(root))
        for path in files
        if not path.read_text(encoding='utf-8').startswith(header)
    ]
    assert missing == []
