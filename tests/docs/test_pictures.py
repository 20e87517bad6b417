"""The pictures on the pages: they exist, have a text for readers who cannot see them, and are right."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support.scripts import load_script

from .pages import ROOT, name_of, pages

STATIC = ROOT / "docs" / "_static"
_MARKDOWN = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_DIRECTIVE = re.compile(r"^```\{image\} (?P<target>\S+)\n(?::alt: (?P<alt>.+)\n)?", re.MULTILINE)


def pictures(page: Path) -> dict[Path, str]:
    """Return the pictures of *page* that are files, with their texts."""
    text = page.read_text()
    found = [*_MARKDOWN.finditer(text), *_DIRECTIVE.finditer(text)]
    return {
        (page.parent / match["target"]).resolve(): match["alt"] or ""
        for match in found
        if "://" not in match["target"]
    }


def test_plots_are_the_same_each_time(tmp_path: Path) -> None:
    """The script draws the plots of the pages as text, byte by byte the same each time."""
    pytest.importorskip("matplotlib")
    script = load_script(ROOT / "docs" / "draw_limits.py")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        script.draw(tmp_path / name)
    for first in (tmp_path / "first").iterdir():
        drawing = first.read_bytes()
        assert drawing == (tmp_path / "second" / first.name).read_bytes()
        assert b"<text" in drawing
        ET.fromstring(drawing)
    shown = {path for page in pages() for path in pictures(page)}
    assert {STATIC / f.name for f in (tmp_path / "first").iterdir()} <= shown


def test_plots_show_what_their_texts_say() -> None:
    """Most requests of the naive client are rejected, and none of ours; as many of ours are accepted."""
    pytest.importorskip("matplotlib")
    script = load_script(ROOT / "docs" / "draw_limits.py")
    naive, ours = script.naive(), script.ours()
    assert naive.rejected > len(naive.accepted_at)
    assert ours.rejected == 0
    assert len(ours.accepted_at) >= len(naive.accepted_at)


def test_pictures_have_texts_and_files() -> None:
    """Each picture of a page has an alternative text, and a file unless the build draws it."""
    for page in pages():
        for path, text in pictures(page).items():
            assert len(text) > 40, f"{name_of(page)}: {path.name}"
            assert path.exists() or path.name.startswith("plot-"), f"{name_of(page)}: {path.name}"


def test_every_picture_is_shown() -> None:
    """Each file of the folder of pictures is on a page."""
    shown = {path for page in pages() for path in pictures(page)}
    assert {path for path in STATIC.iterdir() if path.suffix in {".svg", ".png"}} <= shown
