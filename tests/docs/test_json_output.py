"""The page about `--json` describes what the commands print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.scripts import load_script

ROOT = Path(__file__).parents[2]
GENERATOR = load_script(ROOT / "docs" / "generate_json_output.py")


def test_page_has_the_fields_of_the_structs() -> None:
    """The committed page is the output of `python docs/generate_json_output.py`."""
    page = GENERATOR.PAGE.read_text()
    assert page == GENERATOR.renewed(), "run python docs/generate_json_output.py"


@pytest.mark.parametrize("struct", GENERATOR.STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_is_explained(struct: Any) -> None:
    """Each field that a command prints is explained, and each struct it links to is on the page."""
    table = list(GENERATOR._table(struct))
    assert [line for line in table if line.endswith("|  |")] == []
    page = (ROOT / "docs" / "json-output.md").read_text()
    for line in table:
        for name in line.split("](#")[1:]:
            assert f"### {name.partition(')')[0]}" in page.lower()


def test_report_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A document is printed on one line, with every field."""
    from asyncclients.backfill import Report
    from asyncclients.cli.output import show

    show(Report(done=3), as_json=True, describe=str)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert msgspec.json.decode(out).keys() == set(Report.__struct_fields__)
