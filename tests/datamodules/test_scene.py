# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torchgeo.trainers import ClassificationTask

from tests.small import make_trainer
from torchgeo_ekgnet.datamodules import HyperspectralDataModule
from torchgeo_ekgnet.datamodules.batches import training_batch_size
from torchgeo_ekgnet.datasets import (
    BandSelection,
    CountSplit,
    DisjointSplit,
    RandomSplit,
    SavedSplit,
    Split,
)
from torchgeo_ekgnet.samplers import ClassBalancedSampler, PerClassSampler
from torchgeo_ekgnet.transforms import (
    PatchAugmentation,
    SpectralNormalizer,
    SpectralPCA,
    orient,
)

from .small import CPU, ready, synthetic

pytestmark = pytest.mark.filterwarnings('ignore:The number of training batches')


class TestBatches:
    def test_shapes(self) -> None:
        module = ready(batch_size=16)
        batch = next(iter(module.train_dataloader()))
        assert set(batch) == {'row_col', 'label'}
        moved = module.transfer_batch_to_device(batch, CPU, 0)
        moved = module.on_after_batch_transfer(moved, 0)
        assert moved['image'].shape == (16, 8, 5, 5)
        assert moved['image'].dtype == torch.float32
        assert moved['label'].dtype == torch.int64
        assert module.num_bands == 8 and module.num_classes == 3

    def test_labels_and_patches_belong_together(self) -> None:
        module = ready('test', batch_size=1000)
        batch = next(iter(module.test_dataloader()))
        rows, cols = batch['row_col'].T.numpy()
        found = module.scene.label_map[rows, cols] - 1
        assert np.array_equal(batch['label'].numpy(), found)
        image = module.transfer_batch_to_device(batch, CPU, 0)['image']
        cube = torch.from_numpy(module.scene.cube.astype(np.float64)).flatten(0, 1)
        normal = (cube - cube.mean(0)) / cube.std(0, correction=0)
        centre = normal.reshape(*module.scene.shape)[rows, cols]
        torch.testing.assert_close(
            image[:, :, 2, 2].double(), centre, atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize('num_workers', [0, 2])
    def test_every_pixel_once(self, num_workers: int) -> None:
        module = ready('fit', batch_size=7, num_workers=num_workers)
        for name, loader in (
            ('train', module.train_dataloader()),
            ('val', module.val_dataloader()),
        ):
            positions = torch.cat([batch['row_col'] for batch in loader]).numpy()
            flat = np.sort(positions[:, 0] * 30 + positions[:, 1])
            expected = module.split.indices(name)
            missing = len(expected) - len(flat)
            assert missing == (name == 'train' and len(expected) % 7 == 1)
            assert np.isin(flat, expected).all()

    def test_no_other_sample_is_dropped(self) -> None:
        module = ready(split=CountSplit(7, val=1), batch_size=10)
        sizes = [len(batch['label']) for batch in module.train_dataloader()]
        assert sizes == [10, 10]  # 21 samples: the last one alone cannot be normalised
        module = ready(split=CountSplit(7, val=1), batch_size=19)
        sizes = [len(batch['label']) for batch in module.train_dataloader()]
        assert sizes == [19, 2]

    def test_fewer_pixels_than_a_batch(self) -> None:
        module = ready(split=CountSplit(1, val=1), batch_size=80)
        sizes = [len(batch['label']) for batch in module.train_dataloader()]
        assert sizes == [3]

    def test_training_pixels_are_shuffled(self) -> None:
        module = ready(batch_size=1000)
        torch.manual_seed(0)
        first = next(iter(module.train_dataloader()))['row_col']
        second = next(iter(module.train_dataloader()))['row_col']
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        again = next(iter(module.train_dataloader()))['row_col']
        assert torch.equal(first, again)

    def test_predict_is_every_valid_pixel(self) -> None:
        module = ready('predict', predict_batch_size=100)
        seen = torch.cat([b['row_col'] for b in module.predict_dataloader()])
        assert len(seen) == 32 * 30
        assert len({tuple(pair) for pair in seen.tolist()}) == 32 * 30
        batch = next(iter(module.predict_dataloader()))
        moved = module.transfer_batch_to_device(batch, CPU, 0)
        assert moved['image'].shape == (len(batch['row_col']), 8, 5, 5)

    @pytest.mark.parametrize(('device', 'batch'), [('cpu', 40), ('cuda', 512)])
    def test_a_gpu_scores_and_maps_more_patches_at_once(
        self, device: str, batch: int
    ) -> None:
        strategy = SimpleNamespace(root_device=torch.device(device))
        found = SimpleNamespace(
            strategy=strategy, world_size=1, lightning_module=None, ckpt_path=None
        )
        module = synthetic(batch_size=40)
        module.trainer = cast(Trainer, found)
        for stage in ('test', 'predict'):
            module.setup(stage)
        assert module.test_dataloader().batch_size == batch
        windows = next(iter(module.predict_dataloader()))
        assert (len(windows['row_col']) > 40) == (device == 'cuda')

    def test_images_of_others_pass(self) -> None:
        module = ready()
        batch = {'image': torch.ones(2, 8, 5, 5), 'label': torch.zeros(2)}
        moved = module.transfer_batch_to_device(batch, CPU, 0)
        assert torch.equal(moved['image'], batch['image'])

    @pytest.mark.parametrize('fitted', [False, True])
    def test_pickle(
        self, task: ClassificationTask, tmp_path: Path, fitted: bool
    ) -> None:
        module = synthetic(augmentation=PatchAugmentation(flips=True))
        if fitted:
            make_trainer(tmp_path).fit(task, datamodule=module)
        module.setup('fit')
        module.patch_source.cube(CPU)
        again = pickle.loads(pickle.dumps(module))
        assert again.split == module.split
        row_col = torch.tensor([[0, 0]])
        assert torch.equal(again.gather(row_col), module.gather(row_col))


class TestAugmentation:
    def batch(self, module: HyperspectralDataModule, training: bool) -> Tensor:
        row_col = torch.tensor([[0, 0], [5, 5], [31, 29]] * 10)
        batch = {'row_col': row_col, 'label': torch.zeros(30, dtype=torch.int64)}

        class Stage:
            validating = sanity_checking = testing = predicting = False
            precision_plugin = Precision()

        stage: Any = Stage()
        stage.training = training
        stage.validating = not training
        module.trainer = stage
        moved = module.transfer_batch_to_device(batch, CPU, 0)
        image: Tensor = module.on_after_batch_transfer(moved, 0)['image']
        module.trainer = None
        return image

    def test_off_by_default(self) -> None:
        module = ready()
        assert torch.equal(self.batch(module, True), self.batch(module, False))

    def test_flips_and_turns_are_exact(self) -> None:
        module = ready(augmentation=PatchAugmentation(flips=True, turns=True))
        plain = self.batch(module, False)
        torch.manual_seed(0)
        turned = self.batch(module, True)
        drawn = set()
        for before, after in zip(plain, turned, strict=True):
            matches = [k for k in range(8) if torch.equal(orient(before, k), after)]
            assert matches
            drawn.add(matches[0])
        assert len(drawn) > 4

    def test_spectral(self) -> None:
        module = ready(augmentation=PatchAugmentation(gain=0.1, offset=0.1, noise=0.1))
        plain = self.batch(module, False)
        assert torch.equal(plain, self.batch(ready(), False))
        assert not torch.equal(plain, self.batch(module, True))


class TestOptions:
    def test_train_statistics(self) -> None:
        module = ready(normalization=SpectralNormalizer(over='train'), batch_size=1000)
        batch = next(iter(module.train_dataloader()))
        image = module.transfer_batch_to_device(batch, CPU, 0)['image']
        centre = image[:, :, 2, 2]
        torch.testing.assert_close(centre.mean(0), torch.zeros(8), atol=1e-4, rtol=1e-4)
        other = ready(batch_size=1000)
        assert not torch.allclose(other.gather(batch['row_col']), image)

    @pytest.mark.parametrize('method', ['minmax', 'snv', 'l2', 'none'])
    def test_methods(self, method: Any) -> None:
        module = ready(normalization=SpectralNormalizer(method))
        assert module.gather(torch.tensor([[3, 3]])).isfinite().all()
        assert module.describe()['normalization']['method'] == method

    def test_pca(self) -> None:
        module = ready(pca=SpectralPCA(3, whiten=True))
        assert module.num_bands == 3
        assert module.gather(torch.tensor([[3, 3]])).shape == (1, 3, 5, 5)
        facts = module.describe()['pca']
        assert facts['num_components'] == 3 and 0 < facts['variance_ratio'] <= 1

    def test_bands(self) -> None:
        assert ready(bands=[5, 1]).describe()['bands'] == [5, 1]
        module = ready(bands=BandSelection(exclude=[0, 7]))
        assert module.num_bands == 6

    def test_reflect(self) -> None:
        corner = torch.tensor([[0, 0]])
        zeros = ready().gather(corner)[0]
        mirrored = ready(padding_mode='reflect').gather(corner)[0]
        assert not zeros[:, :2].any() and mirrored[:, :2].all()
        assert torch.equal(mirrored[:, 0, 2], mirrored[:, 4, 2])

    def test_split_object_and_file(self, tmp_path: Path) -> None:
        split = ready().split
        assert ready(split=split).split is split
        path = split.save(tmp_path / 'split.npz')
        assert ready(split=SavedSplit(str(path))).split == split

    def test_class_counts(self) -> None:
        module = ready(split=CountSplit(6, val=2))
        assert module.class_counts().tolist() == [6, 6, 6]
        assert module.class_counts('val').tolist() == [2, 2, 2]

    def test_merged_and_dropped_classes(self) -> None:
        labels = ready().scene.label_map
        empty = np.empty(0, dtype=np.int64)
        pixels = [np.flatnonzero(labels.ravel() == c)[:8] for c in (1, 2, 3)]
        split = Split(
            'own',
            {},
            (32, 30),
            np.concatenate([pixels[0][:4], pixels[2][:4]]),
            empty,
            np.concatenate([pixels[0][4:], pixels[2][4:]]),
            relabel={3: 1},
            dropped=(2,),
        )
        with pytest.warns(UserWarning) as told:
            module = ready('test', split=split)
        names = module.scene.class_names
        assert [str(item.message) for item in told] == [
            f'{module.scene.name}: classes left out: {names[1]!r}',
            f'{module.scene.name}: classes merged: {names[2]!r} into {names[0]!r}',
        ]
        assert module.class_counts().tolist() == [8, 0, 0]
        assert module.num_classes == 3

    @pytest.mark.parametrize(
        ('sampler', 'size'), [(ClassBalancedSampler(), 60), (PerClassSampler(4), 12)]
    )
    def test_samplers(self, sampler: Any, size: int) -> None:
        module = ready(split=CountSplit(20, val=2), sampler=sampler)
        loader = module.train_dataloader()
        assert isinstance(loader.sampler, type(sampler))
        assert sum(len(batch['label']) for batch in loader) == size

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'padding_mode': 'wrap'}, 'padding_mode is'),
            ({'batch_size': 0}, 'batch_size is 0'),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            synthetic(**arguments)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'patch_size': 4}, 'odd'),
            ({'patch_size': 31}, 'patch_size is 31, expected at most'),
            ({'pca': SpectralPCA(9)}, 'at most the 8 bands'),
            ({'bands': [8]}, 'band 8'),
        ],
    )
    def test_bad_for_the_scene(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ready(**arguments)

    def test_before_setup(self) -> None:
        module = synthetic()
        for name in ('scene', 'split', 'patch_source', 'num_bands'):
            with pytest.raises(RuntimeError, match='after setup'):
                getattr(module, name)
        assert module.state_dict() == {}

    def test_no_scene(self) -> None:
        with pytest.raises(TypeError, match='names no scene'):
            HyperspectralDataModule()

    @pytest.mark.parametrize(
        'name', ['normalization', 'pca', 'augmentation', 'sampler', 'split']
    )
    def test_parts_as_dictionaries(self, name: str) -> None:
        found = (
            rf"^{name}: found \{{'flips': 1\}}, expected an instance of [PS][A-Za-z]+"
        )
        with pytest.raises(TypeError, match=found):
            synthetic(**{name: {'flips': 1}})

    def test_describe_is_json(self) -> None:
        module = ready(split=DisjointSplit(unserved='drop', min_pixels=1))
        description = json.loads(json.dumps(module.describe()))
        assert description['scene']['synthetic'] is True
        assert description['split']['protocol'] == 'disjoint'
        assert description['split']['overlap']['shares_training_pixel'] == 0
        assert len(description['split']['counts']['train']) == 3
        assert description['patch_size'] == 5

    def test_plot(self) -> None:
        module = ready('validate', batch_size=4)
        batch = next(iter(module.val_dataloader()))
        batch = module.transfer_batch_to_device(batch, CPU, 0)
        sample = {key: value[0] for key, value in batch.items()}
        sample['prediction'] = torch.tensor(1)
        for kwargs in ({}, {'pca': SpectralPCA(2)}):
            assert ready('validate', **kwargs).plot(dict(sample), suptitle='A patch')
        assert module.plot(module.dataset[0])  # type: ignore[index]
        plt.close('all')


def test_objects_are_not_fitted_for_others() -> None:
    """Two data modules may be given the same objects."""
    normalizer, pca = SpectralNormalizer(over='train'), SpectralPCA(3)
    sampler = PerClassSampler(4)
    for seed in (1, 2):
        split = CountSplit(20, val=2, seed=seed)
        ready(split=split, normalization=normalizer, pca=pca, sampler=sampler)
    assert not normalizer.fitted and pca.mean is None
    with pytest.raises(RuntimeError, match='call bind'):
        len(sampler)


def test_a_training_has_its_own_statistics() -> None:
    """Not those of a checkpoint that mapped the scene before."""
    options: Any = {'normalization': SpectralNormalizer('minmax', over='train')}
    other = ready(split=RandomSplit(0.2, 0.1, seed=9), pca=SpectralPCA(3), **options)
    fresh = ready(pca=SpectralPCA(3), **options)
    module = synthetic(pca=SpectralPCA(3), **options)
    module.setup('predict')
    module.load_state_dict(other.state_dict())
    position = torch.tensor([[4, 5]])
    assert module.gather(position).equal(other.gather(position))
    assert not fresh.gather(position).equal(other.gather(position))
    module.setup('fit')
    assert module.gather(position).equal(fresh.gather(position))


@pytest.mark.parametrize(
    ('pixels', 'expected'),
    [(0, 16), (80, 16), (511, 16), (512, 32), (1031, 64), (5431, 256), (10**6, 256)],
)
def test_batches_that_follow_the_training_pixels(pixels: int, expected: int) -> None:
    assert training_batch_size(pixels) == expected


def test_batch_size_of_none() -> None:
    module = synthetic(batch_size=None)
    module.setup('fit')
    expected = training_batch_size(len(module.split.train))
    assert next(iter(module.train_dataloader()))['label'].shape == (expected,)
    assert module.train_batch_size == expected
    val = next(iter(module.val_dataloader()))['label']
    assert len(val) == min(256, len(module.split.val))
    module.batch_size = 4  # as Lightning's search for a size sets it
    assert next(iter(module.train_dataloader()))['label'].shape == (4,)
