# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mapping networks that are trained on a GPU, in a third of the kernels (Triton).

Their tensors are so small that a step is a matter of how many kernels are launched. One
function holds a whole network; its gradients are written out.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import trial
from .derivatives import own_gradients
from .mapped_cpu import Kinds, usual_pairs
from .rule import trains_by_kernels

__all__ = ['map_fused']

_NAME = 'mapping networks'

#: Samples that a program of the kernels has at once, and experts.
_MOST_SAMPLES, _MOST_EXPERTS = 256, 16

#: Parameters of each residual block, and of the end behind the last one: scale and shift
#: of the normalization, kernel and biases of the product, and a scalar (the residual
#: weight of a block, the raw temperature of the end).
_PARAMETERS = 5


class _Norm(NamedTuple):
    """What a normalization has beside its parameters."""

    statistics: tuple[Tensor, Tensor, Tensor]
    share: float
    eps: float


def _parts(
    mapping: Any, kinds: Kinds
) -> list[tuple[nn.BatchNorm3d, nn.Module, nn.Parameter]] | None:
    """List norm, product and scalar of each block and of the end; None if others."""
    pairs, blocks = usual_pairs(mapping, kinds), list(mapping.blocks)
    if pairs is None or len(pairs) != len(blocks) + 1:
        return None
    if not all(block.learnable_residual for block in blocks):
        return None
    scalars = [*(block.residual_weight for block in blocks), mapping.raw_temperature]
    return [(*pair, scalar) for pair, scalar in zip(pairs, scalars, strict=True)]


def _parameters(mapping: Any, kinds: Kinds) -> tuple[list[Tensor], list[_Norm]] | None:
    """List parameters in order, and what norms have beside; None if it is no usual one."""
    parts = _parts(mapping, kinds)
    if parts is None:
        return None
    values: list[Tensor] = []
    norms = []
    for norm, product, scalar in parts:
        given = norm.weight, norm.bias, product.weight, product.bias, scalar
        buffers = norm.running_mean, norm.running_var, norm.num_batches_tracked
        if (
            any(t is None for t in (*given, *buffers, norm.momentum))
            or not norm.training
            or any(t.dtype != torch.float32 for t in (*given, *buffers[:2]))  # type: ignore[union-attr]
        ):
            return None
        values += cast(Sequence[Tensor], given)
        norms.append(_Norm(cast(Any, buffers), cast(float, norm.momentum), norm.eps))
    return values, norms


def _fuses(mapping: Any, g: Tensor) -> bool:
    """Whether the kernels know this network and batch."""
    return (
        mapping.training
        and trial.applies(g)
        and g.dtype == torch.float32
        and 2 <= g.shape[0] <= _MOST_SAMPLES
        and mapping.num_experts <= _MOST_EXPERTS
        and trains_by_kernels(g)
    )


def _composed(
    g: Tensor, norms: Sequence[_Norm], floor: float, *given: Tensor
) -> Tensor:
    """Compute the network with PyTorch's operations; statistics stay as they are."""
    for place, norm in enumerate(norms):
        weight, bias, kernel, shift, scalar = given[_PARAMETERS * place :][:_PARAMETERS]
        u = F.batch_norm(g, None, None, weight, bias, True, 0.0, norm.eps)
        if place < len(norms) - 1:
            u = F.linear(F.gelu(u), kernel.flatten(1), shift)
            g = torch.addcmul(g, scalar, u)
    logits = F.linear(u, kernel.flatten(1), shift)
    return torch.softmax(logits / (floor + F.softplus(scalar)), dim=1)


def _forward(
    g: Tensor, norms: Sequence[_Norm], floor: float, given: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Compute the weights of the experts, and what the gradients need."""
    kernels, kept = trial.kernels(), []
    h = g
    for place, norm in enumerate(norms):
        weight, bias, kernel, shift, scalar = given[_PARAMETERS * place :][:_PARAMETERS]
        last = place == len(norms) - 1
        u, mean, inverse = kernels.context_norm(h, weight, bias, *norm, not last)
        y = torch.addmm(shift, u, kernel.flatten(1).t())
        kept += [h, u, y, mean, inverse]
        h = kernels.shares(y, scalar, floor) if last else torch.addcmul(h, scalar, y)
    return h, kept


def _backward(
    grad: Tensor, found: Tensor, kept: Sequence[Tensor], floor: float,
    given: Sequence[Tensor],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Differentiate :func:`_forward`: gradients of contexts and parameters."""
    kernels = trial.kernels()
    gradients: list[Tensor] = []
    for place in reversed(range(len(given) // _PARAMETERS)):
        weight, bias, kernel, _, scalar = given[_PARAMETERS * place :][:_PARAMETERS]
        h, u, y, mean, inverse = kept[_PARAMETERS * place :][:_PARAMETERS]
        known = h, weight, bias, mean, inverse
        if not gradients:
            gy, gs, gt = kernels.shares_gradient(grad, found, y, scalar, floor)
            grad, *others = kernels.context_norm_gradient(
                gy @ kernel.flatten(1), *known
            )
        else:
            gy, gs, parts = kernels.residual_gradient(grad, y, scalar)
            grad, *others, gt = kernels.context_norm_gradient(
                gy @ kernel.flatten(1), *known, grad, parts
            )
        gradients = [*others, (gy.t() @ u).view_as(kernel), gs, gt, *gradients]
    return grad, *gradients


class _Mapped(torch.autograd.Function):
    """A mapping network in training."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        computed: tuple[Tensor, list[Tensor]],
        norms: list[_Norm],
        floor: float,
        *given: Tensor,
    ) -> Tensor:
        """Take what :func:`_forward` has computed; a failure of autograd is none of it."""
        found, kept = computed
        ctx.save_for_backward(found, *kept, *given)
        ctx.options = norms, floor
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients; differentiable when a graph is asked for."""
        found, *saved = ctx.saved_tensors
        norms, floor = ctx.options
        kept, given = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        wanted = ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]
        first, *others = own_gradients(
            grad,
            (kept[0], *given),
            wanted,
            lambda g, *given: _composed(g, norms, floor, *given),
            lambda: trial.attempt(
                _NAME,
                'triton',
                lambda: _backward(grad.contiguous(), found, kept, floor, given),
            ),
        )
        return first, None, None, None, *others


def _is_faster(
    g: Tensor, norms: list[_Norm], floor: float, given: Sequence[Tensor]
) -> bool:
    """Whether the kernels were seen to run on this device, and to be faster."""
    plain, draw = [t.detach() for t in given], functools.cache(lambda: trial.drawn(g))
    # A bias in front of a normalization changes nothing: its gradient is rounding.
    compared = [i for i in range(len(plain)) if i % _PARAMETERS != 3]

    @functools.cache
    def scratch() -> list[_Norm]:
        copies: Any = ([t.clone() for t in norm.statistics] for norm in norms)
        return [
            norm._replace(statistics=copy)
            for norm, copy in zip(norms, copies, strict=True)
        ]

    def composed() -> tuple[Tensor, ...]:
        with torch.enable_grad():
            inputs = [t.requires_grad_() for t in (draw().detach(), *plain)]
            y = _composed(inputs[0], norms, floor, *inputs[1:])
            first, *others = torch.autograd.grad(y, inputs, y.detach().flip(0, 1))
        return y, first, *(others[i] for i in compared)

    def fused() -> tuple[Tensor, ...]:
        with torch.no_grad():
            y, kept = _forward(draw(), scratch(), floor, plain)
            first, *others = _backward(y.flip(0, 1), y, kept, floor, plain)
        return y, first, *(others[i] for i in compared)

    key = g.shape[1], len(plain[-2]), len(norms), trial.rounds(), g.device.index
    ways = {'PyTorch': composed, 'triton': fused}
    tolerance = trial.CLOSE[torch.float32]
    return trial.fastest(_NAME, key, ways, tolerance, 'triton') == 'triton'


def map_fused(mapping: Any, g: Tensor, kinds: Kinds) -> Tensor | None:
    """Compute a mapping network in training with kernels of ours.

    Args:
        mapping: The :class:`ContextMapping`.
        g: Contexts (B, C).
        kinds: Classes that its modules must be of.

    Returns:
        Weights (B, K); None where PyTorch's operations are to compute them.
    """
    if not _fuses(mapping, g):
        return None
    listed = _parameters(mapping, kinds)
    if listed is None:
        return None
    (given, norms), g = listed, g.contiguous()
    if not _is_faster(g, norms, mapping.floor, given):
        return None
    with torch.no_grad():
        computed = trial.attempt(
            _NAME, 'triton', lambda: _forward(g, norms, mapping.floor, given)
        )
    if computed is None:
        return None
    return cast(Tensor, _Mapped.apply(g, computed, norms, mapping.floor, *given))
