"""Spans and metrics of every call for OpenTelemetry. Needs the extra `[otel]`.

```python
SessionPool(listeners=(OpenTelemetryListener(),))
```

A call is an INTERNAL span (`intouch.contacts.create`) below the caller's span. Each attempt is a
CLIENT span below it (`POST /public/v1/contacts`), and the wait for its permit is an event of the
call's span. Names, attributes and `http.client.request.duration` follow the HTTP client
conventions 1.44: https://opentelemetry.io/docs/specs/semconv/http/http-spans/

Only the method, host, path template and vendor's request id of a request are exported: no query
string, no id in a path (and so no `url.full`), no header, no body, no credential. The labels of
metrics are bounded: vendors, operations, priorities and statuses. The trace context is not sent
to vendors.

A pool belongs to its event loop, but exporters collect gauges in their own threads. So the
loop reads the statistics of its pools; a pool whose loop is closed, or does not respond within
half a second, is missing in that collection. Gauges add up the scopes of a vendor, but are the
maximum of shares and pauses.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode
except ImportError:
    raise ImportError("OpenTelemetry is not installed: pip install 'asyncclients[otel]'") from None

from asyncclients.core.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    PoolClosed,
    PoolOpened,
    ScopePaused,
    TokenRefreshed,
)

if TYPE_CHECKING:
    from asyncclients.core.scope import ScopeStats

    Stats = tuple[ScopeStats, ...]
    Read = Callable[[], Stats]
    Value = Callable[[ScopeStats], float]
    Total = Callable[[Iterable[float]], float]

_SCOPE = "asyncclients"
_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
_DURATIONS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""Histogram buckets of the conventions, in seconds."""
_WAITS = [0.001, 0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]
_READ_TIMEOUT = 0.5
"""Seconds that an exporter's thread waits for the loop."""
_VENDOR = "asyncclients.vendor"
_WITHOUT_TEMPLATE = "request"
"""The operation of `client.request()`: its path is any text, so it is not a label."""


@dataclass(slots=True)
class _Call:
    """An active call: its span, and that of its current attempt."""

    span: Span
    method: str
    labels: dict[str, str]
    attempt_labels: dict[str, str | int]
    attempt: Span | None = None
    sent_at: float = 0.0


class OpenTelemetryListener:
    """A listener for `SessionPool(listeners=...)`; several pools may share it.

    Args:
        tracer_provider: the tracer provider, by default the global one.
        meter_provider: the meter provider, by default the global one.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider, schema_url=_SCHEMA)
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider, schema_url=_SCHEMA)
        self._calls: dict[int, _Call] = {}
        self._gauges = Gauges(meter)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._wait = meter.create_histogram(
            "asyncclients.wait",
            "s",
            "Time that a request waited for its permit",
            explicit_bucket_boundaries_advisory=_WAITS,
        )
        self._rate_limited = meter.create_counter(
            "asyncclients.rate_limited", "{request}", "Requests that the vendor rate-limited"
        )
        self._refreshes = meter.create_counter(
            "asyncclients.token.refreshes", "{request}", "Requests for access tokens"
        )
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            CallStarted: self._call_started,
            AttemptStarted: self._attempt_started,
            AttemptEnded: self._attempt_ended,
            CallEnded: self._call_ended,
            TokenRefreshed: self._token_refreshed,
            ScopePaused: self._paused,
            PoolOpened: lambda event: self._gauges.add(event.stats),
            PoolClosed: lambda event: self._gauges.remove(event.stats),
        }

    def __call__(self, event: object) -> None:
        """Record one event of `asyncclients.core.events`."""
        if (handler := self._handlers.get(type(event))) is not None:
            handler(event)

    def _call_started(self, event: CallStarted) -> None:
        labels = {_VENDOR: event.vendor, "asyncclients.operation": event.operation}
        span = self._tracer.start_span(f"{event.vendor}.{event.operation}", attributes=labels)
        self._calls[event.call] = _Call(span, event.method, labels, _attempt_labels(event))

    def _attempt_started(self, event: AttemptStarted) -> None:
        call = self._calls.get(event.call)
        if call is None:
            return
        call.span.add_event("asyncclients.permit", {"asyncclients.wait": event.waited})
        self._wait.record(event.waited, call.labels)
        attributes = dict(call.attempt_labels)
        if event.attempt > 1:
            attributes["http.request.resend_count"] = event.attempt - 1
        name = f"{call.method} {attributes.get('url.template', '')}".rstrip()
        parent = trace.set_span_in_context(call.span)
        call.attempt = self._tracer.start_span(name, parent, SpanKind.CLIENT, attributes)
        call.sent_at = asyncio.get_running_loop().time()

    def _attempt_ended(self, event: AttemptEnded) -> None:
        call = self._calls.get(event.call)
        if call is None:
            return
        facts: dict[str, str | int] = {}
        error = event.error
        if event.status is not None:
            facts["http.response.status_code"] = event.status
            if event.status >= 400:
                error = error or str(event.status)
        if event.request_id is not None and call.attempt is not None:
            call.attempt.set_attribute("asyncclients.request_id", event.request_id)
        self._end_attempt(call, facts, error)

    def _end_attempt(self, call: _Call, facts: dict[str, str | int], error: str | None) -> None:
        span, call.attempt = call.attempt, None
        if span is None:
            return
        took = asyncio.get_running_loop().time() - call.sent_at
        span.set_attributes(facts)
        if error is not None:
            facts["error.type"] = error
        self._duration.record(took, {**call.attempt_labels, **facts})
        _end(span, error)

    def _call_ended(self, event: CallEnded) -> None:
        call = self._calls.pop(event.call, None)
        if call is None:
            return
        self._end_attempt(call, {}, event.error)  # an attempt that was cancelled in flight
        _end(call.span, event.error)

    def _token_refreshed(self, event: TokenRefreshed) -> None:
        labels = {_VENDOR: event.vendor}
        if event.error is not None:
            labels["error.type"] = event.error
        self._refreshes.add(1, labels)

    def _paused(self, event: ScopePaused) -> None:
        if not event.by:
            self._rate_limited.add(1, {_VENDOR: event.vendor})


def _attempt_labels(event: CallStarted) -> dict[str, str | int]:
    origin = urlsplit(event.origin)
    labels: dict[str, str | int] = {
        _VENDOR: event.vendor,
        "http.request.method": event.method,
        "server.address": origin.hostname or "",
        "server.port": origin.port or (443 if origin.scheme == "https" else 80),
    }
    if event.template and event.operation != _WITHOUT_TEMPLATE:
        labels["url.template"] = event.template
    return labels


def _end(span: Span, error: str | None) -> None:
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


class Gauges:
    """Observable gauges of all added pools."""

    def __init__(self, meter: Meter) -> None:
        self._pools: dict[Read, asyncio.AbstractEventLoop] = {}
        for name, unit, words, value, total in _GAUGES:
            callback = partial(self._observe, value, total)
            meter.create_observable_gauge(f"asyncclients.{name}", [callback], unit, words)
        words = "Calls that wait for a permit"
        queued = [self._observe_queues]
        meter.create_observable_gauge("asyncclients.queue.depth", queued, "{call}", words)

    def add(self, stats: Read) -> None:
        """Add the pool with *stats*, which belongs to the running loop."""
        self._pools[stats] = asyncio.get_running_loop()

    def remove(self, stats: Read) -> None:
        """Remove the pool with *stats*."""
        self._pools.pop(stats, None)

    def _observe(self, value: Value, total: Total, _: CallbackOptions) -> Iterator[Observation]:
        """Yield the *total* of *value* for each vendor."""
        values: dict[str, list[float]] = {}
        for scope in self._read():
            values.setdefault(scope.vendor, []).append(value(scope))
        for vendor, found in values.items():
            yield Observation(total(found), {_VENDOR: vendor})

    def _observe_queues(self, _: CallbackOptions) -> Iterator[Observation]:
        totals: Counter[tuple[str, str]] = Counter()
        for scope in self._read():
            for priority, waiting in scope.queued.items():
                totals[scope.vendor, priority] += waiting
        for (vendor, priority), waiting in totals.items():
            labels = {_VENDOR: vendor, "asyncclients.priority": priority}
            yield Observation(waiting, labels)

    def _read(self) -> Iterator[ScopeStats]:
        for stats, loop in list(self._pools.items()):
            if loop.is_closed():
                self.remove(stats)  # the pool was never closed
            else:
                yield from _read_in(loop, stats)


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
            reading.set_result(())
            raise

    try:
        loop.call_soon_threadsafe(read)
        return reading.result(_READ_TIMEOUT)
    except (RuntimeError, TimeoutError):  # the loop is closed or busy
        return ()


_SLOTS, _USE = "Used slots of the fullest quota", "Used share of the scarcest quota"
_EXTERNAL = "Calls of other clients on the same quota"
_GAUGES: list[tuple[str, str, str, Value, Total]] = [
    ("in_flight", "{request}", "Requests in flight", lambda scope: scope.in_flight, sum),
    ("slots.held", "{slot}", _SLOTS, lambda scope: scope.held, sum),
    ("quota.use", "{share}", _USE, lambda scope: scope.quota_use, max),
    ("pause", "s", "Time until the vendor's pause ends", lambda scope: scope.paused_for, max),
    ("external.rate", "{call}/s", _EXTERNAL, lambda scope: scope.external_rate, sum),
]
"""Name, unit, description and value of each gauge, and how those of a vendor's scopes add up."""
