"""The recipe for taskiq of docs/task-queues.md, with its broker in memory: at least once, in any order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra [dbos]")
pytest.importorskip("taskiq", reason="needs taskiq")

from taskiq import InMemoryBroker, SimpleRetryMiddleware

from asyncclients.backfill.files.source import open_source
from asyncclients.backfill.steps import PushTarget
from asyncclients.errors import UnauthorizedError
from asyncclients.integrations.jobs.database import Database
from asyncclients.integrations.jobs.job_store import JobStore
from asyncclients.integrations.jobs.worker import Worker

ROWS = [{"n": number} for number in range(40)]


class Vendor:
    """Takes a while for each row and records it; rejects the first *refusals* calls."""

    def __init__(self, refusals: int = 0) -> None:
        self.arrived: Counter[int] = Counter()
        self.refusals = refusals

    async def create(self, row: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)
        if self.refusals:
            self.refusals -= 1
            raise UnauthorizedError("the key is refused")
        self.arrived[row["n"]] += 1


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
    await opened.create()
    await JobStore(opened).submit("job", await open_source(ROWS), spec="s", target="s", batch=10)
    yield opened
    await opened.aclose()


def task_of(database: Database, vendor: Vendor) -> Any:
    """The task, on a broker that repeats what failed: each of its runs has a worker of its own."""
    broker = InMemoryBroker().with_middlewares(SimpleRetryMiddleware(default_retry_count=5))
    to = PushTarget(target=vendor.create, concurrency=4)

    async def deliver(job: str, number: int) -> None:
        await Worker(database, {"s": to}.__getitem__).deliver(job, number)

    return broker.task(deliver, retry_on_error=True)


async def test_duplicate_delivery_sends_no_row_twice(
    database: Database,
) -> None:
    """A broker may deliver a task twice, at once: no row goes twice, and none is unknown."""
    vendor, backlog = Vendor(), JobStore(database)
    deliver = task_of(database, vendor)
    numbers = await backlog.pending("job")
    tasks = [await deliver.kiq("job", number) for number in numbers * 2]
    results = [await task.wait_result(check_interval=0.02, timeout=30) for task in tasks]
    report = await backlog.report("job")
    assert not any(result.is_err for result in results)
    assert vendor.arrived == Counter(range(len(ROWS)))
    assert (report.done, report.unknown) == (len(ROWS), 0)


async def test_failed_task_is_retried(database: Database) -> None:
    """A failure that concerns every row fails the task; its retry sends the remaining rows."""
    vendor, backlog = Vendor(refusals=3), JobStore(database)
    deliver = task_of(database, vendor)
    for number in await backlog.pending("job"):
        await deliver.kiq("job", number)
    async with asyncio.timeout(30):
        while await backlog.pending("job"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert vendor.refusals == 0
    assert vendor.arrived == Counter(range(len(ROWS)))
    assert (await backlog.report("job")).done == len(ROWS)
