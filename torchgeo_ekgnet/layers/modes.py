# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Evaluation mode for the time of a block of code."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ['evaluating']

#: How many blocks use a module at the moment, and whether it was training before.
_IN_USE: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()
_IN_USE_LOCK = threading.Lock()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode; the last of several threads ends that.

    Args:
        network: The network. What was frozen apart from the rest stays so.

    Yields:
        Nothing.
    """
    modules = list(network.modules())
    with _IN_USE_LOCK:
        for module in modules:
            _IN_USE.setdefault(module, [0, int(module.training)])[0] += 1
        network.eval()
    try:
        yield
    finally:
        with _IN_USE_LOCK:
            for module in modules:
                use = _IN_USE[module]
                use[0] -= 1
                if not use[0]:
                    module.training = bool(use[1])
                    del _IN_USE[module]
