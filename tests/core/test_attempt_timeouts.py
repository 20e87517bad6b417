"""The time of an attempt ends it, by the rules of `asyncio.timeout`."""

from __future__ import annotations

import asyncio

import pytest

from asyncclients.core.transport import AttemptTimeouts, TimedTask

pytestmark = pytest.mark.virtual_time


def begun() -> TimedTask:
    return TimedTask(task=asyncio.current_task())


def now() -> float:
    return asyncio.get_running_loop().time()


async def attempt(timeouts: AttemptTimeouts, allowed: float, needed: float) -> str:
    """Run *needed* seconds of work within *allowed* seconds; return how and when it ended."""
    began, how = now(), "done"
    timed = begun()
    timeouts.schedule(timed, began + allowed)
    try:
        await asyncio.sleep(needed)
        timeouts.finish(timed)
    except asyncio.CancelledError:
        if not timeouts.finish(timed):
            raise
        how = "late"
    return f"{how} after {now() - began:g}"


def timers() -> int:
    """Timers that the loop has still to fire."""
    return sum(not timer.cancelled() for timer in vars(asyncio.get_running_loop())["_scheduled"])


async def test_attempts_expire_separately() -> None:
    """Each one ends when its own time is over, in whatever order they began."""
    timeouts = AttemptTimeouts()
    works = [(5.0, 9.0), (2.0, 9.0), (3.0, 1.0), (2.0, 9.0), (7.0, 6.5)]
    ends = await asyncio.gather(*(attempt(timeouts, *work) for work in works))
    assert ends == [
        "late after 5",
        "late after 2",
        "done after 1",
        "late after 2",
        "done after 6.5",
    ]


async def test_attempts_share_one_timer() -> None:
    """A thousand attempts under way are one timer, and none once the last due one is past."""
    timeouts = AttemptTimeouts()
    before = timers()
    timed_tasks = [begun() for _ in range(1000)]
    for timed in timed_tasks:
        timeouts.schedule(timed, now() + 10)
    assert timers() == before + 1
    for timed in timed_tasks:
        timeouts.finish(timed)
    await asyncio.sleep(11)
    assert timers() == before


async def test_time_that_was_given_anew() -> None:
    """The last instant that was set is the one that counts, earlier or later."""
    timeouts, timed = AttemptTimeouts(), begun()
    began = now()
    timeouts.schedule(timed, began + 1)
    timeouts.schedule(timed, began + 5)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(9)
    assert (timeouts.finish(timed), now() - began) == (True, 5)


async def test_finished_attempt_is_not_cancelled() -> None:
    """A finished attempt is not cancelled when its time is over."""
    timeouts, timed = AttemptTimeouts(), begun()
    timeouts.schedule(timed, now() + 1)
    assert timeouts.finish(timed) is False
    await asyncio.sleep(2)
    assert timed.expired is False


async def test_cancellation_by_the_caller_propagates() -> None:
    """A cancellation by the caller raises `CancelledError`, also at the instant of the timeout."""
    timeouts = AttemptTimeouts()
    for at in (0.5, 1.0):
        task = asyncio.create_task(attempt(timeouts, 1.0, 9.0))
        asyncio.get_running_loop().call_later(at, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_timeout_of_the_caller_propagates() -> None:
    """A shorter `asyncio.timeout` around it is the caller's, and nothing is left cancelled."""
    timeouts = AttemptTimeouts()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await attempt(timeouts, 2.0, 9.0)
    async with asyncio.timeout(3):
        assert await attempt(timeouts, 2.0, 9.0) == "late after 2"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
