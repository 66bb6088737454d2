# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import pickle
from pathlib import Path
from typing import Any

import lightning
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.io
import timm
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn
from torchgeo.datamodules import BaseDataModule
from torchgeo.trainers import ClassificationTask

from torchgeo_ekgnet import datamodules
from torchgeo_ekgnet.callbacks import ExpertUse
from torchgeo_ekgnet.datamodules import (
    CustomSceneDataModule,
    Houston2013DataModule,
    HyperspectralDataModule,
    IndianPinesDataModule,
    KSCDataModule,
    SalinasADataModule,
    SyntheticSceneDataModule,
)
from torchgeo_ekgnet.datamodules.pixels import PixelBatches, PixelDataset
from torchgeo_ekgnet.datamodules.scene import training_batch_size
from torchgeo_ekgnet.datasets import (
    BandSelection,
    CountSplit,
    DisjointSplit,
    MaskSplit,
    RandomSplit,
    SavedSplit,
    Split,
)
from torchgeo_ekgnet.samplers import ClassBalancedSampler, PerClassSampler
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask
from torchgeo_ekgnet.transforms import (
    PatchAugmentation,
    PatchSource,
    SpectralNormalizer,
    SpectralPCA,
    orient,
)

pytestmark = pytest.mark.filterwarnings('ignore:The number of training batches')

CPU = torch.device('cpu')


def synthetic(**kwargs: Any) -> SyntheticSceneDataModule:
    arguments: dict[str, Any] = {
        'rows': 32,
        'cols': 30,
        'num_bands': 8,
        'num_classes': 3,
        'patch_size': 5,
        'split': RandomSplit(0.2, 0.1),
    }
    return SyntheticSceneDataModule(**{**arguments, **kwargs})


def ready(stage: str = 'fit', **kwargs: Any) -> SyntheticSceneDataModule:
    module = synthetic(**kwargs)
    module.prepare_data()
    module.setup(stage)
    return module


class Linear(nn.Module):
    """A classifier that trains on one sample."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.in_channels = in_chans
        self.fc = nn.Linear(in_chans, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x[:, :, x.shape[2] // 2, x.shape[3] // 2])
        return logits


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> ClassificationTask:
    def create_model(
        name: str, num_classes: int, in_chans: int, **kwargs: Any
    ) -> nn.Module:
        return Linear(num_classes, in_chans)

    monkeypatch.setattr(timm, 'create_model', create_model)
    return ClassificationTask(model='linear', in_channels=8, num_classes=3, lr=0.05)


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    arguments: dict[str, Any] = {
        'accelerator': 'cpu',
        'max_epochs': 1,
        'logger': False,
        'default_root_dir': folder,
        'enable_progress_bar': False,
        'enable_model_summary': False,
    }
    return Trainer(**{**arguments, **kwargs})


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
            trainer(tmp_path, enable_checkpointing=False).fit(task, datamodule=module)
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
        with pytest.warns(UserWarning, match='classes left out'):
            module = ready('test', split=split)
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


class TestTrainer:
    @pytest.mark.parametrize('num_workers', [0, 2])
    def test_plain_task(
        self,
        task: ClassificationTask,
        tmp_path: Path,
        num_workers: int,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        """torchgeo's own task trains, tests and predicts, validation plots included."""
        module = synthetic(
            num_workers=num_workers,
            augmentation=PatchAugmentation(flips=True, turns=True),
        )
        run = trainer(tmp_path, logger=TensorBoardLogger(tmp_path), max_epochs=2)
        run.fit(task, datamodule=module)
        assert run.global_step == 2 * 3
        path = run.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        persistent = [w for w in recwarn if 'persistent_workers' in str(w.message)]
        assert not persistent
        (results,) = run.test(task, datamodule=module, ckpt_path=path, verbose=False)
        assert 0 <= results['test_loss']
        predictions: Any = run.predict(task, datamodule=module, ckpt_path=path)
        assert sum(len(batch) for batch in predictions) == 32 * 30
        assert module.patch_source._cubes == {}

    def test_no_validation_pixels(
        self, task: ClassificationTask, tmp_path: Path
    ) -> None:
        module = synthetic(split=RandomSplit(0.2, 0.0))
        run = trainer(tmp_path, enable_checkpointing=False)
        task.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]
            task.parameters(), lr=0.1
        )
        run.fit(task, datamodule=module)
        assert run.global_step == 3

    def test_distributed(self, task: ClassificationTask, tmp_path: Path) -> None:
        module = synthetic(sampler=PerClassSampler(5), batch_size=4)
        run = trainer(
            tmp_path,
            devices=2,
            strategy='ddp_fork',
            enable_checkpointing=False,
            callbacks=[CountSamples()],
        )
        run.fit(task, datamodule=module)
        assert run.state.finished

    def test_two_processes_score_every_pixel_once(self, tmp_path: Path) -> None:
        """Pixels that do not go round: the same matrix as that of one process."""
        pixels = ready('test').split.test
        split = Split('hand', {}, (32, 30), pixels[:30], pixels[30:31], pixels[31:52])
        task = HyperspectralClassificationTask('ekgnet_tiny')
        module = synthetic(split=split, batch_size=10)
        options: dict[str, Any] = {'enable_checkpointing': False, 'max_epochs': 1}
        kept = [KeepScores(tmp_path / 'one'), ExpertUse()]
        alone = trainer(tmp_path, callbacks=kept, **options)
        alone.fit(task, datamodule=module)
        alone.test(task, datamodule=module, verbose=False)
        scores = [KeepScores(tmp_path / 'two'), ExpertUse()]
        options |= {'devices': 2, 'strategy': 'ddp_fork', 'callbacks': scores}
        trainer(tmp_path, **options).test(task, datamodule=module, verbose=False)
        # One validation pixel: one of the two processes has none.
        trainer(tmp_path, **options).fit(task, datamodule=module)
        for stage, total in (('test', 21), ('val', 1)):
            score = json.loads((tmp_path / 'two' / stage).read_text())
            assert np.sum(score['confusion_matrix']) == total
            assert np.isfinite(score['loss'])
        one, two = (
            json.loads((tmp_path / n / 'test').read_text()) for n in ('one', 'two')
        )
        assert two['confusion_matrix'] == one['confusion_matrix']
        assert two['loss'] == pytest.approx(one['loss'], rel=1e-4)

    @pytest.mark.parametrize('count', [1, 5, 21, 40, 41])
    def test_whole_batches_go_round(self, count: int) -> None:
        positions = np.stack([np.arange(count), np.zeros(count, int)], axis=1)
        batches = PixelBatches(PixelDataset(positions), 10, 2)
        assert len(batches) == 2 * -(-count // 20)
        seen = [batches[index]['row_col'] for index in range(len(batches))]
        assert all(len(part) <= 10 for part in seen)
        rows = [int(row) for part in seen for row in part[:, 0]]
        assert rows == list(range(count))


class KeepScores(lightning.Callback):
    """Writes down what process 0 found in the stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def keep(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if trainer.is_global_zero and stage in pl_module.accuracies:
            scores = pl_module.accuracies[stage].to_dict()
            scores['loss'] = float(trainer.callback_metrics[f'{stage}_loss'])
            (self.folder / stage).write_text(json.dumps(scores))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.keep(trainer, pl_module, 'val')

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.keep(trainer, pl_module, 'test')


class CountSamples(lightning.Callback):
    """Checks inside every process what Lightning made of the data loader."""

    def __init__(self) -> None:
        self.labels: list[int] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.labels += batch['label'].tolist()
        assert batch['image'].shape[1:] == (8, 5, 5)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        mine = torch.tensor(np.bincount(self.labels, minlength=3))
        total = trainer.strategy.reduce(mine.float(), reduce_op='sum')
        # 15 samples are dealt out to two processes, the first one twice.
        assert len(self.labels) == 8
        assert sorted(total.tolist()) == [5, 5, 6]


class TestCheckpoint:
    def save(self, task: ClassificationTask, folder: Path, **kwargs: Any) -> Path:
        run = trainer(folder, enable_checkpointing=False)
        module = synthetic(**kwargs)
        run.fit(task, datamodule=module)
        path = folder / 'last.ckpt'
        run.save_checkpoint(path)
        return path

    def test_state_travels(self, task: ClassificationTask, tmp_path: Path) -> None:
        over = SpectralNormalizer(over='train')
        path = self.save(task, tmp_path, normalization=over)
        checkpoint = torch.load(path, weights_only=False)
        state = checkpoint['SyntheticSceneDataModule']
        module = ready(normalization=over)
        assert state['split']['identity'] == module.split.identity()
        assert state['split']['settings']['seed'] == 1331
        assert state['patch_size'] == 5
        source = PatchSource.from_state(module.scene, state)
        row_col = torch.tensor([[4, 4], [0, 29]])
        assert torch.equal(source.gather(row_col, 'cpu'), module.gather(row_col))

    @pytest.mark.parametrize('stage', ['test', 'validate', 'fit'])
    def test_other_split_is_refused(
        self, task: ClassificationTask, tmp_path: Path, stage: str
    ) -> None:
        path = self.save(task, tmp_path)
        run = trainer(tmp_path, max_epochs=2)
        with pytest.raises(ValueError, match=r'another split.*allow_other_split'):
            getattr(run, stage)(
                task,
                datamodule=synthetic(split=RandomSplit(0.2, 0.1, seed=7)),
                ckpt_path=path,
            )

    def test_a_map_needs_no_split(
        self, task: ClassificationTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No split is drawn, and the statistics are those of the checkpoint."""
        path = self.save(task, tmp_path, normalization=SpectralNormalizer(over='train'))
        first = synthetic(normalization=SpectralNormalizer(over='train'))
        first.setup('fit')
        drawn: list[int] = []
        monkeypatch.setattr(RandomSplit, '__call__', lambda *args: drawn.append(1))
        other = synthetic(
            split=RandomSplit(0.2, 0.1, seed=7),
            normalization=SpectralNormalizer(over='train'),
        )
        trainer(tmp_path).predict(task, datamodule=other, ckpt_path=path)
        assert not drawn and other.describe()['split'] is None
        offsets = [m.normalizer.state_dict()['offset'] for m in (first, other)]
        assert torch.equal(*offsets)

    def test_allowed_when_asked_for(
        self, task: ClassificationTask, tmp_path: Path
    ) -> None:
        path = self.save(task, tmp_path)
        module = synthetic(split=RandomSplit(0.2, 0.1, seed=7), allow_other_split=True)
        with pytest.warns(UserWarning, match='another split'):
            trainer(tmp_path).test(
                task, datamodule=module, ckpt_path=path, verbose=False
            )

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'patch_size': 7}, 'patch_size 5, this data module has 7'),
            ({'padding_mode': 'reflect'}, 'padding_mode'),
            ({'normalization': SpectralNormalizer('minmax')}, 'normalization'),
            ({'normalization': SpectralNormalizer(over='train')}, 'normalization'),
            ({'pca': SpectralPCA(4)}, 'num_bands 8'),
            ({'bands': [0, 1, 2, 3]}, 'num_bands 8'),
            ({'bands': [1, 0, 2, 3, 4, 5, 6, 7]}, 'other bands of the file'),
            ({'pca': SpectralPCA(8)}, 'with pca None'),
        ],
    )
    def test_other_data_are_refused(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        state = ready().state_dict()
        with pytest.raises(ValueError, match=message):
            ready(**arguments).load_state_dict(state)

    def test_state_before_setup(self) -> None:
        module = synthetic(split=RandomSplit(0.2, 0.1, seed=7))
        module.load_state_dict(ready().state_dict())
        with pytest.raises(ValueError, match='another split'):
            module.setup('test')

    def test_statistics_are_taken_over(self) -> None:
        module = ready(pca=SpectralPCA(3))
        state = module.state_dict()
        state['normalizer']['offset'] = state['normalizer']['offset'] + 1
        other = ready(pca=SpectralPCA(3))
        other.load_state_dict(state)
        row_col = torch.tensor([[9, 9]])
        assert not torch.equal(other.gather(row_col), module.gather(row_col))
        assert torch.equal(
            other.state_dict()['normalizer']['offset'], state['normalizer']['offset']
        )

    def test_other_scene(self) -> None:
        state = ready().state_dict()
        state['scene']['name'] = 'Mars'
        with pytest.raises(ValueError, match="trained on scene 'Mars'"):
            ready().load_state_dict(state)

    @pytest.mark.parametrize('options', [{'mixing': 0.0}, {'noise': 0.5}])
    def test_other_cube_under_the_same_labels(self, options: dict[str, Any]) -> None:
        state = ready().state_dict()
        other = ready(**options)
        assert other.split == ready().split
        with pytest.raises(ValueError, match=r'another cube: .*allow_other_split'):
            other.load_state_dict(state)
        other.allow_other_split = True
        with pytest.warns(UserWarning, match='another cube'):
            other.load_state_dict(state)
        # Checkpoints that were written before the digest was are not refused.
        del state['scene']['cube']
        ready(**options).load_state_dict(state)

    def test_other_data_module_is_refused(
        self, task: ClassificationTask, tmp_path: Path
    ) -> None:
        path = self.save(task, tmp_path)
        with pytest.raises(ValueError, match='another data module'):
            trainer(tmp_path).test(task, datamodule=Renamed(), ckpt_path=path)
        with pytest.warns(UserWarning, match='another data module'):
            trainer(tmp_path).test(
                task,
                datamodule=Renamed(allow_other_split=True),
                ckpt_path=path,
                verbose=False,
            )


class Renamed(SyntheticSceneDataModule):
    """The same data under another name."""

    def __init__(self, allow_other_split: bool = False) -> None:
        super().__init__(
            rows=32,
            cols=30,
            num_bands=8,
            num_classes=3,
            patch_size=5,
            split=RandomSplit(0.2, 0.1),
            allow_other_split=allow_other_split,
        )


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
        run = trainer(tmp_path, enable_checkpointing=False)
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
                'labels_file': module.scene_dataset.labels_file,  # type: ignore[union-attr]
                'test_labels_file': module.scene_dataset.test_labels_file,  # type: ignore[union-attr]
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
