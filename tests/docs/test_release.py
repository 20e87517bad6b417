"""The check of a release: version, tag and changelog belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import load_script

SCRIPT = Path(__file__).parents[2] / ".github" / "check_release.py"
PACKAGE = '__version__ = "1.2.0"\n'
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-12-01

- A feature.

## [1.1.0] - 2026-11-01

- Another.
"""


def test_release_notes_are_the_section_of_the_tag() -> None:
    """The notes of a tag are its section alone; without a tag there are none."""
    notes = load_script(SCRIPT).notes
    assert notes("v1.2.0", PACKAGE, CHANGELOG) == "- A feature."
    assert notes("", PACKAGE, CHANGELOG) == ""


@pytest.mark.parametrize(
    ("tag", "package", "changelog", "problem"),
    [
        ("v1.2.1", PACKAGE, CHANGELOG, "is not v1.2.0"),
        ("1.2.0", PACKAGE, CHANGELOG, "is not v1.2.0"),
        ("v1.2.0", "", CHANGELOG, "no __version__"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace("[1.2.0]", "[1.3.0]"), "no section"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace(" - 2026-12-01", ""), "no date"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace("- A feature.", ""), "is empty"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace("## [Unreleased]", ""), "must begin"),
        ("", PACKAGE, CHANGELOG.replace("1.1.0", "1.2.0"), "once"),
    ],
)
def test_release_check_finds_contradictions(
    tag: str, package: str, changelog: str, problem: str
) -> None:
    """Each contradiction is an error that names it."""
    with pytest.raises(ValueError, match=problem):
        load_script(SCRIPT).notes(tag, package, changelog)


def test_release_check_accepts_this_version() -> None:
    """The package and the changelog of this repository pass."""
    root = SCRIPT.parents[1]
    package = (root / "asyncclients" / "__init__.py").read_text("utf-8")
    load_script(SCRIPT).notes("", package, (root / "CHANGELOG.md").read_text("utf-8"))
