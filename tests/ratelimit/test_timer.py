"""Timers on any event loop: never early."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Quota
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.ratelimit.timer import TICK, Timer, wall_clock
from asyncclients.testing.clock import run_virtual


class Handle:
    """A handle with only the methods that an event loop guarantees."""

    def __init__(self) -> None:
        self.dropped = False

    def cancel(self) -> None:
        self.dropped = True


class CoarseLoop:
    """A loop that counts in ticks and rounds delays to them, as uvloop does with milliseconds."""

    def __init__(self, ticks: int, tick: float) -> None:
        self.ticks, self.tick = ticks, tick
        self.calls = 0
        self.create_future: Callable[[], object] | None = None
        self._timers: list[tuple[int, Handle, Callable[..., object]]] = []

    def time(self) -> float:
        return self.ticks * self.tick

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Any:
        handle = Handle()
        delay = max(0, round((when - self.time()) / self.tick))
        self._timers.append((self.ticks + delay, handle, lambda: callback(*args)))
        return handle

    @property
    def waiting(self) -> int:
        """Timers that will call back."""
        return sum(not handle.dropped for _, handle, _ in self._timers)

    def turn(self) -> None:
        """Call back once."""
        self._timers.sort(key=lambda timer: timer[0])
        self.ticks, handle, callback = self._timers.pop(0)
        if not handle.dropped:
            self.calls += 1
            assert self.calls < 100, "it spins"
            callback()

    def run(self) -> None:
        """Call back in order until no timer is left."""
        while self._timers:
            self.turn()


def timer_on(loop: CoarseLoop, seen: list[float]) -> Timer:
    real = cast("asyncio.AbstractEventLoop", loop)
    return Timer(real, lambda: seen.append(loop.time()))


@given(st.integers(0, 10**9), st.floats(0, 10), st.sampled_from([TICK / 10, TICK / 3, TICK]))
def test_timer_never_calls_back_early(ticks: int, delay: float, tick: float) -> None:
    """On a coarse clock it calls back once, soon after its time, without spinning until then."""
    loop, seen = CoarseLoop(ticks, tick), list[float]()
    at = loop.time() + delay
    timer_on(loop, seen).set(at)
    loop.run()
    assert len(seen) == 1
    assert at - 2e-9 <= seen[0] <= at + 2 * TICK
    assert loop.calls <= 2


def test_timer_keeps_the_earliest_instant() -> None:
    """A later instant, or infinity, changes nothing; an earlier one replaces what was set."""
    loop, seen = CoarseLoop(0, TICK), list[float]()
    timer = timer_on(loop, seen)
    timer.set(math.inf)
    assert (timer.due_at, loop.waiting) == (math.inf, 0)
    for at in (5.0, 7.0, 2.0, 3.0):
        timer.set(at)
        assert loop.waiting == 1
    assert timer.due_at == 2.0
    loop.run()
    assert seen == [2.0]
    assert timer.due_at == math.inf


def test_timer_can_be_cancelled_and_set_again() -> None:
    """A cancelled timer does not call back, even if the loop has already fired it early."""
    loop, seen = CoarseLoop(0, TICK), list[float]()
    timer = timer_on(loop, seen)
    timer.set(2.0)
    timer.cancel()
    timer.set(4.0)
    loop.run()
    assert seen == [4.0]
    timer.set(4.0 + TICK / 4)
    loop.turn()
    assert (seen, loop.waiting) == ([4.0], 1)
    timer.cancel()
    loop.run()
    assert seen == [4.0]


async def test_timer_calls_back_on_a_running_loop() -> None:
    """Due in microseconds or milliseconds, in order or not: never before its time."""
    loop = asyncio.get_running_loop()
    for delay in (0.0, 1e-5, 3e-4, 7e-4, 1.4e-3, 5e-3):
        rung = asyncio.Event()
        timer = Timer(loop, rung.set)
        at = loop.time() + delay
        timer.set(at + 1.0)
        timer.set(at)
        async with asyncio.timeout(10):
            await rung.wait()
        assert loop.time() >= at - 1e-9


@pytest.mark.virtual_time
async def test_timer_is_exact_in_virtual_time() -> None:
    """On a clock that reaches the exact instant it calls back at that instant."""
    loop = asyncio.get_running_loop()
    seen: list[float] = []
    for at in (0.1, 0.3, 0.7, 1e4):
        Timer(loop, lambda: seen.append(loop.time())).set(at)
    await asyncio.sleep(2e4)
    assert seen == pytest.approx([0.1, 0.3, 0.7, 1e4], abs=2e-6)


async def test_scheduler_does_not_spin_on_a_coarse_clock() -> None:
    """If rounding puts a slot's instant just after a tick, it is granted within a few calls."""
    real, calls = asyncio.get_running_loop(), list[int]()
    for ticks in range(200):
        loop = CoarseLoop(ticks, TICK / 3)
        loop.create_future = real.create_future
        asked_at = loop.time()
        limiter = Limiter([Quota(2, 1.0)], admission="exact", now=asked_at)
        scheduler = Scheduler(limiter, cast("asyncio.AbstractEventLoop", loop))
        for _ in range(2):
            permit = scheduler.try_acquire(PermitRequest())
            assert permit is not None
            scheduler.on_response(permit, None)
        waiting = asyncio.create_task(scheduler.acquire(PermitRequest()))
        await asyncio.sleep(0)
        loop.run()
        assert (await waiting).sent_at >= asked_at + 1.0
        calls.append(loop.calls)
    assert 1 in calls
    assert 1 < max(calls) <= 4, "rounding made no difference, or the clock was asked without end"


# --- The wall clock of a loop ------------------------------------------------------------


async def wall_clocks() -> tuple[float, float]:
    """Return what two functions say of one instant, one made before a day of virtual time."""
    loop = asyncio.get_running_loop()
    first = wall_clock(loop)
    await asyncio.sleep(86_400.0)
    at, second = loop.time(), wall_clock(loop)
    return first(at), second(at)


def test_wall_clocks_of_a_loop_agree() -> None:
    """Scopes that are made at different instants of virtual time see the same midnight."""
    first, second = run_virtual(wall_clocks())
    assert first == pytest.approx(second, abs=0.01)
    assert first == pytest.approx(time.time() + 86_400.0, abs=60.0)


def test_wall_clock_of_a_real_loop_is_the_systems() -> None:
    """In real time it gives the system's time."""

    async def difference() -> float:
        loop = asyncio.get_running_loop()
        return wall_clock(loop)(loop.time()) - time.time()

    assert asyncio.run(difference()) == pytest.approx(0.0, abs=0.05)


def test_wall_clock_keeps_no_loop_alive() -> None:
    """A loop that is closed and dropped is collected although its functions are kept."""
    loop = asyncio.new_event_loop()
    kept, alive = wall_clock(loop), weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert alive() is None
    assert kept(0.0) > 0.0
