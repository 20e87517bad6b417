"""The scheduler for any aiohttp program, without our clients.

```python
aiohttp.ClientSession(middlewares=(quota_middleware(Quota(2, 1.0)),))
```

Each request takes a permit, aiohttp's own resends included. A waiting request holds no
connection. Limit the wait with `asyncio.timeout` or the session's `ClientTimeout`, whose
`total` includes it. A scope is evicted one period after its last request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from inspect import iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal

from asyncclients.arguments import shown
from asyncclients.core.events import emit_external_usage
from asyncclients.core.network import never_sent
from asyncclients.core.options import current_call_context
from asyncclients.errors import ConfigurationError, WrongEventLoopError
from asyncclients.ratelimit.headers import parse_rate_limit_headers
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import Priority, Quota, check_quotas
from asyncclients.ratelimit.scheduler import PermitRequest, Scheduler
from asyncclients.ratelimit.timer import IdleSweep

if TYPE_CHECKING:
    import aiohttp

    Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


def quota_middleware(
    *quotas: Quota,
    scope: Callable[[aiohttp.ClientRequest], Hashable] | None = None,
    priority: Callable[[aiohttp.ClientRequest], Priority] | None = None,
    admission: Literal["adaptive", "exact"] = "adaptive",
) -> QuotaMiddleware:
    """Return a client middleware that keeps the requests of a session within *quotas*.

    Args:
        quotas: all of them apply, to each scope.
        scope: returns the key of a request's scope; by default its origin.
        priority: returns the priority of a request; by default that of the surrounding
            `call_context`, else interactive.
        admission: as in `SessionPool`.

    Raises:
        ConfigurationError: without any quota, or for an argument that cannot be used; and in
            a request for which *scope* returns no key, or *priority* no `Priority`.
    """
    if not quotas:
        raise ConfigurationError(
            "quota_middleware needs a quota", advice="As in quota_middleware(Quota(2, 1.0))"
        )
    check_quotas(quotas, "quota_middleware(Quota(2, 1.0), Quota(100, 60.0))")
    Limiter((), admission=admission)  # rejects other words
    _check_function("scope", scope, "scope=lambda request: request.url.host")
    _check_function("priority", priority, "priority=lambda request: Priority.BACKGROUND")
    return QuotaMiddleware(quotas, scope or _origin, priority or _context_priority, admission)


class QuotaMiddleware:
    """The result of `quota_middleware`; one per session, used in one event loop."""

    def __init__(
        self,
        quotas: tuple[Quota, ...],
        scope: Callable[[aiohttp.ClientRequest], Hashable],
        priority: Callable[[aiohttp.ClientRequest], Priority],
        admission: Literal["adaptive", "exact"],
    ) -> None:
        self._quotas, self._scope, self._priority = quotas, scope, priority
        self._admission: Literal["adaptive", "exact"] = admission
        self._schedulers: dict[Hashable, Scheduler] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._eviction: IdleSweep | None = None

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        scheduler = self._scheduler(request)
        context = current_call_context()
        priority = self._priority(request)
        if type(priority) is not Priority:
            raise _wrong_result("priority", priority, "a Priority, as in Priority.BACKGROUND")
        permit_request = PermitRequest(priority, context.flow if context else None)
        permit = scheduler.try_acquire(permit_request) or await scheduler.acquire(permit_request)
        try:
            response = await handler(request)
        except BaseException as failure:
            if never_sent(failure):
                scheduler.cancel(permit, priority)
            else:
                scheduler.on_no_response(permit)
            raise
        else:
            scheduler.on_response(
                permit, parse_rate_limit_headers(response.status, response.headers)
            )
            return response
        finally:
            scheduler.on_done()

    def _scheduler(self, request: aiohttp.ClientRequest) -> Scheduler:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise WrongEventLoopError(
                    "this quota_middleware belongs to another event loop",
                    advice="Make one for each ClientSession",
                )
            self._loop = loop
        key = self._scope(request)
        try:
            found = self._schedulers.get(key)
        except TypeError:  # it cannot be hashed
            raise _wrong_result("scope", key, "a hashable key, as request.url.host is") from None
        if found is None:
            if isinstance(key, Awaitable):
                raise _wrong_result("scope", key, "a hashable key, as request.url.host is")
            limiter = Limiter(self._quotas, admission=self._admission, now=loop.time())
            # Named by its quotas: the key of the scope may hold a credential.
            limiter.external.on_change = partial(
                emit_external_usage, (), f"quota_middleware {self._names()}", ""
            )
            found = self._schedulers[key] = Scheduler(limiter, loop)
            if self._eviction is None:
                self._eviction = IdleSweep(loop, self._evict)
            self._eviction.watch(max(quota.period for quota in self._quotas))
        return found

    def _evict(self, now: float) -> bool:
        """Evict the scopes that are idle at *now*; True if any are left."""
        for key in [key for key, found in self._schedulers.items() if found.is_idle(now)]:
            del self._schedulers[key]
        return bool(self._schedulers)

    def __repr__(self) -> str:
        return f"<quota_middleware {self._names()}, {len(self._schedulers)} scopes>"

    def _names(self) -> str:
        return ", ".join(str(quota) for quota in self._quotas)


def _check_function(name: str, function: Any, form: str) -> None:
    if function is None or (callable(function) and not iscoroutinefunction(function)):
        return
    problem = "a coroutine function" if callable(function) else shown(function)
    raise ConfigurationError(
        f"{name} must be a function of a request, not {problem}", advice=f"Write it as in {form}"
    )


def _wrong_result(name: str, result: Any, form: str) -> ConfigurationError:
    if iscoroutine(result):
        result.close()
    return ConfigurationError(
        f"quota_middleware: {name}= returned a value of type {type(result).__name__}",
        advice=f"Return {form}",
    )


def _origin(request: aiohttp.ClientRequest) -> Hashable:
    return request.url.origin()


def _context_priority(request: aiohttp.ClientRequest) -> Priority:  # noqa: ARG001
    context = current_call_context()
    return Priority.INTERACTIVE if context is None else context.priority
