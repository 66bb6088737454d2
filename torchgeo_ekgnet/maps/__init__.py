# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Classification maps of whole scenes, and reports."""

from .areas import ClassAreas, estimate_areas
from .classifier import Classifier, load_classifier
from .figure import map_figure, save_map_figure
from .job import MapFiles
from .page import Page
from .predict import SceneMap, predict_map, write_map
from .raster import Legend
from .run_report import write_run_report
from .selection import MapOptions
from .smoothing import Smoothing

__all__ = (
    'ClassAreas',
    'Classifier',
    'Legend',
    'MapFiles',
    'MapOptions',
    'Page',
    'SceneMap',
    'Smoothing',
    'estimate_areas',
    'load_classifier',
    'map_figure',
    'predict_map',
    'save_map_figure',
    'write_map',
    'write_run_report',
)
