"""`share=`: backfills that take a part of the quota, at a strict server over sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncclients import ConfigurationError, IntouchClient, Quota, SessionPool
from asyncclients.backfill import Plan, Progress, pull, push, sync
from asyncclients.backfill.files.source import Row
from asyncclients.backfill.steps import BatchStatus, PushTarget, pull_step, push_step
from asyncclients.sandbox import Sandbox

pytestmark = pytest.mark.virtual_time
QUOTA = Quota(20, 10.0)


@asynccontextmanager
async def intouch(limit: int) -> AsyncGenerator[tuple[IntouchClient, Sandbox]]:
    """A client with the quota `QUOTA`, and a server that allows only *limit* in its period."""
    async with (
        Sandbox(quotas={"intouch": (limit, QUOTA.period)}, latency=(0.01, 0.0)) as sandbox,
        SessionPool(admission="exact") as pool,
    ):
        yield IntouchClient.from_env(pool, sandbox.environ, quotas=[QUOTA]), sandbox


def people(path: Path, count: int) -> Path:
    rows = "".join(f"p{number}@example.com\n" for number in range(count))
    path.write_text(f"email\n{rows}")
    return path


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_push_keeps_its_share_and_its_plan_and_progress_count_it(tmp_path: Path) -> None:
    """With a share of half, a push takes the time that its plan and its progress foretell."""
    async with intouch(10) as (client, sandbox):
        csv, seen = people(tmp_path / "people.csv", 60), list[Progress]()
        create = client.contacts.create
        plan = await push(csv, create, state=tmp_path / "s", share=0.5, dry_run=True)
        whole = await push(csv, create, state=tmp_path / "s", dry_run=True)
        assert plan.seconds == pytest.approx(58, rel=0.02)
        assert whole.seconds == pytest.approx(29, rel=0.02)
        began = now()
        report = await push(csv, create, state=tmp_path / "s", share=0.5, progress=seen.append)
        assert now() - began == pytest.approx(plan.seconds, rel=0.05)
        assert (report.done, report.rejected, sandbox.rejected("intouch")) == (60, 0, 0)
        early = seen[10]
        assert early.eta == pytest.approx(47, abs=3)
        assert early.limited_by_quota


async def test_push_with_a_share_leaves_the_rest_at_once(tmp_path: Path) -> None:
    """Beside a push with a share of half, other calls of the client do not wait for it."""
    async with intouch(20) as (client, sandbox):
        csv = people(tmp_path / "people.csv", 60)
        running = asyncio.create_task(
            push(csv, client.contacts.create, state=tmp_path / "s", share=0.5)
        )
        await asyncio.sleep(20.0)
        asked = now()
        await client.tags.list().first()
        assert now() - asked < 0.5
        await running
        assert sandbox.rejected("intouch") == 0


async def test_pull_keeps_its_share(tmp_path: Path) -> None:
    """A pull with a share of a quarter reads five pages in a period."""
    async with intouch(5) as (client, sandbox):
        for number in range(600):
            sandbox.state("intouch").tags[f"{number}"] = {"uuid": f"{number}", "name": f"t{number}"}
        began = now()
        report = await pull(
            client.tags.list(limit=25), tmp_path / "tags.jsonl", state=tmp_path / "s", share=0.25
        )
        assert report.requests >= 20
        assert now() - began >= (report.requests - 5) / 5 * QUOTA.period
        assert sandbox.rejected("intouch") == 0


async def test_sync_keeps_its_share(tmp_path: Path) -> None:
    """A sync and its plan count the share."""
    async with intouch(10) as (client, sandbox):
        csv = people(tmp_path / "people.csv", 30)
        plan = await sync(csv, client.contacts, state=tmp_path / "s", share=0.5, dry_run=True)
        began = now()
        report = await sync(csv, client.contacts, state=tmp_path / "s", share=0.5)
        assert (report.created, sandbox.rejected("intouch")) == (30, 0)
        assert now() - began == pytest.approx(plan.seconds, rel=0.1)


class Log:
    """A shared row log in memory."""

    def __init__(self) -> None:
        self._settled: set[int] = set()

    async def begin(self, numbers: Any, /) -> BatchStatus:
        return BatchStatus(self._settled, 0)

    async def write(self, records: Any, /) -> tuple[int, ...]:
        self._settled.update(n for n, each in records.items() if each.status == "done")
        return ()


class Pages:
    """A page store that forgets."""

    async def put(self, page: Any) -> None:
        return None


async def test_steps_of_one_job_have_one_share(tmp_path: Path) -> None:
    """Two steps of a push at once, and those of a pull, take no more than the share of the job."""
    async with intouch(10) as (client, sandbox):
        to = PushTarget(target=client.contacts.create, share=0.5)
        began = now()
        batches = (
            [Row(n, n + 2, {"email": f"p{n}@example.com"}) for n in range(first, first + 25)]
            for first in (0, 25)
        )
        await asyncio.gather(*(push_step(rows, to, Log(), flow="push job") for rows in batches))
        assert now() - began == pytest.approx(48, rel=0.02)
        assert sandbox.rejected("intouch") == 0
        await asyncio.sleep(10.0)
        cursor = None
        for _ in range(3):
            source = client.contacts.list(limit=1)
            cursor = await pull_step(
                source, Pages(), after=cursor, flow="pull job", share=0.5, max_pages=10
            )
        assert sandbox.rejected("intouch") == 0
        assert cursor is not None
        assert cursor.page == 30


async def test_share_of_the_client_and_of_the_job_the_lower_applies(tmp_path: Path) -> None:
    """A client with a share of a half does not raise the quarter of its job."""
    async with intouch(5) as (client, sandbox):
        create = client.with_options(share=0.5).contacts.create
        csv = people(tmp_path / "people.csv", 20)
        plan = await push(csv, create, state=tmp_path / "s", share=0.25, dry_run=True)
        assert plan.seconds == pytest.approx(36, rel=0.02)
        await push(csv, create, state=tmp_path / "s", share=0.25)
        assert sandbox.rejected("intouch") == 0


@pytest.mark.parametrize("share", [0, 1.5, "half", True])
async def test_backfill_refuses_a_share_out_of_range(tmp_path: Path, share: Any) -> None:
    """Each backfill and step names the share that it cannot take, before anything is read."""
    async with intouch(20) as (client, sandbox):
        state, create, tags = tmp_path / "s", client.contacts.create, client.tags.list

        async def sync_or_plan() -> Plan | object:
            return await sync([], client.contacts, state=state, share=share)

        runs: list[Callable[[], Awaitable[object]]] = [
            lambda: push([], create, state=state, share=share),
            lambda: pull(tags(), tmp_path / "t.jsonl", state=state, share=share),
            sync_or_plan,
            lambda: push_step([], PushTarget(target=create, share=share), Log(), flow="job"),
            lambda: pull_step(tags(), Pages(), after=None, flow="job", share=share),
        ]
        for run in runs:
            with pytest.raises(
                ConfigurationError, match="share must be a number above 0 and at most 1"
            ):
                await run()
        assert sandbox.requests("intouch") == ()
        assert not [*tmp_path.iterdir()]
