"""The code for dlt on the page about copies of a list loads every item, in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncclients import IntouchClient
from asyncclients.sandbox import Sandbox

from .pages import ROOT, blocks, module_of


async def test_dlt_pipeline_loads_every_tag(
    sandbox: Sandbox,
    clients: dict[str, IntouchClient],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pipeline of the page writes the tags of the vendor to the database that it names."""
    pytest.importorskip("dlt", reason="needs the extra [dlt]")
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    sandbox.state("intouch").grow(tags=7)
    (block,) = (b for b in blocks(ROOT / "docs" / "keep-a-copy.md") if "import dlt" in b.code)
    await block.run(module_of(monkeypatch, intouch=clients["intouch"]))
    with duckdb.connect("crm.duckdb") as database:
        names = database.sql("SELECT name FROM intouch.tags").fetchall()
    assert {name for (name,) in names} == {
        tag["name"] for tag in sandbox.state("intouch").tags.values()
    }
