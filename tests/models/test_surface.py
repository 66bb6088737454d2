# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What PyTorch users do with a network: types, layouts, compilers, exports, DDP."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import mark_dynamic
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.export import Dim

from torchgeo_ekgnet.layers import ContextMapping, expert_convs

from ..graphs import CountingBackend
from ..processes import forked, needs_fork
from .conftest import BANDS, SIZES, settled, shallow_model, small_input, small_model


@pytest.mark.parametrize('name', SIZES)
def test_double(name: str) -> None:
    x = small_input(name, 2)
    model = settled(shallow_model(name), small_input(name, 4))
    with torch.no_grad():
        expected = model(x)
        result = model.double()(x.double())
    assert result.dtype == torch.float64
    torch.testing.assert_close(result.float(), expected, rtol=1e-3, atol=1e-4)
    made = shallow_model(name, dtype=torch.float64)
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    assert made(x.double()).dtype == torch.float64


@pytest.mark.parametrize('name', SIZES)
def test_channels_last(name: str) -> None:
    x = small_input(name, 2)
    model = settled(shallow_model(name), small_input(name, 4))
    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last_3d)
        result = model(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', SIZES)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    model, x = shallow_model(name).train(), small_input(name, 4)
    for _, conv in expert_convs(model):
        if isinstance(conv.mapping, ContextMapping):
            conv.mapping.set_temperature(0.02)
    with torch.autocast('cpu', dtype):
        loss = F.cross_entropy(model(x), torch.arange(4))
    loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_parameters(dtype: torch.dtype) -> None:
    model = shallow_model('ekgnet_tiny').to(dtype).train()
    logits = model(small_input('ekgnet_tiny', 4).to(dtype))
    assert logits.dtype == dtype
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_half_gradients_take_up_no_foreign_memory() -> None:
    # PyTorch then fills new memory with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        for seed in range(4):
            torch.manual_seed(seed)
            model = shallow_model('ekgnet_tiny').to(torch.bfloat16).train()
            model(small_input('ekgnet_tiny', 4).bfloat16()).sum().backward()
            for key, parameter in model.named_parameters():
                assert parameter.grad is not None, key
                assert torch.isfinite(parameter.grad).all(), key
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('name', SIZES)
def test_deterministic(name: str) -> None:
    x = small_input(name, 3)
    runs = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            model = shallow_model(name).train()
            torch.manual_seed(1)
            model(x).square().mean().backward()
            runs.append([p.grad for p in model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(a.equal(b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize('all_sizes', [False, True])
def test_one_compiled_graph_for_any_batch(all_sizes: bool) -> None:
    torch.compiler.reset()
    # Symbols for all sizes take long: for one block, without the pooling behind it.
    blocks, dynamic = ((1,), True) if all_sizes else ((1, 1), None)
    model = small_model('ekgnet_base', block_config=blocks)
    backend = CountingBackend()
    compiled: Any = torch.compile(
        model, fullgraph=True, dynamic=dynamic, backend=backend
    )
    with torch.no_grad():
        for batch in (80, 48):
            x = small_input('ekgnet_base', batch)
            if not all_sizes:
                mark_dynamic(x, 0)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert backend.graphs == 1


@pytest.mark.skipif(
    shutil.which(os.environ.get('CXX', 'g++')) is None, reason='needs a C++ compiler'
)
@pytest.mark.timeout(900)  # PyTorch 2.8 beside other processes
def test_real_compiler() -> None:
    torch.compiler.reset()
    counters.clear()
    model = small_model('ekgnet_base', block_config=(1,), in_chans=6)
    compiled: Any = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        for batch in (80, 48):
            x = small_input('ekgnet_base', batch, 6)
            mark_dynamic(x, 0)  # alone: symbols for all sizes take long
            torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-4)
    assert counters['stats']['unique_graphs'] == 1


@pytest.mark.filterwarnings('error:.*lru_cache')
@pytest.mark.parametrize('grad', [False, True])
def test_compiled_in_bfloat16(grad: bool) -> None:
    torch.compiler.reset()
    model, x = small_model('ekgnet_tiny', block_config=(1,)), small_input('ekgnet_tiny')
    compiled: Any = torch.compile(model, fullgraph=True, backend='aot_eager')
    with torch.set_grad_enabled(grad), torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(compiled(x), model(x), rtol=0.05, atol=0.01)


def test_compiled_training() -> None:
    torch.compiler.reset()
    model, twin = (
        small_model('ekgnet_tiny', block_config=(1,)).train() for _ in range(2)
    )
    compiled: Any = torch.compile(model, fullgraph=True, backend='aot_eager')
    for batch in (6, 4):
        x = small_input('ekgnet_tiny', batch)
        mark_dynamic(x, 0)
        compiled(x).square().mean().backward()
        twin(x).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


# Bands of Indian Pines: a network as a user exports it, in fewer layers.
EXPORTED = 200


def exportable() -> nn.Module:
    """Create a network to export, with statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = timm.create_model('ekgnet_base', in_chans=EXPORTED, block_config=(1, 1))
    network: nn.Module = settled(model, torch.randn(8, EXPORTED, 7, 7))
    return network


def test_export() -> None:
    model = exportable()
    program = torch.export.export(
        model, (torch.randn(3, EXPORTED, 7, 7),), dynamic_shapes=({0: Dim('batch')},)
    )
    with torch.no_grad():
        for batch in (1, 2, 5):
            x = torch.randn(batch, EXPORTED, 7, 7)
            torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_onnx(tmp_path: Path) -> None:
    model = exportable()
    path = tmp_path / 'net.onnx'
    torch.onnx.export(
        model,
        (torch.randn(3, EXPORTED, 7, 7),),
        str(path),
        input_names=['patches'],
        output_names=['logits'],
        dynamic_shapes=({0: Dim('batch')},),
        dynamo=True,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    )
    for batch in (1, 2, 5):
        x = torch.randn(batch, EXPORTED, 7, 7)
        (logits,) = session.run(['logits'], {'patches': x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(x).numpy(), rtol=0, atol=1e-5)


def global_batch() -> tuple[Tensor, Tensor]:
    """Make the batch that two processes share."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, BANDS, 5, 5, generator=generator)
    return x, torch.arange(6)


def gradients(model: nn.Module, x: Tensor, label: Tensor) -> list[Tensor]:
    """Compute the mean loss's gradients; batch norm uses its running statistics."""
    F.cross_entropy(model(x), label).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def distributed_gradients(rank: int, folder: Path, sharded: bool) -> None:
    """Run one of two processes on its half of the batch; rank 0 saves the result."""
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    model: Any = shallow_model('ekgnet_tiny')
    x, label = global_batch()
    half = slice(3 * rank, 3 * rank + 3)
    if sharded:
        for part in (*model.stages, model):
            fully_shard(part, mesh=init_device_mesh('cpu', (2,)))
        result = [
            cast(Any, g).full_tensor() for g in gradients(model, x[half], label[half])
        ]
        for _, layer in expert_convs(model):  # one process holds the temperature
            layer.update_temperature(step=3.0)
            assert abs(float(layer.temperature.detach()) - 31) < 1e-3
    else:
        model = nn.parallel.DistributedDataParallel(model)
        result = gradients(model, x[half], label[half])
    if rank == 0:
        torch.save(result, folder / 'gradients.pt')
    dist.destroy_process_group()


@needs_fork
@pytest.mark.parametrize('sharded', [False, True])
def test_two_processes_equal_one(sharded: bool, tmp_path: Path) -> None:
    ranks = [
        forked(
            partial(distributed_gradients, rank, tmp_path, sharded),
            tmp_path / f'{rank}.txt',
        )
        for rank in range(2)
    ]
    for rank in ranks:
        rank.wait()
    result = torch.load(tmp_path / 'gradients.pt')
    expected = gradients(shallow_model('ekgnet_tiny'), *global_batch())
    # PyTorch 2.8 does not divide the sum of sharded gradients by the processes.
    scale = round(float(result[-1].norm() / expected[-1].norm()))
    assert scale == 1 or (sharded and scale == 2)
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a / scale, b, rtol=0, atol=1e-6)


def test_no_pyramid_of_five_stages() -> None:
    options: Any = {'encoder_weights': None, 'in_channels': 30, 'classes': 3}
    with pytest.raises(ValueError, match='indices holds 3, expected values from -3'):
        smp.Unet('tu-ekgnet_base', **options)


class Decoder(nn.Module):
    """A small segmentation network on the maps of ``features_only``."""

    def __init__(self, encoder: Any, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, 8, 1) for channels in encoder.feature_info.channels()
        )
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        maps = self.encoder(x)
        y = torch.zeros(1)
        for lateral, feature in zip(self.laterals, maps, strict=True):
            y = y + F.interpolate(lateral(feature), size, mode='bilinear')
        logits: Tensor = self.head(F.relu(y))
        return logits


def test_segmentation_on_the_maps() -> None:
    torch.manual_seed(0)
    encoder = timm.create_model('ekgnet_tiny', features_only=True, in_chans=8)
    network = Decoder(encoder, 2)
    x = torch.randn(4, 8, 16, 16)
    x[:, :, :, 8:] += 2
    mask = (torch.arange(16) >= 8).long().expand(4, 16, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(x), mask).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network(x).argmax(1) == mask).float().mean()
    assert accuracy > 0.9
