# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""EKGNet and hyperspectral image classification for torchgeo and timm.

Importing the package registers every model with timm and imports torch and timm
only. The rooms that need torchgeo load on first use (PEP 562).
"""

import importlib
from types import ModuleType

from . import layers, models
from ._version import __version__

_LAZY_ROOMS = (
    'callbacks',
    'datamodules',
    'datasets',
    'experts',
    'maps',
    'metrics',
    'reproduce',
    'samplers',
    'tasks',
    'transforms',
)

__all__ = ('__version__', 'layers', 'models')


def __getattr__(name: str) -> ModuleType:
    """Import a room of the package when it is first asked for.

    Args:
        name: Name of the subpackage.

    Returns:
        The imported subpackage.

    Raises:
        AttributeError: If the package has no such room.
    """
    if name in _LAZY_ROOMS:
        return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """List the public names, rooms that are not loaded yet included."""
    return sorted({*globals(), *_LAZY_ROOMS})
