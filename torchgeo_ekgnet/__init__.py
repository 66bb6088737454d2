# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""EKGNet and hyperspectral image classification for torchgeo and timm.

Importing the package registers every model with timm and imports torch and timm
only. The subpackages that need torchgeo load on first use (PEP 562).
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ._version import __version__

# The command, as console script or module, answers --help and --version without torch
# and timm, whose import takes seconds; it imports what it needs itself.
# Python calls a module '-m' while it looks for it.
_NAME = sys.argv[0] if sys.argv else ''
_AS_COMMAND = Path(_NAME).stem == 'torchgeo-ekgnet' or (
    _NAME == '-m' and __name__ in sys.orig_argv
)
if TYPE_CHECKING or not _AS_COMMAND:
    from . import layers, models

_LAZY = (
    'calibration',
    'callbacks',
    'checkpoint',
    'datamodules',
    'datasets',
    'experts',
    'export',
    'intake',
    'layers',
    'maps',
    'metrics',
    'models',
    'reproduce',
    'samplers',
    'tasks',
    'transforms',
)

__all__ = ('__version__', 'layers', 'models')


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage when it is first asked for.

    Args:
        name: Name of the subpackage.

    Returns:
        The imported subpackage.

    Raises:
        AttributeError: If the package has no such subpackage.
    """
    if name in _LAZY:
        return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    """List the public names, subpackages that are not loaded yet included."""
    return sorted({*globals(), *_LAZY})
