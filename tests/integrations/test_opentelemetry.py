"""Spans and metrics of real calls, read back from the SDK's exporters."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY, generate_latest

from asyncclients import IntouchClient, NotFoundError, Quota, SessionPool
from asyncclients.core.events import PoolOpened, ScopePaused, TokenRefreshed
from asyncclients.core.scope import ScopeStats
from asyncclients.integrations import opentelemetry as gauges_module
from asyncclients.integrations.opentelemetry import Gauges, OpenTelemetryListener
from asyncclients.sandbox import Sandbox, drop, hang, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.metrics.export import MetricReader

STATS = ScopeStats(
    vendor="intouch",
    scope="a",
    quotas=(Quota(4, 1.0),),
    held=2,
    holds=(2,),
    queued={"interactive": 4, "background": 1},
    in_flight=1,
    sent=9,
    rejected=0,
    paused_for=0.0,
    external_rate=0.5,
)
METRIC = re.compile(r"(?:asyncclients|http_client)_\w+(?=\{|, asyncclients_vendor\))")
DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "asyncclients.json"


class Telemetry:
    """A listener and what it exported."""

    def __init__(self, reader: MetricReader) -> None:
        self.reader = reader
        self._spans = InMemorySpanExporter()
        self.traces = TracerProvider(shutdown_on_exit=False)
        self.traces.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([reader], shutdown_on_exit=False)
        self.listener = OpenTelemetryListener(self.traces, self.meters)

    def spans(self, kind: SpanKind) -> list[ReadableSpan]:
        found = [span for span in self._spans.get_finished_spans() if span.kind is kind]
        return sorted(found, key=lambda span: span.start_time or 0)

    def points(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        assert isinstance(self.reader, InMemoryMetricReader)
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: [(dict(p.attributes or {}), p) for p in metric.data.data_points]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def facts(holder: Any) -> dict[str, Any]:
    """The attributes of a span or an event."""
    return dict(holder.attributes or {})


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry(InMemoryMetricReader())
    yield made
    made.traces.shutdown()
    made.meters.shutdown()


@pytest.mark.virtual_time
async def test_call_and_attempts_are_nested_spans(
    telemetry: Telemetry,
) -> None:
    """A repeated call gives one INTERNAL span with the wait, two CLIENT spans, a resend count."""
    async with Sandbox() as sandbox, SessionPool(listeners=(telemetry.listener,)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        sandbox.fail("intouch", drop())
        tracer = telemetry.traces.get_tracer("app")
        with tracer.start_as_current_span("the caller's") as outer:
            await intouch.tags.list().first()
        port = int(sandbox.url("intouch").split(":")[2].split("/")[0])

    (call,) = [s for s in telemetry.spans(SpanKind.INTERNAL) if s.name == "intouch.tags.list"]
    assert call.parent is not None
    assert call.parent.span_id == outer.get_span_context().span_id
    assert call.status.status_code is StatusCode.UNSET
    assert [event.name for event in call.events] == ["asyncclients.permit"] * 2
    assert all(facts(event)["asyncclients.wait"] >= 0 for event in call.events)

    assert call.context is not None
    own = call.context.span_id
    first, second = telemetry.spans(SpanKind.CLIENT)
    assert first.name == second.name == "GET /public/v1/tags"
    assert all(s.parent and s.parent.span_id == own for s in (first, second))
    same = {
        "asyncclients.vendor": "intouch",
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.template": "/public/v1/tags",
    }
    assert facts(first) == {**same, "error.type": "DisconnectedError"}
    assert first.status.status_code is StatusCode.ERROR
    assert facts(second) == {
        **same,
        "http.request.resend_count": 1,
        "http.response.status_code": 200,
    }
    assert second.status.status_code is StatusCode.UNSET


async def test_error_response_marks_both_spans(telemetry: Telemetry) -> None:
    """A 404 is `error.type` 404 on the wire and NotFoundError for the caller, with its id."""
    async with Sandbox() as sandbox, SessionPool(listeners=(telemetry.listener,)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        sandbox.fail("intouch", status(404, "{}", {"X-Request-Id": "r-1"}))
        with pytest.raises(NotFoundError):
            await intouch.tags.get("11111111-1111-1111-1111-111111111111")

    (call,) = telemetry.spans(SpanKind.INTERNAL)
    assert facts(call)["error.type"] == "NotFoundError"
    assert call.status.status_code is StatusCode.ERROR
    (attempt,) = telemetry.spans(SpanKind.CLIENT)
    assert facts(attempt)["error.type"] == "404"
    assert facts(attempt)["http.response.status_code"] == 404
    assert facts(attempt)["asyncclients.request_id"] == "r-1"
    (labels, point), *_ = telemetry.points()["http.client.request.duration"]
    assert labels["error.type"] == "404"
    assert point.count == 1


@pytest.mark.virtual_time
async def test_cancelled_call_ends_its_spans(telemetry: Telemetry) -> None:
    """A call cancelled on the wire leaves no span open."""
    async with Sandbox() as sandbox, SessionPool(listeners=(telemetry.listener,)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        sandbox.fail("intouch", hang())
        task = asyncio.create_task(intouch.tags.list().first())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    spans = telemetry.spans(SpanKind.INTERNAL) + telemetry.spans(SpanKind.CLIENT)
    assert [facts(span)["error.type"] for span in spans] == ["CancelledError"] * 2


@pytest.mark.virtual_time
async def test_exports_contain_no_request_data(telemetry: Telemetry) -> None:
    """No credential, query value, id or body is in any span or metric; raw paths neither."""
    canaries = ["canary-query", "canary-id", "canary-body", "canary-path"]
    async with Sandbox() as sandbox, SessionPool(listeners=(telemetry.listener,)) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        canaries.append(sandbox.environ["INTOUCH_API_KEY"])
        await intouch.tags.list(search="canary-query").first()
        with pytest.raises(NotFoundError):
            await intouch.tags.get("canary-id")
        await intouch.tags.create("canary-body")
        with pytest.raises(NotFoundError):
            await intouch.request("GET", "/tags/canary-path")
        exported = json.dumps(telemetry.points(), default=str)
    spans = telemetry.spans(SpanKind.INTERNAL) + telemetry.spans(SpanKind.CLIENT)
    exported += "".join(span.to_json() for span in spans)
    assert len(spans) == 8
    assert "intouch.tags.create" in exported
    assert [canary for canary in canaries if canary in exported] == []


@pytest.mark.virtual_time
async def test_gauges_read_the_pool(telemetry: Telemetry) -> None:
    """Queue, slots and use are those of `pool.stats()`; a closed pool is gone from them."""
    async with Sandbox() as sandbox:
        async with SessionPool(listeners=(telemetry.listener,)) as pool:
            intouch = IntouchClient.from_env(pool, sandbox.environ)
            tasks = [asyncio.create_task(intouch.tags.create(f"tag {n}")) for n in range(5)]
            await asyncio.sleep(0.5)
            points = telemetry.points()
            (scope,) = pool.stats()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        after = telemetry.points()

    labels = {"asyncclients.vendor": "intouch"}
    assert [(at, p.value) for at, p in points["asyncclients.slots.held"]] == [(labels, scope.held)]
    assert [(at, p.value) for at, p in points["asyncclients.quota.use"]] == [(labels, 1.0)]
    queued = {at["asyncclients.priority"]: p.value for at, p in points["asyncclients.queue.depth"]}
    assert queued == scope.queued == {"interactive": 3, "background": 0}
    assert "asyncclients.queue.depth" not in after


async def test_metrics_can_be_collected_in_a_thread(telemetry: Telemetry) -> None:
    """A collection from another thread is made in the pool's loop, and sees the same."""
    readers: list[int] = []

    def read() -> tuple[ScopeStats, ...]:
        readers.append(threading.get_ident())
        return (STATS,)

    gauges = Gauges(telemetry.meters.get_meter("threads"))
    gauges.add(read)
    points = await asyncio.to_thread(telemetry.points)
    assert points["asyncclients.slots.held"][0][1].value == STATS.held
    assert set(readers) == {threading.get_ident()}


async def test_blocked_loop_does_not_block_the_exporter(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the loop is blocked a collection does without the gauges, and ends."""
    monkeypatch.setattr(gauges_module, "_READ_TIMEOUT", 0.001)
    Gauges(telemetry.meters.get_meter("busy")).add(lambda: (STATS,))
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(telemetry.points()))
    thread.start()
    thread.join(10)  # blocks this very loop
    assert not thread.is_alive()
    assert [name for points in found for name in points if name.startswith("asyncclients.")] == []


def test_pool_of_a_closed_loop_is_forgotten(telemetry: Telemetry) -> None:
    """A pool whose loop is closed is neither read nor kept in memory."""

    class Pool:
        def stats(self) -> tuple[ScopeStats, ...]:
            return (STATS,)

    async def use() -> weakref.ref[Pool]:
        pool = Pool()
        telemetry.listener(PoolOpened(stats=pool.stats))
        assert "asyncclients.slots.held" in telemetry.points()
        return weakref.ref(pool)

    with asyncio.Runner() as runner:
        left = runner.run(use())
    assert "asyncclients.slots.held" not in telemetry.points()
    gc.collect()
    assert left() is None


async def test_import_names_the_missing_extra() -> None:
    """Without the extra, the import error names it."""
    script = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "import asyncclients.integrations.opentelemetry"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert said.strip().endswith(
        b"OpenTelemetry is not installed: pip install 'asyncclients[otel]'"
    )


async def test_scopes_of_one_vendor_are_added_up(telemetry: Telemetry) -> None:
    """Two scopes give one series: sums of slots and calls, the largest of shares and pauses."""
    other = msgspec.structs.replace(STATS, scope="b", held=3, holds=(3,), paused_for=7.0)
    Gauges(telemetry.meters.get_meter("sums")).add(lambda: (STATS, other))
    points = telemetry.points()
    values = {name: [point.value for _, point in found] for name, found in points.items()}
    assert values == {
        "asyncclients.queue.depth": [8, 2],
        "asyncclients.in_flight": [2],
        "asyncclients.slots.held": [5],
        "asyncclients.quota.use": [0.75],
        "asyncclients.pause": [7.0],
        "asyncclients.external.rate": [1.0],
    }


async def test_dashboard_and_exported_metrics_agree() -> None:
    """Each metric that the Grafana dashboard names is one that Prometheus is given, and no other."""
    made = Telemetry(PrometheusMetricReader())
    async with Sandbox() as sandbox, SessionPool(listeners=(made.listener,)) as pool:
        await IntouchClient.from_env(pool, sandbox.environ).tags.create("one")
        made.listener(ScopePaused(vendor="intouch", scope="s", seconds=1.0))
        made.listener(TokenRefreshed(vendor="digital_onboarding", error=None))
        text = generate_latest(REGISTRY).decode()
    made.meters.shutdown()
    exported = set(re.findall(r"^(asyncclients_\w+|http_client_\w+)\{", text, re.MULTILINE))
    board = json.loads(DASHBOARD.read_text())
    wanted = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    wanted += [variable["definition"] for variable in board["templating"]["list"][1:]]
    named = {name for expr in wanted for name in METRIC.findall(expr)}
    assert named <= exported
    families = {re.sub("_(bucket|count|sum|created)$", "", name) for name in exported}
    assert families <= {re.sub("_(bucket|count)$", "", name) for name in named}
