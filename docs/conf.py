"""Sphinx: MyST pages, the Furo theme, warnings as errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import asyncclients

sys.path.insert(0, str(Path(__file__).parent))

project = "asyncclients"
author = "The asyncclients developers"
copyright = "2026, The asyncclients developers"
version = release = asyncclients.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
html_theme = "furo"
html_title = f"asyncclients {version}"
exclude_patterns = ["_build"]
nitpicky = False
# "type" in a signature is ambiguous: the builtin, or a struct's field of that name.
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"  # docstrings write `code` as Markdown does

_FENCE = re.compile(r"^```python$")
_CODE = re.compile(r'(?<=<span class="pre">)[^<]{24,}(?=</span>)')
_LINK = re.compile(r"\[`(\w+)`\]\[[\w.]+\]")


def as_rst(
    _app: Sphinx, _what: str, _name: str, _obj: object, _opt: object, lines: list[str]
) -> None:
    """Convert Markdown code fences and links in a docstring to reStructuredText."""
    found: list[str] = []
    inside = False
    for line in lines:
        if _FENCE.match(line.strip()):
            found += [".. code-block:: python", ""]
            inside = True
        elif inside and line.strip() == "```":
            inside = False
            found.append("")
        else:
            found.append(f"    {line}" if inside else _LINK.sub(r"`\1`", line))
    lines[:] = found


def draw_plots(_app: Sphinx) -> None:
    """Draw the plots, which are not committed."""
    from draw_limits import draw

    draw()


def break_code(
    _app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: object
) -> None:
    """Let long names and paths break at their separators, so that tables fit the page."""
    if "body" in context:
        context["body"] = _CODE.sub(
            lambda code: re.sub(r"(?<=\w)(?=[._])|(?<=[/|=])", "<wbr>", code[0]), context["body"]
        )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", draw_plots)
    app.connect("html-page-context", break_code)
    app.connect("autodoc-process-docstring", as_rst)
