# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What PyTorch users do with a layer: precision, compilation, export, transforms."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import (
    AveragePool3d,
    ContextMapping,
    DynamicExpertConv3d,
    GroupedConv3d,
    compiled,
    conv_strategy,
    direct,
    expert_convs,
    functional,
    keep_freed_memory,
    unrolled,
)
from torchgeo_ekgnet.layers.compiled import compiled_conv3d

from ..graphs import CountingBackend


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        DynamicExpertConv3d(2, 4, 1, num_experts=2),
        nn.ReLU(),
        DynamicExpertConv3d(4, 4, 3, padding=1, num_experts=2, groups=2),
        GroupedConv3d(4, 4, 3, padding=1, groups=2),
    )


def batch(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, 2, 5, 4, 3, generator=generator, dtype=dtype)


@pytest.mark.filterwarnings('ignore:.*torch.jit')
def test_torchscript() -> None:
    model = network().eval()
    scripted = torch.jit.script(model)
    for size in (1, 3):
        torch.testing.assert_close(scripted(batch(size)), model(batch(size)))
    assert scripted(batch(0)).shape == model(batch(0)).shape


@pytest.mark.filterwarnings('ignore:.*torch.jit', 'ignore::torch.jit.TracerWarning')
def test_traced_for_any_batch() -> None:
    model = network().eval()
    traced: Any = torch.jit.trace(model, (batch(2),))
    for size in (1, 3, 0):
        torch.testing.assert_close(traced(batch(size)), model(batch(size)))


def test_symbolic_trace() -> None:
    """Each layer is one node, as PyTorch's own are, whoever traces."""
    layers = *network().children(), AveragePool3d(), ContextMapping(4, 3)
    model = nn.Sequential(*layers).eval()
    graph = torch.fx.symbolic_trace(model)
    nodes = [node for node in graph.graph.nodes if node.op == 'call_module']
    assert [node.target for node in nodes] == list('012345')
    assert [len(node.args) for node in nodes] == [1] * 6
    torch.testing.assert_close(graph(batch(3)), model(batch(3)))
    with pytest.raises(ValueError, match='AveragePool3d is one node'):
        torch.fx.symbolic_trace(model[4])


@pytest.mark.parametrize('training', [False, True])
def test_compile_gives_one_graph_for_all_batches(training: bool) -> None:
    backend = CountingBackend()
    torch._dynamo.reset()
    model = network().train(training)
    compiled: Any = torch.compile(model, fullgraph=True, backend=backend)
    for size in (8, 7, 9):
        x = batch(size)
        torch._dynamo.mark_dynamic(x, 0)  # alone: symbols for all sizes take long
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))
    assert backend.graphs == 1


@pytest.mark.parametrize('own', [False, True])
def test_compiled_layers_unroll(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is made when the graph runs: one graph for all sizes."""
    calls: list[int] = []

    def counted(original: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append(1)
            return original(*args)

        return call

    if own and direct.kernels() is None:
        pytest.skip('no kernels of our own for this processor')
    if not own:
        monkeypatch.setattr(direct, 'kernels', lambda: None)
        name, places = 'unrolled_conv3d', [unrolled]
    else:
        name, places = 'direct_conv3d', [compiled, functional]
    for place in places:
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    torch._dynamo.reset()
    backend = CountingBackend()
    layer = GroupedConv3d(32, 8, 3, padding=1, groups=4)
    graph: Any = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for size in ((2, 32, 10, 8, 7), (3, 32, 12, 6, 5)):
            x = torch.randn(*size)
            torch.testing.assert_close(graph(x), layer(x))
    assert backend.graphs == 1 and len(calls) == (2 if own else 4)


def test_operators_of_compiled_layers() -> None:
    geometry: Any = ([1, 1, 1], [1, 1, 1], [1, 1, 1], 4)
    for size in ((2, 32, 10, 8, 8), (2, 32, 3, 2, 2)):  # unrolled, and plain
        x = torch.randn(*size, requires_grad=True)
        weight = torch.randn(8, 8, 3, 3, 3, requires_grad=True)
        inputs = (x, weight)
        torch.library.opcheck(compiled_conv3d, (*inputs, *geometry))
        y = compiled_conv3d(*inputs, *geometry)
        expected = nn.functional.conv3d(*inputs, None, *geometry)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        found = torch.autograd.grad(y.square().sum(), inputs)
        reference = torch.autograd.grad(expected.square().sum(), inputs)
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-2)


def test_export_with_dynamic_batch() -> None:
    model = network().eval()
    dynamic = ({0: torch.export.Dim('batch', min=1)},)
    program = torch.export.export(model, (batch(4),), dynamic_shapes=dynamic)
    for size in (2, 5):
        torch.testing.assert_close(program.module()(batch(size)), model(batch(size)))


def test_onnx_with_dynamic_batch(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    model = network().eval()
    path = str(tmp_path / 'model.onnx')
    torch.onnx.export(
        model,
        (batch(4),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim('batch', min=1)},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    for size in (2, 5):
        (y,) = session.run(None, {name: batch(size).numpy()})
        expected = model(batch(size)).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model = network()
    for _, layer in expert_convs(model):
        cast(Any, layer.mapping).set_temperature(0.0101)
    with torch.autocast('cpu', dtype=dtype):
        y = model(batch(4))
    assert y.dtype == dtype and torch.isfinite(y).all()
    y.float().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_parameters(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    y = model(batch(4, dtype))
    assert y.dtype == dtype
    y.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_double_and_channels_last() -> None:
    model = network().eval()
    expected = model(batch(3))
    x = batch(3).to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(x), expected)
    double = model.double()(batch(3).double())
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('strategy', [None, 'unrolled', 'pointwise'])
def test_outputs_may_change_in_place(strategy: str | None, last: bool) -> None:
    """``nn.ReLU(inplace=True)`` may stand behind each layer, as behind PyTorch's."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5, 5)
    if last:
        x = x.to(memory_format=torch.channels_last_3d)
    for kind in (DynamicExpertConv3d, GroupedConv3d):
        for kernel, groups in ((1, 1), (1, 2), (3, 2), (5, 2)):
            layer = kind(4, 4, kernel, padding=kernel // 2, groups=groups)
            weights = layer.weight
            with conv_strategy(strategy):
                (expected,) = torch.autograd.grad(layer(x).relu().sum(), weights)
                y = layer(x)
                if kernel > 1 and kind is DynamicExpertConv3d:
                    # FSDP loses the gradient of a view that is changed.
                    assert not y._is_view()
                (found,) = torch.autograd.grad(y.relu_().sum(), weights)
            torch.testing.assert_close(found, expected)


def test_vmap_and_per_sample_gradients() -> None:
    model = network().eval()
    x = batch(3)
    expected = model(x)
    y = torch.func.vmap(lambda sample: model(sample.unsqueeze(0))[0])(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Any:
        out = torch.func.functional_call(model, parameters, (sample.unsqueeze(0),))
        return out.square().sum()

    grads = torch.func.grad(loss)(parameters, x[0])
    model.zero_grad()
    model(x[:1]).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_deterministic_algorithms() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            model = network()
            model(batch(4)).square().sum().backward()
            results.append([p.grad for p in model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(*results, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)


def test_allocator_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(keep_freed_memory(), bool)
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '131072')
    assert not keep_freed_memory()
    monkeypatch.delenv('MALLOC_TRIM_THRESHOLD_')
    monkeypatch.setenv('TORCHGEO_EKGNET_MALLOC', '0')
    assert not keep_freed_memory()
