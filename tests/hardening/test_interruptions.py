"""An interrupted call releases everything, at whatever point it is interrupted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from asyncclients import IntouchClient, Quota, SessionPool
from asyncclients.backfill import Report, pull, push
from asyncclients.sandbox import Sandbox
from asyncclients.testing import virtual_time
from tests.hardening.crash_sweep import INTERRUPTIONS, Interruption, cancelled
from tests.support.clients import BY_VENDOR
from tests.support.resources import Traces
from tests.support.vendor_operations import CALLS, Call

MOST: Final = 400
"""Points that no operation here has as many of."""
OPERATIONS: Final = [(vendor, name) for vendor, calls in CALLS.items() for name in calls]
AFTERWARDS: Final = {
    "intouch": "tags.list",
    "totango": "events.list",
    "intempt": "info",
    "emma": "touchpoint_types.list",
    "digital_onboarding": "templates.list",
}
SAMPLE: Final = [
    ("intouch", "contacts.list"),
    ("intempt", "collections.upload_csv"),
    ("emma", "touchpoints.create"),
    ("digital_onboarding", "journeys.create"),
]


async def interrupted(vendor: Any, call: Call, interrupt: Interruption, at: int) -> bool:
    """Interrupt *call* at its *at*-th point, in a world of its own; was there such a point?"""
    async with Sandbox() as sandbox:
        traces = Traces()
        async with SessionPool() as pool:
            client = BY_VENDOR[vendor].from_env(pool, sandbox.environ)
            struck = await interrupt(call(client, sandbox.state(vendor)), at)  # type: ignore[arg-type]
            for stats in pool.stats():
                # A token request continues, because the next call can use its token.
                assert stats.in_flight == 0 or stats.token_refreshes
            reached = sum(len(sandbox.requests(name)) for name in (vendor, "storage"))
            sent = sum(stats.sent for stats in pool.stats())
            assert reached <= sent <= reached + 1
            await asyncio.sleep(300.0)
            for stats in pool.stats():
                assert (stats.held, stats.in_flight, *stats.queued.values()) == (0, 0, 0, 0)
            await CALLS[vendor][AFTERWARDS[vendor]](client, sandbox.state(vendor))
        await traces.gone()
        assert sandbox.rejected(vendor) == 0
    return struck


async def sweep(vendor: str, operation: str, interrupt: Interruption) -> int:
    """Interrupt an operation at each of its points; how many there are."""
    call = CALLS[vendor][operation]
    with virtual_time():
        for at in range(1, MOST):
            if not await interrupted(vendor, call, interrupt, at):
                return at - 1
    pytest.fail("the operation never got to its end")


@pytest.mark.parametrize("interrupt", INTERRUPTIONS, ids=lambda i: i.__name__)
@pytest.mark.parametrize(("vendor", "operation"), SAMPLE)
async def test_interrupted_call_releases_everything(
    vendor: str, operation: str, interrupt: Interruption
) -> None:
    """Slots, sockets and tasks are released, no call waits for them, and the next one works."""
    assert await sweep(vendor, operation, interrupt) >= 2


class Crowd:
    """Calls that wait in the same queue as the one that is interrupted."""

    def __init__(self, client: Any) -> None:
        self._calls = [asyncio.create_task(client.tags.list().first()) for _ in range(6)]

    async def served(self) -> None:
        """Return when each of them has its answer."""
        await asyncio.gather(*self._calls)


@pytest.mark.parametrize("interrupt", INTERRUPTIONS, ids=lambda i: i.__name__)
async def test_interrupted_queued_call_delays_no_other(interrupt: Interruption) -> None:
    """Calls before and behind it in the queue are served no later than without it."""
    with virtual_time() as clock:
        for at in range(1, MOST):
            async with Sandbox() as sandbox, SessionPool() as pool:
                client = IntouchClient.from_env(pool, sandbox.environ)
                before = Crowd(client)
                await asyncio.sleep(0)
                work = asyncio.create_task(interrupt(client.tags.create("gold"), at))
                await asyncio.sleep(0)
                behind, began = Crowd(client), clock.elapsed
                struck = await work
                await before.served()
                await behind.served()
                assert clock.elapsed - began < 7.0
                assert sandbox.rejected("intouch") == 0
                assert client.stats().in_flight == 0
            if not struck:
                assert at > 2
                return
    pytest.fail("the call never got to its end")


ROWS: Final = 12
JOBS: Final[dict[str, Callable[[Any, Path], Coroutine[Any, Any, Report]]]] = {
    "push": lambda client, folder: push(
        [{"name": f"tag {number}"} for number in range(ROWS)],
        client.tags.create,
        map=lambda row: row["name"],
        state=folder / "state.db",
        concurrency=3,
    ),
    "pull": lambda client, folder: pull(
        client.contacts.list(limit=5), to=folder / "out.jsonl", state=folder / "state.db"
    ),
    "refresh": lambda client, folder: pull(
        client.contacts.list(limit=5),
        to=folder / "out.jsonl",
        state=folder / "state.db",
        refresh=True,
        changes=folder / "changes.jsonl",
    ),
}


async def interrupted_job(kind: str, folder: Path, interrupt: Interruption, at: int) -> bool:
    """Interrupt a job at its *at*-th point, run it again, and look at what came of it."""
    folder.mkdir()
    async with Sandbox({"intouch": (100, 1.0)}) as sandbox:
        held = sandbox.state("intouch")
        held.grow(contacts=ROWS)
        traces = Traces()
        async with SessionPool() as pool:
            client = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(100, 1.0)])
            struck = await interrupt(JOBS[kind](client, folder), at)
            assert client.stats().in_flight == 0
            report = await JOBS[kind](client, folder)
        await traces.gone()
    assert (report.done, report.failed, report.unknown) == (ROWS, 0, 0)
    if kind == "push":
        names = Counter(str(tag["name"]) for tag in held.tags.values())
        assert names == Counter(f"tag {number}" for number in range(ROWS))
    else:
        lines = (folder / "out.jsonl").read_bytes().splitlines()
        found = [msgspec.json.decode(line)["uuid"] for line in lines]
        assert found == list(held.contacts)
    return struck


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize(
    "interrupt",
    [cancelled, *(pytest.param(i, marks=pytest.mark.sweep) for i in INTERRUPTIONS[1:])],
    ids=lambda i: i.__name__,
)
async def test_interrupted_job_resumes(kind: str, interrupt: Interruption, tmp_path: Path) -> None:
    """Its state file is free, and the next run completes it: no row is lost or duplicated."""
    with virtual_time():
        for at in range(1, MOST):
            if not await interrupted_job(kind, tmp_path / str(at), interrupt, at):
                assert at > 5
                return
    pytest.fail("the job never got to its end")


@pytest.mark.sweep
@pytest.mark.parametrize("interrupt", INTERRUPTIONS, ids=lambda i: i.__name__)
@pytest.mark.parametrize(("vendor", "operation"), OPERATIONS)
async def test_every_interrupted_operation_releases_everything(
    vendor: str, operation: str, interrupt: Interruption
) -> None:
    """The same for all operations of all vendors."""
    assert await sweep(vendor, operation, interrupt) >= 2
