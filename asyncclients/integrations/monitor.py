"""A live web page of a pool, for a browser on this machine.

```python
async with Monitor(pool) as monitor:
    print(monitor.url)
    await pull(contacts, to="contacts.jsonl", progress=monitor.job("contacts"))
```

The page is a static file that receives server-sent events: four samples of `pool.stats()` a
second, with the progress of jobs. The server binds to loopback only, and rejects requests for
another host name (DNS rebinding). It shows vendors, quotas and counts, but no credentials, paths
or data of calls. From another machine, forward its port with ssh.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import msgspec
from aiohttp import web

from asyncclients.arguments import NaturalInt, check_value
from asyncclients.core.events import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from asyncclients.backfill.report import Progress
    from asyncclients.core.pool import SessionPool
    from asyncclients.core.scope import ScopeStats
    from asyncclients.middleware import QuotaMiddleware

TICK = 0.25
"""Seconds between two samples."""
_HISTORY = 240
"""Samples that a new page receives: one minute."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


_SHOWN = (
    *("vendor", "queued", "in_flight", "sent", "sent_background", "rejected", "paused_for"),
    *("external_rate", "token_refreshes"),
)
"""The fields of `ScopeStats` on the page."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the page, *at* seconds after the first sample."""

    at: float
    scopes: Sequence[dict[str, Any]]
    jobs: Sequence[dict[str, Any]]


class Monitor:
    """The page of one or more pools and quota middlewares; `async with` or `start` serves it.

    Attributes:
        url: its address, after the start.
        jobs: the latest progress of each job, by name.
    """

    def __init__(
        self,
        pool: SessionPool | QuotaMiddleware,
        *others: SessionPool | QuotaMiddleware,
        port: int = 0,
    ) -> None:
        check_value("port", port, NaturalInt, advice="Omit port to use any free one")
        self.url = ""
        self.jobs: dict[str, Progress] = {}
        self._pools = (pool, *others)
        self._port = port
        self._hosts: frozenset[str] = frozenset()
        self._samples: deque[Sample] = deque(maxlen=_HISTORY)
        self._sampled = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._sampler: asyncio.Task[None] | None = None

    def job(self, name: str) -> Callable[[Progress], None]:
        """Return a `progress=` callback that shows a backfill on the page as *name*."""

        def progress(state: Progress) -> None:
            self.jobs[name] = state

        return progress

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Serve the page.

        Raises:
            ClientClosedError: a pool is closed.
        """
        for pool in self._pools:
            pool.bind()
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/events", self._events)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        port: int = self._runner.addresses[0][1]
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self.url = f"http://127.0.0.1:{port}/"
        self._sampler = asyncio.create_task(self._sample(), name="asyncclients monitor")
        self._sampler.add_done_callback(self._on_sampler_done)

    async def aclose(self) -> None:
        """Stop serving. Idempotent; if it is cancelled, another call closes the rest."""
        if self._sampler is not None:
            self._sampler.cancel()
            await asyncio.wait([self._sampler])
            self._sampler = None
        self._sampled.set()  # ends the event streams
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def sample(self, at: float) -> Sample:
        """Return the content of the page, *at* seconds after the first sample."""
        jobs = [
            {"name": name, **msgspec.structs.asdict(state)} for name, state in self.jobs.items()
        ]
        stats = chain.from_iterable(pool.stats() for pool in self._pools)
        return Sample(at=at, scopes=list(_scope_rows(stats)), jobs=jobs)

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        add_sample = Callback(self._add_sample)
        while True:
            add_sample(loop.time() - started_at)
            await asyncio.sleep(TICK)

    def _add_sample(self, at: float) -> None:
        self._samples.append(self.sample(at))
        self._sampled.set()
        self._sampled = asyncio.Event()

    def _on_sampler_done(self, sampler: asyncio.Task[None]) -> None:
        """End the event streams when the sampler ends, by `aclose` or with the loop."""
        if self._sampler is sampler:
            self._sampler = None
        self._sampled.set()

    async def _page(self, request: web.Request) -> web.Response:
        self._check(request)
        page = files("asyncclients.integrations").joinpath("monitor.html").read_bytes()
        return web.Response(body=page, headers={**_HEADERS, "Content-Type": "text/html"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        with suppress(ConnectionResetError):  # the browser's tab was closed
            await response.prepare(request)
            await self._stream(response)
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        last = -1.0
        while self._sampler is not None:
            sampled = self._sampled
            if fresh := [sample for sample in self._samples if sample.at > last]:
                last = fresh[-1].at
                await response.write(b"data: " + msgspec.json.encode(fresh) + b"\n\n")
            await sampled.wait()

    def _check(self, request: web.Request) -> None:
        """Reject requests for another host name (DNS rebinding)."""
        if request.host not in self._hosts:
            raise web.HTTPForbidden(text="this page is only served to its own machine\n")


def _scope_rows(stats: Iterable[ScopeStats]) -> Iterator[dict[str, Any]]:
    names: Counter[str] = Counter()
    for scope in stats:
        names[scope.vendor] += 1
        nth = names[scope.vendor]
        by_operator = (scope.operator_pause, scope.operator_quotas)
        yield {
            **{name: getattr(scope, name) for name in _SHOWN},
            "name": scope.vendor if nth == 1 else f"{scope.vendor} {nth}",
            "gauges": [
                {"quota": str(quota), "limit": quota.limit, "held": held}
                for quota, held in zip(scope.quotas, scope.holds, strict=True)
            ],
            "paused_by": scope.operator_pause.by if scope.operator_pause else "",
            "control": "; ".join(str(each) for each in by_operator if each),
        }
