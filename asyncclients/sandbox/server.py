"""The HTTP server of one mock vendor, with its rate limit, faults and request log.

It handles a request in these steps, each synchronous except for the waits:

1. When the head arrives, check the credential. A request without a valid one uses no quota.
2. Count the request against the limit. Its body and the latency do not change this instant.
3. *Wait* for the body.
4. Let the fault and the vendor decide on the response, and log the request.
5. *Wait* for the fault or the latency, and respond.

The vendor's work is done in step 4, also if the client does not wait for the response.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias

from aiohttp import web

from .faults import Fault, Injected
from .limits import Rules, ServerLimit
from .vendor import RejectedError, Reply, SandboxRequest, Vendor, segments_of

QuotaSpec: TypeAlias = tuple[float, float] | Callable[[], ServerLimit]
"""(requests, seconds), or a function that creates the limit of a credential."""

BODY_LIMIT = 64 * 1024


class Summary:
    """Exact counts of all requests to one vendor so far, by status as well."""

    def __init__(self, quota: tuple[float, float] | None) -> None:
        self._quota = quota
        self.rejected = 0
        self.by_status: Counter[int | None] = Counter()
        self._first_at, self._last_at = math.inf, -math.inf
        self._credentials: set[str] = set()
        self._accepted = 0

    @property
    def arrivals(self) -> int:
        """The number of requests."""
        return self.by_status.total()

    @property
    def quota_use(self) -> float:
        """The share of the requests that the limit allowed per credential that were made.

        Between the first and the last arrival, with one full window at the start; 0 without a
        limit.
        """
        if not self._quota or not self.arrivals:
            return 0.0
        limit, period = self._quota
        allowed = limit * (1 + (self._last_at - self._first_at) / period)
        return self._accepted / (allowed * max(1, len(self._credentials)))

    def add(self, request: SandboxRequest) -> None:
        """Count *request*."""
        self.rejected += request.rejected
        self.by_status[request.status] += 1
        if request.credential:
            self._credentials.add(request.credential)
            self._accepted += not request.rejected
        self._first_at = min(self._first_at, request.at)
        self._last_at = max(self._last_at, request.at)


class VendorServer:
    """Serves one vendor over HTTP."""

    def __init__(
        self,
        vendor: Vendor,
        *,
        quota: QuotaSpec | None,
        history: int,
        wall: Callable[[float], datetime],
        latency: tuple[float, float],
    ) -> None:
        self.vendor = vendor
        self.recent: deque[SandboxRequest] = deque(maxlen=history)
        self.faults: list[Injected] = []
        self.closing = asyncio.Event()
        self._quota = quota
        if callable(quota):
            model = quota()
            quota = model.limit, model.period
        self.summary = Summary(quota)
        self._limits: dict[str, ServerLimit] = {}
        self._wall = wall
        self._latency = latency

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request."""
        call, limit, reply = self._admit(request)
        try:
            call = replace(call, body=await request.content.read())
        except (ConnectionError, web.RequestPayloadError):
            self._record(call, None)
            return web.Response(status=400)
        fault = None
        if reply is None:
            fault = self._next_fault(call)
            reply = self._execute(call, fault)
        if reply and limit:
            headers = self.vendor.limit_headers(limit, call.at, rejected=call.rejected)
            reply = replace(reply, headers={**headers, **reply.headers})
        self._record(call, reply)
        seconds, jitter = self._latency
        seconds += self.vendor.random.expovariate(1 / jitter) if jitter > 0 else 0.0
        seconds += fault.seconds if fault else 0.0
        if seconds > 0:
            await self._pause(seconds)
        if fault and fault.kind == "hang":
            await self._pause(None)
        return await _send(request, reply, is_cut=fault is not None and fault.kind == "cut")

    async def _pause(self, seconds: float | None) -> None:
        """Wait *seconds* (None: for ever), but not beyond the end of the sandbox."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()

    def _admit(
        self, request: web.BaseRequest
    ) -> tuple[SandboxRequest, ServerLimit | None, Reply | None]:
        """Check the credential and the limit of *request*; a reply rejects it."""
        now = asyncio.get_running_loop().time()
        path = request.rel_url.raw_path
        call = SandboxRequest(
            method=request.method,
            path=path,
            segments=segments_of(path),
            query=request.rel_url.query,
            headers=request.headers,
            at=now,
            time=self._wall(now),
        )
        try:
            call = replace(call, credential=self.vendor.credential(call))
        except RejectedError as rejected:
            return call, None, rejected.reply
        limit = self._limit_of(call)
        if limit is None or limit.admit(now):
            return call, limit, None
        return replace(call, rejected=True), limit, self.vendor.over_limit()

    def _limit_of(self, call: SandboxRequest) -> ServerLimit | None:
        quota, credential = self._quota, call.credential
        if quota is None or not credential:
            return None
        if credential not in self._limits:
            made = quota() if callable(quota) else self.vendor.limit_model(*quota)
            self._limits[credential] = made
        limit = self._limits[credential]
        return limit.of(f"{call.method} {call.path}") if isinstance(limit, Rules) else limit

    def _next_fault(self, call: SandboxRequest) -> Fault | None:
        """Return the first fault that selects *call*, and count it."""
        for injected in self.faults:
            if injected.selects(call):
                injected.times -= 1
                if not injected.times:
                    self.faults.remove(injected)
                return injected.fault
        return None

    def _execute(self, call: SandboxRequest, fault: Fault | None) -> Reply | None:
        """Execute *call*, unless the *fault* prevents it; return the response, None for none."""
        reply = self.vendor.answer(call) if fault is None or fault.committed else None
        if fault and (fault.reply or fault.kind in {"drop", "hang"}):
            return fault.reply
        return reply

    def _record(self, call: SandboxRequest, reply: Reply | None) -> None:
        status = reply.status if reply else None
        call = replace(call, body=call.body[:BODY_LIMIT], status=status)
        self.recent.append(call)
        self.summary.add(call)


async def _send(
    request: web.BaseRequest, reply: Reply | None, *, is_cut: bool
) -> web.StreamResponse:
    if reply is None:
        _close(request)
        return web.Response()
    if not is_cut:
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_length = len(reply.body) or 1
    with contextlib.suppress(ConnectionError):  # the client may have disconnected
        await response.prepare(request)
        await response.write(reply.body[: len(reply.body) // 2])
    _close(request)
    return response


def _close(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.close()
