# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a checkpoint says of its training run."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

KEY = 'torchgeo_ekgnet'
"""Entry of a checkpoint under which the task writes its :class:`Provenance`."""

# Entries by which the state of a data module of ours is known among other entries.
_STATE = frozenset(('scene', 'split', 'patch_size', 'padding_mode', 'num_bands'))


@dataclass(frozen=True)
class Provenance:
    """The training run that made the weights of a network.

    Attributes:
        data: State of its datamodule (scene, split, preprocessing and its statistics);
            None if that is not known.
        epochs: Epochs begun; None if not known.
        seed: Seed of the run; None if none was set.
        versions: Versions that the result depends on, by package.
        temperature: What logits are divided by before they become probabilities, as
            fitted on validation pixels; None if nothing was fitted.
    """

    data: Mapping[str, Any] | None = None
    epochs: int | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    temperature: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'Provenance':
        """Read what :meth:`to_dict` gave.

        Raises:
            ValueError: If the temperature is no positive number.
        """
        found = values.get('temperature')
        known = isinstance(found, int | float) and 0 < found < math.inf
        if found is not None and not known:
            raise ValueError(
                f'temperature: found {found!r} in the checkpoint, expected a positive '
                'number or None: fit writes it, use a checkpoint of fit'
            )
        return cls(
            data=values.get('data') or None,
            epochs=values.get('epochs'),
            seed=values.get('seed'),
            versions=dict(values.get('versions') or {}),
            temperature=None if found is None else float(found),
        )

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> 'Provenance | None':
        """Read from which run a checkpoint comes.

        Args:
            checkpoint: Content of a checkpoint, also of torchgeo's own task, of which
                the state of a datamodule is known at most.

        Returns:
            The run; None if the checkpoint tells nothing of it.
        """
        values = {**(checkpoint.get(KEY) or {}), 'data': data_state(checkpoint)}
        return cls.from_dict(values) if any(values.values()) else None

    def to_dict(self) -> dict[str, Any]:
        """Give what a checkpoint can hold."""
        return asdict(self)


def data_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find what a checkpoint says about its data.

    Args:
        checkpoint: Content of a checkpoint.

    Returns:
        State of its datamodule, or None if it has none of this package.
    """
    entry = checkpoint.get(KEY)
    own = entry.get('data') if isinstance(entry, Mapping) else None
    for value in (own, *checkpoint.values()):
        if is_data_state(value):
            return value
    return None


def is_data_state(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a value is the state of a data module of this package."""
    return isinstance(value, Mapping) and set(value) >= _STATE


def trained_bands(state: Mapping[str, Any]) -> tuple[int, NDArray[np.float64] | None]:
    """Tell which bands of a scene a network was trained on, before PCA.

    Args:
        state: State of the datamodule that it was trained with.

    Returns:
        Number of bands, and their centres in nm if these are known.
    """
    scene = state['scene']
    shape, centres = scene.get('shape'), scene.get('wavelengths')
    return (
        int(state['num_bands'] if shape is None else shape[2]),
        None if centres is None else np.asarray(centres, dtype=np.float64),
    )
