# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of how gradients of graphs come to parameters."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers import context_mapping, direct
from torchgeo_ekgnet.tasks.capture import Capture

from .graphs import make_taped


@pytest.mark.parametrize('watch', [None, 'gradient', 'accumulated', 'node'])
def test_gradients_of_graphs_come_to_their_parameters(watch: str | None) -> None:
    network, seen = nn.Linear(3, 2), []
    turned = torch.full((3, 2), 4.0).t()

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            return torch.zeros(4, 2)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return None, turned.detach(), torch.full((2,), 4.0)

    def make(module: nn.Module, sample: Any, **options: Any) -> Any:
        return lambda image: Graphed.apply(image, *network.parameters())

    capture = Capture(network, make, ('cpu',), wrapped=watch == 'node')
    weight = network.weight
    node: Any = weight.view_as(weight).grad_fn
    hook: Any = {
        None: lambda _: None,
        'gradient': weight.register_hook,
        'accumulated': weight.register_post_accumulate_grad_hook,
        'node': node.next_functions[0][0].register_hook,
    }[watch]
    hook(lambda *_: seen.append(1))
    for _ in range(3):
        network.zero_grad()
        capture(torch.ones(4, 3)).sum().backward()
        assert weight.grad is not None and weight.grad.is_contiguous()
        assert weight.grad.equal(turned)
    assert len(seen) == (0 if watch is None else 3)


@pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16])
def test_operators_of_a_graph_train_as_an_eager_run(
    precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PyTorch's own graphed callables, two shapes and accumulated gradients."""
    # The C kernels write where no dispatcher sees it.
    monkeypatch.setattr(direct, 'kernels', lambda: None)
    monkeypatch.setattr(context_mapping, 'map_at_once', lambda *_: None)
    torch.manual_seed(0)
    captured = timm.create_model('ekgnet_tiny', in_chans=12, num_classes=3)
    eager = copy.deepcopy(captured)
    capture = Capture(captured, make_taped, ('cpu',))
    arms = [
        (network, run, torch.optim.Adam(network.parameters(), fused=True))
        for network, run in ((captured, capture), (eager, eager))
    ]
    for step, size in enumerate((4, 3, 4, 3, 4, 4)):
        image, target = torch.randn(size, 12, 5, 5), torch.arange(size) % 3
        for network, run, optimizer in arms:
            with torch.autocast('cpu', precision, enabled=precision != torch.float32):
                logits = run(image)
                loss = nn.functional.cross_entropy(logits, target)
            loss.backward()
            if step % 2:
                nn.utils.clip_grad_norm_(network.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
    assert len(capture._graphs) == 2
    for name, value in captured.state_dict().items():
        torch.testing.assert_close(value, eager.state_dict()[name], msg=name)
