"""Real earthquakes into Totango, at its own pace, in virtual time."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from asyncclients import SessionPool, TotangoClient
from asyncclients.backfill import Renaming, push
from asyncclients.sandbox import Sandbox
from asyncclients.vendors.totango import NewTouchpoint

QUAKES = Path(__file__).parents[2] / "examples" / "data" / "earthquakes.csv.gz"
COLUMNS = {"net": "account_id", "title": "content", "time_ms": "create_date"}
COUNT = 800
"""Of the 1,707; `tests/docs/test_examples.py` sends all of them."""
FIXED = {"activity_type_id": "escalation"}


def listed() -> Iterator[tuple[str, int]]:
    """Title and time of each quake, as the file has them."""
    with gzip.open(QUAKES, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["title"], int(row["time_ms"])


def told(body: bytes) -> tuple[str, int]:
    """Title and time of the quake that *body* tells of."""
    note = dict(parse_qsl(body.decode(), strict_parsing=True))
    return note["content"], int(note["create_date"])


@pytest.mark.virtual_time
async def test_earthquakes_arrive_once_without_rejections(tmp_path: Path) -> None:
    """Each arrives once, at 100 calls a minute: no 429, and the time that takes, no more."""
    async with Sandbox() as sandbox, SessionPool() as pool:
        totango = TotangoClient.from_env(pool, sandbox.environ)
        report = await push(
            QUAKES,
            totango.touchpoints.create,
            row_type=NewTouchpoint,
            map=Renaming(COLUMNS, FIXED),
            state=tmp_path / "quakes.db",
            limit=COUNT,
        )
        summary = sandbox.summary("totango")
        arrivals = sandbox.requests("totango")
    assert (report.done, report.failed, report.unknown, report.skipped) == (COUNT, 0, 0, 0)
    assert (report.requests, report.rejected) == (COUNT, 0)
    assert (summary.arrivals, summary.rejected) == (COUNT, 0)
    assert Counter(told(arrival.body) for arrival in arrivals) == Counter(islice(listed(), COUNT))
    steady = (arrivals[-1].at - arrivals[200].at) * 100 / 60
    assert len(arrivals) - 201 >= 0.99 * steady
    assert report.seconds <= COUNT / 100 * 60 * 1.01
