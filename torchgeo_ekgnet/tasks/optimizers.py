# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Optimizers of the task."""

from typing import Any

from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import Adam, AdamW, Optimizer


def make_optimizer(
    network: nn.Module, lr: float, weight_decay: float | None, fused: bool
) -> Optimizer:
    """Create Adam, or AdamW with the network's own exceptions from the decay.

    Args:
        network: The network.
        lr: Learning rate.
        weight_decay: Decay of AdamW, which spares vectors (biases, normalisations) and
            what ``network.no_weight_decay()`` names; None for Adam.
        fused: Whether to update all parameters in one kernel, which CPU and CUDA can.

    Returns:
        The optimizer of the parameters that are to be trained.
    """
    options: dict[str, Any] = {'fused': True} if fused else {}
    if weight_decay is None:
        parameters = [p for p in network.parameters() if p.requires_grad]
        return Adam(parameters, lr=lr, **options)
    spared: set[str] = getattr(network, 'no_weight_decay', set)()
    groups = param_groups_weight_decay(
        network, weight_decay, no_weight_decay_list=spared
    )
    return AdamW(groups, lr=lr, weight_decay=weight_decay, **options)


def repoint(hook: Any, network: nn.Module) -> None:
    """Give an optimizer of the command line the parameters of the built network.

    The command line creates ``optimizer`` before the datamodule has read the scene.

    Args:
        hook: What the command line has put in place of ``configure_optimizers``; None
            if nothing.
        network: The network.

    Raises:
        ValueError: If the optimizer cannot take other parameters any more.
    """
    function = getattr(hook, '__func__', hook)
    optimizer = getattr(function, 'keywords', {}).get('optimizer')
    if not isinstance(optimizer, Optimizer):
        return
    if optimizer.state or len(optimizer.param_groups) != 1:
        raise ValueError(
            f'optimizer: {type(optimizer).__name__} needs the parameters at its '
            'construction; pass in_channels and num_classes to the task'
        )
    optimizer.param_groups[0]['params'] = list(network.parameters())
