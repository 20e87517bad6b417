"""Sphinx: MyST pages, the Furo theme, warnings as errors."""

import asyncclients

project = "asyncclients"
author = "The asyncclients developers"
copyright = "2026, The asyncclients developers"
version = release = asyncclients.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"asyncclients {version}"
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
