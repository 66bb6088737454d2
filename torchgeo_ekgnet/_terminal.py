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
#: cost nothing to load. A split without validation pixels is in the table of classes.
_WARNED = (
    '.*LeafSpec.* is deprecated',
    '.*does not have many workers',
    'Total length of .* across ranks is zero',
)

_LOGGERS = ('lightning.pytorch.utilities.rank_zero', 'lightning.pytorch.trainer.setup')


def _worth_reading(record: logging.LogRecord) -> bool:
    """Tell what is worth a line."""
    return not record.getMessage().startswith(_LOGGED)


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
