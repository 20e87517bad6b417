"""The pool, one per event loop: it creates the scopes, evicts idle ones and closes all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Iterator, Sequence
from contextvars import Context
from inspect import iscoroutinefunction
from pathlib import PurePath
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
from yarl import URL

from asyncclients.arguments import PositiveInt, check_seconds, check_type, check_value, kind_of
from asyncclients.core.auth import Login
from asyncclients.core.call import ClientConfig, PoolConfig, ScopeHandle
from asyncclients.core.events import (
    Callback,
    PoolClosed,
    PoolOpened,
    ScopeEvents,
    callbacks,
    emit,
    logger,
)
from asyncclients.core.network import network_arguments
from asyncclients.core.retry import RetryPolicy
from asyncclients.core.scope import Scope, ScopeStats
from asyncclients.core.tokens import (
    TOKEN_OPTIONS,
    TOKEN_RETRY,
    TOKEN_TIMEOUT,
    TokenCache,
    TokenSource,
    TokenStore,
    rotating_key_cache,
)
from asyncclients.errors import ClientClosedError, ConfigurationError, WrongEventLoopError
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.scheduler import InFlightLimit, Scheduler
from asyncclients.ratelimit.timer import IdleSweep, wall_clock
from asyncclients.secret import Secret, sealed

if TYPE_CHECKING:
    import aiohttp

    from asyncclients.core.endpoint import Send
    from asyncclients.core.events import Listener
    from asyncclients.core.vendor import Vendor
    from asyncclients.ratelimit.protocol import LimitStore, SharedLimiterFactory
    from asyncclients.ratelimit.quota import Quota


class ScopePool:
    """Scopes in one event loop: the base of `SessionPool` and of `quota_middleware`.

    It is bound to the event loop of its first use and raises when it is used in another. A
    scope is evicted when it has no client and no quota is affected by its calls any longer.
    """

    _noun = "pool"

    def __init__(
        self,
        *,
        limits: LimitStore | None,
        listeners: tuple[Callback[Any], ...],
        admission: Literal["adaptive", "exact"],
        cold_start: Literal["empty", "full"] = "empty",
        max_connections: int | None = None,
    ) -> None:
        Limiter((), admission=admission, cold_start=cold_start)  # rejects other words
        self._limits, self._listeners = limits, listeners
        self._shared: SharedLimiterFactory | None = None
        self._admission: Literal["adaptive", "exact"] = admission
        self._cold_start: Literal["empty", "full"] = cold_start
        self._in_flight_limit = InFlightLimit(max_connections or math.inf)
        self._scopes: dict[Hashable, dict[str, Scope]] = {}
        """Key of the quota -> one-way name of the credential -> its scope."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = self._ended = False
        self._closing = asyncio.Lock()
        self._eviction: IdleSweep | None = None
        self._evicting: set[asyncio.Task[None]] = set()
        self._opened_at = 0.0

    async def __aenter__(self) -> Self:
        self.bind()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all sessions; waiting calls end with `ClientClosedError`.

        Idempotent. If it is cancelled, another call closes what is still open.

        Raises:
            WrongEventLoopError: from another loop than the one it was used in. Nothing is
                closed then: after a fork the sockets are also the parent's, and the
                parent's selector would forget them.
        """
        if self._ended:
            return
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise self._wrong_loop()
        if not self._closed:
            self._closed = True
            for scope in self._all_scopes():
                scope.closed = True
            if self._loop is not None:
                emit(self._listeners, PoolClosed(stats=self.stats))
        if self._eviction is not None:
            self._eviction.stop()
        async with self._closing:
            if self._evicting:
                await asyncio.wait(self._evicting)
            # All are closed even if one raises; closing one twice does nothing.
            ends = await asyncio.gather(
                *(scope.aclose() for scope in self._all_scopes()), return_exceptions=True
            )
            if self._shared is not None:
                await self._shared.aclose()
            # The loop closes sockets in its next iteration.
            await asyncio.sleep(0)
            self._ended = True
            for end in ends:
                if end is not None:
                    raise end

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the loop of this pool; at first use, the running one.

        Raises:
            ClientClosedError: after `aclose`.
            WrongEventLoopError: another loop is running, or none.
        """
        if self._closed:
            raise ClientClosedError(
                f"the {self._noun} is closed", advice="Make calls before closing it"
            )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongEventLoopError(
                f"the {self._noun} was used outside a running event loop",
                advice="Use it inside a coroutine that asyncio.run() runs",
            ) from None
        if self._loop is None:
            self._loop, self._opened_at = loop, loop.time()
            emit(self._listeners, PoolOpened(stats=self.stats))
        elif loop is not self._loop:
            raise self._wrong_loop()
        return loop

    def _wrong_loop(self) -> WrongEventLoopError:
        return WrongEventLoopError(
            f"the {self._noun} belongs to another event loop",
            advice=f"Make one {type(self).__name__} per event loop: after a fork, in each thread, "
            "and for each asyncio.run()",
        )

    def stats(self) -> tuple[ScopeStats, ...]:
        """Return a snapshot of every scope; one of all credentials with the same quota key."""
        if self._loop is None:
            return ()
        now = self._loop.time()
        groups = ([scope.stats(now) for scope in g.values()] for g in self._scopes.values() if g)
        return tuple(
            msgspec.structs.replace(found[0], token_refreshes=sum(s.token_refreshes for s in found))
            for found in groups
        )

    def _all_scopes(self) -> Iterator[Scope]:
        for group in self._scopes.values():
            yield from group.values()

    def _new_queue(
        self, vendor: str, key: str, quotas: tuple[Quota, ...], max_in_flight: int | None = None
    ) -> tuple[Scheduler, ScopeEvents]:
        """Return the scheduler and the events of a new scope; the sweep for idle ones is started."""
        loop, events = self.bind(), ScopeEvents(self._listeners, vendor, key)
        now, longest = loop.time(), max((quota.period for quota in quotas), default=1.0)
        # A shared store knows what was sent before the start; later it does not matter.
        known = self._limits is not None or now > self._opened_at + longest
        local = Limiter(
            quotas,
            admission=self._admission,
            cold_start="empty" if known else self._cold_start,
            now=now,
            wall_time=wall_clock(loop),
        )
        local.external.on_change = events.on_external_usage
        scheduler = Scheduler(
            local, loop, max_in_flight=max_in_flight, in_flight_limit=self._in_flight_limit
        )
        scheduler.on_long_wait = events.on_long_wait
        if self._limits is not None:
            if self._shared is None:
                self._shared = self._limits.open(assume_spent=self._cold_start == "full")
            scheduler.limiter = self._shared.limiter(
                key, local, scheduler, vendor=vendor, on_control=events.on_control
            )
        if self._eviction is None:
            self._eviction = IdleSweep(loop, self._evict)
        self._eviction.watch(longest)
        return scheduler, events

    def _evict(self, now: float) -> bool:
        """Evict the scopes that are idle at *now*; return True if any scope is left."""
        for key, group in [*self._scopes.items()]:
            for credential, scope in [*group.items()]:
                if scope.is_idle(now, shares_quota=len(group) > 1):
                    text = "%s (scope %.8s): evicted; it has no client"
                    logger.debug(text, scope.vendor, scope.key)
                    del group[credential]
                    self._close_evicted(scope, shares_quota=bool(group))
            if not group:
                del self._scopes[key]
        return bool(self._scopes)

    def _close_evicted(self, scope: Scope, *, shares_quota: bool) -> None:
        if not shares_quota and self._shared is not None:
            self._shared.forget(scope.scheduler.limiter)
        # In an empty context: the timer has the context of the call that started it.
        closing = scope.aclose(shares_quota=shares_quota)
        task = asyncio.get_running_loop().create_task(closing, context=Context())
        self._evicting.add(task)
        task.add_done_callback(self._closed_evicted)

    def _closed_evicted(self, task: asyncio.Task[None]) -> None:
        self._evicting.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            logger.warning("an evicted scope failed to close: %s", type(failure).__name__)


class SessionPool(ScopePool):
    """Sends the calls of all clients, each scope within its quota.

    Args:
        session: an `aiohttp.ClientSession` to borrow; it is never closed here.
            Without one, each credential gets a session of its own.
        max_connections: requests in flight at the same time, over all scopes.
        timeout: seconds for one attempt, from its permit to the end of its response.
        retry: how often and how long calls are retried.
        limits: shares quotas with other processes (`asyncclients.stores`).
        tokens: shares access tokens with other processes (`asyncclients.stores`).
        max_response_bytes: decompressed size above which a response is rejected.
        admission: `adaptive` learns how tightly calls may follow each other;
            `exact` never causes a 429 on a server that counts by window.
        cold_start: `empty` assumes that nothing was sent before the start, `full` that
            the quotas are used up.
        listeners: callables that take each event (`asyncclients.core.events`).
        ssl: a context with the trusted authorities and a client certificate, for the
            vendors and for a proxy by https; None for the authorities of the system.
        proxy: URL of a forward proxy, `http://` or `https://`, with its user and password
            if it needs them. The environment is not read. Requests by https use it, those
            by http to a loopback address do not.
            Both also apply to access tokens, uploads and a borrowed session.
        validate: check the constraints that a vendor's manual documents, such as the length
            of a text, before anything is sent. Types are always checked.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        max_connections: int = 100,
        timeout: float = 60.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        limits: LimitStore | None = None,
        tokens: TokenStore | None = None,
        max_response_bytes: int = 64 * 2**20,
        admission: Literal["adaptive", "exact"] = "adaptive",
        cold_start: Literal["empty", "full"] = "empty",
        listeners: Sequence[Listener] = (),
        ssl: SSLContext | None = None,
        proxy: str | Secret | None = None,
        validate: bool = True,
    ) -> None:
        proxy = sealed(proxy)
        check_value("max_connections", max_connections, PositiveInt)
        check_value("max_response_bytes", max_response_bytes, PositiveInt)
        check_seconds("timeout", timeout)
        check_type("validate", validate, bool, "validate=False")
        check_type("retry", retry, RetryPolicy, "retry=RetryPolicy(max_attempts=3)")
        check_parts(session=session, limits=limits, tokens=tokens, listeners=listeners)
        super().__init__(
            limits=limits,
            listeners=callbacks(listeners),
            admission=admission,
            cold_start=cold_start,
            max_connections=max_connections,
        )
        self.config = PoolConfig(
            timeout=timeout,
            retry=retry,
            max_response_bytes=max_response_bytes,
            validate=validate,
            listeners=self._listeners,
        )
        self._network = network_arguments(ssl, proxy)
        self._session, self._tokens = session, tokens

    if not TYPE_CHECKING:  # type checkers report `with` by themselves

        def __enter__(self) -> None:
            """Raise `TypeError`: a pool needs `async with`."""
            raise TypeError("a SessionPool needs `async with SessionPool() as pool:`")

        def __exit__(self, *_: object) -> None:
            """Never called."""

    def handle(
        self,
        vendor: Vendor,
        base_url: str,
        login: Login | None,
        quotas: tuple[Quota, ...],
        max_in_flight: int | None,
        *,
        quota_key: str | None = None,
    ) -> ScopeHandle:
        """Return a handle of the scope of *login* at *base_url*, which is created at first use.

        Scopes of the same origin and *quota_key* have one scheduler; None is a key of *login*.
        """
        credential = scope_key(base_url, login)
        key = credential if quota_key is None else scope_key(base_url, Secret(quota_key))

        def find() -> Scope:
            self._check_session(self.bind())
            group = self._scopes.setdefault(key, {})
            if (other := next(iter(group.values()), None)) is not None:
                other.add_quotas(quotas, max_in_flight)
            scope = group.get(credential)
            if scope is None:
                if other is None:
                    scheduler, events = self._new_queue(vendor.name, key, quotas, max_in_flight)
                else:
                    scheduler, events = other.scheduler, other.events
                # Without a login the headers of a borrowed session must not be sent either.
                borrowed = None if login is None else self._session
                network = self._network if base_url.startswith("https:") else None
                scope = Scope(scheduler, events, borrowed=borrowed, network=network)
                group[credential] = scope
            if scope.tokens is None and login is not None:
                # Another client with this credential may have been created without a function.
                scope.tokens = self._token_cache(scope, vendor, login, base_url)
            return scope

        return ScopeHandle(find, self.bind, lambda: self._loop)

    def _token_cache(
        self, scope: Scope, vendor: Vendor, login: Login, base_url: str
    ) -> TokenCache | None:
        if login.token_path is None:
            if login.renew is None:
                return None
            return rotating_key_cache(login, vendor.name, vendor.rejects_key)
        pool = msgspec.structs.replace(self.config, retry=TOKEN_RETRY, timeout=TOKEN_TIMEOUT)

        def send_as(login: Login) -> Send:
            return ClientConfig(
                scope=lambda: scope,
                vendor=vendor,
                login=msgspec.structs.replace(login, token_path=None, renew=None),
                base_url=base_url,
                pool=pool,
                options=TOKEN_OPTIONS,
            ).send

        source = TokenSource(send_as, login, vendor.name, self._listeners)
        key = f"{vendor.name}:{scope_key(base_url, login)}"
        return TokenCache(key, source.fetch, self._tokens)

    def _check_session(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._session is not None and getattr(self._session, "_loop", loop) is not loop:
            raise WrongEventLoopError(
                "the session lent to the pool belongs to another event loop",
                advice="Make the ClientSession inside the coroutine that asyncio.run() runs",
            )


def check_parts(
    *, session: Any = None, limits: Any = None, tokens: Any = None, listeners: Any = ()
) -> None:
    """Check that each part has its methods. Errors show types only: a URL may hold a password."""
    parts = (
        ("session", session, ("request",), "session=aiohttp.ClientSession()"),
        ("limits", limits, ("open",), "limits=RedisLimits(url) or limits=FileLimits(path)"),
        ("tokens", tokens, ("load", "save"), "tokens=RedisTokens(url) or tokens=FileTokens(path)"),
    )
    for name, part, methods, form in parts:
        has_all = all(callable(getattr(part, method, None)) for method in methods)
        if part is not None and (isinstance(part, (type, PurePath)) or not has_all):
            raise ConfigurationError(
                f"{name} cannot be {kind_of(part)}", advice=f"Write it as in {form}"
            )
    functions = listeners if issubclass(type(listeners), Sequence) else (None,)
    if not all(callable(one) and not iscoroutinefunction(one) for one in functions):
        raise ConfigurationError(
            "listeners must be a sequence of functions, and none a coroutine function",
            advice="Write it as in listeners=[print]",
        )


def scope_key(base_url: str, login: Login | Secret | None) -> str:
    """Return a one-way name of origin and *login* or key, the same in every process."""
    origin = str(URL(base_url).origin())
    if login is None:
        return Secret(origin).fingerprint()
    return (login if isinstance(login, Secret) else login.value).fingerprint(origin)
