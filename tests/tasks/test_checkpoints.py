# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Weights of other runs."""

import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner

from tests.small import (
    BANDS,
    CLASSES,
    FEW,
    PATCH,
    make_batch,
    make_datamodule,
    make_task,
    make_trainer,
)
from torchgeo_ekgnet._compat import ClassificationTask
from torchgeo_ekgnet._files import write_json
from torchgeo_ekgnet._reading import FileError
from torchgeo_ekgnet.callbacks import RunFolder
from torchgeo_ekgnet.checkpoint import read_checkpoint
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask
from torchgeo_ekgnet.transforms import SpectralNormalizer

from ..models.test_ekgnet import released_state

OPTIONS: dict[str, Any] = {'model_options': {**FEW, 'num_experts': 2}}


def fit(folder: Path) -> tuple[HyperspectralClassificationTask, Path]:
    """A task that was trained in this process, and its checkpoint."""
    task = make_task(**OPTIONS, class_weights='balanced')
    trainer = make_trainer(folder, enable_checkpointing=True)
    trainer.fit(task, make_datamodule())
    path = folder / 'task.ckpt'
    trainer.save_checkpoint(path)
    return task, path


@pytest.fixture(scope='module')
def fitted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[HyperspectralClassificationTask, Path]:
    """For tests that neither train it nor change its file."""
    return fit(tmp_path_factory.mktemp('fitted'))


def test_arguments_of_numpy_can_be_read_again(tmp_path: Path) -> None:
    """As ``np.logspace`` gives rates: what else would a training have been for?"""
    half: Any = np.float32(0.5)
    sizes = {'in_channels': np.int64(BANDS), 'num_classes': np.int64(CLASSES)}
    options = {**FEW, 'num_experts': np.int64(2), 'drop_rate': half}
    task = make_task(
        model=np.str_('ekgnet_tiny'), lr=half, model_options=options, **sizes
    )
    share: Any = np.float32(0.25)
    seed: Any = np.int64(3)
    split = RandomSplit(share, share, seed)
    data = make_datamodule(patch_size=np.int64(PATCH), split=split)
    data.setup('fit')
    checkpoint: dict[str, Any] = {
        'state_dict': task.state_dict(),
        'optimizer_states': [{'state': {}, 'param_groups': [{'lr': half}]}],
        'hyper_parameters': dict(task.hparams),
    }
    task.on_save_checkpoint(checkpoint)
    state = data.state_dict()
    torch.save({**checkpoint, 'SyntheticSceneDataModule': state}, tmp_path / 'a.ckpt')
    saved = read_checkpoint(tmp_path / 'a.ckpt')
    assert saved['hyper_parameters']['lr'] == half == 0.5
    assert saved['hyper_parameters']['model_options']['num_experts'] == 2
    split(data.scene.label_map).save(tmp_path / 'split.npz')
    write_json(tmp_path / 'run.json', {'size': np.int64(PATCH), 'share': half})


class TestCheckpoints:
    def test_reload_alone(
        self, fitted: tuple[HyperspectralClassificationTask, Path]
    ) -> None:
        task, path = fitted
        loaded = HyperspectralClassificationTask.load_from_checkpoint(
            path, map_location='cpu', weights_only=True
        )
        assert loaded.is_trained
        image = make_batch()['image']
        torch.testing.assert_close(loaded.eval()(image), task.eval()(image))
        assert loaded.provenance is not None
        assert loaded.provenance.epochs == 1
        assert 'torch' in loaded.provenance.versions

    @pytest.mark.parametrize(
        'kind', [HyperspectralClassificationTask, SyntheticSceneDataModule]
    )
    def test_lightnings_loading_takes_local_files_only(
        self,
        fitted: tuple[HyperspectralClassificationTask, Path],
        kind: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Nor does it run code, or take the name of a folder for an address."""
        fetch = Mock()
        monkeypatch.setattr('torch.hub.load_state_dict_from_url', fetch)
        for address in ('http://127.0.0.1/task.ckpt', 'https://a.org/task.ckpt'):
            with pytest.raises(FileNotFoundError, match=r'found an address \(https?:'):
                kind.load_from_checkpoint(address)
        folder = Path('http_runs')
        monkeypatch.chdir(tmp_path)
        folder.mkdir()
        shutil.copy(fitted[1], folder)
        assert type(kind.load_from_checkpoint('http_runs/task.ckpt')) is kind
        content = torch.load(folder / 'task.ckpt', weights_only=True)
        torch.save({**content, 'x': os.system}, folder / 'bad.ckpt')
        for options in ({}, {'weights_only': False}):
            with pytest.raises(FileError, match=r'names posix\.system'):
                kind.load_from_checkpoint(folder / 'bad.ckpt', **options)
        fetch.assert_not_called()

    def test_test_of_a_checkpoint_made_in_python(
        self, fitted: tuple[HyperspectralClassificationTask, Path], tmp_path: Path
    ) -> None:
        task, path = fitted
        trainer = make_trainer(tmp_path)
        (first,) = trainer.test(task, make_datamodule(), verbose=False)
        again = make_task(**OPTIONS)
        (second,) = make_trainer(tmp_path).test(
            again, make_datamodule(), ckpt_path=str(path), verbose=False
        )
        assert first['test_OA'] == second['test_OA']

    @pytest.mark.parametrize(
        'name', ['module.model.', 'model.module.', 'model._orig_mod.']
    )
    def test_names_of_wrapped_networks(
        self,
        name: str,
        fitted: tuple[HyperspectralClassificationTask, Path],
        tmp_path: Path,
    ) -> None:
        task, path = fitted
        checkpoint = torch.load(path, weights_only=False)
        checkpoint['state_dict'] = {
            key.replace('model.', name, 1): value
            for key, value in checkpoint['state_dict'].items()
        }
        torch.save(checkpoint, tmp_path / 'wrapped.ckpt')
        again = make_task(**OPTIONS)
        make_trainer(tmp_path).test(
            again,
            make_datamodule(),
            ckpt_path=str(tmp_path / 'wrapped.ckpt'),
            verbose=False,
        )
        for key, value in again.state_dict().items():
            assert value.equal(task.state_dict()[key])

    def test_random_weights_are_refused(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        for stage in ('validate', 'test', 'predict'):
            with pytest.raises(ValueError, match=f'{stage}: no checkpoint'):
                getattr(trainer, stage)(make_task(), datamodule=make_datamodule())

    @pytest.mark.parametrize('prefix', ['', 'module.'])
    @pytest.mark.parametrize('released', [False, True])
    def test_weights_of_a_bare_network(
        self, released: bool, prefix: str, tmp_path: Path
    ) -> None:
        name = 'ekgnet_base_reference'
        options: dict[str, Any] = {'block_config': (1, 1, 1)}
        state = released_state((1, 1, 1))
        source = timm.create_model(name, in_chans=200, num_classes=16, **options)
        source.load_state_dict(state)
        if not released:
            state = source.state_dict()
        path = tmp_path / 'net.pth'
        torch.save({f'{prefix}{key}': value for key, value in state.items()}, path)
        with pytest.warns(UserWarning, match='other shapes: .*classifier'):
            task = make_task(
                model=name,
                model_options=options,
                weights=str(path),
                in_channels=103,
                num_classes=9,
            )
        expected = dict(source.named_parameters())
        for key, value in task.model.named_parameters():
            if not key.startswith('classifier.'):
                assert value.equal(expected[key]), key

    def test_loaded_weights_are_scored(self, tmp_path: Path) -> None:
        sizes = {'in_channels': BANDS, 'num_classes': CLASSES}
        task = make_task(**sizes)
        task.load_state_dict(make_task(**sizes).state_dict())
        make_trainer(tmp_path).test(task, make_datamodule(), verbose=False)

    def test_weights_of_another_scene(
        self, fitted: tuple[HyperspectralClassificationTask, Path]
    ) -> None:
        task, path = fitted
        options = {**OPTIONS, 'weights': str(path)}
        same = make_task(in_channels=BANDS, num_classes=CLASSES, **options)
        torch.testing.assert_close(
            dict(same.model.named_parameters()), dict(task.model.named_parameters())
        )
        assert same.is_trained
        with pytest.warns(UserWarning, match='other shapes: .*classifier'):
            other = make_task(in_channels=BANDS + 4, num_classes=7, **options)
        torch.testing.assert_close(
            next(other.model.parameters()), next(task.model.parameters())
        )
        assert not other.is_trained

    @pytest.fixture(params=['weights', 'load_from_checkpoint', 'same process'])
    def trained(
        self,
        request: pytest.FixtureRequest,
        fitted: tuple[HyperspectralClassificationTask, Path],
    ) -> HyperspectralClassificationTask:
        """A trained task, by every way that passes no ``ckpt_path``."""
        task, path = fitted
        match request.param:
            case 'weights':
                return make_task(weights=str(path), **OPTIONS)
            case 'load_from_checkpoint':
                return HyperspectralClassificationTask.load_from_checkpoint(
                    path, map_location='cpu', weights_only=True
                )
            case _:
                return task

    @pytest.mark.parametrize('stage', ['validate', 'test', 'predict'])
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'split': RandomSplit(0.3, 0.2, 4)}, 'another split.*allow_other_split'),
            ({'normalization': SpectralNormalizer('minmax')}, 'normalization'),
        ],
    )
    def test_training_pixels_are_not_scored(
        self,
        trained: HyperspectralClassificationTask,
        stage: str,
        options: dict[str, Any],
        message: str,
        tmp_path: Path,
    ) -> None:
        trainer = make_trainer(tmp_path, callbacks=[RunFolder('small')])
        before = {path.name for path in tmp_path.iterdir()}
        if stage == 'predict' and 'split' in options:
            # A map scores nothing.
            getattr(trainer, stage)(trained, datamodule=make_datamodule(**options))
            return
        with pytest.raises(ValueError, match=message):
            getattr(trainer, stage)(trained, datamodule=make_datamodule(**options))
        # Nor is a run opened for a score that is refused.
        assert {path.name for path in tmp_path.iterdir()} == before
        getattr(trainer, stage)(trained, datamodule=make_datamodule())

    def test_other_split_when_asked_for(
        self,
        trained: HyperspectralClassificationTask,
        fitted: tuple[HyperspectralClassificationTask, Path],
        tmp_path: Path,
    ) -> None:
        """The statistics of the training run are used, whatever the split."""
        if trained is fitted[0]:
            trained, _ = fit(tmp_path)
        split = RandomSplit(0.3, 0.2, 4)
        first, other = (
            make_datamodule(normalization=SpectralNormalizer(over='train'), **options)
            for options in ({}, {'split': split, 'allow_other_split': True})
        )
        make_trainer(tmp_path).fit(trained, first)
        with pytest.warns(UserWarning, match='another split'):
            make_trainer(tmp_path).test(trained, other, verbose=False)
        row_col = torch.tensor([[3, 4]])
        torch.testing.assert_close(other.gather(row_col), first.gather(row_col))

    def test_other_split_is_told_once(
        self, fitted: tuple[HyperspectralClassificationTask, Path], tmp_path: Path
    ) -> None:
        trained, path = fitted
        other = make_datamodule(split=RandomSplit(0.3, 0.2, 4), allow_other_split=True)
        with pytest.warns(UserWarning, match='another split') as caught:
            make_trainer(tmp_path).test(trained, other, ckpt_path=path, verbose=False)
        said = [item for item in caught if 'another split' in str(item.message)]
        assert len(said) == 1

    def test_weights_may_be_tuned_on_another_split(
        self, fitted: tuple[HyperspectralClassificationTask, Path], tmp_path: Path
    ) -> None:
        _, path = fitted
        options = {**OPTIONS, 'weights': str(path)}
        datamodule = make_datamodule(split=RandomSplit(0.3, 0.2, 4))
        task = make_task(**options)
        trainer = make_trainer(tmp_path)
        with pytest.warns(UserWarning, match='may be among those that it has seen'):
            trainer.fit(task, datamodule)
        trainer.test(task, datamodule, verbose=False)
        with pytest.raises(ValueError, match='another split'):
            trainer.test(task, make_datamodule(), verbose=False)

    @pytest.mark.parametrize('within', [False, True])
    def test_goes_on_within_an_epoch(
        self, within: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        """Whose other batches are not those that the epoch would have had."""
        saver = ModelCheckpoint(
            tmp_path, every_n_train_steps=1 if within else None, save_top_k=-1
        )
        trainer = make_trainer(tmp_path, callbacks=[saver], enable_checkpointing=True)
        trainer.fit(make_task(), make_datamodule())
        (path,) = tmp_path.glob('*-step=1.ckpt' if within else '*.ckpt')
        again = make_trainer(tmp_path, max_epochs=2)
        again.fit(make_task(), make_datamodule(), ckpt_path=path)
        told = [str(item.message) for item in recwarn]
        assert any('after 1 of its batches' in text for text in told) == within

    @pytest.mark.filterwarnings('ignore:.*LeafSpec', 'ignore:.*weights_only')
    def test_a_tuner_begins_anew(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        """What it restores was saved before the first batch."""
        tuner = Tuner(make_trainer(tmp_path))
        tuner.lr_find(make_task(), datamodule=make_datamodule(), num_training=2)
        assert not [item for item in recwarn if 'drawn anew' in str(item.message)]

    def test_weights_of_another_task(self, tmp_path: Path) -> None:
        """Of torchgeo's own task, the checkpoint knows the data all the same."""
        plain = ClassificationTask(
            'ekgnet_tiny', in_channels=BANDS, num_classes=CLASSES
        )
        trainer = make_trainer(tmp_path)
        trainer.fit(plain, make_datamodule())
        trainer.save_checkpoint(tmp_path / 'plain.ckpt')
        task = make_task(model_options=None, weights=str(tmp_path / 'plain.ckpt'))
        trainer.test(task, make_datamodule(), verbose=False)
        other = make_datamodule(split=RandomSplit(0.3, 0.2, 4))
        with pytest.raises(ValueError, match='another split'):
            trainer.test(task, other)
        # A file of parameters alone tells nothing of its data.
        torch.save(task.model.state_dict(), tmp_path / 'bare.pth')
        bare = make_task(model_options=None, weights=str(tmp_path / 'bare.pth'))
        trainer.test(bare, other, verbose=False)

    def test_weights_that_nobody_publishes(self) -> None:
        with pytest.raises(ValueError, match='timm publishes no weights of ekgnet'):
            make_task(in_channels=BANDS, num_classes=CLASSES, weights=True)

    def test_missing_weights(self) -> None:
        with pytest.raises(
            FileNotFoundError, match=r'there is no file of weights none\.ckpt'
        ):
            make_task(in_channels=BANDS, num_classes=CLASSES, weights='none.ckpt')
