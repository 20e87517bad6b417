"""The scheduler for any aiohttp program, without our clients.

```python
aiohttp.ClientSession(middlewares=(quota_middleware(Quota(2, 1.0)),))
```

Each request takes a permit, redirects and aiohttp's own resends included. A waiting request
holds no connection. A scope is evicted one period after its last request; one of a shared
store a minute later, when its process counts as idle there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from inspect import iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal

from asyncclients.arguments import check_text, shown
from asyncclients.core.events import (
    AttemptEnded,
    AttemptStarted,
    Callback,
    CallEnded,
    CallStarted,
    call_numbers,
    callbacks,
    emit,
)
from asyncclients.core.network import never_sent
from asyncclients.core.options import CallContext, current_call_context
from asyncclients.core.pool import ScopePool, check_parts, scope_key
from asyncclients.core.scope import Scope
from asyncclients.errors import AsyncClientsError, ConfigurationError, DeadlineExceededError
from asyncclients.ratelimit.headers import parse_rate_limit_headers
from asyncclients.ratelimit.quota import Demand, Priority, Quota, check_quotas
from asyncclients.ratelimit.scheduler import PermitRequest
from asyncclients.secret import Secret

if TYPE_CHECKING:
    import aiohttp

    from asyncclients.core.events import Listener
    from asyncclients.ratelimit.protocol import LimitStore
    from asyncclients.ratelimit.slots import Permit

    Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]

_NO_CONTEXT = CallContext(Priority.INTERACTIVE, None)


def _is_key(result: object) -> bool:
    try:
        hash(result)
    except TypeError:
        return False
    return not isinstance(result, Awaitable)


def _is_deadline(result: Any) -> bool:
    is_number = isinstance(result, (int, float)) and not isinstance(result, bool)
    return result is None or (is_number and not math.isnan(result))


_FUNCTIONS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "scope": (_is_key, "request.url.host", "a hashable key, as request.url.host is"),
    "priority": (
        lambda result: type(result) is Priority,
        "Priority.BACKGROUND",
        "a Priority, as in Priority.BACKGROUND",
    ),
    "deadline": (_is_deadline, "5.0", "seconds, as in 5.0, or None"),
    "cost": (
        lambda result: type(result) is int and result >= 1,
        "5 if request.method == 'POST' else 1",
        "a whole number of at least 1",
    ),
    "operation": (
        lambda result: isinstance(result, str),
        "request.url.name",
        "text, as request.url.name is",
    ),
}
"""The settings that are functions of a request: what they may return, an example, and its words."""


class QuotaMiddleware(ScopePool):
    """A client middleware that keeps the requests of a session within *quotas*.

    It is used in one event loop, by one session or several.

    Args:
        quotas: all of them apply, to each scope.
        scope: returns the key of a request's scope; by default its origin. With *limits* it
            must be text, the same in all processes.
        quota_key: the requests to one origin share the quota of its clients with this
            `quota_key`; excludes *scope*.
        vendor: name in log lines, events and the store; by default the host. With *quota_key*,
            give the name that the clients have, such as `intouch`.
        priority: returns the priority of a request; by default that of the surrounding
            `call_context`, else interactive.
        deadline: returns the seconds until a request must have its response's headers, the
            wait for its permit included; None for no limit. A request whose turn cannot come
            in time raises `DeadlineExceededError` at once.
        cost: returns how many units of the quotas a request takes, from 1; by default 1.
        operation: returns the name of a request's operation, for quotas with `operations` and
            for events; by default `request`.
        admission: as in `SessionPool`.
        limits: shares the quotas with other processes (`asyncclients.stores`). Close the
            middleware after the session: it is an async context manager.
        listeners: callables that take each event (`asyncclients.core.events`). A request is a
            call with one attempt; its path is left out, since it may hold a credential.

    Raises:
        ConfigurationError: without any quota, or for an argument that cannot be used; and in
            a request for which a function returns something else than described.
    """

    _noun = "quota_middleware"

    def __init__(
        self,
        *quotas: Quota,
        scope: Callable[[aiohttp.ClientRequest], Hashable] | None = None,
        quota_key: str | None = None,
        vendor: str | None = None,
        priority: Callable[[aiohttp.ClientRequest], Priority] | None = None,
        deadline: Callable[[aiohttp.ClientRequest], float | None] | None = None,
        cost: Callable[[aiohttp.ClientRequest], int] | None = None,
        operation: Callable[[aiohttp.ClientRequest], str] | None = None,
        admission: Literal["adaptive", "exact"] = "adaptive",
        limits: LimitStore | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        check_parts(limits=limits, listeners=listeners)
        super().__init__(limits=limits, listeners=callbacks(listeners), admission=admission)
        self._quotas, self._quota_key, self._vendor = quotas, quota_key, vendor
        self._functions: dict[str, Any] = {
            "scope": scope,
            "priority": priority,
            "deadline": deadline,
            "cost": cost,
            "operation": operation,
        }
        self._check()

    def _check(self) -> None:
        """Raise `ConfigurationError` for a setting that cannot be used."""
        if not self._quotas:
            raise ConfigurationError(
                "quota_middleware needs a quota", advice="As in quota_middleware(Quota(2, 1.0))"
            )
        check_quotas(self._quotas, "quota_middleware(Quota(2, 1.0), Quota(100, 60.0))")
        for name, function in self._functions.items():
            if function is not None and (not callable(function) or iscoroutinefunction(function)):
                problem = "a coroutine function" if callable(function) else shown(function)
                raise ConfigurationError(
                    f"{name} must be a function of a request, not {problem}",
                    advice=f"Write it as in {name}=lambda request: {_FUNCTIONS[name][1]}",
                )
        for name, text in (("quota_key", self._quota_key), ("vendor", self._vendor)):
            if text is not None:
                check_text(name, text, f"{name}='acme'")
        if self._functions["scope"] is not None and self._quota_key is not None:
            raise ConfigurationError(
                "quota_middleware takes scope or quota_key, not both",
                advice="Use quota_key to share the quota of a client, else scope",
            )
        if not self._functions["operation"] and any(quota.operations for quota in self._quotas):
            raise ConfigurationError(
                "a quota with operations needs the names of requests",
                advice="Give them as in operation=lambda request: request.url.name",
            )

    def __repr__(self) -> str:
        quotas = ", ".join(str(quota) for quota in self._quotas)
        return f"<quota_middleware {quotas}, {len(self._scopes)} scopes>"

    def __bool__(self) -> Literal[True]:
        return True

    def __len__(self) -> int:
        """Refuse to be taken for a sequence: aiohttp asks `middlewares` for its length."""
        raise ConfigurationError(
            "a quota_middleware was given to aiohttp in place of a sequence of middlewares",
            advice="Write a tuple, with a comma: "
            "ClientSession(middlewares=(quota_middleware(...),))",
        )

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        """Return the response of *handler*, which is called as soon as a permit is granted.

        Raises:
            DeadlineExceededError: before or after the request was sent.
            ClientClosedError: the middleware was closed first.
        """
        scope, context = self._scope(request), current_call_context() or _NO_CONTEXT
        loop = scope.scheduler.loop
        operation: str = self._ask("operation", request, "")
        demand = Demand(self._ask("cost", request, 1), operation, context.share)
        priority: Priority = self._ask("priority", request, context.priority)
        seconds: float | None = self._ask("deadline", request, None)
        permit_request = PermitRequest(
            priority,
            context.flow,
            math.inf if seconds is None else loop.time() + seconds,
            demand=scope.scheduler.limiter.kind_of(demand),
        )
        exchange = _Exchange(scope, permit_request, request, self._listeners)
        return await exchange.run(operation or "request", handler)

    def _ask(self, name: str, request: aiohttp.ClientRequest, default: Any) -> Any:
        """Return what the function *name* returns for *request*; without one, the *default*."""
        if (function := self._functions[name]) is None:
            return default
        result, (may_return, _, form) = function(request), _FUNCTIONS[name]
        if not may_return(result):
            raise _wrong_result(name, result, form)
        return result

    def _scope(self, request: aiohttp.ClientRequest) -> Scope:
        self.bind()
        key: Hashable = self._ask("scope", request, request.url.origin())
        if key not in self._scopes:
            self._scopes[key] = {"": self._new_scope(request, key)}
        return self._scopes[key][""]

    def _new_scope(self, request: aiohttp.ClientRequest, key: Hashable) -> Scope:
        if self._functions["scope"] is None:
            quota_key = None if self._quota_key is None else Secret(self._quota_key)
            name = scope_key(str(request.url.origin()), quota_key)
        elif self._limits is None or isinstance(key, str):
            name = Secret(str(key)).fingerprint()  # one-way: the key may hold a credential
        else:
            raise _wrong_result("scope", key, "text that is the same in all processes")
        return Scope(*self._new_queue(self._vendor or request.url.host or "", name, self._quotas))


quota_middleware = QuotaMiddleware


@dataclass(slots=True, eq=False, repr=False)
class _Exchange:
    """One request and its response."""

    scope: Scope
    permit_request: PermitRequest
    request: aiohttp.ClientRequest
    listeners: tuple[Callback[Any], ...]
    permit: Permit | None = None

    async def run(self, operation: str, handler: Handler) -> aiohttp.ClientResponse:
        """Return the response of *handler*; emits the events of a call with one attempt."""
        call, name = next(call_numbers), None
        started = CallStarted(
            call=call,
            vendor=self.scope.vendor,
            operation=operation,
            method=self.request.method,
            template="",
            origin=str(self.request.url.origin()),
        )
        emit(self.listeners, started)
        deadline_at = self.permit_request.deadline_at
        timeout = asyncio.timeout_at(deadline_at if deadline_at < math.inf else None)
        try:
            async with timeout:
                return await self._send(call, handler)
        except BaseException as failure:
            error = failure
            if timeout.expired() and isinstance(failure, TimeoutError):
                error = self._deadline_error()
            name = type(error).__name__
            if not isinstance(error, AsyncClientsError):
                raise
            raise error.with_facts(vendor=self.scope.vendor, method=self.request.method) from None
        finally:
            attempts = int(self.permit is not None)
            emit(self.listeners, CallEnded(call=call, attempts=attempts, error=name))

    async def _send(self, call: int, handler: Handler) -> aiohttp.ClientResponse:
        scheduler, permit_request = self.scope.scheduler, self.permit_request
        asked_at = scheduler.loop.time()
        permit = None
        if permit_request.deadline_at > asked_at:
            permit = scheduler.try_acquire(permit_request)
        if permit is None:
            permit = await scheduler.acquire(permit_request)
        self.permit = permit
        status = error = None
        try:
            waited = permit.sent_at - asked_at
            emit(self.listeners, AttemptStarted(call=call, attempt=1, waited=waited))
            response = await handler(self.request)
        except BaseException as failure:
            scheduler.on_no_response(permit, was_sent=not never_sent(failure))
            error = type(failure).__name__
            raise
        else:
            status = response.status
            info = parse_rate_limit_headers(status, response.headers)
            scheduler.on_response(permit, info)
        finally:
            scheduler.on_done()
            ended = AttemptEnded(call=call, attempt=1, status=status, error=error, request_id=None)
            emit(self.listeners, ended)
        if info is not None and (info.is_rate_limited or info.unavailable):
            self.scope.events.emit_pause(scheduler, unavailable=info.unavailable)
        return response

    def _deadline_error(self) -> DeadlineExceededError:
        if self.permit is None:
            return self.scope.scheduler.expiry_error(self.permit_request)
        return DeadlineExceededError(
            "was sent and got no response before its deadline", advice="Allow a longer deadline"
        )


def _wrong_result(name: str, result: Any, form: str) -> ConfigurationError:
    if iscoroutine(result):
        result.close()
    is_number = isinstance(result, (int, float)) and name != "scope"  # else it may be a secret
    returned = shown(result) if is_number else f"a value of type {type(result).__name__}"
    return ConfigurationError(
        f"quota_middleware: {name}= returned {returned}", advice=f"Return {form}"
    )
