# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""A terminal that says what a user can act on, and nothing else."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Beginnings of what Lightning logs and nobody can act on.
_LOGGED = ('💡', 'TPU available', 'HPU available', 'Loaded model weights')

#: Warnings of libraries about each other, and advice that is not true here: positions
#: cost nothing to load. A split without validation pixels is in the table of classes, and
#: every epoch has its row in the log, however few its steps. A run that is scored from
#: another folder needs no best score; one that goes on is told of it by this package.
_WARNED = (
    '.*LeafSpec.* is deprecated',
    '.*does not have many workers',
    'Total length of .* across ranks is zero',
    'The number of training batches .* is smaller than the logging interval',
    'The dirpath has changed from .* therefore `best_model_score`',
)

_FORMATTED = warnings.formatwarning

_LOGGERS = ('lightning.pytorch.utilities.rank_zero', 'lightning.pytorch.trainer.setup')


def _worth_reading(record: logging.LogRecord) -> bool:
    """Tell what is worth a line."""
    return not record.getMessage().startswith(_LOGGED)


def in_one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Write a warning for users without the place in the program; others as Python.

    The arguments are those of :func:`warnings.formatwarning`, in whose place it stands.
    """
    if issubclass(category, UserWarning):
        return f'warning: {message}\n'
    return _FORMATTED(message, category, filename, lineno, line)


@contextmanager
def brief() -> Iterator[None]:
    """Leave out what is no warning among what this package and Lightning log."""
    logger = logging.getLogger(_LOGGERS[0])
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out tips, and warnings about what lies below this package."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(_worth_reading)
    try:
        with warnings.catch_warnings():
            for message in _WARNED:
                warnings.filterwarnings('ignore', message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_worth_reading)
