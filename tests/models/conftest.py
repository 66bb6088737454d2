# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Small inputs for every registered model."""

import copy
import functools
from typing import Any

import timm
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.models import DenseNet3d, network_class, own_models
from torchgeo_ekgnet.models._skeleton import DenseSkeleton

#: Every model that the package registers; new files join by being imported.
MODELS = own_models()

#: One size of each network is enough where the class matters, not the depth.
SIZES = [name for name in MODELS if '_large' not in name]

#: Layers of dense blocks where the class matters, not the depth: in the middle block,
#: between two poolings, the second layer sees what the first has added.
SHALLOW: dict[str, dict[str, Any]] = {
    name: {'block_config': (1, 2, 1)}
    for name in MODELS
    if issubclass(network_class(name) or object, DenseSkeleton | DenseNet3d)
    # Blocks of one layer.
    and name not in ('ekgnet_spatial', 'ekgnet_spectral')
}

#: Bands of the small patches; networks do not depend on the scene's number.
BANDS = 24


def small_input(name: str, batch: int = 1, bands: int = BANDS) -> Tensor:
    """Make patches of the smallest size that a model's configuration allows.

    Args:
        name: Registered name.
        batch: Number of patches.
        bands: Number of bands.

    Returns:
        Random patches.
    """
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    size = cfg.input_size if cfg.fixed_input_size else cfg.min_input_size
    assert size is not None
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, bands, *size[1:], generator=generator)


def small_model(name: str, **kwargs: Any) -> Any:
    """Create a model for the patches of :func:`small_input`.

    Args:
        name: Registered name.
        **kwargs: Arguments of the model.

    Returns:
        The model in evaluation mode.
    """
    if kwargs:
        torch.manual_seed(0)
        return timm.create_model(name, **{'in_chans': BANDS, **kwargs}).eval()
    return copy.deepcopy(_pristine(name))


def shallow_model(name: str, **kwargs: Any) -> Any:
    """Create a model as :func:`small_model` does, with few layers in each block.

    Args:
        name: Registered name.
        **kwargs: Arguments of the model.

    Returns:
        The model in evaluation mode.
    """
    if kwargs:
        return small_model(name, **SHALLOW.get(name, {}), **kwargs)
    return copy.deepcopy(_pristine(name, shallow=True))


@functools.cache
def _pristine(name: str, shallow: bool = False) -> Any:
    """Draw a model once: copying is faster than drawing."""
    few = SHALLOW.get(name, {}) if shallow else {}
    return small_model(name, in_chans=BANDS, **few)


def settled(model: Any, x: Tensor) -> Any:
    """Give the batch norms statistics, so that activations are of order one.

    Networks with unscaled experts blow rounding errors up otherwise.

    Args:
        model: A network.
        x: More than one patch.

    Returns:
        The network in evaluation mode.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
