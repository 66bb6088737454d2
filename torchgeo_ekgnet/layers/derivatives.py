# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Derivatives of functions that write their first derivative themselves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ['Gradients', 'composed_gradients', 'differentiated_again']

Gradients = tuple[Tensor | None, ...]


def differentiated_again(grad: Tensor) -> bool:
    """Whether a second derivative, or many gradients at once, are asked for."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad)


def composed_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    grad: Tensor,
    wanted: Sequence[bool],
) -> Gradients:
    """Differentiate a function; the gradients can be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the kernel may have been computed from the image, a path that the
        # surrounding graph follows itself.
        inputs = [None if t is None else t.view_as(t) for t in inputs]
        chosen = [t for t, w in zip(inputs, wanted, strict=True) if w and t is not None]
        found = torch.autograd.grad(
            function(*inputs), chosen, grad, create_graph=create_graph
        )
    grads = iter(found)
    return tuple(next(grads) if w else None for w in wanted)
