# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Configuration of the documentation (Sphinx)."""

from importlib.util import find_spec

from torchgeo_ekgnet import __version__

project = 'torchgeo_ekgnet'
author = 'torchgeo_ekgnet contributors'
copyright = f'2026, {author}'
version = release = __version__

# Tutorials are notebooks; without myst-nb the pages alone are built.
notebooks = find_spec('myst_nb') is not None
extensions = [
    'myst_nb' if notebooks else 'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.intersphinx',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
source_suffix = {'.md': 'markdown', '.rst': 'restructuredtext'}
exclude_patterns = ['_build', 'inventories']
if notebooks:
    source_suffix |= {'.md': 'myst-nb', '.ipynb': 'myst-nb'}
    # The notebooks keep their outputs; the test suite runs them.
    nb_execution_mode = 'off'
else:
    exclude_patterns.append('tutorials')
myst_enable_extensions = ['dollarmath', 'amsmath', 'fieldlist']
myst_heading_anchors = 3

# Attributes are described once, in the class's text.
napoleon_use_ivar = True
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'show-inheritance': True}

# Links into other libraries' pages. Without a connection an empty inventory takes the
# place of theirs: the build is the same, and the names are plain text. (timm publishes
# no inventory.)
_PAGES = {
    'python': 'https://docs.python.org/3',
    'numpy': 'https://numpy.org/doc/stable',
    'torch': 'https://docs.pytorch.org/docs/stable',
    'lightning': 'https://lightning.ai/docs/pytorch/stable',
    'torchgeo': 'https://torchgeo.readthedocs.io/en/stable',
}
intersphinx_mapping = {
    name: (page, (None, 'inventories/empty.inv')) for name, page in _PAGES.items()
}
intersphinx_timeout = 5

# Base classes of torchgeo, timm and Lightning document themselves, not always in
# docstrings that docutils can read.
suppress_warnings = ['ref.class', 'docutils']

html_theme = 'furo'
html_title = 'torchgeo_ekgnet'
