# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Weights from files: names of the network alone, and what does not fit in a sentence."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from timm.models import clean_state_dict
from torch import Tensor, nn

from .._wording import listed

__all__ = ['Comparison', 'compare_weights', 'network_state']

_SHOWN = 3


class Comparison(NamedTuple):
    """Weights of a file beside those of a network, by name.

    Attributes:
        missing: What the network has and the file lacks.
        unexpected: What the file has and the network lacks.
        shapes: What has another shape: in the file, in the network.
        fitting: Number of tensors that fit.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    fitting: int

    @property
    def fits(self) -> bool:
        """Whether every tensor has its place."""
        return not (self.missing or self.unexpected or self.shapes)

    def sentence(self) -> str:
        """Say what does not fit, in one line of bounded length."""
        total = self.fitting + len(self.missing) + len(self.shapes)
        parts = [f'{self.fitting} of {total} tensors fit']
        if self.shapes:
            shown = [
                f'{name} (found {theirs}, expected {ours})'
                for name, (theirs, ours) in self.shapes.items()
            ]
            parts.append(f'other shapes: {listed(shown, _SHOWN)}')
        if self.missing:
            parts.append(f'missing: {listed(self.missing, _SHOWN)}')
        if self.unexpected:
            parts.append(f'unknown: {listed(self.unexpected, _SHOWN)}')
        return ', '.join(parts)


def network_state(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Give weights the names that they have in a network alone.

    Args:
        state_dict: State dict of a network, of a task that holds it as ``model``, or of
            what data-parallel training or ``torch.compile`` wraps round either.

    Returns:
        State dict of the network.
    """
    state: dict[str, Any] = clean_state_dict(dict(state_dict))
    inside = {
        name.removeprefix('model.'): value
        for name, value in state.items()
        if name.startswith('model.')
    }
    state = clean_state_dict(inside) if inside else state
    for name, value in state.items():
        # A scalar before version 0.1.
        scalar = isinstance(value, Tensor) and value.dim() == 0
        if scalar and name.endswith('.raw_temperature'):
            state[name] = value.reshape(1)
    return state


def compare_weights(network: nn.Module, state: Mapping[str, Any]) -> Comparison:
    """Compare the names and shapes of weights with those of a network.

    Args:
        network: The network.
        state: The weights, under the network's names.

    Returns:
        What fits and what does not.
    """
    ours = network.state_dict()
    shapes = {
        name: (_shape(state[name]), tuple(value.shape))
        for name, value in ours.items()
        if name in state and _shape(state[name]) != tuple(value.shape)
    }
    counters = 'num_batches_tracked'
    missing = [name for name in ours if name not in state]
    return Comparison(
        # PyTorch starts these anew where an old file lacks them.
        tuple(name for name in missing if not name.endswith(counters)),
        tuple(name for name in state if name not in ours),
        shapes,
        len(ours) - len(missing) - len(shapes),
    )


def _shape(value: Any) -> tuple[int, ...]:
    """Give the shape of a tensor; none of anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()
