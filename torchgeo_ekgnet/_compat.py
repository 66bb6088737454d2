# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The differences between torchgeo 0.8.1, 0.9 and 0.10, in one place.

torchgeo 0.8.1 is the last release for Python 3.11, newer ones need Python 3.12. What the
package uses beyond their common subset is imported from here and nowhere else:

* 0.10 calls the classification task ``torchgeo.tasks.Classification``, older ones
  ``torchgeo.trainers.ClassificationTask``.
* 0.10 splits samplers into spatial and temporal ones and deprecates the older classes.
  A subclass of ``GeoSampler`` yields ``(x, y, t)`` slices, a subclass of
  ``SpatialSampler`` yields ``(x, y)`` slices.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The interpreter decides which release is installed, and type checkers know it.
    if sys.version_info >= (3, 12):
        from torchgeo.samplers import SpatialSampler
        from torchgeo.tasks import BaseTask
        from torchgeo.tasks import Classification as ClassificationTask
    else:
        from torchgeo.samplers import GeoSampler as SpatialSampler
        from torchgeo.trainers import BaseTask, ClassificationTask

__all__ = (
    'HAS_SPATIAL_SAMPLERS',
    'HAS_TASKS',
    'BaseTask',
    'ClassificationTask',
    'SpatialSampler',
)

HAS_TASKS = importlib.util.find_spec('torchgeo.tasks') is not None
"""Whether this is a torchgeo that has ``torchgeo.tasks`` (0.10 or newer)."""

HAS_SPATIAL_SAMPLERS = importlib.util.find_spec('torchgeo.samplers.spatial') is not None
"""Whether samplers yield slices of x and y only (0.10 or newer)."""

_TASKS = 'torchgeo.tasks' if HAS_TASKS else 'torchgeo.trainers'
_CLASSIFICATION = 'Classification' if HAS_TASKS else 'ClassificationTask'
_SAMPLER = 'SpatialSampler' if HAS_SPATIAL_SAMPLERS else 'GeoSampler'
_PLACES = {
    'BaseTask': (_TASKS, 'BaseTask'),
    'ClassificationTask': (_TASKS, _CLASSIFICATION),
    'SpatialSampler': ('torchgeo.samplers', _SAMPLER),
}


def __getattr__(name: str) -> Any:
    """Import one torchgeo name when it is asked for, from where this release has it.

    Args:
        name: One of the names in ``__all__``.

    Returns:
        The class or function.

    Raises:
        AttributeError: If the name is unknown.
    """
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)
