# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Gradients of a captured network come to its parameters.

As outputs of the graph's own node they would go through a node of autograd for each of
some hundred parameters, which takes the host longer than the rest of a step.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ('handed_over', 'keep_sums', 'watched_gradients')

Parameters = Sequence[nn.Parameter]


def watched_gradients(parameters: Parameters) -> bool:
    """Tell whether hooks of parameters wait for gradients, which autograd calls alone."""
    return any(
        cast(Any, p)._backward_hooks or cast(Any, p)._post_accumulate_grad_hooks
        for p in parameters
    )


def keep_sums(parameters: Parameters) -> None:
    """Move accumulated gradients from where a graph is about to write new ones.

    The memory of a first gradient is taken over, and that is the graph's.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()


class _HandOver(torch.autograd.Function):
    """Stands in front of a graph's node, and takes its gradients."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, logits: list[Tensor], parameters: Parameters
    ) -> Tensor:
        """Give logits, which autograd does not follow in a list."""
        ctx.node, ctx.parameters = logits[0].grad_fn, parameters
        return logits[0].detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        """Run the backward graph, and add its gradients to those that are there."""
        keep_sums(ctx.parameters)
        _, *gradients = ctx.node.apply(grad)
        for parameter, gradient in zip(ctx.parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is not None:
                parameter.grad += gradient
            elif gradient.stride() == parameter.stride():
                parameter.grad = gradient
            else:  # fused optimizers want one order, and autograd's nodes see to it
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
        return None, None, None


def handed_over(logits: Tensor, parameters: Parameters, anchor: Tensor) -> Tensor:
    """Let parameters have the gradients of a graph at once.

    Args:
        logits: What the graph gave; its node takes the patches, then all parameters.
        parameters: The parameters.
        anchor: A tensor that asks for gradients and gets none.

    Returns:
        The logits. ``torch.autograd.grad`` does not find the parameters behind them.
    """
    handed: Tensor = _HandOver.apply(anchor, [logits], parameters)
    return handed
