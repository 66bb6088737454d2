# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""EKGNet: a 3D-DenseNet whose 1x1x1 convolutions are mixed from experts per patch.

Paper: "Expert Kernel Generation Network Driven by Contextual Mapping for Hyperspectral
Image Classification", https://arxiv.org/abs/2504.13045

Two readings exist. ``ekgnet_base`` and ``ekgnet_large`` follow the paper's text: two
mapping blocks with learnable residual weights, truncated-normal experts, a temperature
that is annealed. ``ekgnet_base_reference`` and ``ekgnet_large_reference`` compute what
the authors' released program computes and load its checkpoints; that program keeps the
bands on the last axis, so its kernels are permuted on the way in.

``ekgnet_spectral`` and ``ekgnet_spatial`` are neither; they are this package's own. The
first is for ground that nobody trained on, where surroundings that a network remembers
do not return, the second for the rest of fields that have labels, where they do.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.models import generate_default_cfgs
from torch import nn

from ..layers import ContextMapping, DynamicExpertConv3d
from ._registration import create_spectral_model, register_network, spectral_cfg
from ._skeleton import DenseLayer, DenseSkeleton, init_conv3d

__all__ = ['EKGNet', 'translate_released']

_CONV_LAYERS = ('dynamic', 'conv3d')


class EKGNet(DenseSkeleton):
    """3D-DenseNet with expert convolutions as the bottlenecks of its dense layers.

    Shape: patches (B, in_chans, P, P) to logits (B, num_classes).

    Args:
        num_classes: Number of classes.
        in_chans: Number of bands.
        conv_layer: 'dynamic' for expert convolutions, 'conv3d' for the static twin
            with one kernel in their place.
        num_experts: Number K of expert kernels.
        temperature: Temperature tau at the start.
        num_mapping_blocks: Number N of residual blocks of a mapping network.
        mapping_units_per_block: BN-GELU-convolution units in such a block.
        learnable_residual: Learn the weights of the residual connections.
        reference_init: Draw experts and mapping networks as the released program does.
        **kwargs: Further arguments of :class:`~torchgeo_ekgnet.models.DenseSkeleton`.

    Raises:
        ValueError: If ``conv_layer`` is unknown or a size is not valid.
    """

    has_experts = True
    static_options = {'conv_layer': 'conv3d'}
    # ekgnet_large_reference was off by 9 %: its experts are drawn a hundred times larger.
    bfloat16_names = frozenset(
        {'ekgnet_base', 'ekgnet_large', 'ekgnet_spectral', 'ekgnet_tiny'}
    )

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        *,
        conv_layer: str = 'dynamic',
        num_experts: int = 4,
        temperature: float = 34.0,
        num_mapping_blocks: int = 2,
        mapping_units_per_block: int = 1,
        learnable_residual: bool = True,
        reference_init: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the network."""
        if conv_layer not in _CONV_LAYERS:
            raise ValueError(
                f'conv_layer must be one of {_CONV_LAYERS}, found {conv_layer!r}'
            )

        def bottleneck(in_channels: int, out_channels: int) -> nn.Module:
            if conv_layer == 'conv3d':
                return nn.Conv3d(
                    in_channels, out_channels, 1, device=device, dtype=dtype
                )
            return DynamicExpertConv3d(
                in_channels,
                out_channels,
                1,
                num_experts=num_experts,
                temperature=temperature,
                num_mapping_blocks=num_mapping_blocks,
                mapping_units_per_block=mapping_units_per_block,
                learnable_residual=learnable_residual,
                device=device,
                dtype=dtype,
            )

        super().__init__(
            bottleneck, num_classes, in_chans, device=device, dtype=dtype, **kwargs
        )
        if reference_init:
            self._draw_as_released()

    def _draw_as_released(self) -> None:
        """Standard normal experts; mapping convolutions like every other one."""
        for module in self.modules():
            if isinstance(module, DynamicExpertConv3d):
                nn.init.normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                for inner in module.mapping.modules():
                    if isinstance(inner, nn.Conv3d):
                        init_conv3d(inner)
            elif isinstance(module, DenseLayer) and isinstance(
                module.bottleneck, nn.Conv3d
            ):
                init_conv3d(module.bottleneck)

    def own_weights(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Give weights of a file, also a released one, this network's names."""
        return translate_released(self, super().own_weights(state_dict))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Translate a released checkpoint, recognised by its names, then load."""
        _translate_released(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _released_names(model: EKGNet) -> dict[str, str]:
    """Map the names of a released checkpoint to ours."""
    names = {'features.init_conv.weight': 'stem.weight'}
    statistics = (
        'weight',
        'bias',
        'running_mean',
        'running_var',
        'num_batches_tracked',
    )
    for block, stage in enumerate(model.stages):
        for index, layer in enumerate(cast(nn.ModuleList, stage.layers)):
            theirs = f'features.denseblock_{block + 1}.denselayer_{index + 1}'
            ours = f'stages.{block}.layers.{index}'
            for leaf in statistics:
                names[f'{theirs}.conv_2.norm.{leaf}'] = f'{ours}.norm.{leaf}'
            names[f'{theirs}.conv_2.conv.weight'] = f'{ours}.conv.weight'
            for leaf in ('weight', 'bias'):
                names[f'{theirs}.conv_1.{leaf}'] = f'{ours}.bottleneck.{leaf}'
            theirs, ours = f'{theirs}.conv_1', f'{ours}.bottleneck.mapping'
            names[f'{theirs}.temperature'] = f'{ours}.raw_temperature'
            mapping = cast(Any, layer).bottleneck.mapping
            units = [
                name
                for name, module in mapping.named_modules()
                if isinstance(module, nn.BatchNorm3d | nn.Conv3d)
            ]
            alphas = [
                name
                for name, _ in mapping.named_parameters()
                if name.rpartition('.')[2] == 'residual_weight'
            ]
            if len(units) != 6 or len(alphas) != 1:
                raise ValueError(
                    'the released checkpoint has one mapping block of two units; '
                    'create ekgnet_base_reference or ekgnet_large_reference to load it'
                )
            # Positions of the release: BN 0, GELU 1, conv 2, BN 3, GELU 4, conv 5,
            # residual 6, BN 7, conv 8.
            for position, unit in zip((0, 2, 3, 5, 7, 8), units, strict=True):
                for leaf in statistics:
                    names[f'{theirs}.keys.{position}.{leaf}'] = f'{ours}.{unit}.{leaf}'
            names[f'{theirs}.keys.6.alpha'] = f'{ours}.{alphas[0]}'
    for leaf in statistics:
        names[f'bn_last.{leaf}'] = f'norm.{leaf}'
    return names


def translate_released(
    model: nn.Module, state_dict: Mapping[str, Any]
) -> dict[str, Any]:
    """Give a released checkpoint the names and layouts of the network it is for.

    ``load_state_dict`` does so by itself; this is for loaders that look into a state
    dict before.

    Args:
        model: The network that is to receive the checkpoint.
        state_dict: Any state dict; all but a released one for an :class:`EKGNet` is
            left as it is.

    Returns:
        A state dict for the network.

    Raises:
        ValueError: If a released checkpoint does not fit this variant.
    """
    state = dict(state_dict)
    if isinstance(model, EKGNet):
        _translate_released(model, state, '')
    return state


def _translate_released(model: EKGNet, state: dict[str, Any], prefix: str) -> None:
    """Replace the names and layouts of a released checkpoint by ours, in place."""
    for wrapped in (f'{prefix}module.', prefix):
        if f'{wrapped}features.init_conv.weight' in state:
            break
    else:
        return
    if any(
        not isinstance(cast(Any, layer).bottleneck, DynamicExpertConv3d)
        for stage in model.stages
        for layer in cast(nn.ModuleList, stage.layers)
    ):
        raise ValueError(
            'the released checkpoint holds expert kernels; create '
            "ekgnet_base_reference without conv_layer='conv3d' to load it"
        )
    names = _released_names(model)
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for key in [key for key in state if key.startswith(wrapped)]:
        value = state.pop(key)
        name = names.get(key[len(wrapped) :], key[len(wrapped) :])
        if name == 'stem.weight' or name.endswith('.conv.weight'):
            # (rows, columns, bands) there, (bands, rows, columns) here.
            value = value.permute(0, 1, 4, 2, 3).contiguous()
        elif name.endswith('.raw_temperature'):
            # The layer's own rule turns a temperature into its parameter.
            tau = ContextMapping(1, temperature=float(value), dtype=value.dtype)
            value = tau.raw_temperature.detach()
        target = targets.get(name)
        if target is not None and target.numel() == value.numel():
            value = value.reshape(target.shape)
        state[f'{prefix}{name}'] = value


_PAPER: dict[str, Any] = {
    'paper_ids': 'arXiv:2504.13045',
    'paper_name': 'Expert Kernel Generation Network Driven by Contextual Mapping for '
    'Hyperspectral Image Classification',
}

default_cfgs = generate_default_cfgs(
    {
        'ekgnet_base': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
        'ekgnet_large': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
        'ekgnet_tiny': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
        'ekgnet_spectral': spectral_cfg(
            min_input_size=(200, 1, 1), pool_size=(11, 11), **_PAPER
        ),
        'ekgnet_spatial': spectral_cfg(
            min_input_size=(200, 3, 3), pool_size=(11, 11), **_PAPER
        ),
        'ekgnet_base_reference': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
        'ekgnet_large_reference': spectral_cfg(min_input_size=(200, 7, 7), **_PAPER),
    }
)

_BASE: dict[str, Any] = {'block_config': (4, 6, 8), 'growth_rate': 8}
_LARGE: dict[str, Any] = {'block_config': (14, 14, 14), 'growth_rate': 8}
_TINY: dict[str, Any] = {
    'block_config': (2, 2, 2),
    'growth_rate': 8,
    'stem_kernel': (9, 3, 3),
    'stem_stride': (6, 2, 2),
}
_SPECTRAL: dict[str, Any] = {
    'block_config': (1, 1, 1),
    'growth_rate': 16,
    'stem_channels': 128,
    'whole_spectrum': True,
    'pixelwise': True,
    'centred': True,
}
_SPATIAL: dict[str, Any] = {**_SPECTRAL, 'pixelwise': False, 'pooling': False}
_REFERENCE: dict[str, Any] = {
    'num_mapping_blocks': 1,
    'mapping_units_per_block': 2,
    'learnable_residual': False,
    'reference_init': True,
}


@register_network(EKGNet)
def ekgnet_base(pretrained: bool = False, **kwargs: Any) -> Any:
    """EKGNet-base of the paper's text: blocks of 4, 6 and 8 layers, growth 8-16-32."""
    return create_spectral_model(
        EKGNet, 'ekgnet_base', pretrained, **{**_BASE, **kwargs}
    )


@register_network(EKGNet)
def ekgnet_large(pretrained: bool = False, **kwargs: Any) -> Any:
    """EKGNet-large of the paper's text: three blocks of 14 layers, growth 8-16-32."""
    return create_spectral_model(
        EKGNet, 'ekgnet_large', pretrained, **{**_LARGE, **kwargs}
    )


@register_network(EKGNet)
def ekgnet_tiny(pretrained: bool = False, **kwargs: Any) -> Any:
    """EKGNet for a laptop: blocks of 2 layers, a stem of 9 bands that strides 6.

    About a twelfth of the parameters of ``ekgnet_base`` and an eighth of its time; the
    mapping networks and the expert convolutions are the same.
    """
    return create_spectral_model(
        EKGNet, 'ekgnet_tiny', pretrained, **{**_TINY, **kwargs}
    )


@register_network(EKGNet)
def ekgnet_spectral(pretrained: bool = False, **kwargs: Any) -> Any:
    """EKGNet for new ground and few labels; not a network of the paper.

    The stem reads the whole spectrum of a pixel at once, three dense layers with expert
    convolutions classify each pixel on its own, and the patch is their mean. Train it
    with crops of one pixel (``PatchAugmentation(crop=1)``) and map with whole patches.
    """
    return create_spectral_model(
        EKGNet, 'ekgnet_spectral', pretrained, **{**_SPECTRAL, **kwargs}
    )


@register_network(EKGNet)
def ekgnet_spatial(pretrained: bool = False, **kwargs: Any) -> Any:
    """EKGNet for the rest of fields that have labels; not a network of the paper.

    :func:`ekgnet_spectral` with kernels over neighbours, and experts by the patch. Train
    it with whole patches, flipped and turned; it remembers surroundings.
    """
    return create_spectral_model(
        EKGNet, 'ekgnet_spatial', pretrained, **{**_SPATIAL, **kwargs}
    )


@register_network(EKGNet)
def ekgnet_base_reference(pretrained: bool = False, **kwargs: Any) -> Any:
    """EKGNet-base as the released program computes it; loads its checkpoints."""
    model_args = {**_BASE, **_REFERENCE, **kwargs}
    return create_spectral_model(
        EKGNet, 'ekgnet_base_reference', pretrained, **model_args
    )


@register_network(EKGNet)
def ekgnet_large_reference(pretrained: bool = False, **kwargs: Any) -> Any:
    """EKGNet-large as the released program computes it; loads its checkpoints."""
    model_args = {**_LARGE, **_REFERENCE, **kwargs}
    return create_spectral_model(
        EKGNet, 'ekgnet_large_reference', pretrained, **model_args
    )
