"""The front of one vendor: counts, records, and answers over HTTP.

The order of events, each in one synchronous step except where a wait is named:

1. The head of a request arrives. Its credential is checked; a call without a
   right one counts against nobody's quota.
2. The limit counts it, at this instant: what lies between the head and the
   body, or between the answer and the client, changes nothing.
3. *Wait* for the body.
4. Fault and vendor decide on the answer; the record is written.
5. *Wait* for what the fault or the latency asks for, and answer.

Work is done at step 4, so a client that gives up waiting has been served.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web

from .exchange import RefusedError, Reply, SandboxRequest
from .faults import Cut, Delay, Drop, Fault, Faults, Hang, Status
from .routing import segments_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from random import Random

    from .journal import RequestLog
    from .limits import ServerLimit
    from .vendor import Vendor

QuotaSpec: TypeAlias = "tuple[float, float] | Callable[[], ServerLimit]"
"""Requests per seconds, or what makes a limit for each credential."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is known about a call when its head has arrived."""

    call: SandboxRequest
    limit: ServerLimit | None
    refusal: Reply | None
    over_limit: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes out: a reply (None: nothing), and the fault that shapes it."""

    reply: Reply | None
    fault: Fault | None = None


class VendorServer:
    """Turns HTTP requests into calls of one vendor, and its replies into HTTP."""

    def __init__(
        self,
        vendor: Vendor[Any],
        journal: RequestLog,
        *,
        quota: QuotaSpec | None,
        random: Random,
        wall: Callable[[float], datetime],
        latency: tuple[float, float],
    ) -> None:
        self.vendor = vendor
        self.journal = journal
        self.faults = Faults()
        self.closing = asyncio.Event()
        self.random = random
        self.quota = _numbers(quota)
        self._spec = quota
        self._limits: dict[str, ServerLimit] = {}
        self._wall = wall
        self._latency = latency

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        verdict = self._judge(self._head(request))
        try:
            body = await request.content.read()
        except (ConnectionError, web.RequestPayloadError):
            self._record(verdict, None)
            return web.Response(status=400)
        answer = self._decide(replace(verdict, call=replace(verdict.call, body=body)))
        wait = self._wait(answer)
        if wait > 0:
            await self._pause(wait)
        if isinstance(answer.fault, Hang):
            await self._pause(None)
        return await _send(request, answer)

    async def _pause(self, seconds: float | None) -> None:
        """Wait; not beyond the end of the sandbox, where nobody waits any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()

    def _wait(self, answer: _Answer) -> float:
        seconds, jitter = self._latency
        extra = answer.fault.seconds if isinstance(answer.fault, Delay) else 0.0
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

    def _judge(self, call: SandboxRequest) -> _Verdict:
        try:
            call = replace(call, credential=self.vendor.credential(call))
        except RefusedError as refused:
            return _Verdict(call, None, refused.reply)
        limit = self._limit_of(call.credential)
        if limit is None or limit.admit(call.at):
            return _Verdict(call, limit, None)
        return _Verdict(call, limit, self.vendor.refusal(limit, call.at), over_limit=True)

    def _limit_of(self, credential: str) -> ServerLimit | None:
        if self._spec is None or not credential:
            return None
        if credential not in self._limits:
            spec = self._spec
            self._limits[credential] = spec() if callable(spec) else self.vendor.new_limit(*spec)
        return self._limits[credential]

    def _decide(self, verdict: _Verdict) -> _Answer:
        call, limit = verdict.call, verdict.limit
        answer = _Answer(verdict.refusal) if verdict.refusal else self._work(call)
        if answer.reply is not None and limit is not None:
            headers = {**self.vendor.limit_headers(limit, call.at), **answer.reply.headers}
            answer = replace(answer, reply=replace(answer.reply, headers=headers))
        self._record(verdict, answer.reply.status if answer.reply else None)
        return answer

    def _record(self, verdict: _Verdict, status: int | None) -> None:
        counted = verdict.limit is not None
        self.journal.write(verdict.call, status, refused=verdict.over_limit, counted=counted)

    def _work(self, call: SandboxRequest) -> _Answer:
        fault = self.faults.take(call)
        if fault is None:
            return _Answer(self.vendor.answer(call))
        reply = self.vendor.answer(call) if fault.committed else None
        if isinstance(fault, Status):
            return _Answer(Reply(fault.code, fault.body, fault.headers), fault)
        return _Answer(None if isinstance(fault, Drop | Hang) else reply, fault)


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
    if isinstance(answer.fault, Cut):
        return await _send_half(request, reply)
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


async def _send_half(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_length = len(reply.body) or 1
    with contextlib.suppress(ConnectionError):  # whoever asked may have left
        await response.prepare(request)
        await response.write(reply.body[: len(reply.body) // 2])
    _close(request)
    return response


def _close(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.close()
