# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Data modules with a trainer, and in checkpoints."""

import json
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torchgeo.trainers import ClassificationTask

from tests.small import make_task, make_trainer
from torchgeo_ekgnet.callbacks import ExpertUse
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datamodules.batches import PixelBatches, PixelDataset
from torchgeo_ekgnet.datasets import RandomSplit, Split
from torchgeo_ekgnet.samplers import PerClassSampler
from torchgeo_ekgnet.transforms import (
    PatchAugmentation,
    PatchSource,
    SpectralNormalizer,
    SpectralPCA,
)

from .small import KeepScores, ready, synthetic


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
        run = make_trainer(
            tmp_path,
            logger=TensorBoardLogger(tmp_path),
            max_epochs=2,
            enable_checkpointing=True,
        )
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
        run = make_trainer(tmp_path)
        task.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]
            task.parameters(), lr=0.1
        )
        run.fit(task, datamodule=module)
        assert run.global_step == 3

    def test_distributed(self, task: ClassificationTask, tmp_path: Path) -> None:
        module = synthetic(sampler=PerClassSampler(5), batch_size=4)
        run = make_trainer(
            tmp_path, devices=2, strategy='ddp_fork', callbacks=[CountSamples()]
        )
        run.fit(task, datamodule=module)
        assert run.state.finished

    def test_two_processes_score_every_pixel_once(self, tmp_path: Path) -> None:
        """Pixels that do not go round: the same matrix as that of one process."""
        pixels = ready('test').split.test
        split = Split('hand', {}, (32, 30), pixels[:30], pixels[30:31], pixels[31:52])
        task = make_task()
        module = synthetic(split=split, batch_size=10)
        options: dict[str, Any] = {}
        kept = [KeepScores(tmp_path / 'one'), ExpertUse()]
        alone = make_trainer(tmp_path, callbacks=kept, **options)
        alone.fit(task, datamodule=module)
        alone.test(task, datamodule=module, verbose=False)
        scores = [KeepScores(tmp_path / 'two'), ExpertUse()]
        options |= {'devices': 2, 'strategy': 'ddp_fork', 'callbacks': scores}
        make_trainer(tmp_path, **options).test(task, datamodule=module, verbose=False)
        # One validation pixel: one of the two processes has none.
        make_trainer(tmp_path, **options).fit(task, datamodule=module)
        for stage, total in (('test', 21), ('val', 1)):
            score = json.loads((tmp_path / 'two' / stage).read_text())
            assert np.sum(score['confusion_matrix']) == total
            assert np.isfinite(score['loss'])
        one, two = (
            json.loads((tmp_path / n / 'test').read_text()) for n in ('one', 'two')
        )
        assert two['confusion_matrix'] == one['confusion_matrix']
        assert two['loss'] == pytest.approx(one['loss'], rel=1e-4)

    @pytest.mark.parametrize('count', [0, 1, 5, 21, 40, 41])
    def test_whole_batches_go_round(self, count: int) -> None:
        positions = np.stack([np.arange(count), np.zeros(count, int)], axis=1)
        batches = PixelBatches(PixelDataset(positions), 10, 2)
        assert len(batches) == 2 * max(1, -(-count // 20))
        seen = [batches[index]['row_col'] for index in range(len(batches))]
        assert all(len(part) <= 10 for part in seen)
        rows = [int(row) for part in seen for row in part[:, 0]]
        assert rows == list(range(count))


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
        run = make_trainer(folder)
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
        run = make_trainer(tmp_path, max_epochs=2)
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
        make_trainer(tmp_path).predict(task, datamodule=other, ckpt_path=path)
        assert not drawn and other.describe()['split'] is None
        offsets = [m.normalizer.state_dict()['offset'] for m in (first, other)]
        assert torch.equal(*offsets)

    def test_allowed_when_asked_for(
        self, task: ClassificationTask, tmp_path: Path
    ) -> None:
        path = self.save(task, tmp_path)
        module = synthetic(split=RandomSplit(0.2, 0.1, seed=7), allow_other_split=True)
        with pytest.warns(UserWarning, match='another split'):
            make_trainer(tmp_path).test(
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
            ({'bands': [1, 0, 2, 3, 4, 5, 6, 7]}, 'other bands than the scene'),
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
            make_trainer(tmp_path).test(task, datamodule=Renamed(), ckpt_path=path)
        with pytest.warns(UserWarning, match='another data module'):
            make_trainer(tmp_path).test(
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
