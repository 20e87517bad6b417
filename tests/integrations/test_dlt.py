"""A list as a resource of dlt, loaded into DuckDB."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dlt", reason="needs the extra [dlt]")

import dlt
from dlt.pipeline.exceptions import PipelineStepFailed

from asyncclients import ConfigurationError, IntouchClient, NotFoundError, Quota, SessionPool
from asyncclients.core.options import CallContext, current_call_context
from asyncclients.integrations import dlt as integration
from asyncclients.integrations.dlt import PREFETCH, RowReader, resource
from asyncclients.paging import InvalidItem, Page, Paginator
from asyncclients.ratelimit.quota import Priority
from asyncclients.sandbox import Sandbox, drop

JOB = Path(__file__).with_name("dlt_job.py")
OPEN = {"intouch": (1_000_000, 1.0)}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No telemetry, and no warnings about columns without values."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "CRITICAL")


class Warehouse:
    """A DuckDB file and the pipeline that loads it."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = dlt.pipeline(
            "crm",
            pipelines_dir=str(folder / "pipelines"),
            destination=dlt.destinations.duckdb(str(folder / "crm.duckdb")),
            dataset_name="vendor",
        )

    def _load(self, loaded: Any) -> None:
        self.pipeline.run(loaded)

    async def load(self, loaded: Any) -> None:
        await asyncio.to_thread(self._load, loaded)

    def select(self, sql: str) -> list[tuple[Any, ...]]:
        with self.pipeline.sql_client() as client:
            return [tuple(row) for row in client.execute_sql(sql) or ()]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path)


class Numbers:
    """A list of numbers in pages of ten."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.asked: list[int] = []
        self.context: CallContext | None = None
        self.invalid: dict[int, list[InvalidItem]] = {}

    async def page(self, number: int) -> Page[Any]:
        self.asked.append(number)
        self.context = current_call_context()
        if number == 99:
            raise NotFoundError("gone")
        found = range(10 * number - 10, min(self.items, 10 * number))
        return Page(
            items=[{"id": each, "name": f"n{each}"} for each in found],
            number=number,
            total=self.items,
            last=10 * number >= self.items,
            invalid_items=self.invalid.get(number, []),
        )


async def test_resource_loads_list(warehouse: Warehouse) -> None:
    """Every contact becomes a row with typed columns, and times keep their type."""
    async with Sandbox(OPEN) as sandbox, SessionPool() as pool:
        sandbox.state("intouch").grow(contacts=60, every=60.0)
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(1000, 1.0)])
        await warehouse.load(resource(intouch.contacts.list()))
        expected = [*sandbox.state("intouch").contacts]
    rows = warehouse.select("SELECT uuid, typeof(created_at) FROM contacts ORDER BY created_at")
    assert [row[0] for row in rows] == expected
    assert {row[1] for row in rows} == {"TIMESTAMP WITH TIME ZONE"}


async def test_incremental_resource_loads_only_changes(warehouse: Warehouse) -> None:
    """The second load reads the newest pages only, and merges the changed rows."""
    async with Sandbox(OPEN) as sandbox, SessionPool() as pool:
        held = sandbox.state("intouch")
        held.grow(contacts=200, every=60.0)
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(1000, 1.0)])

        def contacts() -> Any:
            return resource(intouch.contacts.list(), primary_key="uuid", incremental="updated_at")

        await warehouse.load(contacts())
        uuid = [*held.contacts][3]
        await intouch.contacts.unsubscribe(uuid)
        before = len(sandbox.requests("intouch"))
        await warehouse.load(contacts())
        assert len(sandbox.requests("intouch")) - before == 2
    assert warehouse.select("SELECT count(*), count(DISTINCT uuid) FROM contacts") == [(200, 200)]
    status = f"SELECT status FROM contacts WHERE uuid = '{uuid}'"
    assert warehouse.select(status) == [("unsubscribed",)]


async def test_resource_made_in_a_thread_uses_the_loop_of_the_pool(warehouse: Warehouse) -> None:
    """A resource may be made in the thread that runs the pipeline."""
    async with Sandbox(OPEN) as sandbox, SessionPool() as pool:
        sandbox.state("intouch").grow(tags=30)
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(1000, 1.0)])
        await asyncio.to_thread(lambda: warehouse.pipeline.run(resource(intouch.tags.list())))
        assert warehouse.select("SELECT count(*) FROM tags") == [(30,)]
        assert len([tag async for tag in intouch.tags.list()]) == 30


async def test_resource_reads_a_bounded_number_of_pages_ahead() -> None:
    """While dlt is busy with a page, only some more are requested, in the background."""
    numbers = Numbers(1000)
    rows = RowReader(Paginator(numbers.page), "numbers", None)
    pages = rows.pages()
    assert [row["id"] for row in await anext(pages)] == [*range(10)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert numbers.context is not None
    assert numbers.context.priority is Priority.BACKGROUND
    assert len(numbers.asked) <= 2 * PREFETCH + 4
    await pages.aclose()


async def test_resource_leaves_invalid_items_out(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    """An item that cannot be decoded does not end the load; the log names its page."""
    numbers = Numbers(20)
    numbers.invalid[2] = [InvalidItem(raw=b"{", reason="not JSON")]
    with caplog.at_level(logging.WARNING):
        await warehouse.load(resource(Paginator(numbers.page), name="numbers", primary_key="id"))
    assert warehouse.select("SELECT count(*) FROM numbers") == [(20,)]
    assert "numbers: 1 items on page 2 were left out: not JSON" in caplog.text


async def test_resource_raises_error_of_a_page(warehouse: Warehouse) -> None:
    """An error that a retry does not solve ends the pipeline, and names the page's error."""
    with pytest.raises(Exception, match="gone") as caught:
        await warehouse.load(resource(Paginator(Numbers(5000).page), name="numbers"))
    assert isinstance(caught.value, PipelineStepFailed)


async def test_resource_on_blocked_loop_raises(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pipeline.run` on the event loop of the pool raises instead of waiting for ever."""
    monkeypatch.setattr(integration, "_MAX_BLOCKED", 0.1)
    with pytest.raises(Exception, match=r"await asyncio\.to_thread\(pipeline\.run, resource\)"):
        warehouse.pipeline.run(resource(Paginator(Numbers(20).page), name="numbers"))


def test_resource_rejects_what_is_no_list() -> None:
    """Only a list in pages can be a resource."""
    with pytest.raises(ConfigurationError, match="needs a list in pages"):
        resource([1, 2])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Job:
    """Runs `dlt_job.py` with a sandbox."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self._environ = {**os.environ, **sandbox.environ}
        self._folder = folder

    async def start(self, runs: int = 1) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(JOB),
            str(self._folder),
            str(runs),
            env=self._environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, runs: int = 1) -> list[str]:
        """Return its lines."""
        process = await self.start(runs)
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert b"Unclosed" not in err
        return out.decode().splitlines()[1:]


async def test_script_without_event_loop_runs_pipeline_twice(tmp_path: Path) -> None:
    """Without a running loop the pages are read on one of ours, so a pool serves many runs."""
    async with Sandbox(OPEN) as sandbox:
        sandbox.state("intouch").grow(contacts=30)
        assert await Job(sandbox, tmp_path).run(2) == ["30 30", "30 30"]


async def test_killed_pipeline_loads_every_row_once(tmp_path: Path) -> None:
    """A pipeline killed while it extracts ends with each row once when it is run again."""
    async with Sandbox(OPEN) as sandbox:
        sandbox.state("intouch").grow(contacts=1500, every=1.0)
        job = Job(sandbox, tmp_path)
        process = await job.start()
        requests = itertools.count(1)

        def kill(_: object) -> bool:
            if next(requests) == 20:
                process.kill()
            return False

        sandbox.fail("intouch", drop(), None, kill)
        await process.communicate()
        assert process.returncode == -signal.SIGKILL
        sandbox.state("intouch").grow(contacts=10)
        assert await job.run() == ["1510 1510"]
