# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""torchgeo's classification task with the figures that hyperspectral papers report."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import timm
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from segmentation_models_pytorch.losses import FocalLoss, JaccardLoss
from timm.models import clean_state_dict
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from .._compat import ClassificationTask, extract_backbone, load_state_dict
from .._environment import versions
from ..checkpoint import KEY, Provenance
from ..metrics import SCORES, Accuracies, ConfusionCounts
from ..models.ekgnet import translate_released

logger = logging.getLogger(__name__)

LRSchedule = Literal['constant', 'cosine', 'cosine_wave', 'plateau']
Compile = Literal['default', 'reduce-overhead', 'max-autotune']

WAVE_EPOCHS = 15
"""Half period, in epochs, of the learning-rate wave of the released program."""


class HyperspectralClassificationTask(ClassificationTask):
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

    #: Figures of the last finished epoch by stage ('train', 'val', 'test').
    accuracies: dict[str, Accuracies]

    #: The training run that made the weights, by which a datamodule refuses to score
    #: pixels that the network has seen; None before fitting or loading.
    provenance: Provenance | None

    _stages: ClassVar[tuple[str, ...]] = ('train', 'val', 'test')

    def __init__(
        self,
        model: str = 'ekgnet_base',
        weights: str | bool | None = None,
        in_channels: int | None = None,
        num_classes: int | None = None,
        loss: Literal['ce', 'focal', 'jaccard'] = 'ce',
        class_weights: Sequence[float] | Literal['balanced'] | None = None,
        lr: float = 5e-4,
        lr_schedule: LRSchedule = 'cosine',
        patience: int = 10,
        freeze_backbone: bool = False,
        model_options: dict[str, Any] | None = None,
        compile: Compile | bool = False,
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

        Raises:
            ValueError: If an argument has no meaning; the message names it.
        """
        _check_arguments(
            in_channels, num_classes, loss, class_weights, lr, model_options
        )
        super().__init__(weights=weights)
        names = (
            'model',
            'in_channels',
            'num_classes',
            'loss',
            'class_weights',
            'lr',
            'lr_schedule',
            'patience',
            'freeze_backbone',
            'model_options',
            'compile',
        )
        # Arguments of torchgeo's class that this one lacks must not reach checkpoints,
        # and the command line wants to know the class of a task built in Python.
        for name in set(self.hparams) - {*names, '_class_path', '_instantiator'}:
            del self.hparams[name]
        cls = type(self)
        self.hparams.setdefault('_class_path', f'{cls.__module__}.{cls.__qualname__}')
        self.accuracies = {}

    @property
    def is_built(self) -> bool:
        """Whether bands and classes are known and the network exists."""
        return not isinstance(self.model, _Unbuilt)

    @property
    def is_trained(self) -> bool:
        """Whether the weights were trained in this process or loaded."""
        return self._trained

    def configure_models(self) -> None:
        """Build the network, or wait for the datamodule to tell its sizes.

        Raises:
            ValueError: If timm knows no model of that name, or the model no option.
        """
        self._trained = False
        self.provenance = None
        name = self.hparams['model']
        _check_model(name)
        options = dict(self.hparams['model_options'] or {})
        unknown = [
            key for key in ('in_channels', 'num_classes') if self.hparams[key] is None
        ]
        if _needs_img_size(name) and 'img_size' not in options:
            unknown.append('img_size')
        if unknown:
            self.model = _Unbuilt(unknown)
            return

        try:
            self.model = timm.create_model(
                name,
                pretrained=self.weights is True,
                num_classes=self.hparams['num_classes'],
                in_chans=self.hparams['in_channels'],
                **options,
            )
        except TypeError as error:
            unknown = [key for key in options if f"argument '{key}'" in str(error)]
            if not unknown:
                raise
            raise ValueError(
                f'model_options: {name} has no option {unknown[0]!r} ({error})'
            ) from error
        self._trained = bool(options.get('checkpoint_path'))
        if isinstance(self.weights, str) and self.weights:
            self._load_weights(self.weights)
        if self.hparams['freeze_backbone']:
            self.model.requires_grad_(False)
            self.model.get_classifier().requires_grad_(True)

    def _load_weights(self, path: str) -> None:
        """Start from the network of a checkpoint.

        Args:
            path: Lightning checkpoint, or file with a state dict, also of data-parallel
                training or of the authors' program.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f'weights: no file at {path!r}')
        content = torch.load(path, map_location='cpu', weights_only=True)
        if 'hyper_parameters' in content:
            _, state_dict = extract_backbone(path)
        else:
            state_dict = content.get('state_dict', content)
        state_dict = translate_released(self.model, clean_state_dict(state_dict))
        missing, _ = load_state_dict(self.model, state_dict)
        self._trained = not missing
        if self._trained:
            self.provenance = Provenance.of(content)

    def configure_losses(self) -> None:
        """Create the loss; 'balanced' weights follow when the split is known."""
        match self.hparams['loss']:
            case 'ce':
                self.criterion = nn.CrossEntropyLoss()
                weights = self.hparams['class_weights']
                if weights is not None and weights != 'balanced':
                    self._weigh_classes(weights)
            case 'focal':
                self.criterion = FocalLoss(mode='multiclass', normalized=True)
            case 'jaccard':
                self.criterion = JaccardLoss(mode='multiclass')

    def _weigh_classes(self, weights: Sequence[float]) -> None:
        """Give the cross entropy its class weights, which stay out of checkpoints.

        Args:
            weights: One weight a class.

        Raises:
            ValueError: If their number is not the number of classes.
        """
        num_classes = self.hparams['num_classes']
        if num_classes is not None and len(weights) != num_classes:
            raise ValueError(
                f'class_weights: found {len(weights)} values, expected {num_classes}, '
                'one a class'
            )
        self.criterion.register_buffer(
            'weight', torch.tensor(list(weights), dtype=torch.float32), persistent=False
        )

    def configure_metrics(self) -> None:
        """Create one confusion matrix a stage."""
        if self.hparams['num_classes'] is None:
            return
        for stage in self._stages:
            counts = ConfusionCounts(self.hparams['num_classes'], validate_args=False)
            setattr(self, f'{stage}_confusion', counts)

    def setup(self, stage: str) -> None:
        """Settle bands, classes and class weights with the datamodule.

        Args:
            stage: One of 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: If the network does not fit the data, or if something is
                neither given nor known to the datamodule.
        """
        datamodule: Any = getattr(self._trainer, 'datamodule', None)
        self._settle('in_channels', getattr(datamodule, 'num_bands', None), 'bands')
        self._settle('num_classes', getattr(datamodule, 'num_classes', None), 'classes')
        self._settle_img_size(getattr(datamodule, 'patch_size', None))
        if not self.is_built:
            self.configure_models()
            self.configure_metrics()
            self._repoint_optimizer()
        weights = self.hparams['class_weights']
        if weights == 'balanced' and hasattr(datamodule, 'class_counts'):
            balanced = _balanced_weights(datamodule.class_counts('train'))
            self._weigh_classes(balanced)
        elif weights == 'balanced' and stage == 'fit':
            raise ValueError(
                "class_weights: 'balanced' needs a datamodule with class_counts(), "
                f'found {type(datamodule).__name__}'
            )
        elif weights is not None and weights != 'balanced':
            self._weigh_classes(weights)
        if self.hparams['compile'] and stage in ('fit', 'predict'):
            self._compile()

    def _settle(self, name: str, found: int | None, unit: str) -> None:
        """Take a size from the datamodule, or compare it with the one that was given.

        Args:
            name: Name of the hyperparameter.
            found: What the datamodule has; None if it does not say.
            unit: What is counted, for messages.

        Raises:
            ValueError: If the two differ or neither is known.
        """
        given = self.hparams[name]
        if given is None and found is None:
            raise ValueError(
                f'{name}: not given, and the datamodule does not tell its number of '
                f'{unit}; pass {name} to the task'
            )
        if given is None:
            self.hparams[name] = int(cast(int, found))
        elif found is not None and given != found:
            raise ValueError(
                f'{name}: the network has {given} {unit}, the data have {found}; '
                f'pass {name}={found}, or leave it out to take it from the datamodule; '
                f'a checkpoint knows only the {unit} that it was trained on'
            )

    def _settle_img_size(self, patch_size: int | None) -> None:
        """Tell a network of fixed patch size the size of the patches.

        Args:
            patch_size: Rows and columns of the patches; None if unknown.

        Raises:
            ValueError: If the network was built for another size.
        """
        if patch_size is None or not _needs_img_size(self.hparams['model']):
            return
        options = dict(self.hparams['model_options'] or {})
        given = options.setdefault('img_size', int(patch_size))
        size = given[0] if isinstance(given, list | tuple) else given
        if size != patch_size:
            raise ValueError(
                f"model_options: img_size is {size}, the data's patch_size is "
                f'{patch_size}'
            )
        self.hparams['model_options'] = options

    def _repoint_optimizer(self) -> None:
        """Give an optimizer of the command line the parameters of the built network.

        The command line creates ``optimizer`` before the datamodule has read the scene.

        Raises:
            ValueError: If the optimizer keeps something for each parameter already.
        """
        hook = vars(self).get('configure_optimizers')
        function = getattr(hook, '__func__', hook)
        optimizer = getattr(function, 'keywords', {}).get('optimizer')
        if not isinstance(optimizer, Optimizer):
            return
        if optimizer.state or len(optimizer.param_groups) != 1:
            raise ValueError(
                f'optimizer: {type(optimizer).__name__} needs the parameters at its '
                'construction; pass in_channels and num_classes to the task'
            )
        optimizer.param_groups[0]['params'] = list(self.model.parameters())

    def _compile(self) -> None:
        """Compile the network in place, so that its state dict keeps its names."""
        mode = self.hparams['compile']
        if mode in (True, 'default'):
            self.model.compile(dynamic=True)
        else:
            self.model.compile(mode=mode)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create Adam and the learning-rate schedule.

        Returns:
            Optimizer and schedule, stepped once an epoch.

        Raises:
            ValueError: If 'cosine' is asked of a trainer without a last epoch.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = Adam(parameters, lr=self.hparams['lr'])
        schedule: LRScheduler
        match self.hparams['lr_schedule']:
            case 'constant':
                return optimizer
            case 'plateau':
                plateau = ReduceLROnPlateau(
                    optimizer, patience=self.hparams['patience']
                )
                return {
                    'optimizer': optimizer,
                    'lr_scheduler': {'scheduler': plateau, 'monitor': self.monitor},
                }
            case 'cosine_wave':
                schedule = LambdaLR(optimizer, _wave)
            case _:
                epochs = self.trainer.max_epochs
                if epochs is None or epochs < 1:
                    raise ValueError(
                        "lr_schedule: 'cosine' needs trainer.max_epochs, found "
                        f'{epochs}; give a number of epochs or another schedule'
                    )
                schedule = _CosineToZero(optimizer, epochs)
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': schedule}}

    def _step(self, batch: Mapping[str, Tensor], stage: str) -> Tensor:
        """Score one batch.

        Args:
            batch: 'image' of shape (B, bands, P, P) and 'label' of shape (B,).
            stage: One of 'train', 'val' or 'test'.

        Returns:
            The loss, a scalar.
        """
        label = batch['label']
        if len(label):
            logits = self(batch['image'])
            loss: Tensor = self.criterion(logits, label)
            counts: ConfusionCounts = getattr(self, f'{stage}_confusion')
            counts.update(logits.detach(), label)
        else:
            # A process without a pixel of its own takes part in the sums of all.
            loss = torch.zeros((), device=label.device)
        self.log(
            f'{stage}_loss',
            loss.detach(),
            on_step=False,
            on_epoch=True,
            # Lightning averages sizes over processes in whole numbers.
            batch_size=len(label) * self.trainer.world_size,
            sync_dist=stage != 'train',
        )
        return loss

    def _finish(self, stage: str) -> None:
        """Derive and log the figures of an epoch.

        Args:
            stage: One of 'train', 'val' or 'test'.
        """
        counts: ConfusionCounts = getattr(self, f'{stage}_confusion')
        confusion = counts.compute().cpu()
        counts.reset()
        if not confusion.sum():
            return
        accuracies = Accuracies.from_confusion(confusion.numpy())
        self.accuracies[stage] = accuracies
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
        """Compute the training loss.

        Args:
            batch: The output of the data loader.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.

        Returns:
            The loss, a scalar.
        """
        return self._step(batch, 'train')

    def validation_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a validation batch.

        Args:
            batch: The output of the data loader.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.
        """
        self._step(batch, 'val')

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a test batch.

        Args:
            batch: The output of the data loader.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.
        """
        self._step(batch, 'test')

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute class probabilities.

        Args:
            batch: The output of the data loader.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.

        Returns:
            Probabilities of shape (B, C).
        """
        return cast(Tensor, self(batch['image'])).softmax(dim=1)

    def on_train_epoch_end(self) -> None:
        """Log the figures of the training batches."""
        self._finish('train')

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the validation pixels."""
        self._finish('val')

    def on_test_epoch_end(self) -> None:
        """Log the figures of the test pixels."""
        self._finish('test')

    def on_train_start(self) -> None:
        """Note that the weights are being trained."""
        self._trained = True

    def on_train_epoch_start(self) -> None:
        """Note where the weights come from, and what they have seen."""
        datamodule: Any = getattr(self.trainer, 'datamodule', None)
        known = hasattr(datamodule, 'describe')
        self.provenance = self._current_provenance(
            datamodule.state_dict() if known else None
        )

    def on_validation_start(self) -> None:
        """Refuse ``validate`` with random weights.

        Raises:
            ValueError: If the weights were neither trained nor loaded.
        """
        if self.trainer.state.fn == 'validate':
            self._refuse_random_weights('validate')

    def on_test_start(self) -> None:
        """Refuse to test random weights.

        Raises:
            ValueError: If the weights were neither trained nor loaded.
        """
        self._refuse_random_weights('test')

    def on_predict_start(self) -> None:
        """Refuse to map with random weights.

        Raises:
            ValueError: If the weights were neither trained nor loaded.
        """
        self._refuse_random_weights('predict')

    def _refuse_random_weights(self, stage: str) -> None:
        """Raise unless the weights were trained here or loaded.

        Args:
            stage: What was asked for.

        Raises:
            ValueError: If the weights are random.
        """
        if not self._trained:
            raise ValueError(
                f'{stage}: no checkpoint was given and {self.hparams["model"]} has '
                'random weights; pass --ckpt_path FILE, such as '
                'runs/NAME/version_0/checkpoints/best.ckpt'
            )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights, and note that they no longer are random.

        Args:
            state_dict: Parameters and buffers.
            strict: Whether the keys must be those of this task.
            assign: Whether to keep the tensors instead of copying them.

        Returns:
            Missing and unexpected keys.
        """
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._trained = True
        return result

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down the training run in its checkpoint.

        Args:
            checkpoint: Content of the checkpoint, changed in place.
        """
        provenance = self.provenance or self._current_provenance()
        checkpoint[KEY] = provenance.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read which training run a checkpoint comes from.

        Args:
            checkpoint: Content of the checkpoint.

        Raises:
            ValueError: If its network is another one.
        """
        saved = checkpoint.get('hyper_parameters') or {}
        for name in ('model', 'in_channels', 'num_classes'):
            theirs, ours = saved.get(name), self.hparams[name]
            if None not in (theirs, ours) and theirs != ours:
                raise ValueError(
                    f'the checkpoint was trained with {name} {theirs!r}, this task has '
                    f'{ours!r}: use the configuration of its run'
                )
        self.provenance = Provenance.of(checkpoint)

    def _current_provenance(self, data: Mapping[str, Any] | None = None) -> Provenance:
        """Describe the training run of this process."""
        seed = os.environ.get('PL_GLOBAL_SEED')
        return Provenance(
            data=data,
            epochs=self.current_epoch + 1 if self._trained else 0,
            seed=int(seed) if seed else None,
            versions=versions(),
        )


class _Unbuilt(nn.Module):
    """Stands for a network whose sizes are not known yet.

    It has one parameter, so that an optimizer can be created before the network is.
    """

    def __init__(self, unknown: Sequence[str]) -> None:
        """Initialize.

        Args:
            unknown: What is missing.
        """
        super().__init__()
        self.unknown = tuple(unknown)
        self.placeholder = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Raise: there is no network.

        Args:
            x: Anything.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f'the network is not built, {", ".join(self.unknown)} is unknown; pass it '
            'to the task, or run the task in a Trainer with its datamodule'
        )


def _balanced_weights(counts: Tensor) -> list[float]:
    """Weigh classes by the inverse of their size.

    Args:
        counts: Training pixels of every class, shape (C,).

    Returns:
        N / (C n_c) over the C classes that occur; 0 for a class without pixels.
    """
    sizes = torch.as_tensor(counts).double()
    occurring = sizes > 0
    weights = sizes.sum() / (occurring.sum() * sizes.clamp(min=1))
    balanced: list[float] = torch.where(occurring, weights, 0.0).tolist()
    return balanced


def _check_arguments(
    in_channels: int | None,
    num_classes: int | None,
    loss: str,
    class_weights: Sequence[float] | str | None,
    lr: float,
    model_options: dict[str, Any] | None,
) -> None:
    """Check what can be checked before the data are known.

    Args:
        in_channels: Bands or None.
        num_classes: Classes or None.
        loss: 'ce', 'focal' or 'jaccard'.
        class_weights: Weights, 'balanced' or None.
        lr: Learning rate.
        model_options: Arguments of the model or None.

    Raises:
        ValueError: If an argument has no meaning.
    """
    for name, value, least in (
        ('in_channels', in_channels, 1),
        ('num_classes', num_classes, 2),
    ):
        if value is not None and value < least:
            raise ValueError(f'{name}: found {value}, expected at least {least}')
    if isinstance(class_weights, str) and class_weights != 'balanced':
        raise ValueError(
            f"class_weights: found {class_weights!r}, expected 'balanced' or a list "
            'of numbers'
        )
    if class_weights is not None and loss != 'ce':
        raise ValueError(
            f"class_weights: loss {loss!r} does not weigh classes, expected loss 'ce' "
            'or no class_weights'
        )
    if not lr > 0 or math.isinf(lr):
        raise ValueError(f'lr: found {lr}, expected a positive number')
    reserved = {'in_chans', 'num_classes', 'pretrained'} & set(model_options or {})
    if reserved:
        raise ValueError(
            f'model_options: {", ".join(sorted(reserved))} belongs to in_channels, '
            'num_classes and weights of the task'
        )


def _check_model(name: str) -> None:
    """Check that timm knows a model.

    Args:
        name: Name of the model.

    Raises:
        ValueError: If it does not; the message lists the models of this package.
    """
    if ':' in name or '/' in name or timm.is_model(name):
        return
    from .. import models

    prefix = f'{models.__name__}.'
    own = [
        model
        for model in timm.list_models()
        if timm.model_entrypoint(model).__module__.startswith(prefix)
    ]
    raise ValueError(
        f'model: timm knows no {name!r}; this package has {", ".join(own)}, and '
        'timm.list_models() lists all'
    )


def _needs_img_size(name: str) -> bool:
    """Tell whether a network is built for one patch size.

    Args:
        name: Name of the model.

    Returns:
        Whether its constructor wants ``img_size``.
    """
    if ':' in name or '/' in name:
        return False
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(cfg is not None and cfg.fixed_input_size)


class _CosineToZero(LambdaLR):
    """Cosine from the full learning rate to 0 over the epochs of this trainer.

    What a checkpoint restores is the epoch only, so that a run which is resumed for
    more epochs has the rates of one that was meant to be that long.
    """

    def __init__(self, optimizer: Optimizer, epochs: int) -> None:
        """Initialize.

        Args:
            optimizer: The optimizer.
            epochs: Epoch at which the rate is 0.
        """
        super().__init__(
            optimizer, lambda epoch: 0.5 + 0.5 * math.cos(math.pi * epoch / epochs)
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the epoch of a checkpoint.

        Args:
            state_dict: State of a schedule, over any number of epochs.
        """
        super().load_state_dict(state_dict)
        factors = [factor(self.last_epoch) for factor in self.lr_lambdas]
        self._last_lr = [
            rate * factor for rate, factor in zip(self.base_lrs, factors, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group['lr'] = rate


def _wave(epoch: int) -> float:
    """Learning-rate factor of the released program under PyTorch 1.9 and later.

    It creates a scheduler anew in each epoch and steps it with the epoch's index, which
    makes a cosine that touches 0 at epochs 16, 46, 76 and returns in between.

    Args:
        epoch: Epoch, from 0.

    Returns:
        Factor of the learning rate, in [0, 1].
    """
    return 0.5 * (1.0 + math.cos(math.pi * max(epoch - 1, 0) / WAVE_EPOCHS))
