# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Callbacks of a run: its folder, what it reports and maps, and how it is trained.

:class:`RunFolder`, :class:`AccuracyReport`, :class:`ClassificationMap` and
:class:`ExpertUse` write files; :class:`TemperatureAnnealing`, :class:`MovingAverage` and
:class:`PruningSchedule` have a part in the training.
"""

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
