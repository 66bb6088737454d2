# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassConfusionMatrix

from torchgeo_ekgnet._compat import ClassificationTask
from torchgeo_ekgnet.callbacks import RunFolder
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit
from torchgeo_ekgnet.metrics import Accuracies, ConfusionCounts
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask
from torchgeo_ekgnet.tasks.losses import balanced_weights, mix
from torchgeo_ekgnet.tasks.schedules import wave
from torchgeo_ekgnet.transforms import PatchAugmentation, SpectralNormalizer

from ..models.test_ekgnet import released_state

BANDS, CLASSES, PATCH = 12, 3, 5


def make_datamodule(**kwargs: Any) -> SyntheticSceneDataModule:
    arguments: dict[str, Any] = {
        'rows': 20,
        'cols': 20,
        'num_bands': BANDS,
        'num_classes': CLASSES,
        'patch_size': PATCH,
        'batch_size': 32,
        'split': RandomSplit(0.3, 0.2, 3),
    }
    return SyntheticSceneDataModule(**{**arguments, **kwargs})


def make_task(**kwargs: Any) -> HyperspectralClassificationTask:
    return HyperspectralClassificationTask(**{'model': 'ekgnet_tiny', **kwargs})


def make_trainer(folder: Path, **kwargs: Any) -> Trainer:
    options: dict[str, Any] = {
        'max_epochs': 1,
        'accelerator': 'cpu',
        'logger': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'enable_checkpointing': False,
        'default_root_dir': folder,
    }
    return Trainer(**{**options, **kwargs})


def make_batch(size: int = 8) -> dict[str, Tensor]:
    return {
        'image': torch.randn(size, BANDS, PATCH, PATCH),
        'label': torch.randint(0, CLASSES, (size,)),
    }


def make_loader(size: int) -> DataLoader[Any]:
    batches: Any = [make_batch(size)]
    return DataLoader(batches, batch_size=None)


class Rates(Callback):
    """Notes the learning rate of every epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]['lr'])


class TestConfusionCounts:
    def test_equals_torchmetrics(self) -> None:
        ours = ConfusionCounts(5, validate_args=False)
        theirs = MulticlassConfusionMatrix(5)
        for size in (7, 64, 1):
            logits, label = torch.randn(size, 5), torch.randint(0, 5, (size,))
            ours.update(logits, label)
            theirs.update(logits, label)
        torch.testing.assert_close(ours.compute(), theirs.compute())
        ours.reset()
        assert ours.compute().sum() == 0

    def test_takes_predicted_classes(self) -> None:
        counts = ConfusionCounts(2, validate_args=False)
        counts.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        assert counts.compute().tolist() == [[1, 1], [0, 1]]

    def test_is_exact_under_autocast(self) -> None:
        counts = ConfusionCounts(2, validate_args=False)
        zeros = torch.zeros(3000, dtype=torch.int64)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            counts.update(zeros, zeros)
        assert counts.compute()[0, 0] == 3000


class TestSizes:
    def test_given_sizes_build_at_once(self) -> None:
        task = make_task(in_channels=BANDS, num_classes=CLASSES)
        assert task.is_built
        assert task(make_batch()['image']).shape == (8, CLASSES)

    def test_unknown_sizes_come_from_the_datamodule(self, tmp_path: Path) -> None:
        task = make_task()
        with pytest.raises(RuntimeError, match='in_channels, num_classes is unknown'):
            task(torch.zeros(1, BANDS, PATCH, PATCH))
        make_trainer(tmp_path, fast_dev_run=True).fit(task, make_datamodule())
        assert task.is_built
        assert task.hparams['in_channels'] == BANDS
        assert task.hparams['num_classes'] == CLASSES

    def test_network_of_fixed_patch_size(self, tmp_path: Path) -> None:
        task = make_task(model='cnn3d', in_channels=BANDS, num_classes=CLASSES)
        assert not task.is_built
        make_trainer(tmp_path, fast_dev_run=True).fit(task, make_datamodule())
        assert task.hparams['model_options'] == {'img_size': PATCH}

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'in_channels': 9}, 'in_channels: the network has 9 bands, .* have 12'),
            ({'num_classes': 7}, 'num_classes: the network has 7 classes, .* have 3'),
            (
                {'model': 'cnn3d', 'model_options': {'img_size': 9}},
                "img_size is 9, the data's patch_size is 5",
            ),
            (
                {'class_weights': [1.0, 2.0]},
                'class_weights: found 2 values, expected 3',
            ),
        ],
    )
    def test_mismatch(
        self, options: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        trainer = make_trainer(tmp_path, fast_dev_run=True)
        with pytest.raises(ValueError, match=message):
            trainer.fit(make_task(**options), make_datamodule())

    def test_sizes_that_nothing_tells(self, tmp_path: Path) -> None:
        loader = make_loader(1)
        with pytest.raises(ValueError, match='in_channels: not given'):
            make_trainer(tmp_path, fast_dev_run=True).fit(make_task(), loader)


class TestArguments:
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'model': 'ekgnet_tniy'}, "timm knows no 'ekgnet_tniy'.*ekgnet_tiny"),
            ({'in_channels': 0}, 'in_channels: found 0'),
            ({'num_classes': 1}, 'num_classes: found 1, expected at least 2'),
            ({'class_weights': 'even'}, "class_weights: found 'even'"),
            ({'lr': 0.0}, 'lr: found 0.0'),
            ({'lr': math.nan}, 'lr: found nan'),
            ({'lr': math.inf}, 'lr: found inf'),
            ({'weight_decay': math.nan}, 'weight_decay: found nan'),
            ({'weight_decay': -0.1}, 'weight_decay: found -0.1'),
            ({'warmup': 1.0}, 'warmup: found 1.0'),
            ({'label_smoothing': math.nan}, 'label_smoothing: found nan'),
            ({'mixup': math.inf}, 'mixup: found inf'),
            ({'mixup': 0.2, 'loss': 'focal'}, "mixup: found it with loss 'focal'"),
            ({'class_weights': [math.nan, 1.0]}, 'class_weights: found nan'),
            ({'class_weights': [1.0, math.inf]}, 'class_weights: found inf'),
            ({'class_weights': [1.0, -1.0]}, 'class_weights: found -1.0'),
            ({'class_weights': [0.0, 0.0]}, r'class_weights: found \[0.0, 0.0\]'),
            ({'model_options': {'in_chans': 3}}, 'model_options: in_chans belongs to'),
            (
                {'class_weights': 'balanced', 'loss': 'focal'},
                "class_weights: found it with loss 'focal', expected it with loss 'ce'",
            ),
            (
                {'class_weights': [1.0, 2.0, 3.0], 'loss': 'jaccard'},
                "class_weights: found it with loss 'jaccard'",
            ),
        ],
    )
    def test_bad_values(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_task(**options)

    def test_unknown_model_option(self) -> None:
        with pytest.raises(ValueError, match=r"model_options: .* option 'num_expert'"):
            make_task(in_channels=BANDS, num_classes=2, model_options={'num_expert': 3})

    def test_model_options_reach_the_network(self) -> None:
        from torchgeo_ekgnet.layers import expert_convs

        sizes = {'in_channels': BANDS, 'num_classes': CLASSES}
        task = make_task(**sizes, model_options={'num_experts': 3})
        assert {conv.weight.shape[0] for _, conv in expert_convs(task)} == {3}
        static = make_task(**sizes, model_options={'conv_layer': 'conv3d'})
        assert not list(expert_convs(static))

    @pytest.mark.parametrize('loss', ['ce', 'focal', 'jaccard'])
    def test_losses(self, loss: str, tmp_path: Path) -> None:
        task = make_task(loss=loss)
        make_trainer(tmp_path, fast_dev_run=True).fit(task, make_datamodule())

    def test_freeze_backbone(self, tmp_path: Path) -> None:
        task = make_task(in_channels=BANDS, num_classes=CLASSES, freeze_backbone=True)
        trained = [name for name, p in task.named_parameters() if p.requires_grad]
        assert trained == ['model.classifier.weight', 'model.classifier.bias']

    def test_hyperparameters_are_those_of_the_constructor(self) -> None:
        import inspect

        task = make_task(in_channels=BANDS, num_classes=CLASSES)
        names = set(inspect.signature(type(task).__init__).parameters)
        assert set(task.hparams) - {'_class_path'} == names - {'self', 'weights'}


class TestClassWeights:
    def test_balanced(self, tmp_path: Path) -> None:
        task, datamodule = make_task(class_weights='balanced'), make_datamodule()
        make_trainer(tmp_path, fast_dev_run=True).fit(task, datamodule)
        counts = datamodule.class_counts('train').double()
        weight = task.criterion.weight
        assert isinstance(weight, Tensor)
        expected = counts.sum() / (CLASSES * counts)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=0)
        assert 'criterion.weight' not in task.state_dict()

    def test_class_without_pixels_weighs_nothing(self) -> None:
        assert balanced_weights(torch.tensor([6, 0, 2])) == [8 / 12, 0.0, 2.0]

    def test_given(self) -> None:
        task = make_task(
            in_channels=BANDS, num_classes=CLASSES, class_weights=[1.0, 2.0, 3.0]
        )
        assert isinstance(task.criterion.weight, Tensor)
        assert task.criterion.weight.tolist() == [1.0, 2.0, 3.0]

    def test_balanced_needs_a_datamodule(self, tmp_path: Path) -> None:
        task = make_task(
            in_channels=BANDS, num_classes=CLASSES, class_weights='balanced'
        )
        loader = make_loader(4)
        with pytest.raises(ValueError, match='class_weights'):
            make_trainer(tmp_path, fast_dev_run=True).fit(task, loader)


class TestMetrics:
    def test_logged_figures_equal_the_definition(self, tmp_path: Path) -> None:
        task, datamodule = make_task(), make_datamodule()
        trainer = make_trainer(tmp_path)
        trainer.fit(task, datamodule)
        (logged,) = trainer.test(task, datamodule, verbose=False)

        task.eval()
        confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
        losses = []
        with torch.no_grad():
            for batch in datamodule.test_dataloader():
                image = datamodule.patch_source.gather(batch['row_col'], 'cpu')
                logits = task(image)
                losses.append(
                    torch.nn.functional.cross_entropy(
                        logits, batch['label'], reduction='none'
                    )
                )
                for true, found in zip(
                    batch['label'].tolist(), logits.argmax(1).tolist(), strict=True
                ):
                    confusion[true, found] += 1
        expected = Accuracies.from_confusion(confusion)
        assert (task.accuracies['test'].confusion == confusion).all()
        assert logged['test_OA'] == pytest.approx(expected.overall)
        assert logged['test_AA'] == pytest.approx(expected.average)
        assert logged['test_kappa'] == pytest.approx(expected.kappa, abs=1e-6)
        mean = torch.cat(losses).mean().item()
        assert logged['test_loss'] == pytest.approx(mean, rel=1e-4)
        assert sum(task.accuracies['test'].counts) == len(datamodule.split.test)

    def test_figures_of_fit_are_available_by_name(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        trainer.fit(make_task(), make_datamodule())
        names = {f'{s}_{m}' for s in ('train', 'val') for m in ('OA', 'AA', 'kappa')}
        assert names | {'train_loss', 'val_loss'} <= set(trainer.callback_metrics)

    def test_predict_step_returns_probabilities(self) -> None:
        task = make_task(in_channels=BANDS, num_classes=CLASSES).eval()
        probabilities = task.predict_step(make_batch(), 0)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(8))


class TestOptimizer:
    @pytest.mark.parametrize(
        ('schedule', 'expected'),
        [
            ('constant', lambda epoch: 1.0),
            ('cosine', lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / 6))),
            (
                'cosine_wave',
                lambda epoch: 0.5 * (1 + math.cos(math.pi * max(epoch - 1, 0) / 15)),
            ),
        ],
    )
    def test_schedules(self, schedule: str, expected: Any, tmp_path: Path) -> None:
        spy = Rates()
        trainer = make_trainer(
            tmp_path,
            max_epochs=6,
            callbacks=[spy],
            limit_train_batches=1,
            limit_val_batches=0,
        )
        trainer.fit(make_task(lr_schedule=schedule, lr=0.01), make_datamodule())
        np.testing.assert_allclose(spy.rates, [0.01 * expected(e) for e in range(6)])

    def test_cosine_of_a_run_that_is_resumed_for_more_epochs(
        self, tmp_path: Path
    ) -> None:
        rates: list[float] = []
        for epochs, path in ((2, None), (5, tmp_path / 'every.ckpt')):
            spy = Rates()
            # With a monitor, an epoch is saved before the schedule goes on.
            every = ModelCheckpoint(
                tmp_path,
                'every',
                monitor='val_loss',
                save_top_k=-1,
                enable_version_counter=False,
            )
            trainer = make_trainer(
                tmp_path,
                max_epochs=epochs,
                callbacks=[spy, every],
                limit_train_batches=1,
                enable_checkpointing=True,
            )
            trainer.fit(make_task(lr=0.01), make_datamodule(), ckpt_path=path)
            rates += spy.rates
        of_five = [0.005 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
        np.testing.assert_allclose(rates, [0.01, 0.005, *of_five[2:]])

    def test_wave_touches_zero_and_returns(self) -> None:
        assert [wave(epoch) for epoch in (0, 1, 31, 61)] == pytest.approx([1] * 4)
        assert [wave(epoch) for epoch in (16, 46, 76)] == pytest.approx([0] * 3)
        assert 5e-4 * wave(79) == pytest.approx(4.8e-5, rel=0.01)

    def test_plateau_follows_the_validation_loss(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        trainer.fit(make_task(lr_schedule='plateau', patience=3), make_datamodule())
        config = trainer.lr_scheduler_configs[0]
        assert config.monitor == 'val_loss'
        assert isinstance(config.scheduler, ReduceLROnPlateau)
        assert config.scheduler.patience == 3

    def test_cosine_needs_a_last_epoch(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, max_epochs=-1, max_steps=2)
        with pytest.raises(
            ValueError, match=r"'cosine' and warmup need trainer\.max_epochs"
        ):
            trainer.fit(make_task(), make_datamodule())

    def test_defaults_are_the_papers(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, fast_dev_run=True)
        trainer.fit(make_task(), make_datamodule())
        (optimizer,) = trainer.optimizers
        assert type(optimizer) is torch.optim.Adam
        assert optimizer.defaults['lr'] == 5e-4
        assert optimizer.defaults['weight_decay'] == 0


class TestRecipe:
    """What is not the paper's, and off by default."""

    def test_weight_decay_spares_what_the_network_names(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, fast_dev_run=True)
        task = make_task(weight_decay=0.05)
        trainer.fit(task, make_datamodule())
        (optimizer,) = trainer.optimizers
        assert type(optimizer) is torch.optim.AdamW
        decayed = {
            id(parameter)
            for group in optimizer.param_groups
            if group['weight_decay'] == 0.05
            for parameter in group['params']
        }
        network: Any = task.model
        spared = network.no_weight_decay()
        assert spared
        for name, parameter in network.named_parameters():
            vector = parameter.ndim <= 1 or name.endswith('.bias')
            assert (id(parameter) in decayed) is not (vector or name in spared), name

    @pytest.mark.parametrize(
        ('schedule', 'expected'),
        [
            ('constant', [1 / 3, 2 / 3, 1, 1, 1, 1]),
            ('cosine', [1 / 3, 2 / 3, 1, 0.8535534, 0.5, 0.1464466]),
        ],
    )
    def test_warmup(self, schedule: str, expected: list[float], tmp_path: Path) -> None:
        spy = Rates()
        trainer = make_trainer(
            tmp_path, max_epochs=6, callbacks=[spy], limit_train_batches=1
        )
        task = make_task(lr_schedule=schedule, lr=0.01, warmup=0.3)
        trainer.fit(task, make_datamodule())
        np.testing.assert_allclose(spy.rates, 0.01 * np.array(expected), rtol=1e-6)

    def test_label_smoothing(self) -> None:
        task = make_task(in_channels=4, num_classes=3, label_smoothing=0.3)
        loss = task.criterion(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([2]))
        log = torch.tensor([0.0, 0.0, 9.0]).log_softmax(0)
        torch.testing.assert_close(loss, -(0.1 * log[0] + 0.1 * log[1] + 0.8 * log[2]))

    @pytest.mark.parametrize('size', [1, 2, 5, 8])
    def test_mixed_patches_and_shares_agree(self, size: int) -> None:
        image, label = torch.randn(size, 2, 3, 3), torch.randint(0, 4, (size,))
        before = image.clone()
        mixed, shares = mix(image, label, 4, alpha=1.0)
        assert image.equal(before)
        assert shares.shape == (size, 4)
        torch.testing.assert_close(shares.sum(1), torch.ones(size))
        # The share of a sample's own label is that of its own patch.
        hot = torch.nn.functional.one_hot(label, 4).float()
        opposite, other = before.flip(0), hot.flip(0)
        for index in range(size):
            difference = before[index] - opposite[index]
            if not difference.any():
                torch.testing.assert_close(mixed[index], before[index])
                torch.testing.assert_close(shares[index], hot[index])
                continue
            own = float(((mixed - opposite)[index] / difference).median())
            expected = own * hot[index] + (1 - own) * other[index]
            torch.testing.assert_close(shares[index], expected, atol=1e-4, rtol=1e-3)

    def test_all_of_it_trains_with_class_weights(self, tmp_path: Path) -> None:
        task = make_task(
            weight_decay=0.05,
            warmup=0.5,
            label_smoothing=0.1,
            mixup=0.3,
            class_weights='balanced',
            lr=5e-3,
        )
        trainer = make_trainer(tmp_path, max_epochs=8)
        trainer.fit(task, make_datamodule())
        assert trainer.callback_metrics['val_OA'] > 0.6


class TestCheckpoints:
    @pytest.fixture
    def fitted(self, tmp_path: Path) -> tuple[HyperspectralClassificationTask, Path]:
        task = make_task(model_options={'num_experts': 2}, class_weights='balanced')
        trainer = make_trainer(tmp_path, enable_checkpointing=True)
        trainer.fit(task, make_datamodule())
        path = tmp_path / 'task.ckpt'
        trainer.save_checkpoint(path)
        return task, path

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

    def test_test_of_a_checkpoint_made_in_python(
        self, fitted: tuple[HyperspectralClassificationTask, Path], tmp_path: Path
    ) -> None:
        task, path = fitted
        trainer = make_trainer(tmp_path)
        (first,) = trainer.test(task, make_datamodule(), verbose=False)
        again = make_task(model_options={'num_experts': 2})
        (second,) = make_trainer(tmp_path).test(
            again, make_datamodule(), ckpt_path=str(path), verbose=False
        )
        assert first['test_OA'] == second['test_OA']

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
        options = {'model_options': {'num_experts': 2}, 'weights': str(path)}
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
                options = {'model_options': {'num_experts': 2}}
                return make_task(weights=str(path), **options)
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
        self, trained: HyperspectralClassificationTask, tmp_path: Path
    ) -> None:
        """The statistics of the training run are used, whatever the split."""
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

    def test_weights_may_be_tuned_on_another_split(
        self, fitted: tuple[HyperspectralClassificationTask, Path], tmp_path: Path
    ) -> None:
        _, path = fitted
        options = {'model_options': {'num_experts': 2}, 'weights': str(path)}
        datamodule = make_datamodule(split=RandomSplit(0.3, 0.2, 4))
        task = make_task(**options)
        trainer = make_trainer(tmp_path)
        trainer.fit(task, datamodule)
        trainer.test(task, datamodule, verbose=False)
        with pytest.raises(ValueError, match='another split'):
            trainer.test(task, make_datamodule(), verbose=False)

    def test_weights_of_another_task(self, tmp_path: Path) -> None:
        """Of torchgeo's own task, the checkpoint knows the data all the same."""
        plain = ClassificationTask(
            'ekgnet_tiny', in_channels=BANDS, num_classes=CLASSES
        )
        trainer = make_trainer(tmp_path)
        trainer.fit(plain, make_datamodule())
        trainer.save_checkpoint(tmp_path / 'plain.ckpt')
        task = make_task(weights=str(tmp_path / 'plain.ckpt'))
        trainer.test(task, make_datamodule(), verbose=False)
        other = make_datamodule(split=RandomSplit(0.3, 0.2, 4))
        with pytest.raises(ValueError, match='another split'):
            trainer.test(task, other)
        # A file of parameters alone tells nothing of its data.
        torch.save(task.model.state_dict(), tmp_path / 'bare.pth')
        bare = make_task(weights=str(tmp_path / 'bare.pth'))
        trainer.test(bare, other, verbose=False)

    def test_weights_that_nobody_publishes(self) -> None:
        with pytest.raises(ValueError, match='timm publishes no weights of ekgnet'):
            make_task(in_channels=BANDS, num_classes=CLASSES, weights=True)

    def test_missing_weights(self) -> None:
        with pytest.raises(FileNotFoundError, match=r'there is no weights none\.ckpt'):
            make_task(in_channels=BANDS, num_classes=CLASSES, weights='none.ckpt')


def test_compile_keeps_the_names_of_the_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def compile_(self: torch.nn.Module, **kwargs: Any) -> None:
        calls.append(kwargs)

    monkeypatch.setattr(torch.nn.Module, 'compile', compile_)
    for mode in (True, 'default', 'reduce-overhead'):
        task = make_task(compile=mode)
        make_trainer(tmp_path, fast_dev_run=True).fit(task, make_datamodule())
    task.setup('test')
    assert calls == [{'dynamic': True}] * 2 + [{'mode': 'reduce-overhead'}]
    task.setup('predict')
    assert len(calls) == 4
    plain = timm.create_model('ekgnet_tiny', in_chans=BANDS, num_classes=CLASSES)
    assert set(task.model.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize('precision', ['64-true', 'bf16-true'])
def test_true_precision(tmp_path: Path, precision: Any) -> None:
    task, trainer = make_task(), make_trainer(tmp_path, precision=precision)
    augmentation = PatchAugmentation(band_gain=0.1, noise=0.1)
    trainer.fit(task, make_datamodule(augmentation=augmentation))
    expected = torch.float64 if precision == '64-true' else torch.bfloat16
    assert {p.dtype for p in task.model.parameters()} == {expected}
    assert torch.isfinite(trainer.callback_metrics['train_loss'])
    trainer.test(task, make_datamodule(), verbose=False)


class DeviceReads(TorchDispatchMode):
    """Note the operators for which a host waits for its device."""

    waiting = frozenset(
        (
            '_local_scalar_dense',
            '_unique',
            '_unique2',
            'bincount',
            'equal',
            'masked_select',
            'nonzero',
            'unique_dim',
        )
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def waits(self) -> list[str]:
        return [name for name in self.seen if name in self.waiting]


class WatchSteps(Callback):
    """Watch forward and backward passes; Adam reads its own counters on the host."""

    def __init__(self, reads: DeviceReads) -> None:
        self.reads = reads

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            # The first transfer has read the cube into memory, once and for all.
            self.reads.seen.clear()
        self.reads.__enter__()  # type: ignore[no-untyped-call]

    def on_before_optimizer_step(self, *args: Any) -> None:
        self.reads.__exit__(None, None, None)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    'options', [{}, {'class_weights': 'balanced'}, {'mixup': 0.3}], ids=str
)
def test_no_step_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Nothing from the transfer of a batch to its backward pass reads a value back."""
    reads = DeviceReads()
    transfer = SyntheticSceneDataModule.transfer_batch_to_device

    def watched(*args: Any) -> Any:
        with reads:
            return transfer(*args)

    monkeypatch.setattr(SyntheticSceneDataModule, 'transfer_batch_to_device', watched)
    trainer = make_trainer(tmp_path, callbacks=[WatchSteps(reads)], limit_val_batches=0)
    trainer.fit(make_task(**options), make_datamodule())
    assert {'index_select', 'native_batch_norm_backward'} <= set(reads.seen)
    assert reads.waits() == []


def test_reads_of_a_device_are_noted() -> None:
    values, reads = torch.ones(2), DeviceReads()
    with reads:
        float(values[0])
        values.nonzero()
        torch.bincount(values.long())
    assert reads.waits() == ['_local_scalar_dense', 'nonzero', 'bincount']
