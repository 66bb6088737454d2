# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The task that trains and scores networks on patches; a module for each of its parts."""

from .classification import HyperspectralClassificationTask

__all__ = ('HyperspectralClassificationTask',)
