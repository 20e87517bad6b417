"""Time limits of calls beside those of the code around them: each ends what it should, when it should."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from asyncclients import AsyncClientsError
from asyncclients.core.pool import SessionPool
from asyncclients.errors import AttemptTimeoutError, DeadlineExceededError, OutcomeUnknownError
from asyncclients.ratelimit.quota import Quota
from tests.support.byte_server import answers, byte_server, http, never_responds
from tests.support.fake_vendor import QUICK, Thing, ToyClient

pytestmark = pytest.mark.virtual_time

FINE = http(body=b'{"id": 1}')


def now() -> float:
    return asyncio.get_running_loop().time()


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_timeout_applies_to_one_attempt() -> None:
    """The timeout applies to each attempt from its permit; the waits in between do not count."""
    async with byte_server(never_responds) as server, SessionPool(retry=QUICK) as pool:
        client = ToyClient(pool, base_url=server.url).with_options(timeout=3.0, max_attempts=4)
        with pytest.raises(AttemptTimeoutError) as caught:
            await client.things.get()
        assert caught.value.attempts == 4
        assert now() == pytest.approx(12.0, abs=0.1)
        assert cancelling() == 0


async def test_timeout_does_not_include_the_queue() -> None:
    """Twenty calls wait longer for their permit than their timeout, and none fails."""
    async with byte_server(answers(FINE)) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url, quotas=(Quota(1, 1.0),))
        hurried = client.with_options(timeout=2.0)
        things = await asyncio.gather(*(hurried.things.get() for _ in range(20)))
        assert things == [Thing(id=1)] * 20
        assert now() >= 19.0


async def test_calls_end_at_their_own_timeouts() -> None:
    """Ten attempts with different timeouts each end at their own time."""
    ended: list[tuple[float, float]] = []

    async def one(client: ToyClient, seconds: float) -> None:
        with pytest.raises(AttemptTimeoutError):
            await client.with_options(timeout=seconds, max_attempts=1).things.get()
        ended.append((seconds, now()))

    async with byte_server(never_responds) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url)
        await asyncio.gather(*(one(client, float(10 - n * 7 % 10)) for n in range(10)))
    assert [at for _, at in ended] == pytest.approx(list(range(1, 11)), abs=0.05)
    assert all(at == pytest.approx(seconds, abs=0.05) for seconds, at in ended)


async def test_timeout_around_a_call_ends_it() -> None:
    """An outer `asyncio.timeout` ends the call with `TimeoutError`, and the task continues."""
    async with byte_server(never_responds) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(2.0):
                await client.things.get()
        assert not isinstance(caught.value, AsyncClientsError)
        assert now() == pytest.approx(2.0, abs=0.01)
        assert cancelling() == 0
        assert client.stats().in_flight == 0


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
@pytest.mark.parametrize("early", [-0.001, 0.0, 0.001])
async def test_simultaneous_timeouts_raise_once(limit: str, early: float) -> None:
    """Two timeouts at the same instant raise one `TimeoutError`, and leave no cancellation."""
    async with byte_server(never_responds) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url)
        options: dict[str, Any] = {limit: 2.0, "max_attempts": 1}
        hurried = client.with_options(**options)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0 + early):
                await hurried.things.get()
        assert cancelling() == 0
        await asyncio.sleep(1.0)
        assert client.stats().in_flight == 0


async def test_cancelled_as_the_time_is_over() -> None:
    """A cancellation at the instant of the timeout is a cancellation."""
    async with byte_server(never_responds) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url).with_options(timeout=2.0, max_attempts=1)
        task = asyncio.create_task(client.things.get())
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        loop.call_at(2.0, task.cancel)
        with pytest.raises((asyncio.CancelledError, AttemptTimeoutError)):
            await task
        assert client.stats().in_flight == 0


async def together(*calls: Coroutine[Any, Any, object]) -> None:
    """Run *calls* in one group."""
    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(call)


async def test_failing_task_group_cancels_its_calls() -> None:
    """A failure in a task group cancels a call on the wire and one in the queue."""

    async def fails() -> None:
        await asyncio.sleep(1.0)
        raise ValueError

    async with byte_server(never_responds) as server, SessionPool() as pool:
        client = ToyClient(pool, base_url=server.url, quotas=(Quota(1, 60.0),))
        with pytest.raises(ExceptionGroup) as caught:
            await together(client.things.get(), client.things.get(), fails())
        assert [type(error) for error in caught.value.exceptions] == [ValueError]
        assert now() == pytest.approx(1.0, abs=0.01)
        stats = client.stats()
        assert (stats.in_flight, stats.queued) == (0, {"interactive": 0, "background": 0})


async def test_deadlines_at_every_stage() -> None:
    """A call ends at its deadline on the wire, between attempts and in the queue."""
    async with byte_server(never_responds) as server, SessionPool(retry=QUICK) as pool:
        client = ToyClient(pool, base_url=server.url).with_options(deadline=2.0, timeout=1.5)
        with pytest.raises(DeadlineExceededError) as late:
            await client.things.get()
        assert late.value.attempts == 2
        assert now() == pytest.approx(2.0, abs=0.01)
        with pytest.raises(OutcomeUnknownError):
            await client.things.make()
        assert now() == pytest.approx(3.5, abs=0.01)
        scarce = ToyClient(pool, key="another-key", base_url=server.url, quotas=(Quota(1, 60.0),))
        began = now()
        with pytest.raises(AttemptTimeoutError):
            await scarce.with_options(timeout=0.5, max_attempts=1).things.get()
        with pytest.raises(DeadlineExceededError) as late:
            await scarce.with_options(deadline=2.0).things.get()
        assert late.value.attempts == 0
        assert now() - began == pytest.approx(0.5, abs=0.01)
        assert cancelling() == 0
