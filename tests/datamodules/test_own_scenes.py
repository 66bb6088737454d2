# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Own scenes of every kind, trained and tested from a configuration file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.data.arrays import data as arrays
from tests.data.enmap import data as enmap
from tests.data.envi import data as envi
from tests.data.geotiff import data as geotiff
from torchgeo_ekgnet.main import main
from torchgeo_ekgnet.reproduce.build import built_run

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
    enmap.make(root, bands=40)
    wanted = {'wavelengths': [[420, 800]], 'exclude': [3]}
    return {
        'cube': f'image/{enmap.NAME}',
        'labels': f'labels/{enmap.LABELS_NAME}',
        'wavelengths': np.linspace(420, 2450, 40).round(2).tolist(),
        'bands': {
            'class_path': 'torchgeo_ekgnet.datasets.BandSelection',
            'init_args': wanted,
        },
    }


def configured(data: dict[str, Any], name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CONF.read_text(encoding='utf-8'))
    config['data'] = data
    config['trainer'] |= {'max_epochs': 1, 'num_sanity_val_steps': 0}
    config['trainer']['callbacks'][0]['init_args']['name'] = name
    return config


def own_scene(root: Path, make: Any) -> dict[str, Any]:
    arguments = {'root': str(root), 'patch_size': 5, 'batch_size': 64, 'split': SPLIT}
    return {'class_path': CUSTOM, 'init_args': {**arguments, **make(root)}}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit_and_test(data: dict[str, Any], name: str) -> dict[str, Any]:
    config, run = f'{name}.yaml', Path('runs') / name / 'version_0'
    Path(config).write_text(yaml.safe_dump(configured(data, name)), encoding='utf-8')
    main(['fit', '--config', config])
    best = run / 'checkpoints' / 'best.ckpt'
    main(['test', '--config', config, '--ckpt_path', str(best)])
    report: dict[str, Any] = json.loads((run / 'test.json').read_text(encoding='utf-8'))
    return report


def test_one_config_trains_and_tests(tmp_path: Path) -> None:
    report = fit_and_test(own_scene(tmp_path / 'data', envi_with_polygons), 'own')
    assert report['class_names'] == ['maize', 'rape', 'wheat']
    assert len(report['bands']) == 11
    assert report['protocol'] == 'random'
    confusion = np.array(report['confusion_matrix'])
    assert confusion.shape == (3, 3)
    assert confusion.sum() > 0


@pytest.mark.parametrize(
    ('make', 'classes', 'bands'),
    [
        (geotiff_with_other_grid, ('water', 'forest', 'field'), 11),
        (mat_pair, ('class 2', 'class 5'), 6),
        (enmap_product, ('class 1', 'class 2'), 7),
    ],
)
def test_a_config_of_other_files_gives_patches(
    tmp_path: Path, make: Any, classes: tuple[str, ...], bands: int
) -> None:
    data: Any = built_run(
        configured(own_scene(tmp_path / 'data', make), 'own')
    ).datamodule
    data.setup('fit')
    assert data.scene.class_names == classes
    batch = next(iter(data.train_dataloader()))
    patches = data.gather(batch['row_col'])
    assert patches.shape == (len(batch['label']), bands, 5, 5)
    assert patches.isfinite().all()


@pytest.mark.parametrize(
    ('dataset', 'name', 'bands'),
    [
        ('EnMAP', enmap.NAME, [f'B{number}' for number in range(1, 21)]),
        ('PRISMA', enmap.PRISMA_NAME, None),
    ],
)
def test_torchgeo_datasets(
    tmp_path: Path, dataset: str, name: str, bands: list[str] | None
) -> None:
    root = enmap.make(tmp_path / 'data', name, bands=20)
    options = {'paths': str(root / 'image'), 'bands': bands}
    data = {
        'class_path': 'torchgeo_ekgnet.datamodules.LabelledPixelsDataModule',
        'init_args': {
            'image': {
                'class_path': f'torchgeo.datasets.{dataset}',
                'init_args': options,
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
            'split': SPLIT,
            'statistics_pixels': 10,
        },
    }
    report = fit_and_test(data, 'georeferenced')
    assert report['class_names'] == ['crop', 'forest']
    assert report['scene'] == f'{dataset} & LabelRaster'
    assert report['protocol'] == 'random'
    assert report['split']['counts']['train'] == [33, 49]
    assert sum(report['counts']) == 202 - (33 + 49) - 40
    assert report['overlap']['contains_training_centre'] > 0.9
