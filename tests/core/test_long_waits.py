"""Calls that wait for many minutes are logged, with the cause and what to do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from asyncclients import IntouchClient, Priority, Quota, SessionPool, quota_middleware
from asyncclients.ratelimit.limiter import Delay
from asyncclients.ratelimit.long_waits import LONG_WAIT, LongWait, LongWaits
from asyncclients.sandbox import Sandbox

pytestmark = pytest.mark.virtual_time
HOURLY = Quota(4, 3600.0)
"""After four calls, one every quarter of an hour."""
LINE = re.compile(
    r"(\w+) \(scope \w{4}\): (\d) calls? waits? at least 29 min: the quota 4 per 3600 s is used up "
    r"until \d{4}-\d\d-\d\d [\d:]+ UTC\. Nothing is lost; a call with a deadline= does not wait so "
    r"long"
)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about waiting calls."""
    return [message for message in caplog.messages if "at least" in message]


async def used_up(call: Callable[[], Awaitable[object]], *waiting: Awaitable[object]) -> None:
    """Use up the quota, and wait for *waiting* beside one more *call*."""
    for _ in range(HOURLY.limit):
        await call()
    await asyncio.sleep(60.0)
    await asyncio.gather(call(), *waiting)


async def test_long_wait_of_a_client_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Interactive and background calls that wait for an hour are one line, and so are the next."""
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ, quotas=[HOURLY])
        background = client.with_options(priority=Priority.BACKGROUND)
        calls = [background.tags.list().first() for _ in range(2)]
        await used_up(client.tags.list().first, client.tags.list().first(), *calls)
        (line,) = lines(caplog)
        found = LINE.fullmatch(line)
        assert found is not None, line
        assert found.groups() == ("intouch", "4")
        await asyncio.sleep(2 * 3600.0)
        await used_up(client.tags.list().first)
        assert [LINE.fullmatch(each) is not None for each in lines(caplog)] == [True, True]


async def test_long_wait_of_a_session_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Requests of a plain session with the middleware are logged in the same words."""
    async with Sandbox() as sandbox:
        headers = {"x-api-key": sandbox.environ["INTOUCH_API_KEY"]}
        async with aiohttp.ClientSession(
            sandbox.environ["INTOUCH_BASE_URL"],
            headers=headers,
            timeout=aiohttp.ClientTimeout(),
            middlewares=(quota_middleware(HOURLY, vendor="crm"),),
        ) as session:

            async def call() -> None:
                async with session.get("tags"):
                    pass

            await used_up(call)
    (found,) = map(LINE.fullmatch, lines(caplog))
    assert found is not None
    assert found.groups() == ("crm", "1")


async def test_long_queue_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Calls that wait because many are before them are no news: the quota is being used."""
    async with Sandbox() as sandbox, SessionPool() as pool:
        client = IntouchClient.from_env(pool, sandbox.environ)
        await asyncio.gather(*(client.tags.list().first() for _ in range(700)))
    assert lines(caplog) == []


class Backlog:
    """Calls whose delays a test sets, and what is reported about them."""

    def __init__(self) -> None:
        self.delays: list[tuple[Delay, int]] = []
        self.reported: list[LongWait] = []
        self.checks = 0
        loop = asyncio.get_running_loop()
        self.waits = LongWaits(loop, self._examine, self.reported.append)

    def _examine(self, now: float) -> list[tuple[Delay, int]]:
        self.checks += 1
        return self.delays


async def test_long_wait_is_reported_again_after_its_end() -> None:
    """A cause is reported when it becomes long, once while it lasts, and again when it is back."""
    backlog, loop = Backlog(), asyncio.get_running_loop()

    async def delayed(seconds: float, name: str = "quota", calls: int = 1) -> int:
        backlog.delays = [(Delay(loop.time() + seconds, name=name), calls)]
        backlog.waits.watch()
        await asyncio.sleep(11.0)
        return len(backlog.reported)

    assert await delayed(LONG_WAIT) == 0
    assert await delayed(2 * LONG_WAIT, calls=3) == 1
    assert await delayed(1.0) == 1
    assert await delayed(3 * LONG_WAIT) == 1, "the next slot of the same quota"
    backlog.delays = []
    await asyncio.sleep(2 * LONG_WAIT)
    assert await delayed(2 * LONG_WAIT) == 1, "calls that come later wait for the same end"
    assert await delayed(2 * LONG_WAIT, "pause") == 2
    backlog.delays = []
    await asyncio.sleep(3 * LONG_WAIT)
    assert await delayed(2 * LONG_WAIT) == 3
    assert [wait.calls for wait in backlog.reported] == [3, 1, 1]


async def test_long_waits_of_several_kinds_are_one() -> None:
    """Calls of several kinds that wait for one cause are counted together, until the last end."""
    backlog, now = Backlog(), asyncio.get_running_loop().time()
    backlog.delays = [(Delay(now + s, name="day"), n) for s, n in ((400.0, 2), (500.0, 5))]
    backlog.waits.watch()
    await asyncio.sleep(1.5)
    (wait,) = backlog.reported
    assert wait.calls == 7
    assert wait.seconds == pytest.approx(499.0, abs=0.1)


async def test_long_waits_are_examined_only_while_calls_wait() -> None:
    """Without waiting calls, and after the end of the scope, no timer is left."""
    backlog = Backlog()
    backlog.waits.watch()
    await asyncio.sleep(100.0)
    assert backlog.checks == 1
    backlog.delays = [(Delay(0.0), 1)]
    backlog.waits.watch()
    await asyncio.sleep(100.5)
    assert backlog.checks == 1 + 10
    backlog.waits.close()
    await asyncio.sleep(100.0)
    assert backlog.checks == 1 + 10
