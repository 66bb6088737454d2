# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from tests.small import (
    BANDS,
    CLASSES,
    FEW,
    PATCH,
    make_batch,
    make_datamodule,
    make_loader,
    make_task,
    make_trainer,
)
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.metrics import Accuracies
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask
from torchgeo_ekgnet.transforms import PatchAugmentation


class TestSizes:
    def test_given_sizes_build_at_once(self) -> None:
        task = make_task(in_channels=BANDS, num_classes=CLASSES)
        assert task.is_built
        assert task(make_batch()['image']).shape == (8, CLASSES)

    def test_unknown_sizes_come_from_the_datamodule(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = make_task()
        with pytest.raises(RuntimeError, match='in_channels, num_classes is unknown'):
            task(torch.zeros(1, BANDS, PATCH, PATCH))
        make_trainer(tmp_path, fast_dev_run=True).fit(task, make_datamodule())
        assert task.is_built
        assert task.hparams['in_channels'] == BANDS
        assert task.hparams['num_classes'] == CLASSES

        # The datamodule of the trainer knows dicts with positions only.
        image = make_batch(2)['image']
        monkeypatch.setattr('lightning.pytorch.core.module._ONNX_AVAILABLE', True)
        monkeypatch.setattr(torch.onnx, 'export', export := Mock())
        task.to_onnx('a.onnx', image)
        assert export.call_args.args[1] is image and task.trainer is not None

    @pytest.mark.parametrize('stage', ['training_step', 'predict_step'])
    @pytest.mark.parametrize(
        ('batch', 'found'),
        [({'row_col': None, 'label': None}, 'row_col, label'), ([1, 2], 'list')],
    )
    def test_loaders_without_their_datamodule(
        self, batch: Any, found: str, stage: str
    ) -> None:
        task = make_task(in_channels=BANDS, num_classes=CLASSES)
        with pytest.raises(ValueError, match=f'batch: found {found}, .*datamodule='):
            getattr(task, stage)(batch, 0)

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
            ({'model': None}, 'model: found None, expected the name'),
            ({'weights': ''}, 'weights: found an empty text'),
            ({'in_channels': 0}, 'in_channels: found 0'),
            ({'num_classes': 1}, 'num_classes: found 1, expected at least 2'),
            ({'class_weights': 'even'}, "class_weights: found 'even'"),
            ({'in_channels': 'words'}, 'in_channels: found words'),
            ({'weight_decay': [1]}, r'weight_decay: found \[1\]'),
            ({'lr': True}, 'lr: found True'),
            ({'class_weights': {'a': 3.0}}, 'class_weights: found nan'),
            ({'lr': 0.0}, 'lr: found 0.0'),
            ({'lr': math.nan}, 'lr: found nan'),
            ({'lr': math.inf}, 'lr: found inf'),
            ({'weight_decay': math.nan}, 'weight_decay: found nan'),
            ({'weight_decay': -0.1}, 'weight_decay: found -0.1'),
            ({'warmup': 1.0}, 'warmup: found 1.0'),
            ({'label_smoothing': math.nan}, 'label_smoothing: found nan'),
            ({'mixup': math.inf}, 'mixup: found inf'),
            ({'loss': 'mse'}, "loss is 'mse', expected one of .'ce', 'focal'"),
            ({'lr_schedule': 'cosin'}, "lr_schedule is 'cosin', expected one of"),
            ({'on_nonfinite': 'ignore'}, "on_nonfinite is 'ignore', expected one of"),
            ({'compile': 'fast'}, "compile is 'fast', expected one of"),
            ({'capture': 'yes'}, "capture is 'yes', expected one of"),
            ({'matmul_precision': 'low'}, "matmul_precision is 'low', expected one of"),
            ({'patience': -1}, 'patience is -1, expected a whole number from 0'),
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
        with pytest.raises((TypeError, ValueError), match=message):
            make_task(**options)

    @pytest.mark.parametrize('given', [torch.tensor([1.0, 2]), np.array([1.0, 2])])
    def test_class_weights_as_arrays_become_a_list(self, given: Any) -> None:
        task = make_task(in_channels=BANDS, num_classes=2, class_weights=given)
        assert task.hparams['class_weights'] == [1.0, 2.0]
        weight = task.criterion.weight
        assert isinstance(weight, torch.Tensor)
        assert weight.tolist() == [1.0, 2.0]

    def test_path_of_weights(self, tmp_path: Path) -> None:
        sizes = {'in_channels': BANDS, 'num_classes': 2}
        with pytest.raises(FileNotFoundError, match=r'absent\.ckpt'):
            make_task(weights=tmp_path / 'absent.ckpt', **sizes)
        with pytest.raises(TypeError, match='weights: found int, expected the path'):
            make_task(weights=3, **sizes)

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


class OwnNetwork(HyperspectralClassificationTask):
    """As torchgeo's users write a task: the network is not one of timm's."""

    def configure_models(self) -> None:
        size = BANDS * PATCH**2
        self.model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(size, CLASSES)
        )


class TestSubclasses:
    @pytest.mark.parametrize('sizes', [{}, {'in_channels': 12, 'num_classes': 3}])
    def test_network_of_its_own(self, sizes: dict[str, Any], tmp_path: Path) -> None:
        task, trainer = OwnNetwork(**sizes), make_trainer(tmp_path)
        with pytest.raises(ValueError, match='test: no checkpoint was given'):
            trainer.test(task, make_datamodule(), verbose=False)
        trainer.fit(task, make_datamodule())
        scores = trainer.test(task, make_datamodule(), verbose=False)
        path = tmp_path / 'own.ckpt'
        trainer.save_checkpoint(path)
        loaded = OwnNetwork.load_from_checkpoint(path)
        assert trainer.test(loaded, make_datamodule(), verbose=False) == scores
        make_trainer(tmp_path).fit(loaded, make_datamodule())

    def test_class_that_no_other_program_finds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A script that trained it is the main program no longer."""

        class Local(HyperspectralClassificationTask):
            pass

        monkeypatch.setattr(OwnNetwork, '__module__', '__main__')
        for task_class in (Local, OwnNetwork):
            task: Any = task_class('ssrn', in_channels=BANDS, num_classes=CLASSES)
            trainer = make_trainer(tmp_path, fast_dev_run=True)
            trainer.fit(task, make_datamodule())
            trainer.save_checkpoint(tmp_path / 'own.ckpt')
            loaded = task_class.load_from_checkpoint(tmp_path / 'own.ckpt')
            assert loaded.is_trained


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

    @pytest.mark.parametrize('options', [{'max_epochs': 2}, {'max_steps': 2}])
    def test_figures_of_fit_are_available_by_name(
        self, options: dict[str, Any], tmp_path: Path
    ) -> None:
        losses: list[tuple[float, int]] = []

        class Watch(Callback):
            def on_train_epoch_start(self, *_: Any) -> None:
                losses.clear()

            def on_train_batch_end(
                self, trainer: Trainer, task: Any, outputs: Any, batch: Any, _: int
            ) -> None:
                losses.append((float(outputs['loss']), len(batch['label'])))

            def on_train_epoch_end(self, trainer: Trainer, task: Any) -> None:
                assert (
                    'train_loss' in trainer.callback_metrics
                ) == trainer.is_last_batch

        trainer = make_trainer(tmp_path, callbacks=[Watch()], **options)
        trainer.fit(make_task(), make_datamodule())
        names = {
            f'{s}_{m}' for s in ('train', 'val') for m in ('OA', 'AA', 'kappa', 'loss')
        }
        if 'max_steps' in options:  # amid an epoch, before its validation
            names = {name for name in names if name.startswith('train')}
        assert names <= set(trainer.callback_metrics)
        values, sizes = zip(*losses, strict=True)
        mean = np.average(values, weights=sizes)
        assert trainer.callback_metrics['train_loss'] == pytest.approx(mean)

    def test_nothing_trained_is_said(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, limit_train_batches=0)
        with pytest.warns(UserWarning, match='found no step to train'):
            trainer.fit(make_task(), make_datamodule())

    def test_predict_step_returns_probabilities(self) -> None:
        task = make_task(in_channels=BANDS, num_classes=CLASSES).eval()
        probabilities = task.predict_step(make_batch(), 0)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(8))


class TestBatchesOfOthers:
    """Loaders that are not those of a data module of this package."""

    @staticmethod
    def loader(image: torch.dtype, label: Any) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        patches = torch.randn(8, BANDS, PATCH, PATCH, generator=generator).to(image)
        samples = [
            {'image': p, 'label': n} for p, n in zip(patches, label, strict=True)
        ]
        return DataLoader(samples, batch_size=4)  # type: ignore[arg-type]

    @pytest.mark.parametrize('image', [torch.float64, torch.float16])
    @pytest.mark.parametrize('label', [torch.int32, torch.int16, torch.uint8])
    def test_types_of_numpy(
        self, tmp_path: Path, image: torch.dtype, label: torch.dtype
    ) -> None:
        numbers = torch.arange(8) % CLASSES
        loader = self.loader(image, numbers.to(label))
        task, trainer = (
            make_task(in_channels=BANDS, num_classes=CLASSES),
            make_trainer(tmp_path),
        )
        trainer.fit(task, loader, loader)
        trainer.test(task, loader, verbose=False)
        predicted: Any = trainer.predict(task, loader)
        assert predicted[0].dtype == torch.float32
        counts = np.bincount(numbers, minlength=CLASSES)
        assert (task.accuracies['test'].confusion.sum(axis=1) == counts).all()

    @pytest.mark.parametrize(
        ('label', 'message'),
        [
            (torch.arange(1, 9), f'found label {CLASSES}, expected classes from 0 to'),
            (torch.arange(8) - 1, 'found label -1, expected classes from 0 to'),
            (torch.zeros(8, 1).long(), r'shape \(4, 1\), expected whole numbers of'),
            (torch.zeros(8), 'type torch.float32 and shape'),
        ],
    )
    def test_what_is_no_class(
        self, tmp_path: Path, label: torch.Tensor, message: str
    ) -> None:
        loader = self.loader(torch.float32, label)
        task = make_task(in_channels=BANDS, num_classes=CLASSES)
        with pytest.raises(ValueError, match=f'the batch: .*{message}'):
            make_trainer(tmp_path).fit(task, loader)


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
    plain = timm.create_model('ekgnet_tiny', in_chans=BANDS, num_classes=CLASSES, **FEW)
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
