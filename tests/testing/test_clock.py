"""Virtual time: jumps, waits for threads and sockets, and monotonicity."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from typing import cast

import pytest

from asyncclients import IntouchClient, SessionPool
from asyncclients.sandbox import Sandbox
from asyncclients.testing import VirtualClock, virtual_time
from asyncclients.testing.clock import run_virtual


async def test_virtual_time_skips_a_sleep() -> None:
    """An hour's sleep returns at once; the loop's time and `elapsed` advance by an hour."""
    loop = asyncio.get_running_loop()
    with virtual_time() as clock:
        began = loop.time()
        await asyncio.sleep(3600)
        assert loop.time() - began == 3600
        assert clock.elapsed == 3600


async def test_virtual_time_fires_timers_in_order() -> None:
    """Timers fire in order, each at its own instant."""
    seen: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, clock.elapsed))

    with virtual_time() as clock:
        await asyncio.gather(wait("late", 90), wait("soon", 0.25), wait("next", 60))
    assert seen == [("soon", 0.25), ("next", 60), ("late", 90)]


async def test_virtual_time_works_over_real_sockets() -> None:
    """120 calls at 2 per second take a virtual minute; none is rejected or times out."""
    with virtual_time() as clock:
        async with Sandbox() as sandbox, SessionPool(timeout=1.0) as pool:
            intouch = IntouchClient.from_env(pool, sandbox.environ)
            await asyncio.gather(*[intouch.tags.create(f"tag {n}") for n in range(120)])
            summary = sandbox.summary("intouch")
    assert summary.arrivals == 120
    assert summary.rejected == 0
    assert 59 <= clock.elapsed <= 61


async def test_virtual_time_waits_for_a_thread() -> None:
    """Work in a thread takes no virtual time, so a timeout around it does not expire."""
    with virtual_time() as clock:
        async with asyncio.timeout(0.001):
            key = await asyncio.to_thread(hashlib.pbkdf2_hmac, "sha256", b"a", b"b", 20_000)
        assert len(key) == 32
        assert clock.elapsed < 0.001


async def test_virtual_time_advances_while_a_thread_waits_for_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time advances if a thread makes no progress for the limit of real time."""
    monkeypatch.setattr("asyncclients.testing.clock._THREAD_WAIT", 0.001)
    loop = asyncio.get_running_loop()

    async def nap() -> float:
        await asyncio.sleep(30)
        return clock.elapsed

    with virtual_time() as clock:
        waiting = asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(nap(), loop).result(9))
        assert await waiting == 30


async def test_virtual_time_ends_without_going_back() -> None:
    """After the block the loop's clock continues from the time that was reached."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    with virtual_time():
        assert loop.time() >= before
        await asyncio.sleep(1000)
        inside = loop.time()
    after = loop.time()
    assert inside <= after < inside + 100
    await asyncio.sleep(0)
    assert loop.time() >= after
    with virtual_time() as again:
        assert loop.time() >= after
        assert again.elapsed == 0


def test_virtual_time_needs_a_loop_of_asyncio() -> None:
    """Without a running loop, or with one that cannot be patched, it is an error."""
    with pytest.raises(RuntimeError, match="no running event loop"), virtual_time():
        pass
    with pytest.raises(RuntimeError, match=r"needs asyncio's own event loop, not .*object"):
        VirtualClock(cast("asyncio.AbstractEventLoop", object()))


def test_run_virtual_sleeps_a_day_exactly() -> None:
    """A day of sleep takes no real time, and the loop's clock then shows exactly a day."""

    async def main() -> float:
        await asyncio.sleep(86_400.1)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert run_virtual(main()) == 86_400.1
    assert time.perf_counter() - began < 5.0


def test_run_virtual_waits_for_the_threads_of_the_executor() -> None:
    """At the end, threads that are still running are waited for, whatever the time of the clock."""
    started, release = threading.Event(), threading.Event()
    finished: list[bool] = []

    def work() -> None:
        started.set()
        finished.append(release.wait())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(None, work)
        await loop.run_in_executor(None, started.wait)
        call.cancel()  # the thread goes on
        threading.Timer(0.05, release.set).start()

    run_virtual(main())
    assert finished == [True]


def test_run_virtual_wakes_sleepers_in_order() -> None:
    """Timers fire in the order of their instants, not in the order of their creation."""
    woken: list[tuple[float, int]] = []

    async def sleeper(number: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((asyncio.get_running_loop().time(), number))

    async def main() -> None:
        await asyncio.gather(sleeper(1, 3.3), sleeper(2, 1.1), sleeper(3, 2.2))

    run_virtual(main())
    assert woken == [(1.1, 2), (2.2, 3), (3.3, 1)]


def test_run_virtual_runs_ready_callbacks_before_time_moves() -> None:
    """A timeout fires at its virtual instant, after all ready callbacks."""

    async def main() -> float:
        queue: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        loop.call_later(5.0, queue.put_nowait, 7)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await queue.get()
        assert loop.time() == 2.0
        assert await queue.get() == 7
        return loop.time()

    assert run_virtual(main()) == 5.0


def test_virtual_loop_tick_advances_the_clock_each_turn() -> None:
    """With a tick, the clock advances although only ready callbacks run."""

    async def main() -> float:
        for _ in range(5):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main(), tick=0.25) >= 1.0
