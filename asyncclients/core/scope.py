"""One origin with one credential: its queue, its connections, its token.

Clients built apart meet here when their origin and credential are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from weakref import ref

import msgspec

from asyncclients.core.attempt_timeouts import AttemptTimeouts
from asyncclients.core.events import logger
from asyncclients.errors import ClientClosedError
from asyncclients.http.session import open_session
from asyncclients.ratelimit.quota import Priority, Quota

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

    from asyncclients.core.tokens import TokenCache
    from asyncclients.ratelimit.scheduler import Scheduler


class ScopeStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one scope was doing at one instant.

    Attributes:
        vendor: its name.
        scope: one-way name of origin and credential.
        quotas: the quotas in force.
        held: slots in use in the fullest quota.
        holds: slots in use, by quota, in the order of *quotas*.
        queued: waiting calls, by priority.
        in_flight: requests on the wire.
        sent: requests put on the wire so far.
        rejected: refusals by rate so far.
        paused_for: seconds until the scope may send again; 0 when not paused.
        external_rate: calls per second that others make on the same quota.
        token_refreshes: access tokens asked for so far.
    """

    vendor: str
    scope: str
    quotas: tuple[Quota, ...]
    held: int
    queued: dict[str, int]
    in_flight: int
    sent: int
    rejected: int
    paused_for: float
    external_rate: float
    token_refreshes: int = 0
    holds: tuple[int, ...] = ()

    @property
    def quota_use(self) -> float:
        """Share of the quota in use, 0 to 1; of the scarcest one where there are several."""
        shares = (held / q.limit for held, q in zip(self.holds, self.quotas, strict=False))
        return max(shares, default=0.0)


class ScopeHandle:
    """One client's way to its scope, which is not evicted while a handle of it lives.

    Args:
        find: finds or makes the scope, on first use.
        check: raises if the pool is closed or belongs to another event loop.
    """

    __slots__ = ("__weakref__", "_check", "_find", "_found")

    def __init__(self, find: Callable[[], Scope], check: Callable[[], object]) -> None:
        self._find, self._check = find, check
        self._found: Scope | None = None

    def __call__(self) -> Scope:
        """The scope."""
        found = self._found
        if found is None:
            found = self._found = self._find()
            found.handles.add(ref(self, found.handles.discard))
        else:
            self._check()
        return found


class Scope:
    """What all clients of one credential share.

    Attributes:
        handles: references to those that live, of the clients that use it.
    """

    def __init__(
        self,
        vendor: str,
        key: str,
        scheduler: Scheduler,
        *,
        borrowed: aiohttp.ClientSession | None = None,
    ) -> None:
        self.vendor, self.key, self.scheduler = vendor, key, scheduler
        self.tokens: TokenCache | None = None
        self.timeouts = AttemptTimeouts()
        self._session = borrowed
        self._own: aiohttp.ClientSession | None = None
        self._closing = asyncio.Event()
        self.handles: set[ref[ScopeHandle]] = set()

    def session(self) -> aiohttp.ClientSession:
        """The session, opened on first use inside the running loop.

        Raises:
            ClientClosedError: after `aclose`.
        """
        if self._session is None:
            self._check_open()
            self._session = self._own = open_session()
        return self._session

    def add_quotas(self, quotas: tuple[Quota, ...], max_in_flight: int | None) -> None:
        """Obey these as well: of two opinions about one key the stricter wins."""
        if max_in_flight is not None:
            self.scheduler.max_in_flight = min(self.scheduler.max_in_flight, max_in_flight)
        news = [quota for quota in quotas if quota not in self.scheduler.limiter.quotas]
        if news:
            logger.warning(
                "%s: two clients of one credential give different quotas; all are kept: %s",
                self.vendor,
                ", ".join(str(q) for q in (*self.scheduler.limiter.quotas, *news)),
            )
        for quota in news:
            self.scheduler.limiter.add(quota, asyncio.get_running_loop().time())

    def stats(self, now: float) -> ScopeStats:
        """A snapshot at loop instant *now*."""
        scheduler = self.scheduler
        state = scheduler.limiter.snapshot(now)
        return ScopeStats(
            vendor=self.vendor,
            scope=self.key,
            quotas=scheduler.limiter.quotas,
            held=state.held,
            holds=state.holds,
            queued=scheduler.queued(),
            in_flight=scheduler.in_flight,
            sent=scheduler.sent,
            rejected=scheduler.rejected,
            paused_for=state.paused_for,
            external_rate=state.external_rate,
            token_refreshes=self.tokens.refreshes if self.tokens else 0,
        )

    def eta(self, calls: int, priority: Priority) -> float:
        """Seconds until *calls* more calls could have been sent."""
        return self.scheduler.eta(calls, priority)

    def is_idle(self, now: float) -> bool:
        """True if no client can use it any more, and nothing in it matters at *now*."""
        if self.handles or (self.tokens is not None and self.tokens.is_refreshing):
            return False
        return self.scheduler.is_idle(now)

    async def pause(self, seconds: float) -> None:
        """Sleep for *seconds*.

        Raises:
            ClientClosedError: as soon as the scope is closed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ClientClosedError("the pool is closed", advice="Make calls before closing it")

    async def aclose(self) -> None:
        """Close what is ours; waiting calls end with `ClientClosedError`. May be repeated."""
        self._closing.set()
        self._session = None
        self.scheduler.fail(
            ClientClosedError(
                "the pool was closed before its turn came",
                advice="Close the pool after its last call; this one was not sent",
            ),
            for_good=True,
        )
        self.timeouts.close()
        try:
            if self.tokens is not None:
                await self.tokens.aclose()
        finally:
            if self._own is not None:
                await self._own.close()
