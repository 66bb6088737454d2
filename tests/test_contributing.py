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
import numpy as np

from .base import MatSceneDataset
from .download import SceneFile


class Lake(MatSceneDataset):
    """A scene."""

    scene_name = 'Lake'
    directory = 'lake'
    stored_dtype = 'int16'
    stored_shape = (20, 20, 20)
    cube_file = SceneFile('Lake.mat', 'lake')
    labels_file = SceneFile('Lake_gt.mat', 'lake_gt')
    class_names = {1: 'reed', 2: 'water'}
    centres = np.linspace(400, 2400, 20)
''',
    'datamodules/lake.py': '''
from ..datasets import Lake
from .scene import HyperspectralDataModule


class LakeDataModule(HyperspectralDataModule):
    """A data module."""

    scene_dataset = Lake
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
        upper, lower = pixels < label_map.size // 2, pixels >= label_map.size // 2
        val = lower & (pixels % 2 == 1)
        parts = (pixels[part] for part in (upper, val, lower & ~val))
        return Split(self.name, {}, label_map.shape, *parts)
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
    'datamodules/__init__.py': ('from .ksc', 'from .lake import LakeDataModule\n'),
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
import pathlib, numpy, scipy.io, timm, torch, torchgeo_ekgnet
from torchgeo_ekgnet import callbacks, datasets, metrics
from torchgeo_ekgnet.main import main

values = numpy.random.default_rng(0).integers(1, 9, (20, 20, 20)).astype('int16')
scipy.io.savemat('Lake.mat', {'lake': values})
scipy.io.savemat('Lake_gt.mat', {'lake_gt': values[:, :, 0].astype('uint8') % 2 + 1})
assert datasets.Lake('.').scene.class_names == ('reed', 'water')
pathlib.Path('cube.words').write_text('a bb ccc dddd eeeee ffffff a bb')
scene = datasets.open_scene('cube.words')
assert scene.read(0, 2, 0, 2).ravel().tolist() == [1, 2, 3, 4, 5, 6, 1, 2]
network = timm.create_model('tinynet', in_chans=20, num_classes=3).eval()
assert network(torch.zeros(2, 20, 7, 7)).shape == (2, 3)
split = datasets.splits.HalfSplit()(scene.read(0, 2, 0, 2)[:, :, 0].astype('int64'))
assert [split.train.tolist(), split.val.tolist(), split.test.tolist()] == [[0, 1], [3], [2]]
assert 'classes' in [score.key for score in metrics.SCORES]
assert callbacks.Greeting.only_writes
seen = []
callbacks.Greeting.on_validation_end = lambda self, trainer, task: seen.append(
    (type(task.model).__name__, trainer.datamodule.split.protocol, *trainer.callback_metrics)
)
main(
    ['fit', '--model=HyperspectralClassificationTask', '--model.model=tinynet']
    + ['--data=LakeDataModule', '--data.root=.', '--data.patch_size=7']
    + ['--data.split=HalfSplit']
    + ['--trainer.callbacks+=Greeting', '--trainer.fast_dev_run=true']
    + ['--trainer.accelerator=cpu']
)
(network, protocol, *logged), = seen
assert (network, protocol) == ('TinyNet', 'halves') and 'val_classes' in logged
main(['greet'])
"""


def test_what_can_be_added(tmp_path: Path) -> None:
    package = tmp_path / 'torchgeo_ekgnet'
    # With what Python has compiled: most files stay as they are.
    shutil.copytree(PACKAGE, package)
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
    assert result.stdout.endswith('good morning\n')


def test_the_table_names_these_files() -> None:
    text = (PACKAGE.parent / 'CONTRIBUTING.md').read_text()
    for name in LINES:
        assert f'`{name}`' in text
    for name in FILES:
        folder = name.rpartition('/')[0]
        assert f'`{folder}/NAME.py`' in text or not folder
