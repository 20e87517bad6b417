"""Writes the page of hazards from the table beside the tests that show them.

`python docs/generate_hazards.py` brings the page up to date; a test fails when it is not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "hazards.md"
_HEAD = """\
# What can go wrong

What is known to go wrong for clients of HTTP APIs, what this library promises about each,
and the tests that show it. The page is made from `tests/hardening/hazards.py`; a test that
is named here and does not exist fails the suite.
"""


def renewed() -> str:
    """The page as it should be."""
    return _HEAD + "".join(_sections())


def _sections() -> Iterator[str]:
    sys.path.insert(0, str(ROOT))
    from tests.hardening.hazards import SECTIONS

    for title, hazards in SECTIONS.items():
        yield f"\n## {title}\n\n| | hazard | promise | shown by |\n| --- | --- | --- | --- |\n"
        for hazard in hazards:
            shown = "<br>".join(f"`{test}`" for test in hazard.tests) or "—"
            yield f"| H{hazard.number} | {hazard.title} | {hazard.promise} | {shown} |\n"


def main() -> None:
    """Bring the page up to date."""
    PAGE.write_text(renewed())


if __name__ == "__main__":
    main()
