# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Own scenes of every kind, trained and tested from a configuration file."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.data.arrays import data as arrays
from tests.data.enmap import data as enmap
from tests.data.envi import data as envi
from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.datamodules import LabelledPixelsDataModule
from torchgeo_ekgnet.main import main

CONF = Path(__file__).parents[1] / 'conf' / 'ekgnet.yaml'
CUSTOM = 'torchgeo_ekgnet.datamodules.CustomSceneDataModule'
SPLIT = {
    'class_path': 'torchgeo_ekgnet.datasets.RandomSplit',
    'init_args': {'train': 0.4, 'val': 0.2, 'seed': 3},
}


def envi_with_polygons(root: Path) -> dict[str, Any]:
    envi.make(root)
    envi.polygons(root / 'fields.gpkg', crs='EPSG:4326')
    return {
        'cube': 'scene.hdr',
        'labels': 'fields.gpkg',
        'attribute': 'crop',
        'lazy': True,
    }


def geotiff_with_other_grid(root: Path) -> dict[str, Any]:
    geotiff.make(root)
    geotiff.labels_other_grid(root / 'labels.tif')
    names = {3: 'water', 20: 'forest', 21: 'field'}
    return {'cube': 'scene.tif', 'labels': 'labels.tif', 'class_names': names}


def mat_pair(root: Path) -> dict[str, Any]:
    arrays.make(root)
    return {
        'cube': 'v5.mat',
        'labels': 'v73.mat',
        'bands': [0, 2, 3, 4, 5, 6],
        'cube_variable': 'cube',
        'nodata': 'nan',
    }


def enmap_product(root: Path) -> dict[str, Any]:
    enmap.make(root)
    wanted = {'wavelengths': [[420, 800]], 'exclude': [3]}
    return {
        'cube': f'image/{enmap.NAME}',
        'labels': f'labels/{enmap.LABELS_NAME}',
        'wavelengths': np.linspace(420, 2450, enmap.BANDS).round(2).tolist(),
        'bands': {
            'class_path': 'torchgeo_ekgnet.datasets.BandSelection',
            'init_args': wanted,
        },
    }


def write_config(folder: Path, data: dict[str, Any], name: str) -> str:
    config = yaml.safe_load(CONF.read_text(encoding='utf-8'))
    config['data'] = data
    config['trainer']['max_epochs'] = 1
    config['trainer']['callbacks'][0]['init_args']['name'] = name
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump(config), encoding='utf-8')
    return str(path)


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['torchgeo'])
    monkeypatch.chdir(tmp_path)


def fit_and_test(config: str, name: str) -> dict[str, Any]:
    run = Path('runs') / name / 'version_0'
    main(['fit', '--config', config])
    best = run / 'checkpoints' / 'best.ckpt'
    main(['test', '--config', config, '--ckpt_path', str(best)])
    report: dict[str, Any] = json.loads((run / 'test.json').read_text(encoding='utf-8'))
    return report


@pytest.mark.parametrize(
    ('make', 'classes', 'bands'),
    [
        (envi_with_polygons, ['maize', 'rape', 'wheat'], 11),
        (geotiff_with_other_grid, ['water', 'forest', 'field'], 11),
        (mat_pair, ['class 2', 'class 5'], 6),
        (enmap_product, ['class 1', 'class 2'], 41),
    ],
)
def test_one_config_trains_and_tests(
    tmp_path: Path, make: Any, classes: list[str], bands: int
) -> None:
    options = make(tmp_path / 'data')
    data = {
        'class_path': CUSTOM,
        'init_args': {
            'root': str(tmp_path / 'data'),
            'patch_size': 5,
            'batch_size': 64,
            'split': SPLIT,
            **options,
        },
    }
    report = fit_and_test(write_config(tmp_path, data, 'own'), 'own')
    assert report['class_names'] == classes
    assert len(report['bands']) == bands
    assert report['protocol'] == 'random'
    confusion = np.array(report['confusion_matrix'])
    assert confusion.shape == (len(classes), len(classes))
    assert confusion.sum() > 0


def torchgeo_data(root: Path, **options: Any) -> dict[str, Any]:
    enmap.make(root)
    return {
        'class_path': 'torchgeo_ekgnet.datamodules.LabelledPixelsDataModule',
        'init_args': {
            'image': {
                'class_path': 'torchgeo.datasets.EnMAP',
                'init_args': {
                    'paths': str(root / 'image'),
                    'bands': [f'B{number}' for number in range(1, 21)],
                },
            },
            'labels': {
                'class_path': 'torchgeo_ekgnet.datasets.LabelRaster',
                'init_args': {
                    'paths': str(root / 'labels'),
                    'class_names': {1: 'crop', 2: 'forest'},
                },
            },
            'patch_size': 5,
            'batch_size': 40,
            'train': 0.4,
            'val': 0.2,
            'statistics_pixels': 50,
            **options,
        },
    }


def test_torchgeo_datasets(tmp_path: Path) -> None:
    config = write_config(tmp_path, torchgeo_data(tmp_path / 'data'), 'enmap')
    report = fit_and_test(config, 'enmap')
    assert report['class_names'] == ['crop', 'forest']
    assert report['scene'] == 'EnMAP & LabelRaster'
    assert report['split']['counts']['train'] == [32, 48]
    assert sum(report['counts']) == 202 - (32 + 48) - (16 + 24)


class TestLabelledPixelsDataModule:
    def make(self, root: Path, **options: Any) -> LabelledPixelsDataModule:
        from torchgeo.datasets import EnMAP

        from torchgeo_ekgnet.datasets import LabelRaster

        enmap.make(root)
        return LabelledPixelsDataModule(
            EnMAP(root / 'image', bands=EnMAP.all_bands[:6]),
            LabelRaster(str(root / 'labels')),
            patch_size=5,
            statistics_pixels=40,
            **options,
        )

    def test_draw(self, tmp_path: Path) -> None:
        first, second = (self.make(tmp_path, train=0.5) for _ in range(2))
        first.setup('fit')
        second.setup('test')
        state = first.state_dict()
        assert state['split']['identity'] == second.state_dict()['split']['identity']
        counts = state['split']['counts']
        assert np.sum(list(counts.values()), axis=0).tolist() == [81, 121]
        json.dumps(state)
        other = self.make(tmp_path, train=0.5, seed=2)
        other.setup('test')
        with pytest.raises(ValueError, match='trained with the draw'):
            other.load_state_dict(state)
        other.allow_other_split = True
        other.load_state_dict(state)
        assert other.mean.tolist() == first.mean.tolist()

    def test_blocks_keep_neighbours_together(self, tmp_path: Path) -> None:
        module = self.make(tmp_path, block_size=4, train=0.5, val=0.2)
        module.setup('fit')
        train = module.train_sampler.positions  # type: ignore[union-attr]
        test = module.test_sampler.positions  # type: ignore[union-attr]
        assert len(train) > 60 and len(test) > 20
        origin = np.minimum(train.min(axis=0), test.min(axis=0))
        origin = np.minimum(origin, module.val_sampler.positions.min(axis=0))  # type: ignore[union-attr]
        squares = [
            set(map(tuple, np.floor((part - origin) / 120).astype(int).tolist()))
            for part in (train, test)
        ]
        assert not squares[0] & squares[1]
        assert module.describe()['split']['protocol'] == 'blocks'

    def test_statistics_are_those_of_the_training_pixels(self, tmp_path: Path) -> None:
        module = self.make(tmp_path)
        module.setup('fit')
        batch = next(iter(module.train_dataloader()))
        assert batch['image'].shape[1:] == (6, 5, 5)
        centre = module.aug({'image': batch['image']})['image'][:, :, 2, 2]
        assert centre.mean(dim=0).abs().max() < 0.6
        assert 0.4 < centre.std() < 1.6

    @pytest.mark.parametrize(
        ('options', 'match'),
        [
            ({'train': 0.0}, 'train and val must be positive'),
            ({'train': 0.9, 'val': 0.1}, 'leave pixels to test'),
            ({'block_size': 0}, 'block_size must be at least 1'),
        ],
    )
    def test_wrong_arguments(
        self, tmp_path: Path, options: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(ValueError, match=match):
            self.make(tmp_path, **options)

    def test_wrong_scenes(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='1 class names for 2 classes'):
            self.make(tmp_path, class_names=['one']).setup('fit')
        with pytest.raises(ValueError, match=r"no training pixel of \['class 9'\]"):
            self.make(tmp_path, class_values=[1, 2, 9]).setup('fit')
        with pytest.raises(ValueError, match='makes no map'):
            self.make(tmp_path).setup('predict')
