"""Sphinx: the pages of this folder and the API as one site. `make site` builds it."""

import cpvae

project = "cpvae"
author = "the cpvae authors"
release = version = cpvae.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "cpvae"
autodoc_typehints = "none"  # the docstrings say shapes, which types do not
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files beside the pages, which git has
