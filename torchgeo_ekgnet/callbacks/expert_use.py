# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which experts a network uses for which class, and what choosing them is worth.

The paper's story is that experts specialise. Whether they do can be measured: the
attention of every expert convolution, averaged over the samples of each class, its
entropy against log K, and the accuracy that remains when every sample is given the
same, mean attention.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ..layers import DynamicExpertConv3d, expert_convs
from ..metrics import Accuracies
from .run_folder import run_path

__all__ = (
    'ExpertUse',
    'ExpertUseReport',
    'attention_means',
    'mean_attention',
    'plot_expert_use',
    'record_attention',
    'worth_of_attention',
)

logger = logging.getLogger(__name__)


def _layers(model: nn.Module) -> dict[str, DynamicExpertConv3d]:
    """Find the expert convolutions, under the same names if ``model`` is compiled."""
    return dict(expert_convs(getattr(model, '_orig_mod', model)))


# Contexts that keep the compiler away at present, and what the first one has entered.
_watching = 0
_eager = ExitStack()


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run compiled networks uncompiled.

    PyTorch's own context restores what it found, so of two that overlap without being
    nested, as those of two callbacks do, the second would leave its stance behind.
    """
    global _watching
    if _watching == 0:
        _eager.enter_context(torch.compiler.set_stance('force_eager'))
    _watching += 1
    try:
        yield
    finally:
        _watching -= 1
        if _watching == 0:
            _eager.close()


@contextmanager
def _mapping_hooks(
    model: nn.Module, hooks: Mapping[str, Callable[..., Tensor | None]]
) -> Iterator[None]:
    """Hook into mapping networks, by layer name, and keep the compiler away.

    A captured graph would run without the hooks.
    """
    with ExitStack() as stack:
        stack.enter_context(_uncompiled())
        for name, layer in _layers(model).items():
            handle = layer.mapping.register_forward_hook(hooks[name])
            stack.callback(handle.remove)
        yield


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep the attention weights of the last forward pass.

    A compiled network runs uncompiled inside of the context.

    Args:
        model: A network with expert convolutions.

    Yields:
        Attention (B, K) by layer name, replaced by every forward pass.
    """
    recorded: dict[str, Tensor] = {}
    hooks = {}
    for name in _layers(model):

        def keep(
            module: nn.Module, inputs: Any, output: Tensor, name: str = name
        ) -> None:
            recorded[name] = output.detach()

        hooks[name] = keep
    with _mapping_hooks(model, hooks):
        yield recorded


@contextmanager
def mean_attention(model: nn.Module, means: Mapping[str, Tensor]) -> Iterator[None]:
    """Give every sample the same attention, so that each layer is a static one.

    A compiled network runs uncompiled inside of the context.

    Args:
        model: A network with expert convolutions.
        means: Attention (K,) by layer name, usually of :func:`attention_means` over
            the training samples.

    Yields:
        Nothing; the network computes with fixed attention inside of the context.

    Raises:
        ValueError: If a layer's mean is missing or has another length than K.
    """
    layers = _layers(model)
    for name, layer in layers.items():
        found = tuple(means[name].shape) if name in means else None
        if found != (layer.num_experts,):
            raise ValueError(
                f'means: layer {name!r} has {layer.num_experts} experts, found '
                f'{"no entry" if found is None else f"an entry of shape {found}"}'
            )
    hooks = {}
    for name in layers:

        def replace(
            module: nn.Module, inputs: Any, output: Tensor, mean: Tensor = means[name]
        ) -> Tensor:
            return mean.to(output).expand_as(output)

        hooks[name] = replace
    with _mapping_hooks(model, hooks):
        yield


def attention_means(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Average the attention of every layer over samples.

    Args:
        model: A network with expert convolutions.
        batches: Batches with the entry ``image``, where the network lives.

    Returns:
        Mean attention (K,) by layer name, float64.

    Raises:
        ValueError: If there is no sample or no expert convolution.
    """
    report = _collect(model, batches, None)
    return {name: torch.from_numpy(report.mean(name)) for name in report.layers}


def worth_of_attention(
    model: nn.Module,
    train: Iterable[Mapping[str, Tensor]],
    test: Iterable[Mapping[str, Tensor]],
    num_classes: int,
) -> dict[str, Accuracies]:
    """Measure the accuracy with attention, and with its mean over training samples.

    Args:
        model: A network with expert convolutions, trained.
        train: Batches with the entry ``image``, where the network lives.
        test: Batches with the entries ``image`` and ``label``; read twice.
        num_classes: Number of classes.

    Returns:
        Accuracies of the test batches: ``'dynamic'`` as trained, ``'mean'`` with each
        layer's attention replaced by its mean over the training batches.

    Raises:
        ValueError: If there is no sample or no expert convolution.
    """
    means = attention_means(model, train)
    figures = {'dynamic': _score(model, test, num_classes)}
    with mean_attention(model, means):
        figures['mean'] = _score(model, test, num_classes)
    return figures


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation without gradients, and back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _score(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], num_classes: int
) -> Accuracies:
    """Classify batches."""
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64)
    with _evaluating(model):
        for batch in batches:
            predicted = model(batch['image']).argmax(1).cpu()
            pairs = batch['label'].cpu().long() * num_classes + predicted
            confusion += torch.bincount(pairs, minlength=len(confusion))
    return Accuracies.from_confusion(confusion.reshape(num_classes, -1).numpy())


def _collect(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], num_classes: int | None
) -> 'ExpertUseReport':
    """Run batches through a network and gather its attention."""
    report = ExpertUseReport(model, num_classes or 1)
    with _evaluating(model), record_attention(model) as recorded:
        for batch in batches:
            model(batch['image'])
            samples = batch['image'].shape[0]
            label = batch['label'] if num_classes else torch.zeros(samples).long()
            report.update(recorded, label)
    if not report.samples:
        raise ValueError('batches: found no sample to average attention over')
    return report


class ExpertUseReport:
    """Attention of every expert convolution, gathered by class.

    Attributes:
        layers: Names of the expert convolutions, from input to output.
        counts: Number of samples of each class, shape (C,).
    """

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        """Initialize an empty report.

        Args:
            model: A network with expert convolutions.
            num_classes: Number C of classes.

        Raises:
            ValueError: If the network has no expert convolution.
        """
        experts = {name: layer.num_experts for name, layer in _layers(model).items()}
        if not experts:
            raise ValueError(
                f'model: {type(model).__name__} has no DynamicExpertConv3d, expected '
                'at least one'
            )
        self.layers = tuple(experts)
        self.counts = np.zeros(num_classes)
        self._sums = {name: np.zeros((num_classes, k)) for name, k in experts.items()}
        self._entropies = dict.fromkeys(experts, 0.0)

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return int(self.counts.sum())

    def update(self, attention: Mapping[str, Tensor], label: Tensor) -> None:
        """Add a batch.

        Args:
            attention: Attention (B, K) by layer name.
            label: Classes of the samples, (B,).

        Raises:
            ValueError: If a layer's attention is missing or has another batch size.
        """
        index = label.detach().cpu()
        for name, sums in self._sums.items():
            if name not in attention or attention[name].shape[0] != len(index):
                raise ValueError(
                    f'attention: expected {len(index)} samples of layer {name!r}, found'
                    f' {len(attention[name]) if name in attention else "none"}'
                )
            weights = attention[name].detach().cpu().double()
            total = torch.zeros(sums.shape, dtype=torch.float64)
            sums += total.index_add_(0, index, weights).numpy()
            self._entropies[name] += float(torch.special.entr(weights).sum())
        self.counts += torch.bincount(index, minlength=len(self.counts)).numpy()

    def vector(self) -> Tensor:
        """Flatten what was gathered, so that processes can add theirs up.

        Returns:
            Sums, entropies and counts, float64.
        """
        entropies = np.array(list(self._entropies.values()))
        parts = [*(s.ravel() for s in self._sums.values()), entropies, self.counts]
        return torch.from_numpy(np.concatenate(parts))

    def load_vector(self, vector: Tensor) -> None:
        """Replace what was gathered by a sum over processes.

        Args:
            vector: Sum of the processes' :meth:`vector`.
        """
        values = vector.cpu().numpy()
        start = 0
        for sums in self._sums.values():
            sums[:] = values[start : start + sums.size].reshape(sums.shape)
            start += sums.size
        for name in self.layers:
            self._entropies[name] = float(values[start])
            start += 1
        self.counts[:] = values[start:]

    def num_experts(self, layer: str) -> int:
        """Return a layer's number K of experts.

        Args:
            layer: Name of the layer.

        Returns:
            K.
        """
        return self._sums[layer].shape[1]

    def mean(self, layer: str) -> NDArray[np.float64]:
        """Average a layer's attention over all samples.

        Args:
            layer: Name of the layer.

        Returns:
            Mean attention, shape (K,).
        """
        mean: NDArray[np.float64] = self._sums[layer].sum(0) / max(self.samples, 1)
        return mean

    def per_class(self, layer: str) -> NDArray[np.float64]:
        """Average a layer's attention over the samples of each class.

        Args:
            layer: Name of the layer.

        Returns:
            Mean attention, shape (C, K); NaN for classes without samples.
        """
        counts = np.where(self.counts > 0, self.counts, np.nan)
        means: NDArray[np.float64] = self._sums[layer] / counts[:, None]
        return means

    def entropy(self, layer: str) -> float:
        """Average the entropy of a layer's attention over all samples.

        Args:
            layer: Name of the layer.

        Returns:
            Mean entropy in nats: log K if every expert has the same say, 0 if every
            sample has one expert to itself.
        """
        return self._entropies[layer] / max(self.samples, 1)

    def information(self, layer: str) -> float:
        """Compute what a layer's attention tells about the class.

        Args:
            layer: Name of the layer.

        Returns:
            Mutual information of class and expert in nats: 0 if all classes use the
            experts alike, at most log K.
        """
        seen = self.counts > 0
        share = self.counts[seen] / max(self.samples, 1)
        within = share @ _entropy(self._sums[layer][seen] / self.counts[seen, None])
        return max(float(_entropy(self.mean(layer)) - within), 0.0)

    def normalised_entropy(self) -> float:
        """Average entropy / log K over the layers.

        Returns:
            A number in [0, 1]; layers of one expert do not count.
        """
        shares = [
            self.entropy(name) / math.log(self.num_experts(name))
            for name in self.layers
            if self.num_experts(name) > 1
        ]
        return float(np.mean(shares)) if shares else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-able values.

        Returns:
            Samples, counts and, for every layer, K, entropy and log K, the information
            about the class, mean attention and that of every class (None without
            samples).
        """
        layers = {
            name: {
                'experts': self.num_experts(name),
                'entropy': self.entropy(name),
                'log_experts': math.log(self.num_experts(name)),
                'class_information': self.information(name),
                'mean': self.mean(name).tolist(),
                'per_class': [
                    row.tolist() if count else None
                    for row, count in zip(
                        self.per_class(name), self.counts, strict=True
                    )
                ],
            }
            for name in self.layers
        }
        return {
            'samples': self.samples,
            'counts': self.counts.astype(int).tolist(),
            'normalised_entropy': self.normalised_entropy(),
            'layers': layers,
        }


def _entropy(probability: NDArray[np.float64]) -> Any:
    """Compute the entropy along the last axis, in nats."""
    logs = np.log(np.where(probability > 0, probability, 1.0))
    return -(probability * logs).sum(-1)


def plot_expert_use(
    report: ExpertUseReport, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw which experts each class uses, layer by layer.

    Args:
        report: The gathered attention.
        class_names: Names of the classes.

    Returns:
        One panel a layer, classes in rows, experts in columns, its entropy / log K and
        information about the class on top. All panels share one colour scale; a layer
        without preference is of one colour.
    """
    names = list(class_names or (str(i + 1) for i in range(len(report.counts))))
    columns = min(6, len(report.layers))
    rows = math.ceil(len(report.layers) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.6 * columns + 2.2, (0.13 * len(names) + 0.75) * rows + 0.6),
        squeeze=False,
        layout='constrained',
    )
    top = max(float(np.nanmax(report.per_class(name))) for name in report.layers)
    image: Any = None
    for index, axis in enumerate(axes.flat):
        if index >= len(report.layers):
            axis.axis('off')
            continue
        name = report.layers[index]
        experts = report.num_experts(name)
        limit = math.log(experts) or 1.0
        image = axis.imshow(
            report.per_class(name), vmin=0, vmax=top, aspect='auto', cmap='viridis'
        )
        axis.set_title(
            f'{_short(name)}\nH/log K {report.entropy(name) / limit:.2f}, '
            f'I {report.information(name) / limit:.3f}',
            fontsize=7,
        )
        axis.set_xticks(range(experts), [str(i + 1) for i in range(experts)], size=6)
        axis.set_yticks(range(len(names)), names if index % columns == 0 else [])
        axis.tick_params(labelsize=6, length=0)
    figure.colorbar(image, ax=axes, label='mean attention', shrink=0.6)
    figure.supxlabel('expert', fontsize=8)
    return figure


def _short(name: str) -> str:
    """Shorten the name of a layer to its numbers."""
    numbers = [part for part in name.split('.') if part.isdigit()]
    return f'layer {".".join(numbers)}' if numbers else name


class ExpertUse(Callback):
    """Records the attention of every expert convolution, by class.

    During ``fit``, each validation logs ``val_expert_entropy``: attention entropy
    divided by log K, averaged over the layers (1: experts are mixed evenly, 0: one
    expert a sample). ``validate`` and ``test`` write ``expert_use.json`` and
    ``expert_use.png`` to the run folder. While it records, a compiled network runs
    uncompiled.

    Batches need the entry ``label``, and the number of classes must be known: the
    hyperparameter ``num_classes`` of the task or the attribute of its network.

    Args:
        filename: Name of the two files, without ending.
        measure_worth: After ``test``, also replace the attention by its mean over the
            training samples and put both accuracies into the JSON file; this reads
            the training samples once and the test samples twice, both from the
            trainer's datamodule.
    """

    def __init__(
        self, filename: str = 'expert_use', measure_worth: bool = False
    ) -> None:
        """Initialize a new ExpertUse instance."""
        super().__init__()
        self.filename = filename
        self.measure_worth = measure_worth
        self.report: ExpertUseReport | None = None
        self._recorded: dict[str, Tensor] = {}
        self._context: Any = None

    def _start(self, trainer: Trainer, task: LightningModule) -> None:
        """Hook into the network, unless there is nothing to see."""
        self.report = None
        network = _network(task)
        if trainer.sanity_checking:
            return
        if not _layers(network):
            logger.info('ExpertUse: the network has no expert convolution')
            return
        classes = task.hparams.get('num_classes') or getattr(
            network, 'num_classes', None
        )
        if not classes:
            raise ValueError(
                f'num_classes: found none in the hyperparameters of '
                f'{type(task).__name__} or in its network, expected the number of '
                'classes'
            )
        self.report = ExpertUseReport(network, int(classes))
        self._context = record_attention(network)
        self._recorded = self._context.__enter__()

    def _add(self, batch: Any) -> None:
        """Gather the attention of the batch that was just run."""
        if self.report is not None and len(batch['label']):
            self.report.update(self._recorded, batch['label'])

    def _close(self) -> None:
        """Take the hooks off."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None

    def _stop(self, trainer: Trainer) -> ExpertUseReport | None:
        """Take the hooks off and add the processes up."""
        self._close()
        report = self.report
        if report is not None and trainer.world_size > 1:
            vector = report.vector().to(trainer.strategy.root_device)
            total = trainer.strategy.reduce(vector, reduce_op='sum')
            report.load_vector(cast(Tensor, total))
        return report

    def on_validation_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Hook into the network.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If the number of classes is not known.
        """
        self._start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Gather the attention of a batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            outputs: Not used.
            batch: The batch, with its labels.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        self._add(batch)

    def on_validation_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Log the mean entropy; write the files if this is no part of a fit.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        report = self._stop(trainer)
        if report is None or not report.samples:
            return
        pl_module.log('val_expert_entropy', report.normalised_entropy())
        if trainer.state.fn != 'fit':
            self._write(trainer, report, {})

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the network as it was.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: Not used.
        """
        self._close()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook into the network.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If there is no datamodule to measure the worth of attention
                with, or if the number of classes is not known.
        """
        if self.measure_worth and getattr(trainer, 'datamodule', None) is None:
            raise ValueError(
                'measure_worth: found no datamodule, expected one whose training and '
                'test samples can be read again; pass datamodule= to trainer.test'
            )
        self._start(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Gather the attention of a batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            outputs: Not used.
            batch: The batch, with its labels.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        self._add(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files, with the worth of attention if asked for.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        report = self._stop(trainer)
        if report is None or not report.samples:
            return
        more: dict[str, Any] = {}
        if self.measure_worth and trainer.is_global_zero:
            figures = self._worth(trainer, pl_module, len(report.counts))
            more['accuracy'] = {key: f.to_dict() for key, f in figures.items()}
            logger.info(
                'ExpertUse: overall accuracy %.4f, %.4f with mean attention',
                figures['dynamic'].overall,
                figures['mean'].overall,
            )
        self._write(trainer, report, more)

    def _worth(
        self, trainer: Trainer, task: LightningModule, num_classes: int
    ) -> dict[str, Accuracies]:
        """Score the network with and without attention of its own."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if getattr(datamodule, 'train_dataset', None) is None:
            datamodule.setup('fit')

        def batches(loader: Any) -> Iterator[Mapping[str, Tensor]]:
            for batch in loader:
                moved = datamodule.transfer_batch_to_device(batch, task.device, 0)
                yield datamodule.on_after_batch_transfer(moved, 0)

        class Again:
            """Test batches that can be read more than once."""

            def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
                return batches(datamodule.test_dataloader())

        return worth_of_attention(
            _network(task), batches(datamodule.train_dataloader()), Again(), num_classes
        )

    def _write(
        self, trainer: Trainer, report: ExpertUseReport, more: dict[str, Any]
    ) -> None:
        """Write the JSON file and the figure beside the run."""
        if not trainer.is_global_zero:
            return
        datamodule: Any = getattr(trainer, 'datamodule', None)
        scene = getattr(datamodule, 'scene', None)
        names = list(getattr(scene, 'class_names', ())) or None
        folder = run_path(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        content = {'class_names': names, **report.to_dict(), **more}
        path = folder / f'{self.filename}.json'
        path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        figure = plot_expert_use(report, names)
        figure.savefig(folder / f'{self.filename}.png', dpi=150)
        plt.close(figure)


def _network(task: LightningModule) -> nn.Module:
    """Return the network of a task; the task itself if it has none."""
    network = getattr(task, 'model', None)
    return network if isinstance(network, nn.Module) else task
