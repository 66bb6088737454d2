# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The process's random generators in a checkpoint, so that a resumed run goes on."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def generator_states() -> dict[str, Any]:
    """Give the states of Python's, NumPy's and PyTorch's generators.

    Returns:
        What a checkpoint can hold: numbers, tuples and tensors.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state_all()
    return states


def restore_generators(states: Mapping[str, Any]) -> None:
    """Go on where :func:`generator_states` was called.

    Args:
        states: What it gave. GPUs are left alone if there is another number of them.
    """
    version, numbers, gauss = states['python']
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    cuda = states.get('cuda', ())
    if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in cuda])
