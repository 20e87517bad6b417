"""What a pool is doing, as OpenTelemetry gauges.

A pool belongs to its event loop, and exporters collect in a thread of their
own. So a reading is made in the loop, whoever asks for it: a pool whose loop is
busy for half a second, or gone, is left out of that collection.

Labels are the vendor and the priority, nothing else: scopes of one vendor are
added up (of shares and pauses the largest counts).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Meter, Observation

if TYPE_CHECKING:
    from asyncclients.core.scope import ScopeStats

    Stats = tuple[ScopeStats, ...]
    Read = Callable[[], Stats]
    Sample = tuple[dict[str, str], float]

_PATIENCE = 0.5
"""Seconds an exporter's thread waits for the loop."""
_VENDOR = "asyncclients.vendor"
_PRIORITY = "asyncclients.priority"


class Gauges:
    """Observable gauges over all pools that were added."""

    def __init__(self, meter: Meter) -> None:
        self._pools: dict[Read, asyncio.AbstractEventLoop] = {}
        for name, (unit, words, measure) in _GAUGES.items():
            meter.create_observable_gauge(name, [self._callback(measure)], unit, words)

    def add(self, stats: Read) -> None:
        """Read the pool of *stats*, which belongs to the running loop, from now on."""
        self._pools[stats] = asyncio.get_running_loop()

    def remove(self, stats: Read) -> None:
        """Read it no more."""
        self._pools.pop(stats, None)

    def _callback(
        self, measure: Callable[[Stats], Iterator[Sample]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for labels, value in measure(self._read())]

        return observe

    def _read(self) -> Stats:
        found: list[ScopeStats] = []
        for stats, loop in list(self._pools.items()):
            if loop.is_closed():
                self.remove(stats)  # a pool that nobody closed
            else:
                found += _read_in(loop, stats)
        return tuple(found)


def _read_in(loop: asyncio.AbstractEventLoop, stats: Read) -> Stats:
    try:
        if asyncio.get_running_loop() is loop:
            return stats()
    except RuntimeError:
        pass  # an exporter's thread
    reading: Future[Stats] = Future()

    def read() -> None:
        try:
            reading.set_result(stats())
        except BaseException:
            reading.set_result(())  # the exporter does not wait for what will not come
            raise

    try:
        loop.call_soon_threadsafe(read)
        return reading.result(_PATIENCE)
    except (RuntimeError, TookTooLong):
        return ()  # the loop is closed, or busy


def _sum(stats: Stats, value: Callable[[ScopeStats], float]) -> Iterator[Sample]:
    return _by_vendor(stats, value, sum)


def _largest(stats: Stats, value: Callable[[ScopeStats], float]) -> Iterator[Sample]:
    return _by_vendor(stats, value, max)


def _by_vendor(
    stats: Stats,
    value: Callable[[ScopeStats], float],
    total: Callable[[Iterable[float]], float],
) -> Iterator[Sample]:
    for vendor in dict.fromkeys(scope.vendor for scope in stats):
        yield {_VENDOR: vendor}, total(value(scope) for scope in stats if scope.vendor == vendor)


def _queued(stats: Stats) -> Iterator[Sample]:
    totals: Counter[tuple[str, str]] = Counter()
    for scope in stats:
        for priority, waiting in scope.queued.items():
            totals[scope.vendor, priority] += waiting
    for (vendor, priority), waiting in totals.items():
        yield {_VENDOR: vendor, _PRIORITY: priority}, waiting


_GAUGES: dict[str, tuple[str, str, Callable[[Stats], Iterator[Sample]]]] = {
    "asyncclients.queue.depth": ("{call}", "Calls that wait for their turn", _queued),
    "asyncclients.in_flight": (
        "{request}",
        "Requests on the wire",
        lambda stats: _sum(stats, lambda scope: scope.in_flight),
    ),
    "asyncclients.slots.held": (
        "{slot}",
        "Slots of the fullest quota in use",
        lambda stats: _sum(stats, lambda scope: scope.held),
    ),
    "asyncclients.quota.use": (
        "{share}",
        "Share of the scarcest quota in use",
        lambda stats: _largest(stats, lambda scope: scope.quota_use),
    ),
    "asyncclients.pause": (
        "s",
        "Until the vendor's pause ends",
        lambda stats: _largest(stats, lambda scope: scope.paused_for),
    ),
    "asyncclients.foreign.rate": (
        "{call}/s",
        "Calls that others make on the same quota",
        lambda stats: _sum(stats, lambda scope: scope.external_rate),
    ),
}
