# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Repeated runs, classical baselines and the paper's tables as one command each."""

from collections.abc import Callable

from .classical import CLASSICAL_NAMES, classical_confusion, fit_classical

__all__ = (
    'CLASSICAL_NAMES',
    'classical_confusion',
    'fit_classical',
    'main_compare',
    'main_repeat',
    'main_reproduce',
)


def __getattr__(name: str) -> Callable[..., None]:
    """Import a command when it is asked for: the baselines do not need Lightning's."""
    if name == 'main_reproduce':
        from .cli import main_reproduce

        return main_reproduce
    if name in ('main_compare', 'main_repeat'):
        from . import compare

        return compare.main_compare if name == 'main_compare' else compare.main_repeat
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
