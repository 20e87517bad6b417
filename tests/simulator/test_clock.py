"""The loop whose clock jumps."""

from __future__ import annotations

import asyncio
import time

import pytest

from asyncclients.simulator import VirtualClockLoop, run_virtual


def test_a_day_passes_at_once_and_exactly() -> None:
    """A day of sleep takes no real time, and the loop's clock then says a day, to the last bit."""

    async def main() -> float:
        await asyncio.sleep(86_400.1)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert run_virtual(main()) == 86_400.1
    assert time.perf_counter() - began < 5.0


def test_sleepers_wake_in_order_each_at_its_instant() -> None:
    """Timers fire in the order of their instants, whatever the order in which they were set."""
    woken: list[tuple[float, int]] = []

    async def sleeper(number: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((asyncio.get_running_loop().time(), number))

    async def main() -> None:
        await asyncio.gather(sleeper(1, 3.3), sleeper(2, 1.1), sleeper(3, 2.2))

    run_virtual(main())
    assert woken == [(1.1, 2), (2.2, 3), (3.3, 1)]


def test_timeouts_and_queues_work() -> None:
    """A timeout fires at its virtual instant; what is ready goes before time moves."""

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


def test_a_thread_s_work_is_done_in_place() -> None:
    """`to_thread` gives its result, or its error, at the same instant."""

    async def main() -> None:
        assert await asyncio.to_thread(sum, (1, 2)) == 3
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        assert asyncio.get_running_loop().time() == 0.0

    run_virtual(main())


def test_waiting_for_nothing_is_an_error() -> None:
    """A program that could never go on is ended with an error that says so."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never end"):
        run_virtual(main())


def test_a_tick_moves_the_clock_at_each_turn() -> None:
    """With a tick, turning at one instant cannot last for ever."""
    loop = VirtualClockLoop(tick=0.25)

    async def main() -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    try:
        loop.run_until_complete(main())
        assert loop.time() >= 1.0
    finally:
        loop.close()
