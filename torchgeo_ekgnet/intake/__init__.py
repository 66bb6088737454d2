# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The first look at a scene: what its files hold, and a configuration for it."""

from .advice import Advice, advise
from .discovery import SceneFiles, find_scene
from .overview import Overview

__all__ = ('Advice', 'Overview', 'SceneFiles', 'advise', 'find_scene')
