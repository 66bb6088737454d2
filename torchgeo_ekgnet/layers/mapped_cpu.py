# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Mapping networks on processors with AVX2, as one call (``_mapping.c``).

Their tensors are so small that calls of modules and steps of autograd take longer than
arithmetic. The kernels come and go with those of :mod:`.direct`.
"""

import functools
import importlib
from array import array
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import direct
from .derivatives import own_gradients
from .rule import asked_strategy, plain_only, watched

__all__ = ['Kinds', 'map_at_once', 'usual_pairs']

# Samples up to which the kernels were faster than PyTorch's operations, on one thread and
# on two.
_MOST = 512


class Kinds(NamedTuple):
    """Classes of the modules that the kernels stand for."""

    block: type[nn.Module]
    norm: type[nn.Module]
    product: type[nn.Module]


class _Net(NamedTuple):
    """A mapping network without its parameters.

    Attributes:
        learnt: Whether the residual weight of each block is learnt.
        units: Units of a block.
        experts: Weights that it computes.
        share: Share of a batch in running statistics.
        eps: Epsilon of all normalizations.
        floor: The least temperature.
        statistics: Running mean and variance and number of batches, one normalization
            after the other.
    """

    learnt: tuple[bool, ...]
    units: int
    experts: int
    share: float
    eps: float
    floor: float
    statistics: list[Tensor]


@functools.cache
def _kernels() -> ModuleType:
    """Import the kernels."""
    return importlib.import_module('._mapping', __package__)


def _is(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of a class, and its call its forward function alone."""
    return type(module) is kind and not watched(module)


def usual_pairs(mapping: Any, kinds: Kinds) -> list[Any] | None:
    """List norms and products of a mapping network; None if other modules are there.

    Args:
        mapping: The :class:`ContextMapping`.
        kinds: Classes that its modules must be of.

    Returns:
        Norm and product of each unit, then of the end.
    """
    modules = mapping._modules
    pairs: list[Any] = []
    for block in modules['blocks']._modules.values():
        if not _is(block, kinds.block):
            return None
        units = block._modules['units']
        if not _is(units, nn.Sequential):
            return None
        if len(units) % 3:
            return None
        units = iter(units._modules.values())
        for norm, act, product in zip(units, units, units, strict=True):
            if not _is(act, nn.GELU) or act.approximate != 'none':
                return None
            pairs.append((norm, product))
    pairs.append((modules['norm'], modules['project']))
    for norm, product in pairs:
        if not (_is(norm, kinds.norm) and _is(product, kinds.product)):
            return None
        if not norm.track_running_stats:
            return None
    return pairs


@functools.cache
def _layout(channels: int, experts: int, ends: int, blocks: int) -> list[Any]:
    """Shapes and types of parameters and statistics, as the kernels take them to be."""
    row, one = ((channels,), torch.float32), ((1,), torch.float32)
    layout = []
    for rows in (*[channels] * (ends - 1), experts):
        kernel = (rows, channels, 1, 1, 1), torch.float32
        layout += [row, row, kernel, ((rows,), torch.float32)]
    layout += [one] * (blocks + 1)
    return layout + [row, row, ((), torch.int64)] * ends


def _collect(
    mapping: Any, channels: int, kinds: Kinds
) -> tuple[_Net, list[Tensor]] | None:
    """List parameters in order, and what the network has beside; None if it is another.

    They are scale, shift, kernel and biases of each unit and of the end, the residual
    weights of the blocks and the raw temperature.
    """
    modules, experts = mapping._modules, mapping.num_experts
    blocks = list(modules['blocks']._modules.values())
    pairs = usual_pairs(mapping, kinds)
    if pairs is None:
        return None
    given: list[Any] = []
    statistics: list[Any] = []
    options = set()
    for norm, product in pairs:
        values, others, known = norm._parameters, product._parameters, norm._buffers
        given += values.get('weight'), values.get('bias')
        given += others.get('weight'), others.get('bias')
        statistics += known['running_mean'], known['running_var']
        statistics.append(known['num_batches_tracked'])
        options.add((norm.momentum, norm.eps, norm.training))
    given += [block._parameters.get('residual_weight') for block in blocks]
    given.append(mapping._parameters.get('raw_temperature'))
    layout = _layout(channels, experts, len(pairs), len(blocks))
    for tensor, (shape, kind) in zip([*given, *statistics], layout, strict=True):
        if (
            type(tensor) not in (nn.Parameter, Tensor)
            or tensor.shape != shape
            or tensor.dtype is not kind
            or not tensor.is_cpu
            or not tensor.is_contiguous()
        ):
            return None
    share, eps, training = options.pop()
    units = {len(block._modules['units']) // 3 for block in blocks} or {1}
    if options or training is not mapping.training or share is None or len(units) > 1:
        return None
    learnt = tuple(block.learnable_residual for block in blocks)
    net = _Net(learnt, units.pop(), experts, share, eps, mapping.floor, statistics)
    return net, given


def _addresses(tensors: Sequence[Tensor]) -> bytes:
    """Where tensors lie in memory, as the kernels read it."""
    return array('q', [t.data_ptr() for t in tensors]).tobytes()


def _sizes(g: Tensor, net: _Net, training: bool) -> bytes:
    """What the kernels are told of contexts (B, C) and the network."""
    blocks = len(net.learnt)
    sizes = (*g.shape, net.experts, blocks, net.units, training, *net.learnt)
    return array('q', sizes).tobytes()


def _forward(
    g: Tensor, net: _Net, given: Sequence[Tensor], training: bool
) -> tuple[Tensor, Tensor]:
    """Compute the weights (B, K), and what the backward pass needs."""
    sizes = _sizes(g, net, training)
    kept = g.new_empty(_kernels().kept_size(sizes))
    found = g.new_empty(len(g), net.experts)
    _kernels().forward(
        sizes,
        net.share,
        net.eps,
        net.floor,
        _addresses(given),
        _addresses(net.statistics),
        g.data_ptr(),
        kept.data_ptr(),
        found.data_ptr(),
        torch.get_num_threads(),
    )
    return found, kept


def _backward(
    grad: Tensor, g: Tensor, net: _Net, kept: Tensor, given: Sequence[Tensor]
) -> list[Tensor]:
    """Compute the gradients of contexts and parameters."""
    grad = grad.contiguous()
    first, *others = found = [torch.empty_like(t) for t in (g, *given)]
    _kernels().backward(
        _sizes(g, net, True),
        net.eps,
        net.floor,
        _addresses(given),
        _addresses(others),
        kept.data_ptr(),
        grad.data_ptr(),
        first.data_ptr(),
        torch.get_num_threads(),
    )
    return found


def _composed(g: Tensor, net: _Net, *given: Tensor) -> Tensor:
    """Compute the network in training with PyTorch's operations, without statistics."""
    count = len(net.learnt)
    values: Iterator[Tensor] = iter(given)

    def unit(h: Tensor, gelu: bool) -> Tensor:
        weight, bias, kernel, shift = (next(values) for _ in range(4))
        u = F.batch_norm(h, None, None, weight, bias, True, 0.0, net.eps)
        return F.linear(F.gelu(u) if gelu else u, kernel.flatten(1), shift)

    alphas, h = given[-1 - count : -1], g
    tau = net.floor + F.softplus(given[-1])
    for alpha, learnt in zip(alphas, net.learnt, strict=True):
        u = h
        for _ in range(net.units):
            u = unit(u, True)
        h = torch.addcmul(h, alpha, u) if learnt else h + u
        if not learnt:
            tau = tau + 0.0 * alpha
    return torch.softmax(unit(h, False) / tau, 1)


class _Mapped(torch.autograd.Function):
    """A mapping network in training."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, net: _Net, *given: Tensor) -> Tensor:
        """Map contexts (B, C) to weights (B, K), and update running statistics."""
        found, kept = _forward(g, net, given, True)
        ctx.save_for_backward(g, kept, *given)
        ctx.net = net
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients; differentiable when a graph is asked for."""
        # What is saved may have moved in memory, and hooks may have put it in any order.
        g, kept, *given = [t.contiguous() for t in ctx.saved_tensors]
        wanted = ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]

        first, *others = own_gradients(
            grad,
            (g, *given),
            wanted,
            lambda g, *given: _composed(g, ctx.net, *given),
            lambda: _backward(grad, g, ctx.net, kept, given),
        )
        return first, None, *others


def map_at_once(mapping: Any, g: Tensor, kinds: Kinds) -> Tensor | None:
    """Compute a mapping network on a CPU in one call.

    Args:
        mapping: The :class:`ContextMapping`.
        g: Contexts (B, C).
        kinds: Classes that its modules must be of.

    Returns:
        Weights (B, K); None where the modules are to compute them.
    """
    # First: a compiler must not look further.
    if plain_only(g) or asked_strategy() is not None or direct.kernels() is None:
        return None
    least = 2 if mapping.training else 1
    if not direct.takes(g) or not least <= len(g) <= _MOST:
        return None
    if type(g) is not Tensor or (torch.is_grad_enabled() and not mapping.training):
        return None
    collected = _collect(mapping, g.shape[1], kinds)
    if collected is None:
        return None
    (net, given), g = collected, g.contiguous()
    if mapping.training:
        return cast(Tensor, _Mapped.apply(g, net, *given))
    return _forward(g, net, given, False)[0]
