"""Quotas of all kinds shared by pools and processes, over real sockets, at a strict server."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncclients import DeadlineExceededError, IntouchClient, Quota, SessionPool
from asyncclients.ratelimit.protocol import LimitStore
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.limits import FixedWindow, Rules, SlidingLog
from asyncclients.stores import FileLimits, RedisLimits

PERIOD = 0.5
MONTHLY = Quota.calendar(25, "month", "Europe/Berlin")


@pytest.fixture(params=["file", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Path or URL of an empty store."""
    return request.getfixturevalue("url") if request.param == "redis" else str(tmp_path / "l.db")


def limits_of(store: str) -> LimitStore:
    return RedisLimits(store) if "://" in store else FileLimits(store)


def client_of(pool: SessionPool, environ: dict[str, str], quotas: list[Quota]) -> IntouchClient:
    return IntouchClient(
        pool,
        api_key=environ["INTOUCH_API_KEY"],
        base_url=environ["INTOUCH_BASE_URL"],
        quotas=quotas,
    )


async def test_pools_keep_share_operations_and_cost_together(store: str) -> None:
    """Two pools with calls of every kind: no rejection, and the quota is used.

    The server allows 20 units in any half second, 8 of them for tags and 10 for contacts, and
    counts a list of hierarchies as 3.
    """

    def strict() -> Rules:
        return Rules(
            ("", SlidingLog(20, PERIOD)),
            ("/tags", SlidingLog(8, PERIOD)),
            ("/contacts", SlidingLog(10, PERIOD)),
            costs={"/hierarchies": 3},
        )

    async def calls_of(client: IntouchClient) -> None:
        nightly = client.with_options(share=0.5, flow="nightly")
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(client.tags.list(limit=1).first())
                group.create_task(nightly.contacts.list(limit=1).first())
            for _ in range(8):
                group.create_task(client.request("GET", "hierarchies", cost=3))

    quotas = [Quota(20, PERIOD), Quota(8, PERIOD, operations=("tags.*",))]
    async with (
        Sandbox(quotas={"intouch": strict}) as sandbox,
        SessionPool(limits=limits_of(store), admission="exact") as one,
        SessionPool(limits=limits_of(store), admission="exact") as other,
    ):
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.gather(
            *(calls_of(client_of(pool, sandbox.environ, quotas)) for pool in (one, other))
        )
        seconds = loop.time() - before
        assert sandbox.rejected("intouch") == 0
        paths = Counter(arrival.path.rpartition("/")[2] for arrival in sandbox.requests("intouch"))
        assert paths == {"tags": 40, "contacts": 40, "hierarchies": 16}
        assert seconds < 2 * (40 + 40 + 3 * 16) / 20 * PERIOD


def monthly() -> FixedWindow:
    # Imported here: the process that the test starts has only the installed package.
    from tests.support.calendar_window import CalendarWindow

    ahead = time.time() - time.monotonic()
    return CalendarWindow(
        MONTHLY.limit,
        "month",
        MONTHLY.timezone,
        lambda at: datetime.fromtimestamp(at + ahead, UTC),
    )


async def test_calendar_quota_survives_killed_and_new_processes(store: str) -> None:
    """A killed process and two later pools get the month's quota once, and then wait for it."""
    async with Sandbox(quotas={"intouch": monthly}) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, store),
            env={**os.environ, **sandbox.environ},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        for _ in range(10):
            assert await process.stdout.readline() == b"sent\n"
        process.kill()
        await process.wait()
        for _ in range(2):
            async with SessionPool(limits=limits_of(store), admission="exact") as pool:
                client = client_of(pool, sandbox.environ, [Quota(50, 0.5), MONTHLY])
                hurried = client.with_options(deadline=1.5)
                calls = (hurried.tags.list(limit=1).first() for _ in range(20))
                results = await asyncio.gather(*calls, return_exceptions=True)
                late = [result for result in results if isinstance(result, BaseException)]
                assert all(isinstance(each, DeadlineExceededError) for each in late)
        assert sandbox.rejected("intouch") == 0
        sent = len(sandbox.requests("intouch"))
        assert MONTHLY.limit - 2 <= sent <= MONTHLY.limit, "a killed process may lose its lease"


async def _send_until_killed(store: str) -> None:
    async with SessionPool(limits=limits_of(store), admission="exact") as pool:
        client = client_of(pool, dict(os.environ), [Quota(50, 0.5), MONTHLY])
        while True:
            await client.tags.list(limit=1).first()
            print("sent", flush=True)  # noqa: T201 - the parent reads it
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(_send_until_killed(sys.argv[1]))
