# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Recording and replacing the attention of a network's expert convolutions."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .dynamic_expert_conv import DynamicExpertConv3d, expert_convs

__all__ = ['Keeper', 'attention_layers', 'mean_attention', 'record_attention']


def attention_layers(model: nn.Module) -> dict[str, DynamicExpertConv3d]:
    """Find the expert convolutions, under the same names if ``model`` is compiled."""
    return dict(expert_convs(getattr(model, '_orig_mod', model)))


# Contexts that keep the compiler away at present, and what the first one has entered.
_watching = 0
_eager = ExitStack()


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run compiled networks uncompiled.

    PyTorch's own context restores what it found, so of two that overlap without being
    nested, as those of two callbacks do, the second would leave its stance behind.
    """
    global _watching
    if _watching == 0:
        _eager.enter_context(torch.compiler.set_stance('force_eager'))
    _watching += 1
    try:
        yield
    finally:
        _watching -= 1
        if _watching == 0:
            _eager.close()


class Keeper:
    """A forward hook that keeps the output of a module, and changes nothing.

    Args:
        recorded: Where outputs are kept; each run replaces the one before.
        name: Key of this module's output.
    """

    def __init__(self, recorded: dict[str, Tensor], name: str) -> None:
        """Initialize."""
        self.recorded = recorded
        self.name = name

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Keep the output."""
        self.recorded[self.name] = output.detach()


@contextmanager
def _mapping_hooks(
    model: nn.Module, hooks: Mapping[str, Callable[..., Tensor | None]]
) -> Iterator[None]:
    """Hook into mapping networks, by layer name, and keep the compiler away.

    A compiled graph would run without the hooks.
    """
    with ExitStack() as stack:
        stack.enter_context(_uncompiled())
        for name, layer in attention_layers(model).items():
            handle = layer.mapping.register_forward_hook(hooks[name])
            stack.callback(handle.remove)
        yield


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep the attention weights of the last forward pass.

    A compiled network runs uncompiled inside of the context.

    Args:
        model: A network with expert convolutions.

    Yields:
        Attention (B, K) by layer name, replaced by every forward pass.
    """
    recorded: dict[str, Tensor] = {}
    hooks = {name: Keeper(recorded, name) for name in attention_layers(model)}
    with _mapping_hooks(model, hooks):
        yield recorded


@contextmanager
def mean_attention(model: nn.Module, means: Mapping[str, Tensor]) -> Iterator[None]:
    """Give every sample the same attention, so that each layer is a static one.

    A compiled network runs uncompiled inside of the context.

    Args:
        model: A network with expert convolutions.
        means: Attention (K,) by layer name, usually those of
            :func:`~torchgeo_ekgnet.experts.attention_means` over the training samples.

    Yields:
        Nothing; the network computes with fixed attention inside of the context.

    Raises:
        ValueError: If a layer's mean is missing or has another length than K.
    """
    layers = attention_layers(model)
    for name, layer in layers.items():
        found = tuple(means[name].shape) if name in means else None
        if found != (layer.num_experts,):
            raise ValueError(
                f'means: layer {name!r} has {layer.num_experts} experts, found '
                f'{"no entry" if found is None else f"an entry of shape {found}"}'
            )
    hooks = {}
    for name in layers:

        def replace(
            module: nn.Module, inputs: Any, output: Tensor, mean: Tensor = means[name]
        ) -> Tensor:
            return mean.to(output).expand_as(output)

        hooks[name] = replace
    with _mapping_hooks(model, hooks):
        yield
