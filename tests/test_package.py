# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import subprocess
import sys
from pathlib import Path

import pytest

import torchgeo_ekgnet
from torchgeo_ekgnet import _compat


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_is_light_and_registers_models() -> None:
    heavy = ('torchgeo', 'lightning', 'kornia', 'sklearn', 'rasterio', 'matplotlib')
    out = run_python(
        'import sys, timm, torchgeo_ekgnet\n'
        f'print([name for name in {heavy!r} if name in sys.modules])\n'
        'print(len(timm.list_models("ekgnet_*")))'
    )
    loaded, count = out.splitlines()
    assert loaded == '[]'
    assert int(count) >= 5


def test_import_leaves_the_allocator_alone() -> None:
    watch = (
        'import ctypes\n'
        'calls = []\n'
        'class Library(ctypes.CDLL):\n'
        '    def __getattr__(self, name):\n'
        '        calls.append(name)\n'
        '        return super().__getattr__(name)\n'
        'ctypes.CDLL = Library\n'
        'import torch, warnings, torchgeo_ekgnet\n'
        'from torchgeo_ekgnet.layers import keep_freed_memory\n'
        'print("mallopt" in calls)\n'
    )
    assert run_python(watch) == 'False'
    called = run_python(watch + 'print(keep_freed_memory(), "mallopt" in calls)')
    kept, seen = called.splitlines()[1].split()
    assert kept == seen


def test_import_keeps_warnings_and_threads() -> None:
    out = run_python(
        'import os, warnings, timm, torch\n'
        'state = lambda: (list(warnings.filters), torch.get_num_threads(),'
        ' torch.get_default_dtype(), dict(os.environ))\n'
        'before = state()\n'
        'import torchgeo_ekgnet\n'
        'print(state() == before)'
    )
    assert out == 'True'


def test_subpackages_load_on_first_use() -> None:
    out = run_python(
        'import sys, torchgeo_ekgnet\n'
        'before = "torchgeo" in sys.modules\n'
        'name = torchgeo_ekgnet.tasks.HyperspectralClassificationTask.__name__\n'
        'print(before, name, "torchgeo" in sys.modules)'
    )
    assert out == 'False HyperspectralClassificationTask True'


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
