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

__all__ = ['Kinds', 'map_at_once']

# Samples up to which the kernels, which run on one thread, were faster than PyTorch's
# operations on one, and on two.
_MOST, _MOST_OF_THREADS = 256, 128


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
        share: Share of a batch in running statistics.
        eps: Epsilon of all normalizations.
        floor: The least temperature.
        statistics: Running mean and variance of all normalizations.
    """

    learnt: tuple[bool, ...]
    units: int
    share: float
    eps: float
    floor: float
    statistics: list[tuple[Tensor, Tensor]]


@functools.cache
def _kernels() -> ModuleType:
    """Import the kernels."""
    return importlib.import_module('._mapping', __package__)


def _is(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of a class, and its call its forward function alone."""
    return type(module) is kind and not watched(module)


def _pairs(mapping: Any, kinds: Kinds) -> list[tuple[Any, Any]] | None:
    """List norms and products of all units and of the end; None if others are there."""
    pairs: list[tuple[Any, Any]] = []
    for block in mapping.blocks._modules.values():
        if not _is(block, kinds.block) or not _is(block.units, nn.Sequential):
            return None
        units = iter(block.units._modules.values())
        for norm, act, product in zip(units, units, units, strict=True):
            if not _is(act, nn.GELU) or act.approximate != 'none':
                return None
            pairs.append((norm, product))
    pairs.append((mapping.norm, mapping.project))
    for norm, product in pairs:
        if not (_is(norm, kinds.norm) and _is(product, kinds.product)):
            return None
    return pairs


def _readable(tensor: Tensor | None) -> bool:
    """Whether the kernels can read a tensor."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and direct.takes(tensor)
        and cast(Tensor, tensor).is_contiguous()
    )


def _fit(
    channels: int, given: Sequence[Tensor], statistics: Sequence[Sequence[Tensor]]
) -> bool:
    """Whether all tensors are as large as the kernels take them to be."""
    for place, known in enumerate(statistics):
        weight, bias, kernel, shift = given[4 * place : 4 * place + 4]
        rows = channels if place + 1 < len(statistics) else len(shift)
        if any(t.shape != (channels,) for t in (weight, bias, *known)):
            return False
        if kernel.shape[:2] != (rows, channels) or shift.shape != (rows,):
            return False
    return all(t.numel() == 1 for t in given[4 * len(statistics) :])


def _collect(
    mapping: Any, channels: int, kinds: Kinds
) -> tuple[_Net, list[Tensor]] | None:
    """List parameters in order, and what the network has beside; None if it is another.

    They are scale, shift, kernel and biases of each unit and of the end, the residual
    weights of the blocks and the raw temperature.
    """
    pairs = _pairs(mapping, kinds)
    if pairs is None:
        return None
    given: list[Any] = []
    statistics: list[Any] = []
    options = set()
    for norm, product in pairs:
        for values in (norm._parameters, product._parameters):
            given += [values.get('weight'), values.get('bias')]
        known = norm._buffers
        statistics.append((known['running_mean'], known['running_var']))
        options.add((norm.momentum, norm.eps, norm.training))
    blocks = list(mapping.blocks._modules.values())
    given += [block._parameters.get('residual_weight') for block in blocks]
    given.append(mapping._parameters.get('raw_temperature'))
    values = [*given, *(t for pair in statistics for t in pair)]
    if not all(map(_readable, values)) or not _fit(channels, given, statistics):
        return None
    if len(options) > 1 or len({len(block.units) for block in blocks}) > 1:
        return None
    share, eps, training = options.pop()
    if training is not mapping.training or share is None:
        return None
    if training:
        for norm, _ in pairs:
            norm._buffers['num_batches_tracked'].add_(1)
    units = len(blocks[0].units) // 3 if blocks else 0
    learnt = tuple(block.learnable_residual for block in blocks)
    return _Net(learnt, units, share, eps, mapping.floor, statistics), given


def _addresses(tensors: Sequence[Tensor | None]) -> bytes:
    """Where tensors lie in memory, as the kernels read it; 0 for none."""
    return array('q', [0 if t is None else t.data_ptr() for t in tensors]).tobytes()


class _Call(NamedTuple):
    """What calls of the kernels for one batch have in common."""

    sizes: bytes
    units: bytes
    alphas: bytes
    temperature: Tensor

    @staticmethod
    def of(g: Tensor, net: _Net, given: Sequence[Tensor], training: bool) -> '_Call':
        """Prepare the calls for contexts (B, C)."""
        count = len(net.learnt)
        experts = given[4 * count * net.units + 2].shape[0]
        sizes = array('q', [*g.shape, experts, count, net.units, training])
        units = []
        for place, statistics in enumerate(net.statistics):
            units += [*given[4 * place : 4 * place + 4], *statistics]
        alphas = [
            alpha if learnt else None
            for alpha, learnt in zip(given[-1 - count : -1], net.learnt, strict=True)
        ]
        temperature = net.floor + F.softplus(given[-1].detach())
        return _Call(
            sizes.tobytes(), _addresses(units), _addresses(alphas), temperature
        )

    def buffer(self) -> Tensor:
        """Make room for what is kept."""
        return torch.empty(_kernels().kept_size(self.sizes))

    def forward(self, g: Tensor, net: _Net, kept: Tensor, experts: int) -> Tensor:
        """Compute the weights (B, K)."""
        found = g.new_empty(len(g), experts)
        _kernels().forward(
            self.sizes,
            net.share,
            net.eps,
            self.temperature.data_ptr(),
            self.units,
            self.alphas,
            g.data_ptr(),
            kept.data_ptr(),
            found.data_ptr(),
        )
        return found

    def backward(
        self, grad: Tensor, g: Tensor, net: _Net, kept: Tensor, given: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute the gradients of contexts and parameters."""
        gg, gradients = torch.empty_like(g), [torch.empty_like(t) for t in given]
        units: list[Tensor | None] = []
        for place in range(len(net.statistics)):
            units += [*gradients[4 * place : 4 * place + 4], None, None]
        _kernels().backward(
            self.sizes,
            net.eps,
            self.temperature.data_ptr(),
            self.units,
            self.alphas,
            _addresses(units),
            _addresses(gradients[-1 - len(net.learnt) : -1]),
            kept.data_ptr(),
            grad.data_ptr(),
            gg.data_ptr(),
            gradients[-1].data_ptr(),
        )
        # So far that of the temperature itself.
        gradients[-1] = gradients[-1] * torch.sigmoid(given[-1])
        return gg, gradients


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
        call = _Call.of(g, net, given, True)
        kept = call.buffer()
        found = call.forward(g, net, kept, given[4 * len(net.statistics) - 1].shape[0])
        ctx.save_for_backward(g, kept, *given)
        ctx.net = net
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients; differentiable when a graph is asked for."""
        g, kept, *given = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]

        def written() -> list[Tensor]:
            # What is saved may have moved in memory.
            call = _Call.of(g, ctx.net, given, True)
            first, others = call.backward(grad.contiguous(), g, ctx.net, kept, given)
            return [first, *others]

        first, *others = own_gradients(
            grad,
            (g, *given),
            wanted,
            lambda g, *given: _composed(g, ctx.net, *given),
            written,
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
    most = _MOST if torch.get_num_threads() == 1 else _MOST_OF_THREADS
    if not direct.takes(g) or not least <= len(g) <= most:
        return None
    if type(g) is not Tensor or (torch.is_grad_enabled() and not mapping.training):
        return None
    collected = _collect(mapping, g.shape[1], kinds)
    if collected is None:
        return None
    (net, given), g = collected, g.contiguous()
    if mapping.training:
        return cast(Tensor, _Mapped.apply(g, net, *given))
    call = _Call.of(g, net, given, False)
    experts = given[4 * len(net.statistics) - 1].shape[0]
    return call.forward(g, net, call.buffer(), experts)
