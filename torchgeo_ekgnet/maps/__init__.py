# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Classification maps of whole scenes, and reports."""

from .checkpoint import Classifier, load_classifier
from .figure import map_figure, save_map_figure
from .predict import MapFiles, MapOptions, SceneMap, predict_map, write_map
from .raster import Legend
from .report import Report, write_run_report

__all__ = (
    'Classifier',
    'Legend',
    'MapFiles',
    'MapOptions',
    'Report',
    'SceneMap',
    'load_classifier',
    'map_figure',
    'predict_map',
    'save_map_figure',
    'write_map',
    'write_run_report',
)
