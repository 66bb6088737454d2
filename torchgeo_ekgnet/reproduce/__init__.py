# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Repeated runs, classical baselines and the paper's tables as one command each."""

from collections.abc import Sequence

from .classical import CLASSICAL_NAMES, classical_confusion, fit_classical

__all__ = (
    'CLASSICAL_NAMES',
    'classical_confusion',
    'fit_classical',
    'main_compare',
    'main_repeat',
    'main_reproduce',
)


def main_compare(args: Sequence[str] | None = None) -> None:
    """Run ``torchgeo-ekgnet compare``: several systems on one scene and split.

    Args:
        args: Arguments after the command's name; None: those of the process.
    """
    from .compare import main_compare as run

    run(args)


def main_repeat(args: Sequence[str] | None = None) -> None:
    """Run ``torchgeo-ekgnet repeat``: one configuration with several seeds.

    Args:
        args: Arguments after the command's name; None: those of the process.
    """
    # Lightning's command line takes seconds to import; the baselines do not need it.
    from .cli import main_repeat as run

    run(args)


def main_reproduce(args: Sequence[str] | None = None) -> None:
    """Run ``torchgeo-ekgnet reproduce``: a table, a figure or an ablation.

    Args:
        args: Arguments after the command's name; None: those of the process.
    """
    from .cli import main_reproduce as run

    run(args)
