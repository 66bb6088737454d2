# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of captures that fail, and of those before data-parallel training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.small import BANDS, CLASSES, PATCH, make_datamodule, make_trainer
from torchgeo_ekgnet.tasks import capture as capturing
from torchgeo_ekgnet.tasks.capture import Capture, recovering
from torchgeo_ekgnet.transforms import PatchAugmentation

from .graphs import Graphs

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


def test_random_numbers_after_a_capture_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state of a generator waits for the end of the capture; a copy does not."""

    class Generator:
        def __init__(self, waits: bool) -> None:
            self.waits = waits

        def clone_state(self) -> Any:
            return Generator(waits=False)

        def graphsafe_set_state(self, other: Any) -> None:
            self.waits = other.waits

    generators = Generator(True), Generator(True)
    monkeypatch.setattr(torch.cuda, 'default_generators', generators)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: None)
    for error, waits in ((torch.OutOfMemoryError('no'), True), (RuntimeError(), False)):
        with pytest.raises(type(error)), recovering(torch.device('cuda', 1)):
            raise error
        assert generators[0].waits and generators[1].waits is waits


class DDPStrategy:
    root_device = torch.device('cpu')


@pytest.mark.parametrize(
    ('precision', 'crop', 'made'),
    [
        ('32-true', None, (16, BANDS, PATCH, PATCH)),
        ('bf16-mixed', 3, (16, BANDS, 3, 3)),
        ('bf16-true', None, None),
    ],
)
def test_batches_of_a_data_parallel_training(
    precision: str,
    crop: int | None,
    made: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """They are captured before the first one comes."""
    graphs = Graphs()

    def make(network: nn.Module, **options: Any) -> Capture:
        assert options == {'wrapped': True}
        return Capture(network, graphs, ('cpu',), **options)

    monkeypatch.setattr(capturing, 'Capture', make)
    trainer: Any = SimpleNamespace(
        world_size=2,
        strategy=DDPStrategy(),
        precision=precision,
        precision_plugin=make_trainer(tmp_path).precision_plugin,
        datamodule=make_datamodule(
            batch_size=16, augmentation=PatchAugmentation(crop=crop)
        ),
    )
    network = timm.create_model('ekgnet_tiny', in_chans=BANDS, num_classes=CLASSES)
    settings = {'capture': 'auto', 'compile': False, 'in_channels': BANDS}
    capture = capturing.make_capture(network, trainer, settings, training=True)
    assert graphs.made == ([] if made is None else [made])
    assert (capture is None) == (made is None)


@cuda
def test_work_goes_on_after_a_capture_that_fails() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x * float(x.sum() > 0)  # the host waits

    capture, stream = Capture(Looks().cuda()), torch.cuda.current_stream()
    for _ in range(3):
        capture(torch.rand(3, 2, device='cuda')).sum().backward()
        assert torch.cuda.current_stream() == stream
    assert capture._off
