"""One origin with one credential: its queue, connections and access token.

Clients with the same origin and credential share a scope, however they were created. Scopes
of one quota key share the queue, which is the `Scheduler`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from weakref import ref

import msgspec

from asyncclients.core.events import ScopeEvents, logger
from asyncclients.core.session import middlewares_of, open_session, reuse_clean_connections
from asyncclients.core.transport import Channel
from asyncclients.errors import ClientClosedError
from asyncclients.ratelimit.control import OperatorPause, OperatorQuotas
from asyncclients.ratelimit.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import aiohttp

    from asyncclients.core.tokens import TokenCache
    from asyncclients.ratelimit.scheduler import Scheduler


class ScopeStats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of one scope.

    Attributes:
        scope: one-way name of origin and credential, or of origin and quota key.
        quotas: the quotas in force.
        held: slots in use in the fullest quota.
        holds: slots in use, by quota, in the order of *quotas*.
        queued: waiting calls by priority.
        in_flight: requests on the wire.
        sent: requests sent so far.
        sent_background: those of them for background calls.
        rejected: requests that the vendor rate-limited so far.
        paused_for: seconds until the scope may send again, after a pause of the vendor or of an
            operator; 0 when not paused.
        external_rate: calls per second of other clients on the same quota.
        token_refreshes: access tokens requested so far.
        waiting_for: calls that wait for a calendar quota, a quota of their operations or their
            share, by what they wait for, as in `{"share 0.6 of 100 per 60 s": 12}`.
        has_unexplained_rejections: the vendor rejects calls although the quota is kept. Another
            program uses the same key, or the vendor allows less than the quota.
        operator_pause: the pause that an operator has set for all processes
            (`asyncclients.stores.LimitsControl`); None without one.
        operator_quotas: the quotas that an operator has set; None if the configured ones apply.
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
    sent_background: int = 0
    holds: tuple[int, ...] = ()
    has_unexplained_rejections: bool = False
    waiting_for: dict[str, int] = {}
    operator_pause: OperatorPause | None = None
    operator_quotas: OperatorQuotas | None = None

    @property
    def quota_use(self) -> float:
        """Share of the fullest quota in use, 0 to 1."""
        shares = (held / q.limit for held, q in zip(self.holds, self.quotas, strict=False))
        return max(shares, default=0.0)


class Scope(Channel):
    """Queue, session and access token of one credential at one origin.

    *key* is the one-way name of origin and credential, or of origin and quota key; *handles*
    are weak references to the handles of the clients that use the scope.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        events: ScopeEvents,
        *,
        borrowed: aiohttp.ClientSession | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scheduler, network)
        self.vendor, self.key, self.events = events.vendor, events.scope, events
        self.tokens: TokenCache | None = None
        self.closed = False
        self.handles: set[ref[object]] = set()
        self._borrowed = borrowed
        self._own: aiohttp.ClientSession | None = None
        self._closing = asyncio.Event()

    def open(self) -> aiohttp.ClientSession:
        """Return the session, opened at first use; raises `ClientClosedError` after `aclose`."""
        self._check_open()
        if self._borrowed is not None:
            self.session = self._borrowed
            self.outer, self.inner = middlewares_of(self.session), (reuse_clean_connections,)
        else:
            self.session = self._own = open_session()
        return self.session

    def add_quotas(self, quotas: tuple[Quota, ...], max_in_flight: int | None) -> None:
        """Apply *quotas* as well, and the lower of two limits of requests in flight."""
        if max_in_flight is not None:
            self.scheduler.max_in_flight = min(self.scheduler.max_in_flight, max_in_flight)
        configured = self.scheduler.limiter.configured
        added = [quota for quota in quotas if quota not in configured]
        if added:
            logger.warning(
                "%s: two clients of one quota have different settings; all of them apply: %s",
                self.vendor,
                ", ".join(str(q) for q in (*configured, *added)),
            )
        for quota in added:
            self.scheduler.limiter.add(quota, asyncio.get_running_loop().time())

    def stats(self, now: float) -> ScopeStats:
        """Return a snapshot at loop time *now*."""
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
            sent_background=scheduler.sent_background,
            rejected=scheduler.rejected,
            paused_for=max(state.paused_for, state.held_for),
            external_rate=state.external_rate,
            token_refreshes=self.tokens.refreshes if self.tokens else 0,
            has_unexplained_rejections=scheduler.has_unexplained_rejections,
            waiting_for=scheduler.waiting_for(now),
            operator_pause=state.control.pause,
            operator_quotas=state.control.quotas,
        )

    def is_idle(self, now: float, *, shares_quota: bool) -> bool:
        """Return True if no client is left and no quota is forgotten with it at loop time *now*."""
        if self.handles or (self.tokens is not None and self.tokens.is_refreshing):
            return False
        return shares_quota or self.scheduler.is_idle(now)

    async def pause(self, seconds: float) -> None:
        """Sleep for *seconds*; raises `ClientClosedError` as soon as the scope is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ClientClosedError("the pool is closed", advice="Make calls before closing it")

    async def aclose(self, *, shares_quota: bool = False) -> None:
        """Close the own session; waiting calls raise `ClientClosedError`. Idempotent.

        With *shares_quota*, other scopes still use the scheduler, which stays open.
        """
        self.closed, self.session = True, None
        self._closing.set()
        if not shares_quota:
            self.scheduler.close(
                ClientClosedError(
                    "the pool was closed before the call got a permit",
                    advice="Close the pool after its last call; this one was not sent",
                ),
            )
        self.timeouts.close()
        try:
            if self.tokens is not None:
                await self.tokens.aclose()
        finally:
            if self._own is not None:
                await self._own.close()
