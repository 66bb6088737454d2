# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which experts a network uses for which class, and what choosing them is worth.

The paper's story is that experts specialise. Whether they do can be measured: the
attention of every expert convolution, averaged over the samples of each class, its
entropy against log K, and the accuracy that remains when every sample is given the
same, mean attention.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from torch import Tensor, nn

from ._fonts import boxed, find_letters
from .layers.attention import attention_layers, mean_attention, record_attention
from .layers.modes import evaluating
from .metrics import Accuracies, ConfusionCounts

__all__ = (
    'ExpertUseReport',
    'attention_means',
    'plot_expert_use',
    'worth_of_attention',
)


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
        ValueError: If there is no sample or no expert convolution, or the network has
            more classes.
    """
    means = attention_means(model, train)
    scores = {'dynamic': _score(model, test, num_classes)}
    with mean_attention(model, means):
        scores['mean'] = _score(model, test, num_classes)
    return scores


def _score(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], num_classes: int
) -> Accuracies:
    """Classify batches."""
    counts = ConfusionCounts(num_classes, validate_args=False)
    with evaluating(model), torch.no_grad():
        for batch in batches:
            logits = model(batch['image'])
            if logits.shape[1] > num_classes:
                raise ValueError(
                    f'num_classes: found {num_classes}, expected {logits.shape[1]}, '
                    'those of the network'
                )
            counts.update(logits.argmax(1).cpu(), _known(batch['label'], num_classes))
    if not counts.confmat.any():
        raise ValueError(
            'test: found no sample, expected batches that can be read twice, such as a '
            'list or a data loader'
        )
    return Accuracies.from_confusion(counts.confmat.numpy())


def _known(label: Tensor, num_classes: int) -> Tensor:
    """Give labels on the host, which must be those of the classes."""
    label = label.detach().cpu().long()
    if len(label) and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
        raise ValueError(
            f'label: found {int(label.min())} to {int(label.max())}, expected classes '
            f'from 0 to {num_classes - 1}'
        )
    return label


def _collect(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], num_classes: int | None
) -> 'ExpertUseReport':
    """Run batches through a network and gather its attention."""
    report = ExpertUseReport(model, num_classes or 1)
    with evaluating(model), torch.no_grad(), record_attention(model) as recorded:
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
        experts = {
            name: layer.num_experts for name, layer in attention_layers(model).items()
        }
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
            attention: Attention (B, K) by layer name; (B * pixels, K), one sample after
                the other, of networks that choose experts for every pixel of a patch.
            label: Classes of the samples, (B,).

        Raises:
            ValueError: If a label is no class, or a layer's attention is missing or has
                another batch size.
        """
        index = _known(label, len(self.counts))
        for name, sums in self._sums.items():
            found = len(attention[name]) if name in attention else 0
            if found < len(index) or found % max(len(index), 1):
                raise ValueError(
                    f'attention: expected {len(index)} samples of layer {name!r}, found'
                    f' {found or "none"}'
                )
            if not found:
                continue
            weights = attention[name].detach().cpu().double()
            weights = weights.reshape(len(index), -1, weights.shape[-1])
            total = torch.zeros(sums.shape, dtype=torch.float64)
            sums += total.index_add_(0, index, weights.mean(dim=1)).numpy()
            entropies = torch.special.entr(weights).sum(dim=2)
            self._entropies[name] += float(entropies.mean(dim=1).sum())
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
        return max(0.0, float(_entropy(self.mean(layer)) - within))

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
        """Return what was found as JSON-able values.

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
    names = boxed(class_names or [str(i + 1) for i in range(len(report.counts))])
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
        labels = names if index % columns == 0 else []
        axis.set_yticks(range(len(names)), labels, parse_math=False)
        axis.tick_params(labelsize=6, length=0)
    figure.colorbar(image, ax=axes, label='mean attention', shrink=0.6)
    figure.supxlabel('expert', fontsize=8)
    find_letters(figure.findobj(Text))
    return figure


def _short(name: str) -> str:
    """Shorten the name of a layer to its numbers."""
    numbers = [part for part in name.split('.') if part.isdigit()]
    return f'layer {".".join(numbers)}' if numbers else name
