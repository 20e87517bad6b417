"""Outages of a store: when one begins, what may be sent in it, and what is logged.

`when_down="local"` applies the process's own limiter only: with N processes, up to N times
the quota. `"pause"` sends nothing. `"safe_share"` sends this process's share, so that all
processes together keep the quota without communicating:

* First the process waits until every slot granted before is over, a period and a lease, and
  until the store counts it as overdue: a heartbeat, 1 to 2 s, and a quarter of a second.
* Its share is the block of the quota that the store assigned last (`shares.py`). Blocks never
  overlap, whatever each process knows about the others.
* A block of 1/2^k is that part of each window, if it is at least one call. It is enforced by
  a limiter of its own with exact admission.
* Below one call, the processes whose blocks lie in the same slot take turns on the store's
  clock. A turn lasts a period plus slack for clock errors and latency.
* The part of a share of a quota, and of a quota of some operations, is computed in the same
  way. Calls whose part is below one call, or that cost more than it, wait for the store.
* A calendar quota counts as spent until its window ends: nobody knows what is left of it.
* A process without a block sends nothing: it joined just before the outage, when the quota
  was divided among others, and none of them had asked since. A process that was suspended for
  longer than `TTL` sends nothing either, because its block may have been reassigned.

A process that alone loses the connection, while the store serves the others, cannot detect
this. `pause` is the safe mode there.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from asyncclients.core.events import logger
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.limiter import Limiter
from asyncclients.ratelimit.quota import ONE, Demand
from asyncclients.ratelimit.timer import system_time
from asyncclients.stores.clock import SECOND
from asyncclients.stores.config import scope_name
from asyncclients.stores.protocol import (
    PROBE_INTERVAL,
    SEND_GRACE,
    LeaseRequest,
    LeaseResponse,
    StoreUnavailableError,
)
from asyncclients.stores.shares import UNIT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncclients.ratelimit.quota import Quota, Share
    from asyncclients.ratelimit.slots import Permit
    from asyncclients.stores.clock import StoreClock
    from asyncclients.stores.config import StoreConfig

_OWN_LIMIT = "this process obeys its own limit only"
_TURN_SLACK = 0.175
"""Seconds by which a turn is longer than a period."""
_TURN_USE = 0.05
"""Seconds from its start within which a turn may be used."""
_HEARTBEAT_SLACK = 0.25
"""Allowed delay of a heartbeat in seconds, as in `quota_log.py`."""
_TICK = 1e-6
"""Seconds by which a timer may be early."""
_LOG_INTERVAL = 150.0
"""Seconds in which all scopes notice a reset of the store: longer than the longest heartbeat."""


# --- What may be sent -------------------------------------------------------------------


class FallbackPolicy:
    """The limit in an outage. This one delays each call by *wait* seconds, 0 or infinity.

    *description* is for the log.
    """

    def __init__(self, description: str, wait: float = math.inf) -> None:
        self.description, self._wait = description, wait

    def next_permit_at(self, now: float, demand: Demand = ONE) -> float:
        """Return when a call of *demand* may be sent; infinity if it waits for the store."""
        del demand
        return now + self._wait

    def acquire(self, permit: Permit, now: float, demand: Demand = ONE) -> None:
        """Count the call of *permit*."""

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        """Record that the call of *permit* arrived by *now*, or was not *sent*."""


class StaticShare(FallbackPolicy):
    """A part of each quota, and of each share of one, starting with a spent window.

    It is *size*, of `UNIT` in total, and is used from loop instant *start* on. *members* says for
    the log which part it is, as in "1 of 4 processes".
    """

    def __init__(
        self,
        members: str,
        quotas: Sequence[Quota],
        size: int,
        start: float,
        wall_time: Callable[[float], float],
    ) -> None:
        self._quotas, self._size, self._start, self._wall_time = quotas, size, start, wall_time
        self._limiters: dict[Share | None, tuple[Limiter, list[Quota]]] = {}
        self._permits: dict[int, list[tuple[Limiter, Permit]]] = {}
        parts = " and ".join(str(quota) for quota in self._limiter(None)[0].quotas)
        super().__init__(f"{members}, {parts or 'nothing'}")

    def _limiter(self, share: Share | None) -> tuple[Limiter, list[Quota]]:
        """Return the limiter for calls of *share*, and the quotas whose part is below one call."""
        if share not in self._limiters:
            whole = [quota if share is None else share.of(quota) for quota in self._quotas]
            parts = [(quota, quota.limit * self._size // UNIT) for quota in whole]
            self._limiters[share] = (
                Limiter(
                    [replace(quota, limit=limit) for quota, limit in parts if limit],
                    admission="exact",
                    cold_start="full",
                    now=self._start,
                    wall_time=self._wall_time,
                ),
                [quota for quota, limit in parts if not limit],
            )
        return self._limiters[share]

    def _limiters_of(self, demand: Demand) -> list[tuple[Limiter, Demand]]:
        """Return the limiters that apply, each with what the call takes; none if it must wait."""
        found: list[tuple[Limiter, Demand]] = []
        for share in dict.fromkeys((None, demand.share)):
            limiter, without_part = self._limiter(share)
            if any(quota.applies_to(demand.operation) for quota in without_part):
                return []
            try:
                kind = limiter.kind_of(Demand(demand.cost, demand.operation))
            except ConfigurationError:  # it costs more than the part
                return []
            found.append((limiter, kind))
        return found

    def next_permit_at(self, now: float, demand: Demand = ONE) -> float:
        limiters = self._limiters_of(demand)
        openings = [limiter.next_permit_at(now, demand=kind) for limiter, kind in limiters]
        return max(openings, default=math.inf)

    def acquire(self, permit: Permit, now: float, demand: Demand = ONE) -> None:
        self._permits[permit.number] = [
            (limiter, limiter.acquire(now, kind)) for limiter, kind in self._limiters_of(demand)
        ]

    def settle(self, permit: Permit, now: float, *, sent: bool) -> None:
        for limiter, own in self._permits.pop(permit.number, ()):
            limiter.on_no_response(own, now, was_sent=sent)


class TimeSlots(FallbackPolicy):
    """One call in each turn of this process, on the store's clock, from *start* on.

    A turn lasts *length* seconds, and *index* is its number in a round of *count* turns.
    """

    def __init__(
        self,
        members: str,
        clock: StoreClock,
        length: float,
        count: int,
        index: int,
        *,
        start: float,
    ) -> None:
        self.length, self._count, self._index = length, count, index
        self._usable_for = min(_TURN_USE, length / 4)
        self._clock, self._not_before = clock, start
        super().__init__(f"{members}, 1 per {length * count:g} s")

    def next_permit_at(self, now: float, demand: Demand = ONE) -> float:
        if demand is not ONE:  # it takes more than one slot of the quotas of all calls
            return math.inf
        at = max(now, self._not_before)
        time = self._clock.store_time(at)
        turn = math.floor(time / self.length)
        wait = (self._index - turn) % self._count
        if wait == 0:
            if time - turn * self.length <= self._usable_for:
                return at
            wait = self._count
        return at + (turn + wait) * self.length - time

    def acquire(self, permit: Permit, now: float, demand: Demand = ONE) -> None:
        del permit, demand
        self._not_before = now + self.length  # the next turn is a round later


def fallback_policy(
    quotas: Sequence[Quota],
    last: LeaseResponse,
    clock: StoreClock,
    leases_end: float,
    wall_time: Callable[[float], float] = system_time,
) -> FallbackPolicy:
    """Return the share of one process by the *last* response; earlier slots end at *leases_end*."""
    if not last.size:
        return FallbackPolicy("nothing is sent, since this process was not given a share")
    if not quotas:
        return FallbackPolicy(_OWN_LIMIT, 0.0)
    size, members = last.size, f"1 of {last.member_count} processes"
    sliding = [quota for quota in quotas if not quota.unit and not quota.operations]
    if all(quota.limit * size >= UNIT for quota in sliding):
        return StaticShare(members, quotas, size, leases_end, wall_time)
    if any(quota.unit and not quota.operations for quota in quotas):
        return FallbackPolicy(
            "nothing is sent, since nobody knows what is left of the calendar quota"
        )
    slots = 1 << (min(quota.limit for quota in sliding).bit_length() - 1)
    slot = UNIT // slots  # the smallest block that is a slot of every quota
    count = slot // size
    return TimeSlots(
        members,
        clock,
        max((quota.period + _TURN_SLACK) / (quota.limit // slots) for quota in sliding),
        count,
        _reverse_bits(last.start % slot // size, count),
        start=leases_end + max(quota.period for quota in sliding),
    )


def _reverse_bits(index: int, count: int) -> int:
    """Return *index* with its bits reversed, so that the two halves of a block alternate."""
    bits = count.bit_length() - 1
    return int(f"{index:0{bits}b}"[::-1], 2) if bits else 0


# --- When an outage begins and ends -----------------------------------------------------


class OutageState:
    """The failed requests of one scope.

    The first failure may be a stale connection: the request is retried at once. The second
    begins an outage, which ends with the first response.

    The first process that returns to the store may be one that has noticed nothing. The store
    grants it nothing at first if another member is overdue (`quota_log.py`). So this process
    uses its share only after a request has failed that was sent when it was overdue itself.

    Attributes:
        failures: consecutive failed requests.
        fallback: the limit in the outage; None while there is none.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._failed_at = -math.inf
        self._overdue_at = -math.inf  # the store counts this process as overdue from then on
        self._is_overdue = False  # a request failed that was sent after that
        self.failures = 0
        self.fallback: FallbackPolicy | None = None

    def recently_probed(self, now: float) -> bool:
        """Return whether the store failed to respond so recently that asking again is useless."""
        return now < self._failed_at + PROBE_INTERVAL + 2 * self._config.timeout

    def probe_at(self) -> float:
        """Return the instant of the next attempt; infinity while the store responds."""
        if not self.failures:
            return math.inf
        if self.failures == 1:
            return self._failed_at
        probe_at = self._failed_at + PROBE_INTERVAL
        return (
            probe_at if self._is_overdue else min(probe_at, max(self._overdue_at, self._failed_at))
        )

    def on_failure(self, sent_at: float, now: float, due_at: float) -> bool:
        """Count a request sent at *sent_at* that failed; return whether it is an outage.

        The store expects the next request by *due_at*, even if it has applied this one.
        """
        if not self.failures:
            self._overdue_at = due_at + _HEARTBEAT_SLACK
        self._is_overdue = self._config.when_down == "local" or sent_at >= self._overdue_at - _TICK
        self._failed_at = now
        self.failures += 1
        return self.failures > 1

    def next_permit_at(self, now: float, demand: Demand = ONE) -> float:
        """Return when the fallback permits a call; infinity until a request shows that it may."""
        if self.fallback is None:
            return now
        permit_at = self.fallback.next_permit_at(now, demand)
        if self._is_overdue:
            return permit_at
        return max(permit_at, self._overdue_at) if now < self._overdue_at else math.inf

    def start(
        self,
        now: float,
        quotas: Sequence[Quota],
        last: LeaseResponse,
        clock: StoreClock,
        wall_time: Callable[[float], float] = system_time,
    ) -> FallbackPolicy:
        """Begin an outage; return what may be sent in it, with the block of the *last* response."""
        if self._config.when_down == "local":
            self.fallback = FallbackPolicy(_OWN_LIMIT, 0.0)
        elif self._config.when_down == "pause":
            self.fallback = FallbackPolicy("nothing is sent")
        else:
            leases_end = now + self._config.lease + SEND_GRACE
            self.fallback = fallback_policy(quotas, last, clock, leases_end, wall_time)
        return self.fallback

    def stop(self) -> None:
        """End the outage."""
        self.fallback = None
        self.failures = 0

    def others_may_be_sending(self, now: float, shares_from: float) -> bool:
        """Return whether others may send by themselves until they notice that the store is back.

        *shares_from* is the earliest instant at which a share can have been used.
        """
        if self.fallback is None or self._config.when_down == "pause":
            return False
        return self._config.when_down == "local" or now > shares_from


# --- What is logged ---------------------------------------------------------------------


class OutageLog:
    """The scopes of one pool on one store. Logs each event once, not once per scope.

    Attributes:
        vendors: the vendor of each scope.
        has_worked: the store has responded to a scope of the pool.
        failed_at: loop instant of the last failed request.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self.vendors: dict[str, str] = {}
        self.has_worked = False
        self.failed_at = self._recovered_at = -math.inf
        self._down_since: float | None = None
        self._logged_at: dict[str, float] = {}

    def vendor(self, key: str) -> str:
        """Return the vendor of scope *key*; empty if it is unknown."""
        return self.vendors.get(key, "")

    def _log(
        self, key: str, now: float, event: str, text: str, error: BaseException | None = None
    ) -> None:
        """Log *text* about the scope *key*, unless this *event* was logged lately."""
        if now < self._logged_at.get(event, -math.inf) + _LOG_INTERVAL:
            return
        self._logged_at[event] = now
        logger.log(
            logging.WARNING if error is None else logging.ERROR,
            "%s: limit store %s: %s",
            *(scope_name(self.vendor(key), key), self._config.display_name, text),
            exc_info=error,
        )

    def on_outage(
        self, key: str, sent_at: float, error: StoreUnavailableError, fallback: str
    ) -> None:
        """Log that the request of *key* sent at *sent_at* failed, if no outage is logged."""
        if self._down_since is not None or sent_at <= self._recovered_at:
            return
        self._down_since = sent_at
        name, others = scope_name(self.vendor(key), key), len(self.vendors) - 1
        if others > 0:
            name += f" and {others} more scope{'s' * (others > 1)} ({self._vendor_names()})"
        store, reason = self._config.display_name, str(error)
        for noun in ("store", "limit file"):
            reason = reason.replace(f"the shared {noun} {store} ", "it ")
        logger.warning(
            "%s: limit store %s unreachable: %s. Fallback %s: %s. Retrying every %g s. %s",
            *(name, store, reason.rstrip("."), self._config.when_down),
            *(fallback, PROBE_INTERVAL, error.advice or "Check that it is running"),
        )

    def on_response(self, now: float, *, ends_outage: bool) -> None:
        """Log that the store responds again, if that *ends_outage* of a scope and it was logged.

        Scopes on other nodes of a cluster may have had responses all the time. An outage is also
        over when no scope tries any more, because none in the outage has calls.
        """
        self.has_worked = True
        is_tried = now < self.failed_at + 2 * (PROBE_INTERVAL + self._config.timeout)
        if self._down_since is not None and (ends_outage or not is_tried):
            self._recovered_at = now
            logger.warning(
                "%s: limit store %s reachable again after %.0f s",
                *(self._vendor_names(), self._config.display_name, now - self._down_since),
            )
            self._down_since = None

    def on_takeover(self, key: str, now: float, request: LeaseRequest) -> None:
        """Log that another server process has the log of *key*."""
        text = (
            "another server process has its data, after a restart, a failover or a move of its "
            f"slot. No calls for {request.detection_time / SECOND:g} s, and for a period of its "
            "quota if the last requests are lost"
        )
        self._log(key, now, "taken over", text)

    def on_reset(
        self, key: str, now: float, event: str, request: LeaseRequest, advice: str
    ) -> None:
        """Log an *event* that voids the logs of all scopes."""
        hold = (request.recovery_hold + request.detection_time) / SECOND
        text = f"{event}; the window counts as spent, no calls for {hold:g} s. {advice}"
        self._log(key, now, "reset", text)

    def on_other_quotas(
        self, key: str, now: float, own: Sequence[Quota], others: Sequence[Quota]
    ) -> None:
        """Log that other processes configured the quotas *others* for *key*, this one *own*."""
        theirs, ours = " and ".join(map(str, others)), " and ".join(map(str, own)) or "none"
        text = (
            f"another process configured {theirs} for this key, this one {ours}: all of them "
            "apply. Configure the same quotas in all processes"
        )
        self._log(key, now, f"{self.vendor(key)}: {text}", text)

    def on_bug(self, key: str, now: float, error: BaseException, retry_in: float) -> None:
        """Log *error*, which a request for *key* met before it was sent."""
        text = (
            f"a request failed: {type(error).__name__}; retrying in {retry_in:g} s. This is a bug "
            "of asyncclients: please report it with this traceback"
        )
        self._log(key, now, "bug", text, error)

    def _vendor_names(self) -> str:
        names = sorted({vendor for vendor in self.vendors.values() if vendor})
        return ", ".join(names) or "quota"
