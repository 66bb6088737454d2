# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Multiply-adds and values of a network, counted without doing the work."""

import functools
from typing import Any, NamedTuple, cast

import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ..layers import conv_strategy

__all__ = ('Work', 'count_work', 'create_model', 'usual_patch')


def create_model(name: str, patch: int, bands: int, **kwargs: Any) -> nn.Module:
    """Make a network of 9 classes.

    Args:
        name: Registered model of this package.
        patch: Rows and columns of a patch.
        bands: Number of bands.
        **kwargs: Further arguments of the network.

    Returns:
        The network.
    """
    if timm.get_pretrained_cfg_value(name, 'fixed_input_size'):
        kwargs['img_size'] = patch
    return timm.create_model(name, in_chans=bands, num_classes=9, **kwargs)


def usual_patch(name: str) -> int:
    """Look up the patch size of a model's configuration."""
    size = timm.get_pretrained_cfg_value(name, 'input_size')
    return cast(tuple[int, int, int], size)[-1]


class Work(NamedTuple):
    """What a forward pass has to do.

    Attributes:
        multiply_adds: Multiply-adds of convolutions and matrix products.
        values: Values that these operations read and write.
    """

    multiply_adds: int
    values: int


class _ValueCounter(TorchDispatchMode):
    """Count the values that convolutions and matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            tensors = [t for t in (*args, out) if isinstance(t, Tensor)]
            self.total += sum(t.numel() for t in tensors)
        return out


@functools.cache
def count_work(
    name: str, patch: int, bands: int, batch: int, training: bool = False
) -> Work:
    """Count the work of a forward pass in the plain formulation, without doing it.

    Tensors without memory take the place of the real ones. No strategy pads, unrolls
    or fuses anything there, so the count is what the network needs.

    Args:
        name: Registered model of this package.
        patch: Rows and columns of a patch.
        bands: Number of bands.
        batch: Patches in the batch.
        training: Pass through the network in training mode.

    Returns:
        The work of the whole batch.

    Raises:
        ValueError: If the network cannot take such a batch.
    """
    try:
        with torch.device('meta'), torch.no_grad(), conv_strategy('grouped'):
            model = create_model(name, patch, bands).train(training)
            x = torch.empty(batch, bands, patch, patch)
            with FlopCounterMode(display=False) as counter, _ValueCounter() as values:
                model(x)
    except (RuntimeError, ValueError) as error:
        purpose = 'train on' if training else 'take'
        raise ValueError(
            f'model {name} cannot {purpose} a batch of {batch} with patches of {patch} '
            f'pixels and {bands} bands: {error}'
        ) from error
    # An operation is a multiplication or an addition.
    return Work(counter.get_total_flops() // 2, values.total)
