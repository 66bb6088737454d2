# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Derivatives of functions that write their first derivative themselves."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .geometry import Geometry

__all__ = ['Gradients', 'changeable', 'convolution_gradients', 'own_gradients']

Gradients = tuple[Tensor | None, ...]


def _differentiated_again(grad: Tensor) -> bool:
    """Whether a second derivative, or many gradients at once, are asked for."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad)


def _composed_gradients(
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


def changeable(y: Tensor) -> Tensor:
    """Give what a function of autograd returns as a tensor that may change in place.

    PyTorch refuses that where it is a view of what was made inside.
    """
    return y.data


def own_gradients(
    grad: Tensor,
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    composed: Callable[..., Tensor],
    written: Callable[[], Sequence[Tensor | None] | None],
) -> Gradients:
    """Take the gradients that a function has written out, where one derivative is wanted.

    Without autocast, as the forward pass ran, whatever surrounds this one.

    Args:
        grad: Gradient of the result.
        inputs: What the function was given.
        wanted: For which of these a gradient is asked for.
        composed: The same function of differentiable operations, for second derivatives
            and for many gradients at once.
        written: Computes the gradients of all inputs; what is not asked for may be None.
            None instead of all of them leaves them to ``composed``.

    Returns:
        The gradients; None for what is not asked for.
    """
    kind = grad.device.type
    # Switching autocast off takes longer than many a kernel.
    casts = torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if casts else contextlib.nullcontext():
        found = None if _differentiated_again(grad) else written()
        if found is None:
            return _composed_gradients(composed, inputs, grad, wanted)
    return tuple(g if w else None for g, w in zip(found, wanted, strict=True))


def convolution_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Sequence[bool]
) -> list[Any]:
    """Differentiate a convolution without bias as PyTorch does.

    Args:
        grad: Gradient of the result (B, Cout, D, H, W).
        x: Maps (B, Cin, D, H, W).
        weight: Kernels (Cout, Cin/groups, kD, kH, kW).
        geometry: Strides and so on.
        wanted: Whether the gradients of maps and of kernels are asked for.

    Returns:
        Both gradients and None for the bias; None for what is not asked for.
    """
    return list(
        torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            (0, 0, 0),
            geometry.groups,
            [*wanted, False],
        )
    )
