"""A step may be called again, and twice at once, as engines do that deliver at least once."""

from __future__ import annotations

import asyncio
from collections import Counter
from math import nan
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra [dbos]")

from asyncclients.backfill.files.source import open_source
from asyncclients.backfill.steps import PushTarget
from asyncclients.errors import StateMismatchError
from asyncclients.integrations.jobs.database import Database, execute
from asyncclients.integrations.jobs.job_store import JobStore
from asyncclients.integrations.jobs.worker import Worker

ROWS = [{"n": number} for number in range(40)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.sqlite"


class Vendor:
    """Takes a while for each row, and remembers it."""

    def __init__(self) -> None:
        self.arrived: Counter[int] = Counter()

    async def create(self, row: dict[str, Any]) -> None:
        self.arrived[row["n"]] += 1
        await asyncio.sleep(0.02)


async def open_job(url: str) -> tuple[Database, JobStore]:
    database = Database(url)
    await database.create()
    backlog = JobStore(database)
    source = await open_source(ROWS)
    await backlog.submit("job", source, spec="job", target="job", batch=len(ROWS))
    return database, backlog


def worker_for(database: Database, vendor: Vendor) -> Worker:
    to = PushTarget(target=vendor.create, concurrency=4)
    return Worker(database, {"job": to}.__getitem__)


async def test_twice_at_once_sends_no_row_twice(url: str) -> None:
    """Two workers that run one batch at the same time send each row once between them."""
    database, backlog = await open_job(url)
    vendor = Vendor()
    await asyncio.gather(*(worker_for(database, vendor).deliver("job", 0) for _ in range(2)))
    report = await backlog.report("job")
    await database.aclose()
    assert vendor.arrived == Counter(range(len(ROWS)))
    assert (report.done, report.unknown) == (len(ROWS), 0), "both lived to settle what they had"


async def test_called_again_it_does_nothing(url: str) -> None:
    """A finished batch is not sent again."""
    database, backlog = await open_job(url)
    vendor = Vendor()
    worker = worker_for(database, vendor)
    await worker.deliver("job", 0)
    await worker.deliver("job", 0)
    assert await backlog.pending("job") == []
    await database.aclose()
    assert vendor.arrived == Counter(range(len(ROWS)))


async def test_cancelled_step_settles_its_calls(url: str) -> None:
    """A worker that leaves in the middle settles what it sent; the next one sends only the rest."""
    database, backlog = await open_job(url)
    vendor = Vendor()
    worker = worker_for(database, vendor)
    step = asyncio.create_task(worker.deliver("job", 0))
    while len(vendor.arrived) < 8:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await worker.aclose()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert len(vendor.arrived) < len(ROWS)
    await worker_for(database, vendor).deliver("job", 0)
    report = await backlog.report("job")
    await database.aclose()
    assert vendor.arrived == Counter(range(len(ROWS)))
    assert (report.done, report.unknown) == (len(ROWS), 0)


async def test_row_without_json_form_is_failed(url: str, tmp_path: Path) -> None:
    """The database holds rows as JSON: NaN there is neither null nor a text that is sent."""
    database = Database(url)
    await database.create()
    backlog = JobStore(database)
    path = tmp_path / "rows.csv"
    path.write_text("n\n1\n\n,\n")
    for job, source in (("values", [{"n": 1, "x": nan}, {"n": 2, "x": None}]), ("empty", path)):
        rows: Any = source
        opened = await open_source(rows)
        await backlog.submit(job, opened, spec=job, target=job, batch=9)
        await opened.aclose()
    bad, good = await backlog.rows("values", 0)
    assert "nan in x" in bad.error
    assert (good.data, good.error) == ({"n": 2, "x": None}, "")
    first, second = await backlog.rows("empty", 0)
    assert (first.data, second.data, second.error) == ({"n": "1"}, None, "")
    await database.aclose()


async def test_database_of_another_version_is_reported(url: str) -> None:
    """Tables that lack a column are an error at once, before any row is sent."""
    database = Database(url)
    old = "CREATE TABLE asyncclients_batches (job TEXT, number INTEGER, rows BYTEA, quotas TEXT)"
    await database.transact(lambda connection: execute(connection, old))
    with pytest.raises(StateMismatchError, match="another version"):
        await database.create()
    await database.aclose()
