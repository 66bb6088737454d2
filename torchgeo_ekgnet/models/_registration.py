# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Networks by name: timm's registry, and what it knows of each."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from timm.models import (
    build_model_with_cfg,
    is_model,
    list_models,
    model_entrypoint,
    register_model,
)
from torch import nn

from ._contract import SpectralSpatialNet

Entry = TypeVar('Entry', bound=Callable[..., Any])


def spectral_cfg(
    input_size: tuple[int, int, int] = (200, 11, 11),
    min_input_size: tuple[int, int, int] | None = None,
    num_classes: int = 16,
    pool_size: tuple[int, int] = (1, 1),
    **kwargs: Any,
) -> dict[str, Any]:
    """Fill a timm configuration for a hyperspectral patch network.

    Args:
        input_size: Bands, rows and columns of the usual patch.
        min_input_size: The smallest patch that timm may try; ``input_size`` if None.
        num_classes: Classes of the usual scene.
        pool_size: Rows and columns of the final map at ``input_size``.
        **kwargs: Entries to add or replace.

    Returns:
        The configuration.
    """
    cfg: dict[str, Any] = {
        'input_size': input_size,
        'min_input_size': input_size if min_input_size is None else min_input_size,
        'pool_size': pool_size,
        'num_classes': num_classes,
        # Patches arrive standardised; an RGB triple would be wrong here.
        'mean': (0.0,),
        'std': (1.0,),
        'interpolation': 'bicubic',
        'crop_pct': 1.0,
        'first_conv': 'stem',
        'classifier': 'classifier',
        'license': 'mit',
    }
    cfg.update(kwargs)
    return cfg


def register_network(network: type[SpectralSpatialNet]) -> Callable[[Entry], Entry]:
    """Register an entry function with timm and remember the class that it builds.

    A name that another package has registered is left to that package, with a warning;
    our entry function is then reached by its module alone.

    Args:
        network: Class of the network.

    Returns:
        A decorator for the entry function.
    """

    def register(entry: Entry) -> Entry:
        name, ours = entry.__name__, entry.__module__
        cast(Any, entry).network = network
        if is_model(name):
            other = model_entrypoint(name).__module__
            if other.partition('.')[0] != ours.partition('.')[0]:
                warnings.warn(
                    f'timm has a model {name!r} of {other} already, which stays; that '
                    f'of this package is {ours}.{name}',
                    stacklevel=2,
                )
                return entry
        return cast(Entry, register_model(entry))

    return register


def network_class(name: str) -> type[SpectralSpatialNet] | None:
    """Find the class behind a registered name, whose attributes are its traits.

    Args:
        name: Name of a model, with or without a tag.

    Returns:
        The class; None for models of other packages and unknown names.
    """
    name = name.partition('.')[0]
    if not is_model(name):
        return None
    network = getattr(model_entrypoint(name), 'network', None)
    return cast('type[SpectralSpatialNet] | None', network)


def own_models() -> list[str]:
    """List the registered names of this package's networks."""
    return sorted(name for name in list_models() if network_class(name))


def _weights_of_file(state_dict: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Give weights a network's names, and tell timm how many classes they know.

    By that number timm keeps their classifier or leaves it out.
    """
    state: dict[str, Any] = model.own_weights(state_dict)
    classifier = state.get('classifier.weight')
    if classifier is not None:
        model.pretrained_cfg['num_classes'] = len(classifier)
    return state


def create_spectral_model(
    model_class: Callable[..., nn.Module],
    variant: str,
    pretrained: bool = False,
    num_stages: int = 3,
    **kwargs: Any,
) -> Any:
    """Build a registered model the way timm does.

    Args:
        model_class: Class of the network.
        variant: Registered name.
        pretrained: Load the weights that the configuration names.
        num_stages: Number of feature levels, all of which ``features_only`` gives; that
            of the blocks where there is a ``block_config``.
        **kwargs: Arguments of the network and of timm's builder.

    Returns:
        The network, or timm's feature wrapper of it.

    Raises:
        ValueError: If ``feature_cls`` is another wrapper than timm's getter.
    """
    feature_cls = kwargs.pop('feature_cls', 'getter')
    if feature_cls != 'getter':
        # The others take maps from inside of the network, with a spectral axis.
        raise ValueError(
            f"feature_cls: found {feature_cls!r}, expected 'getter', whose maps are "
            '(B, C, H, W)'
        )
    blocks = kwargs.get('block_config')
    if isinstance(blocks, Sequence):  # else the network refuses it
        num_stages = len(blocks)
    return build_model_with_cfg(
        model_class,
        variant,
        pretrained,
        feature_cfg={'out_indices': tuple(range(num_stages)), 'feature_cls': 'getter'},
        pretrained_filter_fn=_weights_of_file,
        **kwargs,
    )
