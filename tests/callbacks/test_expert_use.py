# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Recording of expert use, and the worth of attention."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from torchgeo_ekgnet.callbacks.expert_use import (
    ExpertUse,
    ExpertUseReport,
    attention_means,
    mean_attention,
    plot_expert_use,
    record_attention,
    worth_of_attention,
)
from torchgeo_ekgnet.layers import DynamicExpertConv3d, expert_convs

from ..graphs import CountingBackend

BANDS, CLASSES = 6, 3


class Pixels(Dataset[dict[str, Tensor]]):
    """Patches whose level is their class."""

    def __init__(self, count: int = 12) -> None:
        generator = torch.Generator().manual_seed(count)
        self.label = torch.arange(count) % CLASSES
        noise = torch.randn(count, BANDS, 3, 3, generator=generator)
        self.image = noise + 2 * self.label.view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image': self.image[index], 'label': self.label[index]}


class Data(LightningDataModule):
    """The same pixels for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.train_dataset: Any = None

    def setup(self, stage: str) -> None:
        if stage == 'fit':
            self.train_dataset = Pixels(12)

    def loader(self) -> Any:
        return DataLoader(Pixels(9), batch_size=4)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train_dataset, batch_size=4)

    def val_dataloader(self) -> Any:
        return self.loader()

    def test_dataloader(self) -> Any:
        return self.loader()


class Task(LightningModule):
    """A classifier."""

    def __init__(self, model: str = 'ekgnet_tiny', num_classes: int = CLASSES) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.model = timm.create_model(model, in_chans=BANDS, num_classes=num_classes)

    def forward(self, x: Tensor) -> Any:
        return self.model(x)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch['image']), batch['label'])

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self(batch['image'])

    def test_step(self, batch: dict[str, Tensor]) -> None:
        self(batch['image'])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


def trainer(folder: Path, *callbacks: ExpertUse, **kwargs: Any) -> Trainer:
    """Make a quiet trainer."""
    return Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=kwargs.pop('logger', False),
        accelerator='cpu',
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **kwargs,
    )


def network() -> Any:
    """Two expert convolutions of different K."""
    torch.manual_seed(0)
    return nn.Sequential(
        DynamicExpertConv3d(2, 4, 1, num_experts=3, temperature=0.5),
        nn.ReLU(),
        DynamicExpertConv3d(4, 5, 3, padding=1, num_experts=2, temperature=0.5),
    ).eval()


def test_record_attention() -> None:
    model, x = network(), torch.randn(4, 2, 3, 3, 3)
    with torch.no_grad(), record_attention(model) as recorded:
        assert not recorded
        y = model(x)
        assert list(recorded) == ['0', '2']
        assert recorded['0'].equal(model[0].attention_weights(x))
        assert recorded['2'].shape == (4, 2)
        recorded.clear()
    with torch.no_grad():
        assert model(x).equal(y)
    assert not recorded


def test_mean_attention_makes_static_layers() -> None:
    model, x = network(), torch.randn(4, 2, 3, 3, 3)
    means = attention_means(model, [{'image': x[:3]}, {'image': x[3:]}])
    with torch.no_grad():
        free = model(x)
        expected = model[0].attention_weights(x).double().mean(0)
        torch.testing.assert_close(means['0'], expected)
        with mean_attention(model, means):
            fixed = model(x)
        static: Any = nn.Conv3d(2, 4, 1)
        weights = means['0'].float()
        static.weight.copy_(torch.einsum('k,koidhw->oidhw', weights, model[0].weight))
        static.bias.copy_(weights @ model[0].bias)
        hidden = static(x).relu()
        with mean_attention(model, means):
            torch.testing.assert_close(model[2](hidden), fixed, rtol=1e-4, atol=1e-5)
        assert model(x).equal(free)
    assert (free - fixed).abs().max() > 1e-4
    with (
        pytest.raises(ValueError, match=r"'2' has 2 experts, found no entry"),
        mean_attention(model, {'0': means['0']}),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"'0' has 3 experts, .* shape \(2,\)"),
        mean_attention(model, {'0': means['2'], '2': means['2']}),
    ):
        pass


@pytest.mark.parametrize('wrapped', [False, True])
def test_compiled_network_gives_the_eager_results(wrapped: bool) -> None:
    torch.compiler.reset()
    model, x = network(), torch.randn(4, 2, 3, 3, 3)
    means = attention_means(model, [{'image': x}])
    with torch.no_grad():
        with mean_attention(model, means):
            expected = model(x)
        free = model(x)
        compiled: Any = model
        if wrapped:
            compiled = torch.compile(model, backend='eager')
        else:
            model.compile(backend='eager')
        torch.testing.assert_close(compiled(x), free)
        with mean_attention(compiled, means):
            assert compiled(x).equal(expected)
        with record_attention(compiled) as recorded:
            compiled(x)
        assert list(recorded) == ['0', '2']
        assert attention_means(compiled, [{'image': x}])['0'].equal(means['0'])
        torch.testing.assert_close(compiled(x), free)
    assert (free - expected).abs().max() > 1e-4


def test_report_on_known_attention() -> None:
    model = network()
    report = ExpertUseReport(model, 3)
    # Layer 0: class 0 uses expert 0, class 1 expert 1; layer 2: no preference.
    first = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    even = torch.full((4, 2), 0.5)
    report.update({'0': first[:2], '2': even[:2]}, torch.tensor([0, 1]))
    report.update({'0': first[2:], '2': even[2:]}, torch.tensor([0, 1]))
    assert report.samples == 4
    assert report.counts.tolist() == [2, 2, 0]
    np.testing.assert_allclose(report.mean('0'), [0.5, 0.5, 0])
    np.testing.assert_allclose(report.per_class('0')[:2], [[1, 0, 0], [0, 1, 0]])
    assert np.isnan(report.per_class('0')[2]).all()
    assert report.entropy('0') == 0
    assert report.entropy('2') == pytest.approx(math.log(2))
    assert report.information('0') == pytest.approx(math.log(2))
    assert report.information('2') == pytest.approx(0, abs=1e-12)
    assert report.normalised_entropy() == pytest.approx(0.5)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content['layers']['0']['log_experts'] == pytest.approx(math.log(3))
    assert content['layers']['0']['per_class'][2] is None
    twice = ExpertUseReport(model, 3)
    twice.load_vector(2 * report.vector())
    assert twice.samples == 8
    assert twice.entropy('2') == pytest.approx(report.entropy('2'))
    np.testing.assert_allclose(twice.per_class('0'), report.per_class('0'))
    figure = plot_expert_use(report, ['oak', 'road', 'sea'])
    titles = [axis.get_title() for axis in figure.axes]
    assert any('H/log K 1.00' in title for title in titles)
    assert any('H/log K 0.00' in title for title in titles)
    plt.close(figure)


def test_report_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match='has no DynamicExpertConv3d'):
        ExpertUseReport(nn.Linear(2, 2), 3)
    report = ExpertUseReport(network(), 2)
    with pytest.raises(ValueError, match="expected 2 samples of layer '0', found none"):
        report.update({}, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='found no sample'):
        attention_means(network(), [])


def test_worth_of_attention() -> None:
    task, batch = Task(), Pixels(30)
    batches = [{'image': batch.image, 'label': batch.label}]
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        task.training_step(batches[0]).backward()
        optimizer.step()
    figures = worth_of_attention(task.model, batches, batches, CLASSES)
    assert figures['dynamic'].overall > 0.9
    assert figures['dynamic'].counts.tolist() == [10, 10, 10]
    assert 0 <= figures['mean'].overall <= 1
    assert task.model.training


def test_callback_in_fit_logs_entropy(tmp_path: Path) -> None:
    callback = ExpertUse()
    logger = CSVLogger(tmp_path)
    runner = trainer(
        tmp_path, callback, logger=logger, max_epochs=1, log_every_n_steps=1
    )
    runner.fit(Task(), datamodule=Data())
    entropy = float(runner.callback_metrics['val_expert_entropy'])
    assert 0.5 < entropy <= 1.0
    assert callback.report is not None
    assert callback.report.samples == 9
    assert not list(tmp_path.rglob('expert_use.*'))


def test_callback_with_a_compiled_network(tmp_path: Path) -> None:
    torch.compiler.reset()
    task = Task()
    task.model = timm.create_model(
        'ekgnet_tiny', in_chans=BANDS, num_classes=CLASSES, block_config=(1,)
    )
    task.model.compile(backend='eager', dynamic=True)
    callback = ExpertUse(measure_worth=True)
    runner = trainer(tmp_path, callback, max_epochs=1, limit_train_batches=1)
    runner.fit(task, datamodule=Data())
    assert 0.5 < float(runner.callback_metrics['val_expert_entropy']) <= 1.0
    runner.test(task, datamodule=Data(), verbose=False)
    content = json.loads((tmp_path / 'expert_use.json').read_text())
    assert content['samples'] == 9
    assert set(content['accuracy']) == {'dynamic', 'mean'}


@pytest.mark.parametrize('worth', [False, True])
def test_callback_in_test_writes_beside_the_run(tmp_path: Path, worth: bool) -> None:
    task = Task()
    runner = trainer(tmp_path, ExpertUse(measure_worth=worth))
    runner.test(task, datamodule=Data(), verbose=False)
    content = json.loads((tmp_path / 'expert_use.json').read_text())
    assert content['samples'] == 9
    assert content['counts'] == [3, 3, 3]
    assert list(content['layers']) == [name for name, _ in expert_convs(task.model)]
    for layer in content['layers'].values():
        assert sum(layer['mean']) == pytest.approx(1)
        assert 0 <= layer['entropy'] <= layer['log_experts'] + 1e-6
    assert (tmp_path / 'expert_use.png').stat().st_size > 10_000
    assert ('accuracy' in content) == worth
    if worth:
        assert set(content['accuracy']) == {'dynamic', 'mean'}
        assert sum(content['accuracy']['mean']['counts']) == 9
    assert not hooks(task)


def test_callback_in_validate(tmp_path: Path) -> None:
    runner = trainer(tmp_path, ExpertUse('use'))
    runner.validate(Task(), datamodule=Data(), verbose=False)
    assert json.loads((tmp_path / 'use.json').read_text())['samples'] == 9


def test_callback_without_experts(tmp_path: Path) -> None:
    class Static(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = timm.create_model(
                'ekgnet_tiny', in_chans=BANDS, num_classes=3, conv_layer='conv3d'
            )

    trainer(tmp_path, ExpertUse()).test(Static(), datamodule=Data(), verbose=False)
    assert not list(tmp_path.rglob('expert_use.*'))


def hooks(task: LightningModule) -> int:
    """Count the hooks on the mapping networks."""
    return sum(len(conv.mapping._forward_hooks) for _, conv in expert_convs(task))


@pytest.mark.parametrize('stage', ['validate', 'test'])
def test_callback_leaves_no_hook_behind_an_error(tmp_path: Path, stage: str) -> None:
    class Failing(Task):
        def validation_step(self, batch: dict[str, Tensor]) -> None:
            assert hooks(self)
            raise RuntimeError('out of memory')

        test_step = validation_step

    task = Failing()
    with pytest.raises(RuntimeError, match='out of memory'):
        getattr(trainer(tmp_path, ExpertUse()), stage)(task, Data())
    assert not hooks(task)


def test_worth_needs_a_datamodule(tmp_path: Path) -> None:
    runner = trainer(tmp_path, ExpertUse(measure_worth=True))
    with pytest.raises(ValueError, match='measure_worth: found no datamodule'):
        runner.test(Task(), Data().test_dataloader(), verbose=False)
    runner = trainer(tmp_path, ExpertUse())
    runner.test(Task(), Data().test_dataloader(), verbose=False)
    assert json.loads((tmp_path / 'expert_use.json').read_text())['samples'] == 9


def test_number_of_classes_of_a_foreign_task(tmp_path: Path) -> None:
    class Foreign(Task):
        def __init__(self) -> None:
            LightningModule.__init__(self)
            self.model = timm.create_model('ekgnet_tiny', in_chans=BANDS, num_classes=3)

    task = Foreign()
    trainer(tmp_path, ExpertUse()).test(task, datamodule=Data(), verbose=False)
    content = json.loads((tmp_path / 'expert_use.json').read_text())
    assert content['counts'] == [3, 3, 3]
    del task.model.num_classes
    with pytest.raises(ValueError, match=r'num_classes: found none .* of Foreign'):
        trainer(tmp_path, ExpertUse()).test(task, datamodule=Data(), verbose=False)


def test_overlapping_records_give_the_compiler_back() -> None:
    """Two callbacks enter one after the other and leave in the same order."""
    torch.compiler.reset()
    backend = CountingBackend()
    model = timm.create_model('ekgnet_tiny', in_chans=8, num_classes=3).eval()
    compiled: Any = torch.compile(model, backend=backend)
    x = torch.rand(2, 8, 7, 7)
    first, second = record_attention(model), record_attention(model)
    with torch.no_grad():
        first.__enter__()
        second.__enter__()
        compiled(x)
        first.__exit__(None, None, None)
        compiled(x)
        assert backend.graphs == 0
        second.__exit__(None, None, None)
        compiled(x)
    assert backend.graphs > 0
