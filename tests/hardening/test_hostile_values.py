"""Malicious values are data and stay unchanged."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import pull, push
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.sandbox import Sandbox
from tests.conftest import FAST

HOSTILE: Final = (
    '=cmd|"/c calc"!A1',
    "+1+1",
    "@SUM(A1)",
    "../../../etc/passwd",
    "..\\..\\x.csv",
    "'); DROP TABLE job; --",
    "<script>alert(1)</script>",
    'two\nlines, "quoted"\r\n',
    "\u202egnp.exe",
    "{{7*7}} ${7*7} %s %(x)s",
)


def _jsonl(path: Path) -> list[Any]:
    return [json.loads(line)["first_name"] for line in path.read_text().splitlines()]


def _csv(path: Path) -> list[Any]:
    with path.open(newline="") as file:
        return [row["first_name"] for row in csv.DictReader(file)]


def _parquet(path: Path) -> list[Any]:
    found: list[Any] = pyarrow().read_table(path)["first_name"].to_pylist()
    return found


READ: Final[dict[str, Callable[[Path], list[Any]]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}


@pytest.mark.parametrize("suffix", READ)
async def test_pull_writes_hostile_values_unchanged(
    sandbox: Sandbox, pool: SessionPool, tmp_path: Path, suffix: str
) -> None:
    """Formulas, paths, statements and markup are written to the file and nowhere else."""
    state = sandbox.state("intouch")
    state.grow(contacts=len(HOSTILE))
    for contact, name in zip(state.contacts.values(), HOSTILE, strict=True):
        contact["first_name"] = name
    (tmp_path / "in").mkdir()
    intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(*FAST)])
    to = tmp_path / "in" / f"out.{suffix}"
    await pull(intouch.contacts.list(), to, state=tmp_path / "in" / "state")
    assert READ[suffix](to) == list(HOSTILE)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["in", to.name, "state"])


async def test_push_sends_hostile_values_unchanged(
    sandbox: Sandbox, pool: SessionPool, tmp_path: Path
) -> None:
    """The same values as input, some rejected by the vendor, are only ever data."""
    source = tmp_path / "rows.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([["name"], *([name] for name in HOSTILE)])
    intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(*FAST)])
    report = await push(
        source,
        intouch.tags.create,
        map=lambda row: row["name"],
        state=tmp_path / "state",
    )
    assert report.done == len(HOSTILE)
    names = [tag["name"] for tag in sandbox.state("intouch").tags.values()]
    assert sorted(map(str, names)) == sorted(HOSTILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "state"]
