"""The page on errors knows every error."""

from __future__ import annotations

import asyncclients

from .pages import ROOT


def test_every_error_is_on_the_page() -> None:
    """Each public error class is named on the page, and the page names no other."""
    page = (ROOT / "docs" / "errors.md").read_text()
    ours = {name for name in asyncclients.__all__ if name.endswith("Error")}
    named = {word for word in page.split("`") if word.isidentifier() and word.endswith("Error")}
    assert ours - named == set()
    assert named - ours == {"TimeoutError", "ValueError"}
