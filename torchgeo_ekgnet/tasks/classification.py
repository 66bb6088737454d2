# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""torchgeo's classification task with the scores that hyperspectral papers report."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .._compat import ClassificationTask
from .._environment import versions
from .._options import plain_values
from ..calibration import Reliability, ValidationLogits, calibrated
from ..checkpoint import (
    KEY,
    LocalCheckpointIO,
    Provenance,
    ReadsLocally,
    check_same_classes,
    check_same_network,
    check_sizes,
    doubt_part_of_epoch,
    doubt_seen_pixels,
    match_classes,
)
from ..metrics import SCORES, Accuracies, ConfusionCounts
from ..models._weights import compare_weights, network_state
from .arguments import Compile, Precision, check_arguments, plain_arguments
from .capture import Capture, make_capture
from .classes import numbers_in_network
from .entries import class_numbers, entries
from .finite import FiniteWatch, OnNonfinite
from .losses import Loss, MeanLoss, balanced_weights, make_loss, mix, weigh_classes
from .networks import (
    BuildFirst,
    Unbuilt,
    check_model,
    create_network,
    doubt_crops,
    load_weights,
    needs_img_size,
    num_classes_of,
    order_classes,
)
from .optimizers import make_optimizer, repoint
from .precision import MatmulPrecision
from .schedules import LRSchedule, make_schedule
from .sizes import fill_sizes, settle_sizes


class HyperspectralClassificationTask(ReadsLocally, ClassificationTask):
    """Classification of the centre pixel of hyperspectral patches.

    Adds to :class:`torchgeo.trainers.ClassificationTask`:

    * one confusion matrix a stage, from which overall accuracy, average accuracy and
      Cohen's kappa are computed at the end of each epoch (``val_OA``, ``val_AA``,
      ``val_kappa``, the same for ``train`` and ``test``), with nothing that makes the
      host wait for the device at a training step;
    * options of the network that torchgeo does not forward (*model_options*);
    * bands and classes that are taken from the datamodule;
    * the training recipe of arXiv 2504.13045 as defaults: Adam, learning rate 5e-4;
    * a refusal to score or map with random weights.

    Metrics are computed by :class:`~torchgeo_ekgnet.metrics.Accuracies`; those of the
    last finished epoch of a stage are in :attr:`accuracies`.
    """

    #: Scores of the last finished epoch by stage ('train', 'val', 'test').
    accuracies: dict[str, Accuracies]

    #: The training run that made the weights, by which a datamodule refuses to score
    #: pixels that the network has seen; None before fitting or loading.
    provenance: Provenance | None = None

    #: How true the probabilities of the last test were, see
    #: :meth:`~torchgeo_ekgnet.calibration.Reliability.compute`; None before one.
    reliability: dict[str, Any] | None

    _stages: ClassVar[tuple[str, ...]] = ('train', 'val', 'test')

    # Of the class: a subclass may build a network of its own in configure_models.
    _trained = False
    _stepped = False
    _ordered = False

    def __init__(
        self,
        model: str = 'ekgnet_base',
        weights: str | bool | None = None,
        in_channels: int | None = None,
        num_classes: int | None = None,
        loss: Loss = 'ce',
        class_weights: Sequence[float] | Literal['balanced'] | None = None,
        lr: float = 5e-4,
        lr_schedule: LRSchedule = 'cosine',
        patience: int = 10,
        freeze_backbone: bool = False,
        model_options: dict[str, Any] | None = None,
        compile: Compile | bool = False,
        weight_decay: float | None = None,
        warmup: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        on_nonfinite: OnNonfinite = 'stop',
        capture: Literal['auto'] | bool = 'auto',
        matmul_precision: Precision | None = None,
        calibrate: bool = False,
    ) -> None:
        """Initialize a new task.

        Args:
            model: Name of a timm model; importing this package registers its own.
            weights: Path of a checkpoint whose network starts this one (from another
                scene, too: layers whose shapes differ are drawn anew), True for
                weights published through timm, None or False for random weights.
            in_channels: Bands of the patches; None takes them from the datamodule.
            num_classes: Number of classes; None takes it from the datamodule.
            loss: One of 'ce' (cross entropy), 'focal' or 'jaccard'.
            class_weights: Weight of every class in the cross entropy, with *loss* 'ce'
                only; 'balanced' weighs class c with N / (C n_c), n_c of the N training
                pixels.
            lr: Learning rate of Adam.
            lr_schedule: 'cosine' falls from *lr* to 0 over the epochs of the trainer;
                'constant' keeps *lr*; 'cosine_wave' is what the released program does
                under current PyTorch, a cosine that returns every 30 epochs;
                'plateau' divides by 10 when the validation loss has not improved for
                *patience* epochs. ``optimizer`` and ``lr_scheduler`` of the command
                line replace Adam and this.
            patience: Epochs that 'plateau' waits.
            freeze_backbone: Train the classifier only.
            model_options: Further arguments of ``timm.create_model``, such as
                ``{'num_experts': 8, 'conv_layer': 'conv3d', 'drop_rate': 0.1}``.
            compile: Compile the network with ``torch.compile`` to train it and to
                predict a map: True or 'default' for one graph of any batch size,
                'reduce-overhead' for CUDA graphs, 'max-autotune' for searched kernels.
            weight_decay: Decay of AdamW, of which the network exempts some parameters;
                None for Adam (the paper).
            warmup: Share of the epochs, from 0 to below 1, in which the learning rate
                of 'cosine' and 'constant' rises.
            label_smoothing: Share of every label that goes to all classes alike, with
                *loss* 'ce' only.
            mixup: Training patches are mixed in pairs, with shares of a beta
                distribution of these parameters (Zhang et al. 2018), with *loss* 'ce'
                only; 0 for off.
            on_nonfinite: What happens if the loss is NaN or infinite: 'stop' ends the
                training, 'skip' leaves the step out (of its gradients, too; the host
                then waits for the device at every step).
            capture: Whether forward and backward pass run as CUDA graphs for the batch
                size that comes most: 'auto' on a GPU where nothing is against it, True
                to be told why where it is not possible, False for never.
            matmul_precision: What products and convolutions of float32 may round to on
                a GPU while the task runs: 'highest' for float32, 'high' for TF32,
                'medium' for bfloat16 products; None leaves PyTorch's settings (float32
                products, TF32 convolutions).
            calibrate: Fit a temperature after every validation, which checkpoints keep
                and by which logits are divided in test, prediction and export: classes
                stay, probabilities become those of the validation pixels. Without
                validation pixels nothing is fitted.

        Raises:
            ValueError: If an argument has no meaning; the message names it.
        """
        # Lightning keeps what the arguments are now in checkpoints.
        weights, class_weights = plain_arguments(weights, class_weights)
        super().__init__(weights=weights)
        # Arguments of torchgeo's class that this one lacks must not reach checkpoints,
        # and the command line wants to know the class of a task built in Python.
        theirs, ours = (
            set(signature(task.__init__).parameters)
            for task in (ClassificationTask, HyperspectralClassificationTask)
        )
        for name in (theirs - ours) & set(self.hparams):
            del self.hparams[name]
        cls = type(self)
        if cls.__module__ != '__main__' and '<locals>' not in cls.__qualname__:
            # Of a script or a function, no other program finds it under that name.
            path = f'{cls.__module__}.{cls.__qualname__}'
            self.hparams.setdefault('_class_path', path)
        self.accuracies = {}
        self.reliability = None
        self._watch = FiniteWatch(self.hparams['on_nonfinite'] == 'skip')
        self._losses = MeanLoss()
        self._classes_of_data = False
        self._capture: Capture | None = None
        self._matmul = MatmulPrecision()
        # Number of each class of the data in the network; None if they are the same.
        self._numbers: Tensor | None = None

    @property
    def is_built(self) -> bool:
        """Whether bands and classes are known and the network exists."""
        return not isinstance(self.model, Unbuilt)

    @property
    def is_trained(self) -> bool:
        """Whether the weights were trained in this process or loaded."""
        return self._trained

    @property
    def _datamodule(self) -> Any:
        """What gives the trainer its data; None for loaders, or without a trainer."""
        return getattr(self._trainer, 'datamodule', None)

    @property
    def _trained_on(self) -> Mapping[str, Any] | None:
        """State of the data that the network was trained on; None if not known."""
        return None if self.provenance is None else self.provenance.data

    def configure_models(self) -> None:
        """Build the network, or wait for the datamodule to tell its sizes."""
        check_arguments(self.hparams)
        name = self.hparams['model']
        check_model(name)
        options = dict(self.hparams['model_options'] or {})
        unknown = [
            key for key in ('in_channels', 'num_classes') if self.hparams[key] is None
        ]
        if needs_img_size(name) and 'img_size' not in options:
            unknown.append('img_size')
        if unknown:
            self.model = Unbuilt(unknown)
            return

        self.model = create_network(
            name,
            self.hparams['in_channels'],
            self.hparams['num_classes'],
            options,
            pretrained=self.weights is True,
        )
        if isinstance(self.weights, str) and self.weights:
            self._trained, provenance = load_weights(self.model, self.weights)
            self.provenance = provenance if self._trained else None
        if self.hparams['freeze_backbone']:
            self.model.requires_grad_(False)
            self.model.get_classifier().requires_grad_(True)

    def configure_losses(self) -> None:
        """Create the loss; 'balanced' weights follow when the split is known."""
        self.criterion = make_loss(
            self.hparams['loss'], self.hparams['label_smoothing']
        )
        weights = self.hparams['class_weights']
        if weights is not None and weights != 'balanced':
            weigh_classes(self.criterion, weights, self.hparams['num_classes'])

    def configure_metrics(self) -> None:
        """Create one confusion matrix a stage."""
        if self.hparams['num_classes'] is None:
            return
        for stage in self._stages:
            counts = ConfusionCounts(self.hparams['num_classes'], validate_args=False)
            setattr(self, f'{stage}_confusion', counts)
        self.test_reliability = Reliability()
        self.val_logits = ValidationLogits()

    def build(self, stage: str) -> None:
        """Settle bands, classes and class weights with the datamodule.

        ``setup`` does it; for a training :class:`BuildFirst` has asked for it before.

        Args:
            stage: One of 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: If the network does not fit the data, or if something is
                neither given nor known to the datamodule.
        """
        datamodule = self._datamodule
        data = {
            'in_channels': getattr(datamodule, 'num_bands', None),
            # A scene without labels does not say which classes there are.
            'num_classes': getattr(datamodule, 'num_classes', None) or None,
            'img_size': getattr(datamodule, 'patch_size', None),
        }
        if stage != 'fit':
            # The network's classes are matched with those of the data.
            number = self.hparams['num_classes'] or num_classes_of(self.weights)
            data['num_classes'] = number or data['num_classes']
        filled = settle_sizes(self.hparams, data, checkpoint_may_tell=stage != 'fit')
        self._classes_of_data |= 'num_classes' in filled
        built = self.is_built
        if not built:
            self.configure_models()
            repoint(vars(self).get('configure_optimizers'), self.model)
        if not built or 'num_classes' in filled:
            self.configure_metrics()
        if stage != 'predict':  # no loss, and no split to count classes in
            self._settle_classes(stage)

    def _settle_classes(self, stage: str) -> None:
        """Order a head that was loaded, and weigh classes, as the data have them."""
        datamodule, trained = self._datamodule, self._trained_on
        others = getattr(datamodule, 'num_classes', None) != self.hparams['num_classes']
        if trained and hasattr(datamodule, 'describe'):
            scene = datamodule.describe()['scene']
            others |= trained['scene']['class_names'] != scene['class_names']
            if stage == 'fit' and not self._ordered:
                order_classes(self.model, match_classes(trained['scene'], scene))
                self._ordered = True
        weights = self.hparams['class_weights']
        if weights == 'balanced':
            if stage != 'fit' and others:
                return  # the counts are those of other classes
            if hasattr(datamodule, 'class_counts'):
                weights = balanced_weights(datamodule.class_counts('train'))
            elif stage == 'fit':
                raise ValueError(
                    "class_weights: 'balanced' needs a datamodule with class_counts(), "
                    f'found {type(datamodule).__name__}'
                )
            else:
                return
        if weights is not None:
            weigh_classes(self.criterion, weights, self.hparams['num_classes'])

    def configure_callbacks(self) -> list[Callback]:
        """Let the network exist when other callbacks copy or change it."""
        callbacks = cast(Any, self.trainer).callbacks
        if not any(isinstance(callback, BuildFirst) for callback in callbacks):
            callbacks.insert(0, BuildFirst())
        return []

    def setup(self, stage: str) -> None:
        """Build what waits for the data, and compile the network if asked to."""
        self._read_locally()
        self._numbers = None  # those of an earlier test, of other data
        self.build(stage)
        self._matmul.set(self.hparams['matmul_precision'])
        if stage == 'fit' and self.provenance is not None:
            # That of weights which are about to change.
            self.provenance = replace(self.provenance, temperature=None)
        if self.is_built:
            self._hasten(stage)

    def _hasten(self, stage: str) -> None:
        """Compile the network if asked to, or let it be captured."""
        mode = self.hparams['compile']
        if mode and stage in ('fit', 'predict'):
            # In place: the state dict keeps its names.
            one_graph = mode in (True, 'default')
            self.model.compile(**({'dynamic': True} if one_graph else {'mode': mode}))
        if self._trainer is not None:
            self._capture = make_capture(
                self.model, self._trainer, self.hparams, stage == 'fit'
            )

    def teardown(self, stage: str) -> None:
        """Give graphs back, and PyTorch's settings."""
        if self._capture is not None:
            self._capture.clear()
        self._capture = None
        self._matmul.restore()

    def _logits(self, image: Tensor) -> Tensor:
        """Run the network; the logits are valid until its next run."""
        network = self if self._capture is None else self._capture
        if image.is_floating_point():
            # NumPy's doubles, unless the weights are doubles as well.
            image = image.to(next(self.model.parameters()).dtype)
        logits: Tensor = network(image)
        return logits

    def _read_locally(self) -> None:
        """Let the trainer read checkpoints as this package does."""
        strategy = getattr(self._trainer, 'strategy', None)
        if strategy is None:
            return
        writer = strategy.checkpoint_io
        if not isinstance(writer, LocalCheckpointIO):
            strategy.checkpoint_io = LocalCheckpointIO(writer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create optimizer and learning-rate schedule, stepped once an epoch."""
        optimizer = make_optimizer(
            self.model,
            self.hparams['lr'],
            self.hparams['weight_decay'],
            fused=self._fuses_optimizer(),
        )
        schedule = make_schedule(
            self.hparams['lr_schedule'],
            optimizer,
            self.trainer.max_epochs,
            self.hparams['patience'],
            self.hparams['warmup'],
        )
        if schedule is None:
            return optimizer
        config: dict[str, Any] = {'scheduler': schedule}
        if isinstance(schedule, ReduceLROnPlateau):
            config['monitor'] = self.monitor
        return cast(
            OptimizerLRScheduler, {'optimizer': optimizer, 'lr_scheduler': config}
        )

    def _fuses_optimizer(self) -> bool:
        """Tell whether one kernel updates all parameters.

        Lightning cannot clip gradients of mixed precision for such an optimizer.
        """
        mixed = isinstance(self.trainer.precision_plugin, MixedPrecision)
        clipped = self.trainer.gradient_clip_val is not None
        return self.device.type in ('cpu', 'cuda') and not (mixed and clipped)

    def _step(self, batch: Mapping[str, Tensor], stage: str) -> Tensor:
        """Give the loss of one batch, and count its predictions."""
        image, label = entries(batch, 'image', 'label')
        numbers = None if stage == 'train' else self._numbers
        known = self.hparams['num_classes'] if numbers is None else len(numbers)
        label = class_numbers(label, known)
        if len(label):
            target = label
            if stage == 'train' and self.hparams['mixup']:
                image, target = mix(
                    image, label, self.hparams['num_classes'], self.hparams['mixup']
                )
            logits = self._logits(image)
            if numbers is not None:
                label = target = numbers.to(label.device)[label]
            if stage == 'test':
                logits = self._divided(logits)
                self.test_reliability.update(logits.softmax(dim=1), label)
            elif stage == 'val' and self._calibrates():
                self.val_logits.update(logits, label)
            loss: Tensor = self.criterion(logits, target)
            self._watch.see(loss if stage == 'train' else logits)
            counts: ConfusionCounts = getattr(self, f'{stage}_confusion')
            counts.update(logits.detach(), label)
        else:
            # A process without a pixel of its own takes part in the sums of all.
            loss = torch.zeros((), device=label.device)
            if stage == 'val' and self._calibrates():
                none = image.new_zeros((0, self.hparams['num_classes']))
                self.val_logits.update(none, label)
        shown = loss.detach()
        shown = shown.nan_to_num() if self._watch.skip else shown
        if stage == 'train':
            self._losses.add(shown, len(label))
            if self.trainer.is_last_batch:
                self._log_training_loss()
        else:
            self.log(
                f'{stage}_loss',
                shown,
                on_step=False,
                on_epoch=True,
                # Lightning averages sizes over processes in whole numbers.
                batch_size=len(label) * self.trainer.world_size,
                sync_dist=True,
            )
        return loss

    def _log_training_loss(self) -> None:
        """Log the mean loss of an epoch; each value would cost the host a millisecond."""
        mean = self._losses.take()
        if mean is not None:
            self.log('train_loss', mean, on_step=False, on_epoch=True, batch_size=1)

    def _finish(self, stage: str) -> None:
        """Derive and log the scores of an epoch."""
        if stage != 'train':
            command = 'validate' if stage == 'val' else stage
            fitting = self.trainer.state.fn == 'fit'
            self._watch.check('fit' if fitting else command)
        elif skipped := self._watch.finish_epoch():
            rank_zero_warn(
                f'{skipped} steps of epoch {self.current_epoch} were skipped: their '
                'loss or gradient is NaN or infinite'
            )
        counts: ConfusionCounts = getattr(self, f'{stage}_confusion')
        confusion = counts.compute().cpu()
        counts.reset()
        if not confusion.sum():
            return
        accuracies = Accuracies.from_confusion(confusion.numpy())
        self.accuracies[stage] = accuracies
        if stage == 'test':
            self.reliability = self.test_reliability.compute()
            self.test_reliability.reset()
        elif stage == 'val' and self._calibrates() and self.provenance is not None:
            temperature = self.val_logits.compute()
            self.provenance = replace(self.provenance, temperature=temperature)
            self.val_logits.reset()
        # Values on the host: a progress bar may show them without waiting for a GPU.
        for score in SCORES:
            self.log(
                f'{stage}_{score.name}',
                torch.tensor(score.of(accuracies)),
                prog_bar=(stage, score.name) == ('val', 'OA'),
            )

    def training_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the training loss."""
        return self._step(batch, 'train')

    def validation_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a validation batch."""
        self._step(batch, 'val')

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a test batch."""
        self._step(batch, 'test')

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute class probabilities of shape (B, C)."""
        # In float32, as maps do it: in half precision near probabilities become ties.
        (image,) = entries(batch, 'image')
        return self._divided(self._logits(image)).float().softmax(dim=1)

    def _calibrates(self) -> bool:
        """Tell whether the running validation is one to fit a temperature on."""
        if not self.hparams['calibrate'] or self._trainer is None:
            return False
        return self.trainer.state.fn == 'fit' and not self.trainer.sanity_checking

    @property
    def temperature(self) -> float | None:
        """What logits are divided by in test and prediction; None for nothing."""
        return None if self.provenance is None else self.provenance.temperature

    @property
    def classifier(self) -> nn.Module:
        """The network as test and prediction see it: its logits are calibrated."""
        return calibrated(self.model, self.temperature)

    def _divided(self, logits: Tensor) -> Tensor:
        """Divide logits by the temperature, if there is one."""
        return logits if self.temperature is None else logits / self.temperature

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep what a skipped step must not spoil."""
        self._stepped = True
        self._watch.save(self.model)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Refuse or skip a step whose loss is not finite."""
        self._watch.before_step(self.model, self)

    def on_train_epoch_end(self) -> None:
        """Log the scores of the training batches."""
        self._log_training_loss()  # of an epoch that was cut off
        self._finish('train')

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation pixels."""
        self._finish('val')

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test pixels."""
        self._finish('test')

    def on_fit_start(self) -> None:
        """Say how large the network is, what will not train it and what it has seen."""
        self._stepped = False
        count = sum(parameter.numel() for parameter in self.parameters())
        rank_zero_info(f'{self.hparams["model"]}: {count:,} parameters')
        datamodule, trained = self._datamodule, self._trained_on
        doubt_crops(self.model, datamodule)
        if trained and not getattr(datamodule, 'allow_other_split', True):
            doubt_seen_pixels(trained, datamodule.describe())

    def on_train_start(self) -> None:
        """Note that the weights are being trained."""
        self._trained = True

    def on_train_epoch_start(self) -> None:
        """Note where the weights come from, and what they have seen."""
        self._losses.take()
        known = hasattr(self._datamodule, 'describe')
        self.provenance = self._current_provenance(
            self._datamodule.state_dict() if known else None
        )

    def on_fit_end(self) -> None:
        """Say if nothing was trained, or a temperature could not be fitted."""
        if not self._stepped:
            rank_zero_warn(
                'fit: found no step to train, expected one at least: the weights are as '
                'they were; see max_epochs, max_steps, max_time and limit_train_batches '
                'of the trainer'
            )
        if self.hparams['calibrate'] and self.temperature is None:
            rank_zero_info(
                'calibrate: no pixel was validated, so probabilities stay as they are'
            )

    def on_validation_start(self) -> None:
        """Refuse ``validate`` with random weights."""
        if self.trainer.state.fn == 'validate':
            self._refuse_random_weights('validate')
            self._match_classes('validate')
        else:
            self._watch.before_validation(self.model)

    def on_test_start(self) -> None:
        """Refuse to test random weights."""
        self._refuse_random_weights('test')
        self._match_classes('test')

    def on_predict_start(self) -> None:
        """Refuse to map with random weights."""
        self._refuse_random_weights('predict')
        scene: Any = getattr(self._datamodule, 'scene', None)
        trained = self._trained_on
        if trained and scene is not None and scene.class_names:
            check_same_classes(
                trained, scene.name, scene.class_names, 'predict: the network'
            )

    def _refuse_random_weights(self, stage: str) -> None:
        """Raise ValueError unless the weights were trained here or loaded."""
        if not self._trained:
            raise ValueError(
                f'{stage}: no checkpoint was given and {self.hparams["model"]} has '
                'random weights; pass --ckpt_path FILE, such as '
                'runs/NAME/version_0/checkpoints/best.ckpt'
            )

    def _match_classes(self, stage: str) -> None:
        """Match the classes of the data with those that the network was trained on."""
        datamodule, trained = self._datamodule, self._trained_on
        if not trained or not hasattr(datamodule, 'describe'):
            number = getattr(datamodule, 'num_classes', None) or None
            check_sizes(self.hparams, {'num_classes': number})
            return
        self._numbers = numbers_in_network(stage, trained, datamodule.describe())

    @property
    def class_numbers(self) -> Tensor | None:
        """Class of the network for each class of the tested data; None if the same."""
        return self._numbers

    @property
    def classes(self) -> dict[str, Any] | None:
        """Names, values and colours of the network's classes, as its run had them."""
        trained = self._trained_on
        if not trained:
            return None
        keys = ('class_names', 'class_values', 'palette')
        return {key: trained['scene'].get(key) for key in keys}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights, and note that they no longer are random."""
        try:
            result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            state = network_state(state_dict)
            found = compare_weights(self.model, state)
            if not found.fits:
                raise ValueError(
                    f'the weights of the checkpoint do not fit {self.hparams["model"]}: '
                    f'{found.sentence()}; use the configuration of its run'
                ) from error
            # They had names that data-parallel training or torch.compile gives.
            state = {f'model.{name}': value for name, value in state.items()}
            result = super().load_state_dict(state, strict=strict, assign=assign)
        self._trained = True
        return result

    def to_onnx(self, *args: Any, **kwargs: Any) -> Any:
        """Write the network as ONNX: its sample is no batch for a datamodule's hooks."""
        trainer, self._trainer = self._trainer, None
        try:
            return super().to_onnx(*args, **kwargs)
        finally:
            self._trainer = trainer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down the training run in its checkpoint."""
        provenance = self.provenance or self._current_provenance()
        checkpoint[KEY] = provenance.to_dict()
        # Arguments may be NumPy's, also those that optimizers and data hold.
        checkpoint.update(plain_values(dict(checkpoint)))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read which training run a checkpoint comes from; refuse another network."""
        saved = checkpoint.get('hyper_parameters') or {}
        stage = None if self._trainer is None else self._trainer.state.fn
        if (
            self._classes_of_data
            and stage not in (None, 'fit')
            and saved.get('num_classes') not in (None, self.hparams['num_classes'])
            and Provenance.of(checkpoint)
        ):
            # The data alone told the number of classes: the network has those that it
            # was trained on, and they are matched.
            self.hparams['num_classes'] = None
            self.model = Unbuilt(('num_classes',))
        check_same_network(checkpoint, self.hparams)
        if stage == 'fit':
            doubt_part_of_epoch(checkpoint)
        # Without this entry (ModelCheckpoint(save_weights_only=True)), Lightning does not
        # tell callbacks of the checkpoint.
        checkpoint.setdefault('callbacks', {})
        if not self.is_built:
            fill_sizes(self.hparams, saved, 'neither datamodule nor checkpoint tell')
            self.build(stage or 'predict')
            self.model.to(self.device)
            self._hasten(stage or 'predict')
        self.provenance = Provenance.of(checkpoint)

    def _current_provenance(self, data: Mapping[str, Any] | None = None) -> Provenance:
        """Describe the training run of this process."""
        seed = os.environ.get('PL_GLOBAL_SEED')
        return Provenance(
            data=data,
            epochs=self.current_epoch + 1 if self._trained else 0,
            seed=int(seed) if seed else None,
            versions=versions(),
            temperature=self.temperature,
        )
