# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of how gradients of graphs come to parameters."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.tasks.capture import Capture


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
