# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Swap the 3D convolutions of any network for dynamic ones."""

import re
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .context_mapping import ContextMapping
from .dynamic_expert_conv import DynamicExpertConv3d
from .geometry import in_order
from .grouped_conv import GroupedConv3d
from .rule import watched

__all__ = ['ConvSelection', 'convert_conv3d', 'expert_conv_from']

#: Patterns for names (``re.search``), or a function of name and layer.
ConvSelection = str | Iterable[str] | Callable[[str, nn.Conv3d], bool]


def _selector(selection: ConvSelection) -> Callable[[str, nn.Conv3d], bool]:
    """Turn a selection into a function of name and layer."""
    if callable(selection):
        return selection
    patterns = [selection] if isinstance(selection, str) else list(selection)
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda name, _: any(pattern.search(name) for pattern in compiled)


def expert_conv_from(
    conv: nn.Conv3d,
    num_experts: int = 4,
    *,
    temperature: float = 34.0,
    num_mapping_blocks: int = 2,
    spread: float = 0.1,
    generator: torch.Generator | None = None,
) -> DynamicExpertConv3d:
    """Make a dynamic convolution that computes what a static one does.

    The mapping's last layer starts at zero, so the attention is exactly uniform and the
    mixed kernel is the mean of the experts. The experts are the static kernel plus
    perturbations that add up to zero. So the output is that of the static layer, yet
    the experts differ: the gradient of the last layer of the mapping is not zero, it
    moves with the first step, and from then on the experts get gradients of their own.

    Args:
        conv: The static convolution.
        num_experts: Number K of experts.
        temperature: Temperature tau at the start.
        num_mapping_blocks: Residual blocks N of the mapping network.
        spread: Deviation of the perturbations in deviations of the static kernel.
        generator: Source of the perturbations; None for PyTorch's own.

    Returns:
        The dynamic convolution, with the device, type, mode and ``requires_grad`` of
        the static one.

    Raises:
        ValueError: If ``spread`` is negative.
    """
    if spread < 0:
        raise ValueError(f'spread must not be negative, found {spread}')
    kernel = conv.weight.detach()
    # The axes in the order in which the maps come.
    axes = (0, 1, 2)
    if isinstance(conv, GroupedConv3d) and conv.rows_first:
        axes, kernel = (1, 0, 2), kernel.transpose(2, 3)

    padding = conv.padding
    layer = DynamicExpertConv3d(
        conv.in_channels,
        conv.out_channels,
        in_order(conv.kernel_size, axes),
        in_order(conv.stride, axes),
        padding if isinstance(padding, str) else in_order(padding, axes),
        in_order(conv.dilation, axes),
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        conv.weight.device,
        conv.weight.dtype,
        num_experts=num_experts,
        temperature=temperature,
        num_mapping_blocks=num_mapping_blocks,
    )
    mapping = cast(ContextMapping, layer.mapping)
    with torch.no_grad():
        nn.init.zeros_(mapping.project.weight)
        nn.init.zeros_(cast(nn.Parameter, mapping.project.bias))
        noise = torch.empty_like(layer.weight).normal_(generator=generator)
        noise -= noise.mean(0, keepdim=True)
        scale = kernel.std() if kernel.numel() > 1 else kernel.abs()
        layer.weight.copy_(kernel + spread * scale * noise)
        if conv.bias is not None:
            cast(nn.Parameter, layer.bias).copy_(conv.bias.expand(num_experts, -1))
    layer.weight.requires_grad_(conv.weight.requires_grad)
    if layer.bias is not None and conv.bias is not None:
        layer.bias.requires_grad_(conv.bias.requires_grad)
    return layer.train(conv.training)


def convert_conv3d(
    model: nn.Module,
    num_experts: int = 4,
    include: ConvSelection | None = None,
    exclude: ConvSelection | None = None,
    *,
    temperature: float = 34.0,
    num_mapping_blocks: int = 2,
    spread: float = 0.1,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Swap the ``nn.Conv3d`` layers of a network for dynamic ones, in place.

    Kernels are kept: before training the network computes what it did before, up to
    rounding (:func:`expert_conv_from`). Subclasses of ``nn.Conv3d`` that only fix
    arguments (torchvision's ``Conv3DSimple``) are swapped. Subclasses with a ``forward``
    of their own, transposed convolutions and layers with hooks or parametrizations
    (spectral and weight normalization, pruning) are left alone, because they compute
    something else. A layer that is used in several places stays shared; it is swapped
    if one of its names is selected.

    Example:
        >>> from torchvision.models.video import r3d_18
        >>> model = convert_conv3d(r3d_18(), include=r'^layer[34]', exclude='downsample')

    Args:
        model: The network; a single ``nn.Conv3d`` is converted as well.
        num_experts: Number K of experts.
        include: Which layers to swap; None for all. Regular expressions that are
            searched in a layer's name, or a function of name and layer.
        exclude: Which of them to leave alone, in the same notation.
        temperature: Temperature tau at the start.
        num_mapping_blocks: Residual blocks N of the mapping networks.
        spread: Deviation of the experts around the kernel in deviations of the kernel.
        generator: Source of the perturbations; None for PyTorch's own.

    Returns:
        The network itself, or the new layer where ``model`` is a convolution.

    Raises:
        ValueError: If no layer was selected, or a lazy one without weights.
    """
    included = None if include is None else _selector(include)
    excluded = None if exclude is None else _selector(exclude)
    converted: dict[nn.Module, DynamicExpertConv3d] = {}
    # Every place of a layer, also where one parent holds it twice.
    places = [
        (parent, name, f'{path}.{name}' if path else name, child)
        for path, parent in model.named_modules()
        for name, child in parent._modules.items()
    ]
    found = 0
    for name, conv in [('', model), *((path, child) for *_, path, child in places)]:
        lazy = isinstance(conv, nn.LazyConv3d)
        if not isinstance(conv, nn.Conv3d) or not (lazy or _is_plain(conv)):
            continue
        found += 1
        if included is not None and not included(name, conv):
            continue
        if excluded is not None and excluded(name, conv):
            continue
        if lazy:
            raise ValueError(
                f'convert_conv3d: found no weights in the lazy layer {name!r}, expected '
                'them to exist; run the network once first'
            )
        if conv not in converted:
            converted[conv] = expert_conv_from(
                conv,
                num_experts,
                temperature=temperature,
                num_mapping_blocks=num_mapping_blocks,
                spread=spread,
                generator=generator,
            )
    for parent, name, _, child in places:
        if child in converted:
            setattr(parent, name, converted[child])
    if not converted:
        raise ValueError(
            f'convert_conv3d: no layer of {type(model).__name__} was selected: it has '
            f'{found} nn.Conv3d layers; include={include!r}, exclude={exclude!r}'
        )
    return converted.get(model, model)


def _is_plain(conv: nn.Conv3d) -> bool:
    """Whether a layer computes what ``nn.Conv3d`` does (mapping networks do not)."""
    cls = type(conv)
    inherited = cls.forward is nn.Conv3d.forward or cls is GroupedConv3d
    return (
        inherited
        and cls._conv_forward is nn.Conv3d._conv_forward
        and not watched(conv)
        and not is_parametrized(conv)
    )
