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
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web

from .faults import Fault, Faults
from .limits import Rules
from .vendor import RejectedError, Reply, SandboxRequest, segments_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from random import Random

    from multidict import CIMultiDictProxy

    from .limits import ServerLimit
    from .vendor import Vendor

QuotaSpec: TypeAlias = "tuple[float, float] | Callable[[], ServerLimit]"
"""(requests, seconds), or a function that creates the limit of a credential."""


BODY_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request in the log.

    `at` is the loop time at which its head arrived, and `body` its first 64 KiB. `status` is
    None if the connection was dropped or left open. `rejected` is True if the rate limit rejected
    it. `credential` is the key, token owner or account that it counted against, empty if none.
    Nothing is redacted: a sandbox only has credentials that it created.
    """

    vendor: str
    at: float
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: CIMultiDictProxy[str]
    body: bytes
    credential: str
    status: int | None
    rejected: bool

    @property
    def accepted(self) -> bool:
        """True if the rate limit accepted it."""
        return not self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of a whole run.

    `quota_use` is the share of the requests that the limit allowed per credential between the
    first and the last arrival, with one full window at the start; 0 without a limit.
    """

    vendor: str
    arrivals: int
    rejected: int
    by_status: Mapping[int | None, int]
    first_at: float | None
    last_at: float | None
    quota_use: float


class RequestLog:
    """The last *history* requests of one vendor, and exact counts of all requests."""

    def __init__(self, vendor: str, history: int) -> None:
        self.vendor = vendor
        self.rejected = 0
        self._recent: deque[Arrival] = deque(maxlen=history)
        self._by_status: Counter[int | None] = Counter()
        self._credentials: set[str] = set()
        self._counted = 0
        self._first_at: float | None = None
        self._last_at: float | None = None

    def write(
        self, call: SandboxRequest, status: int | None, *, rejected: bool, counted: bool
    ) -> None:
        """Add *call*; *counted* is True if it used a quota."""
        self._recent.append(
            Arrival(
                vendor=self.vendor,
                at=call.at,
                method=call.method,
                path=call.path,
                query=tuple(call.query.items()),
                headers=call.headers,
                body=call.body[:BODY_LIMIT],
                credential=call.credential,
                status=status,
                rejected=rejected,
            )
        )
        self._by_status[status] += 1
        self.rejected += rejected
        if counted:
            self._credentials.add(call.credential)
            self._counted += not rejected
        self._first_at = call.at if self._first_at is None else min(self._first_at, call.at)
        self._last_at = call.at if self._last_at is None else max(self._last_at, call.at)

    def recent(self) -> tuple[Arrival, ...]:
        """Return the logged requests, in the order of their responses."""
        return tuple(self._recent)

    def summary(self, quota: tuple[float, float] | None) -> Summary:
        """Return the counts, compared with *quota*: (requests, seconds)."""
        return Summary(
            vendor=self.vendor,
            arrivals=self._by_status.total(),
            rejected=self.rejected,
            by_status=dict(self._by_status),
            first_at=self._first_at,
            last_at=self._last_at,
            quota_use=self._use(quota),
        )

    def _use(self, quota: tuple[float, float] | None) -> float:
        if quota is None or self._first_at is None or self._last_at is None:
            return 0.0
        limit, period = quota
        allowed = limit * (1 + (self._last_at - self._first_at) / period)
        return self._counted / (allowed * max(1, len(self._credentials)))


@dataclass(frozen=True, slots=True)
class _Admission:
    """The result of checking the credential and the limit of a request."""

    call: SandboxRequest
    limit: ServerLimit | None
    rejection: Reply | None
    over_limit: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    """A reply, None for no response, and the fault that changes it."""

    reply: Reply | None
    fault: Fault | None = None


class VendorServer:
    """Serves one vendor over HTTP."""

    def __init__(
        self,
        vendor: Vendor[Any],
        log: RequestLog,
        *,
        quota: QuotaSpec | None,
        random: Random,
        wall: Callable[[float], datetime],
        latency: tuple[float, float],
    ) -> None:
        self.vendor = vendor
        self.log = log
        self.faults = Faults()
        self.closing = asyncio.Event()
        self.random = random
        self.quota = _numbers(quota)
        self._spec = quota
        self._limits: dict[str, ServerLimit] = {}
        self._wall = wall
        self._latency = latency

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request."""
        admission = self._admit(self._head(request))
        try:
            body = await request.content.read()
        except (ConnectionError, web.RequestPayloadError):
            self._record(admission, None)
            return web.Response(status=400)
        answer = self._decide(replace(admission, call=replace(admission.call, body=body)))
        wait = self._wait(answer)
        if wait > 0:
            await self._pause(wait)
        if answer.fault and answer.fault.kind == "hang":
            await self._pause(None)
        return await _send(request, answer)

    async def _pause(self, seconds: float | None) -> None:
        """Wait *seconds* (None: for ever), but not beyond the end of the sandbox."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()

    def _wait(self, answer: _Answer) -> float:
        seconds, jitter = self._latency
        extra = answer.fault.seconds if answer.fault else 0.0
        return seconds + extra + (self.random.expovariate(1 / jitter) if jitter > 0 else 0.0)

    def _head(self, request: web.BaseRequest) -> SandboxRequest:
        now = asyncio.get_running_loop().time()
        path = request.rel_url.raw_path
        return SandboxRequest(
            method=request.method,
            path=path,
            segments=segments_of(path),
            query=request.rel_url.query,
            headers=request.headers,
            at=now,
            time=self._wall(now),
        )

    def _admit(self, call: SandboxRequest) -> _Admission:
        try:
            call = replace(call, credential=self.vendor.credential(call))
        except RejectedError as rejected:
            return _Admission(call, None, rejected.reply)
        limit = self._limit_of(call.credential)
        if isinstance(limit, Rules):
            limit = limit.of(f"{call.method} {call.path}")
        if limit is None or limit.admit(call.at):
            return _Admission(call, limit, None)
        return _Admission(call, limit, self.vendor.rate_limited(limit, call.at), over_limit=True)

    def _limit_of(self, credential: str) -> ServerLimit | None:
        if self._spec is None or not credential:
            return None
        if credential not in self._limits:
            spec = self._spec
            self._limits[credential] = spec() if callable(spec) else self.vendor.limit_model(*spec)
        return self._limits[credential]

    def _decide(self, admission: _Admission) -> _Answer:
        call, limit = admission.call, admission.limit
        answer = _Answer(admission.rejection) if admission.rejection else self._work(call)
        if answer.reply is not None and limit is not None:
            headers = {**self.vendor.limit_headers(limit, call.at), **answer.reply.headers}
            answer = replace(answer, reply=replace(answer.reply, headers=headers))
        self._record(admission, answer.reply.status if answer.reply else None)
        return answer

    def _record(self, admission: _Admission, status: int | None) -> None:
        counted = admission.limit is not None
        self.log.write(admission.call, status, rejected=admission.over_limit, counted=counted)

    def _work(self, call: SandboxRequest) -> _Answer:
        fault = self.faults.take(call)
        if fault is None:
            return _Answer(self.vendor.answer(call))
        reply = self.vendor.answer(call) if fault.committed else None
        if fault.kind in {"drop", "hang"}:
            return _Answer(None, fault)
        return _Answer(fault.reply or reply, fault)


def _numbers(spec: QuotaSpec | None) -> tuple[float, float] | None:
    if callable(spec):
        limit = spec()
        return limit.limit, limit.period
    return spec


async def _send(request: web.BaseRequest, answer: _Answer) -> web.StreamResponse:
    reply = answer.reply
    if reply is None:
        _close(request)
        return web.Response()
    if answer.fault and answer.fault.kind == "cut":
        return await _send_half(request, reply)
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


async def _send_half(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
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
