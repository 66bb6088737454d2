# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Recording of expert use during training and tests."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from .._files import replaced, write_json, write_optional
from .._runs import claim_outputs
from ..experts import ExpertUseReport, plot_expert_use, worth_of_attention
from ..layers.attention import attention_layers, record_attention
from ..metrics import Accuracies
from .run_folder import run_path, subject_of, writes_results

__all__ = ('ExpertUse',)

logger = logging.getLogger(__name__)


class ExpertUse(Callback):
    """Records the attention of every expert convolution, by class.

    During ``fit``, each validation logs ``val_expert_entropy``: attention entropy
    divided by log K, averaged over the layers (1: experts are mixed evenly, 0: one
    expert a sample). ``test`` writes ``expert_use.json`` and ``expert_use.png`` to the
    run folder, ``validate`` to ``validate`` in it. While it records, a compiled network
    runs uncompiled.

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
        self._names = (f'{filename}.json', f'{filename}.png')
        self.measure_worth = measure_worth
        self.report: ExpertUseReport | None = None
        self._recorded: dict[str, Tensor] = {}
        self._hooks = ExitStack()

    def _start(self, trainer: Trainer, task: LightningModule) -> None:
        """Hook into the network, unless there is nothing to see."""
        self.report = None
        network = _network(task)
        if trainer.sanity_checking:
            return
        if not attention_layers(network):
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
        if trainer.state.fn != 'fit' and writes_results(trainer):
            # Before the work, not after it.
            claim_outputs(run_path(trainer), self._names)
        self._recorded = self._hooks.enter_context(record_attention(network))

    def _stop(self, trainer: Trainer) -> ExpertUseReport | None:
        """Take the hooks off and add the processes up."""
        self._hooks.close()
        report = self.report
        if report is not None and trainer.world_size > 1:
            vector = report.vector().to(trainer.strategy.root_device)
            total = trainer.strategy.reduce(vector, reduce_op='sum')
            report.load_vector(cast(Tensor, total))
        return report

    def on_validation_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Hook into the network."""
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
        """Gather the attention of the batch that was just run."""
        if self.report is not None and len(batch['label']):
            self.report.update(self._recorded, _label(pl_module, batch))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Log the mean entropy; write the files if this is no part of a fit."""
        report = self._stop(trainer)
        if report is None or not report.samples:
            return
        pl_module.log('val_expert_entropy', report.normalised_entropy())
        if trainer.state.fn != 'fit':
            self._write(trainer, pl_module, report, {})

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the network as it was."""
        self._hooks.close()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook into the network."""
        if self.measure_worth and getattr(trainer, 'datamodule', None) is None:
            raise ValueError(
                'measure_worth: found no datamodule, expected one whose training and '
                'test samples can be read again; pass datamodule= to trainer.test'
            )
        self._start(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files, with the worth of attention if asked for."""
        report = self._stop(trainer)
        if report is None or not report.samples:
            return
        more: dict[str, Any] = {}
        if self.measure_worth and trainer.is_global_zero:
            scores = self._worth(trainer, pl_module, len(report.counts))
            more['accuracy'] = {key: value.to_dict() for key, value in scores.items()}
            logger.info(
                'ExpertUse: overall accuracy %.4f, %.4f with mean attention',
                scores['dynamic'].overall,
                scores['mean'].overall,
            )
        self._write(trainer, pl_module, report, more)

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
                for batch in batches(_whole(datamodule.test_dataloader())):
                    yield {**batch, 'label': _label(task, batch)}

        return worth_of_attention(
            _network(task), batches(datamodule.train_dataloader()), Again(), num_classes
        )

    def _write(
        self,
        trainer: Trainer,
        task: LightningModule,
        report: ExpertUseReport,
        more: dict[str, Any],
    ) -> None:
        """Write the JSON file and the figure beside the run."""
        if not writes_results(trainer):
            return
        folder = run_path(trainer)
        about = subject_of(trainer).to_dict()
        names = _class_names(trainer, task)
        content = {**about, 'class_names': names, **report.to_dict(), **more}
        content_file, picture = (folder / name for name in self._names)
        write_json(content_file, content)

        def draw(path: Path) -> None:
            figure = plot_expert_use(report, names)
            try:
                with replaced(path) as part:
                    figure.savefig(part, dpi=150)
            finally:
                plt.close(figure)

        write_optional(picture, draw)


def _whole(loader: Any) -> Any:
    """Give all batches of a loader that deals them out to processes."""
    if not isinstance(getattr(loader, 'sampler', None), DistributedSampler):
        return loader
    # Process 0 scores alone.
    return DataLoader(
        loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn
    )


def _network(task: LightningModule) -> nn.Module:
    """Return the network of a task; the task itself if it has none."""
    network = getattr(task, 'model', None)
    return network if isinstance(network, nn.Module) else task


def _label(task: LightningModule, batch: Mapping[str, Tensor]) -> Tensor:
    """Give the labels of a batch as the network numbers its classes."""
    label, numbers = batch['label'], getattr(task, 'class_numbers', None)
    return label if numbers is None else numbers.to(label.device)[label]


def _class_names(trainer: Trainer, task: LightningModule) -> list[str] | None:
    """Name the classes of the network, or of the scene if it does not know its own."""
    classes: Any = getattr(task, 'classes', None)
    if classes is not None:
        return list(classes['class_names'])
    datamodule: Any = getattr(trainer, 'datamodule', None)
    return list(getattr(getattr(datamodule, 'scene', None), 'class_names', ())) or None
