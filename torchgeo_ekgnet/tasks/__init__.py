# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""torchgeo_ekgnet tasks."""

from .classification import HyperspectralClassificationTask

__all__ = ('HyperspectralClassificationTask',)
