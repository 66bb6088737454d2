# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The data module of each scene, in Python and on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torchgeo.datamodules import BaseDataModule
from torchgeo.trainers import ClassificationTask

from tests.small import make_trainer
from torchgeo_ekgnet import datamodules
from torchgeo_ekgnet.datamodules import (
    CustomSceneDataModule,
    Houston2013DataModule,
    HyperspectralDataModule,
    IndianPinesDataModule,
    KSCDataModule,
    SalinasADataModule,
)
from torchgeo_ekgnet.datasets import BandSelection, CountSplit, MaskSplit
from torchgeo_ekgnet.transforms import SpectralPCA

from .small import CPU, ready


def test_nested_protocols_on_the_command_line() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(BaseDataModule, 'data')
    datasets = 'torchgeo_ekgnet.datasets'
    config = parser.parse_args(
        [
            '--data=torchgeo_ekgnet.datamodules.SalinasADataModule',
            f'--data.split={datasets}.MatchedSplit',
            f'--data.split.split={datasets}.DisjointSplit',
            '--data.split.split.unserved=drop',
            f'--data.split.to={datasets}.RandomSplit',
        ]
    )
    instantiate = getattr(parser, 'instantiate', parser.instantiate_classes)
    protocol = instantiate(config).data.protocol
    assert protocol.split.name == 'disjoint' and protocol.to.name == 'random'


@pytest.mark.parametrize('written', ['in YAML', 'with class paths', 'as arguments'])
def test_what_can_be_chosen_is_an_object(written: str, tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_argument('--config', action='config')
    parser.add_subclass_arguments(BaseDataModule, 'data')
    chosen: dict[str, tuple[str, dict[str, Any]]] = {
        'normalization': (
            'transforms.SpectralNormalizer',
            {'method': 'snv', 'over': 'train'},
        ),
        'pca': ('transforms.SpectralPCA', {'num_components': 4}),
        'augmentation': ('transforms.PatchAugmentation', {'flips': True, 'gain': 0.1}),
        'sampler': ('samplers.PerClassSampler', {'samples_per_class': 5}),
    }
    arguments: list[str] = []
    options: dict[str, Any] = {}
    for name, (path, values) in chosen.items():
        if written == 'as arguments':
            if name == 'sampler':
                arguments.append(f'--data.sampler={path.split(".")[1]}')
            arguments += [f'--data.{name}.{key}={v}' for key, v in values.items()]
        elif written == 'with class paths' or name == 'sampler':
            full = f'torchgeo_ekgnet.{path}'
            options[name] = {'class_path': full, 'init_args': values}
        else:
            options[name] = values
    config = {
        'data': {
            'class_path': 'torchgeo_ekgnet.datamodules.CustomSceneDataModule',
            'init_args': {'cube': 'a.npy', **options},
        }
    }
    (tmp_path / 'config.yaml').write_text(json.dumps(config))
    parsed = parser.parse_args([f'--config={tmp_path / "config.yaml"}', *arguments])
    instantiate = getattr(parser, 'instantiate', parser.instantiate_classes)
    module = instantiate(parsed).data
    assert repr(module.normalizer) == "SpectralNormalizer(method='snv', over='train')"
    assert repr(module.pca) == 'SpectralPCA(num_components=4, whiten=False)'
    assert module.augmentation.flips and module.augmentation.gain == 0.1
    assert not module.augmentation.turns
    assert repr(module.sampler) == 'PerClassSampler(5, seed=0)'


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--data.split=dase', '--data.split.val=0.2'], None),
        (['--data.split=dase'], "CommunitySplit(masks='dase', val=0.1, seed=1331"),
        (['--data.split=RandomSplit', '--data.split.seed=5'], 'RandomSplit(train=0.6'),
        (
            ['--data.split=CommunitySplit', '--data.split.masks=dase'],
            "CommunitySplit(masks='dase'",
        ),
        (['--data.split=nobody'], None),
    ],
)
def test_split_by_name(arguments: list[str], expected: str | None) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseDataModule, 'data')
    name = '--data=torchgeo_ekgnet.datamodules.IndianPinesDataModule'

    def make() -> Any:
        config = parser.parse_args([name, *arguments])
        return getattr(parser, 'instantiate', parser.instantiate_classes)(config).data

    if expected is None:
        with pytest.raises((ValueError, ArgumentError)):
            make()
    else:
        assert repr(make().protocol).startswith(expected)


class TestScenes:
    def test_indian_pines(self, real_data_dir: Path) -> None:
        module = IndianPinesDataModule(str(real_data_dir), patch_size=7)
        module.setup('fit')
        assert module.split.train.size == 6153
        assert module.num_bands == 200 and module.num_classes == 16
        batch = next(iter(module.train_dataloader()))
        moved = module.transfer_batch_to_device(batch, CPU, 0)
        assert moved['image'].shape == (80, 200, 7, 7)

    def test_salinas_a(self, real_data_dir: Path) -> None:
        module = SalinasADataModule(str(real_data_dir))
        module.setup('test')
        assert module.class_counts('train').tolist() == [196, 672, 308, 763, 337, 400]
        assert len(module.describe()['bands']) == 204

    def test_options_of_the_dataset(self) -> None:
        ksc = KSCDataModule(dataset_options={'repair': False})
        assert ksc.kwargs['repair'] is False
        source = ready(dataset_options={'seed': 5}, noise=0.5).scene.source
        assert 'seed 5' in source and 'noise 0.5' in source
        own = CustomSceneDataModule(dataset_options={'lazy': True}, cube='a.npy')
        assert own.kwargs['lazy'] is True and own.kwargs['cube'] == 'a.npy'

    def test_missing_files(self, tmp_path: Path) -> None:
        from torchgeo.datasets import DatasetNotFoundError

        for cls in (IndianPinesDataModule, KSCDataModule, Houston2013DataModule):
            with pytest.raises(DatasetNotFoundError, match='Dataset not found'):
                cls(str(tmp_path)).setup('fit')

    def test_own_scene(self, tmp_path: Path) -> None:
        generator = np.random.RandomState(0)
        cube = generator.rand(20, 24, 5).astype(np.float32)
        labels = (np.indices((20, 24))[1] // 8 + 1).astype(np.uint8)
        labels[:2] = 9
        scipy.io.savemat(tmp_path / 'field.mat', {'cube': cube, 'gt': labels})
        module = CustomSceneDataModule(
            str(tmp_path),
            cube='field.mat',
            labels='field.mat',
            cube_variable='cube',
            labels_variable='gt',
            unlabelled=[9],
            class_names=['wheat', 'oats', 'rye'],
            patch_size=5,
            split=CountSplit(5, val=3),
        )
        module.setup('fit')
        assert module.scene.class_names == ('wheat', 'oats', 'rye')
        assert module.class_counts().tolist() == [5, 5, 5]

    def test_map_of_a_scene_without_labels(
        self, task: ClassificationTask, tmp_path: Path
    ) -> None:
        """A network maps another image of the same sensor, with its own statistics."""
        generator = np.random.RandomState(0)
        labels = (np.indices((20, 24))[1] // 8 + 1).astype(np.uint8)
        for name in ('first', 'second'):
            np.save(tmp_path / f'{name}.npy', generator.rand(20, 24, 8) + (name > 'g'))
        np.save(tmp_path / 'labels.npy', labels)
        kwargs: dict[str, Any] = {'root': str(tmp_path), 'patch_size': 3}
        first = CustomSceneDataModule(cube='first.npy', labels='labels.npy', **kwargs)
        run = make_trainer(tmp_path)
        run.fit(task, datamodule=first)
        run.save_checkpoint(tmp_path / 'last.ckpt')
        second = CustomSceneDataModule(cube='second.npy', **kwargs)
        predictions: Any = run.predict(
            task, datamodule=second, ckpt_path=tmp_path / 'last.ckpt'
        )
        assert sum(len(batch) for batch in predictions) == 20 * 24
        assert second.split.protocol == 'unlabelled'
        statistics = [m.state_dict()['normalizer']['offset'] for m in (first, second)]
        assert torch.equal(*statistics)
        for stage in ('fit', 'validate', 'test'):
            with pytest.raises(ValueError, match=f'no labelled pixel, and {stage}'):
                CustomSceneDataModule(cube='second.npy', **kwargs).setup(stage)
        learning = CustomSceneDataModule(
            cube='second.npy', pca=SpectralPCA(2), **kwargs
        )
        learning.setup('predict')
        assert learning.num_bands == 2 and learning.num_classes is None
        with pytest.raises(ValueError, match=r'no training pixels.*ckpt_path'):
            learning.predict_dataloader()

    def test_houston_uses_the_official_masks(self, tmp_path: Path) -> None:
        module = Houston2013DataModule(str(tmp_path))
        dataset: Any = type(
            'Dataset',
            (),
            {
                '_find': lambda self, file: tmp_path / file.name,
                'labels_file': module.scene_dataset.labels_file,
                'test_labels_file': module.scene_dataset.test_labels_file,
            },
        )()
        protocol = module._default_protocol(dataset)
        assert isinstance(protocol, MaskSplit)
        assert protocol.settings['train'].endswith('TRLabel.mat')
        assert protocol.settings['test_variable'] == 'TSLabel'

    @pytest.mark.parametrize(
        'name',
        [
            name
            for name in datamodules.__all__
            if isinstance(getattr(datamodules, name), type)
            and issubclass(getattr(datamodules, name), HyperspectralDataModule)
        ],
    )
    def test_command_line(self, name: str) -> None:
        """Every argument can be given on the command line and in YAML."""
        parser = ArgumentParser()
        parser.add_subclass_arguments(BaseDataModule, 'data')
        config = parser.parse_args(
            [
                f'--data=torchgeo_ekgnet.datamodules.{name}',
                '--data.root=folder',
                '--data.batch_size=5',
                '--data.bands={"exclude": [1]}',
                '--data.split=torchgeo_ekgnet.datasets.DisjointSplit',
                '--data.split.guard=centre',
            ]
        )
        arguments = config.data.init_args
        assert arguments.root == 'folder' and arguments.batch_size == 5
        assert arguments.split.init_args.guard == 'centre'
        if name != 'HyperspectralDataModule':
            instantiate = getattr(parser, 'instantiate', parser.instantiate_classes)
            module = instantiate(config).data
            assert module.protocol.guard == 'centre'
            assert module.kwargs['bands'] == BandSelection(exclude=[1])
