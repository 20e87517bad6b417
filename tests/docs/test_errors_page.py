"""The page of errors lists every error."""

from __future__ import annotations

import asyncclients

from .pages import ROOT


def test_errors_page_lists_every_error() -> None:
    """The page lists each public error class and no other."""
    page = (ROOT / "docs" / "errors.md").read_text()
    ours = {name for name in dir(asyncclients) if name.endswith("Error")}
    named = {word for word in page.split("`") if word.isidentifier() and word.endswith("Error")}
    assert ours - named == set()
    assert named - ours == {"TimeoutError", "ValueError"}
