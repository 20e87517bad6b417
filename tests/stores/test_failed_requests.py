"""A failed or cancelled request to the store does not end the calls that wait for it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Quota
from asyncclients.sandbox.limits import SlidingLog
from asyncclients.stores.protocol import LeaseRequest, LeaseResponse, StoreUnavailableError
from tests.support.shared_quota import MemoryStore, SharedQuotaSimulation

pytestmark = pytest.mark.virtual_time


class Odd(BaseException):
    """Neither an `Exception` nor a built-in one."""


class MuteError(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class FailingBackend(MemoryStore):
    """A store whose driver raises anything, for every second command."""

    error: type[BaseException] | None = None
    nonsense = False

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        response = await super().apply(key, request)
        if self.commands % 2 and self.error is not None:
            raise self.error
        if self.commands % 2 and self.nonsense:
            return None  # type: ignore[return-value]
        return response


def world_of(store: MemoryStore) -> SharedQuotaSimulation:
    world = SharedQuotaSimulation(SlidingLog(10, 1.0), Quota(10, 1.0), when_down="local")
    world.store = store
    return world


async def test_report_is_repeated_until_the_store_has_responded() -> None:
    """The response to a report is lost: the next request reports the same arrival again."""
    world = world_of(MemoryStore())
    await world.start().call()
    world.store.deaf = 1
    await asyncio.sleep(2)
    await world.stop()
    reports = [request.arrived for _, request, _ in world.store.record if request.arrived]
    assert [[number for number, *_ in arrived] for arrived in reports] == [[1], [1]]


@pytest.mark.parametrize(
    "error", [RuntimeError, MuteError, MemoryError, asyncio.CancelledError, GeneratorExit, Odd]
)
async def test_calls_are_sent_whatever_the_driver_raises(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Every waiting call is sent although the driver raises an exception of any kind."""
    store = FailingBackend()
    store.error = error
    process = world_of(store).start()
    async with asyncio.timeout(60):
        await asyncio.gather(*(process.call() for _ in range(50)))
    await process.stop()
    assert len(process.sent) == 50


async def test_calls_are_sent_after_an_invalid_response() -> None:
    """An invalid response counts as a failed request."""
    store = FailingBackend()
    store.nonsense = True
    process = world_of(store).start()
    async with asyncio.timeout(60):
        await asyncio.gather(*(process.call() for _ in range(50)))
    await process.stop()


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_calls_are_sent_when_the_request_is_cancelled(steps: int) -> None:
    """A program that cancels the tasks of others stops no waiting call."""
    process = world_of(MemoryStore()).start()
    ours = {asyncio.current_task()}
    calls = [asyncio.create_task(process.call()) for _ in range(30)]
    ours |= {*calls}
    for _ in range(5):
        for _ in range(steps + 1):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - ours:
            if "_run" in repr(task.get_coro()):
                task.cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(*calls)
    await process.stop()


class FuzzedBackend(MemoryStore):
    """A store that fails in any way, before or after it has applied the request."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self.rate = random.choice((0.1, 0.5, 0.9))

    async def apply(self, key: str, request: LeaseRequest) -> LeaseResponse:
        if self._random.random() < self.rate / 2:
            raise self._random.choice(ANYTHING)
        response = await super().apply(key, request)
        if self._random.random() < self.rate / 2:
            raise self._random.choice(ANYTHING)
        return response


ANYTHING: tuple[type[BaseException], ...] = (
    RuntimeError,
    MuteError,
    MemoryError,
    OSError,
    StoreUnavailableError,
    ConfigurationError,
    asyncio.CancelledError,
    GeneratorExit,
    Odd,
)


@pytest.mark.parametrize("seed", range(20))
async def test_calls_end_whatever_the_store_raises(seed: int) -> None:
    """Each call is sent or fails with an error of this library, in bounded time."""
    random = Random(seed)
    world = SharedQuotaSimulation(
        SlidingLog(10, 1.0), Quota(10, 1.0), when_down=random.choice(("local", "pause"))
    )
    world.store = FuzzedBackend(random)
    processes = [world.start() for _ in range(random.choice((1, 2)))]
    async with asyncio.timeout(600):
        results = await asyncio.gather(
            *(process.call() for process in processes for _ in range(40)), return_exceptions=True
        )
        await world.stop()
    failed = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, ConfigurationError) for error in failed)
    assert sum(len(process.sent) for process in processes) == len(results) - len(failed)
