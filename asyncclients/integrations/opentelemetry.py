"""Spans and metrics of every call, by OpenTelemetry. Needs the extra `[otel]`.

```python
SessionPool(listeners=(OpenTelemetryListener(),))
```

A call is a span (INTERNAL, `intouch.contacts.create`) below the caller's; each
request on the wire is a span below it (CLIENT, `POST /public/v1/contacts`), and
the wait for its permit is an event of the call's span. Names, attributes and
`http.client.request.duration` follow the HTTP client conventions 1.44:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/

Nothing of a request is exported but its method, its host, its path template
and the vendor's request id: no query string, no id in a path (and so no
`url.full`), no header, no body, no credential. Every label of a metric has as
many values as there are vendors, operations and statuses. The trace context is
not sent to vendors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

try:
    from opentelemetry import metrics, trace
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
from asyncclients.integrations.gauges import Gauges

_SCOPE = "asyncclients"
_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
_DURATIONS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""The conventions' buckets, seconds."""
_WAITS = [0.001, 0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]
_WITHOUT_TEMPLATE = "request"
"""The operation of `client.request()`: its path is the caller's, and not bounded."""


class _Call:
    """A call under way: its span, and that of the request on the wire."""

    __slots__ = ("attempt", "labels", "sent_at", "span", "started", "wire_labels")

    def __init__(self, started: CallStarted, span: Span) -> None:
        self.started, self.span = started, span
        self.attempt: Span | None = None
        self.sent_at = 0.0
        self.labels = _labels(started)
        self.wire_labels = _wire_labels(started)


class OpenTelemetryListener:
    """A listener for `SessionPool(listeners=...)`; one serves any number of pools.

    Args:
        tracer_provider: None takes the global one.
        meter_provider: None takes the global one.
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
            "Wait of a request for its permit",
            explicit_bucket_boundaries_advisory=_WAITS,
        )
        self._refusals = meter.create_counter(
            "asyncclients.refusals", "{refusal}", "Requests that the vendor refused by rate"
        )
        self._refreshes = meter.create_counter(
            "asyncclients.token.refreshes", "{request}", "Access tokens asked for"
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
        """Take one event of `asyncclients.core.events`."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _call_started(self, event: CallStarted) -> None:
        name = f"{event.vendor}.{event.operation}"
        span = self._tracer.start_span(name, attributes=_labels(event))
        self._calls[event.call] = _Call(event, span)

    def _attempt_started(self, event: AttemptStarted) -> None:
        call = self._calls.get(event.call)
        if call is None:
            return
        call.span.add_event("asyncclients.permit", {"asyncclients.wait": event.waited})
        self._wait.record(event.waited, call.labels)
        template = call.wire_labels.get("url.template")
        method = call.started.method
        attributes: dict[str, str | int] = dict(call.wire_labels)
        if event.attempt > 1:
            attributes["http.request.resend_count"] = event.attempt - 1
        call.attempt = self._tracer.start_span(
            f"{method} {template}" if template else method,
            trace.set_span_in_context(call.span),
            SpanKind.CLIENT,
            attributes,
        )
        call.sent_at = asyncio.get_running_loop().time()

    def _attempt_ended(self, event: AttemptEnded) -> None:
        call = self._calls.get(event.call)
        if call is None:
            return
        facts: dict[str, str | int] = {}
        if event.status is not None:
            facts["http.response.status_code"] = event.status
        error = event.error
        if error is None and event.status is not None and event.status >= 400:
            error = str(event.status)
        if event.request_id is not None and call.attempt is not None:
            call.attempt.set_attribute("asyncclients.request_id", event.request_id)
        self._end_attempt(call, facts, error)

    def _end_attempt(self, call: _Call, facts: dict[str, str | int], error: str | None) -> None:
        span, call.attempt = call.attempt, None
        if span is None:
            return
        if error is not None:
            facts["error.type"] = error
        took = asyncio.get_running_loop().time() - call.sent_at
        self._duration.record(took, {**call.wire_labels, **facts})
        span.set_attributes(facts)
        _end(span, error)

    def _call_ended(self, event: CallEnded) -> None:
        call = self._calls.pop(event.call, None)
        if call is None:
            return
        self._end_attempt(call, {}, event.error)  # one that was cancelled on the wire
        if event.error is not None:
            call.span.set_attribute("error.type", event.error)
        _end(call.span, event.error)

    def _token_refreshed(self, event: TokenRefreshed) -> None:
        labels = {"asyncclients.vendor": event.vendor}
        if event.error is not None:
            labels["error.type"] = event.error
        self._refreshes.add(1, labels)

    def _paused(self, event: ScopePaused) -> None:
        self._refusals.add(1, {"asyncclients.vendor": event.vendor})


def _labels(event: CallStarted) -> dict[str, str]:
    return {"asyncclients.vendor": event.vendor, "asyncclients.operation": event.operation}


def _wire_labels(event: CallStarted) -> dict[str, str | int]:
    origin = urlsplit(event.origin)
    labels: dict[str, str | int] = {
        "asyncclients.vendor": event.vendor,
        "http.request.method": event.method,
        "server.address": origin.hostname or "",
        "server.port": origin.port or (443 if origin.scheme == "https" else 80),
    }
    if event.operation != _WITHOUT_TEMPLATE:
        labels["url.template"] = event.template
    return labels


def _end(span: Span, error: str | None) -> None:
    if error is not None:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
