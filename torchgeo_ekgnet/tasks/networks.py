# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Networks of the task: found by name, built when their sizes are known, loaded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..checkpoint import KEY, Provenance, check_content, read_tensors
from ..commands import did_you_mean
from ..models import own_models
from ..models._weights import compare_weights, network_state


class Unbuilt(nn.Module):
    """Stands for a network whose sizes are not known yet.

    It has one parameter, so that an optimizer can be created before the network is.
    """

    def __init__(self, unknown: Sequence[str]) -> None:
        """Initialize."""
        super().__init__()
        self.unknown = tuple(unknown)
        self.placeholder = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Raise RuntimeError: there is no network."""
        raise RuntimeError(
            f'the network is not built, {", ".join(self.unknown)} is unknown; pass it '
            'to the task, or run the task in a Trainer with its datamodule'
        )


class BuildFirst(Callback):
    """Builds the network of a task before other callbacks are set up.

    Lightning sets callbacks up before the module; those that average, prune or freeze
    weights copy or change them then.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build what is to be trained."""
        build = getattr(pl_module, 'build', None)
        if stage == 'fit' and build is not None:
            build(stage)


def check_model(name: Any) -> None:
    """Check that timm knows a model.

    Args:
        name: Name of the model.

    Raises:
        TypeError: If it is no name.
        ValueError: If timm does not; the message lists the models of this package.
    """
    if not isinstance(name, str):
        raise TypeError(f'model: found {name!r}, expected the name of a network')
    if ':' in name or '/' in name or timm.is_model(name):
        return
    raise ValueError(
        f'model: timm knows no {name!r}; this package has {", ".join(own_models())}, '
        f'and timm.list_models() lists all{did_you_mean(name, own_models())}'
    )


def needs_img_size(name: str) -> bool:
    """Tell whether the constructor of a network wants ``img_size``."""
    if ':' in name or '/' in name:
        return False
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(cfg is not None and cfg.fixed_input_size)


def create_network(
    name: str,
    in_channels: int,
    num_classes: int,
    options: Mapping[str, Any],
    pretrained: bool,
) -> nn.Module:
    """Build a network.

    Args:
        name: Name of a timm model.
        in_channels: Bands of the patches.
        num_classes: Number of classes.
        options: Further arguments of ``timm.create_model``.
        pretrained: Whether weights that timm publishes are loaded.

    Returns:
        The network.

    Raises:
        ValueError: If the model has no such option, or no published weights.
    """
    if pretrained and ':' not in name and not timm.is_model_pretrained(name):
        raise ValueError(
            f'weights: found true, but timm publishes no weights of {name}; give the '
            'path of a checkpoint, or leave weights out'
        )
    try:
        network: nn.Module = timm.create_model(
            name,
            pretrained=pretrained,
            num_classes=num_classes,
            in_chans=in_channels,
            **options,
        )
    except TypeError as error:
        unknown = [key for key in options if f"argument '{key}'" in str(error)]
        if not unknown:
            raise
        raise ValueError(
            f'model_options: {name} has no option {unknown[0]!r} ({error})'
        ) from error
    return network


def load_weights(network: nn.Module, path: str) -> tuple[bool, Provenance | None]:
    """Start from the network of a file.

    Args:
        network: Network, changed in place. Layers whose shapes differ, because bands or
            classes do, keep the weights that they were drawn with.
        path: Checkpoint of a task, or file with a state dict, also of data-parallel
            training or of the authors' program.

    Returns:
        Whether every layer was loaded, and which training run the file tells of.

    Raises:
        FileNotFoundError: If there is no such file, or it is an address.
        ValueError: If the file does not hold weights of such a network.
    """
    content = read_tensors(path, 'weights')
    if KEY in content:
        check_content(path, content)
    state = own_weights(network, content.get('state_dict', content))
    found = compare_weights(network, state)
    classifier = str(getattr(network, 'default_cfg', {}).get('classifier') or '-')
    missing = [name for name in found.missing if not name.startswith(f'{classifier}.')]
    if missing or not found.fitting:
        raise ValueError(
            f'weights: {path} does not fit {type(network).__name__}: '
            f'{found.sentence()}; give the file of a network of this kind'
        )
    if not found.fits:
        rank_zero_warn(
            f'weights: of {path}, {found.sentence()}; what does not fit keeps the '
            'weights that it was drawn with'
        )
    network.load_state_dict(
        {name: value for name, value in state.items() if name not in found.shapes},
        strict=False,
    )
    complete = not (found.missing or found.shapes)
    return complete, Provenance.of(content)


def own_weights(network: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Give weights of a file the names of a network, of this package or another."""
    own: Callable[[Mapping[str, Any]], dict[str, Any]]
    own = getattr(network, 'own_weights', network_state)
    return own(state_dict)


def num_classes_of(weights: str | bool | None) -> int | None:
    """Tell how many classes the network of a checkpoint has, if the file says so."""
    if not isinstance(weights, str) or not weights:
        return None
    settings = read_tensors(weights, 'weights').get('hyper_parameters')
    found = settings.get('num_classes') if isinstance(settings, Mapping) else None
    return found if isinstance(found, int) else None


def order_classes(network: Any, numbers: Sequence[int | None]) -> None:
    """Bring the rows of a loaded classifier into the order of other classes.

    Args:
        network: Network with a classifier, changed in place.
        numbers: Present row of each class; None for a class that was not there, whose
            row is drawn anew.
    """
    classifier = getattr(network, 'get_classifier', nn.Identity)()
    if not isinstance(classifier, nn.Linear) or len(numbers) != classifier.out_features:
        return
    if list(numbers) == list(range(len(numbers))):
        return
    before = {name: value.clone() for name, value in classifier.named_parameters()}
    classifier.reset_parameters()
    with torch.no_grad():
        for name, value in classifier.named_parameters():
            for row, number in enumerate(numbers):
                if number is not None:
                    value[row] = before[name][number]


def doubt_crops(network: nn.Module, datamodule: object) -> None:
    """Warn where single pixels train a network that has kernels over neighbours."""
    crop = getattr(getattr(datamodule, 'augmentation', None), 'crop', None)
    size = getattr(datamodule, 'patch_size', 1)
    if crop == 1 < size and getattr(network, 'pixelwise', None) is False:
        rank_zero_warn(
            f'augmentation: found crop 1 for {type(network).__name__} with kernels over '
            f'neighbours, which single pixels do not train but patches of {size} x '
            f'{size} are scored with; expected crop null with flips and turns, or a '
            'pixelwise network such as ekgnet_spectral'
        )
