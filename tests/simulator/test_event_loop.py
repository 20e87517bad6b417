"""The loop that has nothing but timers: order, cancellation, futures, coroutines."""

from __future__ import annotations

import asyncio

from asyncclients.simulator.event_loop import SimulatedLoop


def test_simulated_loop_calls_back_in_order() -> None:
    """By instant, then by creation; ready callbacks run first, cancelled timers never."""
    loop, seen = SimulatedLoop(), list[tuple[float, str]]()

    def note(name: str) -> None:
        seen.append((loop.time(), name))

    def call_later() -> None:
        loop.call_soon(note, "soon")
        loop.call_at(0.5, note, "overdue")

    loop.call_at(2.0, note, "late")
    loop.call_at(1.0, call_later)
    loop.call_at(1.0, note, "second")
    dropped = loop.call_at(1.5, note, "dropped")
    dropped.cancel()
    loop.call_at(3.0, note, "after the end")
    loop.run(2.0)
    assert seen == [(1.0, "soon"), (1.0, "second"), (1.0, "overdue"), (2.0, "late")]
    loop.run(4.0)
    assert seen[-1] == (3.0, "after the end")


def test_simulated_loop_runs_a_coroutine_from_future_to_future() -> None:
    """It resumes at the instant of each result, and errors are raised at its `await`."""
    loop, seen = SimulatedLoop(), list[tuple[float, object]]()
    first, second = loop.create_future(), loop.create_future()

    async def work() -> None:
        result = await first
        seen.append((loop.time(), result))
        try:
            await second
        except ValueError as error:
            seen.append((loop.time(), str(error)))

    loop.start(work())
    loop.call_at(1.0, first.set_result, "one")
    loop.call_at(2.5, second.set_exception, ValueError("two"))
    loop.run(9.0)
    assert seen == [(1.0, "one"), (2.5, "two")]
    assert isinstance(first, asyncio.Future)
