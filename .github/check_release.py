"""Check that the version and the changelog belong together; print the notes of a release.

Without an argument the version may be unreleased. With a tag, as in `v1.2.0`, the tag must name
the version, and the changelog must have a dated section for it, which is printed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)"$', re.MULTILINE)
_SECTION = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", re.MULTILINE)


def notes(tag: str, package: str, changelog: str) -> str:
    """Return the section of *changelog* for *tag*, "" if *tag* is empty.

    Raises:
        ValueError: the version, tag and changelog contradict each other.
    """
    found = _VERSION.search(package)
    if found is None:
        raise ValueError("asyncclients/__init__.py has no __version__ such as 1.2.0")
    sections = [*_SECTION.finditer(changelog)]
    names = [section[1] for section in sections]
    if names[:1] != ["Unreleased"] or len({*names}) < len(names):
        raise ValueError("CHANGELOG.md must begin with [Unreleased] and name each version once")
    if not tag:
        return ""
    version = found[1]
    if tag != f"v{version}":
        raise ValueError(f"the tag {tag} is not v{version}, the version of the package")
    for section, following in zip(sections, [*sections[1:], None], strict=True):
        if section[1] == version:
            if section[2] is None:
                raise ValueError(f"the section of {version} in CHANGELOG.md has no date")
            text = changelog[section.end() : following.start() if following else None].strip()
            if not text:
                raise ValueError(f"the section of {version} in CHANGELOG.md is empty")
            return text
    raise ValueError(f"CHANGELOG.md has no section for {version}")


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else ""
    package = (ROOT / "asyncclients" / "__init__.py").read_text("utf-8")
    try:
        print(notes(given, package, (ROOT / "CHANGELOG.md").read_text("utf-8")))
    except ValueError as problem:
        sys.exit(str(problem))
