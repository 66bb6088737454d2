# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""TorchScript and fx as timm's own suite uses them."""

import pytest
import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import nn
from torchvision.models.feature_extraction import (
    create_feature_extractor,
    get_graph_node_names,
)

from torchgeo_ekgnet.layers.norm import folded_evaluation

from .conftest import SIZES, settled, shallow_model, small_input

#: One of each network: ekgnet_tiny is ekgnet_base in other numbers.
SCRIPTED = [name for name in SIZES if name != 'ekgnet_tiny']


def traced(model: nn.Module) -> nn.Module:
    """Trace a model the way timm's suite does."""
    options = {
        'leaf_modules': get_notrace_modules(),
        'autowrap_functions': get_notrace_functions(),
        'param_shapes_constant': True,
    }
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=options)
    extractor: nn.Module = create_feature_extractor(
        model,
        train_return_nodes=[train_nodes[-1]],
        eval_return_nodes=[eval_nodes[-1]],
        tracer_kwargs=options,
    )
    return extractor


@pytest.mark.filterwarnings('ignore:.*torch.jit')
@pytest.mark.parametrize('name', SCRIPTED)
def test_torchscript(name: str) -> None:
    with timm.layers.set_scriptable(True):
        model = settled(shallow_model(name), small_input(name, 4)).double()
    # Deep untrained networks amplify rounding too much for single precision.
    x = small_input(name, 2).double()
    with torch.inference_mode():
        scripted = torch.jit.script(model)
        torch.testing.assert_close(scripted(x), model(x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('name', SIZES)
def test_fx(name: str) -> None:
    model, x = shallow_model(name), small_input(name)
    # A graph of modules keeps what evaluation folds into one pass.
    with torch.inference_mode(), folded_evaluation(False):
        logits = model(x)
        graph = traced(model)
        (again,) = graph(x).values()
    assert again.equal(logits)


@pytest.mark.parametrize('name', SIZES)
def test_fx_backward(name: str) -> None:
    model = shallow_model(name).train()
    model.reset_classifier(42)
    graph = traced(model).train()
    (logits,) = graph(small_input(name, 2)).values()
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert not [n for n, p in graph.named_parameters() if p.grad is None]
    assert sum(p.numel() for p in graph.parameters()) == sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.filterwarnings('ignore:.*torch.jit')
@pytest.mark.parametrize('name', SCRIPTED)
def test_fx_torchscript(name: str) -> None:
    with timm.layers.set_scriptable(True):
        model = settled(shallow_model(name), small_input(name, 4)).double()
    # Deep untrained networks amplify rounding too much for single precision.
    x = small_input(name, 2).double()
    with torch.inference_mode():
        logits = model(x)
        scripted = torch.jit.script(traced(model).eval())
        (again,) = scripted(x).values()
    torch.testing.assert_close(again, logits, rtol=1e-6, atol=1e-8)
