"""Calls, backfills and stores work on other event loops than the default."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from asyncclients import (
    DeadlineExceededError,
    IntouchClient,
    Priority,
    Quota,
    SessionPool,
    quota_middleware,
)
from asyncclients.backfill import pull, push
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.sandbox import Sandbox
from asyncclients.stores import FileLimits

QUOTA: Final = (1_000, 1.0)
ROWS: Final = 30


class _Handle:
    """A timer handle that can only be cancelled."""

    _source_traceback = None

    def __init__(self, handle: asyncio.TimerHandle) -> None:
        self._handle = handle

    def cancel(self) -> None:
        self._handle.cancel()

    def cancelled(self) -> bool:
        return self._handle.cancelled()


class _PlainHandles(asyncio.SelectorEventLoop):
    """A loop whose timers are plain handles, as some of uvloop's are."""

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        return _Handle(super().call_at(when, callback, *args, context=context))


def _selecting(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    return lambda: asyncio.SelectorEventLoop(getattr(selectors, name)())


LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "select": _selecting("SelectSelector"),
    "poll": _selecting("PollSelector"),
    "plain handles": _PlainHandles,
}
"""Further loops than those of `tests/support/event_loops.py`, on which all tests here run."""


async def work(folder: Path) -> list[int]:
    """Push, pull, and one call that fails before it succeeds; how many rows each time."""
    quotas = [Quota(*QUOTA)]
    async with (
        Sandbox({"intouch": QUOTA}) as sandbox,
        SessionPool(limits=FileLimits(folder / "limits.db")) as pool,
    ):
        intouch = IntouchClient.from_env(pool, sandbox.environ, quotas=quotas)
        pushed = await push(
            [f"tag {n}" for n in range(ROWS)], intouch.tags.create, state=folder / "a"
        )
        pulled = await pull(intouch.tags.list(), folder / "tags.jsonl", state=folder / "b")
        sandbox.fail("intouch", "drop")
        listed = [tag.name async for tag in intouch.tags.list()]
        return [pushed.done, pulled.done, len(listed), len(sandbox.state("intouch").tags)]


@pytest.mark.parametrize("name", LOOPS)
def test_other_loops_do_all_work(name: str, tmp_path: Path) -> None:
    """Each kind of loop does all of the work."""
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        assert runner.run(work(tmp_path)) == [ROWS] * 4


async def test_work_completes_on_each_loop(tmp_path: Path) -> None:
    """Backfills, calls and a shared store complete their work."""
    assert await work(tmp_path) == [ROWS] * 4


PERIOD: Final = 0.5
LIMITS: Final = [1, 20, 500]
"""Calls in a period: 2 to 1,000 per second."""


def _calls(limit: int) -> int:
    """More than a window holds: most of them wait for a timer, about a period in all."""
    return limit + max(2, limit // 20)


@pytest.mark.parametrize("limit", [1, 50])
async def test_queued_calls_are_sent_on_each_loop(limit: int) -> None:
    """Calls that wait for a slot, with a deadline or without, succeed; the vendor rejects none."""
    async with Sandbox({"intouch": (limit, PERIOD)}) as sandbox, SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(limit, PERIOD)])
        job = client.with_options(priority=Priority.BACKGROUND, deadline=20.0)
        clients = (client if n % 2 else job for n in range(_calls(limit)))
        tags = [each.tags.create(f"tag {n}") for n, each in enumerate(clients)]
        assert len(await asyncio.gather(*tags)) == len(tags)
        assert sandbox.summary("intouch").rejected == 0


@pytest.mark.parametrize("limit", [1, 50])
async def test_middleware_waits_on_each_loop(limit: int) -> None:
    """Requests of a plain session that wait for a slot are all sent."""
    limited = quota_middleware(Quota(limit, PERIOD), admission="exact")
    async with (
        Sandbox({"intouch": (limit, PERIOD)}) as sandbox,
        aiohttp.ClientSession(middlewares=(limited,)) as session,
    ):

        async def status() -> int:
            async with session.get(sandbox.url("intouch")) as response:
                return response.status

        statuses = await asyncio.gather(*(status() for _ in range(_calls(limit))))
    assert 429 not in statuses


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("limit", LIMITS)
async def test_scheduler_grants_in_time_on_each_loop(
    limit: int, *, shared: bool, tmp_path: Path
) -> None:
    """No window holds more grants than its limit by the loop's clock, and no call is left."""
    loop = asyncio.get_running_loop()
    local = Limiter([Quota(limit, PERIOD)], admission="exact", now=loop.time())
    scheduler = Scheduler(local, loop)
    line = FileLimits(tmp_path / "limits.db").open(assume_spent=False) if shared else None
    if line is not None:
        scheduler.limiter = line.limiter("scope", local, scheduler)
    sent: list[float] = []

    async def call(number: int) -> None:
        ticket = PermitRequest(Priority(number % 2))
        permit = scheduler.try_acquire(ticket) or await scheduler.acquire(ticket)
        sent.append(loop.time())
        scheduler.on_response(permit, None)
        scheduler.on_done()

    async with asyncio.timeout(20):
        await asyncio.gather(*(call(number) for number in range(_calls(limit))))
    if line is not None:
        await line.aclose()
    assert len(sent) == _calls(limit)
    assert all(after - before >= PERIOD - 1e-9 for before, after in zip(sent, sent[limit:]))  # noqa: B905
    assert scheduler.queued() == {"interactive": 0, "background": 0}


@pytest.mark.parametrize("deadline", [0.0502, 0.0504, 0.0508])
async def test_deadline_in_flight_is_reported_on_each_loop(deadline: float) -> None:
    """A timer that fires early does not turn a deadline into a timeout of the attempt."""
    async with Sandbox({"intouch": QUOTA}, latency=(0.2, 0.2)) as sandbox, SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ, quotas=[Quota(*QUOTA)])
        with pytest.raises(DeadlineExceededError):
            await client.with_options(deadline=deadline, max_attempts=1).tags.get("none")
