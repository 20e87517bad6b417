"""The page of hazards is complete and current, and names tests that exist."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.scripts import load_script

from .hazards import SECTIONS

TESTS: Final = Path(__file__).parent.parent
HAZARDS: Final = [hazard for section in SECTIONS.values() for hazard in section]


@cache
def functions(file: str) -> frozenset[str]:
    """The functions at the top of *file*, none if there is no such file."""
    path = TESTS / file
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def is_there(test: str) -> bool:
    """Is *test* one that pytest finds?"""
    file, _, name = test.partition("::")
    return name.startswith("test_") and name in functions(file)


def test_hazards_are_numbered_without_gaps() -> None:
    """The numbers count from 1, in order."""
    assert [hazard.number for hazard in HAZARDS] == list(range(1, len(HAZARDS) + 1))


def test_hazards_name_existing_tests() -> None:
    """A misspelt test name fails."""
    missing = [test for hazard in HAZARDS for test in hazard.tests if not is_there(test)]
    assert missing == []
    assert not is_there("hardening/test_hazards.py::test_of_nothing")
    assert not is_there("hardening/test_nothing.py::test_hazards_are_numbered_without_gaps")


def test_every_hazard_has_a_test() -> None:
    """Each hazard names at least one test."""
    assert [hazard.number for hazard in HAZARDS if not hazard.tests] == []


def test_hazards_page_is_up_to_date() -> None:
    """The committed page is the output of `python docs/generate_hazards.py`."""
    generator = load_script(TESTS.parent / "docs" / "generate_hazards.py")
    page = generator.PAGE.read_text()
    assert page == generator.renewed(), "run python docs/generate_hazards.py"
