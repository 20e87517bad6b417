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
from inspect import iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
from asyncclients.errors import (
    AsyncClientsError,
    ConfigurationError,
    DeadlineExceededError,
)
from asyncclients.ratelimit.headers import parse_rate_limit_headers
from asyncclients.ratelimit.quota import ONE, Demand, Priority, Quota, check_quotas
from asyncclients.ratelimit.scheduler import PermitRequest
from asyncclients.secret import Secret

if TYPE_CHECKING:
    import aiohttp

    from asyncclients.core.events import Listener
    from asyncclients.ratelimit.protocol import LimitStore
    from asyncclients.ratelimit.slots import Permit

    Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]

_FUNCTIONS = {
    "scope": "request.url.host",
    "priority": "Priority.BACKGROUND",
    "deadline": "5.0",
    "cost": "5 if request.method == 'POST' else 1",
    "operation": "request.url.name",
}
"""The settings that are functions of a request, with an example of their results."""
_NO_CONTEXT = CallContext(Priority.INTERACTIVE, None)


def quota_middleware(
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
) -> QuotaMiddleware:
    """Return a client middleware that keeps the requests of a session within *quotas*.

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
    check_parts(limits=limits, listeners=listeners)
    settings = _Settings(
        quotas, scope, quota_key, vendor, priority, deadline, cost, operation, admission, limits,
        callbacks(listeners),
    )  # fmt: skip
    settings.check()
    return QuotaMiddleware(settings)


class _Settings(NamedTuple):
    """The arguments of `quota_middleware`."""

    quotas: tuple[Quota, ...]
    scope: Callable[[aiohttp.ClientRequest], Hashable] | None
    quota_key: str | None
    vendor: str | None
    priority: Callable[[aiohttp.ClientRequest], Priority] | None
    deadline: Callable[[aiohttp.ClientRequest], float | None] | None
    cost: Callable[[aiohttp.ClientRequest], int] | None
    operation: Callable[[aiohttp.ClientRequest], str] | None
    admission: Literal["adaptive", "exact"]
    limits: LimitStore | None
    listeners: tuple[Callback[Any], ...]

    def check(self) -> None:
        """Raise `ConfigurationError` for a setting that cannot be used."""
        if not self.quotas:
            raise ConfigurationError(
                "quota_middleware needs a quota", advice="As in quota_middleware(Quota(2, 1.0))"
            )
        check_quotas(self.quotas, "quota_middleware(Quota(2, 1.0), Quota(100, 60.0))")
        for name, form in _FUNCTIONS.items():
            _check_function(name, getattr(self, name), f"{name}=lambda request: {form}")
        for name, text in (("quota_key", self.quota_key), ("vendor", self.vendor)):
            if text is not None:
                check_text(name, text, f"{name}='acme'")
        if self.scope is not None and self.quota_key is not None:
            raise ConfigurationError(
                "quota_middleware takes scope or quota_key, not both",
                advice="Use quota_key to share the quota of a client, else scope",
            )
        if self.operation is None and any(quota.operations for quota in self.quotas):
            raise ConfigurationError(
                "a quota with operations needs the names of requests",
                advice=f"Give them as in operation=lambda request: {_FUNCTIONS['operation']}",
            )


class QuotaMiddleware(ScopePool):
    """The result of `quota_middleware`; used in one event loop, by one session or several."""

    _noun = "quota_middleware"

    def __init__(self, settings: _Settings) -> None:
        super().__init__(
            limits=settings.limits, listeners=settings.listeners, admission=settings.admission
        )
        self._settings = settings

    def __repr__(self) -> str:
        quotas = ", ".join(str(quota) for quota in self._settings.quotas)
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

    # --- Scopes ---------------------------------------------------------------------

    def _scope(self, request: aiohttp.ClientRequest) -> Scope:
        self.bind()
        scope_of = self._settings.scope
        key = request.url.origin() if scope_of is None else scope_of(request)
        try:
            group = self._scopes.get(key)
        except TypeError:  # it cannot be hashed
            raise _wrong_result("scope", key, "a hashable key, as request.url.host is") from None
        if group is None:
            if isinstance(key, Awaitable):
                raise _wrong_result("scope", key, "a hashable key, as request.url.host is")
            group = self._scopes[key] = {"": self._new_scope(request, key)}
        return group[""]

    def _new_scope(self, request: aiohttp.ClientRequest, key: Hashable) -> Scope:
        settings = self._settings
        vendor = settings.vendor or request.url.host or ""
        if settings.scope is None:
            quota_key = None if settings.quota_key is None else Secret(settings.quota_key)
            name = scope_key(str(request.url.origin()), quota_key)
        elif settings.limits is None or isinstance(key, str):
            name = Secret(str(key)).fingerprint()  # one-way: the key may hold a credential
        else:
            raise _wrong_result("scope", key, "text that is the same in all processes")
        return Scope(*self._new_queue(vendor, name, settings.quotas))

    # --- Requests -------------------------------------------------------------------

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: Handler
    ) -> aiohttp.ClientResponse:
        scope = self._scope(request)
        demand = self._demand(request)
        permit_request = self._permit_request(request, scope.scheduler.limiter.kind_of(demand))
        exchange = _Exchange(scope, permit_request, request, self._listeners)
        if not self._listeners:
            return await exchange.run(handler)
        exchange.on_start(demand.operation or "request")
        try:
            response = await exchange.run(handler)
        except BaseException as error:
            exchange.on_end(error)
            raise
        exchange.on_end(None)
        return response

    def _demand(self, request: aiohttp.ClientRequest) -> Demand:
        settings, share = self._settings, (current_call_context() or _NO_CONTEXT).share
        if settings.cost is None and settings.operation is None and share is None:
            return ONE
        cost: Any = 1 if settings.cost is None else settings.cost(request)
        if type(cost) is not int or cost < 1:
            raise _wrong_result("cost", cost, "a whole number of at least 1")
        operation: Any = "" if settings.operation is None else settings.operation(request)
        if not isinstance(operation, str):
            raise _wrong_result("operation", operation, "text, as request.url.name is")
        return Demand(cost, operation, share)

    def _permit_request(self, request: aiohttp.ClientRequest, demand: Demand) -> PermitRequest:
        settings, context = self._settings, current_call_context() or _NO_CONTEXT
        priority, deadline_at = context.priority, math.inf
        if settings.priority is not None:
            priority = settings.priority(request)
            if type(priority) is not Priority:
                raise _wrong_result("priority", priority, "a Priority, as in Priority.BACKGROUND")
        seconds: Any = None if settings.deadline is None else settings.deadline(request)
        if seconds is not None:
            is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if not is_number or math.isnan(seconds):
                raise _wrong_result("deadline", seconds, "seconds, as in 5.0, or None")
            deadline_at = asyncio.get_running_loop().time() + seconds
        return PermitRequest(priority, context.flow, deadline_at, demand=demand)


class _Exchange:
    """One request and its response.

    Args:
        scope: the scope of the request.
        permit_request: its place in the queue.
        request: the request.
        listeners: get its events.
    """

    __slots__ = ("_asked_at", "_listeners", "_number", "_permit", "_permit_request", "_request",
                 "_scope")  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        permit_request: PermitRequest,
        request: aiohttp.ClientRequest,
        listeners: tuple[Callback[Any], ...],
    ) -> None:
        self._scope, self._permit_request = scope, permit_request
        self._request, self._listeners = request, listeners
        self._permit: Permit | None = None
        self._asked_at = 0.0
        self._number = 0

    async def run(self, handler: Handler) -> aiohttp.ClientResponse:
        """Return the response of *handler*, which is called as soon as a permit is granted.

        Raises:
            DeadlineExceededError: before or after the request was sent.
            ClientClosedError: the middleware was closed first.
        """
        deadline_at = self._permit_request.deadline_at
        timeout = asyncio.timeout_at(deadline_at if deadline_at < math.inf else None)
        try:
            async with timeout:
                self._permit = permit = await self._acquire()
                return await self._send(permit, handler)
        except AsyncClientsError as error:
            raise error.with_facts(vendor=self._scope.vendor, method=self._request.method) from None
        except TimeoutError:
            if not timeout.expired():
                raise
            raise self._deadline_error() from None

    async def _acquire(self) -> Permit:
        scheduler, request = self._scope.scheduler, self._permit_request
        if request.deadline_at > scheduler.loop.time():
            permit = scheduler.try_acquire(request)
            if permit is not None:
                return permit
        return await scheduler.acquire(request)

    async def _send(self, permit: Permit, handler: Handler) -> aiohttp.ClientResponse:
        scheduler = self._scope.scheduler
        try:
            if self._listeners:
                waited = permit.sent_at - self._asked_at
                event = AttemptStarted(call=self._number, attempt=1, waited=waited)
                emit(self._listeners, event)
            response = await handler(self._request)
        except BaseException as failure:
            if never_sent(failure):
                scheduler.cancel(permit, self._permit_request.priority)
            else:
                scheduler.on_no_response(permit)
            self._on_outcome(None, type(failure).__name__)
            raise
        else:
            info = parse_rate_limit_headers(response.status, response.headers)
            scheduler.on_response(permit, info)
            self._on_outcome(response.status, None)
            if info is not None and (info.is_rate_limited or info.unavailable):
                self._scope.events.on_pause(scheduler, unavailable=info.unavailable)
            return response
        finally:
            scheduler.on_done()

    def _deadline_error(self) -> DeadlineExceededError:
        if self._permit is None:
            error = self._scope.scheduler.expiry_error(self._permit_request)
        else:
            error = DeadlineExceededError(
                "was sent and got no response before its deadline", advice="Allow a longer deadline"
            )
        return error.with_facts(vendor=self._scope.vendor, method=self._request.method)

    # --- Events ---------------------------------------------------------------------

    def on_start(self, operation: str) -> None:
        """The request, named *operation*, enters the queue."""
        self._number, self._asked_at = next(call_numbers), self._scope.scheduler.loop.time()
        request = self._request
        event = CallStarted(
            call=self._number,
            vendor=self._scope.vendor,
            operation=operation,
            method=request.method,
            template="",
            origin=str(request.url.origin()),
        )
        emit(self._listeners, event)

    def _on_outcome(self, status: int | None, error: str | None) -> None:
        if self._listeners:
            event = AttemptEnded(
                call=self._number, attempt=1, status=status, error=error, request_id=None
            )
            emit(self._listeners, event)

    def on_end(self, error: BaseException | None) -> None:
        """The request has its response's headers, or raises *error*."""
        attempts = int(self._permit is not None)
        name = None if error is None else type(error).__name__
        emit(self._listeners, CallEnded(call=self._number, attempts=attempts, error=name))


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
    is_number = isinstance(result, (int, float)) and name != "scope"  # else it may be a secret
    returned = shown(result) if is_number else f"a value of type {type(result).__name__}"
    return ConfigurationError(
        f"quota_middleware: {name}= returned {returned}",
        advice=f"Return {form}",
    )
