# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Configuration of the documentation (Sphinx)."""

from torchgeo_ekgnet import __version__

project = 'torchgeo_ekgnet'
author = 'torchgeo_ekgnet contributors'
copyright = f'2026, {author}'
version = release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
source_suffix = {'.md': 'markdown', '.rst': 'restructuredtext'}
exclude_patterns = ['_build']
myst_enable_extensions = ['dollarmath', 'amsmath', 'fieldlist']
myst_heading_anchors = 3

# Attributes are described once, in the class's text.
napoleon_use_ivar = True
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'show-inheritance': True}
# Base classes of torchgeo, timm and Lightning document themselves.
suppress_warnings = ['ref.class', 'docutils']

html_theme = 'furo'
html_title = 'torchgeo_ekgnet'
