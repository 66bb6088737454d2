# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Recording of expert use in the trainer."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.small import make_task, make_trainer
from torchgeo_ekgnet.callbacks import ExpertUse
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.layers import expert_convs

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

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train_dataset: Any = None

    def setup(self, stage: str) -> None:
        if stage == 'fit':
            self.train_dataset = Pixels(12)

    def loader(self) -> Any:
        return DataLoader(Pixels(9), batch_size=self.batch_size)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train_dataset, batch_size=self.batch_size)

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
        self.model = timm.create_model(
            model, in_chans=BANDS, num_classes=num_classes, block_config=(1, 1)
        )

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


def test_callback_in_fit_logs_entropy(tmp_path: Path) -> None:
    callback = ExpertUse()
    logger = CSVLogger(tmp_path)
    runner = make_trainer(
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
    task.model.compile(backend='eager', dynamic=False)  # all batches are of three
    callback = ExpertUse(measure_worth=True)
    runner = make_trainer(
        tmp_path, callback, max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0
    )
    data = Data(batch_size=3)
    runner.fit(task, datamodule=data)
    assert 0.5 < float(runner.callback_metrics['val_expert_entropy']) <= 1.0
    runner.test(task, datamodule=data, verbose=False)
    content = json.loads((tmp_path / 'expert_use.json').read_text())
    assert content['samples'] == 9
    assert set(content['accuracy']) == {'dynamic', 'mean'}


@pytest.mark.parametrize('worth', [False, True])
def test_callback_in_test_writes_beside_the_run(tmp_path: Path, worth: bool) -> None:
    task = Task()
    runner = make_trainer(tmp_path, ExpertUse(measure_worth=worth))
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


def test_callback_in_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_trainer(tmp_path, ExpertUse('use'))
    task = Task()
    runner.test(task, datamodule=Data(), verbose=False)
    tested = (tmp_path / 'use.json').read_bytes()
    drawing = Mock(side_effect=RuntimeError('no fonts'))
    monkeypatch.setattr('torchgeo_ekgnet.callbacks.expert_use.plot_expert_use', drawing)
    with pytest.warns(UserWarning, match=r'use\.png is left out.*no fonts'):
        runner.validate(task, datamodule=Data(), verbose=False)
    validated = json.loads((tmp_path / 'validate' / 'use.json').read_text())
    assert validated['samples'] == 9
    # What test has found stays.
    assert (tmp_path / 'use.json').read_bytes() == tested


@pytest.mark.parametrize('stage', ['test', 'validate'])
def test_files_of_others_are_named_before_the_work(tmp_path: Path, stage: str) -> None:
    folder = tmp_path / 'validate' if stage == 'validate' else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / 'expert_use.png').write_text('mine')
    runner = make_trainer(tmp_path, ExpertUse())
    with pytest.raises(FileExistsError, match='not written here'):
        getattr(runner, stage)(Task(), datamodule=Data(), verbose=False)
    assert (folder / 'expert_use.png').read_text() == 'mine'
    assert not (folder / 'expert_use.json').exists()


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    runner = make_trainer(tmp_path, ExpertUse(), fast_dev_run=True)
    runner.test(Task(), datamodule=Data(), verbose=False)
    assert not list(tmp_path.rglob('expert_use.*'))


def test_callback_without_experts(tmp_path: Path) -> None:
    class Static(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = timm.create_model(
                'ekgnet_tiny', in_chans=BANDS, num_classes=3, conv_layer='conv3d'
            )

    make_trainer(tmp_path, ExpertUse()).test(Static(), datamodule=Data(), verbose=False)
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
        getattr(make_trainer(tmp_path, ExpertUse()), stage)(task, Data())
    assert not hooks(task)


def test_worth_needs_a_datamodule(tmp_path: Path) -> None:
    runner = make_trainer(tmp_path, ExpertUse(measure_worth=True))
    with pytest.raises(ValueError, match='measure_worth: found no datamodule'):
        runner.test(Task(), Data().test_dataloader(), verbose=False)
    runner = make_trainer(tmp_path, ExpertUse())
    runner.test(Task(), Data().test_dataloader(), verbose=False)
    assert json.loads((tmp_path / 'expert_use.json').read_text())['samples'] == 9


def test_worth_is_of_all_pixels_on_two_processes(tmp_path: Path) -> None:
    """Process 0 tests every other batch, and measures the worth alone."""
    data = SyntheticSceneDataModule(
        rows=20, cols=20, num_bands=BANDS, num_classes=3, patch_size=3, batch_size=32
    )
    task = make_task()
    runner = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1)
    runner.fit(task, datamodule=data)
    contents = []
    for devices in (1, 2):
        runner = make_trainer(
            tmp_path,
            ExpertUse(measure_worth=True),
            devices=devices,
            strategy='auto' if devices == 1 else 'ddp_fork',
        )
        runner.test(task, datamodule=data, verbose=False)
        contents.append(json.loads((tmp_path / 'expert_use.json').read_text()))
    one, two = (content['accuracy'] for content in contents)
    assert sum(one['dynamic']['counts']) == contents[0]['samples']
    for name in ('dynamic', 'mean'):
        assert two[name]['confusion_matrix'] == one[name]['confusion_matrix']


def test_number_of_classes_of_a_foreign_task(tmp_path: Path) -> None:
    class Foreign(Task):
        def __init__(self) -> None:
            LightningModule.__init__(self)
            self.model = Task().model

    task = Foreign()
    make_trainer(tmp_path, ExpertUse()).test(task, datamodule=Data(), verbose=False)
    content = json.loads((tmp_path / 'expert_use.json').read_text())
    assert content['counts'] == [3, 3, 3]
    del task.model.num_classes
    with pytest.raises(ValueError, match=r'num_classes: found none .* of Foreign'):
        make_trainer(tmp_path, ExpertUse()).test(task, datamodule=Data(), verbose=False)


def test_classes_are_those_of_the_network(tmp_path: Path) -> None:
    """Data may have some of its classes, in another order."""
    numbers = torch.tensor([2, 0])

    class Fewer(Data):
        def __init__(self, renumbered: bool) -> None:
            super().__init__()
            self.renumbered = renumbered

        def loader(self) -> Any:
            pixels = Pixels(9)
            pixels.label = torch.arange(9) % 4 // 3
            if self.renumbered:
                pixels.label = numbers[pixels.label]
            return DataLoader(pixels, batch_size=4)

    class Matched(Task):
        classes: Any = {'class_names': ['wood', 'water', 'road']}
        class_numbers: Any = numbers

    class Same(Matched):
        class_numbers = None

    contents = []
    for task, data in ((Matched(), Fewer(False)), (Same(), Fewer(True))):
        runner = make_trainer(tmp_path, ExpertUse(measure_worth=True))
        runner.test(task, datamodule=data, verbose=False)
        contents.append(json.loads((tmp_path / 'expert_use.json').read_text()))
    assert contents[0]['counts'] == [2, 0, 7]
    assert contents[0]['class_names'] == ['wood', 'water', 'road']
    assert contents[0] == contents[1]
