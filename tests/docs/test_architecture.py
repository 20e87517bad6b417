"""The drawing of the architecture, and the files that its page names, match the package."""

from __future__ import annotations

import re

import pytest

from tests.support import call_trace
from tests.support.scripts import load_script
from tests.support.source_tree import FLOORS, graph

from .pages import ROOT

PAGES = ("docs/architecture.md", ".github/CONTRIBUTING.md")
_FILE = re.compile(r"`((?:asyncclients|tests|docs|benchmarks)/[\w./-]*)`")
_NAME = re.compile(r"`([A-Za-z_][\w.]*)`")


SCRIPT = load_script(ROOT / "docs" / "draw_architecture.py")


async def test_drawing_is_up_to_date() -> None:
    """The committed drawing is what `python docs/draw_architecture.py` writes."""
    path = (await call_trace.create()).path
    drawing = SCRIPT.draw(SCRIPT.imports_of(graph(ROOT)), path)
    assert SCRIPT.DRAWING.read_text() == drawing, "run python docs/draw_architecture.py"


def test_drawing_has_every_package() -> None:
    """Every folder of the package is drawn, and every drawn package exists."""
    folders = {path.parent.name for path in (ROOT / "asyncclients").glob("*/__init__.py")}
    assert folders - set(SCRIPT.PACKAGES) == set()
    assert set(SCRIPT.PACKAGES) - set(FLOORS) == {"asyncclients"}


def test_drawing_has_every_import() -> None:
    """Every import between packages is an arrow, or follows from the arrows."""
    imports = SCRIPT.imports_of(graph(ROOT))
    arrows: dict[str, set[str]] = SCRIPT.drawn_imports(imports)

    def reached(package: str) -> set[str]:
        return arrows[package].union(*map(reached, arrows[package]))

    for package in SCRIPT.PACKAGES:
        assert imports[package] & set(SCRIPT.PACKAGES) <= reached(package)


def test_drawing_changes_with_the_imports() -> None:
    """A new import between packages makes the committed drawing outdated."""
    imports = SCRIPT.imports_of(graph(ROOT))
    before = SCRIPT.draw(imports, ["core/client.py"])
    imports["sandbox"] = {"core"}
    assert SCRIPT.draw(imports, ["core/client.py"]) != before
    assert SCRIPT.draw(imports, ["core/pool.py"]) != before


@pytest.mark.parametrize("page", PAGES)
def test_page_names_existing_files(page: str) -> None:
    """Every file and folder of the project that the page names exists."""
    named = _FILE.findall((ROOT / page).read_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_table_names_what_its_files_define() -> None:
    """Each name in a row of the table is a class, function, constant or argument of its files."""
    rows = re.findall(r"^\|.*\|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    found = [(name, row) for row in rows for name in _NAME.findall(row)]
    assert len(found) > 5
    for name, row in found:
        text = "\n".join((ROOT / file).read_text() for file in _FILE.findall(row))
        for part in name.split("."):
            assert re.search(rf"(?:class|def) {part}\b|\b{part}(?:: | = )", text), f"{name}: {row}"
