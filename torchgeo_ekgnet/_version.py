# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Version of the package."""

__version__ = '0.1.0'
