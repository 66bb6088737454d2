# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""CONTRIBUTING is true: what can be added takes the file and the line that it names."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import torchgeo_ekgnet

PACKAGE = Path(torchgeo_ekgnet.__file__).parent

FILES = {
    'datasets/lake.py': '''
from .base import MatSceneDataset


class Lake(MatSceneDataset):
    """A scene."""

    title = 'Lake'
''',
    'datasets/sources/words.py': """
import numpy as np

from .base import ArraySource


def claims(path):
    return path.suffix == '.words'


def open_source(path, request):
    values = np.array([len(word) for word in path.read_text().split()])
    return ArraySource(values.reshape(2, 2, -1), path)
""",
    'models/tinynet.py': '''
from timm.models import generate_default_cfgs

from ._registration import create_spectral_model, register_network, spectral_cfg
from .ssrn import SSRN


class TinyNet(SSRN):
    """A network."""


default_cfgs = generate_default_cfgs({'tinynet': spectral_cfg()})


@register_network(TinyNet)
def tinynet(pretrained=False, **kwargs):
    """A network."""
    return create_spectral_model(TinyNet, 'tinynet', pretrained, **kwargs)
''',
    'datasets/splits/halves.py': '''
import numpy as np

from .protocol import SplitProtocol
from .split import Split


class HalfSplit(SplitProtocol):
    """The upper half trains."""

    name = 'halves'

    def __call__(self, label_map, patch_size=1):
        pixels = np.flatnonzero(label_map)
        upper = pixels < label_map.size // 2
        empty = pixels[:0]
        shape = label_map.shape
        return Split(self.name, {}, shape, pixels[upper], empty, pixels[~upper])
''',
    'callbacks/greeting.py': '''
from lightning.pytorch import Callback


class Greeting(Callback):
    """Greets."""

    only_writes = True
''',
    'greet.py': '''
import sys


def main(args=None):
    """Greet."""
    sys.stdout.write('good morning\\\\n')
''',
}

LINES = {
    'datasets/__init__.py': ('from .ksc import KSC\n', 'from .lake import Lake\n'),
    'datasets/sources/__init__.py': (
        'raster]\n',
        'from . import words; FORMATS.insert(0, words)\n',
    ),
    'models/__init__.py': ('from .ssrn', 'from .tinynet import TinyNet\n'),
    'datasets/splits/__init__.py': ('from .split', 'from .halves import HalfSplit\n'),
    'callbacks/__init__.py': ('from .run_folder', 'from .greeting import Greeting\n'),
    'metrics.py': (
        'SCORES = (\n',
        "    Score('classes', 'classes', 'classes', lambda a: float(len(a.counts))),\n",
    ),
    'commands.py': (
        "    'inspect': Command",
        "    'greet': Command('greet', 'main', 'greet'),\n",
    ),
}

TRIED = r"""
import pathlib, sys, timm, torch, torchgeo_ekgnet
from torchgeo_ekgnet import callbacks, datasets, metrics
from torchgeo_ekgnet.main import main

assert datasets.Lake.title == 'Lake'
pathlib.Path('cube.words').write_text('a bb ccc dddd eeeee ffffff a bb')
scene = datasets.open_scene('cube.words')
assert scene.read(0, 2, 0, 2).ravel().tolist() == [1, 2, 3, 4, 5, 6, 1, 2]
network = timm.create_model('tinynet', in_chans=20, num_classes=3).eval()
assert network(torch.zeros(2, 20, 7, 7)).shape == (2, 3)
split = datasets.splits.HalfSplit()(scene.read(0, 2, 0, 2)[:, :, 0].astype('int64'))
assert split.train.tolist() == [0, 1] and split.test.tolist() == [2, 3]
assert 'classes' in [score.key for score in metrics.SCORES]
assert callbacks.Greeting.only_writes
main(['greet'])
"""


def test_what_can_be_added(tmp_path: Path) -> None:
    package = tmp_path / 'torchgeo_ekgnet'
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns('__pycache__'))
    for name, text in FILES.items():
        (package / name).write_text(text.replace('\\\\n', '\\n'))
    for name, (anchor, line) in LINES.items():
        text = (package / name).read_text()
        place = re.search(rf'^.*{re.escape(anchor)}', text, re.MULTILINE)
        assert place is not None, (name, anchor)
        at = text.index('\n', place.start()) + 1
        if not anchor.endswith('\n'):
            at = place.start()
        (package / name).write_text(text[:at] + line + text[at:])
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', TRIED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'good morning\n'


def test_the_table_names_these_files() -> None:
    text = (PACKAGE.parent / 'CONTRIBUTING.md').read_text()
    for name in LINES:
        assert f'`{name}`' in text
    for name in FILES:
        folder = name.rpartition('/')[0]
        assert f'`{folder}/NAME.py`' in text or not folder
