# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""torchgeo_ekgnet callbacks."""

from .accuracy_report import AccuracyReport
from .averaging import MovingAverage
from .classification_map import ClassificationMap
from .expert_use import ExpertUse
from .pruning import PruningSchedule
from .run_folder import RunFolder
from .temperature import TemperatureAnnealing

__all__ = (
    'AccuracyReport',
    'ClassificationMap',
    'ExpertUse',
    'MovingAverage',
    'PruningSchedule',
    'RunFolder',
    'TemperatureAnnealing',
)
